"""The clean stage as a whole: the books balance, every row is accounted for, the cut of the work changes no byte."""

import json
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.artifact import Artifact, Store
from minimind.data.cleaning import CLEAN, CleanConfig
from minimind.data.documents import CONTENT, SCHEMAS, RowKind, check_row
from minimind.data.dropped import read_changes
from minimind.data.judgement import judge, settle
from minimind.data.kinds import CONVERSATIONS
from minimind.data.ledger import Ledger
from minimind.data.reading.ingest import INGEST
from minimind.data.reading.sources import IngestConfig, SourceConfig
from minimind.data.rules.catalog import RULES
from minimind.data.rules.settings import CleanRules
from minimind.data.shards import read_rows
from minimind.errors import DataError
from minimind.stage import build

SETTLED = settings(deadline=None, derandomize=True, max_examples=150)
PAYLOAD = ("dropped.jsonl", "changed.jsonl.zst", "ledger.json", "read_ledger.json", "report.html", "report.md")
DIRTY = [
    {"text": "A text that is long enough to be kept as it is."},
    {"text": 7},
    {"text": "Ein Satz über Größe, but mostly in English for the rule.".encode().decode("latin-1")},
    {"text": "stub"},
    {"text": "A TEXT that is long enough to be kept as it is. "},
    {"text": "another one with\x00 a control character in the middle"},
]
WORDS = (
    "the river boat sails over quiet water while old friends talk about bread and stars every morning "
    "she opens her window reads one page then writes three lines of music for a small garden"
)


def prose(rng: random.Random, count: int = 60) -> str:
    return " ".join(rng.choices(WORDS.split(), k=count)).capitalize() + "."


def run(tmp_path: Path, *files: list[dict[str, Any]], kind: RowKind = "pretrain", **rules: Any) -> Artifact:
    tmp_path.mkdir(parents=True, exist_ok=True)
    sources = []
    for number, lines in enumerate(files):
        path = tmp_path / f"rows{number}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        sources.append(SourceConfig(name=f"s{number}", rows=kind, path=str(path)))
    store = Store(tmp_path / "home")
    rows, _ = build(INGEST, IngestConfig(rows=kind, sources=tuple(sources)), {}, store=store)
    return build(CLEAN, CleanConfig(rows=kind, **rules), {"rows": rows}, store=store)[0]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def payload(artifact: Artifact) -> dict[str, bytes]:
    paths = [*sorted((artifact.dir / "rows").iterdir()), *(artifact.dir / name for name in PAYLOAD)]
    return {path.name: path.read_bytes() for path in paths}


def test_the_books_balance(tmp_path: Path):
    """in = kept + dropped, in rows and bytes; every dropped row is on file, ingest's before clean's."""
    cleaned = run(tmp_path, DIRTY)
    figures: dict[str, Any] = cleaned.summary().figures
    assert (figures["rows_in"], figures["rows_kept"], figures["rows_dropped"]) == (5, 3, 2)
    assert figures["bytes_in"] == figures["bytes_kept"] + figures["bytes_dropped"]
    assert figures["bytes_out"] == sum(len(row["text"].encode()) for row in read_rows(cleaned.dir / "rows"))
    assert (figures["changed_unicode"], figures["changed_control"]) == (1, 1)
    assert (figures["dropped_too_short"], figures["dropped_exact_duplicate"]) == (1, 1)
    dropped = lines_of(cleaned.dir / "dropped.jsonl")
    assert [(d["line"], d["rule"], d["reason"]) for d in dropped] == [
        (2, "check", "wrong_type"),
        (4, "length", "too_short"),
        (5, "duplicates", "exact_duplicate"),
    ]
    assert dropped[1]["text"] == "stub"
    assert dropped[2]["detail"] == "the same as s0, line 1"
    assert not Ledger.read(cleaned.dir).imbalance()


def test_changed_rows_are_on_file_with_before_and_after(tmp_path: Path):
    """A cleaner that changes texts without a trace cannot be trusted with them."""
    cleaned = run(tmp_path, DIRTY)
    changes = list(read_changes(cleaned.dir / "changed.jsonl.zst"))
    assert [(c["line"], c["rules"]) for c in changes] == [(3, ["unicode"]), (6, ["control"])]
    assert (changes[0]["before"], "Größe" in changes[0]["after"]) == (DIRTY[2]["text"], True)
    assert changes[1]["after"] == DIRTY[5]["text"].replace("\0", "")


def test_rules_that_are_off_do_nothing(tmp_path: Path):
    """Each switch switches."""
    off = dict.fromkeys([*RULES, "duplicates", "near_duplicates"], False)
    cleaned = run(tmp_path, DIRTY, **off)
    kept = [row["text"] for row in read_rows(cleaned.dir / "rows")]
    assert kept == [line["text"] for line in DIRTY if isinstance(line["text"], str)]
    figures = cleaned.summary().figures
    assert figures["rows_dropped"] == figures["bytes_dropped"] == 0


def test_nothing_left_is_an_error_with_the_reason(tmp_path: Path):
    """An empty corpus must stop here, not in the tokenizer an hour later."""
    with pytest.raises(DataError, match=r"cleaning left none of 1 pretrain rows \(too_short 1\)"):
        run(tmp_path, [{"text": "stub"}])


def test_duplicates_are_found_across_files(tmp_path: Path):
    """The first of equal rows stays, whatever file it is in, and the drop log says which one it was."""
    rng = random.Random(0)
    first, second = prose(rng), prose(rng, 80)
    near = second.replace("river", "stream").replace("bread", "cake")
    cleaned = run(tmp_path, [{"text": first}, {"text": second}], [{"text": first.upper()}, {"text": near}])
    assert [row["text"] for row in read_rows(cleaned.dir / "rows")] == [first, second]
    exact, alike = lines_of(cleaned.dir / "dropped.jsonl")
    assert (exact["source"], exact["line"], exact["detail"]) == ("s1", 1, "the same as s0, line 1")
    assert (alike["reason"], alike["detail"][-15:]) == ("near_duplicate", "with s0, line 2")
    ledger = Ledger.read(cleaned.dir)
    assert ledger.cluster_sizes == {2: 2}
    assert [cluster["kept"]["where"] for cluster in ledger.clusters] == ["s0, line 1", "s0, line 2"]


def test_short_answers_in_conversations_stay(tmp_path: Path):
    """Length is a rule for documents; `4` is a good answer. It applies to conversations where asked for."""
    value = {"conversations": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    (kept,) = read_rows(run(tmp_path, [value], kind="chat").dir / "rows")
    assert kept["conversations"][1]["content"] == "4"
    with pytest.raises(DataError, match="too_short 1"):
        run(tmp_path, [value], kind="chat", filter_chat=True)


def chat(*contents: str) -> dict[str, Any]:
    roles = ("user", "assistant") * len(contents)
    return {"conversations": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}


def test_conversations_are_equal_as_a_whole_only(tmp_path: Path):
    """The same question with another answer is worth learning from; moved turn borders make another row."""
    rows = [chat("a", "b"), chat("a", "c"), chat("A ", "b"), chat("a b", "b")]
    cleaned = run(tmp_path, rows, kind="chat")
    assert [row["line"] for row in read_rows(cleaned.dir / "rows")] == [1, 2, 4]


def test_messages_are_repaired_where_they_are_damaged(tmp_path: Path):
    """Only the damaged content changes; what a repair leaves blank takes the row with it."""
    broken = "schön und groß, naïve café".encode().decode("latin-1")
    rows = [chat("How?", broken), chat("What?", "\u200b\x01"), chat("mail me: li.na88@mail-house.net", "ok")]
    cleaned = run(tmp_path, rows, kind="chat")
    kept = list(read_rows(cleaned.dir / "rows"))
    assert [turn["content"] for row in kept for turn in row["conversations"]] == [
        "How?",
        "schön und groß, naïve café",
        "mail me: [EMAIL]",
        "ok",
    ]
    (dropped,) = lines_of(cleaned.dir / "dropped.jsonl")
    assert (dropped["line"], dropped["rule"], dropped["reason"]) == (2, "check", "no_target")


def test_languages_are_told_and_kept_with_the_row(tmp_path: Path):
    """What a corpus speaks is asked later by the tokenizer's report."""
    texts = [
        "The quick brown fox jumps over the lazy dog and runs away.",
        "春天来了，花开了，鸟儿在树上唱歌，孩子们奔跑。",
    ]
    cleaned = run(tmp_path, [{"text": text} for text in texts])
    assert [row["language"] for row in read_rows(cleaned.dir / "rows")] == ["en", "zh"]


@SETTLED
@given(st.lists(st.text(st.characters(exclude_categories=[])), max_size=6))
def test_what_was_cleaned_is_left_alone(texts: list[str]):
    """Cleaning clean data must be a no-op, or every rerun would make another corpus. No string crashes a rule."""
    from collections import Counter

    once = settle(texts, RULES, CleanRules(), Counter())
    kept = [text for place, text in enumerate(once.texts) if place not in once.dropped]
    again = settle(kept, RULES, CleanRules(), Counter())
    assert again.texts == kept and not again.dropped


@SETTLED
@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=6))
def test_a_batch_is_judged_row_by_row(texts: list[str]):
    """A row's fate must not depend on its neighbours, or the cut of the work would change the output."""
    from collections import Counter

    whole = settle(texts, RULES, CleanRules(), Counter())
    for place, text in enumerate(texts):
        alone = settle([text], RULES, CleanRules(), Counter())
        assert alone.texts[0] == whole.texts[place] and alone.dropped.get(0) == whole.dropped.get(place)


@pytest.mark.parametrize("kind", ["chat", "lora", "preference", "prompt"])
def test_rows_of_messages_keep_their_schema(kind: RowKind):
    """The next stage reads the same columns, whatever rules did."""
    turns = [{"role": "user", "content": "q\x00?"}, {"role": "assistant", "content": "a"}]
    value = dict.fromkeys(CONVERSATIONS, {"conversations": turns}) | {"prompt": {"prompt": turns[:1]}}
    value["preference"] = {"chosen": turns, "rejected": [turns[0], {"role": "assistant", "content": "b"}]}
    row = {"source": "s", "line": 1, "group": "g", "language": None, **check_row(kind, value[kind])}
    batch = pa.RecordBatch.from_pylist([row], schema=SCHEMAS[kind])
    from collections import Counter

    verdicts = judge(kind, batch, CleanRules(), clock=Counter())
    assert verdicts.rows.schema.equals(SCHEMAS[kind]) and verdicts.changed == {0: ["control"]}
    content = verdicts.rows.to_pylist()[0][CONTENT[kind][0]]
    assert content[0]["content"] == "q?"


def corpus_files(seed: int = 0, *, files: int = 4, rows: int = 60) -> list[list[dict[str, Any]]]:
    """Files with clean rows, damaged ones and duplicates across files."""
    rng = random.Random(seed)
    texts = [prose(rng, rng.randint(20, 90)) for _ in range(files * rows)]
    for number in range(0, len(texts), 9):
        texts[number] = texts[number // 2] if number % 2 else texts[number] + "\x00\u200b"
    return [[{"text": text} for text in texts[at * rows : (at + 1) * rows]] for at in range(files)]


def test_the_number_of_workers_changes_no_byte(tmp_path: Path):
    """Rows, logs, ledger and report are the same whether one process did the work or three."""
    files = corpus_files()
    alone, together = (run(tmp_path / str(workers), *files, workers=workers) for workers in (1, 3))
    assert alone.fingerprint == together.fingerprint
    assert payload(alone) == payload(together)
    assert len(list((alone.dir / "rows").iterdir())) > 1


def test_a_killed_cleaning_goes_on_from_its_finished_pieces(tmp_path: Path):
    """SIGKILL at several moments; the rerun gives the bytes of a run that nobody killed."""
    files = corpus_files(1, files=6)
    whole = run(tmp_path / "whole", *files)
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_cleaning import corpus_files, run
        run(Path({str(tmp_path / "killed")!r}), *corpus_files(1, files=6), workers=1)
        """),
        encoding="utf-8",
    )
    (tmp_path / "killed").mkdir()
    scratch = tmp_path / "killed" / "home" / "artifacts" / "clean"
    for pieces in (1, 3):
        child = subprocess.Popen([sys.executable, str(script)])
        while len(list(scratch.glob(".*.scratch/judged/0????"))) < pieces and child.poll() is None:
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in scratch.glob(".*.scratch/judged/0????")}
    assert finished, "it was over before it could be killed"
    assert payload(run(tmp_path / "killed", *files)) == payload(whole)
