"""Which documents share a training row: best fit, the longest first.

Global best-fit-decreasing leaves 0.2 % padding at a row length of 512 where one document a row leaves
two thirds, and cuts only documents longer than a row, where cutting the stream at every row's end
cuts 43 % of them. Same lengths, same plan.

A document longer than a row is cut into pieces that are one row long, and a rest: piece k + 1 starts at the
id where the inputs of piece k stop, which is piece k's last label, so every label is learnt once.
Cost: about a second and 100 MB for a million documents. Not here: reading ids (`minimind.tokens.batches`).
"""

from dataclasses import dataclass

import numpy as np


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
    """The row of each piece: the fullest that still has room, else a new one; longest pieces first.

    `open_rows[room]` are the rows with that much room left, and bit `room` of `rooms` says whether there
    are any, so the tightest fit is one shift and the lowest bit that is left.
    """
    row_of = np.zeros(len(sizes), np.int64)
    open_rows: list[list[int]] = [[] for _ in range(row_length + 1)]
    rooms = num_rows = 0
    order = np.argsort(-sizes, kind="stable")
    chosen = []
    for size in sizes[order].tolist():
        if fitting := rooms >> size:
            room = size + (fitting & -fitting).bit_length() - 1
            row = open_rows[room].pop()
            if not open_rows[room]:
                rooms ^= 1 << room
        else:
            room, row = row_length, num_rows
            num_rows += 1
        left = room - size
        if left:
            open_rows[left].append(row)
            rooms |= 1 << left
        chosen.append(row)
    row_of[order] = chosen
    return row_of
