"""The data stages on other task runners: the same bytes from processes here and from a Dask cluster."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_cleaning import corpus_files

from flows.runner import VARIABLE, task_runner
from minimind.artifact import Artifact, Store
from minimind.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[1]


def test_an_unknown_runner_is_refused_with_the_known_ones(monkeypatch: pytest.MonkeyPatch):
    """A typing mistake must not quietly mean this machine."""
    monkeypatch.setenv(VARIABLE, "slurm")
    with pytest.raises(ConfigError, match="known are `dask`"):
        task_runner()


def run_shard(home: Path, spec: Path, *options: str) -> Artifact:
    command = [sys.executable, "-m", "minimind.cli", "run", "shard", "--data", str(spec), *options]
    environment = {**os.environ, "MINIMIND_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    (shard,) = [artifact for artifact in Store(home).all() if artifact.kind == "shard"]
    return shard


def payload(home: Path) -> dict[str, str]:
    """Stage and file → sha256 of everything but what holds times."""
    timed = ("events.jsonl", "summary.json")
    return {
        f"{artifact.kind}/{entry.path}": entry.sha256
        for artifact in Store(home).all()
        for entry in artifact.manifest.files
        if entry.path not in timed
    }


@pytest.mark.slow
def test_a_dask_cluster_makes_the_same_bytes(tmp_path: Path):
    """A corpus that outgrows this machine must not become another corpus."""
    sources = []
    for number, rows in enumerate(corpus_files(3)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{number}.jsonl").write_text(lines, encoding="utf-8")
        sources.append(f'[[source]]\nname = "s{number}"\nrows = "pretrain"\npath = "{number}.jsonl"\n')
    spec = tmp_path / "spec.toml"
    spec.write_text("workers = 2\nshard_bytes = 1024\n" + "".join(sources), encoding="utf-8")
    run_shard(tmp_path / "here", spec)
    run_shard(tmp_path / "dask", spec, "--runner", "dask")
    here, dask = payload(tmp_path / "here"), payload(tmp_path / "dask")
    assert here == dask
    assert sum("shard/train/" in name for name in here) > 1
