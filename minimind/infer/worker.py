"""The process of an engine: it reads questions from a socket, answers them together, and sends every bit of news.

    python -m minimind.infer.worker --fd N --model DIR [--adapter NAME=DIR …]

`--fd` is one end of a socket pair that the server opened; what goes over it is in `protocol`. One thread does all: it
takes what has come, makes a step, sends what is new, and sleeps where there is nothing to do. So nothing holds the
model up, and an engine that fails takes no server with it. It ends when the other end is closed, or its parent is gone.
Not here: HTTP, OpenAI's format, several models (`minimind.serve`).
"""

import argparse
import gc
import select
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch

from minimind import runtime
from minimind.errors import ConfigError, DataError, MiniMindError
from minimind.infer import protocol
from minimind.infer.answer import Answer, ContextError
from minimind.infer.engine import Engine
from minimind.infer.generate import load, prompt_ids
from minimind.infer.products import Precision
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
from minimind.infer.sampling import Drawn, Sampling
from minimind.infer.text import Channels, Span
from minimind.model.config import count_parameters
from minimind.tokens.chat import render_prompt

LOAD_SECONDS = 1.0
_READ_BYTES = 1 << 18


@dataclass
class _Open:
    """A question under way."""

    id: str
    answer: Answer
    channels: Channels | None
    began: bool = False
    reasoning_tokens: int = 0
    _channel: protocol.Channel = field(default="content")

    def news(self, engine: Engine) -> list[Any]:
        """What there is to say since the last call."""
        answer, messages = self.answer, []
        if answer.error is not None:
            code = "model_failure" if self.began else "invalid_request"
            return [Refused(self.id, str(answer.error), code)]
        if answer.started and not self.began:
            self.began = True
            messages.append(Began(self.id, len(answer.prompt), answer.cached_tokens))
        messages += self._pieces(engine)
        if answer.finish_reason is not None:
            ended = Ended(self.id, answer.finish_reason, len(answer.ids), self.reasoning_tokens, answer.text.stop_text)
            messages.append(ended)
        return messages

    def _pieces(self, engine: Engine) -> list[Piece]:
        spans, drawn = self.answer.take()
        wants_logprobs = self.answer.sampling.logprobs is not None
        logprobs = [_logprob(one, engine) for one in drawn] if wants_logprobs else []
        pieces, tokens = [], len(drawn)
        for channel, text in self._sorted(spans):
            self._channel = channel
            pieces.append(Piece(self.id, channel, text, tokens, logprobs))
            tokens, logprobs = 0, []
        if (tokens or logprobs) and (spans or self.answer.finish_reason is not None):  # a tag, or what ended the answer
            pieces.append(Piece(self.id, self._channel, "", tokens, logprobs))
        if self._channel == "reasoning":
            self.reasoning_tokens += len(drawn)
        return pieces

    def _sorted(self, spans: list[Span]) -> list[tuple[protocol.Channel, str]]:
        if self.channels is None:
            return [("content", span.text) for span in spans]
        return [found for span in spans if (found := self.channels.feed(span))]


class Worker:
    """One engine at one socket."""

    def __init__(self, engine: Engine, wire: socket.socket, *, max_waiting: int) -> None:
        self._engine, self._wire, self._max_waiting = engine, wire, max_waiting
        self._open: dict[str, _Open] = {}
        self._received = bytearray()
        self._load_told = 0.0

    def run(self) -> None:
        """Answer until the other end is closed."""
        while True:
            idle = not self._engine.busy
            news = [self._load()] if idle or time.monotonic() > self._load_told + LOAD_SECONDS else []
            received = self._receive(wait=idle, first=news)
            if received is None:
                return
            news = [refusal for message in received if (refusal := self._obey(message))]
            self._engine.step()
            for question in list(self._open.values()):
                news += question.news(self._engine)
                if question.answer.finish_reason is not None:
                    del self._open[question.id]
            self._send(news)

    def _receive(self, *, wait: bool, first: list[Any]) -> list[Any] | None:
        """Send `first`, then give what has come; None where nothing will come any more."""
        self._send(first)
        ready, _, _ = select.select([self._wire], [], [], None if wait else 0)
        if ready:
            data = self._wire.recv(_READ_BYTES)
            if not data:
                return None
            self._received += data
        return list(self._messages())

    def _messages(self) -> Iterator[Any]:
        head = protocol.HEAD_BYTES
        while len(self._received) >= head:
            end = head + protocol.frame_size(self._received[:head])
            if len(self._received) < end:
                return
            body = bytes(self._received[head:end])
            del self._received[:end]
            yield from protocol.read_to_engine(body)

    def _obey(self, message: Ask | Cancel) -> Refused | None:
        """Take up a question or drop one; a refusal for one that cannot be answered."""
        if isinstance(message, Cancel):
            if question := self._open.get(message.id):
                self._engine.cancel(question.answer)
            return None
        places = self._engine.max_batch + self._max_waiting
        if self._engine.running + self._engine.waiting >= places:
            return Refused(message.id, f"{places} questions are answered or wait already; try again", "overloaded")
        try:
            answer = self._ask(message)
        except ContextError as error:
            return Refused(message.id, str(error), "context_length_exceeded")
        except (DataError, ConfigError) as error:
            return Refused(message.id, str(error), "invalid_request")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            return Refused(
                message.id, f"the messages cannot be read: {type(error).__name__} {error}", "invalid_request"
            )
        self._open[message.id] = _Open(message.id, answer, Channels() if message.split else None)
        return None

    def _ask(self, ask: Ask) -> Answer:
        sampling = Sampling.parse(ask.sampling, origin="sampling")
        tokenizer = self._engine.tokenizer
        if ask.messages is not None:
            prompt = render_prompt(ask.messages, tokenizer)
        elif isinstance(ask.prompt, str):
            prompt = prompt_ids(tokenizer, ask.prompt, raw=True)
        else:
            prompt = ask.prompt or []
        return self._engine.ask(prompt, sampling, adapter=ask.adapter)

    def _load(self) -> Load:
        self._load_told = time.monotonic()
        engine, counts = self._engine, self._engine.counts
        return Load(
            running=engine.running,
            waiting=engine.waiting,
            cache_tokens=engine.held_tokens,
            steps=counts.steps,
            prompt_tokens=counts.prompt_tokens,
            cached_tokens=counts.cached_tokens,
            completion_tokens=counts.completion_tokens,
            busy_seconds=counts.busy_seconds,
        )

    def _send(self, messages: list[Any]) -> None:
        if messages:
            self._wire.sendall(protocol.frame(messages))


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, say so, answer. Exit code 0 when the other end was closed, 2 where the model cannot be loaded."""
    given = _parser().parse_args(arguments)
    runtime.end_with_parent()
    torch.set_num_threads(given.threads or runtime.cpu_count())
    with socket.socket(fileno=given.fd) as wire:
        try:
            engine = load(
                given.model,
                given.device,
                precision=given.precision,
                max_batch=given.max_batch,
                cache_tokens=given.cache_tokens or None,
                adapters=dict(given.adapter),
            )
        except MiniMindError as error:
            wire.sendall(protocol.frame([Failed(str(error))]))
            return error.exit_code
        gc.freeze()  # the model's objects stay; a collection need not look at them
        ready = Ready(
            name=given.name or engine.name,
            parameters=count_parameters(engine.config),
            context=engine.config.max_positions,
            vocab_size=engine.config.vocab_size,
            precision=engine.precision,
            max_batch=engine.max_batch,
            adapters=sorted(engine.adapters),
        )
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody is there to hear it
            wire.sendall(protocol.frame([ready]))
            Worker(engine, wire, max_waiting=given.max_waiting).run()
    return 0


def _logprob(drawn: Drawn, engine: Engine) -> TokenLogprob:
    pieces = engine.tokenizer.piece_bytes()

    def told(token: int, value: float) -> Logprob:
        return Logprob(token, pieces[token] or engine.tokenizer.decode([token]).encode(), value)

    return TokenLogprob(told(drawn.token, drawn.logprob or 0.0), [told(*one) for one in drawn.top])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m minimind.infer.worker", description=__doc__.partition("\n")[0])
    parser.add_argument("--fd", type=int, required=True, help="the socket, open in this process already")
    parser.add_argument("--model", type=Path, required=True, help="a model's directory")
    parser.add_argument("--name", default="", help="what the model is called; by default its stage and fingerprint")
    parser.add_argument("--adapter", type=_named_path, action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--precision", default="auto", choices=get_args(Precision))
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--max-batch", type=int, default=64, help="answers at once")
    parser.add_argument("--max-waiting", type=int, default=256, help="questions that may wait for a place")
    parser.add_argument("--cache-tokens", type=int, default=0, help="of all prompts and answers; 0: by the memory")
    parser.add_argument("--threads", type=int, default=0, help="of the CPU; 0: all cores")
    return parser


def _named_path(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text}: write it as NAME=DIR")
    return name, Path(path)


if __name__ == "__main__":
    sys.exit(main())
