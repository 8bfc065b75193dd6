"""Prompts whose answers can be checked, as material: how many pass, how much they repeat, whether they end.

Not here: the checks (`checks`), the prompts (`prompts`), asking a model (`outcomes`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from minimind.data.rules.evaluation_sets import Item
from minimind.evaluate.intervals import Values
from minimind.evaluate.material import Facts, Measured, Ngrams, Subject
from minimind.evaluate.prompts.items import PromptItem
from minimind.evaluate.prompts.outcomes import Outcome, run_prompts
from minimind.evaluate.results import Kind


@dataclass(frozen=True)
class Asked:
    """Prompts, each with what its answer must be like."""

    kind: ClassVar[Kind] = "prompts"
    name: str
    about: str
    items: Sequence[PromptItem]
    max_tokens: int
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def facts(self) -> Sequence[Facts]:
        return [Facts(item.id, item.source, item.language, item.checks[0].kind) for item in self.items]

    def ask(self, subject: Subject) -> list[Outcome]:
        """The model's answers, and what is wrong with each."""
        return run_prompts(subject.engine, self.items, max_tokens=self.max_tokens, chat=subject.chats)

    def measure(self, subject: Subject) -> Measured:
        return self.values(self.ask(subject))

    def values(self, outcomes: Sequence[Outcome]) -> Measured:
        """The figures of some answers."""
        return {
            "passed": Values.of(np.array([one.passed for one in outcomes])),
            "repetition": Values.of(np.array([one.repetition for one in outcomes])),
            "ended": Values.of(np.array([one.ended for one in outcomes])),
            "tokens": Values.of(np.array([one.tokens for one in outcomes])),
        }

    def baseline(self, ngrams: Ngrams) -> Measured:
        """None: an n-gram is not asked."""
        return {}

    def chance(self) -> dict[str, float]:
        """A guesser has no answer to these."""
        return {"passed": 0.0}

    def questions(self) -> list[Item]:
        """What was asked last. What the answer is to look like nobody can copy."""
        return [Item(item.id, self.name, item.question, (), "", asks=True) for item in self.items]
