"""Prefect and MLflow on PostgreSQL, each by one URL: `minimind up`, the pipeline, and what both databases then hold."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest
from postgres_server import PASSWORD, find_programs, postgres
from test_pipeline import STAGES
from test_up import BIN, CHECKOUT, Up

from minimind.artifact import Store
from tasks.tracking import Tracker

PROGRAMS = find_programs()


@pytest.mark.slow
@pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL server here (Debian: apt-get install postgresql)")
@pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="pip install 'minimind-pipeline[postgres]'")
def test_both_databases_can_be_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same pipeline, states, curves and registry, and no SQLite file anywhere."""
    with postgres(PROGRAMS, "prefect", "mlflow") as server:
        urls = {
            "PGPASSWORD": PASSWORD,  # so that no URL has it
            "PREFECT_API_DATABASE_CONNECTION_URL": f"postgresql+asyncpg://{server}/prefect",
            "MLFLOW_TRACKING_URI": f"postgresql://{server}/mlflow",
        }
        up = Up(tmp_path, **urls)
        try:
            up.wait_until_ready()
            assert not [line for line in commands_of(up) if "postgresql" in line], "everybody reads a command line"
            parameters = (f"{name}={json.dumps(value)}" for name, value in up.parameters.items())
            done = up.run("full-pipeline/local", *parameters)
            assert done.returncode == 0 and "Completed" in done.stdout, done.stdout + done.stderr
            api = f"http://127.0.0.1:{up.ports[0]}/api"
            (run,) = httpx.post(f"{api}/flow_runs/filter", json={}).json()
            assert run["state_name"] == "Completed"
            tasks = httpx.post(f"{api}/task_runs/filter", json={}).json()
            assert {task["state_name"] for task in tasks} == {"Completed"}
            page = httpx.get(f"http://127.0.0.1:{up.ports[1]}/api/2.0/mlflow/registered-models/search").json()
            assert "minimind-chat" in {model["name"] for model in page["registered_models"]}
        finally:
            up.stop()
        for name in ("MLFLOW_TRACKING_URI", "PGPASSWORD"):
            monkeypatch.setenv(name, urls[name])
        look_at_runs(Tracker(tmp_path / "home"))
        assert not list((tmp_path / "home").rglob("*.db*"))
        environment = {**os.environ, **urls, "MINIMIND_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
        again = subprocess.run(
            [BIN / "minimind", "plan", "-r", up.parameters["recipe"], "-d", up.parameters["data"]],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert "nothing to run" in again.stdout


def look_at_runs(tracker: Tracker) -> None:
    runs = {run.info.run_name.split()[0]: run for run in tracker.client.search_runs([tracker.experiment_id])}
    assert set(runs) == {"full-pipeline", *STAGES}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    losses = tracker.client.get_metric_history(runs["pretrain"].info.run_id, "loss")
    assert [metric.step for metric in losses] == list(range(1, len(losses) + 1))
    chat = tracker.resolve("models:/minimind-chat@champion", Store(tracker.home))
    assert tracker.registration(chat).uri == "models:/minimind-chat/1"


def commands_of(up: Up) -> list[str]:
    family = psutil.Process(up.process.pid).children(recursive=True)
    return [" ".join(process.cmdline()) for process in family]
