"""A small OpenAI-compatible server for tests of the page: what it answers is decided by the first word of the question.

`slow` takes a minute, `think` reasons first, `call` calls a tool, `nasty` writes what a page must not obey, `long` ends
at the token limit, `empty` says nothing, `break` breaks off, `html` answers no JSON, `fail` refuses with the status in
its second word. Anything else is repeated. The model `old` knows neither usage nor fields beyond OpenAI's, and thinks
in tags; `words-base` only continues texts.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

NASTY = (
    """Costs $5 or $10, a :smile: and :red[red] -> here.

<script>window.hacked = 1</script><img src="http://evil.test/a.png" onerror="window.hacked = 2">

![pixel](http://evil.test/pixel.png) [bad](javascript:window.hacked=3) [good](https://example.org/)

| a | b |
|---|---|
| 1 | 2 |

```python
price = "$5"  # <b>
```

"""
    + "long" * 200
)
REFUSALS = {
    400: ("the prompt has 900 tokens and the model's context 512", "context_length_exceeded"),
    401: ("this key is not known", "invalid_api_key"),
    404: ("there is no model `words`", "model_not_found"),
    429: ("too many requests wait", "rate_limit_exceeded"),
    500: ("the engine ended", "engine_failure"),
}
SLOW_SECONDS = 0.05


@dataclass
class Stub:
    """What the server is told and what it saw."""

    url: str = ""
    models: list[dict[str, Any]] = field(
        default_factory=lambda: [
            {"id": "words", "kind": "dpo", "parameters": 25829888, "context": 512, "fingerprint": "0123456789abcdef"},
            {"id": "words-base", "kind": "pretrain", "parameters": 25829888},
            {"id": "old"},
        ]
    )
    key: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    disconnects: int = 0


@contextmanager
def stub_openai(port: int = 0, **told: Any) -> Iterator[Stub]:
    """A server on the loopback while inside."""
    stub = Stub(**told)

    class Handler(_Handler):
        pass

    Handler.stub = stub
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    stub: Stub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self._is_let_in():
            self._json(200, {"object": "list", "data": [{"object": "model", **one} for one in self.stub.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.stub.bodies.append(body)
        if not self._is_let_in():
            return
        asked = body.get("prompt") or body["messages"][-1]["content"]
        word, _, rest = asked.partition(" ")
        if body["model"] == "old" and (unknown := {"stream_options", "top_k"} & set(body)):
            self._refuse(400, f"unknown field {unknown.pop()}", None)
        elif word == "fail":
            self._refuse(int(rest), *REFUSALS[int(rest)])
        elif word == "html":
            self._send(200, b"<html>not an API</html>", "text/html")
        else:
            self._stream(body, word, asked)

    def _is_let_in(self) -> bool:
        if self.stub.key and self.headers["authorization"] != f"Bearer {self.stub.key}":
            self._refuse(401, *REFUSALS[401])
            return False
        return True

    def _refuse(self, status: int, message: str, code: str | None) -> None:
        headers = {"retry-after": "7"} if status == 429 else {}
        self._json(status, {"error": {"message": message, "code": code, "type": "x", "param": None}}, headers)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers)

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"content-type": kind, "content-length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, body: dict[str, Any], word: str, asked: str) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            pieces = 0
            for delta in _deltas(body, word, asked):
                self._chunk(body, delta, None)
                pieces += 1
            if word == "break":
                return
            reason = {"call": "tool_calls", "long": "length"}.get(word, "stop")
            self._chunk(body, {}, reason)
            if body.get("stream_options"):
                usage = {"prompt_tokens": 11, "completion_tokens": pieces, "total_tokens": 11 + pieces}
                self._event({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.stub.disconnects += 1

    def _chunk(self, body: dict[str, Any], delta: dict[str, Any], reason: str | None) -> None:
        is_text = "prompt" in body
        said = {"text": delta.get("content", "")} if is_text else {"delta": delta}
        self._event({"choices": [{"index": 0, "finish_reason": reason, **said}], "model": body["model"]})

    def _event(self, value: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps({"id": "x", "object": "chunk", **value}).encode() + b"\n\n")
        self.wfile.flush()


def _deltas(body: dict[str, Any], word: str, asked: str) -> Iterator[dict[str, Any]]:
    if word == "empty":
        return
    if word == "think" and body["model"] == "old":
        yield from ({"content": text} for text in ("<th", "ink>\nhm\n</thi", "nk>\n\n", "answer"))
        return
    if word == "think":
        yield from ({"reasoning_content": text} for text in ("first this, ", "then that"))
    if word == "call":
        function = {"name": "add", "arguments": '{"a": 1'}
        yield {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]}
        yield {"tool_calls": [{"index": 0, "function": {"arguments": ', "b": 2}'}}]}
        return
    text = NASTY if word == "nasty" else "on and on " * 400 if word == "slow" else f"{body['model']}: {asked}"
    for piece in text.split(" "):
        if word == "slow":
            time.sleep(SLOW_SECONDS)
        yield {"content": piece + " "}
