"""What may be asked: the requests of OpenAI's API, as pydantic models that the OpenAPI page shows.

Types are strict: "0.5" is no number and `true` is not 1. Fields that we do not know are let through, since clients
send new ones all the time; fields that we know, cannot do, and whose absence would change the meaning of an answer are
refused by name. Not here: limits that are settings (`limits`), messages as rows (`conversation`).
"""

import logging
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

logger = logging.getLogger(__name__)

StopString = Annotated[str, Field(min_length=1, max_length=256)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
MAX_BIASES = 1024


class Asked(BaseModel):
    """Base of everything a client sends."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, allow_inf_nan=False)


@lru_cache(maxsize=1000)
def _say_ignored(name: str) -> None:
    """Once for each name, and with bounded memory, whoever sends them."""
    logger.debug("the field %r is ignored", name)


class StreamOptions(Asked):
    """How a stream ends."""

    include_usage: bool | None = None


class ResponseFormat(Asked):
    """What an answer must be."""

    type: Literal["text", "json_object", "json_schema"]


class Question(Asked):
    """What both kinds of requests have: the model, how tokens are drawn, where an answer ends."""

    unsupported: ClassVar[tuple[str, ...]] = ()
    """Fields that change what an answer means, and that we cannot do."""

    model: str | None = Field(None, max_length=512)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, lt=2**31)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31)
    """vLLM's, as the next two: 0 and -1 keep all."""
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] | None = Field(None, max_length=MAX_BIASES)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    n: int | None = Field(None, ge=1, le=1024)
    user: str | None = None

    @model_validator(mode="after")
    def _only_what_we_can(self) -> Self:
        extra = self.model_extra or {}
        if refused := [name for name in self.unsupported if extra.get(name) not in (None, False)]:
            raise ValueError(f"`{refused[0]}` is not supported by this server; leave it out")
        if self.stream_options is not None and not self.stream:
            raise ValueError("`stream_options` needs `stream: true`")
        if bad := [token for token in self.logit_bias or () if not (token.isascii() and token.isdigit())]:
            raise ValueError(f"`logit_bias`: {bad[0][:20]!r} is no token id; its keys are ids, as strings")
        for name in list(extra)[:20]:
            _say_ignored(name[:40])
        return self

    @property
    def num_choices(self) -> int:
        return self.n or 1

    def sampling(self, *, max_tokens: int) -> dict[str, Any]:
        """Fields of the engine's `Sampling`, OpenAI's defaults where nothing was said; without the seed."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        given = {
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": {int(token): bias for token, bias in (self.logit_bias or {}).items()} or None,
            "top_k": self.top_k if self.top_k and self.top_k > 0 else None,
        }
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else max(self.top_p, 1e-9),  # the likeliest token is always left
            "max_tokens": max_tokens,
            "stop": stop,
            **{name: value for name, value in given.items() if value is not None},
        }

    def seed_of(self, choice: int) -> int | None:
        """Choices of one seed differ, and are the same every time."""
        return None if self.seed is None else (self.seed + choice) % 2**63


class ContentPart(Asked):
    """A part of a message; only text is understood."""

    type: str
    text: str | None = None


class CalledFunction(Asked):
    """A call, as the assistant made it."""

    name: str
    arguments: str
    """A JSON object, as a string."""


class ToolCall(Asked):
    """A call of a tool, with the id its answer refers to."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(Asked):
    """A turn of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=128)
    tool_call_id: str | None = None


class FunctionSignature(Asked):
    """What can be called."""

    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Asked):
    """A function that the client can run for the model."""

    type: Literal["function"]
    function: FunctionSignature


class ChatQuestion(Question):
    """The body of `POST /v1/chat/completions`."""

    unsupported: ClassVar[tuple[str, ...]] = ("functions", "function_call", "audio", "web_search_options")

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1, lt=2**31)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[Tool] | None = Field(None, max_length=128)
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    modalities: list[str] | None = None

    @model_validator(mode="after")
    def _of_a_chat(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs: true`")
        if self.tool_choice not in (None, "none", "auto"):
            raise ValueError('`tool_choice`: only "auto" and "none" are supported; no call can be forced')
        if self.response_format is not None and self.response_format.type == "json_schema":
            raise ValueError('`response_format`: "json_schema" is not supported; "text" and "json_object" are')
        if self.modalities not in (None, ["text"]):
            raise ValueError("`modalities`: only text is supported")
        return self

    @property
    def wants_calls(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"


class CompletionQuestion(Question):
    """The body of `POST /v1/completions`."""

    unsupported: ClassVar[tuple[str, ...]] = ("suffix",)

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool | None = None
    best_of: int | None = Field(None, ge=1, le=1024)

    @model_validator(mode="after")
    def _of_a_completion(self) -> Self:
        if self.echo:
            raise ValueError("`echo` is not supported; put the prompt before the answer yourself")
        if self.best_of not in (None, self.num_choices):
            raise ValueError("`best_of` other than `n` is not supported; ask for `n` answers and choose")
        if [] in [self.prompt, *self.prompts]:  # an empty text is a beginning like another; no ids are none
            raise ValueError("`prompt` is empty; give a text, token ids, or a list of either")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts one by one, whatever form they came in."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [self.prompt] if self.prompt and isinstance(self.prompt[0], int) else list(self.prompt)  # type: ignore[list-item]


MODELS = (ChatQuestion, CompletionQuestion, ChatMessage, ContentPart, ToolCall, CalledFunction, Tool, FunctionSignature)


def known_fields() -> frozenset[str]:
    """The names of all fields a client may send, to tell them from pydantic's own steps in an error's place."""
    models = (*MODELS, StreamOptions, ResponseFormat)
    return frozenset(name for model in models for name in model.model_fields)
