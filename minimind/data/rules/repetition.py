"""`repetition`: texts that say the same again and again, in characters, lines or runs of 32 characters.

White space is not looked at, nor lines without a letter (rules of tables, closing brackets), so code, tables and
poems with a refrain stay; short texts repeat by chance and are left alone. Numbers and bullets before a line do not
make it another line, but are new themselves, so a column of measurements stays. The dots of a table of contents are
one dot. Everything is counted in characters, not words, so it holds for scripts that write without spaces.

Counting exactly costs a sort a text. So bounds are worked out first for a whole batch (`repetition_bounds`), each on
the safe side; only the texts that they do not clear (one in a hundred) are counted, and only what is in doubt.

Not here: rows that repeat other rows (`duplicates`), texts without sense (`gibberish`).
"""

from collections.abc import Callable, Collection
from functools import cached_property

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import kinds_of
from minimind.data.rules.length import LETTERS
from minimind.data.rules.repetition_bounds import CHECKS, GRAM, LEAST, Check, are_visible, suspects
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Outcomes, Texts

LEAST_LINES = 4
"""Lines with a letter below which lines are not compared."""
LEAST_SAID = 8
"""Visible characters from a line's first letter on, below which its number counts: "7. true" answers a question."""
LEADERS = ".…-_=·"
"""Characters that fill a line up to a page number or a field to write in."""
LEADER_RUN = 3
"""How many of one leader in a row say no more than one does."""
_BYTES = 4
"""Of a code point in an array."""
_WIDE = np.uint64(0x9E3779B97F4A7C15)
"""The golden ratio times 2^64, odd: the usual multiplier for mixing bits."""


def find_repetition(texts: Texts, settings: CleanRules) -> Outcomes:
    """The texts that repeat themselves beyond a limit of the settings."""
    found = {i: verdict(texts, i, settings, checks) for i, checks in suspects(texts, settings).items()}
    return {i: dropped for i, dropped in found.items() if dropped is not None}


def verdict(texts: Texts, i: int, settings: CleanRules, checks: Collection[Check] = CHECKS) -> Dropped | None:
    """The exact judgement of one text, of all or some of what it may repeat."""
    span = slice(texts.offsets[i], texts.offsets[i + 1])
    text = _Text(texts.codes[span], texts.kinds[span])
    if len(text.packed) < LEAST:
        return None
    if "character" in checks:
        limit = settings.max_character_share
        if (share := text.least(_character_share, limit)) > limit:
            characters, counts = np.unique(text.shorter, return_counts=True)
            character = repr(chr(characters[counts.argmax()]))
            return Dropped("dominant_character", f"{share:.0%} is {character}, max_character_share is {limit}")
    if "lines" in checks:
        limit = settings.max_line_share
        if (share := _line_share(text.lines)) > limit:
            return Dropped("repeated_lines", f"{share:.0%} in lines that stood before, max_line_share is {limit}")
    if "runs" in checks:
        limit = settings.max_gram_share
        if (share := text.least(_gram_share, limit)) > limit:
            return Dropped("repeated_runs", f"{share:.0%} of runs of {GRAM} stood before, max_gram_share is {limit}")
    return None


class _Text:
    """One text, and what is counted of it, each worked out when it is asked for."""

    def __init__(self, codes: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8]) -> None:
        self._codes, self._kinds, self._are_visible = codes, kinds, are_visible(kinds)
        self.packed = codes[self._are_visible]

    @cached_property
    def shorter(self) -> npt.NDArray[np.uint32]:
        """With one character for each run of a leader, where leaders fill up lines and enough is left to judge."""
        if not self._is_mostly_words():
            return self.packed
        starts = np.flatnonzero(np.concatenate(([True], self.packed[1:] != self.packed[:-1])))
        sizes = np.diff(starts, append=len(self.packed))
        is_run = (sizes >= LEADER_RUN) & np.isin(self.packed[starts], [ord(char) for char in LEADERS])
        shorter = np.repeat(self.packed[starts], np.where(is_run, 1, sizes))
        return shorter if len(shorter) >= LEAST else self.packed

    @cached_property
    def lines(self) -> list[tuple[bytes, bytes]]:
        """What is visible of each line that is not blank, and of that what stands from the first letter on."""
        before = np.concatenate(([0], self._are_visible.cumsum() * _BYTES))
        letters = np.append(np.flatnonzero(_are_letters(self._kinds)), len(self._codes))
        ends = np.append(np.flatnonzero(self._codes == ord("\n")), len(self._codes))
        begins = np.concatenate(([0], ends[:-1] + 1))
        firsts = np.minimum(letters[np.searchsorted(letters, begins)], ends)
        cuts = zip(before[begins].tolist(), before[firsts].tolist(), before[ends].tolist(), strict=True)
        packed = self.packed.tobytes()
        return [(packed[begin:end], packed[first:end]) for begin, first, end in cuts if begin < end]

    def least(self, share: Callable[[npt.NDArray[np.uint32]], float], limit: float) -> float:
        """What is found with all dots must be found without most of them too."""
        found = share(self.packed)
        return min(found, share(self.shorter)) if found > limit and self.shorter is not self.packed else found

    def _is_mostly_words(self) -> bool:
        """Whether there are several lines, and most have a letter."""
        with_letter = sum(bool(said) for _, said in self.lines)
        return with_letter >= LEAST_LINES and with_letter > len(self.lines) / 2


def _character_share(packed: npt.NDArray[np.uint32]) -> float:
    """The share of the most frequent character."""
    return int(np.unique(packed, return_counts=True)[1].max()) / len(packed)


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


def _are_letters(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which characters are letters: their kinds stand side by side."""
    first, last = kinds_of(min(LETTERS)).start, kinds_of(max(LETTERS)).stop
    return kinds - np.uint8(first) < np.uint8(last - first)
