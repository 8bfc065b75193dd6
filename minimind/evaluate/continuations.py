"""Log-probabilities of the ways to go on from one beginning: what multiple choice and cloze are made of.

A row of a batch holds a question's beginning once, and its choices behind it: each choice sees the beginning and
itself, and its positions go on from the beginning's. So what all choices share is computed once; four choices of ten
tokens behind a hundred cost 140 tokens, not 440. Padding is at the end, where nobody looks.

Axes: B questions, T time, N scored tokens, D model width, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os.path import commonprefix

import numpy as np
import torch
from torch import Tensor

from minimind.errors import DataError
from minimind.model.attention import Visible
from minimind.model.transformer import Transformer
from minimind.tokens.tokenizer import Tokenizer

LOGITS = 1 << 23
"""Logits that are formed at once: 32 MB in fp32."""


@dataclass(frozen=True)
class Question:
    """A beginning and the ways to go on, as ids."""

    prefix: tuple[int, ...]
    """What all choices share; never empty."""
    choices: tuple[tuple[int, ...], ...]
    """What follows it; none is empty."""
    skips: tuple[int, ...]
    """How many ids at the start of each choice still spell the beginning, and are not scored."""

    @property
    def length(self) -> int:
        """Tokens of its row. The last of each choice is predicted and need not be read."""
        return len(self.prefix) + sum(len(choice) - 1 for choice in self.choices)


@dataclass(frozen=True)
class ChoiceScores:
    """By choice: the summed log-probability of its scored ids (nats, float64), and whether each was the likeliest."""

    log_probs: np.ndarray
    greedy: np.ndarray


def encode_question(
    tokenizer: Tokenizer, context: str, continuations: Sequence[str], *, max_tokens: int
) -> tuple[Question, bool]:
    """The ids of `context` with each continuation, encoded whole, and whether it was cut.

    It starts as a document does, with END_OF_TEXT. What is longer than `max_tokens` is cut from the left. Where a
    piece of the vocabulary reaches from the context into a continuation, it is scored whole. Raises DataError for a
    continuation that is empty or longer than `max_tokens`.
    """
    start = tokenizer.specials.end_of_text
    alone, *whole = tokenizer.encode_batch([context, *(context + one for one in continuations)])
    if not all(continuations):
        raise DataError("a choice is empty: nothing of it can be scored")
    return _question([start, *alone], [[start, *ids] for ids in whole], max_tokens)


def continue_ids(prompt: Sequence[int], continuations: Sequence[Sequence[int]], *, max_tokens: int) -> Question:
    """The question of a beginning and continuations that are ids already."""
    return _question(list(prompt), [[*prompt, *ids] for ids in continuations], max_tokens)[0]


def _question(alone: list[int], whole: list[list[int]], max_tokens: int) -> tuple[Question, bool]:
    own = [len(commonprefix([alone, ids])) for ids in whole]
    shared = min(own)
    room = max_tokens - max(len(ids) - shared for ids in whole) + 1
    if room < 1:
        raise DataError(f"a choice has {max_tokens - room + 1} tokens; {max_tokens} can be seen at once")
    question = Question(
        prefix=tuple(alone[max(0, shared - room) : shared]),
        choices=tuple(tuple(ids[shared:]) for ids in whole),
        skips=tuple(length - shared for length in own),
    )
    return question, shared > room


def choice_scores(model: Transformer, questions: Sequence[Question], *, batch_tokens: int = 2048) -> list[ChoiceScores]:
    """The scores of every question's choices, in order. Runs on the model's device, in its dtype.

    Raises DataError where a log-probability is not finite.
    """
    log_probs = [np.zeros(len(question.choices)) for question in questions]
    greedy = [np.ones(len(question.choices), bool) for question in questions]
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for numbers in _batches(questions, batch_tokens):
            scored = _score(model, [questions[number] for number in numbers])
            for row, choice, log_p, likeliest in zip(*scored, strict=True):
                log_probs[numbers[row]][choice] += log_p
                greedy[numbers[row]][choice] &= likeliest
    model.train(was_training)
    if broken := sum(not np.isfinite(values).all() for values in log_probs):
        raise DataError(
            f"the model's probabilities are not numbers in {broken} of {len(questions)} questions: its training "
            "diverged or its weights are damaged; train it again with a lower lr"
        )
    return [ChoiceScores(*pair) for pair in zip(log_probs, greedy, strict=True)]


def _batches(questions: Sequence[Question], batch_tokens: int) -> Iterator[list[int]]:
    """Numbers of questions, longest first, so many at a time that a padded batch has at most `batch_tokens`."""
    order = sorted(range(len(questions)), key=lambda number: -questions[number].length)
    first = 0
    while first < len(order):
        size = max(1, batch_tokens // questions[order[first]].length)
        yield order[first : first + size]
        first += size


def _score(model: Transformer, questions: Sequence[Question]) -> tuple[list[int], list[int], list[float], list[bool]]:
    """Row, choice, log-probability and whether it was the likeliest, of every scored token of a batch."""
    time = max(question.length for question in questions)
    tokens_BT = np.zeros((len(questions), time), np.int64)
    positions_BT = np.zeros((len(questions), time), np.int64)
    branches_BT = np.full((len(questions), time), -1, np.int64)
    rows, choices, places, labels = list[int](), list[int](), list[int](), list[int]()
    for row, question in enumerate(questions):
        at = len(question.prefix)
        tokens_BT[row, :at], positions_BT[row, :at], branches_BT[row, :at] = question.prefix, np.arange(at), 0
        for number, (choice, skip) in enumerate(zip(question.choices, question.skips, strict=True)):
            read = len(choice) - 1
            tokens_BT[row, at : at + read] = choice[:-1]
            positions_BT[row, at : at + read] = np.arange(len(question.prefix), len(question.prefix) + read)
            branches_BT[row, at : at + read] = number + 1
            before = [len(question.prefix) - 1, *range(at, at + read)]  # where each id of the choice is predicted
            count = len(choice) - skip
            rows += [row] * count
            choices += [number] * count
            places += before[skip:]
            labels += choice[skip:]
            at += read
    hidden_BTD, _ = model.hidden(
        _on(tokens_BT, model.device),
        positions_BT=_on(positions_BT, model.device),
        visible=_branching(_on(branches_BT, model.device), model.compute_dtype),
    )
    hidden_ND = hidden_BTD[_on(np.array(rows), model.device), _on(np.array(places), model.device)]
    log_probs_N, likeliest_N = _at_labels(model, hidden_ND, _on(np.array(labels), model.device))
    return rows, choices, log_probs_N.tolist(), likeliest_N.tolist()


def _branching(branches_BT: Tensor, dtype: torch.dtype) -> Visible:
    """A position sees what is not later, of the beginning (branch 0) and of its own branch."""
    at_T = torch.arange(branches_BT.shape[1], device=branches_BT.device)
    own_BTS = branches_BT[:, :, None] == branches_BT[:, None, :]
    seen_BTS = (own_BTS | (branches_BT == 0)[:, None, :]) & (at_T <= at_T[:, None])
    return Visible(
        "fused",
        bias_BTS=torch.zeros(seen_BTS.shape, dtype=dtype, device=at_T.device).masked_fill_(~seen_BTS, -torch.inf),
    )


def _at_labels(model: Transformer, hidden_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probability of each label in float64, and whether no other was likelier."""
    log_probs, likeliest = [], []
    size = max(1, LOGITS // model.config.vocab_size)
    for first in range(0, len(labels_N), size):
        log_probs_NV = model.logits(hidden_ND[first : first + size]).log_softmax(-1)
        own_N = log_probs_NV.gather(1, labels_N[first : first + size, None])[:, 0]
        log_probs.append(own_N.double())
        likeliest.append(own_N >= log_probs_NV.amax(1))
    return torch.cat(log_probs).cpu(), torch.cat(likeliest).cpu()


def _on(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device)
