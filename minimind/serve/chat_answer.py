"""An engine's messages as the answer of a chat.

Every piece becomes the delta of a stream first, and a whole answer is the sum of its deltas: both say the same. A call
of a tool is held back until its JSON is whole, because only then it is known to be one.
"""

from dataclasses import dataclass, field
from typing import ClassVar

from minimind.infer.protocol import Ended, Logprob, Piece, TokenLogprob
from minimind.serve.answers import (
    Called,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatLogprobs,
    Delta,
    FinishReason,
    FunctionCalled,
    Likely,
    Message,
    TokenLikelihood,
    Usage,
)
from minimind.serve.calls import Call, call_deltas, read_calls
from minimind.serve.questions import ChatQuestion

LEAST_LOGPROB = -9999.0
"""OpenAI's word for minus infinity, which JSON does not have."""


@dataclass(frozen=True)
class Heading:
    """What stands in every object and chunk of an answer."""

    id: str
    created: int
    model: str
    system_fingerprint: str


@dataclass
class _Turn:
    """An assistant's turn as far as it is known."""

    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[TokenLikelihood] = field(default_factory=list)
    unread: str = ""
    """JSON of calls that is not whole."""
    finish_reason: FinishReason = "stop"


class ChatAnswer:
    """The answer to one request with its `n` choices; each message gives the chunks it is worth."""

    prompt_field: ClassVar[str] = "messages"

    def __init__(self, heading: Heading, question: ChatQuestion) -> None:
        self._heading = heading
        self._wants_calls = question.wants_calls
        self._most_calls = 1 if question.parallel_tool_calls is False else None
        self._wants_logprobs = bool(question.logprobs)
        self._turns = [_Turn() for _ in range(question.num_choices)]

    def begin(self, choice: int) -> list[ChatChunkChoice]:
        return [self._choice(choice, Delta(role="assistant", content="", refusal=None))]

    def add(self, choice: int, piece: Piece) -> list[ChatChunkChoice]:
        turn = self._turns[choice]
        if piece.channel == "tool_call" and self._wants_calls:
            turn.unread += piece.text
            return []
        chunks = self._read_calls(choice)
        if piece.channel == "reasoning":
            turn.reasoning += piece.text
            delta, logprobs = Delta(reasoning_content=piece.text), []
        else:
            turn.content += piece.text
            logprobs = [_likelihood(token) for token in piece.logprobs]
            turn.logprobs += logprobs
            delta = Delta(content=piece.text)
        return [*chunks, self._choice(choice, delta, logprobs)] if piece.text or logprobs else chunks

    def end(self, choice: int, ended: Ended) -> list[ChatChunkChoice]:
        turn = self._turns[choice]
        chunks = self._read_calls(choice)
        turn.finish_reason = "length" if ended.finish_reason == "length" else "tool_calls" if turn.calls else "stop"
        last = ChatChunkChoice(index=choice, delta=Delta(), logprobs=None, finish_reason=turn.finish_reason)
        return [*chunks, last]

    def chunk(self, choices: list[ChatChunkChoice], **usage: Usage | None) -> ChatChunk:
        """A chunk with those choices, and `usage` where it is given."""
        return ChatChunk(**vars(self._heading), object="chat.completion.chunk", choices=choices, **usage)

    def whole(self, usage: Usage) -> ChatCompletion:
        choices = [self._whole_choice(index, turn) for index, turn in enumerate(self._turns)]
        return ChatCompletion(**vars(self._heading), object="chat.completion", choices=choices, usage=usage)

    def _choice(self, choice: int, delta: Delta, logprobs: list[TokenLikelihood] | None = None) -> ChatChunkChoice:
        said = ChatLogprobs(content=logprobs, refusal=None) if logprobs and self._wants_logprobs else None
        return ChatChunkChoice(index=choice, delta=delta, logprobs=said, finish_reason=None)

    def _read_calls(self, choice: int) -> list[ChatChunkChoice]:
        """The calls that were held back, or their text where they are none."""
        turn = self._turns[choice]
        written, turn.unread = turn.unread, ""
        if not written.strip():
            return []
        calls = read_calls(written)
        if calls is None:
            turn.content += written
            return [self._choice(choice, Delta(content=written))]
        first = len(turn.calls)
        turn.calls = [*turn.calls, *calls][: self._most_calls]
        return [
            self._choice(choice, Delta(tool_calls=[delta]))
            for index, call in enumerate(turn.calls[first:], first)
            for delta in call_deltas(call, index)
        ]

    def _whole_choice(self, index: int, turn: _Turn) -> ChatChoice:
        message = {"role": "assistant", "content": turn.content, "refusal": None}
        if turn.calls:
            message["content"] = turn.content if turn.content.strip() else None
            message["tool_calls"] = [
                Called(id=call.id, type="function", function=FunctionCalled(name=call.name, arguments=call.arguments))
                for call in turn.calls
            ]
        if turn.reasoning:
            message["reasoning_content"] = turn.reasoning
        logprobs = ChatLogprobs(content=turn.logprobs, refusal=None) if self._wants_logprobs else None
        return ChatChoice(index=index, message=Message(**message), logprobs=logprobs, finish_reason=turn.finish_reason)


def _likelihood(token: TokenLogprob) -> TokenLikelihood:
    top = [Likely(**_likely(other)) for other in token.top]
    return TokenLikelihood(**_likely(token.drawn), top_logprobs=top)


def _likely(token: Logprob) -> dict[str, object]:
    """A piece of a character has no text of its own: its bytes say what it is."""
    text = token.text.decode("utf-8", "replace")
    return {"token": text, "logprob": max(token.logprob, LEAST_LOGPROB), "bytes": list(token.text)}
