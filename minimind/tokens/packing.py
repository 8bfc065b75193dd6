"""Which documents share a training row: best fit, the longest first.

Global best-fit-decreasing leaves 0.2 % padding at a row length of 512 where one document a row leaves
two thirds, and cuts only documents longer than a row, where cutting the stream at every row's end
cuts 43 % of them. Same lengths, same plan.

A document longer than a row is cut into pieces that are one row long, and a rest: piece k + 1 starts at the
id where the inputs of piece k stop, which is piece k's last label, so every label is learnt once.

Pieces of one size are placed together: a row with room for `n` of them is the tightest fit until it has taken
them all. So a plan costs a sort and an array operation for every (size, room) that occurs: about a second and
100 MB for ten million short documents. A stored plan opens in no time:

    <directory>/documents.npy starts.npy lengths.npy row_offsets.npy

Not here: reading ids (`minimind.tokens.batches`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from minimind.errors import ArtifactError


@dataclass(frozen=True)
class Plan:
    """Rows of pieces: row r has the pieces `row_offsets[r]` to `row_offsets[r + 1]`, in the order they stand in."""

    documents: np.ndarray
    """Piece → document."""
    starts: np.ndarray
    """Piece → offset of its first id within the document."""
    lengths: np.ndarray
    """Piece → ids."""
    row_offsets: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.row_offsets) - 1

    @property
    def num_tokens(self) -> int:
        """Ids in all rows, padding left out; reads all lengths."""
        return int(self.lengths.sum(dtype=np.int64))

    def save(self, directory: Path) -> None:
        """Write the four arrays, each in the narrowest type that holds its numbers."""
        directory.mkdir(parents=True)
        for field in fields(self):
            array = getattr(self, field.name)
            narrow = np.int32 if array.max(initial=0) < 1 << 31 else np.int64
            np.save(directory / f"{field.name}.npy", array.astype(narrow))

    @classmethod
    def load(cls, directory: Path) -> "Plan":
        """A stored plan, memory-mapped. Raises ArtifactError where a file is damaged or its size is wrong."""
        plan = cls(*(_map(directory / f"{field.name}.npy") for field in fields(cls)))
        pieces = len(plan.documents)
        if not (len(plan.starts) == len(plan.lengths) == pieces == int(plan.row_offsets[-1])):
            raise ArtifactError(f"{directory}: the files of the plan are of different sizes; build the tokens again")
        return plan


def plan_rows(lengths: np.ndarray, *, row_length: int) -> Plan:
    """Pack documents of `lengths` ids into as few rows of `row_length` as best fit finds."""
    documents, starts, sizes = _pieces(np.asarray(lengths, np.int64), row_length)
    row_of = _best_fit(sizes, row_length)
    order = np.argsort(row_of, kind="stable")
    num_rows = int(row_of.max()) + 1 if len(row_of) else 0
    row_offsets = np.zeros(num_rows + 1, np.int64)
    np.cumsum(np.bincount(row_of, minlength=num_rows), out=row_offsets[1:])
    return Plan(documents[order], starts[order], sizes[order], row_offsets)


def _pieces(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Document, start and length of each piece; a document of no ids has none."""
    counts = -(-lengths // row_length)
    documents = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = number * row_length
    return documents, starts, np.minimum(lengths[documents] - starts, row_length)


def _best_fit(sizes: np.ndarray, row_length: int) -> np.ndarray:
    """The row of each piece: the fullest that still has room, else a new one; longest pieces first."""
    row_of = np.zeros(len(sizes), np.int64)
    rows = _OpenRows(int(row_length))
    for size, pieces in _by_size(sizes):
        placed = 0
        while placed < len(pieces):
            chosen = rows.take(size, len(pieces) - placed)
            row_of[pieces[placed : placed + len(chosen)]] = chosen
            placed += len(chosen)
    return row_of


def _by_size(sizes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(size, the pieces that have it), the largest first."""
    order = np.argsort(-sizes, kind="stable")
    ends = np.flatnonzero(np.diff(sizes[order])) + 1
    bounds = [0, *ends.tolist(), len(order)] if len(order) else [0]
    for start, stop in zip(bounds, bounds[1:], strict=False):
        yield int(sizes[order[start]]), order[start:stop]


class _OpenRows:
    """The rows that are not full, by the room they have left.

    Bit `room` of `_rooms` says whether there are any with that much, so the tightest fit is one shift and the
    lowest bit that is left.
    """

    def __init__(self, row_length: int) -> None:
        self._row_length = row_length
        self._by_room: dict[int, list[np.ndarray]] = {}
        self._rooms = self._num_rows = 0

    def take(self, size: int, count: int) -> np.ndarray:
        """Rows for up to `count` pieces of `size`, one for each, of those that fit tightest, else new ones."""
        if fitting := self._rooms >> size:
            room = size + (fitting & -fitting).bit_length() - 1
            rows = self._remove(room, wanted=-(-count // (room // size)))
        else:
            room, wanted = self._row_length, -(-count // (self._row_length // size))
            rows = np.arange(self._num_rows, self._num_rows + wanted)
            self._num_rows += wanted
        each = room // size
        chosen = np.repeat(rows, each)[:count] if each > 1 else rows
        in_last = len(chosen) - (len(rows) - 1) * each
        self._add(room - each * size, rows[:-1])
        self._add(room - in_last * size, rows[-1:])
        return chosen

    def _remove(self, room: int, *, wanted: int) -> np.ndarray:
        """Up to `wanted` rows of the last array with that room."""
        arrays = self._by_room[room]
        last = arrays.pop()
        if len(last) > wanted:
            arrays.append(last[wanted:])
        if not arrays:
            self._rooms ^= 1 << room
        return last[:wanted]

    def _add(self, room: int, rows: np.ndarray) -> None:
        if room and len(rows):
            self._by_room.setdefault(room, []).append(rows)
            self._rooms |= 1 << room


def _map(path: Path) -> np.ndarray:
    """An array on a memory map; a plain one, because every index into np.memmap is a slow subclass call."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: damaged or missing ({error}); build the tokens again") from None
