"""Starts at once on one store, and a first start that is killed: the common work is done once, no database is lost."""

import os
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest
from test_pipeline import STAGES, write_project
from test_up import BIN, CHECKOUT

from minimind.artifact import Store
from minimind.fingerprint import flatten
from tasks.tracking import Tracker

HALF_MADE = 300_000  # bytes of Prefect's database, which is a megabyte when its tables are there

pytestmark = pytest.mark.slow

SHARED = {label for label in STAGES if label not in ("sft", "dpo", "lora", "evaluate", "publish")}


def start(parameters: dict[str, str], home: Path, *words: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MINIMIND_"))}
    command = [BIN / "minimind", "run", "--recipe", parameters["recipe"], "--data", parameters["data"], *words]
    return subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env=clean | {"MINIMIND_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_common_stages_run_once_and_each_pipeline_ends_with_its_own(tmp_path: Path) -> None:
    """Alike up to the base model; from there on the second has another learning rate."""
    parameters, home = write_project(tmp_path), tmp_path / "home"
    rates = {"5e-4", "1e-4"}
    both = [start(parameters, home, "-o", f"sft.lr={rate}") for rate in sorted(rates)]
    said = [process.communicate(timeout=900)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(said)

    made = Counter(artifact.label for artifact in Store(home).all())
    assert made == {label: 1 if label in SHARED else 2 for label in STAGES}
    sft = [artifact for artifact in Store(home).all() if artifact.label == "sft"]
    assert {flatten(one.manifest.parts.config)["lr"] for one in sft} == {float(rate) for rate in rates}

    tracker = Tracker(home)
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=1000)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert Counter(run.info.run_name for run in runs if run.info.run_name in STAGES) == made
    assert tracker.client.get_registered_model("minimind-pretrain").latest_versions[0].version == 1
    versions = tracker.client.search_model_versions("name = 'minimind-sft'")
    assert {version.tags["fingerprint"] for version in versions} == {one.fingerprint for one in sft}
    assert tracker.alias_of("minimind-sft", "candidate") == "models:/minimind-sft/2"


def test_a_first_start_that_is_killed_leaves_no_database_that_none_can_use(tmp_path: Path) -> None:
    """Prefect's server, killed while it creates its tables, would never start on them again."""
    parameters, home = write_project(tmp_path), tmp_path / "home"
    first = start(parameters, home)
    unfinished = home / "prefect" / ".prefect.new.db"
    deadline = time.monotonic() + 120
    while not (unfinished.exists() and unfinished.stat().st_size > HALF_MADE):
        assert first.poll() is None and time.monotonic() < deadline, first.communicate()[0]
    first.kill()
    first.communicate()
    assert not (home / "prefect" / "prefect.db").exists()
    again = start(parameters, home)
    said = again.communicate(timeout=600)[0]
    assert again.returncode == 0, said
