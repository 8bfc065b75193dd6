"""A kill at each change to the files of a store, one after the other: the old is left or the new, never half."""

import importlib
import multiprocessing
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from faulted import write_row
from file_events import needs_ptrace, run_traced
from training_parts import ONE_RANK, TINY

from minimind.artifact import Inputs, Store, Summary, verify
from minimind.config import Config
from minimind.model.transformer import Transformer
from minimind.stage import Stage, build
from minimind.train.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from minimind.train.loop import Progress
from tasks.running import settle_mlflow
from tasks.runs import create_database
from tasks.tracking import Tracker

pytestmark = [needs_ptrace, pytest.mark.chaos]


class Word(Config):
    word: str = "old"


def write_two_files(config: Word, inputs: Inputs, out_dir: Path) -> Summary:
    (out_dir / "deep").mkdir(exist_ok=True)
    (out_dir / "deep" / "one.bin").write_bytes(config.word.encode() * 1000)
    (out_dir / "two.txt").write_text(f"{len(list(out_dir.iterdir()))} entries")
    return Summary(figures={"files": 2})


STAGE = Stage("words", write_two_files)


def build_words(home: Path, *, refresh: bool = False) -> None:
    build(STAGE, Word(), {}, store=Store(home), refresh=refresh)


def payload(home: Path) -> dict[str, bytes]:
    """The proven files of the one artifact in a store; nothing where there is none."""
    store = Store(home)
    found = {}
    for artifact in store.all():
        verify(artifact)
        found |= {entry.path: (artifact.dir / entry.path).read_bytes() for entry in artifact.manifest.files}
    assert len([*store.root.glob("words/[!.]*")]) == bool(found)  # nothing is there that is not whole
    return found


@contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """A fork has none of the threads that its parent had started."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def killed_everywhere(
    function: Callable[[Path], object], before: Path, tmp_path: Path, check: Callable[[Path, str], None]
) -> list[str]:
    """Kill `function` at each of its events, each time on a copy of `before`; `check` what is left. All the events."""
    whole = tmp_path / "whole"
    shutil.copytree(before, whole)
    done = run_traced(partial(function, whole), whole)
    assert done.code == 0
    for number in range(1, len(done.events) + 1):
        copy = tmp_path / "killed"
        shutil.copytree(before, copy)
        killed = run_traced(partial(function, copy), copy, kill_at=number)
        assert killed.code == -signal.SIGKILL and len(killed.events) == number
        check(copy, killed.events[-1])
        shutil.rmtree(copy)
    write_row("", f"whole after {len(done.events)} of {len(done.events)} kills", "")
    return done.events


def test_the_events_are_those_that_change_files_below_the_directory(tmp_path: Path):
    """Of threads and child processes too; of nothing else."""
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir(), outside.mkdir()

    def work() -> None:
        (outside / "a").write_text("1")
        (inside / "a").write_text("1")
        (inside / "a").read_text()
        (inside / "a").rename(inside / "b")
        (inside / "b").unlink()

    done = run_traced(work, inside)
    assert (done.code, done.events) == (0, ["open a", "write a", "rename a", "unlink b"])
    killed = run_traced(work, inside, kill_at=3)
    assert (killed.code, [*inside.iterdir()]) == (-signal.SIGKILL, [inside / "a"])


@pytest.mark.parametrize("refresh", [False, True], ids=["new", "replaced"])
def test_an_artifact_is_there_whole_or_not_at_all_wherever_its_building_is_killed(tmp_path: Path, refresh: bool):
    """And the next build makes what an undisturbed one makes, and leaves nothing lying about."""
    before = tmp_path / "before"
    before.mkdir()
    if refresh:
        build_words(before)
    build_words(tmp_path / "wanted")
    wanted = payload(tmp_path / "wanted")

    def check(home: Path, event: str) -> None:
        found = payload(home)
        assert found.keys() in ({*()}, wanted.keys()) and (found or not refresh), event
        build_words(home)
        assert payload(home) == wanted, event
        assert [path.name for path in (home / "artifacts" / "words").iterdir() if path.suffix != ".lock"] == [
            path.name for path in (tmp_path / "wanted/artifacts/words").iterdir() if path.suffix != ".lock"
        ], event

    events = killed_everywhere(lambda home: build_words(home, refresh=refresh), before, tmp_path, check)
    assert len(events) > 20 and sum(event.startswith("rename") for event in events) >= 3


def save_step(directory: Path, step: int) -> None:
    """A checkpoint whose weights say of which step it is."""
    model = Transformer(TINY)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(step)
    problem = save_checkpoint(
        directory, Progress(step=step), run="this", model=model, optimizers=[], ranks=ONE_RANK, events_offset=step
    )
    assert problem is None


def test_a_checkpoint_is_the_newest_or_the_one_before_wherever_a_save_is_killed(tmp_path: Path):
    """Removing the oldest included; and the next save goes through."""
    before = tmp_path / "before"
    for step in (1, 2, 3):
        save_step(before, step)

    def check(directory: Path, event: str) -> None:
        found, passed_over = find_checkpoint(directory, run="this")
        assert found is not None and passed_over == [], event
        model = Transformer(TINY)
        step = load_checkpoint(found, model=model, optimizers=[], ranks=ONE_RANK).step
        assert step in (3, 4) and all((parameter == step).all() for parameter in model.parameters()), event
        save_step(directory, 4)
        newest, _ = find_checkpoint(directory, run="this")
        assert newest is not None and newest.path.name == "step-00000004", event
        assert not [*directory.glob(".step-*")], event

    with torch_on_one_thread():
        events = killed_everywhere(lambda directory: save_step(directory, 4), before, tmp_path, check)
    assert len(events) > 15


def record(home: Path) -> None:
    """As `minimind sync`: MLflow is told of everything in the store, and whose runs are over."""
    tracker = Tracker(home)
    settle_mlflow(home, tracker)
    tracker.sync(Store(home))


def assert_recorded_once(home: Path) -> None:
    """One finished run, none under way, one version, one alias, and the files of the artifact in the registry."""
    tracker = Tracker(home)
    (version,) = tracker.client.search_model_versions("")
    assert (version.name, int(version.version), version.status) == ("minimind-sft", 1, "READY")
    assert tracker.alias_of("minimind-sft", "candidate") == "models:/minimind-sft/1"
    runs = tracker.client.search_runs([tracker.experiment_id])
    statuses = Counter(run.info.status for run in runs)
    assert statuses["FINISHED"] == 1 and statuses.keys() <= {"FINISHED", "KILLED"}
    (artifact,) = Store(home).all()
    assert tracker.registration(artifact).uri == "models:/minimind-sft/1"
    shutil.rmtree(artifact.dir)
    verify(tracker.resolve("models:/minimind-sft@candidate", Store(home)))


def import_what_is_used_by(function: Callable[[Path], None], home: Path) -> None:
    """A fork that finds its modules loaded makes no system calls for them; each of those is looked at, twice."""
    names = home.with_name("modules.txt")

    def tell(home: Path) -> None:
        function(home)
        names.write_text("\n".join(sys.modules))

    assert in_a_fork(tell, home) == 0
    for name in names.read_text().splitlines():
        with suppress(Exception):  # some are not imported by their names
            importlib.import_module(name)


def in_a_fork(function: Callable[[Path], None], home: Path) -> int:
    """The exit code of `function` in a process of its own: this one opens no database."""
    process = multiprocessing.get_context("fork").Process(target=function, args=(home,))
    process.start()
    process.join()
    return int(process.exitcode or 0)


def test_an_artifact_is_registered_once_wherever_its_registering_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Runs, figures, files and version in the database and beside it: the next sync makes it whole, and not twice."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = tmp_path / "before"
    before.mkdir()
    build(Stage("sft", write_two_files), Word(), {}, store=Store(before))
    assert in_a_fork(create_database, before) == 0

    shutil.copytree(before, tmp_path / "first")
    import_what_is_used_by(record, tmp_path / "first")

    def recorded_once(home: Path) -> None:
        record(home)
        assert_recorded_once(home)

    def check(home: Path, event: str) -> None:
        assert in_a_fork(recorded_once, home) == 0, event

    events = killed_everywhere(record, before, tmp_path, check)
    assert len(events) > 100
