"""The embedded default: real text, true facts, the same rows every time, and examples that can do no harm."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from minimind.data.documents import RowKind, check_row
from minimind.data.python_docs import docstrings, examples, facts, probe, pydocs, sentences
from minimind.data.python_docs.docstrings import Entry

FEW = ("json", "statistics", "textwrap", "heapq", "builtins")
KINDS: tuple[RowKind, ...] = ("pretrain", "chat", "preference")


@pytest.fixture(scope="module")
def few() -> dict[RowKind, list[dict[str, Any]]]:
    """The rows of a few modules."""
    return {kind: list(pydocs.rows(kind, only=FEW)) for kind in KINDS}


def function(name: str, doc: str, *, kind: docstrings.EntryKind = "function") -> Entry:
    return Entry("stdlib/m", "m", name, kind, "(x)", doc)


def test_rows_are_valid_numbered_and_carry_their_module_as_group(few: dict[RowKind, list[dict[str, Any]]]):
    """Ingest believes nothing, but rows made by ourselves should give it nothing to drop."""
    for kind, rows in few.items():
        assert [row["line"] for row in rows] == list(range(1, len(rows) + 1))
        assert {row["group"] for row in rows} <= {f"stdlib/{name}" for name in FEW}
        assert len({check_row(kind, row)["id"] for row in rows}) == len(rows)


def test_two_readings_give_the_same_rows(few: dict[RowKind, list[dict[str, Any]]]):
    """A stage's output must follow from its fingerprint."""
    for kind in KINDS:
        assert list(pydocs.rows(kind, only=FEW)) == few[kind]


def test_a_document_is_the_docstring_under_its_signature(few: dict[RowKind, list[dict[str, Any]]]):
    """Real text, nothing made up: what follows the first line stands in the source."""
    texts = [row["text"] for row in few["pretrain"]]
    found = next(text for text in texts if text.startswith("Function textwrap.indent("))
    assert found.startswith("Function textwrap.indent(text, prefix, predicate=None)\n\nAdds 'prefix' to the beginning")
    source = (docstrings.stdlib_directory() / "textwrap.py").read_text("utf-8")
    doc = next(ast.get_docstring(n) for n in ast.parse(source).body if getattr(n, "name", "") == "indent")
    assert doc is not None and found.endswith(f"\n\n{doc.strip()}\n")


def test_answers_restate_summaries_that_are_in_the_documents(few: dict[RowKind, list[dict[str, Any]]]):
    """A small model can only say what it has read: the Chinese answers quote the summary word for word."""
    packed = " ".join(" ".join(row["text"] for row in few["pretrain"]).split()).lower()
    quoted = [
        turn["content"].partition("是：")[2]
        for row in few["chat"]
        for turn in row["conversations"]
        if turn["role"] == "assistant" and "是：" in turn["content"]
    ]
    assert len(quoted) > 100
    found = sum(text.removesuffix(".").lower() in packed for text in quoted)
    assert found / len(quoted) > 0.9  # the others lost their markup


def test_pairs_are_true_against_false_in_the_same_frame(few: dict[RowKind, list[dict[str, Any]]]):
    """Were the wrong answers put differently, it would be the wording that is preferred."""
    for row in few["preference"]:
        (question, chosen), (asked, rejected) = (
            [turn["content"] for turn in row[side]] for side in ("chosen", "rejected")
        )
        assert question == asked and chosen != rejected
        frames = ("The documentation of ", "The signature is ", "The last line gives ")
        assert all(chosen.startswith(frame) == rejected.startswith(frame) for frame in frames)


def test_nothing_internal_is_asked_about():
    """Private names are text to read, not things to talk about."""
    entries = [
        function("load", "Read a file and return its rows."),
        function("_load", "Read a part of the file."),
        function("C.__enter__", "Enter the context of the file.", kind="method"),
        Entry("stdlib/idlelib", "idlelib.run", "main", "function", "()", "Start the process that runs code."),
    ]
    assert [known.name for known in facts.known_entries(entries)] == ["m.load"]


@pytest.mark.parametrize(
    ("doc", "said"),
    [
        ("Serialize ``obj`` to a JSON formatted ``str``.", "serializes obj to a JSON formatted str."),
        ("Create and return a new list", "creates and returns a new list."),
        (
            "Read up to len(b) bytes into b and return the number.",
            "reads up to len(b) bytes into b and returns the number.",
        ),
        ("Attempt to parse the text and return it.", "attempts to parse the text and return it."),
        ("Recursively delete a directory tree.", "recursively deletes a directory tree."),
        ("A thread-safe queue, e.g. for workers. More text.", "is a thread-safe queue, e.g. for workers."),
        ("Abstract base class for all readers.", "is an abstract base class for all readers."),
        ("This class implements a stack.", "implements a stack."),
        ("Called when :meth:`~io.IOBase.close` fails.", "is called when io.IOBase.close fails."),
        ("The handler does nothing at all.", None),
        ("Python 2 compatible names.", None),
    ],
)
def test_a_summary_is_said_in_the_third_person_or_quoted(doc: str, said: str | None):
    """One crooked rule would be learnt thousands of times."""
    summary = sentences.summary(function("f", doc))
    assert summary is not None
    assert sentences.predicate(summary) == said
    assert sentences.sentence("m.f", summary) == (
        f"m.f {said}" if said else f"The documentation of m.f says: {summary}"
    )


@pytest.mark.parametrize(
    "doc", ["f(x) -> y", "See http://x.org.", "Options::\n\n  a", "Do.", "Return a | b.", "x" * 300]
)
def test_docstrings_that_are_no_sentence_give_no_summary(doc: str):
    assert sentences.summary(function("f", doc)) is None


def test_documented_examples_become_facts_that_were_run(few: dict[RowKind, list[dict[str, Any]]]):
    """`textwrap.shorten` and `statistics.mean` document what they show, and it is so."""
    talks = [[turn["content"] for turn in row["conversations"]] for row in few["chat"]]
    assert any("shorten(" in talk[0] and talk[-1].endswith("'Hello world!'") for talk in talks)
    sums = [talk[-1] for talk in talks if re.search(r"median_low\(\[1, 3, 5\]\)", talk[0])]
    assert sums and all(answer.endswith(" 3") for answer in sums)


def test_an_example_with_a_wrong_output_is_refused():
    """Documentation goes stale; a value that is taught must be the one that Python shows."""
    claims = [
        probe.Example("builtins", ("1 + 1",), "2"),
        probe.Example("builtins", ("1 + 1",), "3"),
        probe.Example("statistics", ("x = [1, 2, 3]", "mean(x)"), "2"),
        probe.Example("builtins", ("undefined",), "1"),
        probe.Example("no_such_module", ("1",), "1"),
    ]
    assert probe.verify(claims) == [True, False, True, False, False]


def test_examples_can_neither_loop_nor_write_nor_quit(tmp_path: Path):
    """One bad example must cost itself only: those behind it are still run."""
    target = tmp_path / "written"
    bad = [
        "while True: pass",
        f"open({str(target)!r}, 'w').write('x')",
        f"import os; os.open({str(target)!r}, os.O_CREAT | os.O_WRONLY)",
        f"import os; os.mkdir({str(target)!r})",
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "raise SystemExit(0)",
        "input()",
        "'x' * (1 << 40)",
    ]
    claims = [probe.Example("builtins", (line,), "") for line in bad]
    assert probe.verify([*claims, probe.Example("builtins", ("2 * 3",), "6")]) == [False] * len(bad) + [True]
    assert not target.exists()


def test_examples_that_name_anything_outside_are_not_even_run():
    """The static rule comes before the guards."""
    text = ">>> open('x')\n1\n\n>>> import os\n>>> os.getpid()\n2\n\n>>> x = 4\n>>> x + 1\n5\n\n>>> {1, 2}\n{1, 2}\n"
    found = examples.candidate_facts(text, group="g", module="builtins")
    assert [(fact.context, fact.code, fact.shown) for fact in found] == [(("x = 4",), "x + 1", "5")]


def test_a_wrong_value_has_the_type_of_the_right_one():
    """Otherwise the kind of value would give the answer away."""
    given = [
        examples.Fact("g", "m", (), f"f({n})", shown) for n, shown in enumerate(["1", "2", "'a'", "True", "D('1')"])
    ]
    wrong = examples.wrong_answers(given)
    assert [wrong.get(fact) for fact in given] == ["2", "1", None, "False", "D('2')"]


def test_compiled_modules_are_documented_under_the_names_people_type():
    """`len` and `math.sqrt` have no source, and are what everybody asks for first."""
    root = docstrings.stdlib_directory()
    names = {entry.full_name for entry in docstrings.compiled_entries(root, group_prefix="stdlib")}
    assert {"len", "str.upper", "math.sqrt", "os.getcwd", "itertools.chain", "collections.deque"} <= names
    assert not any(name.startswith(("posix.", "_")) for name in names)


def test_a_changed_source_file_changes_the_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What is learnt from is part of the fingerprint; where it lies is not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "m.py").write_text('"""One."""\n')
    digests = []
    for name, text in (("a", '"""One."""\n'), ("b", '"""One."""\n'), ("b", '"""Two."""\n')):
        (tmp_path / name / "m.py").write_text(text)
        monkeypatch.setattr(docstrings, "stdlib_directory", lambda name=name: tmp_path / name)
        digests.append(pydocs.content_digest("stdlib"))
    assert digests[0] == digests[1] != digests[2]


def test_installed_packages_add_their_docstrings_and_run_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package's examples may do anything, so they are text only."""
    package = tmp_path / "shop"
    (package / "tests").mkdir(parents=True)
    (package / "__init__.py").write_text(
        '"""Sell things to people."""\ndef buy(x):\n    """Return x + 1.\n\n    >>> 1 + 1\n    2\n    """\n'
    )
    (package / "tests" / "test_shop.py").write_text('"""Tests of the shop."""\n')
    (tmp_path / "broken.py").write_text("def (:\n")
    monkeypatch.setattr(docstrings, "installed_directory", lambda: tmp_path)
    rows = list(pydocs.rows("pretrain", "installed", only=["shop", "broken"]))
    assert [row["group"] for row in rows] == ["installed/shop"] * 2
    assert rows[1]["text"].startswith("Function shop.buy(x)\n\nReturn x + 1.")
    chat = list(pydocs.rows("chat", "installed", only=["shop"]))
    assert chat and not any("1 + 1" in str(row["conversations"]) for row in chat)


@pytest.mark.slow
def test_the_whole_standard_library_gives_enough_of_everything():
    """The quickstart's sizes rest on these counts; they vary by some percent between Python versions."""
    rows = {kind: list(pydocs.rows(kind)) for kind in KINDS}
    assert 7_000 < len(rows["pretrain"]) < 13_000
    assert 2_000_000 < sum(len(row["text"].encode()) for row in rows["pretrain"]) < 5_000_000
    assert 11_000 < len(rows["chat"]) < 22_000
    assert 5_000 < len(rows["preference"]) < 11_000
    assert len({row["group"] for row in rows["pretrain"]}) > 150
    for kind in KINDS:
        assert len({check_row(kind, row)["id"] for row in rows[kind]}) == len(rows[kind])
    for row in rows["chat"]:
        assert len(row["conversations"][-1]["content"]) < 400


def test_no_topic_is_an_excerpt_of_another():
    """Topics are groups of their own: an excerpt in validation of a topic in training would flatter every figure."""
    topics = docstrings.read_topics(docstrings.stdlib_directory())
    texts = [" ".join(text.split()) for text in topics.values()]
    assert len(texts) > 20
    assert not [text[:60] for text in texts if any(text in other for other in texts if other is not text)]
