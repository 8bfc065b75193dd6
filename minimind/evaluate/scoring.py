"""Summed log-probabilities of documents under a model: what bits per byte, answers and preferences are made of.

A document longer than the context is read in windows that overlap by half, and each of its tokens
is scored once, in the first window that holds it: with at least half a context before it, or with
all there is. Windows are batched by length, so that little is computed on padding; padding is at
the end, where causal attention never looks.

Axes: B windows, T time, N scored tokens, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from minimind.errors import DataError
from minimind.model.cross_entropy import label_log_probs
from minimind.model.transformer import Transformer
from minimind.tokens.token_set import TokenSet


@dataclass(frozen=True)
class Documents:
    """Ids of some documents, one after another."""

    tokens: np.ndarray
    offsets: np.ndarray
    """Documents + 1 places in `tokens`."""
    scored: np.ndarray
    """By token, whether it counts as a target; the first of a document never does."""

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], scored: Sequence[Sequence[bool]] | None = None) -> Self:
        """Documents of which all ids are scored but the first of each, or those that `scored` says."""
        lengths = [len(document) for document in ids]
        tokens = np.fromiter((index for document in ids for index in document), np.int64, sum(lengths))
        flags = np.ones(len(tokens), bool)
        if scored is not None:
            flags = np.fromiter((flag for document in scored for flag in document), bool, len(tokens))
        return cls(tokens, np.cumsum([0, *lengths]), flags)

    @classmethod
    def of_token_set(cls, token_set: TokenSet) -> Self:
        """Those of a token set; in chat and preference sets the trained tokens are scored."""
        tokens = token_set.tokens[: token_set.num_tokens]
        trained = np.ones(len(tokens), bool) if token_set.trained is None else token_set.trained[: len(tokens)] > 0
        return cls(tokens, np.asarray(token_set.offsets), trained)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def targets(self) -> np.ndarray:
        """By token, whether it is scored."""
        targets = self.scored.copy()
        targets[self.offsets[:-1]] = False
        return targets

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sum of a value per token over each document, float64."""
        return np.diff(np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])[self.offsets])


@dataclass(frozen=True)
class Window:
    """Inputs `start … stop − 1` of the tokens; the labels after inputs `score_from … stop − 1` count."""

    start: int
    stop: int
    score_from: int


@dataclass(frozen=True)
class LogProbs:
    """Per document: the summed log-probability of its scored tokens (nats, float64) and how many they are."""

    sums: np.ndarray
    counts: np.ndarray


def document_log_probs(model: Transformer, documents: Documents, *, context: int, batch_tokens: int = 2048) -> LogProbs:
    """Score each document from its own start, at most `context` tokens being seen at once.

    The first token of a document is given. Runs on the model's device, in its dtype. Raises DataError where a
    log-probability is not finite.
    """
    log_probs_P = token_log_probs(model, documents, context=context, batch_tokens=batch_tokens)
    targets_P = documents.targets()
    return LogProbs(documents.sums(log_probs_P * targets_P), documents.sums(targets_P).astype(np.int64))


def token_log_probs(model: Transformer, documents: Documents, *, context: int, batch_tokens: int = 2048) -> np.ndarray:
    """The log-probability of every scored token, float64 and as long as the tokens; 0 for the others.

    Raises as `document_log_probs` does.
    """
    log_probs_P = np.zeros(len(documents.tokens))
    windows = [
        window
        for start, end in zip(documents.offsets[:-1].tolist(), documents.offsets[1:].tolist(), strict=True)
        for window in _windows(start, end, context)
    ]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for batch in _batches(windows, batch_tokens):
            places_N, log_probs_N = _score(model, documents, batch)
            log_probs_P[places_N] = log_probs_N
    model.train(was_training)
    finite = np.isfinite(documents.sums(log_probs_P))
    if not finite.all():
        raise DataError(
            f"the model's probabilities are not numbers in {int((~finite).sum())} of {len(finite)} documents: "
            "its training diverged or its weights are damaged; train it again with a lower lr"
        )
    return log_probs_P


def choose(count: int, *, limit: int, seed: int) -> np.ndarray:
    """Sorted places in 0 … count − 1: all of them, or `limit` chosen by `seed`."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).permutation(count)[:limit])


def _windows(start: int, end: int, context: int) -> Iterator[Window]:
    """The windows of the document in tokens start … end − 1; its last token is no input."""
    last, scored, stop = end - 1, start, min(start + context, end - 1)
    while scored < last:
        yield Window(max(start, stop - context), stop, scored)
        scored, stop = stop, min(stop + max(1, context // 2), last)


def _batches(windows: list[Window], batch_tokens: int) -> Iterator[list[Window]]:
    """The windows, longest first, so many at a time that a padded batch has at most `batch_tokens` tokens."""
    ordered = sorted(windows, key=lambda window: window.start - window.stop)
    first = 0
    while first < len(ordered):
        size = max(1, batch_tokens // (ordered[first].stop - ordered[first].start))
        yield ordered[first : first + size]
        first += size


def _score(model: Transformer, documents: Documents, windows: list[Window]) -> tuple[np.ndarray, np.ndarray]:
    """The place of every scored token of a batch among all tokens, and its log-probability in float64."""
    length = windows[0].stop - windows[0].start
    tokens_BT = np.zeros((len(windows), length), np.int64)
    labels_BT = np.zeros((len(windows), length), np.int64)
    scored_BT = np.zeros((len(windows), length), bool)
    for row, window in enumerate(windows):
        size, first = window.stop - window.start, window.score_from - window.start
        tokens_BT[row, :size] = documents.tokens[window.start : window.stop]
        labels_BT[row, :size] = documents.tokens[window.start + 1 : window.stop + 1]
        scored_BT[row, first:size] = documents.scored[window.score_from + 1 : window.stop + 1]
    rows_N, columns_N = np.nonzero(scored_BT)
    weight_VD = model.output_weight
    hidden_BTD, _ = model.hidden(_tensor(tokens_BT, weight_VD.device))
    hidden_ND = hidden_BTD[_tensor(rows_N, weight_VD.device), _tensor(columns_N, weight_VD.device)]
    log_probs_N = label_log_probs(hidden_ND, weight_VD, _tensor(labels_BT[scored_BT], weight_VD.device))
    places_N = np.array([window.start + 1 for window in windows])[rows_N] + columns_N
    return places_N, log_probs_N.double().cpu().numpy()


def _tensor(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
