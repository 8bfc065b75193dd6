"""The cleaning rules, one by one and as a stage: damage goes, text stays, and the books balance."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.artifact import Artifact, Store, Summary
from minimind.data.cleaning import CLEAN, CleanConfig, Cleaner, Dropped
from minimind.data.documents import RowKind, check_row
from minimind.data.rules import CleanRules, content_key, repair_unicode, repetitive, strip_control, too_short_or_long
from minimind.data.shards import read_rows
from minimind.data.sources import INGEST, IngestConfig, SourceConfig
from minimind.errors import DataError
from minimind.stage import build

RULES = CleanRules()
SETTLED = settings(deadline=None, derandomize=True)  # the same examples on every machine, however slow
POEM = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
SONG = "\n".join(
    f"{verse}\nRow, row, row your boat, gently down the stream,\nMerrily, merrily, merrily, life is but a dream."
    for verse in ("If you see a crocodile", "If you see a polar bear upon the icy shore", "If there is a waterfall")
)
CODE = "\n".join(
    f"    def get_{name}(self) -> int:\n        return self._{name}\n" for name in ["alpha", "beta", "gamma", "delta"]
)
TABLE = "\n".join(
    ["| name | size | price |", "|------|------|-------|", *(f"| item {i} | {i * 7} | {i * 13} |" for i in range(9))]
)
CLEAN_TEXTS = [
    POEM * 1,
    SONG,
    CODE,
    TABLE,
    "“Curly quotes” — and an em dash… cost €5, naïve café, 3 × 4 ÷ 2 = 6°",
    "全角字符：ＡＢＣ，１２３！《书名》、“引号”……",
    "日本語のテキスト、カタカナ。한국어 문장입니다.",
    "Русский текст и ελληνικά, עברית, فارسی می‌خواهم",
    "emoji 👩‍💻 with joiners, math ∑ᵢ xᵢ² ≤ ∞, &amp; an entity, ﬁ ligature",
    "if a < b:\n\tprint('tab', \"\\x00\")\n",
]


def mojibake(text: str, encoding: str) -> str:
    return text.encode("utf-8").decode(encoding)


@pytest.mark.parametrize("text", CLEAN_TEXTS)
def test_clean_text_is_left_alone(text: str):
    """A cleaner that changes what is right does more harm than dirt: Chinese, code, quotes, joiners, width."""
    assert strip_control(repair_unicode(text)) == text
    assert repetitive(text, RULES) is None
    assert too_short_or_long(text, RULES) is None


@pytest.mark.parametrize("text", ["naïve café — “quoted”", "梯度累积是把多个小批次的梯度相加", "Größe: 5 €, déjà vu"])
@pytest.mark.parametrize("encoding", ["latin-1", "mac-roman"])
def test_mojibake_is_undone(text: str, encoding: str):
    """UTF-8 read as another encoding is the most common damage of web text."""
    assert repair_unicode(mojibake(text, encoding)) == text


def test_only_the_damaged_line_changes():
    """One broken line in a document is no reason to touch the others."""
    lines = ["Ａ full-width line, naïve", mojibake("naïve", "latin-1"), "‘quotes’"]
    assert repair_unicode("\n".join(lines)) == "Ａ full-width line, naïve\nnaïve\n‘quotes’"


def test_invisible_characters_go_and_joiners_stay():
    """Control characters split words for the tokenizer; joiners are part of Persian words and of emoji."""
    assert strip_control("a\x00b\x1b\x7fc\u200bd\ufeffe\u202ef\xadg") == "abcdefg"
    assert strip_control("one\r\ntwo\rthree\u2028four\tfive") == "one\ntwo\nthree\nfour\tfive"
    assert strip_control("می\u200cخواهم 👩\u200d💻 \u200f") == "می\u200cخواهم 👩\u200d💻 \u200f"


def test_length_counts_a_han_character_for_three():
    """A Chinese sentence of eight characters is not a stub; an English word of eight letters is."""
    assert too_short_or_long("白日依山尽。", CleanRules(min_characters=15)) is None
    assert too_short_or_long("eight ch", RULES) == (
        "too_short",
        "8 characters (a CJK one counts 3), min_characters is 20",
    )
    assert (too_short_or_long("x" * 11, CleanRules(min_characters=0, max_characters=10)) or [""])[0] == "too_long"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a" * 200, "dominant_character"),
        ("哈" * 100, "dominant_character"),
        ("Subscribe to our newsletter!\n" * 20, "repeated_lines"),
        ("点击这里了解更多精彩内容。\n" * 20, "repeated_lines"),
        ("buy cheap watches online now " * 30, "repeated_runs"),
        ("便宜的手表在线购买" * 30, "repeated_runs"),
        (("便宜的手表在线购买" + "今天天气很好，我们去公园散步吧。" * 3) * 2000, "repeated_runs"),
    ],
)
def test_repetition_is_found_in_both_scripts(text: str, reason: str):
    """Rules made for English words miss Chinese, which writes without spaces."""
    found = repetitive(text, RULES)
    assert found is not None and found[0] == reason


def cleaner(kind: RowKind = "pretrain", **rules: Any) -> Cleaner:
    return Cleaner(CleanConfig(rows=kind, **rules))


def row(kind: RowKind, value: Any) -> dict[str, Any]:
    return {"source": "s", "line": 1, "group": "g", **check_row(kind, value)}


def test_duplicates_differ_in_case_width_and_space_only():
    """The first of equal rows stays; a row with one other word is another row."""
    rules = cleaner()
    rules.clean(row("pretrain", {"text": "The quick brown fox, and the dog."}))
    with pytest.raises(Dropped, match="exact_duplicate: the same as row 1"):
        rules.clean(row("pretrain", {"text": "THE quick  brown\nfox， and the dog. "}))
    rules.clean(row("pretrain", {"text": "The quick brown fox, and the cat."}))


def test_conversations_are_equal_as_a_whole_only():
    """The same question with another answer is worth learning from; moved turn borders make another row."""

    def turns(*contents: str) -> dict[str, Any]:
        roles = ("user", "assistant") * len(contents)
        return {"conversations": [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]}

    keys = [
        content_key("chat", check_row("chat", turns(*c))) for c in (("a", "b"), ("a", "c"), ("A ", "b"), ("a b", "b"))
    ]
    assert keys[0] == keys[2] and len({*keys}) == 3


def test_short_answers_in_conversations_stay():
    """Length and repetition are rules for documents; `4` is a good answer. They apply where asked for."""
    value = {"conversations": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}
    assert cleaner("chat").clean(row("chat", value))["conversations"][1]["content"] == "4"
    with pytest.raises(Dropped, match="too_short"):
        cleaner("chat", filter_chat=True).clean(row("chat", value))


def test_a_row_that_repairs_make_unusable_is_dropped():
    """An answer of nothing but control characters is blank once they are gone."""
    value = {"conversations": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "\u200b\x01"}]}
    with pytest.raises(Dropped, match="check: no_target: after control"):
        cleaner("chat").clean(row("chat", value))


@SETTLED
@given(st.text())
def test_repairs_are_idempotent_and_never_crash(text: str):
    """Cleaning clean data must be a no-op, or every rerun would make another corpus."""
    once = cleaner()._repair(text, set())
    assert cleaner()._repair(once, set()) == once


@SETTLED
@given(st.text(max_size=40), st.sampled_from(["latin-1", "cp1252", "cp1251", "mac-roman", "cp437"]))
def test_repairs_of_mojibake_are_idempotent(text: str, encoding: str):
    """Damaged text takes the repairs' own paths, which random text hardly ever meets."""
    damaged = text.encode("utf-8").decode(encoding, errors="replace")
    once = cleaner()._repair(damaged, set())
    assert cleaner()._repair(once, set()) == once


@SETTLED
@given(st.text(max_size=300), st.integers(1, 40))
def test_filters_judge_any_text(text: str, times: int):
    """A filter that crashes on one odd document stops a corpus."""
    for found in (repetitive(text * times, RULES), too_short_or_long(text * times, RULES)):
        assert found is None or all(isinstance(part, str) for part in found)


def run(tmp_path: Path, lines: list[dict[str, Any]], **rules: Any) -> tuple[Artifact, Summary]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    store = Store(tmp_path)
    source = SourceConfig(name="s", rows="pretrain", path=str(path))
    rows, _ = build(INGEST, IngestConfig(rows="pretrain", sources=(source,)), {}, store=store)
    cleaned, _ = build(CLEAN, CleanConfig(rows="pretrain", **rules), {"rows": rows}, store=store)
    return cleaned, cleaned.summary()


DIRTY = [
    {"text": "A text that is long enough to be kept as it is."},
    {"text": 7},
    {"text": mojibake("Ein schöner Satz über Größe und Maß.", "latin-1")},
    {"text": "stub"},
    {"text": "A TEXT that is long enough to be kept as it is. "},
    {"text": "another one with\x00 a control character in the middle"},
]


def test_the_books_balance(tmp_path: Path):
    """in = kept + dropped, in rows and bytes; every dropped row is on file, ingest's before clean's."""
    cleaned, summary = run(tmp_path, DIRTY)
    figures: dict[str, Any] = summary.figures
    assert (figures["rows_in"], figures["rows_kept"], figures["rows_dropped"]) == (5, 3, 2)
    assert figures["bytes_in"] == figures["bytes_kept"] + figures["bytes_dropped"]
    assert figures["bytes_out"] == sum(len(row["text"].encode()) for row in read_rows(cleaned.dir / "rows"))
    assert (figures["changed_unicode"], figures["changed_control"]) == (1, 1)
    assert (figures["dropped_too_short"], figures["dropped_exact_duplicate"]) == (1, 1)
    dropped = [json.loads(line) for line in (cleaned.dir / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(d["line"], d["rule"], d["reason"]) for d in dropped] == [
        (2, "check", "wrong_type"),
        (4, "length", "too_short"),
        (5, "duplicates", "exact_duplicate"),
    ]
    assert json.loads(dropped[1]["text"]) == {"text": "stub"}


def test_samples_show_what_changed(tmp_path: Path):
    """The first changes of each rule are shown, so that a person can judge the rule."""
    _, summary = run(tmp_path, DIRTY)
    assert len(summary.samples) == 2
    assert "schöner" in summary.samples[0] and "→" in summary.samples[0] and summary.samples[0].startswith("unicode")


def test_rules_that_are_off_do_nothing(tmp_path: Path):
    """Each switch switches."""
    off = dict.fromkeys(("unicode", "control", "length", "repetition", "duplicates"), False)
    cleaned, summary = run(tmp_path, DIRTY, **off)
    kept = [row["text"] for row in read_rows(cleaned.dir / "rows")]
    assert kept == [line["text"] for line in DIRTY if isinstance(line["text"], str)]
    assert summary.figures["rows_dropped"] == summary.figures["bytes_dropped"] == 0


def test_nothing_left_is_an_error_with_the_reason(tmp_path: Path):
    """An empty corpus must stop here, not in the tokenizer an hour later."""
    with pytest.raises(DataError, match=r"cleaning left none of 1 pretrain rows \(too_short 1\)"):
        run(tmp_path, [{"text": "stub"}])
