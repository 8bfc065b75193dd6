"""The fault matrix, servers: MLflow or Prefect is killed, comes back, stays away, or has its database locked.

Both are views. A training goes on at its own speed, and what a server missed it is told later.
"""

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import httpx
import pytest
from faulted import Sandbox, Whole, assert_contained, assert_recovers, whole  # noqa: F401  a fixture
from test_up import free_port

pytestmark = pytest.mark.chaos

Running = AbstractContextManager[subprocess.Popen[bytes]]


@contextmanager
def server(sandbox: Sandbox, *words: str, port: int, healthy: str, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server of its own, as `minimind up` would start it; killed at the end."""
    log = (sandbox.home / "logs" / f"{words[0]}-test.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", *words, "--host", "127.0.0.1", "--port", str(port)],
        env=sandbox.environment(**more),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        until = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}{healthy}"):
            assert process.poll() is None and time.monotonic() < until, log.name
            time.sleep(0.2)
        yield process
    finally:
        subprocess.run(["kill", "-9", f"-{process.pid}"], check=False)  # its workers too
        process.wait()
        log.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


def mlflow(sandbox: Sandbox, port: int) -> Running:
    more = {"MLFLOW_BACKEND_STORE_URI": f"sqlite:///{sandbox.home / 'mlflow.db'}"}
    root = (sandbox.home / "mlartifacts").as_uri()
    words = ("mlflow", "server", "--workers", "1", "--default-artifact-root", root)
    return server(sandbox, *words, port=port, healthy="/health", **more)


def prefect(sandbox: Sandbox, port: int) -> Running:
    more = {"PREFECT_HOME": str(sandbox.home / "prefect"), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    return server(sandbox, "prefect", "server", "start", port=port, healthy="/api/health", **more)


def wait_for(sandbox: Sandbox, process: subprocess.Popen[str], stage: str) -> None:
    """Until the stage's scratch directory is there."""
    until = time.monotonic() + 180
    while not [*sandbox.store.root.glob(f"{stage}/.*.scratch/events.jsonl")]:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("comes_back", [True, False])
def test_mlflow_may_go_while_a_model_is_trained(comes_back: bool, whole: Whole):  # noqa: F811
    """The pipeline ends as if nothing had been; what MLflow missed it gets when it is there."""
    sandbox, port = whole.sandbox(), free_port()
    sandbox.forget("pretrain")
    address = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
    with mlflow(sandbox, port):
        process = sandbox.start(*sandbox.pipeline_words(), **address)
        wait_for(sandbox, process, "pretrain")
    if comes_back:
        time.sleep(3)
        with mlflow(sandbox, port):
            output, _ = process.communicate(timeout=300)
    else:
        output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    with mlflow(sandbox, port):
        assert sandbox.run("sync", **address).code == 0
        assert sandbox.run("runs", **address).code == 0
        assert_recovers(sandbox, whole)


def test_prefect_may_go_while_a_model_is_trained(whole: Whole):  # noqa: F811
    """The training ends and is sealed; the next start settles the run."""
    sandbox, port = whole.sandbox(), free_port()
    sandbox.forget("pretrain")
    with prefect(sandbox, port):
        process = sandbox.start(*sandbox.pipeline_words(), PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
        wait_for(sandbox, process, "pretrain")
    output, _ = process.communicate(timeout=400)
    assert "Traceback" not in output
    assert sandbox.artifact("pretrain")
    assert_recovers(sandbox, whole)


@pytest.mark.parametrize("database", ["mlflow.db", "prefect/prefect.db"])
def test_a_locked_database_delays_and_loses_nothing(database: str, whole: Whole):  # noqa: F811
    """Half a minute, from the start of a training on."""
    sandbox = whole.sandbox()
    sandbox.forget("sft")
    process = sandbox.start(*sandbox.pipeline_words())
    wait_for(sandbox, process, "sft")
    with sqlite3.connect(sandbox.home / database, isolation_level=None, timeout=60) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(30)
        connection.execute("ROLLBACK")
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert_recovers(sandbox, whole)
