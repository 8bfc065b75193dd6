"""Flow runs that are cancelled or killed in mid-training: nothing is left running, no page says that it is, and the
next run goes on.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from test_pipeline import write_project
from test_up import BIN, CHECKOUT, Up

from tasks.tracking import Tracker

pytestmark = pytest.mark.slow

LONG = ["pretrain.epochs=60", "pretrain.checkpoint_steps=10", "sft.epochs=0.2"]


class Run:
    """A flow run of a deployment, in its training."""

    def __init__(self, up: Up) -> None:
        self.up, self.home = up, up.log.parent / "home"
        self.api = f"http://127.0.0.1:{up.ports[0]}/api"
        parameters = up.parameters | {"overrides": LONG}
        options = [word for name, value in parameters.items() for word in ("-p", f"{name}={json.dumps(value)}")]
        self.prefect("deployment", "run", "full-pipeline/local", *options)
        self.id = self.newest()["id"]
        wait(lambda: bool(checkpoints(self.home)) and bool(self.ranks()), 240)
        self.tree = [*self.ranks(), *self.processes("minimind.train.launch")]

    def prefect(self, *words: str) -> None:
        done = subprocess.run(
            [BIN / "prefect", *words], cwd=CHECKOUT, env=self.up.shell, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def newest(self) -> dict:
        runs = httpx.post(f"{self.api}/flow_runs/filter", json={"sort": "EXPECTED_START_TIME_DESC", "limit": 1})
        return runs.json()[0]

    def state(self) -> str:
        return httpx.get(f"{self.api}/flow_runs/{self.id}").json()["state_name"]

    def processes(self, module: str) -> list[psutil.Process]:
        """Those that run a module for this store."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if module in words and str(self.home) in " ".join(words):
                found.append(process)
        return found

    def ranks(self) -> list[psutil.Process]:
        return [
            process for process in self.processes("minimind.train") if "minimind.train.launch" not in process.cmdline()
        ]

    def flow_process(self) -> psutil.Process:
        (agent,) = self.processes("minimind.train.launch")
        return agent.parent()

    def open_task_runs(self) -> set[str]:
        tasks = httpx.post(f"{self.api}/task_runs/filter", json={"flow_runs": {"id": {"any_": [self.id]}}}).json()
        return {task["name"] for task in tasks if task["state_type"] in ("RUNNING", "PENDING", "SCHEDULED")}

    def mlflow(self) -> dict[str, str]:
        """Status of the runs that were under way."""
        tracker = Tracker(self.home)
        runs = tracker.client.search_runs([tracker.experiment_id])
        return {run.info.run_name.split()[0]: run.info.status for run in reversed(runs)}


def wait(condition: Callable[[], bool], seconds: float) -> float:
    """How long it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "it never came to that"
        time.sleep(0.1)
    return time.monotonic() - started


def checkpoints(home: Path) -> list[Path]:
    return list(home.glob("artifacts/pretrain/.*.scratch/checkpoints/step-*/checkpoint.json"))


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    started = Up(tmp_path)
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.process.send_signal(signal.SIGINT)
        started.process.wait(90)


def by_command(run: Run) -> None:
    run.prefect("flow-run", "cancel", run.id)


def by_page(run: Run) -> None:
    """What the button of Prefect's page asks of the server."""
    state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    httpx.post(f"{run.api}/flow_runs/{run.id}/set_state", json=state).raise_for_status()


@pytest.mark.parametrize("cancel", [by_command, by_page])
def test_a_cancelled_run_ends_its_ranks_and_says_so_everywhere(up: Up, cancel: Callable[[Run], None]) -> None:
    run = Run(up)
    steps = len(checkpoints(run.home))
    cancel(run)
    assert wait(lambda: gone(run.tree), 30) < 10
    wait(lambda: run.state() == "Cancelled", 60)
    wait(lambda: set(run.mlflow().values()) == {"FINISHED", "KILLED"}, 30)
    assert {run.mlflow()[name] for name in ("full-pipeline", "pretrain")} == {"KILLED"}
    assert not run.open_task_runs()
    assert len(checkpoints(run.home)) >= steps > 0, "the next run goes on from them"


def test_a_killed_flow_leaves_no_process_and_the_next_start_ends_its_runs(up: Up) -> None:
    run = Run(up)
    run.flow_process().kill()
    wait(lambda: gone(run.tree), 10)
    wait(lambda: run.state() == "Crashed", 60)
    again = Run(up)
    wait(lambda: not run.open_task_runs(), 30)
    statuses = again.mlflow()
    assert statuses["full-pipeline"] == "RUNNING", "the one that goes on"
    tracker = Tracker(run.home)
    parents = [
        one.info.status
        for one in tracker.client.search_runs([tracker.experiment_id])
        if one.info.run_name.startswith("full-pipeline")
    ]
    assert sorted(parents) == ["KILLED", "RUNNING"]
    by_page(again)
    wait(lambda: again.state() == "Cancelled", 60)


def test_a_killed_up_takes_its_trainings_along_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    """Runner, servers, flow, agent and ranks; nobody is left to say Crashed, so the next `minimind up` does."""
    first = Up(tmp_path)
    first.wait_until_ready()
    run = Run(first)
    family = psutil.Process(first.process.pid).children(recursive=True)
    first.process.kill()
    first.process.wait(10)
    wait(lambda: gone([*family, *run.tree]), 40)
    second = Up(tmp_path)
    try:
        second.wait_until_ready()
        run.api = f"http://127.0.0.1:{second.ports[0]}/api"
        assert run.state() == "Crashed"
        assert not run.open_task_runs()
        assert "RUNNING" not in run.mlflow().values()
    finally:
        second.process.send_signal(signal.SIGINT)
        second.process.wait(90)


def terminal(directory: Path, up: Up | None = None) -> subprocess.Popen[str]:
    """`minimind run` in another shell, in its training."""
    parameters, home = write_project(directory), directory / "home"
    environment = {**os.environ, "MINIMIND_HOME": str(home), "COLUMNS": "200"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    if up:
        environment["PREFECT_API_URL"] = up.shell["PREFECT_API_URL"]
    command = [sys.executable, "-m", "minimind.cli", "run", "-r", parameters["recipe"], "-d", parameters["data"]]
    command += [word for override in LONG for word in ("-o", override)]
    process = subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    wait(lambda: process.poll() is not None or bool(checkpoints(home)), 240)
    return process


@pytest.mark.parametrize("how", ["page", "ctrl-c"])
def test_a_run_in_a_terminal_can_be_cancelled_in_the_page_too(up: Up, how: str) -> None:
    """It reports to the server of `minimind up`; Prefect's word for Ctrl-C would be Crashed."""
    process = terminal(up.log.parent, up)
    try:
        run = object.__new__(Run)
        run.up, run.home, run.api = up, up.log.parent / "home", up.shell["PREFECT_API_URL"]
        run.id, run.tree = run.newest()["id"], run.ranks()
        assert run.tree
        by_page(run) if how == "page" else process.send_signal(signal.SIGINT)
        assert wait(lambda: gone(run.tree), 30) < 12
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 130, out
        assert run.state() == "Cancelled"
        assert run.mlflow()["full-pipeline"] == "KILLED"
    finally:
        process.kill()


def test_prefects_server_that_goes_away_costs_nothing(tmp_path: Path) -> None:
    """The training does not notice, the pipeline comes to its end, and the next start tells Prefect of it."""
    started = Up(tmp_path)
    started.wait_until_ready()
    process = terminal(tmp_path, started)
    started.process.send_signal(signal.SIGINT)
    started.process.wait(90)
    out, _ = process.communicate(timeout=400)
    assert process.returncode == 0, out
    assert "models:/minimind-chat/1" in out
    again = Up(tmp_path)
    try:
        again.wait_until_ready()
        runs = httpx.post(f"{again.shell['PREFECT_API_URL']}/flow_runs/filter", json={}).json()
        assert {run["state_name"] for run in runs} == {"Completed"}
    finally:
        again.process.send_signal(signal.SIGINT)
        again.process.wait(90)
