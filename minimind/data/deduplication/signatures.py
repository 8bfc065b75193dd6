"""Signatures: 64 numbers by which two texts are guessed to be near duplicates, without comparing them.

A text is its set of shingles, all runs of 5 folded characters (a shorter text is one shingle). One-permutation
MinHash (Li, Owen, Zhang 2012): a shingle's hash names one of 64 bins, and each bin keeps its least hash; the
share of bins in which two texts agree estimates the Jaccard similarity of their sets. Every shingle is hashed
once, not 64 times. A bin no shingle fell into borrows from another one by a sequence that is the same for all
texts (Shrivastava 2017), so that short texts agree in as many bins as they should.

`band_keys` turns agreement into equality: two texts that agree in all bins of a band have equal keys there. b bands
of r bins find a pair of similarity s with a chance of 1 - (1 - s^r)^b. `bands` takes the longest for which that is
99.5 % at the threshold, since longer ones bring fewer strangers together: at .8 that is 16 bands of 5, .998 at .8,
.16 at .4 and 2e-4 at .1, which is what unrelated texts of a language share. The last bands take bins of the first
ones again, in another order: a quarter more bands from the same bins.

Not here: grouping equal keys (`groups`), and comparing the texts a key brings together (`similarity`).
"""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from minimind.data.deduplication.folding import Folded, blocks

SHINGLE = 5
"""Characters: about an English word, two or three Chinese ones."""
BINS = 64
CHANCE = 0.995
"""Of two texts at the threshold to agree in a band."""
_BANDED = 80
"""Bins in all bands together, some twice."""
_BIN_BITS = 6
_EMPTY = np.uint32(0xFFFFFFFF)
_BLOCK = 1 << 16
"""Characters hashed at a time: codes, hashes and bins of a block (1 MB) stay in a core's cache."""
_SALTS = {
    np.uint32: (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D),
    np.uint64: (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9),
}
"""Odd numbers of xxHash; each spreads 21 bits of a code point over the word."""


def signatures(folded: Folded) -> npt.NDArray[np.uint32]:
    """The signature of each text: (len, BINS). A text without characters has all bits set."""
    found = np.full((len(folded), BINS), _EMPTY, np.uint32)
    for first, last in blocks(folded.offsets, _BLOCK):
        _fill_bins(found[first:last], folded, first, last)
    _borrow(found)
    return found


def bands(threshold: float) -> tuple[tuple[int, ...], ...]:
    """The bins of each band, for pairs of a similarity of `threshold` (below .35 some are missed) and more."""
    length = next((r for r in range(8, 2, -1) if 1 - (1 - threshold**r) ** (_BANDED // r) >= CHANCE), 2)
    own = BINS // length
    apart = [step * own + band for band in range(own) for step in range(length)]
    order = [*range(BINS), *apart][: _BANDED // length * length]
    return tuple(tuple(order[at : at + length]) for at in range(0, len(order), length))


def band_keys(found: npt.NDArray[np.uint32], bands: Sequence[Sequence[int]]) -> Iterator[npt.NDArray[np.uint64]]:
    """Band by band a key for each text. Equal keys: the texts agree in all bins of the band."""
    bins = np.ascontiguousarray(found.T)
    salt, mixer = (np.uint64(number) for number in _SALTS[np.uint64][:2])
    for band in bands:
        keys = np.zeros(len(found), np.uint64)
        for position in band:
            keys ^= bins[position]
            keys *= salt
            keys ^= keys >> np.uint64(29)
        keys *= mixer
        keys ^= keys >> np.uint64(32)
        yield keys


def shingle_sets(folded: Folded) -> list[npt.NDArray[np.uint64]]:
    """The shingles of each text as 64-bit hashes, sorted, each once."""
    sets: list[npt.NDArray[np.uint64]] = []
    for first, last in blocks(folded.offsets, _BLOCK):
        offsets = folded.offsets[first : last + 1] - folded.offsets[first]
        codes = folded.codes[folded.offsets[first] : folded.offsets[last]]
        hashes, ends = _hashes_of_texts(Folded(codes, offsets))
        for begin, end in zip(offsets.tolist(), ends.tolist(), strict=False):
            hashes[begin:end].sort()
        wanted = np.ones(len(codes), np.bool_)
        np.not_equal(hashes[1:], hashes[:-1], out=wanted[1:])
        wanted[offsets[:-1][ends > offsets[:-1]]] = True
        over = ends[:, None] + np.arange(SHINGLE - 1)
        wanted[over[over < offsets[1:, None]]] = False
        borders = np.concatenate(([0], np.cumsum(wanted)))[offsets].tolist()
        hashes = hashes[wanted]
        sets += [hashes[begin:end] for begin, end in zip(borders, borders[1:], strict=False)]
    return sets


def _hashes_of_texts(block: Folded) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """The hashes of all shingles, those of a text from its offset on, and where they end (behind it are others)."""
    lengths, begins = np.diff(block.offsets), block.offsets[:-1]
    hashes = np.empty(len(block.codes), np.uint64)
    if len(hashes) >= SHINGLE:
        hashes[: 1 - SHINGLE] = hash_shingles(block.codes, np.uint64)
    short = np.flatnonzero((lengths < SHINGLE) & (lengths > 0))
    if len(short):
        hashes[begins[short]] = _short_hashes(block, np.uint64)[short]
    return hashes, begins + np.maximum(lengths - (SHINGLE - 1), np.minimum(lengths, 1))


def hash_shingles(codes: npt.NDArray[np.uint32], word: type[np.uint32 | np.uint64]) -> npt.NDArray[np.unsignedinteger]:
    """The hash of the 5 codes from each position on, over the borders of texts too; pairs and fours are shared."""
    one, two, three = (word(salt) for salt in _SALTS[word])
    codes = codes.astype(word, copy=False)
    pairs = codes[:-1] * one
    pairs += codes[1:]
    fours = pairs[:-2] * two
    fours ^= pairs[2:]
    hashes = fours[:-1] * three
    hashes ^= codes[4:]
    return _mix(hashes, word)


def _fill_bins(found: npt.NDArray[np.uint32], folded: Folded, first: int, last: int) -> None:
    """Put the least hash of each bin into `found`, for one block of texts."""
    offsets = folded.offsets[first : last + 1] - folded.offsets[first]
    codes = folded.codes[folded.offsets[first] : folded.offsets[last]]
    lengths = np.diff(offsets)
    if (lengths < SHINGLE).any():
        block = Folded(codes, offsets)
        short = np.flatnonzero((lengths < SHINGLE) & (lengths > 0))
        hashes = _short_hashes(block, np.uint32)[short]
        found[short, hashes >> np.uint32(32 - _BIN_BITS)] = hashes
    if len(codes) < SHINGLE:
        return
    hashes = hash_shingles(codes, np.uint32)
    # Runs over the border of two texts are no shingles: the greatest number is never a minimum.
    over = (offsets[1:, None] - np.arange(1, SHINGLE)).ravel()
    hashes[over[(over >= 0) & (over < len(hashes))]] = _EMPTY
    bins = np.repeat(np.arange(last - first) * BINS, lengths)[: len(hashes)]
    bins += hashes >> np.uint32(32 - _BIN_BITS)
    np.minimum.at(found.reshape(-1), bins, hashes)


def _short_hashes(folded: Folded, word: type[np.uint32 | np.uint64]) -> npt.NDArray[np.unsignedinteger]:
    """The hash of the first 5 codes of each text, zeros where it has fewer."""
    places = folded.offsets[:-1, None] + np.arange(SHINGLE)
    there = places < folded.offsets[1:, None]
    codes = np.zeros(places.shape, np.uint32)
    codes[there] = folded.codes[places[there]]
    hashes = hash_shingles(codes.reshape(-1), word) if len(codes) else np.zeros(0, word)
    return hashes[::SHINGLE]


def _mix(hashes: npt.NDArray[np.unsignedinteger], word: type[np.uint32 | np.uint64]) -> npt.NDArray[np.unsignedinteger]:
    """Spread every bit over the word, in place: the bin is taken from the top, the check from the bottom."""
    _, two, three = (word(salt) for salt in _SALTS[word])
    for shift, salt in ((15, two), (13, three)):
        hashes ^= hashes >> word(shift)
        hashes *= salt
    hashes ^= hashes >> word(16)
    return hashes


def _borrow(found: npt.NDArray[np.uint32]) -> None:
    """Fill empty bins from filled ones, in place; texts without shingles stay empty."""
    missing = (found == _EMPTY).sum(axis=1)
    open_rows = np.flatnonzero((missing > 0) & (missing < BINS))
    own = found[open_rows]
    for lenders in _lenders():
        if not len(open_rows):
            break
        filled = found[open_rows]
        filled = np.where(filled == _EMPTY, own[:, lenders], filled)
        found[open_rows] = filled
        still = (filled == _EMPTY).any(axis=1)
        open_rows, own = open_rows[still], own[still]


@cache
def _lenders() -> npt.NDArray[np.int64]:
    """For every bin the other bins in the order it asks them: (BINS - 1, BINS), the same on every machine."""
    orders = []
    for bin_ in range(BINS):
        others = np.array([other for other in range(BINS) if other != bin_], np.uint32)
        weights = _mix((others + np.uint32(bin_ * BINS)) * np.uint32(_SALTS[np.uint32][0]), np.uint32)
        orders.append(others[np.argsort(weights)])
    return np.stack(orders, axis=1).astype(np.int64)
