"""Tokens to text that may be shown at once, whatever comes next.

A character is held back until all its bytes are there, and what could still become a stop string until it cannot. Tags
(`<think>`, `<tool_call>`, …) are tokens: `TextStream` writes them by name and remembers where, so that `Channels` tells
an answer's parts apart, and never takes for a tag what the model merely spelt. Not here: drawing tokens (`sampling`).
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from minimind.infer.protocol import Channel
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.vocabulary import SPECIAL_TOKENS, THINK, THINK_END, TOOL_CALL, TOOL_CALL_END


class Span(NamedTuple):
    """A stretch of an answer: ordinary text, or the name of a tag."""

    text: str
    is_tag: bool = False


class TextStream:
    """The text of one answer, token by token."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        named = tokenizer.specials.named().items()
        self._tags = {token: name for token, name in named if token not in tokenizer.specials.stop}
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._held_tags: list[tuple[int, int]] = []
        """Where tags begin and end in what is held."""
        self.stop_text: str | None = None
        """The stop string that ended the answer."""

    def feed(self, token: int) -> list[Span]:
        """What is certain now that this token came. Nothing is after `stop_text` is there."""
        tag = self._tags.get(token)
        if tag:
            begin = len(self._held)
            self._held += self._utf8.decode(b"", final=True) + tag
            self._held_tags.append((max(begin, len(self._held) - len(tag)), len(self._held)))
        else:
            self._held += self._utf8.decode(self._tokenizer.decode_bytes([token]))
        size, stopped = settled(self._held, self._stop)
        if stopped:
            self.stop_text = min(
                (word for word in self._stop if self._held.startswith(word, size)), key=len, default=None
            )
        return self._release(size)

    def finish(self) -> list[Span]:
        """What was held back, at the end of the answer. It may complete a stop string."""
        self._held += self._utf8.decode(b"", final=True)
        size, stopped = settled(self._held, self._stop)
        return self._release(size if stopped else len(self._held))

    def _release(self, size: int) -> list[Span]:
        spans, at = [], 0
        for begin, end in self._held_tags:
            if end <= size:
                spans += [Span(self._held[at:begin]), Span(self._held[begin:end], is_tag=True)]
                at = end
        spans.append(Span(self._held[at:size]))
        self._held_tags = [(begin - size, end - size) for begin, end in self._held_tags if end > size]
        self._held = self._held[size:]
        return [span for span in spans if span.text]


@dataclass
class Channels:
    """Sorts the spans of an answer into what is thought, said, and called."""

    _now: Channel = "content"
    _fresh: bool = field(default=True)
    """Whether line feeds are to be left out: those the chat format writes beside tags say nothing."""

    def feed(self, span: Span) -> tuple[Channel, str] | None:
        """The channel and the text of a span; None for one that only marks a border."""
        if span.is_tag:
            return self._turn(span)
        text = span.text.lstrip("\n") if self._fresh else span.text
        self._fresh = self._fresh and not text
        return (self._now, text) if text else None

    def _turn(self, tag: Span) -> tuple[Channel, str] | None:
        opened: dict[str, Channel] = {SPECIAL_TOKENS[THINK]: "reasoning", SPECIAL_TOKENS[TOOL_CALL]: "tool_call"}
        self._fresh = True
        if tag.text in opened:
            before, self._now = self._now, opened[tag.text]
            # Two calls, one after the other: JSON takes white space between values.
            return ("tool_call", "\n") if before == self._now == "tool_call" else None
        if tag.text in (SPECIAL_TOKENS[THINK_END], SPECIAL_TOKENS[TOOL_CALL_END]):
            left, self._now = self._now, "content"
            return ("tool_call", "\n") if left == "tool_call" else None
        return (self._now, tag.text)


def settled(text: str, stop: Sequence[str]) -> tuple[int, bool]:
    """How many characters of `text` may be shown whatever comes next, and whether a stop string begins there.

    Of several stop strings the one that is complete first counts, so that an answer does not
    depend on how it is cut into tokens.
    """
    found = [(start + len(word), start) for word in stop if (start := text.find(word)) >= 0]
    if found:
        return min(found)[1], True
    begun = (n for word in stop for n in range(1, min(len(word), len(text) + 1)) if text.endswith(word[:n]))
    return len(text) - max(begun, default=0), False
