"""Preference accuracy: does a model find the chosen answer of a pair likelier than the rejected one?

A whole conversation is read, and the log-probabilities of the last answer's tokens are compared: their means, which
is what decoding goes by, and their sums, as in DPO as published. Sums tell first of all which answer is the shorter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from minimind.data.rules.evaluation_sets import Item
from minimind.evaluate.dialogue import Conversation
from minimind.evaluate.intervals import Resampling, Values
from minimind.evaluate.material import Facts, Measured, Ngrams, Subject, joined
from minimind.evaluate.results import Kind, RewardScore
from minimind.evaluate.scoring import Documents, document_log_probs
from minimind.tokens.chat import render_batch


@dataclass(frozen=True)
class Pairs:
    """Pairs of conversations that differ in their last answer."""

    kind: ClassVar[Kind] = "preference"
    name: str
    about: str
    facts: Sequence[Facts]
    chosen: Sequence[Conversation]
    rejected: Sequence[Conversation]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def measure(self, subject: Subject) -> Measured:
        """A tie is no preference: it shares the point."""
        rendered = render_batch([*self.chosen, *self.rejected], subject.tokenizer, last_turn_only=True)
        documents = Documents.of([one.ids for one in rendered], [one.trained for one in rendered])
        scored = document_log_probs(
            subject.model, documents, context=subject.context, batch_tokens=subject.batch_tokens
        )
        chosen_P, rejected_P = np.split(scored.sums, 2)
        sides = zip(rendered[: len(chosen_P)], rendered[len(chosen_P) :], strict=True)
        # in another batch the same ids may be rounded otherwise, which is no preference
        rejected_P = np.where([one.ids == other.ids for one, other in sides], chosen_P, rejected_P)
        chosen_counts_P, rejected_counts_P = np.split(np.maximum(scored.counts, 1), 2)
        return _compared(chosen_P, rejected_P, chosen_counts_P, rejected_counts_P)

    def baseline(self, ngrams: Ngrams) -> Measured:
        """The same of an n-gram of the training conversations."""
        if ngrams.chat is None:
            return {}
        sides = [[_before_and_answer(conversation) for conversation in side] for side in (self.chosen, self.rejected)]
        chosen_P, rejected_P = (-ngrams.chat.bits_behind(side) for side in sides)
        rejected_P = np.where([one == other for one, other in zip(*sides, strict=True)], chosen_P, rejected_P)
        sizes = (np.array([max(1, len(answer)) for _, answer in side]) for side in sides)
        found = _compared(chosen_P, rejected_P, *sizes)
        return {metric: found[metric] for metric in self.chance()}

    def chance(self) -> dict[str, float]:
        return {"accuracy_per_token": 0.5, "accuracy": 0.5}

    def questions(self) -> list[Item]:
        """What was asked last, and the chosen answer."""
        return [
            Item(facts.id, self.name, chosen[-2]["content"] or "", (), chosen[-1]["content"] or "", asks=True)
            for facts, chosen in zip(self.facts, self.chosen, strict=True)
        ]


def reward_score(
    policy: Measured, reference: Measured, *, name: str, per_token: bool, resampling: Resampling
) -> RewardScore:
    """DPO's implicit reward (Rafailov et al. 2023, equation 7, without β): what margins gained over a reference's.

    Margins of means where the training compared those.
    """
    metric = "margin_per_token" if per_token else "margin"
    gains = policy[metric].values - reference[metric].values
    accuracy = resampling.figure(_preferred(gains))
    return RewardScore(
        reference=name,
        metric=metric,
        accuracy=accuracy.value,
        interval=accuracy.interval,
        margin=float(gains.mean()),
    )


def _compared(
    chosen_P: np.ndarray, rejected_P: np.ndarray, chosen_sizes_P: np.ndarray, rejected_sizes_P: np.ndarray
) -> Measured:
    """All metrics of log-probabilities and of the sizes they are divided by."""
    margin_P, per_token_P = chosen_P - rejected_P, chosen_P / chosen_sizes_P - rejected_P / rejected_sizes_P
    return {
        "accuracy_per_token": _preferred(per_token_P),
        "accuracy": _preferred(margin_P),
        "margin_per_token": Values.of(per_token_P),
        "margin": Values.of(margin_P),
    }


def _preferred(margins: np.ndarray) -> Values:
    return Values.of((margins > 0) + 0.5 * (margins == 0))


def _before_and_answer(conversation: Conversation) -> tuple[bytes, bytes]:
    return f"{joined(conversation[:-1])}\n".encode(), (conversation[-1]["content"] or "").encode("utf-8")
