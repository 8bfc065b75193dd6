"""Small questions to a model in training, beside its loss: does it know how a text goes on, does it say things twice.

    validation_cloze_accuracy      held-out documents whose own next tokens are likelier to the model than those of
                                   three others; a share, 0.25 by chance
    validation_answer_repetition   share of repeated 4-grams in greedy continuations of held-out beginnings
    validation_answer_tokens       their mean length, at most `ANSWER`
    validation_answers_ended       of chats: the share of answers that ended by themselves
    probe_seconds                  what these took

The questions follow from the held-out token set alone, so they are the same in every training with it. A text is asked
for what stands behind its first `CONTEXT` tokens, a chat for its first answer. Pairs are asked nothing: their accuracy
is a figure already.

Every rank asks everything, in batches of the same size and as many of them: figures do not depend on how many ranks
there are, and a model whose weights are divided over them is called by all. Nothing is drawn, and compiled code is not
used, so that no graph is made for a few short rows: the training goes on to the bit as without probes.

Axes: B rows, T time, N tokens (B·T), D model width. Not here: the loss on held-out rows (`validation.py`), and how good
a finished model is (`minimind.evaluate`).
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, takewhile

import numpy as np
import torch
from torch import Tensor

from minimind.data.kinds import CONVERSATIONS
from minimind.model.cross_entropy import IGNORE, label_log_probs
from minimind.model.transformer import Transformer
from minimind.tokens.repetition import repetition_rate
from minimind.tokens.shuffle import Shuffle
from minimind.tokens.token_set import TokenSet
from minimind.train.loop import Figures
from minimind.train.parallel import Ranks

CONTEXT, CHOICE = 48, 16
"""Tokens before a choice at most, of texts exactly, and tokens of a choice: a look costs about what a step of 4,096
tokens costs."""
CLOZE_ITEMS, FEWEST_ITEMS = 32, 8
"""Documents asked for, and those below which a share says nothing."""
CHOICES = 4
ITEMS_AT_ONCE = 8
"""Of a forward pass: 2,048 positions, which no training has too little memory for."""
ANSWERS, ANSWER = 4, 32
"""Beginnings, and tokens that each is continued by. Nothing is kept between tokens: few and short ones are cheap."""
BEGINNING, PROMPT = 16, 96
"""Tokens of a text's beginning, and of a chat's at most; a longer one is cut from the left."""
LOOKED_AT = 4096
"""Held-out documents among which those that are long enough are looked for."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Cloze:
    """A beginning, and ways to go on of `CHOICE` tokens each: its own first, then those of other documents."""

    context: Ids
    choices: tuple[Ids, ...]


@dataclass(frozen=True)
class Probes:
    """What a model is asked; made once for a training."""

    cloze: tuple[Cloze, ...]
    beginnings: tuple[Ids, ...]
    stops: frozenset[int]
    """Ids at which an answer ends by itself."""
    chat: bool

    @classmethod
    def of(cls, held_out: TokenSet, *, length: int, stops: frozenset[int]) -> "Probes":
        """The questions to a model with rows of `length`; none of pairs, and none in rows that cannot hold them."""
        told, begun = list[tuple[Ids, Ids]](), list[Ids]()
        if held_out.kind == "preference" or length < CONTEXT + CHOICE:
            return cls((), (), stops, chat=False)
        for piece in _pieces(held_out, prompt=min(PROMPT, length - ANSWER)):
            if piece.told and len(told) < CLOZE_ITEMS:
                told.append(piece.told)
            if piece.beginning and len(begun) < ANSWERS:
                begun.append(piece.beginning)
            if len(told) == CLOZE_ITEMS and len(begun) == ANSWERS:
                break
        return cls(_cloze(told), tuple(begun), stops, chat=held_out.kind in CONVERSATIONS)


def probe(model: Transformer, probes: Probes, ranks: Ranks) -> Figures:
    """The figures of the module's docstring, those of them that there are questions for. Every rank calls it."""
    figures, started = Figures(), time.perf_counter()
    with _only_asked(model):
        if probes.cloze:
            points = cloze_points(model, probes.cloze, ranks)
            figures["validation_cloze_accuracy"] = sum(points) / len(points)
        if probes.beginnings:
            answers = [_until(probes.stops, ids) for ids in continuations(model, probes.beginnings, ranks)]
            rates = [repetition_rate(answer) for answer in answers]
            figures["validation_answer_repetition"] = sum(rates) / len(rates)
            figures["validation_answer_tokens"] = sum(map(len, answers)) / len(answers)
            if probes.chat:
                ended = sum(len(answer) < ANSWER for answer in answers)
                figures["validation_answers_ended"] = ended / len(answers)
    return figures | {"probe_seconds": time.perf_counter() - started} if figures else figures


@torch.no_grad()
def cloze_points(model: Transformer, items: Sequence[Cloze], ranks: Ranks) -> list[float]:
    """For each item 1 where its own choice is the likeliest, a share where others are as likely, else 0."""
    points = []
    width = max(len(item.context) for item in items) + CHOICE - 1
    for first in range(0, len(items), ITEMS_AT_ONCE):
        ranks.beat()
        some = items[first : first + ITEMS_AT_ONCE]
        for scores in _choice_log_probs(model, some, width, ranks):
            best = scores == scores.max()
            points.append(float(best[0] / max(best.sum(), 1)))  # of scores that are not numbers none is the best
    return points


@torch.no_grad()
def continuations(model: Transformer, beginnings: Sequence[Ids], ranks: Ranks) -> list[Ids]:
    """The `ANSWER` likeliest tokens after each beginning, one by one, whatever they are."""
    ends_B = torch.tensor([len(ids) for ids in beginnings], device=ranks.device)
    rows_B = torch.arange(len(beginnings), device=ranks.device)
    longest = max(len(ids) for ids in beginnings)
    tokens_BT, documents_BT = _padded(beginnings, longest + ANSWER, ranks.device)
    for step in range(ANSWER):  # to the end for all: where one rank stopped, the others would wait for it
        ranks.beat()
        read = slice(longest + step)
        hidden_BTD, _ = model.hidden(tokens_BT[:, read], documents_BT=documents_BT[:, read])
        at_B = ends_B + step
        tokens_BT[rows_B, at_B] = model.logits(hidden_BTD[rows_B, at_B - 1]).argmax(-1)
        documents_BT[rows_B, at_B] = 0
    return [tuple(ids[len(begun) :][:ANSWER]) for begun, ids in zip(beginnings, tokens_BT.tolist(), strict=True)]


def _choice_log_probs(model: Transformer, items: Sequence[Cloze], width: int, ranks: Ranks) -> np.ndarray:
    """Summed log-probabilities of the items' choices, one item to a line, in rows of `width`."""
    lines = [(len(item.context), item.context + choice) for item in items for choice in item.choices]
    labels = [(IGNORE,) * (context - 1) + ids[context:] for context, ids in lines]
    tokens_BT, documents_BT = _padded([ids[:-1] for _, ids in lines], width, ranks.device)
    labels_BT, _ = _padded(labels, width, ranks.device, padding=IGNORE)
    hidden_BTD, _ = model.hidden(tokens_BT, documents_BT=documents_BT)
    logp_N = label_log_probs(hidden_BTD.flatten(0, 1), model.output_weight, labels_BT.flatten())
    return logp_N.view_as(labels_BT).cpu().double().sum(1).numpy().reshape(len(items), -1)


def _padded(rows: Sequence[Ids], width: int, device: torch.device, *, padding: int = 0) -> tuple[Tensor, Tensor]:
    """Rows filled up on the right, B×T, and whose position is whose: document 0, or −1 for padding."""
    ids_BT = np.full((len(rows), width), padding, np.int64)
    for line, ids in zip(ids_BT, rows, strict=True):
        line[: len(ids)] = ids
    lengths_B = np.array([len(ids) for ids in rows])
    documents_BT = np.where(np.arange(width) < lengths_B[:, None], 0, -1).astype(np.int32)
    return torch.from_numpy(ids_BT).to(device), torch.from_numpy(documents_BT).to(device)


def _until(stops: frozenset[int], ids: Ids) -> Ids:
    """What stands before the first stop."""
    return tuple(takewhile(lambda token: token not in stops, ids))


@contextmanager
def _only_asked(model: Transformer) -> Iterator[None]:
    """Inside, the model is in evaluation, and what was compiled of it is not used."""
    was_training = model.training
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        yield
    model.train(was_training)


@dataclass(frozen=True)
class _Piece:
    """A held-out document, and what of it a model is asked to go on with: the ids from `start` to before `stop`."""

    ids: Ids
    start: int
    stop: int
    beginning: Ids
    """What an answer of the model's own goes on from; empty where the document has none."""

    @property
    def told(self) -> tuple[Ids, Ids] | None:
        """The context and the document's own choice; None where the document is too short."""
        if not self.start or self.stop - self.start < CHOICE:
            return None
        return self.ids[: self.start][-CONTEXT:], self.ids[self.start : self.start + CHOICE]


def _pieces(held_out: TokenSet, *, prompt: int) -> Iterator[_Piece]:
    """Documents in a fixed order that looks random, with beginnings of chats of at most `prompt` tokens."""
    count = min(held_out.num_documents, LOOKED_AT)
    for number in Shuffle(held_out.num_documents, seed=0).take(0, count).tolist():
        begin, end = held_out.offsets[[number, number + 1]].tolist()
        if held_out.kind == "pretrain":
            end = min(end, begin + CONTEXT + CHOICE)
        ids, mask, (at,) = held_out.runs(np.array([begin]), np.array([end - begin]))
        here = slice(at, at + end - begin)
        document = tuple(ids[here].tolist())
        if mask is None:
            beginning = document[:BEGINNING] if len(document) > BEGINNING else ()
            yield _Piece(document, CONTEXT, len(document), beginning)
        else:
            start, stop = _first_run(mask[here])
            yield _Piece(document, start, stop, document[:start][-prompt:] if stop else ())


def _first_run(mask: np.ndarray) -> tuple[int, int]:
    """From where to where the mask is set for the first time; (0, 0) where it never is."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask != 0, [0]])))
    return (int(edges[0]), int(edges[1])) if len(edges) else (0, 0)


def _cloze(told: Sequence[tuple[Ids, Ids]]) -> tuple[Cloze, ...]:
    """Every document's own choice against those of the three after it; what says the same is passed over.

    Each is right once and wrong three times, so a model that looks at the choices alone is at chance.
    """
    items = []
    for number, (context, own) in enumerate(told):
        others = (choice for _, choice in [*told[number + 1 :], *told[:number]])
        choices = tuple(islice(dict.fromkeys([own, *others]), CHOICES))
        if len(choices) == CHOICES:
            items.append(Cloze(context, choices))
    return tuple(items) if len(items) >= FEWEST_ITEMS else ()
