"""How well a model knows what the assistant says next: the loss of SFT on chats that were held out.

Only the assistant's words and the token that ends its turn are scored; the rest of the conversation is given. Bits
per byte count the words alone, so they can be compared between tokenizers; nats per token are what a training's
curve shows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from minimind.data.rules.evaluation_sets import Item
from minimind.evaluate.intervals import Values
from minimind.evaluate.material import Facts, Measured, Ngrams, Subject, joined
from minimind.evaluate.results import Kind
from minimind.evaluate.scoring import Documents, token_log_probs
from minimind.tokens.chat import Message, render_batch

Conversation = Sequence[Message]


@dataclass(frozen=True)
class Chats:
    """Conversations whose answers are to be predicted."""

    kind: ClassVar[Kind] = "chat"
    name: str
    about: str
    facts: Sequence[Facts]
    conversations: Sequence[Conversation]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def measure(self, subject: Subject) -> Measured:
        rendered = render_batch(self.conversations, subject.tokenizer)
        documents = Documents.of([one.ids for one in rendered], [one.trained for one in rendered])
        log_probs = token_log_probs(
            subject.model, documents, context=subject.context, batch_tokens=subject.batch_tokens
        )
        is_word = ~np.isin(documents.tokens, list(subject.tokenizer.specials.named()))
        sizes = np.array([one.trained_bytes for one in rendered], np.float64)
        return {
            "nats_per_token": Values(-documents.sums(log_probs), documents.sums(documents.targets())),
            "bits_per_byte": Values(-documents.sums(log_probs * is_word) / math.log(2), sizes),
        }

    def baseline(self, ngrams: Ngrams) -> Measured:
        """Bits of the answers, behind what was said before."""
        if ngrams.chat is None:
            return {}
        bits, sizes = np.zeros(len(self.conversations)), np.zeros(len(self.conversations))
        for number, conversation in enumerate(self.conversations):
            pairs = [
                (f"{joined(conversation[:place])}\n".encode(), (turn["content"] or "").encode("utf-8"))
                for place, turn in enumerate(conversation)
                if turn["role"] == "assistant"
            ]
            bits[number] = ngrams.chat.bits_behind(pairs).sum()
            sizes[number] = sum(len(text) for _, text in pairs)
        return {"bits_per_byte": Values(bits, sizes)}

    def chance(self) -> dict[str, float]:
        return {"bits_per_byte": 8.0}

    def questions(self) -> list[Item]:
        """The first thing that was asked, and its answer."""
        return [
            Item(facts.id, self.name, _first(conversation, "user"), (), _first(conversation, "assistant"), asks=True)
            for facts, conversation in zip(self.facts, self.conversations, strict=True)
        ]


def _first(conversation: Conversation, role: str) -> str:
    return next((turn["content"] or "" for turn in conversation if turn["role"] == role), "")
