"""An engine in a process of its own: started, asked, lost, ended.

The two ends of a socket pair carry the frames of `minimind.infer.protocol`. The engine ends when its end of the pair
does, so a server that is killed leaves none behind; the server learns of a lost engine by the same sign. Not here:
which engine answers for which model, and what happens after a loss (`fleet`).
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from minimind.errors import ServiceError
from minimind.infer import protocol
from minimind.infer.protocol import Ask, Began, Cancel, Ended, Failed, FromEngine, Load, Piece, Ready, Refused
from minimind.serve.asking import Asking
from minimind.serve.engine_spec import EngineSettings, EngineSpec

logger = logging.getLogger(__name__)

END_SECONDS = 5.0
"""An engine that was told to end gets so long; then it is killed."""
UNBORN_SECONDS = 0.5
"""The same for one that was still loading: it has nothing to finish, and reads nothing that could tell it."""
PROBE_SECONDS = 5.0
STALL_SECONDS = 60.0
"""An engine with work to do that says nothing for so long is not well: even a long prompt is read in pieces."""
COMMAND = (sys.executable, "-m", "minimind.infer.worker")


class EngineLost(ServiceError):
    """The engine's process ended in the middle of something."""


class EngineProcess:
    """A running engine; made by `start`, over when `ended` is set."""

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.ended = asyncio.Event()
        self.load: Load | None = None
        self.started_at = time.monotonic()
        self._begun: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._begun.add_done_callback(lambda begun: begun.cancelled() or begun.exception())  # it may have no reader
        self._askings: dict[str, Asking] = {}
        self._heard_at = self._probed_at = self.started_at
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_words = ""
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(
        cls, spec: EngineSpec, settings: EngineSettings, *, command: Sequence[str] = COMMAND
    ) -> "EngineProcess":
        """A process that takes questions. Raises ServiceError with the reason where it cannot."""
        engine = cls(spec)
        try:
            await engine._launch([*command, *spec.arguments(), *settings.arguments()])
            await asyncio.shield(engine._begun)
        except BaseException:
            await engine.stop()
            raise
        return engine

    @property
    def ready(self) -> Ready:
        """What the engine said of itself when it was loaded."""
        return self._begun.result()

    @property
    def is_idle(self) -> bool:
        return not self._askings

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, asks: Sequence[dict[str, Any]]) -> Asking:
        """Put questions, given as the fields of `Ask` without its id. Raises EngineLost."""
        if self.ended.is_set():
            raise EngineLost(self.how_it_ended())
        named = [Ask(id=uuid.uuid4().hex, **fields) for fields in asks]
        asking = Asking(named, self._cancel)
        if self.is_idle:
            self._heard_at = time.monotonic()
        self._askings.update({ask.id: asking for ask in named})
        self._idle.clear()
        self._send(named)
        return asking

    async def trouble(self) -> str | None:
        """Why the engine does not answer; None where it does. An idle one is asked for a token, at times."""
        now = time.monotonic()
        if self.ended.is_set():
            return self.how_it_ended()
        if not self.is_idle:
            silent = now - self._heard_at
            return f"silent for {silent:.0f} s in the middle of its work" if silent > STALL_SECONDS else None
        if now - max(self._heard_at, self._probed_at) < PROBE_SECONDS:
            return None
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                with self.ask([{"prompt": ".", "sampling": {"max_tokens": 1, "temperature": 0.0}}]) as asking:
                    while not asking.done:
                        await asking.news()
        except TimeoutError:
            return f"no token within {PROBE_SECONDS:.0f} s"
        except EngineLost as error:
            return str(error)
        self._probed_at = time.monotonic()
        return None

    async def drain(self) -> None:
        """Return once every answer under way has ended."""
        await self._idle.wait()

    async def stop(self) -> None:
        """End the process: it sees the end of the socket, and is killed if it does not heed it."""
        if self._tasks:
            self._writer.close()
            await asyncio.gather(*self._tasks)

    @property
    def seconds_alive(self) -> float:
        return time.monotonic() - self.started_at

    def fail_all(self, error: Exception) -> None:
        """Have every answer under way end with this error."""
        for asking in set(self._askings.values()):
            asking.fail(error)

    def how_it_ended(self) -> str:
        """The exit code, and the last line that it wrote; for operators, since it may name files."""
        code = self._process.returncode
        how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
        return f"the engine of {self.spec.name} ended ({how})" + (f": {self._last_words}" if self._last_words else "")

    async def _launch(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *command,
                *("--fd", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C reaches it through us only
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            reader, self._writer = await asyncio.open_connection(sock=ours)
        except BaseException:  # given up between the two: nobody hears this process yet, so nobody would end it
            self._signal(signal.SIGKILL)
            await self._process.wait()
            raise
        self._tasks = [asyncio.create_task(self._hear(reader)), asyncio.create_task(self._follow_log())]

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """Take the engine's messages until there are no more; then tell everybody who waits."""
        try:
            while True:
                size = protocol.frame_size(await reader.readexactly(protocol.HEAD_BYTES))
                for message in protocol.read_from_engine(await reader.readexactly(size)):
                    self._take(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # its end of the socket is closed: the sign that it is gone
        except (ValueError, msgspec.MsgspecError) as error:
            logger.error("the engine of %s says what cannot be understood (%s); it is ended", self.spec.name, error)
            self._signal(signal.SIGKILL)
        await self._bury()

    def _take(self, message: FromEngine) -> None:
        self._heard_at = time.monotonic()
        match message:
            case Ready() if not self._begun.done():
                self._begun.set_result(message)
            case Failed() if not self._begun.done():
                self._begun.set_exception(ServiceError(message.message))
            case Load():
                self.load = message
            case Began() | Piece() | Ended() | Refused():
                asking = self._askings.get(message.id)
                if isinstance(message, Ended | Refused):
                    self._forget([message.id])
                if asking is not None:  # else it was cancelled while this was on its way
                    asking.put(message)

    async def _bury(self) -> None:
        seconds = END_SECONDS if self._begun.done() else UNBORN_SECONDS
        with suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), seconds)
        self._signal(signal.SIGKILL)
        await self._process.wait()
        self._writer.close()
        self.ended.set()
        lost = EngineLost(self.how_it_ended())
        if not self._begun.done():
            self._begun.set_exception(lost)
        self.fail_all(lost)
        self._forget(list(self._askings))

    async def _follow_log(self) -> None:
        """Pass on what the engine writes, line by line, and keep the last."""
        assert self._process.stderr is not None
        with suppress(ConnectionError):
            while line := await _line(self._process.stderr):
                if text := line.decode("utf-8", "replace").rstrip():
                    self._last_words = text[:500]
                    logger.info("engine %s: %s", self.spec.name, text)

    def _cancel(self, ids: Sequence[str]) -> None:
        waiting = [identifier for identifier in ids if identifier in self._askings]
        self._forget(waiting)
        if waiting and not self.ended.is_set():
            self._send([Cancel(identifier) for identifier in waiting])

    def _forget(self, ids: Sequence[str]) -> None:
        for identifier in ids:
            self._askings.pop(identifier, None)
        if not self._askings:
            self._idle.set()

    def _send(self, messages: Sequence[Ask | Cancel]) -> None:
        self._writer.write(protocol.frame(list(messages)))

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


async def _line(stream: asyncio.StreamReader) -> bytes:
    """The next line, or as much of it as the buffer takes."""
    try:
        return await stream.readline()
    except ValueError:  # longer than the buffer, which is empty now
        return b"(a line too long to show)\n"
