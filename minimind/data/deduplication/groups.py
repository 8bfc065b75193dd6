"""Grouping equal keys of more rows than fit into memory.

Keys that are hashes spread evenly, so their top bits cut them into parts of equal size: each part is written to
a file and sorted in memory on its own. Equal keys fall into one part. What is found, and in which order, does
not depend on the number of parts. `Spill` also puts aside pairs of rows, by the later one.

One key that most rows share is one part, whatever its size: 40 bytes a row, in memory while it is looked at.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

BYTES_PER_ROW = 40
"""While a part is sorted: key and row, their order, the sorted key and what marks equal ones."""
_PLACE_BITS, _PLACE = np.uint64(32), np.uint64(0xFFFFFFFF)
MAX_PARTS = 1024
"""Files in a directory; parts are larger from 6.9 billion rows on (at 256 MB)."""


@dataclass(frozen=True)
class Groups:
    """Rows with equal keys, two or more in a group, in ascending order; group after group."""

    rows: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]


class Spill:
    """Records put aside by part, each part in a file of its own, to be read again part by part."""

    def __init__(self, directory: Path, parts: int, *, width: int) -> None:
        """`width` numbers of 64 bits make a record."""
        directory.mkdir(parents=True)
        self.parts = parts
        self._directory = directory
        self._width = width

    def add(self, parts: npt.NDArray[np.int64], records: npt.NDArray[np.uint64]) -> None:
        """Append each record, a row of (n, width), to its part."""
        order = np.argsort(parts, kind="stable")
        borders = np.searchsorted(parts[order], np.arange(self.parts + 1))
        for part in np.flatnonzero(np.diff(borders)).tolist():
            with self._path(part).open("ab") as file:
                file.write(np.ascontiguousarray(records[order[borders[part] : borders[part + 1]]]).data)

    def read(self, part: int) -> npt.NDArray[np.uint64]:
        """The records of a part in the order they were added; its file goes."""
        path = self._path(part)
        if not path.exists():
            return np.empty((0, self._width), np.uint64)
        records = np.fromfile(path, np.uint64).reshape(-1, self._width)
        path.unlink()
        return records

    def _path(self, part: int) -> Path:
        return self._directory / f"{part:04d}.u64"


def equal_groups(
    chunks: Iterable[npt.NDArray[np.uint64]], *, rows: int, directory: Path, memory_bytes: int
) -> Iterator[Groups]:
    """The groups of rows with equal keys, in the order of their keys; `chunks` are the keys of all `rows` in order.

    `directory` must not be there; it is used when the keys need more than `memory_bytes`. Keys must be hashes.
    """
    parts = min(MAX_PARTS, 1 << max(0, (rows * BYTES_PER_ROW - 1) // memory_bytes).bit_length())
    if parts == 1:
        keys = np.concatenate([np.empty(0, np.uint64), *chunks])
        yield _group(keys, np.arange(len(keys)))
        return
    spill = Spill(directory, parts, width=2)
    shift = np.uint64(64 - (parts.bit_length() - 1))
    row = 0
    for keys in chunks:
        records = np.stack((keys, np.arange(row, row + len(keys), dtype=np.uint64)), axis=1)
        spill.add((keys >> shift).astype(np.int64), records)
        row += len(keys)
    for part in range(parts):
        records = spill.read(part)
        yield _group(records[:, 0], records[:, 1].astype(np.int64))


def _group(keys: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> Groups:
    """`rows` are in ascending order."""
    order = np.argsort(keys)
    ordered = keys[order]
    again = np.zeros(len(keys) + 1, np.bool_)
    np.equal(ordered[1:], ordered[:-1], out=again[1:-1])
    members = np.flatnonzero(again[:-1] | again[1:])
    group = np.cumsum(~again[members]) - 1
    # Sorting is not stable where it is fast: those that are in groups are put in order again, group and place as one
    # number, which is 3x faster than sorting by two.
    packed = group.astype(np.uint64) << _PLACE_BITS | order[members].astype(np.uint64)
    packed.sort(kind="stable")
    return Groups(rows[(packed & _PLACE).astype(np.int64)], np.bincount(group))
