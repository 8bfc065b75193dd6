"""The fault matrix, servers: MLflow or Prefect is killed, comes back, stays away, hangs, or has its database locked.

Both are views. A training goes on at its own speed, the flow ends as if nothing had been, and what a server missed it
is told later. Faults of fake servers, one call at a time: test_outages.
"""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from faulted import (
    END_SECONDS,
    Ended,
    Sandbox,
    Whole,
    assert_recovers,
    whole,  # noqa: F401  a fixture
    write_row,
)
from test_up import free_port

from flows import serve
from flows.servers import Server

pytestmark = pytest.mark.chaos

START = {"mlflow": serve.start_mlflow, "prefect": serve.start_prefect}
ADDRESS = {
    "mlflow": ("MLFLOW_TRACKING_URI", "http://127.0.0.1:{}"),
    "prefect": ("PREFECT_API_URL", "http://127.0.0.1:{}/api"),
}
HANG_SECONDS = 60


@contextmanager
def served(name: str, home: Path, port: int) -> Iterator[Server]:
    """A server, as `minimind up` starts it; killed at the end."""
    server = START[name](home, port)
    try:
        server.wait_until_healthy()
        yield server
    finally:
        os.killpg(server.process.pid, signal.SIGKILL)  # its workers too
        server.process.wait()


def tell(server: Server, number: int) -> None:
    for process in (*psutil.Process(server.process.pid).children(recursive=True), psutil.Process(server.process.pid)):
        process.send_signal(number)


def wait_for(sandbox: Sandbox, process: subprocess.Popen[str], stage: str) -> None:
    """Until the stage has made its first step."""
    until = time.monotonic() + END_SECONDS
    while not [*sandbox.store.root.glob(f"{stage}/.*.scratch/events.jsonl")]:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


def ended(process: subprocess.Popen[str], since: float) -> Ended:
    output, _ = process.communicate(timeout=END_SECONDS)
    return Ended(process.returncode, output, time.monotonic() - since)


def dies_and_returns(name: str, sandbox: Sandbox, port: int, run: Callable[[], subprocess.Popen[str]]) -> Ended:
    since = time.monotonic()
    with served(name, sandbox.home, port):
        process = run()
        wait_for(sandbox, process, "pretrain")
    time.sleep(3)
    with served(name, sandbox.home, port):
        return ended(process, since)


def dies(
    name: str, sandbox: Sandbox, port: int, run: Callable[[], subprocess.Popen[str]], stage: str = "pretrain"
) -> Ended:
    since = time.monotonic()
    with served(name, sandbox.home, port):
        process = run()
        wait_for(sandbox, process, stage)
    return ended(process, since)


def hangs(name: str, sandbox: Sandbox, port: int, run: Callable[[], subprocess.Popen[str]]) -> Ended:
    """It takes what is sent and says nothing, for a minute or until the flow has ended."""
    since = time.monotonic()
    with served(name, sandbox.home, port) as server:
        process = run()
        wait_for(sandbox, process, "pretrain")
        tell(server, signal.SIGSTOP)
        until = time.monotonic() + HANG_SECONDS
        while process.poll() is None and time.monotonic() < until:
            time.sleep(0.2)
        tell(server, signal.SIGCONT)
        return ended(process, since)


@pytest.mark.parametrize("fault", [dies_and_returns, dies, hangs])
@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_a_server_may_go_while_a_model_is_trained(
    name: str,
    fault: Callable[..., Ended],
    whole: Whole,  # noqa: F811
):
    """The flow ends well without it, and says so; it is told when it is there again, and nothing is lost."""
    sandbox, port = whole.sandbox(), free_port()
    variable, address = ADDRESS[name]
    more = {variable: address.format(port)}
    sandbox.forget("pretrain")
    done = fault(name, sandbox, port, lambda: sandbox.start(*sandbox.pipeline_words(), **more))
    assert done.code == 0, done.output
    assert "Traceback" not in done.output and "--- Error" not in done.output
    assert sandbox.artifact("pretrain")
    with served(name, sandbox.home, port):
        if name == "mlflow":
            assert sandbox.run("sync", **more).code == 0
            assert "0 artifact(s) delivered" in sandbox.run("sync", **more).output
        assert_recovers(sandbox, whole, **more)


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_a_sweep_goes_on_without_a_server(name: str, whole: Whole):  # noqa: F811
    """Every point runs, and the best is the candidate, as if nothing had been."""
    sandbox, port = whole.sandbox(), free_port()
    variable, address = ADDRESS[name]
    words = ["sweep", "sft", "-r", str(sandbox.data / "micro.toml"), "-o", "sft.lr=1e-4,2e-4,3e-4"]
    done = dies(name, sandbox, port, lambda: sandbox.start(*words, **{variable: address.format(port)}), "sft")
    assert done.code == 0, done.output
    assert "Traceback" not in done.output and "--- Error" not in done.output
    again = sandbox.run(*words)
    assert again.code == 0, again.output
    assert again.output.count("(reused)") == 3, again.output
    write_row("sft", "goes on", f"{again.seconds:.0f}")
    assert sandbox.orphans() == []
    assert sandbox.open_runs() == []


@pytest.mark.parametrize("database", ["mlflow.db", "prefect/prefect.db"])
def test_a_locked_database_delays_and_loses_nothing(
    database: str,
    whole: Whole,  # noqa: F811
):
    """Half a minute, from the start of a training on."""
    sandbox, since = whole.sandbox(), time.monotonic()
    sandbox.forget("sft")
    process = sandbox.start(*sandbox.pipeline_words())
    wait_for(sandbox, process, "sft")
    with sqlite3.connect(sandbox.home / database, isolation_level=None, timeout=60) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(30)
        connection.execute("ROLLBACK")
    done = ended(process, since)
    assert done.code == 0, done.output
    assert "Traceback" not in done.output
    assert_recovers(sandbox, whole)
