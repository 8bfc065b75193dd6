"""Bits per byte: −log₂ p of a text by its length in UTF-8 bytes.

Unlike a loss per token it can be compared between tokenizers, with a byte n-gram and with a
compressor. Special tokens are no text: the <|endoftext|> before a document is given, and the one
behind it is not scored.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from minimind.data.rules.evaluation_sets import Item
from minimind.errors import DataError
from minimind.evaluate.intervals import Values
from minimind.evaluate.material import Facts, Measured, Ngrams, Subject
from minimind.evaluate.results import Kind
from minimind.evaluate.scoring import Documents, document_log_probs


@dataclass(frozen=True)
class Texts:
    """Texts to predict."""

    kind: ClassVar[Kind] = "text"
    name: str
    about: str
    facts: Sequence[Facts]
    texts: Sequence[str]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not any(self.texts):
            raise DataError(f"{self.about}: has no text to measure bits per byte on")

    @property
    def sizes(self) -> np.ndarray:
        """UTF-8 bytes by text."""
        return np.array([len(text.encode("utf-8")) for text in self.texts], np.float64)

    def measure(self, subject: Subject) -> Measured:
        """Bits of every text, each read from its start in windows of the model's context."""
        start = subject.tokenizer.specials.end_of_text
        ids = [[start, *encoded] for encoded in subject.tokenizer.encode_batch(self.texts)]
        scored = document_log_probs(
            subject.model, Documents.of(ids), context=subject.context, batch_tokens=subject.batch_tokens
        )
        return {"bits_per_byte": Values(-scored.sums / math.log(2), self.sizes)}

    def baseline(self, ngrams: Ngrams) -> Measured:
        if ngrams.text is None:
            return {}
        return {"bits_per_byte": Values(ngrams.text.bits([text.encode("utf-8") for text in self.texts]), self.sizes)}

    def chance(self) -> dict[str, float]:
        """A byte out of 256."""
        return {"bits_per_byte": 8.0}

    def questions(self) -> list[Item]:
        return [
            Item(facts.id, self.name, text, (), "", asks=False)
            for facts, text in zip(self.facts, self.texts, strict=True)
        ]
