"""Lines that are page chrome: what sites print around texts, in Chinese and English, as whole lines.

Each pattern is filed under the literals a line must begin with (decoration left aside); their first characters are
the gate that spares other lines a regular expression. A pattern must match the whole line: the same words inside a
sentence are text. Lines are STRONG, which are chrome wherever a page prints them, or WEAK, a word or two of a menu
("Home", "登录"), which a text may well have and which count in company only.

Not here: the patterns (`chrome_patterns`) and the words (`chrome_menus`), and which of these lines are taken out of a
text (`boilerplate`).
"""

import re
from enum import IntEnum
from functools import cache
from itertools import groupby
from typing import NamedTuple

from minimind.data.rules.chrome_menus import MENU_CHINESE, MENU_ENGLISH
from minimind.data.rules.chrome_patterns import CHINESE, ENGLISH

DECORATION = " \t\u3000\xa0[]【】()（）《》〈〉<>«»‹›·•|｜*-–—=_←→↑↓▲▼►▶◀◄☆★◆◇■□●○~～…"
"""What may stand around a line of chrome; not # and /, which make headings and comments of program files."""
MAX_LINE = 1200
"""Characters; longer lines are paragraphs. Only notices of confidentiality come near."""


class Level(IntEnum):
    """How surely a line is chrome."""

    TEXT = 0
    WEAK = 1
    STRONG = 2


def chrome_level(line: str) -> Level:
    """How surely `line` is page chrome."""
    if len(line) > MAX_LINE:
        return Level.TEXT
    core, table = line.strip(DECORATION), _table()
    start = core[:8].lower()
    found = [table[key] for size in _key_sizes().get(start[:1], ()) if (key := start[:size]) in table]
    if not found or _MARKED.match(line):
        return Level.TEXT
    is_sentence_part = core[0] in _LOWER  # the second line of a paragraph; menus may be in small letters
    words = found[0].words if len(found) == 1 else tuple(word for rows in found for word in rows.words)
    if is_sentence_part and not words:
        return Level.TEXT
    core = " ".join(core.split())
    if not is_sentence_part and any(_compiled(row).fullmatch(core) for rows in found for row in rows.patterns):
        return Level.STRONG
    if len(core) <= MAX_MENU and (lowered := core.lower()).startswith(words):
        return _menu_level(lowered)
    return Level.TEXT


@cache
def gate_keys() -> frozenset[str]:
    """The first characters, in small letters, of all lines that may be chrome, as many as in KEY_SIZES."""
    return frozenset(map(_key, _table()))


def _menu_level(line: str) -> Level:
    """A line of nothing much but words of menus: three of them are a menu, fewer may be a heading."""
    if _SENTENCE.search(line):
        return Level.TEXT
    words = _words_by_letter()
    letters = sum(map(str.isalpha, line))
    allowed = (1 - MENU_SHARE) * letters
    found: set[str] = set()
    other = at = 0
    while at < len(line) and other <= allowed:
        for word in words.get(line[at], ()):
            if line.startswith(word, at) and _ends_word(line, at + len(word)):
                found.add(word)
                at += len(word)
                break
        else:
            end = _WORD.match(line, at).end() if line[at] in _WORD_CHARS else at + 1
            other += sum(map(str.isalpha, line[at:end]))
            at = end
    if other > allowed:
        return Level.TEXT
    if len(found) > 2:
        return Level.STRONG
    return Level.WEAK if found and not other else Level.TEXT


def _ends_word(line: str, place: int) -> bool:
    """Whether no Latin word goes on there."""
    return not (line[place : place + 1].isascii() and line[place : place + 1].isalnum() and line[place - 1].isascii())


@cache
def _menu_words() -> frozenset[str]:
    return frozenset(f"{MENU_ENGLISH}|{MENU_CHINESE}".lower().split("|"))


@cache
def _words_by_letter() -> dict[str, tuple[str, ...]]:
    """The words of menus by their first character, the longest first."""
    words = sorted(_menu_words(), key=lambda word: (word[0], -len(word), word))
    return {letter: tuple(group) for letter, group in groupby(words, key=lambda word: word[0])}


class _Rows(NamedTuple):
    """What a line with these first characters may be: the patterns for all of it, and the words it may begin with."""

    patterns: tuple[str, ...]
    words: tuple[str, ...]


@cache
def _table() -> dict[str, _Rows]:
    """Rows by the first characters of a line: as many as in KEY_SIZES, or the first of the words of a menu."""
    patterns: dict[str, dict[str, None]] = {}
    words: dict[str, list[str]] = {}
    for openings, rest in (*ENGLISH, *CHINESE):
        for opening in openings.split("|"):
            key = _key(opening.replace("\\", "").lower())
            patterns.setdefault(key, {})[f"(?:{openings})(?:{rest})"] = None
    for word in sorted(_menu_words()):
        words.setdefault(max(_key(word), word[:8].partition(" ")[0], key=len), []).append(word)
    return {key: _Rows(tuple(patterns.get(key, ())), tuple(words.get(key, ()))) for key in patterns | words}


@cache
def _key_sizes() -> dict[str, tuple[int, ...]]:
    """How long keys are that begin with a character."""
    keys = sorted(_table())
    return {letter: tuple(sorted(set(map(len, group)))) for letter, group in groupby(keys, key=lambda key: key[0])}


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    """Only when a line asks for it: most texts never ask for most of them."""
    return re.compile(pattern, re.I)


def _key(opening: str) -> str:
    """As much of an opening as the longest of KEY_SIZES that it fills."""
    return opening[: max((size for size in KEY_SIZES if size <= len(opening)), default=len(opening))]


KEY_SIZES = (1, 2, 3, 4, 8)
"""Characters: one for ©, two to four for Chinese words; `the ` alone would let a tenth of all English lines pass."""
MAX_MENU = 200
"""Characters of a line that may be a menu."""
_LOWER = frozenset("abcdefghijklmnopqrstuvwxyz")
_MARKED = re.compile(r"    |\t|  +[\x00-\x7f]*$|\s*(?:[-*+>] |\#|\|.*\|\s*$|\d+\. |\[[^\]\n]*\]\()")
"""Code, headings, list items, quotations and tables of Markdown: somebody's text."""
MENU_SHARE = 0.7
"""Of the letters of such a line; the rest are names of sections."""
_SENTENCE = re.compile(r"[。！？!?;,，、{}=]|[a-z]\. |\w\(")
_WORD = re.compile(r"[a-z0-9]+")
_WORD_CHARS = _LOWER | frozenset("0123456789")
