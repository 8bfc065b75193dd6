"""The process of an engine, over its socket: what a server relies on."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_parts import tiny_model

from minimind.infer import protocol
from minimind.infer.protocol import Ask, Began, Cancel, Ended, Failed, Load, Piece, Ready, Refused
from minimind.model.weights import save_model
from minimind.tokens.tokenizer import Tokenizer

SECONDS = 60
ENDLESS = {"logit_bias": {0: -100, 1: -100, 2: -100}, "seed": 1}
HELLO = [{"role": "user", "content": "你好, hello"}]


class Wire:
    """The server's end."""

    def __init__(self, *arguments: str) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(SECONDS)
        command = [sys.executable, "-m", "minimind.infer.worker", "--fd", str(theirs.fileno()), *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()

    def tell(self, *messages: Any) -> None:
        self.socket.sendall(protocol.frame(list(messages)))

    def hear(self) -> Iterator[Any]:
        """Messages as they come, without those about the load."""
        while True:
            head = self._exactly(protocol.HEAD_BYTES)
            for message in protocol.read_from_engine(self._exactly(protocol.frame_size(head))):
                if not isinstance(message, Load):
                    yield message

    def answers(self, *ids: str) -> dict[str, list[Any]]:
        """What is said of these questions, until all are over."""
        heard: dict[str, list[Any]] = {name: [] for name in ids}
        for message in self.hear():
            heard[message.id].append(message)
            if all(said and isinstance(said[-1], Ended | Refused) for said in heard.values()):
                return heard
        raise AssertionError

    def close(self) -> int:
        self.socket.close()
        return self.process.wait(SECONDS)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.socket.recv(size - len(data)) or pytest.fail("the engine has gone")
        return data


@pytest.fixture(scope="module")
def model_dir(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("worker") / "tiny"
    directory.mkdir()
    save_model(directory, tiny_model(tokenizer.vocab_size))
    tokenizer.copy_to(directory)
    return directory


@pytest.fixture(scope="module")
def wire(model_dir: Path) -> Iterator[Wire]:
    made = Wire("--model", str(model_dir), "--precision", "fp32", "--max-batch", "3", "--max-waiting", "2")
    ready = next(made.hear())
    assert ready == Ready("tiny", ready.parameters, 256, ready.vocab_size, "fp32", 3)
    yield made
    assert made.close() == 0


def test_an_answer_is_begun_told_and_ended(wire: Wire) -> None:
    """The order a server builds its stream on; counts are those a client pays by."""
    wire.tell(Ask("a", messages=HELLO, sampling={"max_tokens": 9, **ENDLESS}))
    began, *pieces, ended = wire.answers("a")["a"]
    assert isinstance(began, Began)
    assert began.prompt_tokens > 5
    assert ended == Ended("a", "length", 9)
    assert sum(piece.tokens for piece in pieces) == 9
    assert all(isinstance(piece, Piece) and piece.channel == "content" for piece in pieces)
    wire.tell(Ask("b", messages=HELLO, sampling={"max_tokens": 9, **ENDLESS}))
    again = wire.answers("b")["b"]
    assert "".join(p.text for p in again[1:-1]) == "".join(p.text for p in pieces)


def test_thoughts_and_calls_come_in_channels(wire: Wire, tokenizer: Tokenizer) -> None:
    """A page folds the first and a program executes the second; raw completions get the text with its tags."""
    think, end = tokenizer.specials.think, tokenizer.specials.think_end
    forced = {"max_tokens": 1, "temperature": 0, "logit_bias": {think: 100}}
    wire.tell(Ask("t", messages=HELLO, sampling=forced), Ask("r", messages=HELLO, sampling=forced, split=False))
    heard = wire.answers("t", "r")
    assert "".join(p.text for p in heard["r"][1:-1]) == "<think>"
    assert "".join(p.text for p in heard["t"][1:-1]) == ""
    assert sum(p.tokens for p in heard["t"][1:-1]) == 1
    wire.tell(Ask("x", prompt=[0, think, end], sampling={"max_tokens": 3, **ENDLESS}))
    assert wire.answers("x")["x"][-1].completion_tokens == 3


def test_logprobs_have_the_bytes_of_their_tokens(wire: Wire) -> None:
    """A token may be a part of a character, which no string can hold."""
    wire.tell(Ask("l", prompt="好", sampling={"max_tokens": 5, "logprobs": 2, **ENDLESS}))
    pieces = wire.answers("l")["l"][1:-1]
    told = [one for piece in pieces for one in piece.logprobs]
    assert len(told) == 5
    text = b"".join(one.drawn.text for one in told).decode("utf-8", "replace")
    assert text == "".join(piece.text for piece in pieces)
    for one in told:
        assert len(one.top) == 2
        assert 0 >= one.top[0].logprob >= one.top[1].logprob
        assert one.drawn.logprob <= one.top[0].logprob


@pytest.mark.parametrize(
    ("ask", "code", "reason"),
    [
        (Ask("e", messages=[{"role": "user", "content": "many words " * 200}]), "context_length_exceeded", "256"),
        (Ask("e", prompt="", sampling={"max_tokens": 2}), None, ""),
        (Ask("e", prompt=[]), "invalid_request", "empty"),
        (Ask("e", prompt=[10**9]), "invalid_request", "token 1000000000"),
        (Ask("e", prompt="x", sampling={"temperature": -1}), "invalid_request", "temperature"),
        (Ask("e", prompt="x", sampling={"heat": 1}), "invalid_request", "heat"),
        (Ask("e", prompt="x", adapter="nobody"), "invalid_request", "nobody"),
        (Ask("e", messages=[{"role": "king", "content": "x"}]), "invalid_request", "king"),
        (Ask("e", messages=[{"content": "x"}]), "invalid_request", "role"),
        (Ask("e", messages=[{"role": "user", "content": 5}]), "invalid_request", ""),
        (Ask("e"), "invalid_request", "empty"),
    ],
)
def test_what_cannot_be_answered_is_refused_and_the_engine_goes_on(
    wire: Wire, ask: Ask, code: str | None, reason: str
) -> None:
    """A server checks most of it, but an engine must not die of a question."""
    wire.tell(ask)
    last = wire.answers("e")["e"][-1]
    if code is None:
        assert isinstance(last, Ended)
        return
    assert isinstance(last, Refused)
    assert last.code == code
    assert reason in last.message


def test_questions_beyond_the_queue_are_turned_away(wire: Wire) -> None:
    """Three are answered, two wait; a server says 429 to the others, instead of letting them time out."""
    long = {"max_tokens": 50, **ENDLESS}
    wire.tell(*(Ask(f"q{n}", prompt="x", sampling=long) for n in range(9)))
    heard = wire.answers(*(f"q{n}" for n in range(9)))
    refused = [name for name, said in heard.items() if isinstance(said[-1], Refused)]
    assert all(heard[name][-1].code == "overloaded" for name in refused)
    assert refused == [f"q{n}" for n in range(5, 9)]


def test_a_cancelled_question_ends_at_once(wire: Wire) -> None:
    """A client has gone; the answer ends as cancelled, and an unknown one is nobody's."""
    wire.tell(Ask("c", prompt="x", sampling={"max_tokens": 240, **ENDLESS}))
    for message in wire.hear():
        if isinstance(message, Piece):
            wire.tell(Cancel("c"), Cancel("unknown"))
            break
    ended = wire.answers("c")["c"][-1]
    assert ended.finish_reason == "cancelled"
    assert ended.completion_tokens < 240


def test_a_model_that_cannot_be_loaded_is_said_and_the_process_ends(tmp_path: Path) -> None:
    """A server must know why, and go on with the version it has."""
    wire = Wire("--model", str(tmp_path))
    failed = next(wire.hear())
    assert isinstance(failed, Failed)
    assert "config.json" in failed.message
    assert wire.process.wait(SECONDS) == 2
    wire.socket.close()


def test_an_engine_ends_with_its_server(model_dir: Path) -> None:
    """A server that is killed must not leave engines that hold the memory; also in the middle of an answer."""
    wire = Wire("--model", str(model_dir), "--precision", "fp32")
    next(wire.hear())
    wire.tell(Ask("a", prompt="x", sampling={"max_tokens": 250, **ENDLESS}))
    time.sleep(0.05)
    assert wire.close() in (0, -signal.SIGTERM)
