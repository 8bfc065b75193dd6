"""Rules: what makes a text better or unwanted, one function each, and the settings of all of them.

Repairs (text → text) change and never drop: `unicode` (mojibake) and `control` (characters nobody sees).
Filters (text → reason and detail, or None) drop: `length` and `repetition`. They count characters, not words,
so they hold for scripts that write without spaces. `content_key` tells equal rows for `duplicates`.

A new rule is a function here or in a module beside, a field of CleanRules, and a line in REPAIRS or FILTERS.
Not here: how rules are applied to rows (`cleaning`); near duplicates, languages, personal data.
"""

import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import ftfy
import numpy as np
import xxhash
from pydantic import Field

from minimind.config import Config
from minimind.data.documents import CONTENT, RowKind, messages_of

CJK_WEIGHT = 3
"""A Han, kana or Hangul character says about as much as three Latin letters, and has as many bytes."""
GRAM = 32
"""Characters in a repeated piece: some six English words, or a Chinese sentence."""


class CleanRules(Config):
    """The switches and limits of the rules: `[clean]` in a data spec."""

    unicode: bool = True
    control: bool = True
    length: bool = True
    min_characters: int = Field(default=20, ge=0)
    """Latin letters; a Chinese, Japanese or Korean character counts for three."""
    max_characters: int = Field(default=2_000_000, ge=1)
    """Weighted the same way; longer is a dump or a whole library, not a text."""
    repetition: bool = True
    max_character_share: float = Field(default=0.5, gt=0, le=1)
    """Of one character among those that are not white space."""
    max_line_share: float = Field(default=0.6, gt=0, le=1)
    """Of characters in lines that stood before."""
    max_gram_share: float = Field(default=0.6, gt=0, le=1)
    """Of runs of 32 characters that stood before."""
    duplicates: bool = True
    filter_chat: bool = False
    """Apply length and repetition to the contents of conversations and preference pairs too."""


def repair_unicode(text: str) -> str:
    """`text` with mojibake (UTF-8 once read as another encoding) undone; what reads well already is not touched.

    Width, quotes, ligatures, entities and normal form stay as they are: they are style or code, not damage.
    """
    if not _SUSPECT.search(text):
        return text
    return "\n".join(ftfy.fix_text(line, _FTFY) if _SUSPECT.search(line) else line for line in text.split("\n"))


def strip_control(text: str) -> str:
    """`text` without characters that nobody sees and no text needs; line ends become \\n.

    Out go C0 and C1 controls but for tab and newline, bidi overrides, byte order marks, zero-width spaces,
    soft hyphens and non-characters. Joiners (Persian, emoji) and direction marks (Hebrew, Arabic) stay.
    """
    return _INVISIBLE.sub("", _LINE_ENDS.sub("\n", text))


def too_short_or_long(text: str, rules: CleanRules) -> tuple[str, str] | None:
    """`length`: the reason why a text's number of characters is out of bounds, and the detail."""
    weight = len(text) if text.isascii() else len(text) + (CJK_WEIGHT - 1) * len(_CJK.findall(text))
    if weight < rules.min_characters:
        return (
            "too_short",
            f"{weight} characters (a CJK one counts {CJK_WEIGHT}), min_characters is {rules.min_characters}",
        )
    if weight > rules.max_characters:
        return (
            "too_long",
            f"{weight} characters (a CJK one counts {CJK_WEIGHT}), max_characters is {rules.max_characters}",
        )
    return None


def repetitive(text: str, rules: CleanRules) -> tuple[str, str] | None:
    """`repetition`: the reason why a text says the same again and again, and the detail.

    White space is not looked at, nor lines and runs without a letter (rules of tables, closing brackets), so code,
    tables and poems with a refrain stay. Short texts repeat by chance and are left alone.
    """
    packed = "".join(text.split())
    if len(packed) < 2 * GRAM:
        return None
    character, count = Counter(packed).most_common(1)[0]
    if count > rules.max_character_share * len(packed):
        share = count / len(packed)
        return "dominant_character", f"{share:.0%} is {character!r}, max_character_share is {rules.max_character_share}"
    if (share := _line_share(text)) > rules.max_line_share:
        return "repeated_lines", f"{share:.0%} in lines that stood before, max_line_share is {rules.max_line_share}"
    if (share := _gram_share(packed)) > rules.max_gram_share:
        return "repeated_runs", f"{share:.0%} of runs stood before, max_gram_share is {rules.max_gram_share}"
    return None


def content_key(kind: RowKind, row: Mapping[str, Any]) -> bytes:
    """16 bytes that two rows share when they differ in nothing but case, width and white space."""
    if kind == "pretrain":
        return xxhash.xxh3_128_digest(_folded(row["text"]).encode("utf-8"))
    fields = [[(name, _folded(value or "")) for name, value in turn.items()] for turn in messages_of(kind, row)]
    sizes = [len(row[name]) for name in CONTENT[kind]]
    return xxhash.xxh3_128_digest(json.dumps([sizes, fields], ensure_ascii=False).encode("utf-8"))


_FTFY = ftfy.TextFixerConfig(
    unescape_html=False,
    remove_terminal_escapes=True,
    fix_encoding=True,
    fix_latin_ligatures=False,
    fix_character_width=False,
    uncurl_quotes=False,
    fix_line_breaks=False,
    fix_surrogates=False,
    remove_control_chars=False,
    normalization=None,
    explain=False,
)
_SUSPECT = re.compile("[\x80-\u200f\u2028-\u2fff\u3100-\u33ff\ua000-\uabff\ud7b0-\ufeff\ufff0-\U0001ffff]")
"""Every mojibake has one of these; CJK text and English with curly quotes have few, and ftfy is slow."""
_LINE_ENDS = re.compile("\r\n?|[\x85\u2028\u2029]")
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f\xad\u180e\u200b\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ufdd0-\ufdef\ufffe\uffff]"
)
_CJK = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
_LETTER = re.compile(r"[^\W\d_]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio times 2^64, odd: the usual multiplier for mixing bits."""
_ZLIB_WINDOW = 1 << 15
"""zlib sees no repetition from farther away."""


def _line_share(text: str) -> float:
    """The share of characters that are in lines which stood before, among lines with a letter."""
    lines = [line.strip() for line in text.split("\n") if _LETTER.search(line)]
    total = sum(map(len, lines))
    if len(lines) < 4:
        return 0.0
    return 1 - sum(map(len, set(lines))) / total


def _gram_share(packed: str) -> float:
    """The share of runs of GRAM characters that stood before; one hash a position, by doubling."""
    encoded = packed.encode("utf-8")
    if len(encoded) < _ZLIB_WINDOW and len(zlib.compress(encoded, 1)) > 0.4 * len(encoded):
        return 0.0  # what zlib cannot shorten does not repeat itself; ten times faster than counting
    hashes = np.frombuffer(packed.encode("utf-32-le"), np.uint32).astype(np.uint64)
    width = 1
    while width < GRAM:
        left, right = hashes[:-width], hashes[width:]
        hashes = (left * _FACTOR) ^ (left >> np.uint64(29)) ^ (right + np.uint64(width))
        width *= 2
    return 1 - len(np.unique(hashes)) / len(hashes)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


REPAIRS: dict[str, Callable[[str], str]] = {"unicode": repair_unicode, "control": strip_control}
FILTERS: dict[str, Callable[[str, CleanRules], tuple[str, str] | None]] = {
    "length": too_short_or_long,
    "repetition": repetitive,
}
