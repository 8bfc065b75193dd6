"""How long a run waits for MLflow and for Prefect, stated once, and kept in each of their clients.

Both are views: a stage does not need them, and what a view missed is told later. So one answer may take
`ANSWER_SECONDS`; a server that gave none is not asked for the `AWAY_SECONDS` after it, when a call fails at once. A
run that has lost a server for good waits for it no more than that once a minute; the training, a process of its own
that knows neither, not at all. MLflow's own SQLite file, where another program holds it locked, costs 20 s, once a
minute too: MLflow asks SQLite for them.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

import httpx

ANSWER_SECONDS = 10
"""A server on two busy cores answers within one or two; more is an outage."""
AWAY_SECONDS = 60.0
"""A restart takes 5 to 40 s; and an outage should cost a run less than a fifth of its time between stages."""
PREFECT_RETRIES = 1
"""After two seconds, of what fails at once. Prefect's own five cost a minute a call."""
MLFLOW_TRIES = 2
"""The second at once: a server may close a connection just as it is used again. They share `ANSWER_SECONDS`."""
_UNAVAILABLE = 429, 500, 502, 503, 504


def settings() -> dict[str, str]:
    """The bound in the words of both clients; they read it from the environment."""
    return {
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_SECONDS // MLFLOW_TRIES),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(MLFLOW_TRIES - 1),
        "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # which may say an hour
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines a run, between those of the progress
        "MLFLOW_ALLOW_HTTP_REDIRECTS": "false",  # to whom what a run says of itself is no business
        "PREFECT_API_REQUEST_TIMEOUT": str(ANSWER_SECONDS),
        "PREFECT_CLIENT_MAX_RETRIES": str(PREFECT_RETRIES),
    }


class Patience:
    """Whether a server is worth asking."""

    def __init__(self) -> None:
        self._not_before = 0.0

    def seconds_left(self) -> float:
        """For how long the server is not asked; 0 where it is."""
        return max(0.0, self._not_before - time.monotonic())

    def lost(self) -> None:
        """The server did not answer."""
        self._not_before = time.monotonic() + AWAY_SECONDS

    def ask_again(self) -> None:
        """The next call is made."""
        self._not_before = 0.0


_servers: dict[str, Patience] = {}
_lock = threading.Lock()


def with_server(address: str) -> Patience:
    """With one server, of this process: whoever connects to it again knows that it did not answer."""
    return _servers.setdefault(address, Patience())


def with_prefect() -> Patience:
    """With the server that Prefect is set to."""
    from prefect.settings import PREFECT_API_URL

    return with_server(_place(httpx.URL(PREFECT_API_URL.value() or "")))


def ask_again() -> None:
    """Have every server asked once more, also one that has just given no answer: a run ends, and has much to tell."""
    for one in _servers.values():
        one.ask_again()


def bound_prefect() -> None:
    """Have every call that this process makes to Prefect keep to the bound, whatever the server asks for."""
    from prefect.client import base  # it reads the settings

    with _lock:
        for client, wrapper in (
            (base.PrefectHttpxSyncClient, _bounded),
            (base.PrefectHttpxAsyncClient, _bounded_async),
        ):
            if not hasattr(client._send_with_retry, "__wrapped__"):
                client._send_with_retry = wrapper(client._send_with_retry)  # type: ignore[method-assign]


def _bounded(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def send_with_retry(self: Any, request: httpx.Request, send: Callable[..., Any], **more: Any) -> Any:
        _refuse_while_away(request)

        def hasty(*arguments: Any, **keywords: Any) -> Any:
            return _impatient(send(*arguments, **keywords))

        try:
            return _noted(request, original(self, request, hasty, **_without_timeouts(more)))
        except httpx.TransportError:
            with_server(_place(request.url)).lost()
            raise

    return send_with_retry


def _bounded_async(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    async def send_with_retry(self: Any, request: httpx.Request, send: Callable[..., Any], **more: Any) -> Any:
        _refuse_while_away(request)

        async def hasty(*arguments: Any, **keywords: Any) -> Any:
            return _impatient(await send(*arguments, **keywords))

        try:
            return _noted(request, await original(self, request, hasty, **_without_timeouts(more)))
        except httpx.TransportError:
            with_server(_place(request.url)).lost()
            raise

    return send_with_retry


def _refuse_while_away(request: httpx.Request) -> None:
    if left := with_server(_place(request.url)).seconds_left():
        raise httpx.ConnectError(f"Prefect did not answer; it is asked again in {left:.0f} s", request=request)


def _impatient(response: httpx.Response) -> httpx.Response:
    """Without what would have the client wait for as long as the server likes."""
    for header in ("Retry-After", "Prefect-Maintenance"):
        response.headers.pop(header, None)
    return response


def _noted(request: httpx.Request, response: httpx.Response) -> httpx.Response:
    if response.status_code in _UNAVAILABLE:
        with_server(_place(request.url)).lost()
    return response


def _place(url: httpx.URL) -> str:
    return f"{url.host}:{url.port}"


def _without_timeouts(more: Mapping[str, Any]) -> dict[str, Any]:
    """Only what fails at once is tried again."""
    again = [kind for kind in more.get("retry_exceptions", ()) if not issubclass(kind, httpx.TimeoutException)]
    return {**more, "retry_exceptions": tuple(again)}
