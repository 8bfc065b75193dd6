"""prefect.yaml for real: deployed, run and stopped on a work pool, by commands typed in a plain shell.

That it offers what `minimind up` serves is in `test_deployments.py`.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from test_pipeline import STAGES, write_project
from test_up import BIN, CHECKOUT, free_port

from flows import serve
from flows.deployments import served
from tasks.tracking import Tracker

pytestmark = pytest.mark.slow


class Pool:
    """A Prefect server, prefect.yaml deployed on it, a worker, and the plain shell all that was typed in."""

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        port = free_port()
        self.api = f"http://127.0.0.1:{port}/api"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MINIMIND_"))}
        self.shell = {
            **clean,
            "PREFECT_API_URL": self.api,
            "PREFECT_HOME": str(directory / "elsewhere"),  # the user's own
            "MINIMIND_HOME": str(self.home),
            "COLUMNS": "200",
        }
        (directory / "elsewhere").mkdir()
        self.server = serve.start_prefect(self.home, port)
        self.server.wait_until_healthy()
        self.log = directory / "worker.log"
        self.worker: subprocess.Popen[bytes] | None = None

    def type(self, *words: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / words[0]), *words[1:]]
        return subprocess.run(
            command, cwd=CHECKOUT, env=self.shell, capture_output=True, text=True, timeout=timeout, check=False
        )

    def start_worker(self) -> None:
        command = [BIN / "prefect", "worker", "start", "--pool", "minimind"]
        with self.log.open("ab") as log:
            self.worker = subprocess.Popen(command, cwd=CHECKOUT, env=self.shell, stdout=log, stderr=log)

    def stop(self) -> None:
        if self.worker and self.worker.poll() is None:
            self.worker.terminate()
            self.worker.wait(60)
        self.server.stop()

    def run(self, deployment: str, *parameters: str, watch: bool = True) -> subprocess.CompletedProcess[str]:
        options = [option for parameter in parameters for option in ("-p", parameter)]
        return self.type(
            "prefect", "deployment", "run", deployment, *options, *(["--watch"] if watch else []), timeout=400
        )

    def ask(self, what: str) -> list[dict[str, Any]]:
        return httpx.post(f"{self.api}/{what}/filter", json={}).json()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    started = Pool(tmp_path_factory.mktemp("pool"))
    try:
        created = started.type("prefect", "work-pool", "create", "minimind", "--type", "process")
        assert created.returncode == 0, created.stderr
        deployed = started.type("prefect", "deploy", "--all", "--no-prompt")
        assert deployed.returncode == 0, deployed.stdout + deployed.stderr
        started.start_worker()
        yield started
    finally:
        started.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The parameters of a micro pipeline, as they are typed."""
    parameters = write_project(tmp_path_factory.mktemp("project"))
    return [f"{name}={value}" for name, value in parameters.items()]


def test_prefect_deploy_offers_what_is_served(workers: Pool):
    """The server's own account of it."""
    found = {one["entrypoint"]: one for one in workers.ask("deployments")}
    assert set(found) == {one.entrypoint for one in served()}
    for one in served():
        there = found[one.entrypoint]
        assert there["name"] == "pool" and there["work_pool_name"] == "minimind"
        assert (there["description"], there["tags"]) == (one.description, one.tags)
        assert there["parameter_openapi_schema"]["properties"] == one._parameter_openapi_schema.properties
        limit = there["global_concurrency_limit"]
        assert (limit and limit["limit"]) == one.concurrency_limit
    (schedule,) = found["flows.full_pipeline.full_pipeline"]["schedules"]
    assert not schedule["active"]


def test_a_worker_of_a_plain_shell_runs_the_pipeline(workers: Pool, project: list[str]):
    """Flow, results, database and artifacts are in the store; the user's own Prefect directory stays empty."""
    done = workers.run("full-pipeline/pool", *project)
    assert done.returncode == 0 and "Completed" in done.stdout, done.stdout + workers.log.read_text()
    tracker = Tracker(workers.home)
    runs = {run.info.run_name.split()[0]: run for run in tracker.client.search_runs([tracker.experiment_id])}
    assert set(runs) == {"full-pipeline", *STAGES}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert "minimind-chat" in tracker.registered_names()
    results = list((workers.home / "prefect" / "storage").iterdir())
    assert len(results) >= len(STAGES) and all(json.loads(path.read_bytes()) for path in results), "one is no JSON"
    assert not list(Path(workers.shell["PREFECT_HOME"]).glob("storage/*"))
    again = workers.run("sft/pool", project[0], "lr=0.0001")
    assert again.returncode == 0, again.stdout + workers.log.read_text()


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        ("lr=abc", "Validation failed for field 'lr'. Failure reason: 'abc' is not valid"),
        ("lrr=0.1", "not found on the deployment: 'lrr'"),
    ],
)
def test_a_wrong_parameter_is_one_clear_line(workers: Pool, parameter: str, words: str):
    done = workers.run("sft/pool", parameter, watch=False)
    assert done.returncode == 1
    assert words in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr


def test_a_cancelled_run_of_a_worker_leaves_no_process_and_a_killed_worker_no_run(workers: Pool, project: list[str]):
    """Prefect signals one process of a run; the others are ours to end."""
    for end in ("cancel", "kill"):
        before = {run["id"] for run in workers.ask("flow_runs")}
        since = time.time()
        workers.run("pretrain/pool", project[0], "epochs=3000", watch=False)
        (run,) = {run["id"] for run in workers.ask("flow_runs")} - before
        family = wait_for_training(workers, since=since)
        if end == "cancel":
            workers.type("prefect", "flow-run", "cancel", run)
        else:
            workers.worker.kill()
            workers.worker.wait(10)
        gone, alive = psutil.wait_procs(family, timeout=15)
        assert not alive, [process.cmdline() for process in alive]
        wait_for_state(workers, run, {"cancel": "Cancelled", "kill": "Crashed"}[end])
    workers.start_worker()
    assert workers.run("ingest/pool", *project).returncode == 0


def wait_for_training(workers: Pool, *, since: float) -> list[psutil.Process]:
    """The processes of the worker's run, once its rank has said what it trains."""
    deadline, said = time.monotonic() + 120, []
    while not any(path.stat().st_mtime > since for path in said):
        assert time.monotonic() < deadline, workers.log.read_text()
        time.sleep(0.5)
        said = list(workers.home.glob("artifacts/pretrain/.*.scratch/events.jsonl"))
    return psutil.Process(workers.worker.pid).children(recursive=True)


def wait_for_state(workers: Pool, run: str, wanted: str) -> None:
    deadline, found = time.monotonic() + 30, ""
    while found != wanted and time.monotonic() < deadline:
        time.sleep(0.5)
        found = next(one["state_name"] for one in workers.ask("flow_runs") if one["id"] == run)
    assert found == wanted
