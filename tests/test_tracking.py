"""MLflow as a view of sealed artifacts: recorded once, found again, made good after an outage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Tracked

from minimind import runtime
from minimind.artifact import Artifact, Store, Summary
from minimind.config import Config
from minimind.errors import MissingError, ServiceError
from minimind.events import EVENTS_FILE, EventWriter, read_events
from minimind.fingerprint import Parts
from minimind.stage import Stage, build
from tasks.recording import forget_sealed
from tasks.registry import WHOLE, note_path, registered_as
from tasks.runs import create_database
from tasks.tracking import Tracker


class TrainConfig(Config):
    lr: float = 0.1


def train(config: TrainConfig, inputs, out_dir: Path) -> Summary:
    (out_dir / "model.safetensors").write_bytes(b"weights" * 100)
    with EventWriter(out_dir / EVENTS_FILE) as events:
        for step in range(1, 6):
            events.step(step, 5, {"loss": 1 / step, "lr": config.lr})
        events.step(5, 5, {"validation_loss": 0.2})
    return Summary(figures={"validation_loss": 0.2, "note": "fine"})


TRACKER_IN_A_PROCESS = """
from pathlib import Path
from minimind.artifact import Store, open_artifact
from tasks.tracking import Tracker
home = {home!r}
print(Tracker(Path(home)).{ask})
"""

SFT = Stage("sft", train)
DPO = Stage("dpo", train, inputs=("model",))


def in_processes_at_once(home: Path, asks: list[str]) -> list[str]:
    commands = ([sys.executable, "-c", TRACKER_IN_A_PROCESS.format(home=str(home), ask=ask)] for ask in asks)
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    answers = [process.communicate()[0].strip() for process in started]
    assert [process.returncode for process in started] == [0] * len(asks)
    return answers


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "home"


@pytest.fixture
def tracker(home: Path, tracked: Tracked) -> Tracker:
    return tracked(home)


@pytest.fixture
def sft(home: Path) -> Artifact:
    return build(SFT, TrainConfig(), {}, store=Store(home), context={"recipe": "tiny"})[0]


def test_an_artifact_is_recorded_with_its_steps_figures_and_a_version(tracker: Tracker, sft: Artifact):
    registration = tracker.record(sft)
    run = tracker.client.get_run(registration.run_id)
    assert registration.uri == "models:/minimind-sft/1"
    assert run.info.status == "FINISHED"
    assert (run.data.params["lr"], run.data.tags["recipe"]) == ("0.1", "tiny")
    assert run.data.metrics["validation_loss"] == 0.2
    assert (run.data.tags["summary.note"], run.data.tags["summary.validation_loss"]) == ("fine", "0.2")
    history = tracker.client.get_metric_history(registration.run_id, "loss")
    assert [(m.step, m.value) for m in sorted(history, key=lambda m: m.step)] == [(s, 1 / s) for s in range(1, 6)]


def test_the_next_stage_takes_the_artifact_from_the_registry(tracker: Tracker, sft: Artifact, home: Path):
    tracker.record(sft)
    store = Store(home)
    assert tracker.resolve("models:/minimind-sft/1", store).dir == sft.dir
    assert tracker.resolve("models:/minimind-sft@candidate", store).fingerprint == sft.fingerprint


@pytest.mark.parametrize("loss", ["deleted", "damaged"])
def test_a_lost_model_comes_back_whole_from_the_registry(tracker: Tracker, sft: Artifact, home: Path, loss: str):
    """The registry holds models whole: the local store is a cache of it."""
    tracker.record(sft)
    weights = sft.dir / "model.safetensors"
    if loss == "deleted":
        for path in sft.dir.iterdir():
            path.unlink()
        sft.dir.rmdir()
    else:
        weights.write_bytes(b"other")
    found = tracker.resolve("models:/minimind-sft/1", Store(home))
    assert (found.dir / "model.safetensors").read_bytes() == b"weights" * 100


def test_a_name_that_is_not_registered_is_an_error_with_those_that_are(tracker: Tracker, sft: Artifact, home: Path):
    tracker.record(sft)
    with pytest.raises(MissingError, match=r"registered models: minimind-sft"):
        tracker.resolve("models:/minimind-dpo@candidate", Store(home))
    with pytest.raises(MissingError, match="not in the registry"):
        tracker.resolve("models:/minimind-sft/7", Store(home))


def test_lineage_is_inputs_and_outputs_in_mlflow(tracker: Tracker, sft: Artifact, home: Path):
    first = tracker.record(sft)
    dpo, _ = build(DPO, TrainConfig(lr=0.2), {"model": sft}, store=Store(home))
    second = tracker.record(dpo)
    run = tracker.client.get_run(second.run_id)
    assert [model.model_id for model in run.inputs.model_inputs] == [first.model_id]
    assert [d.dataset.digest for d in run.inputs.dataset_inputs] == [sft.fingerprint]
    assert [model.model_id for model in run.outputs.model_outputs] == [second.model_id]


def test_steps_that_were_followed_live_are_not_written_twice(tracker: Tracker, sft: Artifact):
    run_id = tracker.begin("sft", tags={})
    events = read_events(sft.dir / EVENTS_FILE)
    tracker.log_steps(run_id, events[:5])
    tracker.record(sft, run_id=run_id)
    assert sorted(m.step for m in tracker.client.get_metric_history(run_id, "loss")) == [1, 2, 3, 4, 5]
    assert [m.step for m in tracker.client.get_metric_history(run_id, "validation_loss")] == [5]


def test_sync_delivers_what_was_made_while_the_tracker_was_away(tracker: Tracker, sft: Artifact, home: Path):
    build(DPO, TrainConfig(), {"model": sft}, store=Store(home))
    assert [r.name for r in tracker.sync(Store(home))] == ["minimind-sft", "minimind-dpo"]
    assert tracker.sync(Store(home)) == []
    assert tracker.registration(sft)


def test_a_version_whose_process_was_killed_before_its_note_is_found_again(tracker: Tracker, sft: Artifact, home: Path):
    """The artifact's manifest names no run where MLflow was away when it was made."""
    first = tracker.record(sft)
    note_path(home, sft).unlink()
    (again,) = tracker.sync(Store(home))
    assert (again.uri, again.run_id) == (first.uri, first.run_id)
    assert len(tracker.client.search_model_versions("")) == 1


def test_sync_numbers_versions_as_they_were_made(tracker: Tracker, home: Path, monkeypatch: pytest.MonkeyPatch):
    """The newest is the candidate, whatever its fingerprint."""
    made = []
    for second in range(5):
        monkeypatch.setattr(runtime, "now", lambda second=second: f"2026-01-01T00:00:0{second}+00:00")
        made.append(build(SFT, TrainConfig(lr=0.1 + second), {}, store=Store(home))[0].fingerprint)
    assert made != sorted(made)
    assert [r.version for r in tracker.sync(Store(home))] == [1, 2, 3, 4, 5]
    assert [tracker.fingerprint_of(f"models:/minimind-sft/{version}") for version in range(1, 6)] == made


@pytest.mark.slow
def test_a_database_that_was_deleted_is_filled_again_from_the_artifacts(sft: Artifact, home: Path):
    """The truth lies in the store; notes of what was registered must not outlive the registry."""
    command = [sys.executable, "-c", TRACKER_IN_A_PROCESS.format(home=str(home), ask="sync(Store(Path(home)))")]
    for _ in range(2):
        subprocess.run(command, capture_output=True, text=True, check=True)
    assert Tracker(home).registration(sft)
    (home / "mlflow.db").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "minimind-sft" in done.stdout


def test_a_server_that_is_down_is_one_clear_error_within_seconds(home: Path):
    with pytest.raises(ServiceError, match=r"MLflow at http://127\.0\.0\.1:9 does not answer"):
        Tracker(home, "http://127.0.0.1:9")


def test_runs_of_a_killed_process_are_ended_at_the_next_start(tracker: Tracker, home: Path):
    """A SIGKILLed flow would otherwise say RUNNING for ever."""
    command = [sys.executable, "-c", TRACKER_IN_A_PROCESS.format(home=str(home), ask="begin('x', tags={})")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    mine = tracker.begin("mine", tags={})
    assert tracker.reap() == 1
    assert tracker.client.get_run(done.stdout.strip()).info.status == "KILLED"
    assert tracker.client.get_run(mine).info.status == "RUNNING"


@pytest.mark.slow
def test_four_processes_may_start_on_a_fresh_store_at_once(home: Path):
    """MLflow alone loses three of four here."""
    assert len(set(in_processes_at_once(home, ["experiment_id"] * 4))) == 1


@pytest.mark.slow
def test_what_four_processes_record_at_once_is_registered_once(sft: Artifact, tracker: Tracker, home: Path):
    """Two pipelines on one store: the one that sealed it, and others that find it missing in MLflow as they start."""
    outputs = in_processes_at_once(home, [f"record(open_artifact(Path({str(sft.dir)!r}))).uri"] * 4)
    assert outputs == ["models:/minimind-sft/1"] * 4
    runs = tracker.client.search_runs([tracker.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"]


@pytest.mark.slow
def test_candidate_is_the_newest_of_versions_that_are_registered_at_once(tracker: Tracker, home: Path):
    """Who set the alias last is not who registered last."""
    configs = [TrainConfig(lr=lr) for lr in (0.1, 0.2, 0.3, 0.4)]
    paths = [str(build(SFT, config, {}, store=Store(home))[0].dir) for config in configs]
    outputs = in_processes_at_once(home, [f"record(open_artifact(Path({path!r}))).uri" for path in paths])
    assert sorted(outputs) == [f"models:/minimind-sft/{number}" for number in (1, 2, 3, 4)]
    assert tracker.alias_of("minimind-sft", "candidate") == "models:/minimind-sft/4"


def test_a_version_whose_process_was_killed_before_it_could_note_it_is_not_made_again(
    tracker: Tracker, sft: Artifact, home: Path
):
    first = tracker.record(sft)
    note_path(home, sft).unlink()
    assert tracker.record(sft, run_id=first.run_id) == first


def test_an_alias_stays_at_the_newest_version_when_an_older_one_comes_late(tracker: Tracker, home: Path):
    """Between its version and its alias a process may sleep; the other is of another machine, so no lock holds it."""
    old, new = (build(SFT, TrainConfig(lr=lr), {}, store=Store(home))[0] for lr in (0.1, 0.2))
    setting, newer = tracker.client.set_registered_model_alias, []

    def overtaken(name: str, alias: str, version: str) -> None:
        if not newer:
            newer.append(Tracker(home.parent / "elsewhere", tracker.uri).record(new))
        setting(name, alias, version)

    tracker.client.set_registered_model_alias = overtaken
    tracker.record(old)
    assert tracker.alias_of("minimind-sft", "candidate") == newer[0].uri == "models:/minimind-sft/2"


def test_a_database_whose_creation_was_killed_is_made_anew(home: Path):
    home.mkdir()
    (home / ".mlflow.new.db").write_bytes(b"half a database")
    create_database(home)
    assert Tracker(home).experiment_id


def test_the_note_of_a_run_goes_once_its_artifact_is_sealed(sft: Artifact, home: Path):
    """A kill between the seal and its record left it for ever."""
    store = Store(home)
    sealed, unsealed = (store.scratch("sft", name).with_suffix(".run") for name in (sft.fingerprint, "f" * 16))
    for note in (sealed, unsealed):
        note.write_text("{}")
    forget_sealed(store)
    assert unsealed.exists() and not sealed.exists()
    sealed.write_text("{}")
    store.scratch("sft", sft.fingerprint).mkdir()
    forget_sealed(store)
    assert sealed.exists()


def test_names_tell_the_kinds_of_rows_apart(home: Path):
    assert Parts(stage="tokens", format_version=1, config={"rows": "chat"}).label == "tokens-chat"
    assert Parts(stage="sft", format_version=1, config={}).label == "sft"
    names = [
        registered_as(build(Stage(stage, train_rows), RowsConfig(rows=rows), {}, store=Store(home))[0].label)
        for stage in ("shard", "tokens")
        for rows in ("pretrain", "chat")
    ]
    assert names == ["minimind-corpus", "minimind-corpus-chat", "minimind-tokens", "minimind-tokens-chat"]


class RowsConfig(Config):
    rows: str


def train_rows(config: RowsConfig, inputs, out_dir: Path) -> Summary:
    return Summary()


def test_a_corpus_is_registered_by_manifest_and_location_only(tracker: Tracker, home: Path):
    """It may be terabytes; the registry says what it is and where."""

    def write(config: Config, inputs, out_dir: Path) -> Summary:
        (out_dir / "shard.arrow").write_bytes(b"rows" * 1000)
        return Summary()

    artifact, _ = build(Stage("shard", write), TrainConfig(), {}, store=Store(home))
    registration = tracker.record(artifact)
    stored = list((home / "mlartifacts" / "models").glob("*/artifacts/*"))
    assert sorted(path.name for path in stored) == ["manifest.json", "summary.json"]
    tags = tracker.client.get_model_version(registration.name, str(registration.version)).tags
    assert tags["location"] == str(artifact.dir)
    assert json.loads((home / "registry" / f"shard-{artifact.fingerprint}.json").read_text())["version"] == 1


def test_the_stages_stored_whole_are_the_models_and_the_tokenizer():
    assert {"tokenizer", "pretrain", "sft", "dpo", "lora", "distill", "publish"} == WHOLE


def test_each_store_of_a_process_has_a_database_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: Tracked
):
    """MLflow puts the server it is set to into the environment, where the next store would find it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    first, second = (tracked(tmp_path / name) for name in ("first", "second"))
    assert "first" in first.uri and "second" in second.uri
    second.begin("only here", tags={})
    assert not first.client.search_runs([first.experiment_id])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", first.uri)
    assert Tracker(tmp_path / "third").uri == first.uri
