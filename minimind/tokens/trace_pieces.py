"""Many steps of a training at once: which pieces of documents they had, and how many labels were on them.

`batches.pieces(step)` says it of one step without reading an id; here all steps are gone through, some at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minimind.tokens.batches import PairBatches, RowSource
from minimind.tokens.layout import IGNORE, PiecesOfStep
from minimind.tokens.token_set import TokenSet

ITEMS_AT_ONCE = 1 << 18
"""Rows whose pieces are in memory together: some 50 MB."""
Source = RowSource | PairBatches


@dataclass(frozen=True)
class Steps:
    """The pieces of some consecutive steps."""

    first: int
    """The first step, from 0."""
    stop: int
    steps: np.ndarray
    """Step of each piece, from 0."""
    pieces: PiecesOfStep


def in_steps(batches: Source, batch_items: int, steps: int) -> Iterator[Steps]:
    """The pieces of the first `steps` steps, in order."""
    if isinstance(batches, PairBatches):
        for step in range(steps):
            pieces = batches.pieces(step)
            yield Steps(step, step + 1, np.full(len(pieces.documents), step), pieces)
        return
    at_once = max(1, ITEMS_AT_ONCE // batch_items)
    for first in range(0, steps, at_once):
        stop = min(steps, first + at_once)
        pieces = batches.take_pieces(first * batch_items, (stop - first) * batch_items)
        yield Steps(first, stop, first + pieces.rows // batch_items, pieces)


def in_an_epoch(batches: Source) -> Iterator[PiecesOfStep]:
    """The pieces of all rows, or of all pairs, once."""
    if isinstance(batches, PairBatches):
        for first in range(0, batches.num_pairs, ITEMS_AT_ONCE):
            yield batches.pieces_of(np.arange(first, min(batches.num_pairs, first + ITEMS_AT_ONCE)))
        return
    for first in range(0, batches.num_rows, ITEMS_AT_ONCE):
        yield batches.take_pieces(first, min(batches.num_rows - first, ITEMS_AT_ONCE))


class Labels:
    """Counts tokens and labels of pieces from the masks of their token sets."""

    def __init__(self, token_sets: Sequence[TokenSet]) -> None:
        self._sets = token_sets
        self._running = [
            None if one.trained is None else np.concatenate([[0], np.cumsum(one.trained, dtype=np.int64)])
            for one in token_sets
        ]

    def count(self, pieces: PiecesOfStep) -> tuple[int, int]:
        """Tokens and labels of `pieces`, as `layout.read` gives them."""
        labels = 0
        for number, (tokens, running) in enumerate(zip(self._sets, self._running, strict=True)):
            own = pieces.token_sets == number
            lengths = pieces.lengths[own]
            begins = tokens.offsets[pieces.documents[own]] + pieces.starts[own]
            if running is None:
                labels += int(lengths.sum())
            else:  # the label of a piece's last position belongs to what follows, and is learnt in no such set
                labels += int((running[begins + lengths] - running[begins + np.minimum(1, lengths)]).sum())
        return int(pieces.lengths.sum()), labels


def count_batches(batches: Source, first: int, stop: int) -> tuple[int, int]:
    """The same from the batches themselves, for pieces that augmentation changed."""
    tokens = labels = 0
    for step in range(first, stop):
        batch = batches.batch(step)
        tokens += int((batch.documents_BT >= 0).sum())
        labels += int((batch.labels_BT != IGNORE).sum())
    return tokens, labels
