"""Prompts that are answered, as material: how much answers repeat, how long they are, whether they end.

Of prompts with checks the share that passes them leads. Of open questions, which anything may answer, the share that
got the very same answer as another one does: a model that says “1” to all the world repeats nothing and ends.
Not here: the checks (`checks`), the prompts (`items`), asking a model (`outcomes`).
"""

from collections import Counter
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
    """Prompts, each with what its answer must be like; or open questions, none with checks."""

    kind: ClassVar[Kind] = "prompts"
    name: str
    about: str
    items: Sequence[PromptItem]
    max_tokens: int
    skipped: Mapping[str, int] = field(default_factory=dict)

    @property
    def facts(self) -> Sequence[Facts]:
        kinds = [item.checks[0].kind if item.checks else "" for item in self.items]
        return [Facts(one.id, one.source, one.language, kind) for one, kind in zip(self.items, kinds, strict=True)]

    @property
    def is_open(self) -> bool:
        return not any(item.checks for item in self.items)

    def ask(self, subject: Subject) -> list[Outcome]:
        """The model's answers, and what is wrong with each."""
        return run_prompts(subject.engine, self.items, max_tokens=self.max_tokens, chat=subject.chats)

    def measure(self, subject: Subject) -> Measured:
        return self.values(self.ask(subject))

    def values(self, outcomes: Sequence[Outcome]) -> Measured:
        """The figures of some answers."""
        said = Counter(one.text.strip() for one in outcomes if one.passed)  # what was too long to be asked has none
        same = [one.passed and said[one.text.strip()] > 1 for one in outcomes]
        leading = {"same": same} if self.is_open else {"passed": [one.passed for one in outcomes]}
        return {
            **{metric: Values.of(np.array(values)) for metric, values in leading.items()},
            "repetition": Values.of(np.array([one.repetition for one in outcomes])),
            "ended": Values.of(np.array([one.ended for one in outcomes])),
            "tokens": Values.of(np.array([one.tokens for one in outcomes])),
        }

    def baseline(self, ngrams: Ngrams) -> Measured:
        """None: an n-gram is not asked."""
        return {}

    def chance(self) -> dict[str, float]:
        """A guesser has no answer to these."""
        return {} if self.is_open else {"passed": 0.0}

    def questions(self) -> list[Item]:
        """What was asked last. What the answer is to look like nobody can copy; an open question has no right one."""
        if self.is_open:
            return []
        return [Item(item.id, self.name, item.question, (), "", asks=True) for item in self.items]
