"""Preference pairs with rows of other kinds beside them, for a training that is to keep what the model knows.

Each pair of a batch has a piece of every other token set: with S sides in all, rows i, B/S + i, 2·B/S + i, … are the
chosen side, the rejected side and the pieces of pair i. A piece is a document of its token set, or a part of a plain
text that is `text_length` ids long at most, as the packing plan cuts it; conversations stand whole. Pieces come in a
new order every epoch, each of them once. Not here: pairs alone (`batches`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from minimind.tokens.batches import PairBatches, require
from minimind.tokens.layout import Batch, PiecesOfStep, read, stack
from minimind.tokens.packing import Plan
from minimind.tokens.shuffle import Shuffle
from minimind.tokens.token_set import TokenSet


class PairsBeside(PairBatches):
    """Batches of pairs with further sides. What is asked of pairs by their numbers is of pairs alone."""

    def __init__(
        self,
        token_set: TokenSet,
        others: Sequence[TokenSet],
        *,
        batch_pairs: int,
        max_length: int,
        text_length: int,
        seed: int,
    ) -> None:
        super().__init__(token_set, batch_pairs=batch_pairs, max_length=max_length, seed=seed)
        self._others = [_Walk.of(other, text_length=text_length, seed=seed) for other in others]

    def batch(self, step: int) -> Batch:
        """The batch of a step: chosen sides, rejected sides, and the pieces of each other token set."""
        parts = [super().batch(step)]
        for walk in self._others:
            parts.append(walk.batch(self._numbers(walk, step), first=sum(map(len, parts))))
        return stack(parts, padding=self._set.info.end_of_text)

    def pieces(self, step: int) -> PiecesOfStep:
        """Which documents are where in `batch(step)`; the others are token sets 1, 2, …"""
        parts = [super().pieces(step)]
        for number, walk in enumerate(self._others, 1):
            found = walk.pieces(self._numbers(walk, step))
            rows = found.rows + (1 + number) * self._batch_pairs
            sets = np.full_like(rows, number)
            parts.append(PiecesOfStep(rows, found.columns, found.documents, found.starts, found.lengths, sets))
        return PiecesOfStep(*(np.concatenate([getattr(part, one.name) for part in parts]) for one in fields(parts[0])))

    def _numbers(self, walk: "_Walk", step: int) -> np.ndarray:
        """Which pieces of its plan a step reads, one for each pair."""
        return walk.order.take(step * self._batch_pairs, self._batch_pairs)


@dataclass(frozen=True)
class _Walk:
    """The pieces of a token set in an endless order."""

    tokens: TokenSet
    plan: Plan
    order: Shuffle

    @classmethod
    def of(cls, tokens: TokenSet, *, text_length: int, seed: int) -> "_Walk":
        length = text_length if tokens.kind == "pretrain" else max(1, tokens.longest_document)
        require(tokens, length, 1, setting="dpo.text_length")
        plan = tokens.plan(length)
        return cls(tokens, plan, Shuffle(len(plan.documents), seed))

    def pieces(self, numbers: np.ndarray) -> PiecesOfStep:
        """The given pieces of the plan, a row to each."""
        plan, nothing = self.plan, np.zeros(len(numbers), np.int64)
        documents, starts, lengths = (
            column[numbers].astype(np.int64) for column in (plan.documents, plan.starts, plan.lengths)
        )
        return PiecesOfStep(np.arange(len(numbers)), nothing, documents, starts, lengths, nothing)

    def batch(self, numbers: np.ndarray, *, first: int) -> Batch:
        """The same with their ids; their documents are numbered from `first` on."""
        found = self.pieces(numbers)
        return read(
            self.tokens,
            found,
            numbers=first + found.rows,
            items_B=numbers,
            num_rows=len(numbers),
            width=int(found.lengths.max()),
        )
