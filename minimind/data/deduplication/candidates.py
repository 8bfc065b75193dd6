"""Candidates: the pairs of rows whose signatures say that they may be near duplicates.

Two rows whose signatures agree in a band are compared by all 64 bins (by a byte of each, which also agrees by
chance once in 256): most agree in one band by chance, and fall here, at 0.05 µs a pair and without their texts.
What stays is put aside by the later row, to be read in order.

A band that many rows share (rubbish and forms that all look alike) is not compared pair by pair: each row is
paired with the first HOT_FIRST rows of the group and with the HOT_BEFORE rows before it. Lost is a pair whose
bands are all so crowded, and whose earlier row is neither: it is then compared with others that look alike,
and kept only if it is like none of them.

On disk, in a directory that goes: 8 bytes a band and 64 for the bins of each row, 8 bytes for a candidate.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minimind.data.deduplication.groups import MAX_PARTS, Groups, Spill, equal_groups
from minimind.data.deduplication.signatures import BINS, band_keys, bands

HOT_FIRST, HOT_BEFORE = 32, 8
"""So all pairs of groups of up to 41 rows."""
SLACK = 0.2
"""How far below the threshold the share of agreeing bins may lie: it estimates the similarity with a standard
deviation of .036 (seen; .05 if bins were independent)."""
_ROWS_AT_ONCE = 1 << 14
_PAIRS_AT_ONCE = 1 << 17
_PAIRS_IN_CACHE = 1 << 12
"""2 x 256 KB of bins: a core's cache."""
MAX_ROWS = 1 << 32
_ROW_BITS, _EARLIER = np.uint64(32), np.uint64(0xFFFFFFFF)
"""A pair is one number, the later row in its upper half."""
_PAIR_BYTES_PER_ROW = 4096
"""Room for candidates while a part of them is decided on: 128 a row, in every band anew. Seen: under 10."""


@dataclass(frozen=True)
class Candidates:
    """Pairs of rows to be compared, put aside by the later row."""

    spill: Spill
    band_pairs: int
    """Pairs that shared a band, once for each band."""
    hot_groups: int
    """Groups too large for all their pairs."""

    def parts(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Later and earlier rows of all pairs, ascending, each pair once; can be had once.

        The later rows of a part are above those of the part before.
        """
        for part in range(self.spill.parts):
            pairs = self.spill.read(part).reshape(-1)
            if len(pairs):
                pairs.sort(kind="stable")  # they come in sorted runs: 2x faster
                pairs = pairs[np.concatenate(([True], pairs[1:] != pairs[:-1]))]
                yield (pairs >> _ROW_BITS).astype(np.int64), (pairs & _EARLIER).astype(np.int64)


def find_candidates(
    signatures: Sequence[Path],
    taking_part: npt.NDArray[np.bool_],
    *,
    threshold: float,
    work_dir: Path,
    memory_bytes: int,
) -> Candidates:
    """The pairs among the rows that take part; `signatures` are .npy files of all rows, in their order.

    Uses `work_dir`, which must be there and empty, and about `memory_bytes`.
    """
    rows = np.flatnonzero(taking_part)
    chosen = bands(threshold)
    bins = _write_bands(signatures, taking_part, chosen, work_dir)
    rows_per_part = max(memory_bytes // _PAIR_BYTES_PER_ROW, -(-len(taking_part) // MAX_PARTS), 1)
    spill = Spill(work_dir / "pairs", -(-len(taking_part) // rows_per_part), width=1)
    least = int(np.ceil(BINS * (threshold - SLACK)))
    band_pairs = hot_groups = 0
    for band in range(len(chosen)):
        path, parts = _band_path(work_dir, band), work_dir / "parts"
        for groups in equal_groups(_read(path), rows=len(rows), directory=parts, memory_bytes=memory_bytes):
            hot_groups += int((groups.sizes > HOT_FIRST + HOT_BEFORE + 1).sum())
            for later, earlier in pairs_of(groups):
                band_pairs += len(later)
                alike = _agreeing(bins, later, earlier) >= least
                later, earlier = rows[later[alike]], rows[earlier[alike]]
                packed = later.astype(np.uint64) << _ROW_BITS | earlier.astype(np.uint64)
                spill.add(later // rows_per_part, packed[:, None])
        shutil.rmtree(parts, ignore_errors=True)
        path.unlink()
    return Candidates(spill, band_pairs, hot_groups)


def pairs_of(groups: Groups) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Later and earlier rows: all pairs of each group, or in a hot one those of its first rows and of neighbours."""
    begins = np.repeat(np.cumsum(groups.sizes) - groups.sizes, groups.sizes)
    places = np.arange(len(groups.rows)) - begins
    partners = np.minimum(places, HOT_FIRST + HOT_BEFORE)
    ends = np.cumsum(partners)
    start = 0
    while start < len(places):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + _PAIRS_AT_ONCE, "right")))
        members = np.repeat(np.arange(start, stop), partners[start:stop])
        number = np.arange(len(members)) - (ends - partners)[members] + done
        before = places[members] - 1 - (number - HOT_FIRST)
        place = np.where((number < HOT_FIRST) | (places[members] <= HOT_FIRST + HOT_BEFORE), number, before)
        yield groups.rows[members], groups.rows[begins[members] + place]
        start = stop


def _agreeing(
    bins: npt.NDArray[np.uint8], one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """In how many of the 64 bins the rows `one` agree with the rows `other`."""
    counts = np.empty(len(one), np.uint8)
    for first in range(0, len(one), _PAIRS_IN_CACHE):
        span = slice(first, first + _PAIRS_IN_CACHE)
        same = np.packbits(bins.take(one[span], axis=0) == bins.take(other[span], axis=0), axis=1)
        counts[span] = np.bitwise_count(same.view(np.uint64)).reshape(-1)
    return counts


def _write_bands(
    signatures: Sequence[Path], taking_part: npt.NDArray[np.bool_], chosen: Sequence[Sequence[int]], work_dir: Path
) -> npt.NDArray[np.uint8]:
    """Write a file of keys for each band; a byte of each bin of the rows that take part, memory-mapped."""
    count = int(taking_part.sum())
    bins = np.lib.format.open_memmap(work_dir / "bins.npy", "w+", np.uint8, (count, BINS))
    row = done = 0
    for path in signatures:
        piece = np.load(path, mmap_mode="r")
        for start in range(0, len(piece), _ROWS_AT_ONCE):
            part = piece[start : start + _ROWS_AT_ONCE]
            part = part[taking_part[row : row + len(part)]]
            for band, keys in enumerate(band_keys(part, chosen)):
                with _band_path(work_dir, band).open("ab") as file:
                    file.write(keys.data)
            bins[done : done + len(part)] = part & 0xFF
            row, done = row + min(_ROWS_AT_ONCE, len(piece) - start), done + len(part)
    return bins


def _read(path: Path) -> Iterator[npt.NDArray[np.uint64]]:
    with path.open("rb") as file:
        while len(keys := np.fromfile(file, np.uint64, 1 << 20)):
            yield keys


def _band_path(work_dir: Path, band: int) -> Path:
    return work_dir / f"band-{band:02d}.u64"
