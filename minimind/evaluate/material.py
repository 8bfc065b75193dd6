"""What models are measured on: items with their facts, and what every kind of them can say of a model.

A `Material` measures one model (`measure`), a counting model (`baseline`) and a guesser (`chance`) on the same items.
Items come from the held-out rows of a corpus (`rows.py`) or from files of a user (`files.py`). Not here: how each
kind is measured (`perplexity`, `dialogue`, `preference`, `choices`, `prompts`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, Self

import torch

from minimind import runtime
from minimind.data.rules.evaluation_sets import Item
from minimind.evaluate.baseline import ByteNgram
from minimind.evaluate.intervals import Values
from minimind.evaluate.results import Kind
from minimind.infer.engine import Engine
from minimind.infer.generate import load_pair
from minimind.infer.network import Network
from minimind.model.transformer import Transformer
from minimind.runtime import Precision
from minimind.tokens.tokenizer import Tokenizer

CPU_BATCH, GPU_BATCH = 2048, 32768
"""Tokens scored at a time. On a CPU 8192 took 1.7 times as long: activations leave the cache."""
ANSWERS_AT_ONCE = 32
"""Prompts answered together: decoding is bound by reading the weights, which it does once for all of them."""

Measured = dict[str, Values]
"""Metric → its values by item; the first leads."""


@dataclass(frozen=True)
class Facts:
    """What an item is called, and the groups it is counted in."""

    id: str
    source: str = ""
    language: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Subject:
    """A model that is measured."""

    model: Transformer
    tokenizer: Tokenizer
    context: int
    """Tokens it is to see at most."""
    batch_tokens: int
    chats: bool = True
    """Whether it learnt the chat format; else prompts are continued as texts."""
    precision: Precision = "auto"

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        context: int | None = None,
        chats: bool = True,
        device: str = "auto",
        precision: Precision = "auto",
        batch_tokens: int | None = None,
    ) -> Self:
        """The model in a directory; `context` is cut to what it can see."""
        where = runtime.choose_device(device)
        model, tokenizer = load_pair(directory, device, dtype=runtime.choose_precision(precision, where))
        longest = model.config.max_positions
        return cls(
            model=model,
            tokenizer=tokenizer,
            context=min(context or longest, longest),
            batch_tokens=batch_tokens or (CPU_BATCH if where.type == "cpu" else GPU_BATCH),
            chats=chats,
            precision=precision,
        )

    @cached_property
    def engine(self) -> Engine:
        """What answers prompts; made when it is first needed."""
        return Engine(Network(self.model, self.precision), self.tokenizer, max_batch=ANSWERS_AT_ONCE)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.compute_dtype


class Material(Protocol):
    """Items of one kind."""

    @property
    def kind(self) -> Kind: ...  # pragma: no cover

    @property
    def name(self) -> str: ...  # pragma: no cover

    @property
    def about(self) -> str:
        """Where the items are from, for people."""
        ...  # pragma: no cover

    @property
    def facts(self) -> Sequence[Facts]: ...  # pragma: no cover

    @property
    def skipped(self) -> Mapping[str, int]:
        """Reason → items that cannot be measured."""
        ...  # pragma: no cover

    def measure(self, subject: Subject) -> Measured:
        """The model's values, item by item."""
        ...  # pragma: no cover

    def baseline(self, ngrams: "Ngrams") -> Measured:
        """What a byte n-gram gets on the same items; metrics that it has no idea of are left out."""
        ...  # pragma: no cover

    def chance(self) -> dict[str, float]:
        """Metric → what guessing gets, where that is a number."""
        ...  # pragma: no cover

    def questions(self) -> list[Item]:
        """The items as they would stand in a training text; what contamination is looked for by."""
        ...  # pragma: no cover


def _unknown() -> None:
    """Of no training data no n-gram can be made."""


@dataclass(frozen=True)
class Ngrams:
    """Byte n-grams of what models were trained on. Fitting one takes seconds, so each is made when it is asked for."""

    fit_text: Callable[[], ByteNgram | None] = _unknown
    fit_chat: Callable[[], ByteNgram | None] = _unknown

    @cached_property
    def text(self) -> ByteNgram | None:
        """Of the training text."""
        return self.fit_text()

    @cached_property
    def chat(self) -> ByteNgram | None:
        """Of the training conversations."""
        return self.fit_chat()


def joined(turns: Sequence[Mapping[str, str | None]]) -> str:
    """The words of a conversation as one text."""
    return "\n".join(turn.get("content") or "" for turn in turns)
