"""What is answered: OpenAI's objects and the chunks of its streams, as pydantic models that the OpenAPI page shows.

A field that is there with `null` and a field that is absent are different things to clients, so answers are written
with the fields that were set, and no others.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length", "tool_calls"]


class Answer(BaseModel):
    """Base of everything a client gets."""

    model_config = ConfigDict(frozen=True)

    def json_bytes(self) -> bytes:
        return self.model_dump_json(exclude_unset=True).encode()


class FunctionDelta(Answer):
    """A call's name and its arguments, or a further piece of the arguments."""

    name: str | None = None
    arguments: str = ""


class CallDelta(Answer):
    """A call of a tool in a stream: the first piece has id, type and name, the others have arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class FunctionCalled(Answer):
    """What the model wants to call."""

    name: str
    arguments: str


class Called(Answer):
    """A call of a tool in a whole answer."""

    id: str
    type: Literal["function"]
    function: FunctionCalled


class Likely(Answer):
    """A token that could have been drawn."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLikelihood(Likely):
    """A token that was drawn, and the likeliest in its place."""

    top_logprobs: list[Likely]


class ChatLogprobs(Answer):
    """How likely the tokens of the content were."""

    content: list[TokenLikelihood] | None
    refusal: None = None


class Message(Answer):
    """The assistant's turn."""

    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[Called] | None = None


class Delta(Answer):
    """What is new in a turn."""

    role: Literal["assistant"] | None = None
    content: str | None = None
    refusal: None = None
    reasoning_content: str | None = None
    tool_calls: list[CallDelta] | None = None


class ChatChoice(Answer):
    """One of `n` answers."""

    index: int
    message: Message
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason


class ChatChunkChoice(Answer):
    """What is new in one of `n` answers."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None


class TextLogprobs(Answer):
    """The older form: four lists of equal length."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class TextChoice(Answer):
    """One completion, or what is new in it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: FinishReason | None


class PromptDetails(Answer):
    """How much of the prompt was reused."""

    cached_tokens: int


class CompletionDetails(Answer):
    """How much of the answer was reasoning."""

    reasoning_tokens: int


class Usage(Answer):
    """Tokens of a request; a prompt counts once, however many answers it gets."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Whole(Answer):
    """What all objects begin with."""

    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(Whole):
    """A whole answer of a chat."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class ChatChunk(Whole):
    """A piece of a chat's stream."""

    object: Literal["chat.completion.chunk"]
    choices: list[ChatChunkChoice]
    usage: Usage | None = None


class Completion(Whole):
    """A whole completion, or a piece of its stream."""

    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage | None = None


class ModelCard(Answer):
    """A model or an adapter that can be asked, and where it comes from."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    """The model under which an adapter lies; for a model itself."""
    parent: str | None
    """For an adapter the model it was attached to."""
    state: str
    source: str
    """As the command line names it."""
    uri: str | None
    """The registry's, of the very version."""
    fingerprint: str | None
    kind: str | None
    parents: dict[str, str]
    """What it was made of: input → fingerprint."""
    parameters: int | None
    max_model_len: int | None
    """Tokens of a prompt and its answer together; vLLM's name."""
    precision: str | None


class ModelList(Answer):
    """All that can be asked."""

    object: Literal["list"]
    data: list[ModelCard]


class Health(Answer):
    """Whether every model answers; what is wrong with those that do not, and what an operator should know."""

    status: Literal["ok", "unavailable", "stopping"]
    models: dict[str, str] = {}
    warnings: list[str] = []
