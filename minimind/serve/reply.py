"""The answer to one request, on its way to the client: whole, or as a stream of events.

Until the first byte is sent, what goes wrong is an HTTP status; after it, an event with an error ends the stream. A
client that goes away, a deadline, a lost engine and the end of the server all arrive in the same place (`asking`), and
leaving that place frees what the request held.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from minimind.infer.protocol import Began, Ended, Piece, Refused
from minimind.serve.answers import Answer, Usage
from minimind.serve.asking import Asking, ClientLeft, News
from minimind.serve.engine_process import EngineLost
from minimind.serve.errors import ApiError, refused
from minimind.serve.fleet import Chosen
from minimind.serve.gate import Visit
from minimind.serve.limits import Limits
from minimind.serve.metrics import Metrics, Pace
from minimind.serve.usage import Tally

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # a proxy that collects events makes a stream pointless
]


class Form(Protocol):
    """What makes objects and chunks of an engine's messages: `ChatAnswer`, `TextAnswer`."""

    prompt_field: ClassVar[str]
    """Where a request has its prompt, for errors."""

    def begin(self, choice: int) -> list[Any]: ...

    def add(self, choice: int, piece: Piece) -> list[Any]: ...

    def end(self, choice: int, ended: Ended) -> list[Any]: ...

    def chunk(self, choices: list[Any], **usage: Usage | None) -> Answer: ...

    def whole(self, usage: Usage) -> Answer: ...


class Desk:
    """Counts the answers under way, so that there is an end to them, and that a server that stops knows it is done."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.idle = asyncio.Event()
        self.idle.set()
        self._busy = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """Inside, one answer is under way. Raises ApiError where there are too many."""
        if self._busy >= self.limits.requests:
            said = f"{self._busy} requests are being answered, as many as this server takes; try again"
            raise ApiError(429, said, code="rate_limit_exceeded")
        self._busy += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._busy -= 1
            if not self._busy:
                self.idle.set()


class Reply(Response):
    """An answer that is made while it is sent."""

    def __init__(
        self, form: Form, *, chosen: Chosen, asks: Sequence[dict[str, Any]], desk: Desk, metrics: Metrics, tally: Tally
    ) -> None:
        super().__init__()
        self._form, self._chosen, self._asks = form, chosen, asks
        self._desk, self._metrics, self._tally = desk, metrics, tally
        self._pace = Pace(metrics, chosen.name)
        self._stream, self._with_usage = False, False

    def streaming(self, *, with_usage: bool) -> "Reply":
        """The same as a stream of events, with the tokens counted at its end or not."""
        self._stream, self._with_usage = True, with_usage
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        loop, seconds = asyncio.get_running_loop(), self._desk.limits.request_seconds
        with self._desk.place(), self._ask() as asking:
            late = ApiError(
                504, f"the answer took longer than {seconds:g} s, which is this server's limit", code="timeout"
            )
            timer = loop.call_later(seconds, asking.fail, late)
            watcher = asyncio.create_task(_watch_client(receive, asking))
            try:
                async with asyncio.timeout(seconds + 1):  # a client that does not read holds `send` up
                    await (self._send_stream if self._stream else self._send_whole)(asking, send)
            except ClientLeft:
                _note(scope, "the client left")
            except TimeoutError:
                _note(scope, "the client did not read")
                scope.get("minimind.abort", lambda: None)()
            finally:
                timer.cancel()
                watcher.cancel()
                self._metrics.answered(self._chosen.name, self._tally)

    def _ask(self) -> Asking:
        try:
            return self._chosen.engine.ask(self._asks)
        except EngineLost:
            raise _lost() from None

    async def _send_whole(self, asking: Asking, send: Send) -> None:
        while not asking.done:
            for choice, message in await _news(asking):
                if isinstance(message, Refused):
                    raise refused(message, self._form.prompt_field)
                self._take(choice, message)
        body = self._form.whole(self._tally.usage()).json_bytes()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, asking: Asking, send: Send) -> None:
        news = await _news(asking)
        if isinstance(first := news[0][1], Refused):
            raise refused(first, self._form.prompt_field)
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        try:
            await self._send_events(news, send)
            while not asking.done:
                await self._send_events(await _news(asking), send)
        except ApiError as error:
            await _send_body(send, _event(error.body.model_dump_json().encode()), last=True)
            return
        end = [self._form.chunk([], usage=self._tally.usage()).json_bytes()] if self._with_usage else []
        await _send_body(send, b"".join(map(_event, [*end, b"[DONE]"])), last=True)

    async def _send_events(self, news: Sequence[tuple[int, News]], send: Send) -> None:
        """All news in one piece: where a client is slow, it gets less often more."""
        usage: dict[str, None] = {"usage": None} if self._with_usage else {}
        events: list[bytes] = []
        try:
            for choice, message in news:
                if isinstance(message, Refused):
                    raise refused(message, self._form.prompt_field)
                events += [_event(self._form.chunk([one], **usage).json_bytes()) for one in self._take(choice, message)]
        finally:
            if events:
                await _send_body(send, b"".join(events))

    def _take(self, choice: int, message: Began | Piece | Ended) -> list[Any]:
        match message:
            case Began():
                self._tally.began(choice, message)
                return self._form.begin(choice)
            case Piece():
                self._pace.piece(choice, message.tokens)
                return self._form.add(choice, message)
            case Ended():
                self._tally.ended(message)
                return self._form.end(choice, message)


async def _news(asking: Asking) -> list[tuple[int, News]]:
    try:
        return await asking.news()
    except EngineLost:
        raise _lost() from None


def _lost() -> ApiError:
    return ApiError(503, "the engine was lost, and is started again; ask once more", code="engine_failure")


async def _watch_client(receive: Receive, asking: Asking) -> None:
    """The body is read, so the next thing that comes is the client's leaving."""
    while (await receive())["type"] != "http.disconnect":
        pass
    asking.fail(ClientLeft())


async def _send_body(send: Send, body: bytes, *, last: bool = False) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": not last})


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def _note(scope: Scope, said: str) -> None:
    visit = Visit.of(scope)
    visit.note = said
    visit.status = visit.status or 499  # nginx's number for it; it is in the log only
