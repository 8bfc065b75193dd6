"""The HTTP/1.1 of a hostile world: uvicorn's connection, with an end to waiting and with errors our clients can read.

uvicorn waits for ever for a request's head, and answers what is no HTTP in plain text. Here a head has a deadline, the
number of connections a bound, and every refusal is JSON that the client gets to read.
"""

import asyncio
from http import HTTPStatus

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from minimind.serve.errors import CLOSE, ApiError
from minimind.serve.limits import Limits

LINGER_SECONDS = 2.0
"""For a client to read a refusal while it still sends: a socket closed before that takes the refusal with it."""


def connections(limits: Limits) -> type[H11Protocol]:
    """The class uvicorn makes a connection of, with these limits."""
    return type("Connection", (_Connection,), {"limits": limits})


class _Connection(H11Protocol):
    limits: Limits
    _awaited: str = ""
    """What must come before the deadline: the head of a request, or the end of what nobody reads."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(ApiError(503, "too many connections; try again later", code="overloaded", headers=CLOSE))
        else:
            self._await("head")

    def data_received(self, data: bytes) -> None:
        if self._awaited == "silence":  # refused: what comes is not looked at
            return
        super().data_received(data)
        self._look_again()

    def handle_events(self) -> None:
        super().handle_events()
        if self.scope is not None:
            self.scope.setdefault("minimind.abort", self.transport.abort)  # type: ignore[typeddict-item]

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        self._await("")
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        if self._awaited == "silence":  # its state is none that uvicorn could end
            self.transport.close()
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():  # nobody reads: a close would wait for ever
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._refuse(ApiError(400, "this is not valid HTTP/1.1, or its head is too long", headers=CLOSE))
        else:
            self.transport.close()  # an answer has begun; there is no place for another

    def _look_again(self) -> None:
        """Set the deadline for what is awaited now."""
        theirs, ours = self.conn.their_state, self.conn.our_state
        if self._awaited == "silence":
            return
        if theirs is h11.IDLE and self.conn.trailing_data[0]:
            self._await("head")
        elif theirs is h11.SEND_BODY and ours in (h11.DONE, h11.MUST_CLOSE):
            self._await("rest of a body")
        else:
            self._await("")

    def _await(self, awaited: str) -> None:
        if awaited == self._awaited:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._awaited, self._deadline = awaited, None
        if awaited == "head":
            self._deadline = self.loop.call_later(self.limits.header_seconds, self._head_is_late)
        elif awaited:
            self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _head_is_late(self) -> None:
        self._refuse(ApiError(408, "the head of the request did not come in time", headers=CLOSE))

    def _refuse(self, error: ApiError) -> None:
        """Answer without looking at what else comes, and close when the client has read it."""
        response = error.response()
        status = HTTPStatus(response.status_code)
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
        self._unset_keepalive_if_required()
        self.transport.write(head + lines + b"\r\n" + bytes(response.body))
        self.transport.write_eof()
        self._await("silence")
