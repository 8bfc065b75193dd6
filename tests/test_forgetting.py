"""Cleaning without the rows that a list names: they and their copies are gone, all other rows are what they were."""

import json
from pathlib import Path
from typing import Any

import pytest

from minimind.artifact import Artifact, Store
from minimind.data.cleaning import CLEAN
from minimind.data.documents import RowKind, check_row
from minimind.data.dropped import read_changes
from minimind.data.ledger import READ_LEDGER_FILE, Ledger
from minimind.data.reading.ingest import INGEST
from minimind.data.shards import read_rows
from minimind.data.spec import clean_config, ingest_config, load_spec
from minimind.errors import DataError, MissingError
from minimind.stage import build

RIVER = (
    "The river rose in the night and took the old bridge with it, and nobody was hurt that we know of. By noon half "
    "the village stood on the bank and looked at the water, and the miller said that he had seen worse than this."
)
SPEC = """
[[source]]
name = "web"
rows = "pretrain"
path = "web.jsonl"
[[source]]
name = "books"
rows = "pretrain"
path = "books"
[[source]]
name = "talk"
rows = "chat"
path = "talk.jsonl"
"""


def chat(question: str, answer: str) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"conversations": turns}


WEB = [
    {"text": RIVER},
    {"text": "Quiet morning. The garden was full of light and the paper lay on the table unread."},
    {"text": RIVER.replace("The", "The cafÃ© by the")},
    {"text": 7, "secret": "hidden in a row that cannot be used"},
    {"text": "stub"},
    {"text": "She opens her window every morning and reads one page before the music starts again."},
]
BOOKS = {
    "a.jsonl": [{"text": RIVER.upper()}, {"text": "Bread and stars are what two old friends talk about for an hour."}],
    "b.jsonl": [{"text": "Three lines of code are enough to say what takes a page to tell in words."}],
}
TALK = [chat("What is the number?", "The number is 31337."), chat("Who rows?", "The old friends do, and they sing.")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A data spec with a file, a folder of two, and conversations."""
    (tmp_path / "books").mkdir()
    files = {"web.jsonl": WEB, "talk.jsonl": TALK} | {f"books/{name}": rows for name, rows in BOOKS.items()}
    for name, rows in files.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "spec.toml").write_text(SPEC, encoding="utf-8")
    return tmp_path


def cleaned(project: Path, *named: object, kind: RowKind = "pretrain", **rules: bool) -> Artifact:
    """The clean rows of a kind without the named ones."""
    if named:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in named]
        (project / "forget.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (project / "spec.toml").write_text(f'forget = "forget.jsonl"\n{SPEC}', encoding="utf-8")
    spec, store = load_spec(project / "spec.toml"), Store(project / "home")
    rows, _ = build(INGEST, ingest_config(spec, kind), {}, store=store)
    return build(CLEAN, clean_config(spec, kind).replace(**rules), {"rows": rows}, store=store)[0]


def places(artifact: Artifact) -> list[tuple[str, int]]:
    return [(row["source"], row["line"]) for row in read_rows(artifact.dir / "rows")]


def log_of(artifact: Artifact) -> dict[tuple[str, str, int], dict[str, Any]]:
    lines = (artifact.dir / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return {(row["source"], row["file"], row["line"]): row for row in rows}


def everything_in(artifact: Artifact) -> str:
    """The text of every file of a clean artifact, what is packed unpacked."""
    texts = [path.read_text("utf-8") for path in artifact.dir.iterdir() if path.suffix in (".json", ".jsonl", ".html")]
    texts += [json.dumps(row, ensure_ascii=False) for row in read_rows(artifact.dir / "rows")]
    texts += [json.dumps(row, ensure_ascii=False) for row in read_changes(artifact.dir / "changed.jsonl.zst")]
    return "\n".join(texts).lower()


WAYS = [
    pytest.param({"text": RIVER}, id="content"),
    pytest.param({"id": check_row("pretrain", {"text": RIVER})["id"], "rows": "pretrain"}, id="id"),
    pytest.param({"source": "web", "line": 1}, id="place"),
    pytest.param({"source": "books", "file": "a.jsonl", "line": 1}, id="a copy's place"),
    pytest.param(
        {"source": "web", "file": "web.jsonl", "line": 3, "rule": "near_duplicates", "reason": "", "text": "x"},
        id="a line of the drop log",
    ),
]


@pytest.mark.parametrize("named", WAYS)
def test_a_row_and_its_copies_go_and_all_others_stay(project: Path, named: dict[str, Any]) -> None:
    """Without the first of three equal texts the second would take its place: that is not forgetting."""
    before = cleaned(project)
    assert places(before)[0] == ("web", 1)
    after = cleaned(project, named)
    assert places(after) == places(before)[1:]
    log = log_of(after)
    gone = [log[place] for place in (("web", "", 1), ("web", "", 3), ("books", "a.jsonl", 1))]
    assert {(row["rule"], row["reason"], row["text"]) for row in gone} == {("forget", "forgotten", "")}
    assert all(row["detail"].startswith("id ") for row in gone)
    said = everything_in(after)
    assert "took the old bridge" not in said and "the café by" not in said and "the cafã" not in said
    assert "took the old bridge" in everything_in(before)
    assert not Ledger.read(after.dir).imbalance()
    assert after.summary().figures["dropped_forgotten"] == 3 and not after.summary().warnings


def test_a_row_that_no_rule_kept_leaves_no_text_either(project: Path) -> None:
    """One that is too short stands in the drop log; one that could not be used, in ingest's and in its ledger."""
    after = cleaned(project, {"text": "stub"}, {"source": "web", "line": 4})
    log = log_of(after)
    assert (log["web", "", 5]["rule"], log["web", "", 5]["text"]) == ("forget", "")
    unusable = log["web", "web.jsonl", 4]
    assert (unusable["rule"], unusable["reason"]) == ("check", "wrong_type")
    assert unusable["text"] == unusable["detail"] == ""
    assert "stub" not in everything_in(after) and "hidden in a row" not in everything_in(after)
    assert Ledger.read(after.dir, READ_LEDGER_FILE).rows_dropped == {("web", "check", "wrong_type"): 1}
    assert not after.summary().warnings


def test_without_the_search_for_duplicates_only_what_is_named_goes(project: Path) -> None:
    """Nobody looked for copies, so there are none; but equal rows are one row."""
    off = {"duplicates": False, "near_duplicates": False}
    after = cleaned(project, {"text": RIVER}, **off)
    assert ("web", 1) not in places(after) and {("web", 3), ("books/a.jsonl", 1)} <= set(places(after))


def test_names_of_no_row_are_counted(project: Path) -> None:
    """A typing error must not look like something forgotten."""
    named = [{"text": "never read"}, {"source": "web", "line": 99}, {"source": "books", "line": 1}, {"text": RIVER}]
    after = cleaned(project, *named)
    assert after.summary().warnings == ["`forget`: 3 of 4 names are of no row that was read"]


def test_a_list_changes_only_the_kinds_of_rows_it_names(project: Path) -> None:
    """A conversation that is forgotten must not train the base model again. How it is named does not count."""
    before, chats = cleaned(project), cleaned(project, kind="chat")
    content = cleaned(project, TALK[0], kind="chat")
    assert content.fingerprint != chats.fingerprint
    assert cleaned(project, TALK[0]).fingerprint == before.fingerprint
    row_id = check_row("chat", TALK[0])["id"]
    as_id = cleaned(project, "", {"rows": "chat", "id": row_id}, TALK[0], kind="chat")
    assert as_id.fingerprint == content.fingerprint
    (kept,) = read_rows(content.dir / "rows")
    assert kept["line"] == 2 and "31337" not in everything_in(content)


def test_a_conversation_names_the_text_and_the_prompt_made_of_it(project: Path) -> None:
    """`as_text`, `prompt` and `lora` sources read the same file; what they make of it says the same."""
    more = '[[source]]\nname = "words"\nrows = "pretrain"\nas_text = true\npath = "talk.jsonl"\n'
    more += '[[source]]\nname = "asked"\nrows = "prompt"\npath = "talk.jsonl"\n'
    more += '[[source]]\nname = "own"\nrows = "lora"\npath = "talk.jsonl"\n'
    (project / "forget.jsonl").write_text(json.dumps(TALK[0]), encoding="utf-8")
    (project / "spec.toml").write_text(f'forget = "forget.jsonl"\n{SPEC}{more}', encoding="utf-8")
    assert ("words", 1) not in places(cleaned(project)) and ("words", 2) in places(cleaned(project))
    assert places(cleaned(project, kind="prompt")) == [("asked", 2)]
    assert places(cleaned(project, kind="lora")) == [("own", 2)]
    (project / "forget.jsonl").write_text(json.dumps({**TALK[0], "rows": "chat"}), encoding="utf-8")
    assert ("words", 1) in places(cleaned(project))
    assert places(cleaned(project, kind="chat")) == [("talk", 2)]
    assert places(cleaned(project, kind="lora")) == [("own", 1), ("own", 2)]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", r"forget\.jsonl:2: Expecting value.*name a row by its content"),
        ("[1]", r"forget\.jsonl:2: this is no object"),
        ('{"line": 3}', r"forget\.jsonl:2: no content, no `id`, no `source`"),
        ('{"source": "web", "line": "3"}', r"forget\.jsonl:2: .*`line` is a number"),
        ('{"id": "12"}', r"forget\.jsonl:2: `id` is '12'; an id is 16 hexadecimal digits"),
        ('{"id": "0123456789abcdef", "rows": "chats"}', r"forget\.jsonl:2: no rows `chats` \(did you mean `chat`\?\)"),
        ('{"conversations": [{"role": "user"}]}', r"forget\.jsonl:2: conversations, turn 1: no `content`"),
        ("0123456789abcdef", r"forget\.jsonl:2: of which kind is this row\? .*minimind forget --rows"),
        ('{"source": "wob", "line": 3}', r"forget\.jsonl:2: no source `wob` in the data spec \(did you mean `web`\?\)"),
    ],
)
def test_a_line_that_cannot_be_understood_stops_with_its_number(project: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cleaned(project, {"text": RIVER}, line)


def test_a_list_that_is_not_there_is_named(project: Path) -> None:
    (project / "spec.toml").write_text(f'forget = "gone.jsonl"\n{SPEC}', encoding="utf-8")
    with pytest.raises(MissingError, match=r"gone\.jsonl: cannot be read"):
        cleaned(project)
