"""The process of the server: it listens, loads the models, says where it is, and ends without cutting an answer short.

It listens before the models are loaded, so a port that is taken is known at once and `/health` can be asked from the
start. The first SIGTERM or SIGINT refuses new requests and gives answers under way their time; the second ends at once.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import uvicorn
from pydantic import Field
from rich.console import Console

from minimind.config import Config
from minimind.errors import ConfigError, MiniMindError, ServiceError
from minimind.serve.api import Server, create_app
from minimind.serve.connection import connections
from minimind.serve.errors import ApiError
from minimind.serve.fleet import Fleet
from minimind.serve.gate import allowed_hosts, is_loopback
from minimind.serve.limits import Limits

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 2.0
"""For last bytes to be taken, after the grace."""


class Listening(Config):
    """Where the server listens, and for whom."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    keys: tuple[str, ...] = ()
    no_auth: bool = False
    """To be open on an interface that others reach, without a key."""
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    grace_seconds: float = Field(30.0, ge=0, allow_inf_nan=False)


def serve(fleet: Fleet, listening: Listening, *, limits: Limits, console: Console) -> None:
    """Serve until a signal. Raises MiniMindError where it cannot start."""
    _check_access(listening)
    asyncio.run(_serve(fleet, listening, limits=limits, console=console))


async def _serve(fleet: Fleet, listening: Listening, *, limits: Limits, console: Console) -> None:
    with _listener(listening) as listener, _logging(), _signals() as signals:
        server = Server.of(fleet, limits)
        http = _Http(_http_config(server, listening, limits))
        http_task = asyncio.create_task(http.serve(sockets=[listener]))
        http_task.add_done_callback(
            lambda _: signals.first.set()
        )  # it should not end before; its error is raised below
        try:
            if await _unless(signals.first, _loading(fleet, console)):
                _announce(console, listener, listening, fleet)
                await signals.first.wait()
                server.is_stopping = True
                await _finish(server, signals, listening.grace_seconds, console)
        finally:
            server.is_stopping = True
            fleet.fail_all(ApiError(503, "the server stopped before this answer was whole", code="stopping"))
            http.should_exit, http.force_exit = True, signals.second.is_set()
            await http_task
            await fleet.stop()


async def _loading(fleet: Fleet, console: Console) -> None:
    with console.status(f"loading {', '.join(fleet.models)}"):
        await fleet.start()


async def _unless(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`, and say so; False where the event came first, and the work was given up."""
    doing, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait({doing, waiting}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if doing.done():
        doing.result()
        return True
    doing.cancel()
    with contextlib.suppress(asyncio.CancelledError, MiniMindError):
        await doing
    return False


async def _finish(server: Server, signals: "_Signals", grace_seconds: float, console: Console) -> None:
    """Wait for the answers under way, for the end of the grace, or for a second signal."""
    if not server.desk.idle.is_set():
        console.print(
            f"stopping; answers under way get {grace_seconds:g} s (Ctrl-C again ends at once)", highlight=False
        )
    ends = [asyncio.create_task(server.desk.idle.wait()), asyncio.create_task(signals.second.wait())]
    await asyncio.wait(ends, timeout=grace_seconds, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()


class _Http(uvicorn.Server):
    """uvicorn, which leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Signals:
    """The first and the second time somebody wants the server to end."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()

    def come(self) -> None:
        (self.second if self.first.is_set() else self.first).set()


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    signals, loop = _Signals(), asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, signals.come)
    try:
        yield signals
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _http_config(server: Server, listening: Listening, limits: Limits) -> uvicorn.Config:
    app = create_app(
        server,
        keys=listening.keys,
        hosts=allowed_hosts(listening.host, listening.allowed_hosts),
        origins=listening.cors_origins,
    )
    return uvicorn.Config(
        app,
        http=connections(limits),
        loop="asyncio",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(limits.idle_seconds) or 1,
        timeout_graceful_shutdown=CLOSING_SECONDS,
    )


@contextlib.contextmanager
def _listener(listening: Listening) -> Iterator[socket.socket]:
    """A socket that listens. Raises ServiceError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listening.host, listening.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family, backlog=256)
    except OSError as error:
        where = f"{listening.host}:{listening.port}"
        raise ServiceError(
            f"cannot listen on {where}: {error.strerror or error}; give another --host or --port"
        ) from None
    # Connections inherit it. asyncio sets it only for sockets made with a protocol's number, which this one is not, and
    # an answer's body would wait 40 ms for its head to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with listener:
        yield listener


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """One line per request and per change of an engine, on stderr."""
    ours = logging.getLogger("minimind.serve")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = ours.level, ours.propagate
    ours.addHandler(handler)
    ours.propagate = False
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(before[0])
        ours.propagate = before[1]


def _check_access(listening: Listening) -> None:
    if any(not key.strip() for key in listening.keys):
        raise ConfigError("an API key is empty; give --api-key a value, or leave it out")
    if not (is_loopback(listening.host) or listening.keys or listening.no_auth):
        raise ConfigError(
            f"--host {listening.host} lets others in: give --api-key (or MINIMIND_API_KEY), or say --no-auth; "
            "127.0.0.1 needs neither"
        )


def _announce(console: Console, listener: socket.socket, listening: Listening, fleet: Fleet) -> None:
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    base, first = f"http://{shown}:{port}/v1", fleet.names()[0]
    key = ' -H "Authorization: Bearer $MINIMIND_API_KEY"' if listening.keys else ""
    body = f'{{"model": "{first}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    lines = [f"API     {base}"]
    for card in fleet.cards():
        size = f"{(card.parameters or 0) / 1e6:.1f}M parameters, context {card.max_model_len}, {card.precision}"
        lines.append(f"model   {card.id}  ({f'adapter of {card.parent}' if card.parent else size})")
    lines += [
        "",
        f"curl {base}/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'",
        f"minimind ui --server {base}     a page to talk to it, in another shell",
        "",
        "Ctrl-C stops it.",
    ]
    console.print("\n".join(lines), highlight=False, soft_wrap=True, markup=False)


def key_list(given: Sequence[str], variable: str | None) -> tuple[str, ...]:
    """Keys of the command line, or else those of the environment, with commas between them."""
    return tuple(given) or tuple(part.strip() for part in (variable or "").split(",") if part.strip())
