"""An engine's messages as the answer to the older completions: plain text, and token likelihoods as four lists."""

from dataclasses import dataclass, field
from typing import ClassVar

from minimind.infer.protocol import Ended, Logprob, Piece
from minimind.serve.answers import Completion, FinishReason, TextChoice, TextLogprobs, Usage
from minimind.serve.chat_answer import LEAST_LOGPROB, Heading
from minimind.serve.questions import CompletionQuestion


@dataclass
class _Text:
    """A completion as far as it is known."""

    text: str = ""
    tokens: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top: list[dict[str, float]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    next_offset: int = 0
    finish_reason: FinishReason | None = None


class TextAnswer:
    """The answer to one request: `n` choices for each of its prompts."""

    prompt_field: ClassVar[str] = "prompt"

    def __init__(self, heading: Heading, question: CompletionQuestion) -> None:
        self._heading = heading
        self._num_top = question.logprobs
        self._texts = [_Text() for _ in range(question.num_choices * len(question.prompts))]

    def begin(self, choice: int) -> list[TextChoice]:
        return []  # a text has no role to tell

    def add(self, choice: int, piece: Piece) -> list[TextChoice]:
        text = self._texts[choice]
        text.text += piece.text
        known = len(text.tokens)
        for token in piece.logprobs if self._num_top is not None else ():
            shown = _shown(token.drawn)
            text.tokens.append(shown)
            text.logprobs.append(max(token.drawn.logprob, LEAST_LOGPROB))
            text.top.append({_shown(one): max(one.logprob, LEAST_LOGPROB) for one in [*token.top, token.drawn]})
            text.offsets.append(text.next_offset)
            text.next_offset += len(token.drawn.text.decode("utf-8", "ignore"))
        if not piece.text and known == len(text.tokens):
            return []
        logprobs = self._logprobs(text, known)
        return [TextChoice(index=choice, text=piece.text, logprobs=logprobs, finish_reason=None)]

    def end(self, choice: int, ended: Ended) -> list[TextChoice]:
        text = self._texts[choice]
        text.finish_reason = "length" if ended.finish_reason == "length" else "stop"
        return [TextChoice(index=choice, text="", logprobs=None, finish_reason=text.finish_reason)]

    def chunk(self, choices: list[TextChoice], **usage: Usage | None) -> Completion:
        """A chunk with those choices, and `usage` where it is given."""
        return Completion(**vars(self._heading), object="text_completion", choices=choices, **usage)

    def whole(self, usage: Usage) -> Completion:
        choices = [
            TextChoice(index=i, text=text.text, logprobs=self._logprobs(text), finish_reason=text.finish_reason)
            for i, text in enumerate(self._texts)
        ]
        return self.chunk(choices, usage=usage)

    def _logprobs(self, text: _Text, start: int = 0) -> TextLogprobs | None:
        if self._num_top is None:
            return None
        return TextLogprobs(
            tokens=text.tokens[start:],
            token_logprobs=text.logprobs[start:],
            top_logprobs=text.top[start:] if self._num_top else None,
            text_offset=text.offsets[start:],
        )


def _shown(token: Logprob) -> str:
    """A token's text; what is only a piece of a character as OpenAI writes it, `bytes:\\xe4`."""
    try:
        return token.text.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.text)
