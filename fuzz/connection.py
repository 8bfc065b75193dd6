"""A server without a socket and without a model: connections that bytes are put into, and an engine that echoes.

What is asked of the engine goes through the frames of the real protocol and the checks of a real engine's settings.
"""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from fuzz.target import Broken, claim, scratch
from fuzz.wire import Answer, Transport
from minimind.infer import protocol
from minimind.infer.protocol import Ask, Began, Cancel, Ended, Logprob, Piece, Ready, Refused, TokenLogprob
from minimind.infer.sampling import Sampling
from minimind.serve.api import Server, create_app
from minimind.serve.connection import connections
from minimind.serve.engine_process import EngineLost, EngineProcess
from minimind.serve.engine_spec import EngineSettings, EngineSpec
from minimind.serve.fleet import Fleet
from minimind.serve.gate import allowed_hosts
from minimind.serve.limits import Limits
from minimind.serve.sources import Adapter, Source, Version

LIMITS = Limits(body_bytes=20_000, messages=20, content_chars=2_000, choices=4, max_tokens=16)
CONTEXT = 64
"""Words of a question and its answer."""
REFUSALS = get_args(Refused.__annotations__["code"])
SETTLED_SECONDS = 5.0


class EchoEngine(EngineProcess):
    """Says the words of a question back, a piece each, a turn of the loop apart. Words with a colon are orders."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._begun.set_result(Ready("echo", 1234, CONTEXT, 600, "fp32", 64, ["tuned"]))
        self._process: Any = SimpleNamespace(returncode=1, pid=0)
        self.faults: list[Exception] = []
        self._answers: dict[str, asyncio.Task[None]] = {}

    def _send(self, messages: Sequence[Ask | Cancel]) -> None:
        body = protocol.frame(list(messages))[protocol.HEAD_BYTES :]
        for message in protocol.read_to_engine(body):
            if isinstance(message, Ask):
                self._answers[message.id] = asyncio.create_task(self._answer(message))
            elif task := self._answers.get(message.id):
                task.cancel()

    async def _answer(self, ask: Ask) -> None:
        try:
            for message in self._said(ask):
                await asyncio.sleep(0)
                self._take(protocol.read_from_engine(protocol.frame([message])[protocol.HEAD_BYTES :])[0])
        except asyncio.CancelledError:
            pass
        except Exception as error:  # whatever a question does to an engine
            self.faults.append(error)
        finally:
            del self._answers[ask.id]

    def _said(self, ask: Ask) -> list[Any]:
        sampling = Sampling.parse(ask.sampling, origin="what the server passes on")
        given = str(ask.messages[-1]["content"]) if ask.messages else str(ask.prompt)
        words = given.split(" ")
        if refusals := [word[8:] for word in words if word.startswith(":refuse=") and word[8:] in REFUSALS]:
            return [Refused(ask.id, "refused", refusals[0])]
        if len(words) >= CONTEXT:
            return [Refused(ask.id, "too long", "context_length_exceeded")]
        if ":lost" in words:
            self.ended.set()
            self.fail_all(EngineLost(self.how_it_ended()))
            return []
        said = [_piece(ask.id, word, sampling) for word in words[: sampling.max_tokens]]
        reason = "length" if len(words) > sampling.max_tokens else "stop"
        return [Began(ask.id, len(words)), *said, Ended(ask.id, reason, len(said))]


def _piece(identifier: str, word: str, sampling: Sampling) -> Piece:
    channel: protocol.Channel = "content"
    for mark, other in ((":think=", "reasoning"), (":call=", "tool_call")):
        if word.startswith(mark):
            channel, word = other, word.removeprefix(mark)
    drawn = Logprob(5, word.encode(), -0.5)
    top = [drawn, Logprob(6, b"\xe4", float("-inf"))][: sampling.logprobs]
    return Piece(identifier, channel, word, 1, [] if sampling.logprobs is None else [TokenLogprob(drawn, top)])


class Rig:
    """A server, and clients' connections to it, one after the other."""

    def __init__(self) -> None:
        directory = scratch() / "model"
        directory.mkdir(exist_ok=True)
        version = Version(directory, 0)
        self._fleet = Fleet([Source("echo", str(directory))], locate=lambda spec: version, settings=EngineSettings())
        self._model = self._fleet.models["echo"]
        self._model.version, self._model.trouble = version, None
        self._model.adapters = {"tuned": Adapter("tuned", directory, None)}
        self._server = Server.of(self._fleet, LIMITS)
        self._app = create_app(self._server, hosts=allowed_hosts("127.0.0.1", ()), origins=("http://a.example",))
        self._config = uvicorn.Config(
            self._asked,
            http=connections(LIMITS),
            ws="none",
            lifespan="off",
            log_config=None,
            interface="asgi3",
            access_log=False,
            proxy_headers=False,
        )
        self._config.load()
        self._answers: list[Answer] = []
        self._errors = _Errors()
        logging.getLogger().addHandler(self._errors)
        logging.getLogger("minimind.serve").setLevel(logging.INFO)
        logging.getLogger("uvicorn").setLevel(logging.ERROR)

    async def talk(self, pieces: Sequence[bytes], *, steps: int) -> None:
        """Have a client send these pieces, and leave after so many turns of the loop. Raises Broken."""
        engine = self._model.engine = EchoEngine(EngineSpec("echo", Path("/")))
        self._answers, self._errors.records = [], []
        state, transport = ServerState(), Transport()
        connection = self._config.http_protocol_class(self._config, state, {}, asyncio.get_running_loop())
        transport.protocol = connection
        connection.connection_made(transport)
        for piece in pieces:
            if not transport.is_closing():
                connection.data_received(piece)
                await asyncio.sleep(0)
        await _turns(steps)
        transport.lose()
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(SETTLED_SECONDS):
                while len(asyncio.all_tasks()) > 1 or not self._server.desk.idle.is_set():
                    await asyncio.sleep(0)
        except TimeoutError:
            raise Broken("when the client has gone, nothing is under way", asyncio.all_tasks()) from None
        await _turns(3)  # what is told when a task has ended
        claim(engine.is_idle, "when the client has gone, no place is held in the engine")
        claim(not state.connections and not state.tasks, "when the client has gone, its connection is gone")
        claim(not engine.faults, "what the server hands to an engine, an engine takes", engine.faults)
        claim(not self._errors.records, "nothing is logged as an error", self._errors.records)
        for answer in self._answers:
            answer.check()
        transport.check(any(answer.status for answer in self._answers))

    async def _asked(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application, with a note of what it answers."""
        answer = Answer(f"{scope.get('method')} {scope.get('path')}")
        self._answers.append(answer)

        async def noting(message: Message) -> None:
            answer.take(message)
            await send(message)

        await self._app(scope, receive, noting)


class _Errors(logging.Handler):
    """Keeps what is logged as an error, by us, by uvicorn or by asyncio."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(self.format(record)[-300:])


async def _turns(most: int) -> None:
    """So many turns of the loop, fewer where nothing is left to do but to wait."""
    loop = asyncio.get_running_loop()
    for _ in range(most):
        await asyncio.sleep(0)
        if not loop._ready:  # type: ignore[attr-defined]  # asyncio has no public word for it
            return
