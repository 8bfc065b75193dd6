"""One answer under way: what was asked, how far it is, what is new of it. Not here: who goes on with it (`engine`)."""

from dataclasses import dataclass, field

from minimind.errors import DataError, MiniMindError
from minimind.infer.json_object import JsonObject
from minimind.infer.protocol import FinishReason
from minimind.infer.sampling import Drawn, Sampler, Sampling
from minimind.infer.text import Span, TextStream


class ContextError(DataError):
    """A prompt that leaves no room for an answer."""


@dataclass(eq=False)
class Answer:
    """One answer: what was asked, and how far it is. `take` gives what is new."""

    prompt: list[int]
    sampling: Sampling
    sampler: Sampler
    text: TextStream
    limit: int
    """Positions of prompt and answer together."""
    adapter: str | None = None
    json: JsonObject | None = None
    ids: list[int] = field(default_factory=list)
    """Tokens drawn, without the one that ended the answer."""
    cached_tokens: int = 0
    """Tokens of the prompt that had been read before."""
    started: bool = False
    """Whether its prompt was taken from the queue."""
    finish_reason: FinishReason | None = None
    error: MiniMindError | None = None
    """Why it ended as "cancelled" without having been asked to."""
    _spans: list[Span] = field(default_factory=list)
    _drawn: list[Drawn] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Positions that are filled, or will be by the next step."""
        return len(self.prompt) + len(self.ids)

    def take(self) -> tuple[list[Span], list[Drawn]]:
        """Text that became certain since the last call, and the tokens drawn for it."""
        if not self._spans and self.finish_reason is None:
            return [], []
        spans, drawn = self._spans, self._drawn
        self._spans, self._drawn = [], []
        return spans, drawn

    def add(self, drawn: Drawn, stop_ids: frozenset[int]) -> None:
        """Go on by a token; says in `finish_reason` when that was the last."""
        if drawn.token in stop_ids:
            self.end("stop")
            return
        self.ids.append(drawn.token)
        self._drawn.append(drawn)
        self._spans += self.text.feed(drawn.token)
        if self.json:
            self.json.take(drawn.token)
        if self.text.stop_text is not None or (self.json and self.json.complete):
            self.end("stop")
        elif self.length >= self.limit:
            self.end("length")

    def end(self, reason: FinishReason) -> None:
        """Over: what was held back is certain now."""
        if self.text.stop_text is None:
            self._spans += self.text.finish()
        self.finish_reason = "stop" if self.text.stop_text is not None else reason
