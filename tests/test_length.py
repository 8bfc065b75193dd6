"""Length: stubs go, couplets stay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules.length import limit_length
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts

SETTLED = settings(deadline=None, derandomize=True)


def reason(text: str, **limits: int) -> str | None:
    outcome = limit_length(Texts([text]), CleanRules(**limits)).get(0)
    assert outcome is None or isinstance(outcome, Dropped)
    return outcome.reason if outcome else None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "\n\n",
        "Page 359",
        "see above19",
        "更多",
        "111",
        "谢谢！30",
        "N/A98",
        "# ",
        "...",
        "TODO",
        " \n ".join("stub"),
    ],
)
def test_stubs_are_too_short(text: str):
    """Page numbers, link labels and placeholders teach a model to say nothing."""
    assert reason(text) == "too_short"


@pytest.mark.parametrize(
    "text",
    [
        "白日依山尽，黄河入海流。",
        "《句》釋惟鳳\n海涵天影闊，山帶雪痕深。",
        "今天天气很好，出去走走。",
        "I am fine, thank you. And you?",
        "ありがとうございます",
        "안녕하세요, 반갑습니다",
        "x = [i for i in range(9)]",
        "\n".join(f"| {n} | {n * n} | {n**3} | {n**4} |" for n in range(1, 9)),
    ],
)
def test_short_texts_that_say_something_stay(text: str):
    """A couplet, an answer, a line of code, a table of figures."""
    assert reason(text) is None


def test_a_han_character_counts_for_three():
    """A Chinese sentence of six characters is no stub; an English word of eight letters is."""
    assert reason("白日依山尽。", min_characters=16) is None
    assert reason("白日依山尽。", min_characters=17) == "too_short"
    found = limit_length(Texts(["eight ch"]), CleanRules())
    assert found == {0: Dropped("too_short", "8 characters (a CJK one counts 3), min_characters is 20")}


def test_white_space_does_not_make_a_text_longer():
    """A run counts as one character and at the ends as none, so indentation is no content."""
    assert reason("        a  b\t\t\n\nc      ", min_characters=5) is None
    assert reason("        a  b\t\t\n\nc      ", min_characters=6) == "too_short"


def test_what_has_no_letter_must_be_longer():
    """Rulers, dates and page numbers are long and say nothing; the detail names the limit."""
    found = limit_length(
        Texts(["---- 2024-05-06 12:30:59 ----", "---- May 6, 2024, half past noon ----"]), CleanRules()
    )
    assert list(found) == [0]
    assert isinstance(found[0], Dropped)
    assert "no letter" in found[0].detail and "min_characters is 20, 60 without" in found[0].detail


def test_too_long_is_weighted_too():
    """The limit is one of bytes, roughly: a Han character has three."""
    assert reason("x" * 11, min_characters=0, max_characters=10) == "too_long"
    assert reason("天地玄黄", min_characters=0, max_characters=11) == "too_long"
    assert reason("天地玄黄", min_characters=0, max_characters=12) is None


@SETTLED
@given(st.text(st.characters(exclude_categories=()), max_size=80), st.integers(0, 60), st.integers(1, 60))
def test_any_text_is_weighed(text: str, least: int, most: int):
    """No crash, and without a lower limit nothing is too short."""
    assert reason(text, min_characters=least, max_characters=most) in (None, "too_short", "too_long")
    assert reason(text, min_characters=0) is None
