"""An engine without a model, for tests of the server: it does what the last message says, word by word.

    python tests/fake_engine.py --fd N --model DIR --name NAME … (the options of `minimind.infer.worker`)

It says the words of the last message back, one piece each, and as first word what DIR/says.txt holds, if it is there.
Words that begin with a colon are orders: `:wait=0.2` before each further word, `:times=50` say all so often, `:die` be
killed here, `:hang` say nothing more, `:think=x` reason x, `:call=JSON` call a tool, `:refuse=code` refuse.
DIR/fails.txt is a reason not to start; DIR/load_seconds.txt how long that takes.
"""

import argparse
import asyncio
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from minimind.infer import protocol
from minimind.infer.protocol import (
    Ask,
    Began,
    Cancel,
    Ended,
    Failed,
    Load,
    Logprob,
    Piece,
    Ready,
    Refused,
    TokenLogprob,
)

CONTEXT = 512


class FakeEngine:
    """Answers at one socket, with as many places and seats to wait as it was told."""

    def __init__(self, writer: asyncio.StreamWriter, options: argparse.Namespace) -> None:
        self._writer, self._options = writer, options
        self._places = asyncio.Semaphore(options.max_batch)
        self._waiting = self._running = 0
        self._tasks: dict[str, asyncio.Task[None]] = {}
        says = Path(options.model) / "says.txt"
        self._says = says.read_text(encoding="utf-8").split() if says.exists() else []

    def send(self, *messages: Any) -> None:
        self._writer.write(protocol.frame(list(messages)))

    def take(self, message: Ask | Cancel) -> None:
        if isinstance(message, Cancel):
            if task := self._tasks.get(message.id):
                task.cancel()
            return
        if self._places.locked() and self._waiting >= self._options.max_waiting:
            self.send(Refused(message.id, "too many wait", "overloaded"))
            return
        self._tasks[message.id] = task = asyncio.create_task(self._answer(message))
        task.add_done_callback(lambda _: self._over(message.id))

    def _over(self, identifier: str) -> None:
        self._tasks.pop(identifier, None)
        self._say_load()

    def _say_load(self) -> None:
        self.send(Load(self._running, self._waiting, 0, 0, 0, 0, 0, 0.0))

    async def _answer(self, ask: Ask) -> None:
        said = 0
        try:
            self._waiting += 1
            self._say_load()
            try:
                await self._places.acquire()
            finally:
                self._waiting -= 1
            self._running += 1
            self._say_load()
            try:
                said = await self._say(ask)
            finally:
                self._running -= 1
                self._places.release()
        except asyncio.CancelledError:
            self.send(Ended(ask.id, "cancelled", said))

    async def _say(self, ask: Ask) -> int:
        text = ask.messages[-1]["content"] if ask.messages else ask.prompt
        text = " ".join(map(str, text)) if isinstance(text, list) else text
        words = [*self._says, *text.split(" ")]
        if code := next((word[8:] for word in words if word.startswith(":refuse=")), None):
            self.send(Refused(ask.id, f"refused: {code}", code))  # type: ignore[arg-type]
            return 0
        limit = min(ask.sampling.get("max_tokens", CONTEXT), CONTEXT - len(words))
        if limit <= 0:
            self.send(Refused(ask.id, f"{len(words)} words; the context is {CONTEXT}", "context_length_exceeded"))
            return 0
        self.send(Began(ask.id, len(words), min(2, len(words))))
        times = next((int(word[7:]) for word in words if word.startswith(":times=")), 1)
        said, reasoned, delay = 0, 0, 0.0
        for word in words * times:
            if word.startswith(":wait="):
                delay = float(word[6:])
                continue
            if word.startswith(":times="):
                continue
            await asyncio.sleep(delay)
            if word == ":die":
                os.kill(os.getpid(), signal.SIGKILL)
            if word == ":hang":
                await asyncio.sleep(3600)
            if said >= limit:
                break
            said += 1
            channel, spoken = _spoken(word)
            reasoned += channel == "reasoning"
            if spoken in ask.sampling.get("stop", []):
                self.send(Ended(ask.id, "stop", said, reasoned, spoken))
                return said
            logprobs = [_logprob(spoken, ask.sampling["logprobs"])] if "logprobs" in ask.sampling else []
            gap = "" if said == 1 or channel != "content" else " "
            self.send(Piece(ask.id, channel, gap + spoken, 1, logprobs))
        self.send(Ended(ask.id, "length" if said >= limit else "stop", said, reasoned))
        return said


def _spoken(word: str) -> tuple[protocol.Channel, str]:
    if word.startswith(":think="):
        return "reasoning", word[7:]
    if word.startswith(":call="):
        return "tool_call", word[6:].replace("_", " ")
    return "content", word


def _logprob(word: str, num_top: int) -> TokenLogprob:
    drawn = Logprob(len(word), word.encode(), -0.5)
    return TokenLogprob(drawn, [drawn, Logprob(0, b"\xe4", float("-inf"))][:num_top])


async def main(options: argparse.Namespace) -> None:
    reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=options.fd))
    slow, fails = (Path(options.model) / name for name in ("load_seconds.txt", "fails.txt"))
    time.sleep(float(slow.read_text()) if slow.exists() else 0)
    engine = FakeEngine(writer, options)
    if fails.exists():
        engine.send(Failed(fails.read_text(encoding="utf-8")))
        await writer.drain()
        return
    adapters = [adapter.partition("=")[0] for adapter in options.adapter]
    engine.send(Ready(options.name, 1234, CONTEXT, 600, "fp32", options.max_batch, adapters))
    while True:
        try:
            size = protocol.frame_size(await reader.readexactly(4))
            for message in protocol.read_to_engine(await reader.readexactly(size)):
                engine.take(message)
        except (asyncio.IncompleteReadError, ConnectionError):
            return


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--name", default="model")
    parser.add_argument("--adapter", action="append", default=[])
    parser.add_argument("--max-batch", type=int, default=64)
    parser.add_argument("--max-waiting", type=int, default=128)
    for ignored in ("--precision", "--device", "--threads", "--cache-tokens"):
        parser.add_argument(ignored)
    asyncio.run(main(parser.parse_args()))
