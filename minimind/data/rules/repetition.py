"""`repetition`: texts that say the same again and again, in characters, lines or runs of 32 characters.

White space is not looked at, nor lines without a letter (rules of tables, closing brackets), so code, tables and
poems with a refrain stay; short texts repeat by chance and are left alone. Everything is counted in characters,
not words, so it holds for scripts that write without spaces.

Counting exactly costs a sort a text. So bounds are worked out first for a whole batch, each on the safe side: a
kind of character is no rarer than any character in it; where runs of 32 repeat, runs of 8 do, and a hash table
that loses some can only make a text look worse; lines with the same sum of mixed characters are taken for equal.
Only the texts that a bound does not clear (one in a hundred) are counted.

Not here: rows that repeat other rows (`duplicates`), texts without sense (`gibberish`).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import CharClass, class_table, kind_table, kinds_of
from minimind.data.rules.length import LETTERS
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Outcomes, Texts

GRAM = 32
"""Characters in a repeated run: some six English words, or a Chinese sentence."""
LEAST = 2 * GRAM
"""Visible characters below which a text is not judged: it repeats by chance."""
LEAST_LINES = 4
"""Lines with a letter below which lines are not compared."""
BLANK = (CharClass.SPACE, CharClass.NEWLINE, CharClass.HIDDEN)
_SHORT_GRAM = 8
"""Characters in the runs of the bound: a power of two, long enough that prose does not repeat them by chance."""
_TOGETHER = 1 << 15
"""Characters that are hashed together, so that all steps stay in the cache."""
_FACTORS = {1: np.uint32(0x9E3779B1), 2: np.uint32(0x85EBCA77), 4: np.uint32(0xC2B2AE3D)}
_SEED, _MIX = np.uint32(0x27D4EB2F), np.uint32(0x165667B1)
"""Odd numbers without a pattern: the primes of xxHash."""
_ROUNDING = 0.999
"""Keeps the bounds on the safe side where shares are equal but for rounding."""
_WIDE = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio times 2^64, odd: the usual multiplier for mixing bits."""


def find_repetition(texts: Texts, settings: CleanRules) -> Outcomes:
    """The texts that repeat themselves beyond a limit of the settings."""
    found = {i: verdict(texts, i, settings) for i in suspects(texts, settings)}
    return {i: dropped for i, dropped in found.items() if dropped is not None}


def suspects(texts: Texts, settings: CleanRules) -> list[int]:
    """The texts that no bound clears; `verdict` would keep all others."""
    visible, letters = texts.lengths - texts.count(*BLANK), texts.count(*LETTERS)
    kinds = texts.histogram.copy()
    kinds[:, kinds_of(BLANK[0]).start : kinds_of(BLANK[-1]).stop] = 0
    suspect = kinds.max(axis=1) > _ROUNDING * settings.max_character_share * visible
    # Different runs of 8 are at most as many as those of 32, and those that begin in the last 31 characters.
    needed = (1 - settings.max_gram_share) * np.maximum(0, visible - GRAM + 1) + GRAM - 1
    least_repeated = _ROUNDING * settings.max_line_share * letters
    for first, last in _slices(texts):
        some, offsets = slice(first, last), texts.offsets[first : last + 1]
        codes, kinds = texts.codes[offsets[0] : offsets[-1]], texts.kinds[offsets[0] : offsets[-1]]
        seen = _is_visible(kinds)
        packed = codes.take(np.flatnonzero(seen))
        suspect[some] |= _different_runs(packed, visible[some]) <= needed[some]
        is_start = kinds == kinds_of(CharClass.NEWLINE).start
        repeated = _repeated_in_lines(codes, seen, is_start, offsets[:-1] - offsets[0])
        suspect[some] |= repeated > least_repeated[some]
    return np.flatnonzero(suspect & (visible >= LEAST)).tolist()


def verdict(texts: Texts, i: int, settings: CleanRules) -> Dropped | None:
    """The exact judgement of one text."""
    codes = texts.codes[texts.offsets[i] : texts.offsets[i + 1]]
    packed = codes[_is_visible(kind_table()[codes])]
    if len(packed) < LEAST:
        return None
    characters, counts = np.unique(packed, return_counts=True)
    share, limit = counts.max() / len(packed), settings.max_character_share
    if share > limit:
        character = repr(chr(characters[counts.argmax()]))
        return Dropped("dominant_character", f"{share:.0%} is {character}, max_character_share is {limit}")
    share, limit = _line_share(codes), settings.max_line_share
    if share > limit:
        return Dropped("repeated_lines", f"{share:.0%} in lines that stood before, max_line_share is {limit}")
    share, limit = _gram_share(packed), settings.max_gram_share
    if share > limit:
        return Dropped("repeated_runs", f"{share:.0%} of runs of {GRAM} stood before, max_gram_share is {limit}")
    return None


def _line_share(codes: npt.NDArray[np.uint32]) -> float:
    """The share of characters that are in lines which stood before, among lines with a letter."""
    is_visible = _is_visible(kind_table()[codes])
    letters = np.isin(class_table()[codes], LETTERS).cumsum()
    ends = [*np.flatnonzero(codes == ord("\n")).tolist(), len(codes) - 1]
    lines: list[bytes] = []
    begin, before = 0, 0
    for end in ends:
        if letters[end] > before:
            lines.append(codes[begin : end + 1][is_visible[begin : end + 1]].tobytes())
        begin, before = end + 1, letters[end]
    if len(lines) < LEAST_LINES:
        return 0.0
    return 1 - sum(map(len, set(lines))) / sum(map(len, lines))


def _gram_share(packed: npt.NDArray[np.uint32]) -> float:
    """The share of runs of GRAM characters that stood before; one hash of 64 bits a position, by doubling."""
    hashes = packed.astype(np.uint64)
    width = 1
    while width < GRAM:
        left, right = hashes[:-width], hashes[width:]
        hashes = (left * _WIDE) ^ (left >> np.uint64(29)) ^ (right + np.uint64(width))
        width *= 2
    hashes.sort()
    return np.count_nonzero(hashes[1:] == hashes[:-1]) / len(hashes)


def _slices(texts: Texts) -> Iterator[tuple[int, int]]:
    """Neighbouring texts of _TOGETHER characters, or one longer text."""
    first = 0
    while first < len(texts):
        last = int(np.searchsorted(texts.offsets, texts.offsets[first] + _TOGETHER, "right")) - 1
        last = min(max(last, first + 1), len(texts))
        yield first, last
        first = last


def _different_runs(packed: npt.NDArray[np.uint32], visible: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At most as many as there are different runs of _SHORT_GRAM visible characters that begin in each text.

    Each position writes its number into a table where its hash says; the last writer of each place counts. The
    few runs that go on into the next text may count too: they are part of what `needed` allows.
    """
    padded = np.concatenate((packed, np.zeros(_SHORT_GRAM - 1, np.uint32)))
    for width, factor in _FACTORS.items():
        padded = padded[:-width] * factor + padded[width:]
    padded ^= np.repeat(np.arange(len(visible), dtype=np.uint32) * _SEED, visible)  # texts do not share runs
    bits = (2 * len(padded)).bit_length()  # two to four places a run: 79 to 88 % of different runs find their own
    places = ((padded * _MIX) >> np.uint32(32 - bits)).astype(np.int64)
    numbers = np.arange(len(places), dtype=np.uint16 if len(places) <= 1 << 16 else np.uint32)
    table = np.empty(1 << bits, numbers.dtype)
    table[places] = numbers
    won = table.take(places) == numbers
    sums = np.zeros(len(visible), np.int64)
    full = np.flatnonzero(visible)
    if len(full):
        begins = visible.cumsum()[full] - visible[full]
        sums[full] = np.add.reduceat(won.view(np.uint8), begins, dtype=np.int64)
    return sums


def _repeated_in_lines(
    codes: npt.NDArray[np.uint32],
    is_visible: npt.NDArray[np.bool_],
    is_start: npt.NDArray[np.bool_],
    offsets: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """At least as many as there are visible characters in lines that stood before, in each text.

    A line begins at a newline, where `is_start` is true, or where a text does; it is known by the sum of its mixed
    characters. `offsets` are the texts' beginnings in `codes`.
    """
    is_start[offsets[offsets < len(codes)]] = True
    starts = np.flatnonzero(is_start)
    if not len(starts):
        return np.zeros(len(offsets), np.int64)
    mixed = codes * _MIX
    mixed ^= mixed >> np.uint32(15)
    mixed *= is_visible
    keys = np.add.reduceat(mixed, starts, dtype=np.uint32).astype(np.uint64)
    sizes = np.add.reduceat(is_visible, starts, dtype=np.int64)
    of_text = np.searchsorted(offsets, starts, "right") - 1
    keys |= of_text.astype(np.uint64) << np.uint64(32)
    order = keys.argsort()
    keys = keys[order]
    again = order[1:][keys[1:] == keys[:-1]]
    return np.bincount(of_text[again], sizes[again], len(offsets)).astype(np.int64)


def _is_visible(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which characters are no white space: the kinds of BLANK stand side by side."""
    first, last = kinds_of(BLANK[0]).start, kinds_of(BLANK[-1]).stop
    return kinds - np.uint8(first) >= np.uint8(last - first)
