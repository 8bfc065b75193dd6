"""Batches: a pure function of (seed, step, token set).

The same step gives the same rows whatever the number of ranks, micro-batches or restarts, so where a
training stands is one integer. Rows come in a new order every epoch (`minimind.tokens.shuffle`); the batch at an
epoch's end is filled up from the next epoch, so all batches are of one size.

Labels at the borders of documents. Pretraining: the label of a document's last id is the next id in the
file, the END_OF_TEXT that begins the next document: so a model learns to end. All ids but the file's first
are a label once an epoch. Chats and pairs: the next id of the same document, where the mask says that it
is learnt, else IGNORE. Padding is END_OF_TEXT with the label IGNORE and document −1.

Axes: B rows, T positions in a row. Everything is numpy and stays so until the training moves it; a batch
of 32 × 512 takes 0.1 to 0.2 ms. No worker processes: they made memory-mapped loaders slower.
Not here: how a batch is laid out (`minimind.tokens.layout`), several token sets (`minimind.tokens.mixture`),
conversations that are changed (`minimind.tokens.augmentation`).
"""

from abc import ABC, abstractmethod

import numpy as np

from minimind.errors import ConfigError, DataError
from minimind.tokens.layout import IGNORE, Batch, PiecesOfStep, read
from minimind.tokens.shuffle import Shuffle
from minimind.tokens.token_set import TokenSet, ranges

__all__ = ["IGNORE", "Batch", "PairBatches", "PiecesOfStep", "RowBatches", "RowSource"]


class RowSource(ABC):
    """Rows in an endless walk: what batches, and mixtures of them, are taken from."""

    row_length: int
    _batch_rows: int

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Rows of an epoch."""

    @abstractmethod
    def take(self, start: int, count: int) -> Batch:
        """The rows at `count` places from `start` on."""

    @abstractmethod
    def take_pieces(self, start: int, count: int) -> PiecesOfStep:
        """The pieces of `take(start, count)`, without reading an id."""

    @abstractmethod
    def tokens_in(self, start: int, count: int) -> int:
        """Ids in `take(start, count)`, padding left out."""

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every row of an epoch has been seen."""
        return -(-self.num_rows // self._batch_rows)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        return self.take(step * self._batch_rows, self._batch_rows)

    def pieces(self, step: int) -> PiecesOfStep:
        """Which documents of which token set are where in `batch(step)`; −1 is what no token set has."""
        return self.take_pieces(step * self._batch_rows, self._batch_rows)


class RowBatches(RowSource):
    """Packed rows of `row_length` positions, `batch_rows` to a batch. For pretraining, chat and prompt sets."""

    def __init__(self, token_set: TokenSet, *, row_length: int, batch_rows: int, seed: int) -> None:
        require(token_set, row_length, batch_rows)
        self._set, self._plan = token_set, token_set.plan(row_length)
        self.row_length, self._batch_rows = row_length, batch_rows
        self._order = Shuffle(self._plan.num_rows, seed)

    @property
    def num_rows(self) -> int:
        return self._plan.num_rows

    def take(self, start: int, count: int) -> Batch:
        """The rows at `count` places from `start` on; an epoch has `num_rows` places."""
        return self.gather(self._order.take(start, count))

    def take_pieces(self, start: int, count: int) -> PiecesOfStep:
        """The pieces of `take(start, count)`."""
        return self.pieces_of(self._order.take(start, count))

    def tokens_in(self, start: int, count: int) -> int:
        """Ids in `take(start, count)`, padding left out; whole epochs are not looked at."""
        return self._tokens_before(start + count) - self._tokens_before(start)

    def gather(self, rows: np.ndarray) -> Batch:
        """The given rows of the plan, in that order; for an evaluation that reads each row once."""
        found = self.pieces_of(rows)
        firsts = np.flatnonzero(found.columns == 0)
        return read(
            self._set,
            found,
            numbers=np.arange(len(found.rows)) - firsts[found.rows],
            items_B=np.asarray(rows, np.int64),
            num_rows=len(rows),
            width=self.row_length,
        )

    def pieces_of(self, rows: np.ndarray) -> PiecesOfStep:
        """The pieces of the given rows of the plan."""
        plan, pieces = self._plan, self._numbers(rows)
        counts = plan.row_offsets[rows + 1] - plan.row_offsets[rows]
        row_of_piece = np.repeat(np.arange(len(rows)), counts)
        lengths = plan.lengths[pieces].astype(np.int64)
        ends = np.cumsum(lengths)
        room_before = np.concatenate([[0], ends])[np.cumsum(counts) - counts]
        return PiecesOfStep(
            rows=row_of_piece,
            columns=ends - lengths - room_before[row_of_piece],
            documents=plan.documents[pieces].astype(np.int64),
            starts=plan.starts[pieces].astype(np.int64),
            lengths=lengths,
            token_sets=np.zeros(len(pieces), np.int64),
        )

    def _tokens_before(self, place: int) -> int:
        epochs, rest = divmod(place, self.num_rows)
        rows = self._order.take(place - rest, rest) if rest else np.zeros(0, np.int64)
        return epochs * self._set.num_tokens + int(self._plan.lengths[self._numbers(rows)].sum(dtype=np.int64))

    def _numbers(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of the pieces in the given rows."""
        first = self._plan.row_offsets[rows].astype(np.int64)
        return ranges(first, self._plan.row_offsets[rows + 1] - first)


class PairBatches:
    """Preference pairs: the chosen sides, then the rejected ones in the same order, as wide as the longest.

    A row to a side, so that a batch can be cut into pairs; `pack_sides` puts several into a row when it is cut.
    """

    def __init__(self, token_set: TokenSet, *, batch_pairs: int, max_length: int, seed: int) -> None:
        require(token_set, max_length, batch_pairs, setting="dpo.length")
        if token_set.kind != "preference":
            raise ConfigError(f"pairs are of a preference token set; this one has {token_set.kind} rows")
        self._set, self._batch_pairs = token_set, batch_pairs
        self._order = Shuffle(self.num_pairs, seed)

    @property
    def num_pairs(self) -> int:
        return self._set.num_documents // 2

    @property
    def steps_per_epoch(self) -> int:
        """Batches until every pair has been seen."""
        return -(-self.num_pairs // self._batch_pairs)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0 over all epochs."""
        return self.gather(self._order.take(step * self._batch_pairs, self._batch_pairs))

    def pieces(self, step: int) -> PiecesOfStep:
        """Which documents are where in `batch(step)`, without reading an id."""
        return self.pieces_of(self._order.take(step * self._batch_pairs, self._batch_pairs))

    def gather(self, pairs: np.ndarray) -> Batch:
        """The given pairs, in that order; rows B/2 + i and i are the two sides of one pair."""
        found = self.pieces_of(pairs)
        return read(
            self._set,
            found,
            numbers=found.rows,
            items_B=np.concatenate([pairs, pairs]).astype(np.int64),
            num_rows=2 * len(pairs),
            width=int(found.lengths.max()),
        )

    def pieces_of(self, pairs: np.ndarray) -> PiecesOfStep:
        """The two sides of each of the given pairs."""
        documents = np.concatenate([2 * pairs, 2 * pairs + 1])
        nothing = np.zeros_like(documents)
        lengths = self._set.offsets[documents + 1] - self._set.offsets[documents]
        return PiecesOfStep(np.arange(len(documents)), nothing, documents, nothing, lengths, nothing)


def require(token_set: TokenSet, length: int, count: int, *, setting: str = "length") -> None:
    """Raise DataError for an empty set, and ConfigError where a batch or a conversation does not fit."""
    if not token_set.num_documents:
        raise DataError(
            "the token set has no documents; give its split more rows (`validation_fraction` of the data spec)"
        )
    if length < 1 or count < 1:
        raise ConfigError(f"a batch of {count} rows of {length} positions; both must be 1 or more")
    if token_set.kind != "pretrain" and (longest := token_set.longest_document) > length:
        raise ConfigError(
            f"`{setting}` = {length} is shorter than the longest conversation of the token set, {longest} tokens, "
            f"and none is cut; set it to {longest} or more, or make the tokens again for {length}"
        )
