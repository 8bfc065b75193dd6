"""The gate at the end of a real pipeline: what a refused model leaves, and what the same command says again."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from test_pipeline import write_project

from minimind.artifact import Store, open_artifact
from tasks.gate import kept
from tasks.tracking import Tracker

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
OPEN = tuple(
    word
    for setting in ("preference_above_chance=false", "max_repetition=1.0", "max_same_answers=1.0", "enabled=true")
    for word in ("-o", f"gate.{setting}")
)
SHUT = (*OPEN, "-o", "gate.at_most.bits_per_byte=0.1")


def minimind(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MINIMIND_"))}
    environment = clean | {"MINIMIND_HOME": str(home), "COLUMNS": "250"}
    command = [sys.executable, "-m", "minimind.cli", *words]
    return subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)


def flow_runs(home: Path) -> list[tuple[str, str]]:
    """State and message of every flow run that Prefect knows, the oldest first."""
    with sqlite3.connect(home / "prefect" / "prefect.db") as database:
        return database.execute(
            "SELECT run.state_type, coalesce(state.message, '') FROM flow_run run "
            "JOIN flow_run_state state ON state.id = run.state_id ORDER BY run.created"
        ).fetchall()


def test_a_refused_model_is_published_and_not_the_champion_until_it_is_forced(tmp_path: Path) -> None:
    """Exit code 3 each time, the reason in Prefect, the card and the candidate there; `promote --force` ends it."""
    parameters, home = write_project(tmp_path), tmp_path / "home"
    run = ("run", "--recipe", parameters["recipe"], "--data", parameters["data"])
    first = minimind(home, *run, *OPEN)
    assert first.returncode == 0, first.stdout + first.stderr
    tracker = Tracker(home)
    champions = {name: tracker.alias_of(f"minimind-{name}", "champion") for name in ("chat", "sft", "dpo", "pretrain")}
    assert champions == {name: f"models:/minimind-{name}/1" for name in champions}

    refused = minimind(home, *run, *SHUT, "-o", "dpo.lr=1e-3")
    assert refused.returncode == 3, refused.stdout + refused.stderr
    reason = "at_most.bits_per_byte: bits_per_byte is"
    assert reason in refused.stderr and "@champion of minimind-chat stays models:/minimind-chat/1" in refused.stderr
    assert {name: tracker.alias_of(f"minimind-{name}", "champion") for name in champions} == champions
    assert tracker.alias_of("minimind-chat", "candidate") == "models:/minimind-chat/2"
    version = tracker.client.get_model_version("minimind-chat", "2")
    assert version.tags["gate"] == "refused" and reason in version.tags["gate_reason"]
    card = open_artifact(Store(home).path("publish", version.tags["fingerprint"]))
    assert (card.dir / "report.html").exists() and str(card.dir) in refused.stderr
    verdict = kept(home, card)
    assert verdict and verdict.state == "refused"
    assert {ruling.rule for ruling in verdict.rulings} >= {"max_bits_per_byte_loss", "at_most.bits_per_byte"}
    state, message = flow_runs(home)[-1]
    assert state == "FAILED" and reason in message

    count = len(flow_runs(home))
    again = minimind(home, *run, *SHUT, "-o", "dpo.lr=1e-3")
    assert again.returncode == 3 and reason in again.stderr and "nothing to run" not in again.stdout
    assert len(flow_runs(home)) == count  # told from the record

    forced = minimind(home, "promote", "models:/minimind-chat/2", "--force", "--reason", "it is a test")
    assert forced.returncode == 0, forced.stdout + forced.stderr
    assert tracker.alias_of("minimind-chat", "champion") == "models:/minimind-chat/2"
    settled = minimind(home, *run, *SHUT, "-o", "dpo.lr=1e-3")
    assert settled.returncode == 0 and "nothing to run" in settled.stdout, settled.stdout + settled.stderr
    shown = minimind(home, "report")
    assert "the gate: forced" in shown.stdout and "it is a test" in shown.stdout
