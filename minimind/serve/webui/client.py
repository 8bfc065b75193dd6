"""An OpenAI-compatible server as the page sees it: its models, and answers as they come in.

All goes through the official client. What our own server knows beyond OpenAI's protocol (reasoning in a channel of its
own, top_k, min_p, repetition_penalty, facts about models) is used where it is there and not missed where it is not:
a field is sent only if it was set, and left off once a server says that it does not know it. Every failure is a
`Problem` with a kind, for which the page has words, and the server's own message.

Not here: threads, stopping, times (`answers`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import openai
from openai import APIError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient, DefaultHttpxClient, OpenAI

from minimind.serve.webui.chats import Problem, Settings

CONNECT_SECONDS = 5.0  # a server that is there answers a connection at once
SILENCE_SECONDS = 600.0  # between two pieces: a prompt may wait for its turn; there is a stop button
LOOPBACK = ("127.0.0.1", "localhost", "::1")
BEYOND_OPENAI = ("top_k", "min_p", "repetition_penalty")
OPTIONAL_FIELDS = (*BEYOND_OPENAI, "stream_options", "seed", "tools")
"""Fields a server may refuse to know; the answer is asked for again without the ones it names."""


@dataclass(frozen=True)
class Server:
    """Where the API is, and the key to it."""

    url: str
    key: str = ""

    def options(self) -> dict[str, Any]:
        """What both clients are made with. No retries: the page says what is wrong, and has a button."""
        timeout = openai.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)
        return {"base_url": self.url, "api_key": self.key or "none", "max_retries": 0, "timeout": timeout}

    @property
    def through_proxy(self) -> bool:
        """Whether a proxy of the environment is used; never to this machine itself, which a proxy cannot reach."""
        return urlsplit(self.url).hostname not in LOOPBACK


@dataclass(frozen=True)
class ServedModel:
    """A model by its name, and what the server tells of it beyond OpenAI's fields."""

    id: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def only_continues(self) -> bool:
        """Whether it is known to be a pretrained model, which goes on with a text and does not chat."""
        return self.facts.get("kind") == "pretrain"


@dataclass(frozen=True)
class Request:
    """One answer that is wanted: to `messages`, or to the text `prompt`."""

    model: str
    settings: Settings
    messages: Sequence[Mapping[str, Any]] = ()
    prompt: str | None = None
    tools: Sequence[Mapping[str, Any]] = ()

    def fields(self) -> dict[str, Any]:
        """The body of the request in OpenAI's names. What stands at its neutral value is not sent."""
        settings = self.settings
        fields: dict[str, Any] = {
            "model": self.model,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        neutral = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
        fields |= {name: given for name, value in neutral.items() if (given := getattr(settings, name)) != value}
        fields |= {} if settings.seed is None else {"seed": settings.seed}
        if self.prompt is not None:
            return fields | {"prompt": self.prompt}
        return fields | {"messages": list(self.messages)} | ({"tools": list(self.tools)} if self.tools else {})


@dataclass(frozen=True)
class CallPiece:
    """More of a tool call: the one at `index`."""

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True)
class Piece:
    """What one chunk of a stream brings."""

    text: str = ""
    reasoning: str = ""
    calls: tuple[CallPiece, ...] = ()
    finish_reason: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def list_models(server: Server) -> list[ServedModel]:
    """The models the server has. Raises openai.OpenAIError, which `problem_of` explains."""
    http = DefaultHttpxClient(trust_env=server.through_proxy)
    with OpenAI(**server.options() | {"timeout": CONNECT_SECONDS}, http_client=http) as client:
        page = client.models.list()
        return [ServedModel(one.id, dict(one.model_extra or {})) for one in page.data or () if _text(one.id)]


async def stream(server: Server, request: Request) -> AsyncIterator[Piece]:
    """The pieces of an answer. Raises openai.OpenAIError, which `problem_of` explains."""
    http = DefaultAsyncHttpxClient(trust_env=server.through_proxy)
    async with AsyncOpenAI(**server.options(), http_client=http) as client:
        answer = await _ask(client, request.fields())
        async with answer:
            async for chunk in answer:
                yield _piece(chunk)


def problem_of(error: Exception) -> Problem:
    """What went wrong, for people: the kind decides the page's words, the message is the server's own."""
    if isinstance(error, openai.APITimeoutError):
        return Problem(kind="timeout")
    if isinstance(error, openai.APIConnectionError):
        return Problem(kind="unreachable")
    message = _message_of(error)
    if not isinstance(error, APIStatusError):
        return Problem(kind="broke_off" if isinstance(error, APIError) else "not_openai", message=message)
    match error.status_code:
        case 401 | 403:
            kind = "wrong_key"
        case 404:
            # An address that is no API's has no error of OpenAI's shape.
            kind = "no_model" if error.code or isinstance(error.body, dict) and error.body.get("message") else "no_api"
        case 429:
            kind = "rate_limited"
        case 400 if error.code == "context_length_exceeded":
            kind = "context_full"
        case status:
            kind = "server_failed" if status >= 500 else "refused"
    return Problem(kind=kind, message=message, retry_after=error.response.headers.get("retry-after", ""))


async def _ask(client: AsyncOpenAI, fields: dict[str, Any]) -> openai.AsyncStream[Any]:
    """The stream of an answer, asked for again without the fields that a server says it does not know."""
    while True:
        try:
            return await _create(client, fields)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            said = f"{error.param} {error.message} {error.body}"
            unknown = [name for name in OPTIONAL_FIELDS if name in fields and name in said]
            if not unknown or error.code == "context_length_exceeded":
                raise
            fields = {name: value for name, value in fields.items() if name not in unknown}


async def _create(client: AsyncOpenAI, fields: dict[str, Any]) -> openai.AsyncStream[Any]:
    """Fields OpenAI's client has no parameter for go into the body beside the others."""
    extra = {name: value for name, value in fields.items() if name in BEYOND_OPENAI}
    known = {name: value for name, value in fields.items() if name not in BEYOND_OPENAI}
    create = client.completions.create if "prompt" in fields else client.chat.completions.create
    return await create(**known, extra_body=extra or None)


def _piece(chunk: Any) -> Piece:
    """A chunk, read as if any field may be missing: the client does not check what servers send."""
    choice = next(iter(getattr(chunk, "choices", None) or ()), None)
    delta = getattr(choice, "delta", None)
    extra = getattr(delta, "model_extra", None) or {}
    usage = getattr(chunk, "usage", None)
    return Piece(
        text=_text(getattr(delta, "content", None)) or _text(getattr(choice, "text", None)),
        reasoning=_text(extra.get("reasoning_content")) or _text(extra.get("reasoning")),
        calls=tuple(map(_call_piece, getattr(delta, "tool_calls", None) or ())),
        finish_reason=_text(getattr(choice, "finish_reason", None)),
        prompt_tokens=_count(getattr(usage, "prompt_tokens", None)),
        completion_tokens=_count(getattr(usage, "completion_tokens", None)),
    )


def _call_piece(call: Any) -> CallPiece:
    function = getattr(call, "function", None)
    name, arguments = (_text(getattr(function, part, None)) for part in ("name", "arguments"))
    return CallPiece(_count(getattr(call, "index", None)) or 0, _text(getattr(call, "id", None)), name, arguments)


def _text(value: Any) -> str:
    """Text without halves of characters, which neither a file nor the page could take."""
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") if isinstance(value, str) else ""


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _message_of(error: Exception) -> str:
    """The server's own words where it has some, without the client's wrapping, and not without end."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    said = inner.get("message") if isinstance(inner, dict) else None
    return str(said or getattr(error, "message", "") or error)[:1000]
