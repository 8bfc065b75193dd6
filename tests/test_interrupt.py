"""A pipeline that is stopped in mid-training: no process left, honest runs, and it goes on to the same weights."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from test_pipeline import write_project

from tasks.tracking import Tracker

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
LONG = ("-o", "pretrain.epochs=25", "-o", "pretrain.checkpoint_steps=10", "-o", "sft.epochs=0.2")


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_pipeline_leaves_nothing_running_and_goes_on_to_the_same_weights(tmp_path: Path, number: int):
    reference = start(tmp_path, "undisturbed")
    out, _ = reference.communicate(timeout=500)
    assert reference.returncode == 0, out

    first = start(tmp_path, "home")
    home = tmp_path / "home"
    wait_for_checkpoint(first, home)
    family = psutil.Process(first.pid).children(recursive=True)
    first.send_signal(number)
    out, _ = first.communicate(timeout=60)
    gone, alive = psutil.wait_procs(family, timeout=15)
    assert not alive, [p.cmdline() for p in alive]
    if number != signal.SIGKILL:
        assert first.returncode == 130, out
        assert "goes on from where it was" in out

    second = start(tmp_path, "home")
    out, _ = second.communicate(timeout=500)
    assert second.returncode == 0, out
    assert weights(home) == weights(tmp_path / "undisturbed")
    tracker = Tracker(home)
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED", "KILLED"}
    pretrain = [run for run in runs if run.info.run_name == "pretrain"]
    assert [run.info.status for run in pretrain] == ["FINISHED"]
    steps = [m.step for m in tracker.client.get_metric_history(pretrain[0].info.run_id, "loss")]
    assert steps == sorted(set(steps)), "a step was delivered twice"
