"""Pieces of texts, as numbers: what two texts must share to hold the same words, however they are set.

Letters and digits are all that counts: case, width, spaces and punctuation are folded away. Pieces are runs of 4
letters from each Chinese, Japanese or Korean character on, and of 16 from the beginning of each other word: about as
rare as one another, and short enough that a word changed leaves most of them.

Not here: whose pieces are looked for (`evaluation_index`). A piece is 32 bits; who needs to be sure reads the text.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from minimind.data.deduplication.folding import blocks, fold_table
from minimind.data.rules.texts import Texts

BLOCK = 1 << 16
"""Characters looked at together: their arrays, 0.25 MB each, stay in a core's cache."""
CJK_PIECE, WORD_PIECE = 4, 16
FIRST_CJK = 0x2E80
"""Code points from here on are of scripts that write without spaces."""


@dataclass(frozen=True)
class Pieces:
    """Pieces of some texts: what each is, whose, and how many letters stand before it."""

    hashes: npt.NDArray[np.uint32]
    owners: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]


def letters_of(text: str) -> str:
    """`text` folded to letters and digits."""
    codes = letter_table()[Texts([text]).codes]
    return codes[codes != 0].tobytes().decode("utf-32-le")


def pieces_of(texts: Texts, may_be: npt.NDArray[np.bool_] | None = None) -> Pieces:
    """The pieces of all texts; with `may_be` those that may be in that index."""
    found = [_pieces_of_block(texts, first, last, may_be) for first, last in blocks(texts.offsets, BLOCK)]
    if not found:
        return Pieces(np.zeros(0, np.uint32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Pieces(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def first_bits(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Where in `may_be` a piece is looked up first: 20 bits."""
    return (hashes * np.uint32(0x9E3779B1)) >> np.uint32(12)


def last_bits(hashes: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Where it is looked up next, if it was found there: 20 other bits."""
    return hashes & np.uint32((1 << 20) - 1)


@cache
def letter_table() -> npt.NDArray[np.uint32]:
    """What becomes of each code point: a folded letter or digit, or 0."""
    table = fold_table() & _LETTER_BITS
    table[[code for code in range(0x32000) if not chr(table[code]).isalnum()]] = 0
    table[0x32000:] = 0
    table.setflags(write=False)
    return table


_FACTOR = np.uint32(0x01000193 | 0x2C000000)
"""Odd, so that no character is lost; hash of n characters times factor**m plus hash of m is that of n + m."""


def _power(exponent: int) -> np.uint32:
    return np.uint32(pow(int(_FACTOR), exponent, 1 << 32))


def _pieces_of_block(
    texts: Texts, first: int, last: int, may_be: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Hashes, owners and places of the pieces of some texts; a piece never reaches into the next text."""
    begin, end = texts.offsets[first], texts.offsets[last]
    folded = letter_table().take(texts.codes[begin:end], mode="clip")
    kept = folded != 0
    gaps = np.logical_not(kept).astype(np.uint32)
    gaps <<= np.uint32(31)
    folded[1:] |= gaps[:-1]  # the top bit: no letter before it, so a word begins
    offsets = texts.offsets[first : last + 1] - begin
    folded[offsets[:-1][offsets[:-1] < len(folded)]] |= ~_LETTER_BITS
    letters = np.compress(kept, folded)
    is_start = letters > _LETTER_BITS
    letters &= _LETTER_BITS
    is_cjk = letters >= FIRST_CJK
    words = np.flatnonzero(is_start & ~is_cjk)
    runs = np.flatnonzero(is_cjk[: 1 - CJK_PIECE])
    pair = letters[:-1] * _power(1)
    pair += letters[1:]
    four = pair[:-2] * _power(2)
    four += pair[2:]
    eight = four[:-4] * _power(4)
    eight += four[4:]
    words = words[words + WORD_PIECE <= len(letters)]
    short, runs = _chosen(four.take(runs), runs, may_be)
    long, words = _chosen(eight.take(words) * _power(8) + eight.take(words + 8), words, may_be)
    hashes, places = np.concatenate((short, long)), np.concatenate((runs, words))
    lengths = np.concatenate((np.full(len(runs), CJK_PIECE), np.full(len(words), WORD_PIECE)))
    before = _counts_before(kept, offsets)
    owners = np.searchsorted(before, places, side="right") - 1
    inside = places + lengths <= before[owners + 1]
    owners, places = owners[inside], places[inside]
    return hashes[inside], owners + first, places - before[owners]


def _chosen(
    hashes: npt.NDArray[np.uint32], places: npt.NDArray[np.int64], may_be: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Of some pieces those that may be in the index; all of them where there is none."""
    if may_be is None:
        return hashes, places
    found = np.flatnonzero(may_be[0].take(first_bits(hashes), mode="clip"))
    found = found[may_be[1].take(last_bits(hashes[found]), mode="clip")]
    return hashes[found], places[found]


_LETTER_BITS = np.uint32((1 << 31) - 1)


def _counts_before(kept: npt.NDArray[np.bool_], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many are kept before each offset."""
    before = np.zeros(len(offsets), np.int64)
    filled = np.flatnonzero(offsets[1:] > offsets[:-1])
    if len(filled):
        before[filled + 1] = np.add.reduceat(kept, offsets[filled], dtype=np.int64)
    return np.cumsum(before)
