"""Whether a training goes at its own speed while MLflow is gone or hangs, as a user runs it.

`minimind run pretrain` of the quickstart, with an MLflow server. Once the training has made a few steps the server is
left alone, killed, or stopped in mid-answer; tokens a second are the median of the lines of figures after that, by the
wall clock, so this needs an idle machine, and `cpu_seconds` are seconds of that clock too. `end_seconds` is what the flow took from the last step of the training on:
sealing, and telling two servers of it or giving up.

    python -m benchmarks.outage --repeats 3
"""

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import main
from benchmarks.token_sets import CACHE
from flows.serve import start_mlflow
from flows.servers import Server
from minimind.artifact import Store
from minimind.events import EVENTS_FILE, Event, read_events

TOKENS, FIRST_STEPS = 300_000, 20
DATA = ("shard -p kind=pretrain", "tokenizer", "tokens")


def prepared() -> Path:
    """A store with all that a pretraining reads."""
    home = CACHE / "outage" / "home"
    if not (done := home.parent / "done").exists():
        for stage in DATA:
            subprocess.run(_command(*stage.split()), env=_environment(home), check=True, stdout=sys.stderr)
        done.touch()
    return done


def outage(path: Path, disturb: Callable[[Server], None]) -> dict[str, Any]:
    """The training, and a server that something happens to."""
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "home"
        shutil.copytree(path.parent / "home", home, symlinks=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = start_mlflow(home, port)
        try:
            server.wait_until_healthy()
            settings = [f"pretrain.tokens={TOKENS}", "pretrain.validate_every=0", "pretrain.log_every=2"]
            command = _command("pretrain", *(word for one in settings for word in ("-o", one)))
            uri = f"http://127.0.0.1:{port}"
            environment = _environment(home, MLFLOW_TRACKING_URI=uri)
            process = subprocess.Popen(command, env=environment, stdout=sys.stderr)
            while len(_steps(home)) < FIRST_STEPS // 2:
                if process.poll() is not None:
                    raise RuntimeError(f"the training ended with exit code {process.returncode}")
                time.sleep(0.05)
            disturb(server)
            moment = time.time()
            if code := process.wait():
                raise RuntimeError(f"the training ended with exit code {code}")
            ended = time.time()
        finally:
            os.killpg(server.process.pid, signal.SIGKILL)
            server.process.wait()
        (trained,) = (artifact for artifact in Store(home).all() if artifact.label == "pretrain")
        steps = [one for one in read_events(trained.dir / EVENTS_FILE) if one.kind == "step"]
    after = [one.metrics["tokens_per_second"] for one in steps if one.time > moment and one.metrics.get("tokens")]
    return {
        "tokens_per_second": statistics.median(after),
        "lines": len(after),
        "end_seconds": ended - steps[-1].time,
        "million_ids": TOKENS / 1e6,
        "cpu_seconds": TOKENS / statistics.median(after),
    }


def _leave(_: Server) -> None:
    """It goes on answering."""


def _kill(server: Server) -> None:
    os.killpg(server.process.pid, signal.SIGKILL)


def _stop(server: Server) -> None:
    """It takes what is sent and says nothing."""
    for process in (*psutil.Process(server.process.pid).children(recursive=True), psutil.Process(server.process.pid)):
        process.suspend()


def _steps(home: Path) -> list[Event]:
    found = [*home.glob(f"artifacts/pretrain/.*.scratch/{EVENTS_FILE}")]
    return [event for path in found for event in read_events(path) if event.kind == "step"]


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "minimind.cli", "run", *words]


def _environment(home: Path, **more: str) -> dict[str, str]:
    theirs = ("PREFECT_", "MLFLOW_", "MINIMIND_", "OMP_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
    return {**clean, "MINIMIND_HOME": str(home), **more}


VARIANTS = {
    "MLflow answers": partial(outage, disturb=_leave),
    "MLflow is killed": partial(outage, disturb=_kill),
    "MLflow hangs": partial(outage, disturb=_stop),
}

if __name__ == "__main__":
    main(
        "benchmarks.outage",
        "A training while MLflow is away",
        VARIANTS,
        baseline="MLflow answers",
        default_input=prepared,
    )
