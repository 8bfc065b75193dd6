"""Lines that are page chrome: what sites print around texts, in Chinese and English, as whole lines.

Each pattern is filed under the literals a line must begin with (decoration left aside); their first characters are
the gate that spares other lines a regular expression. A pattern must match the whole line: the same words inside a
sentence are text. Lines are STRONG, which are chrome wherever a page prints them, or WEAK, a word or two of a menu
("Home", "登录"), which a text may well have and which count in company only.

Not here: the patterns (`chrome_patterns`), and which of these lines are taken out of a text (`boilerplate`).
"""

import re
from enum import IntEnum
from functools import cache

from minimind.data.rules.chrome_patterns import CHINESE, ENGLISH, MENU_CHINESE, MENU_ENGLISH

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
    found = [row for size in KEY_SIZES if (rows := table.get(start[:size])) is not None for row in rows]
    if not found or _MARKED.match(line):
        return Level.TEXT
    core = " ".join(core.split())
    is_sentence_part = core[0] in _LOWER  # the second line of a paragraph; menus may be in small letters
    if not is_sentence_part and any(row.fullmatch(core) for row in found if isinstance(row, re.Pattern)):
        return Level.STRONG
    lowered = core.lower()
    if len(core) <= MAX_MENU and lowered.startswith(tuple(row for row in found if isinstance(row, str))):
        return _menu_level(lowered)
    return Level.TEXT


@cache
def gate_keys() -> frozenset[str]:
    """The first characters, in small letters, of all lines that may be chrome, as many as in KEY_SIZES."""
    return frozenset(_table())


def _menu_level(line: str) -> Level:
    """A line of nothing much but words of menus: three of them are a menu, fewer may be a heading."""
    if _SENTENCE.search(line):
        return Level.TEXT
    words = _menu_words()
    letters = sum(map(str.isalpha, line))
    allowed = (1 - MENU_SHARE) * letters
    found: set[str] = set()
    other = at = 0
    while at < len(line) and other <= allowed:
        size = next((n for n in range(_LONGEST, 0, -1) if line[at : at + n] in words and _ends_word(line, at + n)), 0)
        end = at + size
        if size:
            found.add(line[at:end])
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
def _table() -> dict[str, tuple[re.Pattern[str] | str, ...]]:
    """By the first characters of a line: the patterns it may match, and the words of menus it may begin with."""
    table: dict[str, list[re.Pattern[str] | str]] = {}
    for openings, rest in (*ENGLISH, *CHINESE):
        pattern = re.compile(f"(?:{openings})(?:{rest})", re.I)
        for opening in openings.split("|"):
            row = table.setdefault(_key(opening.replace("\\", "").lower()), [])
            if pattern not in row:
                row.append(pattern)
    for word in sorted(_menu_words()):
        table.setdefault(_key(word), []).append(word)
    return {key: tuple(rows) for key, rows in table.items()}


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
_LONGEST = 22
"""Characters of the longest words of menus."""
