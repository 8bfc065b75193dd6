"""Batch inference as a flow: which model answers, where the answers go, what is refused before anything runs."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Tracked
from engine_parts import GivenModel
from test_batch import SFT, question, write
from test_up import BIN, CHECKOUT

from flows.catalog import find_flow, flow_names
from flows.local_plan import planned
from minimind.artifact import Store
from minimind.errors import ConfigError, MissingError
from minimind.stage import build
from tasks.tracking import Tracker


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: Tracked) -> Path:
    home = tmp_path / "home"
    monkeypatch.setenv("MINIMIND_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    tracked(home)
    return home


def ask(tmp_path: Path, **others: Any) -> dict[str, Any]:
    return {"input": str(write(tmp_path / "questions.jsonl", [question("boat"), "{bad"])), **others}


def test_it_is_a_flow_like_the_others():
    """`minimind run`, `plan` and the deployments take it from the catalog."""
    assert flow_names()[-1] == "generate"
    given = {"input": "x", "temperature": "0", "max_tokens": "5", "stop": "。", "seed": "7"}
    taken = find_flow("generate").validate_parameters(given)
    assert (taken["temperature"], taken["max_tokens"], taken["stop"], taken["seed"]) == (0.0, 5, ["。"], 7)
    assert find_flow("generate").validate_parameters({"input": "x", "stop": '["a", "b"]'})["stop"] == ["a", "b"]


def test_a_short_name_is_the_newest_of_its_kind(home: Path, base: Path, tmp_path: Path):
    store = Store(home)
    model, _ = build(SFT, GivenModel(path=str(base)), {}, store=store)
    Tracker(home).record(model)
    (step,) = planned(ask(tmp_path, model="sft", max_tokens=9), "generate")
    assert step.parts.inputs == {"model": model.fingerprint}
    assert step.reads == {"model": "models:/minimind-sft/1"}
    assert step.parts.config["sampling"]["max_tokens"] == 9
    (other,) = planned(ask(tmp_path, model=str(model.dir), max_tokens=9, workers=3, device="cpu"), "generate")
    assert other.parts.fingerprint() == step.parts.fingerprint()


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ({"model": "sftt"}, MissingError, r"no model `sftt` \(did you mean `sft`\?\)"),
        ({"model": "models:/minimind-dpo/7"}, MissingError, "not in the registry"),
        ({"model": "{tokenizer}"}, ConfigError, "is a tokenizer, not a model"),
        ({"output": "{tmp}/none/x.jsonl"}, MissingError, "there is no directory .*none; make it"),
        ({"output": "{tmp}"}, ConfigError, "is a directory"),
        ({"output": "{tmp}/x.jsonl.gz"}, ConfigError, "is written plain"),
        ({"output": "{tmp}/questions.jsonl"}, ConfigError, "is the input"),
        ({"input": "{tmp}/none.jsonl", "model": "{model}"}, MissingError, "no such file"),
    ],
)
def test_what_is_impossible_is_said_first(
    home: Path, base: Path, tokenizer_artifact, tmp_path: Path, wrong: dict[str, str], error: type, words: str
):
    """A wrong name must not come out after hours of answering."""
    model, _ = build(SFT, GivenModel(path=str(base)), {}, store=Store(home))
    places = {"tmp": tmp_path, "tokenizer": tokenizer_artifact.dir, "model": model.dir}
    given = {name: value.format(**places) for name, value in wrong.items()}
    with pytest.raises(error, match=words):
        planned(ask(tmp_path) | given, "generate")


@pytest.mark.slow
def test_the_command_answers_registers_and_copies(home: Path, base: Path, tmp_path: Path):
    """As a user types it, with a Prefect server and MLflow; the second time nothing is asked again."""
    model, _ = build(SFT, GivenModel(path=str(base)), {}, store=Store(home))
    Tracker(home).record(model)
    rows = [question(f"stars {number}") for number in range(70)]
    given = {"input": write(tmp_path / "questions.jsonl", rows), "model": "sft", "max_tokens": 4, "workers": 2}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MINIMIND_"))}

    def run(output: Path) -> str:
        words = [word for name, value in (given | {"output": output}).items() for word in ("-p", f"{name}={value}")]
        done = subprocess.run(
            [BIN / "minimind", "run", "generate", *words],
            cwd=CHECKOUT,
            env=clean | {"MINIMIND_HOME": str(home), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    assert "models:/minimind-answers/1" in run(first)
    assert "reused" in run(second)
    assert first.read_bytes() == second.read_bytes()
    assert [json.loads(line)["generated"]["line"] for line in first.read_text("utf-8").splitlines()] == [*range(1, 71)]
    tracker = Tracker(home)
    artifact = tracker.resolve("models:/minimind-answers@candidate", Store(home))
    registration = tracker.registration(artifact)
    assert registration is not None
    run_of = tracker.client.get_run(registration.run_id)
    assert (run_of.info.status, run_of.data.metrics["answered"]) == ("FINISHED", 70)
    assert [one.model_id for one in run_of.inputs.model_inputs] == [tracker.registration(model).model_id]
    assert not {"recipe", "data"} & set(artifact.manifest.context)  # no recipe had a say
