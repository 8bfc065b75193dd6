"""Summed log-probabilities of documents under a model: what bits per byte and preferences are made of.

A document longer than the context is read in windows that overlap by half, and each of its tokens
is scored once, in the first window that holds it: with at least half a context before it, or with
all there is. Windows are batched by length, so that little is computed on padding; padding is at
the end, where causal attention never looks.

Axes: B windows, T time, N scored tokens, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from minimind.errors import DataError
from minimind.model.cross_entropy import label_log_probs
from minimind.model.transformer import Transformer
from minimind.tokens.token_set import TokenSet


@dataclass(frozen=True)
class Window:
    """Inputs `start … stop − 1` of the token file; the labels after inputs `score_from … stop − 1` count."""

    item: int
    """Where the sum goes: the place of the document in the list that was asked for."""
    start: int
    stop: int
    score_from: int


@dataclass(frozen=True)
class LogProbs:
    """Per document: the summed log-probability of its scored tokens (nats, float64) and how many they are."""

    sums: np.ndarray
    counts: np.ndarray


def document_log_probs(
    model: Transformer, token_set: TokenSet, *, documents: Sequence[int], context: int, batch_tokens: int = 2048
) -> LogProbs:
    """Score `documents` of a token set, each from its own start.

    The first token of a document is given, the first of the next is not scored. In chat and
    preference sets only trained tokens count. Runs on the model's device, in its dtype. Raises
    DataError where a log-probability is not finite.
    """
    sums, counts = np.zeros(len(documents)), np.zeros(len(documents), np.int64)
    windows = [
        window
        for item, document in enumerate(documents)
        for window in _windows(item, int(token_set.offsets[document]), int(token_set.offsets[document + 1]), context)
    ]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in _batches(windows, batch_tokens):
            log_probs_N, items_N = _score(model, token_set, batch)
            np.add.at(sums, items_N, log_probs_N)
            np.add.at(counts, items_N, 1)
    model.train(was_training)
    if not np.isfinite(sums).all():
        raise DataError(
            f"the model's probabilities are not numbers in {int((~np.isfinite(sums)).sum())} of {len(sums)} documents: "
            "its training diverged or its weights are damaged; train it again with a lower lr"
        )
    return LogProbs(sums, counts)


def choose(count: int, *, limit: int, seed: int) -> np.ndarray:
    """Sorted places in 0 … count − 1: all of them, or `limit` chosen by `seed`."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _windows(item: int, start: int, end: int, context: int) -> Iterator[Window]:
    """The windows of the document in tokens start … end − 1; its last token is no input."""
    last, scored, stop = end - 1, start, min(start + context, end - 1)
    while scored < last:
        yield Window(item, max(start, stop - context), stop, scored)
        scored, stop = stop, min(stop + max(1, context // 2), last)


def _batches(windows: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """The windows, longest first, so many at a time that a padded batch has at most `batch_tokens` tokens."""
    ordered = sorted(windows, key=lambda window: window.start - window.stop)
    first = 0
    while first < len(ordered):
        size = max(1, batch_tokens // (ordered[first].stop - ordered[first].start))
        yield ordered[first : first + size]
        first += size


def _score(model: Transformer, token_set: TokenSet, windows: list[Window]) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability of every scored token of a batch, float64, and the item each belongs to."""
    length = windows[0].stop - windows[0].start
    tokens_BT = np.zeros((len(windows), length), np.int64)
    labels_BT = np.zeros((len(windows), length), np.int64)
    scored_BT = np.zeros((len(windows), length), bool)
    for row, window in enumerate(windows):
        size, first = window.stop - window.start, window.score_from - window.start
        tokens_BT[row, :size] = token_set.tokens[window.start : window.stop]
        labels_BT[row, :size] = token_set.tokens[window.start + 1 : window.stop + 1]
        scored_BT[row, first:size] = True
        if token_set.trained is not None:
            scored_BT[row, first:size] &= token_set.trained[window.score_from + 1 : window.stop + 1].astype(bool)
    weight_VD = model.output_weight
    hidden_BTD, _ = model.hidden(_tensor(tokens_BT, weight_VD.device))
    hidden_ND = hidden_BTD[_tensor(scored_BT, weight_VD.device)]
    log_probs_N = label_log_probs(hidden_ND, weight_VD, _tensor(labels_BT[scored_BT], weight_VD.device))
    items_N = np.repeat([window.item for window in windows], scored_BT.sum(axis=1))
    return log_probs_N.double().cpu().numpy(), items_N


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
