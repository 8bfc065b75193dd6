"""Preference pairs with plain text beside them, for a training that is to keep its language.

Each pair of a batch has a piece of text: rows B/3 + i and 2·B/3 + i are the rejected side and the text of pair i. A
piece is a document of the text's token set, or a part of one that is `text_length` ids long at most, as the packing
plan cuts it; pieces come in a new order every epoch, each of them once. Not here: pairs alone (`batches`).
"""

import numpy as np

from minimind.tokens.batches import PairBatches, require
from minimind.tokens.layout import Batch, PiecesOfStep, read, stack
from minimind.tokens.shuffle import Shuffle
from minimind.tokens.token_set import TokenSet


class PairsBesideText(PairBatches):
    """Batches of pairs whose third sides are texts. What is asked of pairs by their numbers is of pairs alone."""

    def __init__(
        self,
        token_set: TokenSet,
        text: TokenSet,
        *,
        batch_pairs: int,
        max_length: int,
        text_length: int,
        seed: int,
    ) -> None:
        super().__init__(token_set, batch_pairs=batch_pairs, max_length=max_length, seed=seed)
        require(text, text_length, batch_pairs, setting="dpo.text_length")
        self._text, self._plan = text, text.plan(text_length)
        self._text_order = Shuffle(len(self._plan.documents), seed)

    def batch(self, step: int) -> Batch:
        """The batch of a step: chosen sides, rejected sides, texts."""
        pairs, numbers = super().batch(step), self._numbers(step)
        found = self._texts(numbers)
        texts = read(
            self._text,
            found,
            numbers=len(pairs) + found.rows,
            items_B=numbers,
            num_rows=len(numbers),
            width=int(found.lengths.max()),
        )
        return stack([pairs, texts], padding=self._text.info.end_of_text)

    def pieces(self, step: int) -> PiecesOfStep:
        """Which documents are where in `batch(step)`; texts are of token set 1."""
        pairs, texts = super().pieces(step), self._texts(self._numbers(step))
        return PiecesOfStep(
            rows=np.concatenate([pairs.rows, 2 * self._batch_pairs + texts.rows]),
            columns=np.concatenate([pairs.columns, texts.columns]),
            documents=np.concatenate([pairs.documents, texts.documents]),
            starts=np.concatenate([pairs.starts, texts.starts]),
            lengths=np.concatenate([pairs.lengths, texts.lengths]),
            token_sets=np.concatenate([pairs.token_sets, np.ones_like(texts.rows)]),
        )

    def _numbers(self, step: int) -> np.ndarray:
        """The plan's pieces that stand beside the pairs of a step."""
        return self._text_order.take(step * self._batch_pairs, self._batch_pairs)

    def _texts(self, numbers: np.ndarray) -> PiecesOfStep:
        """The given pieces of the plan, a row to each."""
        plan, nothing = self._plan, np.zeros(len(numbers), np.int64)
        documents, starts, lengths = (
            column[numbers].astype(np.int64) for column in (plan.documents, plan.starts, plan.lengths)
        )
        return PiecesOfStep(np.arange(len(numbers)), nothing, documents, starts, lengths, nothing)
