"""What a server and the process of an engine say to each other, one frame at a time.

A frame is its length in four bytes, little-endian, and a list of messages in msgpack; a list, because an engine has
news of many answers after each step. `Ask` and `Cancel` go to the engine, everything else comes from it. Every answer
is `Began`, any number of `Piece`, `Ended`; or `Refused` alone. Not here: who starts the process (`minimind.serve`),
what it does (`worker`).
"""

import struct
from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "cancelled"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8", "int4"]
"""In what an engine keeps the weights. Everything else is bf16 where the processor multiplies that, else fp32."""
Channel = Literal["content", "reasoning", "tool_call"]
"""Which part of an answer a text belongs to: what is said, what is thought, or the JSON of a call of tools."""
MAX_FRAME = 64 * 2**20
_LENGTH = struct.Struct("<I")
HEAD_BYTES = _LENGTH.size


class Message(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """Base of all messages."""


class Ask(Message, frozen=True):
    """Wanted: an answer to `messages` (of a conversation, as our chat rows have them), or to `prompt`, text or ids."""

    id: str
    messages: list[dict[str, Any]] | None = None
    prompt: str | list[int] | None = None
    sampling: dict[str, Any] = {}
    """Fields of `minimind.infer.sampling.Sampling`."""
    adapter: str | None = None
    """Name of an attached LoRA adapter."""
    split: bool = True
    """Whether reasoning and calls of tools come in channels of their own, or as text with their tags."""


class Cancel(Message, frozen=True):
    """Nobody waits for this answer any more; its place is free after the next step. It ends as "cancelled"."""

    id: str


class Ready(Message, frozen=True):
    """The engine takes questions."""

    name: str
    parameters: int
    context: int
    """Tokens of a prompt and its answer together, at most."""
    vocab_size: int
    precision: str
    max_batch: int
    adapters: list[str] = []


class Failed(Message, frozen=True):
    """The engine could not start, and ends: a sentence for people."""

    message: str


class Began(Message, frozen=True):
    """The prompt was taken; its length, and how much of it was reused from the prompts before."""

    id: str
    prompt_tokens: int
    cached_tokens: int = 0


class Logprob(msgspec.Struct, frozen=True, array_like=True):
    """A token, its text as bytes, and the natural logarithm of its probability under the model itself."""

    token: int
    text: bytes
    logprob: float


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """A token that was drawn, and the likeliest ones in its place, best first."""

    drawn: Logprob
    top: list[Logprob] = []


class Piece(Message, frozen=True):
    """Text that is certain, and the tokens that were drawn for it since the last piece."""

    id: str
    channel: Channel
    text: str
    tokens: int = 0
    logprobs: list[TokenLogprob] = []


class Ended(Message, frozen=True):
    """The answer is over. `stop_text` is the stop string that ended it, if one did."""

    id: str
    finish_reason: FinishReason
    completion_tokens: int
    reasoning_tokens: int = 0
    stop_text: str | None = None


class Refused(Message, frozen=True):
    """The question cannot be answered: a sentence that says why, and a word for programs."""

    id: str
    message: str
    code: Literal["invalid_request", "context_length_exceeded", "unknown_adapter", "overloaded", "model_failure"]


class Load(Message, frozen=True):
    """How busy the engine is; sent at most once a second, and when it falls idle."""

    running: int
    waiting: int
    cache_tokens: int
    """Tokens whose keys and values are kept, of answers under way and of prefixes."""
    steps: int
    prompt_tokens: int
    """Since the start, as the next two."""
    cached_tokens: int
    completion_tokens: int
    busy_seconds: float


ToEngine = Ask | Cancel
FromEngine = Ready | Failed | Began | Piece | Ended | Refused | Load

_to_engine = msgspec.msgpack.Decoder(list[ToEngine])
_from_engine = msgspec.msgpack.Decoder(list[FromEngine])
_encoder = msgspec.msgpack.Encoder()


def frame(messages: list[Any]) -> bytes:
    """Messages as the bytes of one frame."""
    body = _encoder.encode(messages)
    return _LENGTH.pack(len(body)) + body


def frame_size(head: bytes) -> int:
    """How many bytes follow the four at the start of a frame. Raises ValueError for what is no frame."""
    (size,) = _LENGTH.unpack(head)
    if size > MAX_FRAME:
        raise ValueError(f"a frame of {size} bytes; {MAX_FRAME} are allowed")
    return size


def read_to_engine(body: bytes) -> list[ToEngine]:
    """The messages of a frame that goes to an engine. Raises msgspec.DecodeError."""
    return _to_engine.decode(body)


def read_from_engine(body: bytes) -> list[FromEngine]:
    """The messages of a frame that comes from an engine. Raises msgspec.DecodeError."""
    return _from_engine.decode(body)
