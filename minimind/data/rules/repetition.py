"""`repetition`: texts that say the same again and again, in characters, lines or runs of 32 characters.

White space is not looked at, nor lines without a letter (rules of tables, closing brackets), so code, tables and
poems with a refrain stay; short texts repeat by chance and are left alone. Numbers and bullets before a line do not
make it another line, but are new themselves, so a column of measurements stays. The dots of a table of contents are
one dot. Everything is counted in characters, not words, so it holds for scripts that write without spaces.

Counting exactly costs a sort a text. So bounds are worked out first for a whole batch, each on the safe side: a
kind of character is no rarer than any character in it; where runs of 32 repeat, runs of 8 do, and a hash table
that loses some can only make a text look worse; lines with the same sum of mixed characters are taken for equal.
Only the texts that a bound does not clear (one in a hundred) are counted.

Not here: rows that repeat other rows (`duplicates`), texts without sense (`gibberish`).
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import CharClass, kind_table, kinds_of
from minimind.data.rules.length import LETTERS
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Outcomes, Texts

GRAM = 32
"""Characters in a repeated run: some six English words, or a Chinese sentence."""
LEAST = 2 * GRAM
"""Visible characters below which a text is not judged: it repeats by chance."""
LEAST_LINES = 4
"""Lines with a letter below which lines are not compared."""
LEAST_SAID = 8
"""Visible characters from a line's first letter on, below which its number counts: "7. true" answers a question."""
LEADERS = ".…-_=·"
"""Characters that fill a line up to a page number or a field to write in."""
LEADER_RUN = 3
"""How many of one leader in a row say no more than one does."""
BLANK = (CharClass.SPACE, CharClass.NEWLINE, CharClass.HIDDEN)
_SHORT_GRAM = 8
"""Characters in the runs of the bound: a power of two, long enough that prose does not repeat them by chance."""
_TOGETHER = 1 << 15
"""Characters that are hashed together, so that all steps stay in the cache."""
_FACTORS = {1: np.uint32(0x9E3779B1), 2: np.uint32(0x85EBCA77), 4: np.uint32(0xC2B2AE3D)}
_SEED, _MIX = np.uint32(0x27D4EB2F), np.uint32(0x165667B1)
"""Odd numbers without a pattern: the primes of xxHash."""
_BYTES = 4
"""Of a code point in an array."""
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
        repeated = _repeated_in_lines(codes, kinds, seen, offsets[:-1] - offsets[0])
        suspect[some] |= repeated > least_repeated[some]
    return np.flatnonzero(suspect & (visible >= LEAST)).tolist()


def verdict(texts: Texts, i: int, settings: CleanRules) -> Dropped | None:
    """The exact judgement of one text."""
    codes = texts.codes[texts.offsets[i] : texts.offsets[i + 1]]
    packed = codes[_is_visible(kind_table()[codes])]
    if len(packed) < LEAST:
        return None
    lines = list(_lines(codes))
    # What is found with all dots must be found without most of them too: the bounds are those of the whole text.
    shorter = _without_leaders(packed) if _are_mostly_words(lines) else packed
    views = (packed, shorter) if LEAST <= len(shorter) < len(packed) else (packed,)
    share, limit = min(map(_character_share, views)), settings.max_character_share
    if share > limit:
        characters, counts = np.unique(views[-1], return_counts=True)
        character = repr(chr(characters[counts.argmax()]))
        return Dropped("dominant_character", f"{share:.0%} is {character}, max_character_share is {limit}")
    share, limit = _line_share(lines), settings.max_line_share
    if share > limit:
        return Dropped("repeated_lines", f"{share:.0%} in lines that stood before, max_line_share is {limit}")
    share, limit = min(map(_gram_share, views)), settings.max_gram_share
    if share > limit:
        return Dropped("repeated_runs", f"{share:.0%} of runs of {GRAM} stood before, max_gram_share is {limit}")
    return None


def _character_share(packed: npt.NDArray[np.uint32]) -> float:
    """The share of the most frequent character."""
    return int(np.unique(packed, return_counts=True)[1].max()) / len(packed)


def _without_leaders(packed: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """With one character for each run of a leader."""
    starts = np.flatnonzero(np.concatenate(([True], packed[1:] != packed[:-1])))
    sizes = np.diff(starts, append=len(packed))
    is_run = (sizes >= LEADER_RUN) & np.isin(packed[starts], [ord(char) for char in LEADERS])
    return np.repeat(packed[starts], np.where(is_run, 1, sizes))


def _lines(codes: npt.NDArray[np.uint32]) -> Iterator[tuple[bytes, bytes]]:
    """What is visible of each line that is not blank, and of that what stands from the first letter on."""
    is_visible = _is_visible(kind_table()[codes])
    letters = np.append(np.flatnonzero(_is_letter(kind_table()[codes])), len(codes))
    ends = np.append(np.flatnonzero(codes == ord("\n")), len(codes))
    begins = np.concatenate(([0], ends[:-1] + 1))
    firsts = np.minimum(letters[np.searchsorted(letters, begins)], ends)
    for begin, first, end in zip(begins.tolist(), firsts.tolist(), ends.tolist(), strict=True):
        if is_visible[begin:end].any():
            yield codes[begin:end][is_visible[begin:end]].tobytes(), codes[first:end][is_visible[first:end]].tobytes()


def _are_mostly_words(lines: list[tuple[bytes, bytes]]) -> bool:
    """Whether there are several lines, and most have a letter."""
    with_letter = sum(bool(said) for _, said in lines)
    return with_letter >= LEAST_LINES and with_letter > len(lines) / 2


def _line_share(lines: list[tuple[bytes, bytes]]) -> float:
    """The share of characters that are in lines which stood before, among lines with a letter.

    A line that stood before with another number counts from its first letter on.
    """
    wholes: set[bytes] = set()
    sayings: set[bytes] = set()
    count = total = repeated = 0
    for whole, said in lines:
        if not said:
            continue
        count, total = count + 1, total + len(whole)
        if whole in wholes:
            repeated += len(whole)
        elif said in sayings and len(said) >= LEAST_SAID * _BYTES:
            repeated += len(said)
        wholes.add(whole)
        sayings.add(said)
    return repeated / total if count >= LEAST_LINES else 0.0


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
    kinds: npt.NDArray[np.uint8],
    is_visible: npt.NDArray[np.bool_],
    offsets: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """At least as many as there are visible characters in lines that stood before, in each text.

    A line begins at a newline or where a text does; it is known by the sum of its mixed characters from its first
    letter on. Of lines known by the same sum, what stands before the letter counts for all of them: some may be
    the same as a whole. `offsets` are the texts' beginnings in `codes`.
    """
    is_start = kinds == kinds_of(CharClass.NEWLINE).start
    is_start[offsets[offsets < len(codes)]] = True
    starts = np.flatnonzero(is_start)
    letters = np.flatnonzero(_is_letter(kinds))
    if not len(letters):
        return np.zeros(len(offsets), np.int64)
    ends = np.append(starts[1:], len(codes))
    firsts = letters.take(np.searchsorted(letters, starts), mode="clip")
    has_letter = (firsts >= starts) & (firsts < ends)
    cuts = np.stack((starts, np.where(has_letter, firsts, ends - 1)), axis=1).ravel()
    mixed = codes * _MIX
    mixed ^= mixed >> np.uint32(15)
    mixed *= is_visible
    keys = np.add.reduceat(mixed, cuts, dtype=np.uint32)[1::2][has_letter].astype(np.uint64)
    before, said = np.add.reduceat(is_visible.view(np.uint8), cuts, dtype=np.uint32).reshape(-1, 2)[has_letter].T
    before = before * (firsts > starts)[has_letter]  # where nothing stands before, the sum is of one character
    of_text = np.searchsorted(offsets, starts[has_letter], "right") - 1
    keys |= of_text.astype(np.uint64) << np.uint64(32)
    order = keys.argsort()
    is_again = keys[order[1:]] == keys[order[:-1]]
    again, same = order[1:][is_again], order[:-1][is_again]
    repeated = np.bincount(of_text[again], said[again] + before[again], len(offsets))
    return (repeated + np.bincount(of_text[same], before[same], len(offsets))).astype(np.int64)


def _is_visible(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which characters are no white space: the kinds of BLANK stand side by side."""
    first, last = kinds_of(BLANK[0]).start, kinds_of(BLANK[-1]).stop
    return kinds - np.uint8(first) >= np.uint8(last - first)


def _is_letter(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which characters are letters: their kinds stand side by side too."""
    first, last = kinds_of(min(LETTERS)).start, kinds_of(max(LETTERS)).stop
    return kinds - np.uint8(first) < np.uint8(last - first)
