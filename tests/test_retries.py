"""Stages that are tried again: which failures may pass, and a training that lost a process while nobody looked."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from prefect.states import Failed
from test_pipeline import write_project

from minimind import errors
from minimind.errors import ConfigError, LostProcessError, MiniMindError, ServiceError
from tasks import retries
from tasks.tracking import Tracker

CHECKOUT = Path(__file__).resolve().parents[1]
LONG = ("-o", "pretrain.epochs=25", "-o", "pretrain.checkpoint_steps=10", "-o", "sft.epochs=0.2")


@pytest.mark.parametrize(
    "error", [LostProcessError("gone"), ServiceError("503"), ConnectionResetError(), TimeoutError()], ids=repr
)
def test_what_may_be_over_by_itself_is_tried_again(error: Exception):
    assert retries.may_pass(None, None, Failed(data=error))


def test_what_says_what_to_change_is_not():
    """It would fail again, and the person would hear of it later."""
    ours = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MiniMindError)}
    final = ours - {LostProcessError, ServiceError}
    assert len(final) >= 6
    for kind in (*final, ValueError, FileNotFoundError, PermissionError, MemoryError):
        assert not retries.may_pass(None, None, Failed(data=kind("so it is"))), kind


def test_nobody_waits_for_a_person_at_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(retries.VARIABLE, raising=False)
    assert retries.retries() == 0
    monkeypatch.setenv(retries.VARIABLE, "3")
    assert retries.retries() == 3
    monkeypatch.setenv(retries.VARIABLE, "often")
    with pytest.raises(ConfigError, match="MINIMIND_RETRIES=often: a number of retries"):
        retries.retries()


def start(directory: Path, home: str) -> subprocess.Popen[str]:
    parameters = write_project(directory)
    environment = {**os.environ, "MINIMIND_HOME": str(directory / home), "COLUMNS": "200"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "minimind.cli", "run", "-r", parameters["recipe"], "-d", parameters["data"], *LONG]
    return subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def wait_for_checkpoint(process: subprocess.Popen[str], home: Path) -> None:
    deadline = time.monotonic() + 240
    while not list(home.glob("artifacts/pretrain/.*.scratch/checkpoints/step-*/checkpoint.json")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def weights(home: Path) -> dict[str, str]:
    found = home.glob("artifacts/*/*/model.safetensors")
    return {str(p.relative_to(home)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


def rank_of(process: subprocess.Popen[str]) -> psutil.Process:
    family = psutil.Process(process.pid).children(recursive=True)
    (rank,) = [one for one in family if "minimind.train" in one.cmdline() and "--standalone" not in one.cmdline()]
    return rank


@pytest.mark.slow
def test_a_rank_that_is_killed_once_costs_a_retry_and_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The training goes on from its checkpoint in the same run, to the same weights; without retries it fails."""
    reference = start(tmp_path, "undisturbed")
    out, _ = reference.communicate(timeout=500)
    assert reference.returncode == 0, out

    for home, allowed in (("once", "1"), ("never", "0")):
        monkeypatch.setenv(retries.VARIABLE, allowed)
        started = start(tmp_path, home)
        wait_for_checkpoint(started, tmp_path / home)
        rank_of(started).send_signal(signal.SIGKILL)
        out, _ = started.communicate(timeout=500)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow sets it to what it was last told
        tracker = Tracker(tmp_path / home)
        runs = tracker.client.search_runs([tracker.experiment_id])
        pretrain = [run for run in runs if run.info.run_name == "pretrain"]
        assert "rank 0 was lost to signal 9 (Killed)" in out
        if allowed == "0":
            assert started.returncode == 1, out
            assert "tried again" not in out
            assert [run.info.status for run in pretrain] == ["FAILED"]
            continue
        assert started.returncode == 0, out
        assert "it is tried again in 5 s" in out
        assert {*weights(tmp_path / home).values()} == {*weights(tmp_path / "undisturbed").values()}
        assert {run.info.status for run in runs} == {"FINISHED"}
        (run,) = pretrain
        steps = [metric.step for metric in tracker.client.get_metric_history(run.info.run_id, "loss")]
        assert steps == list(range(1, len(steps) + 1))
