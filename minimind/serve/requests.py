"""A request's body: read with a bound and a deadline, and parsed so strictly that nothing means two things.

Not here: what the fields must be (`questions`).
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from minimind.data.reading.strict_json import RowError, read_json
from minimind.serve.errors import ApiError
from minimind.serve.limits import Limits

MAX_KEYS = 2048
"""Of one JSON object: twice those of the largest field that we know."""


def strict_route(limits: Limits) -> type[APIRoute]:
    """The class FastAPI makes a route of, which reads bodies as said above."""

    class StrictRequest(Request):
        async def body(self) -> bytes:
            if not hasattr(self, "_body"):
                _check_type(self)
                self._body = await _read(self, limits)
            return self._body

        async def json(self) -> Any:
            return parse(await self.body())

    class StrictRoute(APIRoute):
        def get_route_handler(self) -> Any:
            handle = super().get_route_handler()

            async def strictly(request: Request) -> Any:
                return await handle(StrictRequest(request.scope, request.receive))

            return strictly

    return StrictRoute


def parse(body: bytes) -> Any:
    """The value of a body. Raises ApiError."""
    _refuse_crowds(body)
    try:
        value = read_json(body)
    except RowError as error:
        raise ApiError(400, f"the body cannot be read as JSON: {error.detail}", code=error.reason) from None
    for text in _strings(value):
        if "\0" in text or not _is_unicode(text):
            raise ApiError(400, "a text holds a NUL or half of a surrogate pair", code="invalid_text")
    return value


def _refuse_crowds(body: bytes) -> None:
    """An object of very many keys means nothing, and is not worth the time to look into it."""
    if body.count(b":") > MAX_KEYS:
        with suppress(ValueError, RecursionError):  # `read_json` says what is wrong
            json.loads(body, object_pairs_hook=_few)


def _few(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > MAX_KEYS:
        raise ApiError(400, f"an object with {len(pairs)} keys; {MAX_KEYS} are allowed", code="too_many_keys")


async def _read(request: Request, limits: Limits) -> bytes:
    """The body, and no more of it than is allowed, whatever its head says."""
    too_long = f"the body is longer than the {limits.body_bytes} bytes this server takes"
    declared = request.headers.get("content-length", "0")
    if int(declared) > limits.body_bytes:  # digits only: the HTTP parser refuses others
        raise ApiError(413, too_long, code="body_too_large")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.body_bytes:
                    raise ApiError(413, too_long, code="body_too_large")
    except TimeoutError:
        late = f"the body did not come within {limits.body_seconds:g} s"
        raise ApiError(408, late, code="timeout") from None
    except ClientDisconnect:
        raise ApiError(400, "the client left before its request was whole") from None
    return bytes(body)


def _check_type(request: Request) -> None:
    """Other types are what a page from elsewhere may send without asking: they are no requests of an API's client."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != "application/json":
        said = f"Content-Type must be application/json, not {given[:100] or 'absent'}"
        raise ApiError(415, said, code="unsupported_media_type")


def _strings(value: Any) -> Iterator[str]:
    """All strings of a JSON value, keys too, found without recursion."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            waiting += item


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
