"""The two ends of a connection that is none: what a server writes, and what an application answers; both are judged."""

import asyncio
import json
import re
from typing import Any

from starlette.types import Message

from fuzz.target import Broken, claim

_HEAD = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_ERROR_FIELDS = {"message", "type", "param", "code"}
_NO_BODY = (204, 304)


class Transport(asyncio.Transport):
    """Takes what a server writes, and tells its protocol when the connection is over."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.protocol: asyncio.Protocol | None = None
        self._written = bytearray()
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self._closing:
            self._written += data

    def write_eof(self) -> None:
        pass

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self.lose()

    def abort(self) -> None:
        self.lose()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def lose(self) -> None:
        """End the connection, as when the client has gone."""
        if not self._closing:
            self._closing = True
            assert self.protocol is not None
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def check(self, answered: bool) -> None:
        """Raise Broken where what was written is no answer; where no application answered, it is a refusal."""
        head, _, body = bytes(self._written).partition(b"\r\n\r\n")
        found = _HEAD.match(head)
        claim(found or not head, "what a server writes is HTTP", head[:100])
        if found and not answered and found[1] != b"100":
            _check_error(int(found[1]), body)


class Answer:
    """What the application answers to one request."""

    def __init__(self, request: str) -> None:
        self._request = request
        self.status = 0
        self._type, self._body, self._whole = "", bytearray(), False

    def take(self, message: Message) -> None:
        """A message to the client."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._type = dict(message["headers"]).get(b"content-type", b"").decode()
        else:
            self._body += message.get("body", b"")
            self._whole = not message.get("more_body")

    def check(self) -> None:
        """Raise Broken where this is nothing that a client can read."""
        claim(self.status != 500, "no request is answered with a 500", (self._request, bytes(self._body)))
        if not self._whole or self.status in _NO_BODY:
            return
        if self.status >= 400 and not (self.status == 503 and b'"status"' in self._body):
            _check_error(self.status, bytes(self._body))
        elif self._type.startswith("text/event-stream"):
            self._check_events()
        elif self._type.startswith("application/json"):
            _json(bytes(self._body))

    def _check_events(self) -> None:
        events = bytes(self._body).decode().split("\n\n")
        claim(events.pop() == "", "a stream ends with the end of an event", events[-1:])
        for event in events:
            claim(event.startswith("data: "), "a stream is made of events", event)
            if event != "data: [DONE]":
                _json(event.removeprefix("data: ").encode())
        claim(events and (events[-1] == "data: [DONE]" or '"error"' in events[-1]), "a stream has an end", events[-1:])


def _check_error(status: int, body: bytes) -> None:
    error = _json(body).get("error")
    claim(isinstance(error, dict) and error.keys() == _ERROR_FIELDS, "an error has OpenAI's shape", (status, body))
    claim(isinstance(error["message"], str) and error["message"], "an error says something", body)


def _json(body: bytes) -> Any:
    def refuse(constant: str) -> Any:
        raise Broken("an answer is JSON", constant)

    try:
        return json.loads(body, parse_constant=refuse)
    except ValueError as error:
        raise Broken("an answer is JSON", (str(error), body)) from None
