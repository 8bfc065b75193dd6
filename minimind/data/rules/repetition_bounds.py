"""Bounds of how much texts repeat: what clears nearly all of a batch without counting any of it exactly.

Each bound is on the safe side: it may call a clean text a suspect, never the other way round. All work on kinds of
visible characters, a byte each (`characters`), where equal runs and lines stay equal:

- Characters: no character is more frequent than its kind.
- Lines: those that are the same, whole or from their first letter on, have the same last 8 characters.
- Runs: one kind in eight is an anchor. A run of 32 is known by the last anchor in it: by the 8 characters that end
  there, and how far behind them the run ends. So an anchor whose 8 characters are new stands for as many different
  runs as there are characters up to the next anchor, and only anchors are looked at.

What is the same is told by a hash table that forgets: a place keeps the first key that came, and others that fall
there are taken for repeated.

Not here: counting the suspects exactly (`repetition`).
"""

from itertools import compress
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from minimind.data.deduplication.folding import blocks
from minimind.data.rules.characters import CharClass, kinds_of
from minimind.data.rules.length import LETTERS
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Texts

GRAM = 32
"""Characters in a repeated run: some six English words, or a Chinese sentence."""
LEAST = 2 * GRAM
"""Visible characters below which a text is not judged: it repeats by chance."""
BLANK = (CharClass.SPACE, CharClass.NEWLINE, CharClass.HIDDEN)
Check = Literal["character", "lines", "runs"]
CHECKS: tuple[Check, ...] = get_args(Check)
"""What a text may repeat, in the order in which it is judged."""
_WINDOW = 8
"""Characters by which runs and lines are told apart: as many kinds as there are bytes in a word."""
_REACH = GRAM - _WINDOW + 1
"""Runs of GRAM that have an anchor's window within: at most as many does an anchor stand for."""
_EVERY, _ANCHOR = 8, 0
"""One kind in eight is an anchor, so every class with many kinds has one: about one character in eight."""
_TOGETHER = 1 << 17
"""Characters looked at together, so that all steps stay in the cache."""
_SPARSE, _LEAST_BITS = 8, 16
"""Places in the hash table for each key, and the least there are (a power of two): 94 % of new keys find their own."""
_ROUNDING = 0.999
"""Keeps the bounds on the safe side where shares are equal but for rounding."""
_SALT, _MIX = np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x9E3779B97F4A7C15)
"""Odd numbers without a pattern: a prime of xxHash, and the golden ratio."""


def suspects(texts: Texts, settings: CleanRules) -> dict[int, list[Check]]:
    """The texts that no bound clears, and what they may repeat too much of."""
    visible, letters = texts.lengths - texts.count(*BLANK), texts.count(*LETTERS)
    in_doubt = np.empty((len(texts), len(CHECKS)), np.bool_)
    in_doubt[:, 0] = _most_of_a_kind(texts) > _ROUNDING * settings.max_character_share * visible
    most_repeated = _ROUNDING * settings.max_line_share * letters
    # Besides runs of the text, those that end in its first 31 characters are counted: they begin before it.
    least_different = (1 - settings.max_gram_share) * (visible - GRAM + 1) + GRAM - 1
    kinds = texts.kinds.tobytes()
    for first, last in blocks(texts.offsets, _TOGETHER):
        some = slice(first, last)
        packed = _Packed(kinds[texts.offsets[first] : texts.offsets[last]], visible[some])
        in_doubt[some, 1] = packed.repeated_in_lines() > most_repeated[some]
        in_doubt[some, 2] = _ROUNDING * packed.different_runs() <= least_different[some]
    in_doubt[visible < LEAST] = False
    return {i: list(compress(CHECKS, in_doubt[i])) for i in np.flatnonzero(in_doubt.any(axis=1)).tolist()}


def are_visible(kinds: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which characters are no white space."""
    blank = _blank_kinds()
    return kinds - np.uint8(blank.start) >= np.uint8(blank.stop - blank.start)


class _Packed:
    """The visible characters of some texts without what is between: their kinds end to end, and where lines end."""

    def __init__(self, kinds: bytes, visible: npt.NDArray[np.int64]) -> None:
        newline, blank = kinds_of(CharClass.NEWLINE).start, _blank_kinds()
        lined = kinds.translate(None, bytes({*range(blank.start, blank.stop)} - {newline}))
        packed = lined.replace(bytes([newline]), b"")
        newlines = np.flatnonzero(np.frombuffer(lined, np.uint8) == newline)
        self.kinds = np.frombuffer(packed, np.uint8)
        self.bounds = np.concatenate((np.zeros(1, np.int64), visible.cumsum()))
        self.line_ends = np.sort(np.concatenate((newlines - np.arange(len(newlines)), self.bounds[1:])), kind="stable")
        padded = bytes(_WINDOW) + packed
        self.windows = np.ndarray(len(packed) + 1, "<u8", padded, strides=(1,))
        """By place: the kinds of the 8 characters before it."""

    def repeated_in_lines(self) -> npt.NDArray[np.int64]:
        """At least as many as there are characters in lines that stood before, in each text."""
        sizes = np.diff(self.line_ends, prepend=0)
        ends, sizes = self.line_ends[sizes > 0], sizes[sizes > 0]
        counts = np.diff(np.searchsorted(ends, self.bounds, "right"))
        used = np.minimum(sizes, _WINDOW).astype(np.uint64)
        keys = self.windows[ends] >> (np.uint64(8) * (np.uint64(_WINDOW) - used))
        return _sums(_come_again(keys + used, counts), sizes, counts)

    def different_runs(self) -> npt.NDArray[np.int64]:
        """At most as many as there are different runs of GRAM characters that end in each text."""
        ends = np.flatnonzero(self.kinds & (_EVERY - 1) == _ANCHOR) + 1
        cuts = np.searchsorted(ends, self.bounds, "right")
        counts, filled = np.diff(cuts), cuts[1:] > cuts[:-1]
        firsts, lasts = cuts[:-1][filled], cuts[1:][filled] - 1
        runs = np.diff(ends, append=0)
        runs[lasts] = self.bounds[1:][filled] - ends[lasts] + 1
        np.minimum(runs, _REACH, out=runs)
        different = np.zeros(len(counts), np.int64)
        if len(runs):
            different[filled] = np.add.reduceat(runs, firsts)
        return different - _sums(_come_again(self.windows[ends], counts), runs, counts)


def _come_again(keys: npt.NDArray[np.uint64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The places of keys that came before in their text, and of a few others; `counts` are the keys of each text."""
    salted = np.repeat(np.arange(len(counts), dtype=np.uint64) * _SALT, counts)
    salted ^= keys
    salted *= _MIX
    bits = max(_LEAST_BITS, (_SPARSE * len(keys)).bit_length())
    salted >>= np.uint64(64 - bits)
    places = salted.view(np.int64)
    numbers = np.arange(len(keys), dtype=np.uint16 if len(keys) <= 1 << 16 else np.uint32)
    table = np.empty(1 << bits, numbers.dtype)
    table[places[::-1]] = numbers[::-1]
    return np.flatnonzero(table[places] != numbers)


def _sums(
    places: npt.NDArray[np.int64], values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """The values at some places, added up by text."""
    of_text = np.searchsorted(counts.cumsum(), places, "right")
    return np.bincount(of_text, values[places], len(counts)).astype(np.int64)


def _most_of_a_kind(texts: Texts) -> npt.NDArray[np.int32]:
    """How often the most frequent kind of visible character stands in each text."""
    blank, counts = _blank_kinds(), texts.histogram
    return np.maximum(counts[:, : blank.start].max(axis=1), counts[:, blank.stop :].max(axis=1))


def _blank_kinds() -> slice:
    """The kinds of BLANK, which stand side by side."""
    return slice(kinds_of(BLANK[0]).start, kinds_of(BLANK[-1]).stop)
