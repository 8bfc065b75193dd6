"""What happens to every request before anybody looks into it, and after it is answered: the gate, and the log.

The gate looks at who asks: for which host, with which key, and whether the server still takes requests. Browsers are
the reason for the first: a page from elsewhere whose name was bound to 127.0.0.1 is told apart by its Host header only.
"""

import hashlib
import hmac
import ipaddress
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from minimind.serve.errors import CLOSE, ApiError
from minimind.serve.usage import Tally

access = logging.getLogger("minimind.serve.access")

OPEN_PATHS = frozenset({"/health"})
"""What those without a key may see: a load balancer has none."""


@dataclass
class Visit:
    """A request as it goes into the log: no content, no key."""

    id: str = field(default_factory=lambda: f"req_{secrets.token_hex(12)}")
    began_at: float = field(default_factory=time.monotonic)
    status: int = 0
    model: str = ""
    tally: Tally = field(default_factory=Tally)
    has_key: bool = True
    note: str = ""
    """How it ended, where that was not well."""

    @classmethod
    def of(cls, scope: Scope) -> "Visit":
        """The visit of a request."""
        return scope["minimind.visit"]


class Log:
    """Counts every request and writes one line of it; the outermost layer."""

    def __init__(self, app: ASGIApp, *, finished: Callable[[Scope, Visit], None]) -> None:
        self._app, self._finished = app, finished

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        visit = scope["minimind.visit"] = Visit()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                visit.status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = visit.id
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except Exception:
            visit.status = visit.status or 500  # said by a layer further out
            raise
        finally:
            self._finished(scope, visit)
            _write(scope, visit)


class Gate:
    """Lets a request through, or says why not."""

    def __init__(
        self, app: ASGIApp, *, keys: Sequence[str], hosts: frozenset[str], is_stopping: Callable[[], bool]
    ) -> None:
        self._app, self._hosts, self._is_stopping = app, hosts, is_stopping
        self._digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        visit = Visit.of(scope)
        visit.has_key = self._has_key(headers)
        if error := self._objection(scope, headers, visit):
            await error.response()(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _objection(self, scope: Scope, headers: Headers, visit: Visit) -> ApiError | None:
        host = _host_name(headers.get("host", ""))
        if self._hosts and host and host not in self._hosts:
            said = f"host {host[:100]!r} is not allowed; allow it with --allowed-host"
            return ApiError(403, said, code="host_not_allowed")
        if not visit.has_key and scope["path"] not in OPEN_PATHS:
            said = "no valid API key; send one as `Authorization: Bearer KEY`"
            return ApiError(401, said, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if self._is_stopping() and scope["method"] == "POST":
            return ApiError(503, "the server is stopping; it takes no more requests", code="stopping", headers=CLOSE)
        return None

    def _has_key(self, headers: Headers) -> bool:
        """Compared as digests of equal length, with every key there is: the time it takes tells nothing."""
        if not self._digests:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        digest = _digest(given.strip().encode("latin-1"))
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(matches)


class Cors(CORSMiddleware):
    """Starlette's, which refuses in plain text; ours refuses as everything here does."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        said = bytes(response.body).decode("utf-8", "replace")
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return ApiError(response.status_code, said, code="cors_not_allowed", headers=headers).response()


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allowed_hosts(listening: str, more: Sequence[str]) -> frozenset[str]:
    """The names in Host headers that are let through; empty where all are: behind a key, on an open interface."""
    if not is_loopback(listening) and not more:
        return frozenset()
    return frozenset({"localhost", "127.0.0.1", "::1", listening.lower(), *(host.lower() for host in more)})


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _host_name(header: str) -> str:
    """The name in a Host header, without the port and the brackets of IPv6."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def _write(scope: Scope, visit: Visit) -> None:
    path = scope.get("raw_path", b"")[:200].decode("latin-1")  # still percent-encoded: no line feeds
    tally = visit.tally
    access.info(
        "%s %s %s %d%s%s %.3f s%s",
        visit.id,
        scope["method"],
        path,
        visit.status,
        f" {visit.model}" if visit.model else "",
        f" {tally.prompt_tokens}+{tally.completion_tokens} tokens" if tally.prompt_tokens else "",
        time.monotonic() - visit.began_at,
        f" ({visit.note})" if visit.note else "",
    )
