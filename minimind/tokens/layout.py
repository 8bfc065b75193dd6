"""What a batch is, and how pieces of documents are laid out in one.

A row is filled from its start, its documents one behind the other; what is left is padding. Positions and
attention start anew at every document: `documents_BT` and `positions_BT` say so to the model.

Axes: B rows, T positions in a row, N = B·T. Not here: which pieces
(`minimind.tokens.batches`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minimind.tokens.packing import plan_rows
from minimind.tokens.token_set import TokenSet

IGNORE = -100
"""The label of a position that is not learnt; what PyTorch's losses skip."""


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model."""

    tokens_BT: np.ndarray
    """int32 ids."""
    labels_BT: np.ndarray
    """int32, the id to predict at each position, or IGNORE."""
    documents_BT: np.ndarray
    """int32 number of the document within the row (of pairs, of the side within the batch), −1 for padding."""
    positions_BT: np.ndarray
    """int32, from 0 at the start of each document or piece of one."""
    items_B: np.ndarray
    """int64 row of the packing plan; of pairs, the number of the pair of each side, and the plan's piece of a text."""

    @classmethod
    def empty(cls, num_rows: int, width: int, *, num_items: int | None = None) -> "Batch":
        """A batch to be filled, of as many items as rows where their number is not given.

        Its arrays are one block of memory: malloc gives memory back to the system, and faults it in again at the
        next batch, by the size of the largest block it has seen. Four blocks cost twice as much.
        """
        items_B = np.empty(num_rows if num_items is None else num_items, np.int64)
        return cls(*np.empty((4, num_rows, width), np.int32), items_B)

    def __len__(self) -> int:
        return len(self.items_B)

    def rows(self, start: int, stop: int) -> "Batch":
        """The rows from `start` to before `stop`, as views. Not of packed pairs."""
        cut = slice(start, stop)
        return Batch(
            self.tokens_BT[cut],
            self.labels_BT[cut],
            self.documents_BT[cut],
            self.positions_BT[cut],
            self.items_B[cut],
        )


@dataclass(frozen=True)
class PiecesOfStep:
    """Where the ids of a batch come from: int64 arrays with an entry for each piece, in the order of the rows."""

    rows: np.ndarray
    """Row of the batch."""
    columns: np.ndarray
    """Where in the row the piece begins."""
    documents: np.ndarray
    """Number of the document in its token set; −1 for ids that augmentation put in."""
    starts: np.ndarray
    """Offset of the piece's first id within the document."""
    lengths: np.ndarray
    token_sets: np.ndarray
    """Number of the token set in a mixture, the stage's own being 0."""


@dataclass(frozen=True)
class Grid:
    """Where pieces stand in a batch. What is left of a row is one more piece, of padding: P are both, N = B·T."""

    num_rows: int
    width: int
    places: np.ndarray
    """Piece → its place among P."""
    lengths_P: np.ndarray
    inside_N: np.ndarray
    """int32 offset within its piece."""

    @classmethod
    def of(cls, rows: np.ndarray, lengths: np.ndarray, *, num_rows: int, width: int) -> "Grid":
        """The grid of pieces of these lengths in these rows, which ascend."""
        counts_B = np.bincount(rows, minlength=num_rows)
        lengths_P = np.empty(len(rows) + num_rows, np.int64)
        places = np.arange(len(rows)) + rows
        lengths_P[places] = lengths
        lengths_P[np.cumsum(counts_B) + np.arange(num_rows)] = width - np.bincount(rows, lengths, num_rows)
        starts_P = (np.cumsum(lengths_P) - lengths_P).astype(np.int32)
        inside_N = np.arange(num_rows * width, dtype=np.int32) - np.repeat(starts_P, lengths_P)
        return cls(num_rows, width, places, lengths_P, inside_N)

    def spread(self, values: np.ndarray, padding: int) -> np.ndarray:
        """The value of its piece at every position, N."""
        values_P = np.full(len(self.lengths_P), padding, values.dtype)
        values_P[self.places] = values
        return np.repeat(values_P, self.lengths_P)

    def take(self, source: np.ndarray, begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What stands in `source` from `begins` on, piece by piece, N; and where in `source` that was."""
        at_N = self.spread(begins, 0)
        at_N += self.inside_N
        return source.take(at_N, mode="clip"), at_N  # what padding reads is overwritten

    def ends(self) -> np.ndarray:
        """The last position of each piece."""
        return (np.cumsum(self.lengths_P) - 1)[self.places]

    def batch(
        self, tokens_N: np.ndarray, labels_N: np.ndarray, *, numbers: np.ndarray, items_B: np.ndarray, padding: int
    ) -> Batch:
        """The batch of these ids and labels, with `numbers` of the pieces' documents."""
        batch = Batch.empty(self.num_rows, self.width, num_items=len(items_B))  # packed sides: more than rows
        batch.items_B[:] = items_B
        documents_N = self.spread(numbers.astype(np.int32), -1)
        nothing = np.flatnonzero(documents_N < 0)
        for array, values, empty in (
            (batch.tokens_BT, tokens_N, padding),
            (batch.labels_BT, labels_N, IGNORE),
            (batch.documents_BT, documents_N, -1),
            (batch.positions_BT, self.inside_N, 0),
        ):
            array_N = array.reshape(-1)
            array_N[:] = values
            array_N[nothing] = empty
        return batch


def read(
    token_set: TokenSet, pieces: PiecesOfStep, *, numbers: np.ndarray, items_B: np.ndarray, num_rows: int, width: int
) -> Batch:
    """A batch of `pieces` of a token set; `numbers` are those of their documents in the batch."""
    grid = Grid.of(pieces.rows, pieces.lengths, num_rows=num_rows, width=width)
    # One id more than the piece has: its last label.
    ids, trained, begins = token_set.runs(token_set.offsets[pieces.documents] + pieces.starts, pieces.lengths + 1)
    tokens_N, at_N = grid.take(ids, begins)
    labels_N = ids[1:].take(at_N, mode="clip")
    if trained is not None:
        labels_N = np.where(trained[1:].take(at_N, mode="clip") != 0, labels_N.astype(np.int32), np.int32(IGNORE))
        labels_N[grid.ends()] = IGNORE  # what follows a chat's last id is another chat
    return grid.batch(tokens_N, labels_N, numbers=numbers, items_B=items_B, padding=token_set.info.end_of_text)


def stack(batches: Sequence[Batch], *, padding: int) -> Batch:
    """The rows of `batches` below each other, as wide as the widest of them; what is new of a row is padding."""
    width = max(batch.tokens_BT.shape[1] for batch in batches)
    whole = Batch.empty(sum(len(batch.tokens_BT) for batch in batches), width, num_items=sum(map(len, batches)))
    for name, empty in (("tokens_BT", padding), ("labels_BT", IGNORE), ("documents_BT", -1), ("positions_BT", 0)):
        array, start = getattr(whole, name), 0
        array[:] = empty
        for batch in batches:
            part = getattr(batch, name)
            array[start : start + len(part), : part.shape[1]] = part
            start += len(part)
    np.concatenate([batch.items_B for batch in batches], out=whole.items_B)
    return whole


def pack_sides(batch: Batch, sides: np.ndarray) -> Batch:
    """The given sides of pairs, several to a row by best fit; document i of the result is `sides[i]`.

    Rows are as wide as the longest side of them. `items_B` stays one for each side, in the order of `sides`.
    """
    place = np.full(len(batch.items_B) + 1, -1, np.int64)
    place[sides] = np.arange(len(sides))
    number_N = place[batch.documents_BT.reshape(-1)]  # padding is document −1: the last entry
    chosen_N = np.flatnonzero(number_N >= 0)
    chosen_N = chosen_N[np.argsort(number_N[chosen_N], kind="stable")]
    lengths = np.bincount(number_N[chosen_N], minlength=len(sides))
    plan = plan_rows(lengths, row_length=int(lengths.max()))
    rows = np.repeat(np.arange(plan.num_rows), np.diff(plan.row_offsets))
    grid = Grid.of(rows, plan.lengths, num_rows=plan.num_rows, width=int(lengths.max()))
    at_N, _ = grid.take(chosen_N, (np.cumsum(lengths) - lengths)[plan.documents])
    return grid.batch(
        batch.tokens_BT.reshape(-1)[at_N],
        batch.labels_BT.reshape(-1)[at_N],
        numbers=plan.documents,
        items_B=batch.items_B[sides],
        padding=0,
    )
