"""The data report: what it says is what the ledgers say, and no text in it can do harm."""

import html.parser
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.ledger import LEDGER_FILE, READ_LEDGER_FILE, Ledger, length_bucket
from minimind.data.reports.difference import difference
from minimind.data.reports.report import HTML_FILE, MARKDOWN_FILE, read_report_text, report_of, write_report
from minimind.data.reports.report_examples import examples_of
from minimind.data.reports.report_figures import SOURCES_SHOWN, figures_of
from minimind.data.reports.report_rules import ABOUT, cleaning_order, rule_order
from minimind.data.rules.catalog import RULES
from minimind.data.rules.settings import CleanRules
from minimind.data.wording import cell, code, percent, size, visible
from minimind.errors import ArtifactError, MissingError

SETTLED = settings(deadline=None, derandomize=True, max_examples=100)
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
ATTACK = (
    "</div></style><script>alert('x')</script><img src=//evil.example/x onerror=alert(1)> | `tick` \x1b[31m\x00\u202e"
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """The tags of a page, and whether each is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def enter(ledger: Ledger, source: str, text: str, *, size: int = 0, rule: str = "", reason: str = "") -> None:
    """Book one row as kept, or as dropped by `rule`."""
    size = size or len(text.encode("utf-8", "replace"))
    ledger.rows_in[source] += 1
    ledger.bytes_in[source] += size
    bucket = length_bucket(len(text))
    if rule:
        ledger.rows_dropped[source, rule, reason] += 1
        ledger.bytes_dropped[source, rule, reason] += size
        ledger.lengths_dropped[source, bucket] += 1
        ledger.add_example(f"{rule}: {reason}", {"source": source, "line": 7, "detail": "a detail", "before": text})
    else:
        ledger.rows_kept[source] += 1
        ledger.bytes_kept[source] += size
        ledger.bytes_out[source] += size
        ledger.lengths_kept[source, bucket] += 1
        ledger.languages[source, "zh"] += 1


def books(attack: str = "<b>床前明月光</b>") -> tuple[Ledger, Ledger]:
    """Ledgers of reading (12 rows) and cleaning (10 of them), with everything a report can show."""
    read, cleaned = Ledger(), Ledger()
    enter(read, "web", attack, size=31, rule="check", reason="bad_json")
    enter(read, "books", attack, size=33, rule="check", reason="bad_json")
    for number in range(10):
        source, text = ("books", "疑是地上霜。" * 20) if number % 2 else ("web", f"row {number} " * 9)
        enter(read, source, text, size=len(text.encode()) + 13)
        fate = {0: ("html", "web_page"), 1: ("length", "too_short"), 2: ("near_duplicates", "near_duplicate")}
        rule, reason = fate.get(number, ("", ""))
        enter(cleaned, source, attack if rule else text, size=len(text.encode()), rule=rule, reason=reason)
    cleaned.rows_changed["books", "control"] += 2
    cleaned.bytes_out["books"] -= 4
    place = {"source": "books", "file": attack, "line": 1234}
    cleaned.add_example("control: changed", {**place, "before": f"a\x00b\r\n{attack}", "after": "ab\n"})
    cleaned.cluster_sizes[2] += 1
    cleaned.cluster_sizes[7] += 3
    copy = {"source": "web", "line": 9, "text": f"{attack} 低头思故乡", "jaccard": 0.91234}
    cleaned.add_cluster(7, kept={"source": "web", "line": 3, "text": attack}, dropped=[copy] * 6)
    return read, cleaned


def write(directory: Path, read: Ledger | None, cleaned: Ledger, **facts: str) -> tuple[str, str]:
    directory.mkdir(exist_ok=True)
    write_report(directory, title="Cleaning <rows>", read=read, cleaned=cleaned, facts=facts)
    return tuple((directory / name).read_text(encoding="utf-8") for name in (HTML_FILE, MARKDOWN_FILE))


def table(markdown: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    lines = markdown.split(f"## {heading}\n")[1].split("\n## ")[0].splitlines()
    rows = [[part.strip() for part in line.strip("|").split(" |")] for line in lines if line.startswith("|")]
    return rows[2:]


def test_the_summary_shows_that_the_books_balance(tmp_path: Path) -> None:
    read, cleaned = books()
    _, markdown = write(tmp_path, read, cleaned)
    accounts = table(markdown, "The books")
    assert [row[0] + " " + row[1] for row in accounts] == [
        "reading rows", "reading bytes", "cleaning rows", "cleaning bytes",
    ]  # fmt: skip
    for _, _, come_in, kept, dropped, mark in accounts:
        assert int(come_in.replace(",", "")) == int(kept.replace(",", "")) + int(dropped.replace(",", ""))
        assert mark == "✓"
    assert accounts[0][2:5] == ["12", "10", "2"]
    assert "does not" not in markdown


def test_what_does_not_balance_is_said_aloud(tmp_path: Path) -> None:
    """A check mark that is always there checks nothing; a source that is on one side only counts too."""
    read, cleaned = books()
    cleaned.bytes_dropped["lost", "html", "web_page"] += 5
    page, markdown = write(tmp_path, read, cleaned)
    assert table(markdown, "The books")[3][5].startswith("✗")
    assert "cleaning: lost: bytes in 0 ≠ kept 0 + dropped 5" in page
    assert "It does not add up" in page and "It does not add up" in markdown


def test_rows_that_get_lost_between_the_stages_are_noticed() -> None:
    """Each stage may balance in itself while a part of the rows was never cleaned."""
    read, cleaned = books()
    enter(read, "web", "never seen again")
    assert figures_of(read, cleaned).faults == ["cleaning got 10 rows, reading kept 11"]


def test_the_funnel_ends_at_what_was_kept() -> None:
    """Rule by rule; the reasons of a rule add up to it."""
    read, cleaned = books()
    figures = figures_of(read, cleaned)
    assert [(step.stage, step.rule) for step in figures.steps] == [
        ("reading", "check"), ("cleaning", "control"), ("cleaning", "html"), ("cleaning", "length"),
        ("cleaning", "near_duplicates"),
    ]  # fmt: skip
    assert [step.left for step in figures.steps] == [10, 10, 9, 8, 7]
    assert figures.steps[-1].left == figures.rows_kept
    assert all(step.rows == sum(rows for _, rows, _ in step.reasons) for step in figures.steps)
    assert figures.steps[0].bytes == 64


def test_reading_may_be_unknown(tmp_path: Path) -> None:
    _, cleaned = books()
    page, markdown = write(tmp_path, None, cleaned)
    assert [row[0] for row in table(markdown, "The books")] == ["cleaning", "cleaning"]
    assert figures_of(None, cleaned).rows_in == 10
    Page(page)


def test_an_empty_ledger_has_a_report(tmp_path: Path) -> None:
    """Nothing divides by the rows that are not there."""
    page, markdown = write(tmp_path, Ledger(), Ledger())
    assert Page(page).open == []
    assert "0 of 0 rows kept" in markdown


def test_equal_ledgers_give_equal_pages(tmp_path: Path) -> None:
    """The page is part of an artifact: no time, no order of a dict may change it."""
    read, cleaned = books()
    other_read, other = (
        Ledger(**{n: type(v)(dict(reversed(v.items()))) if isinstance(v, dict) else v for n, v in vars(ledger).items()})
        for ledger in (read, cleaned)
    )
    assert (other_read, other) == (read, cleaned)
    assert write(tmp_path / "a", read, cleaned, spec="x") == write(tmp_path / "b", other_read, other, spec="x")


def test_the_page_is_whole_in_one_file_and_runs_nothing(tmp_path: Path) -> None:
    """It is mailed around and opened from disks, with other people's texts in it."""
    read, cleaned = books(ATTACK)
    cleaned.rows_kept[ATTACK] += 1
    cleaned.rows_in[ATTACK] += 1
    page, markdown = write(tmp_path, read, cleaned, **{ATTACK: ATTACK, "MLflow": "http://127.0.0.1:5000/#/runs/1"})
    parsed = Page(page)
    assert parsed.open == []
    assert not parsed.tags & {"script", "img", "iframe", "object", "embed", "link", "form", "svg"}
    assert not {name for name, _ in parsed.attributes if name.startswith("on") or name == "src"}
    assert {value for name, value in parsed.attributes if name == "href"} == {"http://127.0.0.1:5000/#/runs/1"}
    assert "default-src 'none'" in page
    assert not re.search(r"(?<!\\)<(script|img)", markdown)
    for text in (page, markdown):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)


def test_only_web_addresses_become_links(tmp_path: Path) -> None:
    page, _ = write(tmp_path, None, Ledger(), bad="javascript:alert(1)", good="https://example.org/a?b=1&c=2")
    assert [value for name, value in Page(page).attributes if name == "href"] == ["https://example.org/a?b=1&c=2"]


def test_a_row_of_a_markdown_table_is_never_torn(tmp_path: Path) -> None:
    """A file's name may have a bar or a line end in it; the table must keep its columns."""
    cleaned = Ledger()
    enter(cleaned, "a|b\n`c`", "text " * 10, rule="length", reason="too_short")
    _, markdown = write(tmp_path, None, cleaned)
    widths = {
        line.replace("\\|", "").count("|") for line in markdown.split("## Sources")[1].split("\n\n")[1].splitlines()
    }
    assert len(widths) == 1


def test_examples_show_what_changed(tmp_path: Path) -> None:
    cleaned = Ledger()
    cleaned.add_example(
        "control: changed", {"source": "诗", "line": 1200, "before": "床前\x00明月光", "after": "床前明月光"}
    )
    cleaned.add_example("language: other_language", {"source": "web", "line": 2, "detail": "ja", "before": "です"})
    page, _ = write(tmp_path, None, cleaned)
    assert "<del>‹NUL›</del>明月光" in page
    assert "床前明月光" in page
    assert "诗, line 1,200" in page
    assert page.index("control") < page.index("です")
    assert [e.after for e in examples_of([cleaned])["language"]] == [None]


def test_more_examples_are_folded_away(tmp_path: Path) -> None:
    cleaned = Ledger()
    for line in range(9):
        cleaned.add_example("length: too_short", {"source": "web", "line": line, "before": f"text {line}"})
    page, _ = write(tmp_path, None, cleaned)
    assert "4 more: too short" in page
    assert "text 5" in page and "text 6" not in page


def test_an_excerpt_that_was_cut_is_not_marked_where_only_the_cut_differs() -> None:
    """Otherwise a page that was unwrapped seems to have gained a paragraph."""
    story = "".join(f"第{n}回，话说天下大势，分久必合，合久必分。" for n in range(100))
    cleaned = Ledger()
    cleaned.add_example("html: changed", {"before": f"<nav>首页 新闻</nav><p>{story}</p>", "after": story})
    example = examples_of([cleaned])["html"][0]
    assert "首页" in "".join(piece.text for piece in example.before if piece.marked)
    assert not any(piece.marked for piece in example.after or [])


def test_clusters_are_shown_with_their_likeness(tmp_path: Path) -> None:
    read, cleaned = books("举头望明月")
    page, markdown = write(tmp_path, read, cleaned)
    assert "Jaccard 0.912" in page and "7 texts, kept: web, line 3" in page
    assert "<ins> 低头思故乡</ins>" in page.replace("‹U+0020›", " ")
    assert "and 2 more" in page
    assert table(markdown, "Duplicates") == [["2", "1", "1"], ["5–8", "3", "18"]]


def test_many_sources_are_added_up_in_one_line(tmp_path: Path) -> None:
    """A folder of ten thousand files is read by people as well."""
    cleaned = Ledger()
    for number in range(SOURCES_SHOWN + 60):
        for _ in range(1 + number // 50):
            enter(cleaned, f"file {number:03d}", "text " * 8)
    figures = figures_of(None, cleaned)
    assert len(figures.sources) == SOURCES_SHOWN + 1
    assert figures.sources[-1].name == "60 others"
    assert sum(line.rows_in for line in figures.sources) == figures.rows_in
    assert sum(sum(counts) for _, _, counts in figures.languages.lines) == figures.rows_kept


def test_many_languages_are_added_up_in_one_column() -> None:
    cleaned = Ledger()
    for number in range(20):
        enter(cleaned, "web", "text")
        cleaned.languages["web", f"l{number:02d}"] += 1
    figures = figures_of(None, cleaned)
    assert figures.languages.columns[0] == "zh"
    assert figures.languages.columns[-1].endswith("others")
    assert sum(figures.languages.lines[0][2]) == 40


def test_lengths_have_no_gaps() -> None:
    """A column that is missing would make the axis lie."""
    cleaned = Ledger()
    for characters in (3, 900, 5000):
        enter(cleaned, "web", "x" * characters)
    assert [(b.label, b.kept) for b in figures_of(None, cleaned).lengths] == [
        ("2", 1), ("4", 0), ("8", 0), ("16", 0), ("32", 0), ("64", 0), ("128", 0), ("256", 0), ("512", 1),
        ("1k", 0), ("2k", 0), ("4k", 1),
    ]  # fmt: skip


def test_every_rule_is_explained_and_has_its_place() -> None:
    """A new rule without a line in the report fails here."""
    rules = {*RULES, "duplicates", "near_duplicates"}
    assert rules <= set(CleanRules.model_fields)
    assert set(ABOUT) == {"check", *rules, "forget"}
    order = sorted(["unheard_of", "forget", "near_duplicates", "duplicates", *RULES, "check"], key=rule_order)
    assert order == ["check", *RULES, "duplicates", "near_duplicates", "forget", "unheard_of"]
    assert sorted(["duplicates", "check", *RULES], key=cleaning_order) == [*RULES, "check", "duplicates"]


def test_a_report_is_drawn_from_the_ledgers_of_a_directory(tmp_path: Path) -> None:
    """Of an artifact or an output directory alike; one that is there already is not drawn again."""
    read, cleaned = books()
    cleaned.write(tmp_path)
    read.write(tmp_path, READ_LEDGER_FILE)
    page = report_of(tmp_path)
    assert page == tmp_path / HTML_FILE
    assert "12" in read_report_text(tmp_path)
    page.write_text("mine", encoding="utf-8")
    assert report_of(tmp_path).read_text(encoding="utf-8") == "mine"


def test_a_directory_without_a_ledger_is_named_with_the_remedy(tmp_path: Path) -> None:
    for directory in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(MissingError, match="give the directory of an artifact of the stage clean"):
            report_of(directory)
    (tmp_path / LEDGER_FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ArtifactError, match="is no ledger"):
        read_report_text(tmp_path)


@SETTLED
@given(ANY_TEXT, ANY_TEXT)
def test_the_pieces_of_a_difference_are_the_texts(before: str, after: str) -> None:
    """Nothing is lost or invented; equal texts have no mark."""
    for text, pieces in zip((before, after), difference(before, after), strict=True):
        assert "".join(piece.text for piece in pieces) == text
    assert not any(piece.marked for side in difference(before, before) for piece in side)


@pytest.mark.parametrize(
    ("before", "after", "gone", "came"),
    [
        ("the quick fox", "the slow fox", ["quick"], ["slow"]),
        ("床前明月光", "床前日月光", ["明"], ["日"]),
        ("call 13812345678 now", "call <phone> now", ["13812345678"], ["<phone>"]),
        ("a\u200bb", "ab", ["a\u200bb"], ["ab"]),
        ("keep this text<br>", "keep this text", ["<br>"], []),
    ],
)
def test_a_difference_is_marked_by_words(before: str, after: str, gone: list[str], came: list[str]) -> None:
    sides = difference(before, after)
    assert [[piece.text for piece in side if piece.marked] for side in sides] == [gone, came]


@SETTLED
@given(ANY_TEXT)
def test_what_is_shown_can_be_seen_and_encoded(text: str) -> None:
    """Half characters, bidi overrides and terminal escapes end at the page."""
    for marked in (False, True):
        shown = visible(text, marked=marked)
        shown.encode("utf-8")
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]", shown)
    assert "\n" not in cell(text) and "\n" not in code(text)


def test_visible_spells_out_what_cannot_be_seen() -> None:
    assert visible("a\x00\x1b\r\n\t\u200b\ud800é汉👩\u200d🚀") == "a‹NUL›‹ESC›‹CR›\n\t‹U+200B›‹U+D800›é汉👩\u200d🚀"
    assert visible("a \u3000\t\n", marked=True) == "a ‹U+3000›⇥\t⏎\n"


def test_figures_are_rounded_honestly() -> None:
    """What is not nothing is not shown as nothing."""
    assert [percent(share) for share in (0, 0.0001, 0.5, 0.99999, 1)] == [
        "0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 1000, 33_676_494, 999_600, 10**13)] == [
        "0 bytes", "999 bytes", "1 kB", "33.7 MB", "1 MB", "10 TB",
    ]  # fmt: skip
