"""The server under load against the bare engine: 64 streams for a minute, and memory over 10,000 requests.

    python -m benchmarks.serving --seconds 60 --streams 64
    python -m benchmarks.serving --requests 10000

The server is `minimind serve` as it ships, its engine on one thread; the clients, in a process of their own, read
streams from plain sockets. Prompts are random and all different, about 128 tokens; an answer is 128 tokens, or 8 where
memory is watched. The bare engine answers the same prompts in this process, as many at once, on one thread. Both are
measured by the clock, in turn: a server has to keep up with it while its clients and itself need the other core.

Not here: the engine's own speed (`benchmarks/infer.py`), assertions.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS, cpu_name
from benchmarks.infer import tokenizer
from benchmarks.infer_variants import PROMPT, model
from minimind.infer.engine import Engine
from minimind.infer.generate import load
from minimind.infer.sampling import Sampling
from minimind.model.weights import save_model
from minimind.tokens.tokenizer import Tokenizer

ENDLESS = {str(token): -100 for token in range(3)}
"""Random weights end answers early; those tokens are forbidden."""
NEW, SHORT = 128, 8
WORDS = ("the", "value", "of", "a", "list", "is", "returned", "when", "no", "such", "key", "exists", "in", "map")


@dataclass
class Load:
    """What clients saw."""

    requests: int = 0
    tokens: int = 0
    errors: list[str] = field(default_factory=list)
    first_seconds: list[float] = field(default_factory=list)
    gap_seconds: list[float] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--requests", type=int, default=0, help="watch memory over so many requests instead")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch) / "small"
        directory.mkdir()
        save_model(directory, model())
        Tokenizer.load(tokenizer()).copy_to(directory)
        if given.requests:
            result = {"memory": memory(directory, streams=given.streams, requests=given.requests)}
        else:
            result = throughput(directory, streams=given.streams, seconds=given.seconds, repeats=given.repeats)
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "torch": torch.__version__}
    path = RESULTS / ("serving_memory.json" if given.requests else "serving.json")
    path.write_text(json.dumps({"machine": machine, **result}, indent=2) + "\n", encoding="utf-8")


def throughput(directory: Path, *, streams: int, seconds: float, repeats: int) -> dict[str, Any]:
    """Tokens per second of the bare engine and of the server, in turn."""
    runs = []
    for repeat in range(repeats):
        bare = bare_tokens_per_second(directory, rows=streams, seconds=seconds / 2, seed=repeat)
        with serving(directory, rows=streams) as server:
            seen = clients(server.port, streams=streams, new=NEW, until=seconds, seed=repeat)
        served = seen.tokens / seen.seconds
        gaps = quantiles(seen.gap_seconds, n=1000)
        runs.append(
            {
                "bare_tokens_per_second": bare,
                "served_tokens_per_second": served,
                "ratio": served / bare,
                "requests": seen.requests,
                "errors": len(seen.errors),
                "first_token_median": median(seen.first_seconds),
                "gap_p50": gaps[499],
                "gap_p99": gaps[989],
                "gap_max": max(seen.gap_seconds),
            }
        )
        print(json.dumps(runs[-1] | {"error": seen.errors[:1]}), file=sys.stderr, flush=True)
    middle = {name: median(run[name] for run in runs) for name in runs[0]}
    table = Table("figure", "median", title=f"{streams} streams, {seconds:.0f} s, {repeats} repeat(s)")
    for name, value in middle.items():
        table.add_row(name, f"{value:.4g}")
    Console(width=100).print(table)
    return {"streams": streams, "seconds": seconds, "runs": runs, "median": middle}


def memory(directory: Path, *, streams: int, requests: int) -> list[dict[str, float]]:
    """Megabytes of server and engine after every tenth of the requests."""
    found = []
    with serving(directory, rows=streams) as server:
        for tenth in range(10):
            seen = clients(server.port, streams=streams, new=SHORT, requests=requests // 10, seed=tenth)
            found.append({"requests": (tenth + 1) * requests / 10, "errors": len(seen.errors), **server.megabytes()})
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


class serving:
    """`minimind serve` as a process."""

    def __init__(self, directory: Path, *, rows: int) -> None:
        command = [sys.executable, "-m", "minimind.cli", "serve", f"small={directory}", "--port", "0", "--threads", "1"]
        command += ["--max-batch", str(rows), "--refresh-seconds", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def __enter__(self) -> "serving":
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "http://127.0.0.1:" in line:
                self.port = int(line.partition("http://127.0.0.1:")[2].split("/")[0].split()[0])
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)

    def megabytes(self) -> dict[str, float]:
        server = psutil.Process(self._process.pid)
        engines = [child for child in server.children(recursive=True) if "minimind.infer.worker" in child.cmdline()]
        return {
            "server_mb": server.memory_info().rss / 2**20,
            "engine_mb": sum(engine.memory_info().rss for engine in engines) / 2**20,
            "files": server.num_fds() + sum(engine.num_fds() for engine in engines),
        }


def bare_tokens_per_second(directory: Path, *, rows: int, seconds: float, seed: int) -> float:
    """The engine in this process, always `rows` answers at once."""
    torch.set_num_threads(1)
    engine: Engine = load(directory, "cpu", max_batch=rows)
    rng, sampling = random.Random(seed), Sampling(temperature=1, top_p=1, max_tokens=NEW, logit_bias=ENDLESS)
    asked = 0

    def fill() -> None:
        nonlocal asked
        while engine.running + engine.waiting < rows:
            asked += 1
            engine.ask(engine.tokenizer.encode(_text(rng))[:PROMPT], sampling.replace(seed=asked))

    fill()
    while engine.counts.completion_tokens < rows * NEW // 4:  # the start, where all read at once, is nobody's normal
        engine.step()
        fill()
    began, before = time.perf_counter(), engine.counts.completion_tokens
    while time.perf_counter() - began < seconds:
        for answer in engine.step():
            answer.take()
        fill()
    return (engine.counts.completion_tokens - before) / (time.perf_counter() - began)


def clients(
    port: int, *, streams: int, new: int, seed: int, until: float | None = None, requests: int | None = None
) -> Load:
    """What so many clients see, in a process of their own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return Load(**pool.apply(_clients, (port, streams, new, seed, until, requests)))


def _clients(port: int, streams: int, new: int, seed: int, until: float | None, requests: int | None) -> dict[str, Any]:
    return asdict(asyncio.run(_all(port, streams, new, seed, until, requests)))


async def _all(port: int, streams: int, new: int, seed: int, until: float | None, requests: int | None) -> Load:
    load, began, asked = Load(), time.perf_counter(), 0

    async def client(number: int) -> None:
        nonlocal asked
        rng = random.Random(f"{seed} {number}")
        while asked < (requests or 10**9) and (until is None or time.perf_counter() - began < until):
            asked += 1
            try:
                await _one(port, rng, load, new)
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                load.errors.append(f"{type(error).__name__}: {error}")

    await asyncio.gather(*(client(number) for number in range(streams)))
    load.seconds = time.perf_counter() - began
    return load


async def _one(port: int, rng: random.Random, load: Load, new: int) -> None:
    """One streamed answer, read line by line from the socket."""
    body = {
        "model": "small", "prompt": _text(rng), "max_tokens": new, "stream": True, "logit_bias": ENDLESS,
        "seed": rng.getrandbits(31), "stream_options": {"include_usage": True},
    }  # fmt: skip
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        began = last = time.perf_counter()
        writer.write(head.encode() + data)
        status = await reader.readline()
        if b" 200 " not in status:
            raise ValueError(status.decode() + (await reader.read(500)).decode())
        first, done, tokens = True, False, 0
        async for line in reader:
            if not line.startswith(b"data: "):
                continue
            now = time.perf_counter()
            if b'"text"' in line:
                (load.first_seconds if first else load.gap_seconds).append(now - last)
                first, last = False, now
            elif b'"usage"' in line:
                tokens = json.loads(line[6:])["usage"]["completion_tokens"]
            done = done or line.startswith(b"data: [DONE]")
        if not done or tokens != new:
            raise ValueError(f"a stream ended after {tokens} tokens, {time.perf_counter() - began:.1f} s")
        load.requests += 1
        load.tokens += tokens
    finally:
        writer.close()


def _text(rng: random.Random) -> str:
    """About 128 tokens that nobody asked before."""
    return " ".join(rng.choices(WORDS, k=90)) + str(rng.random())


if __name__ == "__main__":
    main()
