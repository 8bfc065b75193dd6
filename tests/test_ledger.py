"""The ledger: adding it up in any way gives the same books, and books that do not balance say where."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.ledger import (
    CLUSTERS_SHOWN,
    EXAMPLE_CHARACTERS,
    EXAMPLES_PER_RULE,
    LEDGER_FILE,
    MEMBERS_SHOWN,
    READ_LEDGER_FILE,
    Ledger,
    length_bucket,
)
from minimind.errors import ArtifactError, MissingError

SETTLED = settings(deadline=None, derandomize=True, max_examples=50)
SOURCES = st.sampled_from(["books", "网页"])
RULES = st.sampled_from([("html", "web_page"), ("length", "too_short"), ("check", "bad_json")])
TEXTS = st.text(max_size=8)


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Books that balance, of a few rows, with examples and clusters."""
    ledger = Ledger()
    for source, size, fate, text in draw(
        st.lists(st.tuples(SOURCES, st.integers(0, 9), st.none() | RULES, TEXTS), max_size=8)
    ):
        note_row(ledger, source, size, fate, text)
    for sizes in draw(st.lists(st.integers(1, 5), max_size=4)):
        ledger.cluster_sizes[1 + sizes] += 1
        copies = [{**text_of(f"copy {n}"), "jaccard": 0.9} for n in range(sizes)]
        ledger.add_cluster(1 + sizes, kept=text_of("kept"), dropped=copies)
    return ledger


def note_row(ledger: Ledger, source: str, size: int, fate: tuple[str, str] | None, text: str = "") -> None:
    ledger.rows_in[source] += 1
    ledger.bytes_in[source] += size
    if fate is None:
        ledger.rows_kept[source] += 1
        ledger.bytes_kept[source] += size
        ledger.languages[source, "zh"] += 1
        ledger.lengths_kept[source, length_bucket(size)] += 1
    else:
        ledger.rows_dropped[(source, *fate)] += 1
        ledger.bytes_dropped[(source, *fate)] += size
        ledger.add_example(": ".join(fate), {"source": source, "line": size, "detail": "why", "before": text})


def text_of(text: str) -> dict[str, Any]:
    return {"source": "books", "line": 1, "text": text}


def total(*parts: Ledger) -> Ledger:
    result = Ledger()
    for part in parts:
        result.add(part)
    return result


@SETTLED
@given(ledgers(), ledgers(), ledgers())
def test_pieces_can_be_added_up_in_any_grouping(one: Ledger, two: Ledger, three: Ledger) -> None:
    """A worker adds up its pieces, the stage the workers: how many there are must not show."""
    assert total(total(one, two), three) == total(one, total(two, three)) == total(one, two, three)
    assert total(one, two, three).imbalance() == ""


@SETTLED
@given(ledgers())
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, ledger: Ledger) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    ledger.write(directory)
    assert Ledger.read(directory) == ledger


def test_two_ledgers_lie_in_one_directory(tmp_path: Path) -> None:
    """Cleaning keeps reading's beside its own, so that the whole way of a row is in one place."""
    read, cleaned = Ledger(), Ledger()
    note_row(read, "books", 7, ("check", "bad_json"))
    note_row(cleaned, "books", 5, None)
    read.write(tmp_path, READ_LEDGER_FILE)
    cleaned.write(tmp_path)
    assert (Ledger.read(tmp_path, READ_LEDGER_FILE), Ledger.read(tmp_path)) == (read, cleaned)


def test_equal_ledgers_give_equal_bytes(tmp_path: Path) -> None:
    """Rows that came in another order, and a look at a count that is not there, leave no trace."""
    rows = [("books", 3, None), ("web", 4, ("html", "web_page")), ("books", 5, ("length", "too_short"))]
    files = []
    for number, order in enumerate((rows, rows[::-1])):
        ledger = Ledger()
        for row in order:
            note_row(ledger, *row)
        ledger.rows_changed["books", "html"] += 0
        (tmp_path / str(number)).mkdir()
        ledger.write(tmp_path / str(number))
        files.append((tmp_path / str(number) / LEDGER_FILE).read_bytes())
    assert files[0] == files[1]


def test_the_first_pieces_choose_the_examples() -> None:
    """Examples are the first in input order, so the order in which the pieces finished does not choose them."""
    parts = []
    for first in (0, 4, 8):
        part = Ledger()
        for line in range(first, first + 4):
            part.add_example("html: changed", {"line": line})
        parts.append(part)
    shown = total(*parts).examples["html: changed"]
    assert [example["line"] for example in shown] == list(range(EXAMPLES_PER_RULE))


def test_an_example_is_cut_once_however_often_it_is_added_up() -> None:
    """Cutting what was cut would make the figures depend on the number of workers."""
    ledger = Ledger()
    ledger.add_example("length: too_long", {"before": "a" * 1000 + "z" * 1000, "line": 3})
    once, often = total(ledger), total(total(total(ledger)))
    assert once == often
    text = once.examples["length: too_long"][0]["before"]
    assert text.startswith("aaa") and " … " in text and text.endswith("zzz")
    assert len(text) <= EXAMPLE_CHARACTERS + 3


def test_a_long_changed_text_is_shown_where_it_changed() -> None:
    """The beginning of a text that changed in its middle says nothing."""
    before = "前" * 5000 + "mail me: a@b.example" + "后" * 5000
    ledger = Ledger()
    ledger.add_example("personal: changed", {"before": before, "after": before.replace("a@b.example", "<email>")})
    example = ledger.examples["personal: changed"][0]
    assert "mail me: a@b.example" in example["before"]
    assert "mail me: <email>" in example["after"]
    assert max(map(len, example.values())) <= EXAMPLE_CHARACTERS + 4


@pytest.mark.parametrize(("before", "after"), [("", "x"), ("x", ""), ("same" * 500, "same" * 500), ("ab", "abc")])
def test_any_two_texts_can_be_cut(before: str, after: str) -> None:
    """One may be empty or the beginning of the other."""
    ledger = Ledger()
    ledger.add_example("unicode: changed", {"before": before, "after": after})
    shown = ledger.examples["unicode: changed"][0]
    assert shown["before"].endswith(before[-2:]) or "…" in shown["before"]
    assert shown["after"].endswith(after[-2:]) or "…" in shown["after"]


def test_the_largest_clusters_are_kept() -> None:
    """Of each a few members, with the words of the kept text beside theirs."""
    ledger = Ledger()
    for size in range(2, 2 + 2 * CLUSTERS_SHOWN):
        copies = [{**text_of("a kept text, nearly"), "jaccard": 0.95, "line": n} for n in range(size - 1)]
        ledger.add_cluster(size, kept=text_of("a kept text"), dropped=copies)
    assert [c["size"] for c in ledger.clusters] == list(range(1 + 2 * CLUSTERS_SHOWN, 1 + CLUSTERS_SHOWN, -1))
    largest = ledger.clusters[0]
    assert [member["line"] for member in largest["dropped"]] == list(range(MEMBERS_SHOWN))
    assert largest["dropped"][0]["jaccard"] == 0.95
    assert largest["dropped"][0]["against"] == "a kept text"


def test_half_characters_in_examples_do_not_stop_a_stage(tmp_path: Path) -> None:
    """A row is dropped *because* of them; writing down why must not fail for the same reason."""
    ledger = Ledger()
    ledger.add_example("check: lone_surrogate", {"before": "a\ud800b\0", "line": 1})
    ledger.write(tmp_path)
    assert Ledger.read(tmp_path).examples["check: lone_surrogate"] == [{"before": "a?b\0", "line": 1}]


@pytest.mark.parametrize("unit", ["rows", "bytes"])
@pytest.mark.parametrize("side", ["in", "kept"])
def test_an_imbalance_names_the_source_and_the_unit(unit: str, side: str) -> None:
    """Also of a source that is on one side of the books only."""
    ledger = Ledger()
    note_row(ledger, "books", 3, None)
    assert ledger.imbalance() == ""
    getattr(ledger, f"{unit}_{side}")["lost"] += 2
    assert ledger.imbalance().startswith(f"lost: {unit} in ")


def test_sums_by_reason_and_rule_are_flat_figures() -> None:
    ledger = Ledger()
    note_row(ledger, "books", 3, None)
    note_row(ledger, "web", 4, ("html", "web_page"))
    note_row(ledger, "books", 2, ("html", "web_page"))
    ledger.bytes_out["books"] += 1
    ledger.rows_changed["books", "control"] += 1
    figures = ledger.figures()
    assert figures["rows_in"] == figures["rows_kept"] + figures["rows_dropped"] == 3
    assert figures["bytes_in"] == figures["bytes_kept"] + figures["bytes_dropped"] == 9
    assert (figures["bytes_out"], figures["dropped_web_page"], figures["changed_control"]) == (1, 2, 1)


def test_a_missing_ledger_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"ledger\.json: no ledger here"):
        Ledger.read(tmp_path)
    with pytest.raises(MissingError, match="no ledger here"):
        Ledger.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: [],
        lambda plain: {},
        lambda plain: {**plain, "columns": []},
        lambda plain: {**plain, "rows_in": [["books", "many"]]},
        lambda plain: {**plain, "rows_in": [["books"]]},
        lambda plain: {**plain, "rows_dropped": [["books", 1]]},
        lambda plain: {**plain, "lengths_kept": [[["books", "3"], 1]]},
        lambda plain: {name: value for name, value in plain.items() if name != "bytes_out"},
    ],
)
def test_a_file_of_another_shape_is_no_ledger(tmp_path: Path, change: Any) -> None:
    """A report drawn from half a ledger would balance and be wrong."""
    Ledger().write(tmp_path)
    path = tmp_path / LEDGER_FILE
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"ledger\.json: is no ledger"):
        Ledger.read(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"rows_in": [', b"\xff\xfe{}", b"PK\x03\x04"])
def test_bytes_that_are_no_json_are_no_ledger(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LEDGER_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match=r"ledger\.json: is no ledger"):
        Ledger.read(tmp_path)


@pytest.mark.parametrize(("characters", "bucket"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3), (1024, 10)])
def test_a_bucket_is_a_power_of_two(characters: int, bucket: int) -> None:
    assert length_bucket(characters) == bucket
