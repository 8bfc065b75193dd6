"""Control characters: what nobody sees goes, what scripts need stays, line ends are one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules.characters import HIDDEN_RANGES
from minimind.data.rules.control import strip_control
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Texts

SETTLED = settings(deadline=None, derandomize=True)
HIDDEN = [chr(code) for low, high in HIDDEN_RANGES for code in range(low, min(high, low + 40) + 1)]
ANY = st.text(
    st.one_of(st.characters(exclude_categories=()), st.sampled_from([*HIDDEN, *"\x1b[0m\r\n\x08_aa🏴"])), max_size=40
)
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


def stripped(text: str) -> str:
    outcome = strip_control(Texts([text]), CleanRules()).get(0)
    assert outcome is None or isinstance(outcome, Changed)
    return outcome.text if outcome else text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a\x00b\x1b\x7fc\u200bd\ufeffe\u202ef\xadg", "abcdefg"),
        ("汉\x00字\x07之\u200b间\u2060没有\x0b东西", "汉字之间没有东西"),
        ("one\r\ntwo\rthree\u2028four\u2029five\x85six\tseven", "one\ntwo\nthree\nfour\nfive\nsix\tseven"),
        ("第一行\r\n第二行\r", "第一行\n第二行\n"),
        ("\x1b[1;31merror:\x1b[0m no such file\x1b[K", "error: no such file"),
        ("\x1b]0;title\x07\x1b]8;;http://a.example/\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("N\x08NA\x08AM\x08ME\x08E ls - list _\x08f_\x08i_\x08l_\x08e", "NAME ls - list file"),
        ("hel\x08lo", "hello"),
        ("a\U000e0068\U000e0069b", "ab"),
    ],
)
def test_hidden_characters_go_and_line_ends_become_one(before: str, after: str):
    """They split words for the tokenizer, hide text from people, and are never worth learning."""
    assert stripped(before) == after


@pytest.mark.parametrize(
    "text",
    [
        "می\u200cخواهم, 👩\u200d💻, \u200fעברית\u200e",
        f"flags {ENGLAND} and 🏳️\u200d🌈",
        "tabs\tand\nlines\n\n  stay",
        "全角　空格与 no-break space",
        "print('\\x1b[0m')  # an escape that is spelled out is code",
    ],
)
def test_what_scripts_and_code_need_stays(text: str):
    """Without joiners Persian words and emoji fall apart; without the mark, Hebrew is out of order."""
    assert stripped(text) == text
    assert strip_control(Texts([text]), CleanRules()) == {}


def test_an_escape_before_a_bracket_eats_no_text():
    """A stray ESC must not take the word behind it along."""
    assert stripped("see \x1b[Hint] and \x1b[1] and \x1b[word") == "see [Hint] and [1] and [word"


def test_a_flag_between_hidden_characters_keeps_its_tags():
    """Tags alone hide messages, tags of a flag are the flag."""
    assert stripped(f"a\x00{ENGLAND}\U000e0041\r\nb") == f"a{ENGLAND}\nb"


@SETTLED
@given(ANY)
def test_stripping_is_idempotent_and_never_crashes(text: str):
    """Cleaning clean data must be a no-op."""
    once = stripped(text)
    assert stripped(once) == once


@SETTLED
@given(ANY)
def test_nothing_hidden_is_left_and_nothing_else_is_lost(text: str):
    """Without escape sequences and struck letters, only hidden characters go."""
    if "\x1b" in text or "\x9b" in text or "\x08" in text or "🏴" in text:
        return
    hidden = {chr(code) for low, high in HIDDEN_RANGES for code in range(low, high + 1)}
    once = stripped(text)
    assert not hidden & set(once)
    assert [c for c in once if c != "\n"] == [c for c in text if c not in hidden and c != "\n"]


@given(ANY)
@SETTLED
def test_hidden_characters_go_one_by_one(text):
    """Without flags and terminals, what is left is every other character, with \\n for a line end."""
    text = text.translate(dict.fromkeys(map(ord, "\x1b\x9b\x08\U0001f3f4")))
    table = {code: None for low, high in HIDDEN_RANGES for code in range(low, high + 1)}
    table |= dict.fromkeys(map(ord, "\r\x85\u2028\u2029"), "\n")
    assert stripped(text) == text.replace("\r\n", "\n").translate(table)
