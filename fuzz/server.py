"""The server: whatever bytes come over a connection, the answer is JSON in OpenAI's shape, and no fault of ours.

An input is three bytes and then what a client sends. The first says how that is meant (bytes of a connection, a body
for one of the routes, a request line with heads), the second in pieces of what size it comes, the third how soon the
client leaves. The whole server is there but the socket and the model: uvicorn's connection, gate, routes, an engine
that says the words of the question back. What is claimed:

- no answer is a 500, and none fails but in JSON with OpenAI's error; what is well is JSON or a stream of JSON;
- nothing is logged as an error, and nothing is raised;
- what the server hands to an engine, an engine's own checks let pass;
- when the client has gone, no answer is under way, no place is held, no task is left.
"""

import asyncio
import json
import random
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from fuzz.connection import Rig
from fuzz.mutation import changed, json_line
from fuzz.target import Target
from minimind.serve.questions import ChatQuestion, CompletionQuestion, known_fields

BYTES, CHAT, TEXT, HEAD = range(4)
"""What the first byte says."""
PIECES = (1 << 20, 1, 7, 64)
STEPS = (10_000, 0, 3, 20)
"""Turns of the loop until the client leaves; the first is more than any answer takes."""
HEADER_BYTES = 3
_POST = b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_PATHS = {CHAT: b"/v1/chat/completions", TEXT: b"/v1/completions"}


def check(data: bytes) -> None:
    """See above."""
    if len(data) < HEADER_BYTES:
        return
    what, content = data[0] % 4, data[HEADER_BYTES:]
    if what in _PATHS:
        content = _POST % (_PATHS[what], len(content)) + content
    elif what == HEAD:
        content = content.replace(b"\n", b"\r\n") + b"\r\nHost: localhost\r\n\r\n"
    size = PIECES[data[1] % 4] if len(content) < 2000 else PIECES[0]
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    _loop().run_until_complete(_rig().talk(pieces, steps=STEPS[data[2] % 4]))


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@cache
def _rig() -> Rig:
    return Rig()


def _mutate(data: bytes, rng: random.Random) -> bytes:
    header, content = bytearray(data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")), data[HEADER_BYTES:]
    if rng.random() < 0.2:
        header[rng.randrange(HEADER_BYTES)] = rng.randrange(4)
    if header[0] % 4 in _PATHS:
        with suppress(ValueError, RecursionError):
            content = json_line(changed(json.loads(content), rng, WORDS, times=rng.randint(1, 3)), rng)
        return bytes(header) + content
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    word = rng.choice(WORDS).encode("utf-8", "replace")
    lines[at] = rng.choice([lines[at] + word, word + b": " + lines[at], lines[at][: len(lines[at]) // 2], word])
    return bytes(header) + b"\n".join(lines)


_HELLO = {"role": "user", "content": "hello world"}
_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
_SAMPLING = {
    "max_tokens": 5,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 7,
    "n": 2,
    "stop": ["world"],
    "logit_bias": {"5": -100},
    "frequency_penalty": 1.0,
    "presence_penalty": -1.0,
    "repetition_penalty": 1.1,
}
_QUESTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": [_HELLO]}),
    "chat with all settings": (CHAT, {"model": "echo", "messages": [_HELLO], "user": "u", **_SAMPLING}),
    "chat as a stream": (CHAT, {"messages": [_HELLO], "stream": True, "stream_options": {"include_usage": True}}),
    "chat with likelihoods": (CHAT, {"messages": [_HELLO], "logprobs": True, "top_logprobs": 2, "stream": True}),
    "chat with an adapter": (CHAT, {"model": "tuned", "messages": [{"role": "system", "content": "s"}, _HELLO]}),
    "chat in parts": (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]}),
    "chat with tools": (
        CHAT,
        {
            "messages": [
                _HELLO,
                {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning_content": "r"},
                {"role": "tool", "content": "3", "tool_call_id": "c1"},
                {"role": "user", "content": ':think=hm :call={"name":"f","arguments":{"a":1}} done'},
            ],
            "tools": [_TOOL],
            "tool_choice": "auto",
            "parallel_tool_calls": False,
        },
    ),
    "chat as JSON": (CHAT, {"messages": [_HELLO], "response_format": {"type": "json_object"}}),
    "chat that is refused": (CHAT, {"messages": [{"role": "user", "content": ":refuse=overloaded"}]}),
    "chat that is refused late": (CHAT, {"messages": [{"role": "user", "content": "a :lost b"}], "stream": True}),
    "text": (TEXT, {"prompt": "hello world", **_SAMPLING}),
    "texts": (TEXT, {"prompt": ["a b", "c"], "logprobs": 2, "stream": True}),
    "ids": (TEXT, {"prompt": [[1, 2], [3]], "best_of": 1, "echo": False, "suffix": None}),
}
_HEADS = (
    b"GET /v1/models HTTP/1.1",
    b"GET /v1/models/echo HTTP/1.1\nAccept: */*",
    b"GET /health HTTP/1.1\nAuthorization: Bearer x",
    b"GET /metrics HTTP/1.1",
    b"GET /openapi.json HTTP/1.1",
    b"POST /v1/chat/completions HTTP/1.1\nContent-Type: application/json\nTransfer-Encoding: chunked",
    b"OPTIONS /v1/completions HTTP/1.1\nOrigin: http://a.example\nAccess-Control-Request-Method: POST",
    b"HEAD /v1/nothing%00%ff/../x?y=z HTTP/1.1\nConnection: Upgrade\nUpgrade: websocket",
)
_BYTES = (
    b"hello\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n",
    b"GET /health HTTP/1.0\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b'Transfer-Encoding: chunked\r\n\r\n7\r\n{"promp\r\n7\r\nt":"x"}\r\n0\r\n\r\n',
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
    b'Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{"prompt":"x"}',
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: many\r\n\r\n{}",
)


def _seeds() -> Mapping[str, bytes]:
    found = {}
    for number, (name, (what, body)) in enumerate(_QUESTIONS.items()):
        found[name] = bytes([what, number % 4, 0]) + json.dumps(body).encode()
        found[f"{name}, client gone"] = bytes([what, 0, 1 + number % 3]) + json.dumps(body).encode()
    for number, head in enumerate(_HEADS):
        found[f"head {number}"] = bytes([HEAD, number % 4, number % 2]) + head
    for number, sent in enumerate(_BYTES):
        found[f"bytes {number}"] = bytes([BYTES, number % 4, 0]) + sent
    return found


_FIELDS = {*known_fields(), *ChatQuestion.unsupported, *CompletionQuestion.unsupported}
_SAID = {"user", "assistant", "system", "developer", "tool", "text", "json_object", "json_schema", "required", "none"}
_HTTP = {"Host", "Content-Length", "Transfer-Encoding", "chunked", "Connection", "close", "Expect", "HTTP/1.1", "echo"}
WORDS = tuple(sorted({*_FIELDS, *_SAID, *_HTTP, "tuned", ":think=x", ":call={}", ":refuse=overloaded", ":lost"}))
TARGET = Target("server", check, _seeds(), WORDS, _mutate)
