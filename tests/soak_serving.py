"""Clients who do what they like, for an hour: what a server looks like after that.

`minimind serve` of two models and an adapter. Clients ask through the official client (whole or streamed, one answer
or several), leave in the middle, send rubbish, open a connection and say nothing; now and then an engine is killed.
Throughout, the same question, sampling and seed get the same words, whoever asks beside it, and nothing but a lost
engine is a 5xx. In the end there is no answer under way, no connection, descriptor or process more than at the start,
and memory has stopped growing. `make soak-serving` starts it; `python tests/soak_serving.py --help` tells the options.
"""

import argparse
import json
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
from faulted import Sandbox

WORDS = ("sun", "moon", "red", "one", "two", "cat", "你好", "为什么", "3 + 4", "a\nb", "🙂", "tell me", "again")
QUESTIONS, SEEDS = 60, 3
GRACE_SECONDS = 60.0
"""After an engine was killed its requests may fail for so long."""
FIGURE_SECONDS = 15.0
GROWTH = 1.15
"""Times the memory of the second tenth of the time that the last tenth may have: caches are full by then."""
RUBBISH = (
    b"{",
    b"[]",
    b'{"messages": []}',
    b'{"messages": [{"role": "user"}]}',
    b'{"messages": [{"role": "nobody", "content": "x"}]}',
    b'{"messages": [{"role": "user", "content": "x"}], "temperature": -1}',
    b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": "many"}',
    b'{"model": "another", "messages": [{"role": "user", "content": "x"}]}',
    b'{"messages": "' + b"x" * 100_000 + b'"}',
    b"\xff\xfe",
)


class Soak:
    """What all clients know: where the server is, what was answered, what was wrong."""

    def __init__(self, server: psutil.Popen, url: str) -> None:
        self.server, self.url = server, url
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.over = threading.Event()
        self._answers: dict[str, str] = {}
        self._lock = threading.Lock()
        self._killed_at = -GRACE_SECONDS

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1

    def complain(self, words: str) -> None:
        with self._lock:
            self.wrong.append(words)

    def same(self, question: dict[str, Any], said: str) -> None:
        """The first answer to a question is kept; each later one has to be that."""
        with self._lock:
            before = self._answers.setdefault(json.dumps(question, sort_keys=True), said)
        if before != said:
            self.complain(f"{question}: {said!r} now, {before!r} before")

    def kill_an_engine(self, chance: random.Random) -> None:
        engines = self.server.children()
        if engines:
            self._killed_at = time.monotonic()
            self.count("engines killed")
            chance.choice(engines).kill()

    def lost(self, words: str) -> None:
        """A request failed as one does whose engine is gone: fine, if one is."""
        if time.monotonic() - self._killed_at < GRACE_SECONDS:
            self.count("lost with an engine")
        else:
            self.complain(words)


class Client:
    """One of many: it does one thing after the other, drawn by chance."""

    def __init__(self, soak: Soak, chance: random.Random) -> None:
        self._soak, self._chance = soak, chance
        self._openai = openai.OpenAI(base_url=f"{soak.url}/v1", api_key="none", max_retries=0, timeout=120)
        self._http = httpx.Client(base_url=soak.url, timeout=120)

    def run(self) -> None:
        acts: dict[Callable[[], None], int] = {
            self.chat: 8,
            self.stream: 8,
            self.choices: 2,
            self.complete: 3,
            self.hang_up: 3,
            self.send_rubbish: 3,
            self.say_nothing: 1,
            self.look: 2,
        }
        while not self._soak.over.is_set():
            (act,) = self._chance.choices([*acts], [*acts.values()])
            try:
                act()
            except openai.InternalServerError as error:
                self._soak.lost(f"{act.__name__}: {error}")
            except openai.APIError as error:  # in the middle of a stream
                self._soak.lost(f"{act.__name__}: {error!r}")
            except Exception as error:  # whatever it is, it is what we look for
                self._soak.complain(f"{act.__name__}: {error!r}")
            else:
                self._soak.count(act.__name__)
        self._openai.close()
        self._http.close()

    def _question(self) -> dict[str, Any]:
        number = self._chance.randrange(QUESTIONS)
        words = random.Random(number).choices(WORDS, k=1 + number % 7)
        warm = {"temperature": 0.8, "top_p": 0.95, "seed": self._chance.randrange(SEEDS)}
        return {
            "model": self._chance.choice(("sft", "dpo", "tuned")),
            "messages": [{"role": "user", "content": " ".join(words)}],
            "max_tokens": 1 + number % 40,
            **(warm if number % 2 else {"temperature": 0}),
        }

    def chat(self) -> None:
        question = self._question()
        done = self._openai.chat.completions.create(**question)
        self._soak.same(question, done.choices[0].message.content or "")

    def stream(self) -> None:
        question = self._question()
        with self._openai.chat.completions.create(**question, stream=True) as chunks:
            said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        self._soak.same(question, said)

    def choices(self) -> None:
        question = {**self._question(), "n": self._chance.randint(2, 4)}
        done = self._openai.chat.completions.create(**question)
        self._soak.same(question, json.dumps([choice.message.content for choice in done.choices]))

    def complete(self) -> None:
        question = self._question()
        question["prompt"] = question.pop("messages")[0]["content"]
        done = self._openai.completions.create(**question)
        self._soak.same(question, done.choices[0].text)

    def hang_up(self) -> None:
        question = {**self._question(), "max_tokens": 400}
        with self._openai.chat.completions.create(**question, stream=True) as chunks:
            for _ in range(self._chance.randint(0, 5)):
                next(chunks, None)

    def send_rubbish(self) -> None:
        answer = self._http.post("/v1/chat/completions", content=self._chance.choice(RUBBISH))
        if not (400 <= answer.status_code < 500 and answer.json()["error"]["message"]):
            self._soak.complain(f"rubbish: {answer.status_code} {answer.text}")

    def say_nothing(self) -> None:
        url = httpx.URL(self._soak.url)
        with socket.create_connection((url.host, url.port or 80), timeout=30) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Le"[: self._chance.randint(0, 40)])
            self._soak.over.wait(self._chance.uniform(0, 2))

    def look(self) -> None:
        for path in ("/health", "/metrics", "/v1/models"):
            answer = self._http.get(path)
            if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE:
                self._soak.lost(f"{path}: {answer.text}")
            elif answer.status_code != httpx.codes.OK:
                self._soak.complain(f"{path}: {answer.status_code} {answer.text}")


def figures(soak: Soak) -> dict[str, float]:
    """What a server may not gather: of it and its engines."""
    processes = [soak.server, *soak.server.children(recursive=True)]
    gauges = httpx.get(f"{soak.url}/metrics", timeout=30).text
    busy = {
        name: sum(float(n) for n in re.findall(rf"^minimind_{name}{{.*}} (\S+)$", gauges, re.M))
        for name in ("running", "waiting")
    }
    return {
        "server_mb": round(soak.server.memory_info().rss / 1e6, 1),
        "engines_mb": round(sum(p.memory_info().rss for p in processes[1:]) / 1e6, 1),
        "descriptors": soak.server.num_fds(),
        "threads": soak.server.num_threads(),
        "processes": len(processes),
        "connections": sum(1 for c in soak.server.net_connections("tcp") if c.status == psutil.CONN_ESTABLISHED),
        **busy,
    }


def soaked(soak: Soak, *, minutes: float, clients: int, kill_minutes: float, seed: int) -> list[dict[str, float]]:
    """The figures of each quarter of a minute, the first before any client came, the last after all had gone."""
    rows = [figures(soak)]
    threads = [
        threading.Thread(target=Client(soak, random.Random(f"{seed} {number}")).run, daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    chance, began = random.Random(seed), time.monotonic()
    end = began + 60 * minutes
    next_kill = began + 60 * kill_minutes
    while time.monotonic() < end and not soak.wrong:
        soak.over.wait(FIGURE_SECONDS)
        rows.append(figures(soak))
        if time.monotonic() > next_kill and end - time.monotonic() > GRACE_SECONDS:
            soak.kill_an_engine(chance)
            next_kill += 60 * kill_minutes
        if len(rows) % 20 == 0:
            print(f"{(time.monotonic() - began) / 60:.0f} min {rows[-1]} {sum(soak.counts.values())} acts", flush=True)
    soak.over.set()
    for thread in threads:
        thread.join(120)
    for _ in range(60):  # what hung up is noticed at the next token
        rows.append(figures(soak))
        if not rows[-1]["running"] + rows[-1]["waiting"]:
            break
        time.sleep(1)
    return rows


def judged(soak: Soak, rows: list[dict[str, float]]) -> dict[str, Any]:
    """What there was more of in the end, against the promises."""
    first, last, inside = rows[0], rows[-1], rows[1:-1]
    tenth = max(1, len(inside) // 10)
    for name in ("running", "waiting"):
        if last[name]:
            soak.complain(f"{last[name]:.0f} answers are {name} with nobody there")
    for name in ("descriptors", "connections", "processes"):
        if last[name] > first[name] + 1:  # the one that asks for the figures
            soak.complain(f"{name}: {first[name]:.0f} before, {last[name]:.0f} after")
    told = {}
    for name in ("server_mb", "engines_mb"):
        early = statistics.median(row[name] for row in inside[tenth : 2 * tenth] or inside)
        late = statistics.median(row[name] for row in inside[-tenth:])
        told[name] = {"start": first[name], "second tenth": early, "last tenth": late}
        if late > GROWTH * early:
            soak.complain(f"{name} grew from {early} to {late}")
    return {"acts": dict(soak.counts), "first": first, "last": last, "memory": told, "wrong": soak.wrong}


def main() -> None:
    """Exit code 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=Path(".soak-serving"), help="Where its models live.")
    parser.add_argument("--minutes", type=float, default=60, help="How long.")
    parser.add_argument("--clients", type=int, default=8, help="How many at once.")
    parser.add_argument("--kill-minutes", type=float, default=5, help="Between two engines that are killed.")
    parser.add_argument("--seed", type=int, default=0, help="Of what each client does.")
    options = vars(parser.parse_args())
    sandbox = Sandbox(options.pop("dir").resolve())
    made = sandbox.pipeline()
    if made.code:
        sys.exit(made.output)
    log, adapter = sandbox.root / "server.log", sandbox.artifact("lora").dir
    words = ("serve", "sft", "dpo", "--adapter", f"tuned={adapter}", "--port", "0", "--threads", "1")
    with log.open("w") as errors:
        server = psutil.Popen(
            sandbox.command(*words), env=sandbox.environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            url = next((m[1] for line in server.stdout if (m := re.match(r"API +(http://\S+)/v1", line))), "")
            if not url:
                sys.exit(log.read_text())
            soak = Soak(server, url)
            told = judged(soak, soaked(soak, **options))
        finally:
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
    for line in log.read_text().splitlines():
        if re.search("Traceback|ERROR", line) and "ended (signal SIGKILL); it is started again" not in line:
            soak.complain(f"log: {line}")
    for one in sandbox.orphans():
        soak.complain(f"still runs: {one}")
    if code:
        soak.complain(f"exit code {code}")
    print(json.dumps({**told, "wrong": soak.wrong[:20]}, indent=2, ensure_ascii=False))
    sys.exit(bool(soak.wrong))


if __name__ == "__main__":
    main()
