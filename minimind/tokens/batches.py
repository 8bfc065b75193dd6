"""Batches: a pure function of (seed, step, token set).

The same step gives the same rows whatever the number of ranks, micro-batches or restarts, so where a
training stands is one integer. Rows come in a new order every epoch; the batch at an epoch's end is
filled up from the next epoch, so all batches are of one size.

Labels at the borders of documents. Pretraining: the label of a document's last id is the next id in the
file, the END_OF_TEXT that begins the next document: so a model learns to end. All ids but the file's first
are a label once an epoch. Chats and pairs: the next id of the same document, where the mask says that it
is learnt, else IGNORE. Padding is END_OF_TEXT with the label IGNORE and document −1.

Axes: B rows, T positions in a row. Everything is numpy and stays so until the training moves it; a batch
of 16 × 256 takes about 0.2 ms. No worker processes: they made memory-mapped loaders slower.
"""

from dataclasses import dataclass

import numpy as np

from minimind.errors import ConfigError, DataError
from minimind.tokens.packing import plan_rows
from minimind.tokens.token_set import TokenSet
from minimind.tokens.vocabulary import END_OF_TEXT

IGNORE = -100
"""The label of a position that is not learnt; what PyTorch's losses skip."""


@dataclass(frozen=True)
class Batch:
    """Rows ready for a model."""

    tokens_BT: np.ndarray
    """int64 ids."""
    labels_BT: np.ndarray
    """int64, the id to predict at each position, or IGNORE."""
    documents_BT: np.ndarray
    """int32 number of the document within the row, −1 for padding."""
    positions_BT: np.ndarray
    """int64, from 0 at the start of each document or piece of one."""
    items_B: np.ndarray
    """int64 row of the packing plan, or number of the pair."""

    def __len__(self) -> int:
        return len(self.items_B)

    def rows(self, start: int, stop: int) -> "Batch":
        """The rows from `start` to before `stop`, as views."""
        cut = slice(start, stop)
        return Batch(
            self.tokens_BT[cut],
            self.labels_BT[cut],
            self.documents_BT[cut],
            self.positions_BT[cut],
            self.items_B[cut],
        )


class RowBatches:
    """Packed rows of `row_length` positions, `batch_rows` to a batch. For pretraining and chat sets."""

    def __init__(self, token_set: TokenSet, *, row_length: int, batch_rows: int, seed: int) -> None:
        _require(token_set, row_length, batch_rows)
        lengths = np.diff(token_set.offsets)
        if token_set.kind != "pretrain" and (longest := int(lengths.max())) > row_length:
            raise ConfigError(
                f"`length` = {row_length} is shorter than the longest conversation of the token set, {longest} tokens, "
                f"and none is cut; set `length` to {longest} or more, or make the tokens again for {row_length}"
            )
        self._set, self._plan = token_set, plan_rows(lengths, row_length=row_length)
        self._row_length, self._batch_rows = row_length, batch_rows
        self._order = _Order(self._plan.num_rows, seed)

    @property
    def num_rows(self) -> int:
        return self._plan.num_rows

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every row has been seen."""
        return -(-self.num_rows // self._batch_rows)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        return self.gather(self._order.take(step * self._batch_rows, self._batch_rows))

    def gather(self, rows: np.ndarray) -> Batch:
        """The given rows of the plan, in that order; for an evaluation that reads each row once."""
        plan = self._plan
        first, counts = plan.row_offsets[rows], np.diff(plan.row_offsets)[rows]
        pieces = _ranges(first, counts)
        row_of_piece = np.repeat(np.arange(len(rows)), counts)
        lengths = plan.lengths[pieces]
        ends = np.cumsum(lengths)
        room_before = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
        return _fill(
            self._set,
            documents=plan.documents[pieces],
            starts=plan.starts[pieces],
            lengths=lengths,
            rows=row_of_piece,
            columns=ends - lengths - room_before[row_of_piece],
            numbers=_ranges(np.zeros_like(counts), counts),
            items_B=np.asarray(rows, np.int64),
            width=self._row_length,
        )


class PairBatches:
    """Preference pairs: the chosen sides, then the rejected ones in the same order, as wide as the longest."""

    def __init__(self, token_set: TokenSet, *, batch_pairs: int, max_length: int, seed: int) -> None:
        _require(token_set, max_length, batch_pairs)
        if token_set.kind != "preference":
            raise ConfigError(f"pairs are of a preference token set; this one has {token_set.kind} rows")
        self._lengths = np.diff(token_set.offsets)
        if (longest := int(self._lengths.max())) > max_length:
            raise ConfigError(
                f"`dpo.length` = {max_length} is shorter than the longest answer with its prompt, {longest} tokens; "
                f"set it to {longest} or more, or make the tokens again for {max_length}"
            )
        self._set, self._batch_pairs = token_set, batch_pairs
        self._order = _Order(self.num_pairs, seed)

    @property
    def num_pairs(self) -> int:
        return len(self._lengths) // 2

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every pair has been seen."""
        return -(-self.num_pairs // self._batch_pairs)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        return self.gather(self._order.take(step * self._batch_pairs, self._batch_pairs))

    def gather(self, pairs: np.ndarray) -> Batch:
        """The given pairs, in that order; rows B/2 + i and i are the two sides of one pair."""
        documents = np.concatenate([2 * pairs, 2 * pairs + 1])
        lengths, nothing = self._lengths[documents], np.zeros_like(documents)
        return _fill(
            self._set,
            documents=documents,
            starts=nothing,
            lengths=lengths,
            rows=np.arange(len(documents)),
            columns=nothing,
            numbers=nothing,
            items_B=np.concatenate([pairs, pairs]).astype(np.int64),
            width=int(lengths.max()),
        )


class _Order:
    """Numbers below `size`, shuffled anew every epoch; place `n` is a function of (seed, n) alone."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._seed = size, seed
        self._kept: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def take(self, start: int, count: int) -> np.ndarray:
        """The numbers at the places from `start` on, over as many epochs as that takes."""
        taken = []
        while count:
            epoch, within = divmod(start, self._size)
            part = self._epoch(epoch)[within : within + count]
            taken.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(taken)

    def _epoch(self, epoch: int) -> np.ndarray:
        if self._kept[0] != epoch:  # only kept because it is slow to make for every batch
            self._kept = (epoch, np.random.default_rng([self._seed, epoch]).permutation(self._size))
        return self._kept[1]


def _require(token_set: TokenSet, length: int, count: int) -> None:
    if not token_set.num_documents:
        raise DataError(
            "the token set has no documents; give its split more rows (`validation_fraction` of the data spec)"
        )
    if length < 1 or count < 1:
        raise ConfigError(f"a batch of {count} rows of {length} positions; both must be 1 or more")


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`starts[0], starts[0] + 1, …` for `counts[0]` numbers, then the same for the next, as one array."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def _fill(
    token_set: TokenSet,
    *,
    documents: np.ndarray,
    starts: np.ndarray,
    lengths: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    numbers: np.ndarray,
    items_B: np.ndarray,
    width: int,
) -> Batch:
    """A batch with piece i, `lengths[i]` ids of a document from `starts[i]` on, at (`rows[i]`, `columns[i]`)."""
    shape = len(items_B), width
    source = _ranges(token_set.offsets[documents] + starts, lengths)
    target = _ranges(rows * width + columns, lengths)
    next_ids = token_set.tokens[source + 1].astype(np.int64)
    if token_set.trained is not None:
        learnt = token_set.trained[source + 1].astype(bool)
        learnt[np.cumsum(lengths) - 1] = False  # what follows a chat's last id is another chat
        next_ids = np.where(learnt, next_ids, IGNORE)
    tokens_BT = np.full(shape, END_OF_TEXT, np.int64)
    labels_BT = np.full(shape, IGNORE, np.int64)
    documents_BT = np.full(shape, -1, np.int32)
    positions_BT = np.zeros(shape, np.int64)
    tokens_BT.flat[target] = token_set.tokens[source]
    labels_BT.flat[target] = next_ids
    documents_BT.flat[target] = np.repeat(numbers, lengths)
    positions_BT.flat[target] = _ranges(np.zeros_like(lengths), lengths)
    return Batch(tokens_BT, labels_BT, documents_BT, positions_BT, items_B)
