"""A micro pipeline in a store of its own: what a fault does to it, and what a run after the fault makes of that.

The pipeline runs once, undisturbed. Every fault then meets a copy of that store, at the same path, from which one
artifact was taken: one stage runs, the others are reused, and what it makes must be what it made before.
"""

import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_pipeline import write_project

from minimind.artifact import Artifact, Store, verify
from minimind.failpoints import VARIABLE
from tasks.registry import note_path

CHECKOUT = Path(__file__).resolve().parents[1]
MARK = "MINIMIND_SANDBOX"
"""In the environment of all that a sandbox starts, however deep."""
DEFAULTS = ("pretrain.processes=2", "pretrain.checkpoint_steps=2", "sft.checkpoint_steps=2")
"""Settings of every run; none of them decides a result."""
UNEQUAL = {"events.jsonl", "summary.json", "report.html", "report.json", "report.md"}
"""Files with times in them."""
KILLED, FAILED, STOPPED = -signal.SIGKILL, 1, 130
"""Exit codes: a flow that is killed, one with an error, one that is asked to stop."""
END_SECONDS = 900
"""Longer no command takes, however busy the machine."""
HALF = ("missing-file", "cut", "grown", "flipped", "extra-file", "manifest-missing", "manifest-damaged")
"""What `minimind fsck` says of an artifact that is not whole."""
BOOK = "MINIMIND_FAULTS_BOOK"
"""In the environment of the tests: a file that gets a row of docs/fault-matrix.md for each cell."""
_contained: dict[str, str] = {}
"""Cell → how the run with the fault ended."""
LEFTOVERS = (".scratch", ".replaced", ".trash", ".run")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    output: str
    seconds: float


@cache
def lesser() -> tuple[str, ...]:
    """What makes of root somebody whom permissions bind, before a command; nothing where that cannot be."""
    words = "setpriv", "--bounding-set", "-dac_override,-dac_read_search"
    possible = os.geteuid() == 0 and shutil.which(words[0]) and subprocess.run([*words, "true"], check=False)
    return words if possible and possible.returncode == 0 else ()


class Sandbox:
    """A directory with data, recipe and store, and a user's shell in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.home, self.data = root, root / "home", root / "data"
        self.touched: dict[str, None] = {}
        """The stages that the fault met."""
        if not self.data.exists():
            self.data.mkdir(parents=True)
            write_project(self.data)

    def environment(self, **more: str) -> dict[str, str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MINIMIND_"))}
        return {**clean, "MINIMIND_HOME": str(self.home), MARK: str(self.root), "COLUMNS": "200", **more}

    def command(self, *words: str) -> list[str]:
        return [*lesser(), sys.executable, "-m", "minimind.cli", *words]

    def start(self, *words: str, **more: str) -> subprocess.Popen[str]:
        """Start a command; what it prints comes from its `stdout`."""
        return subprocess.Popen(
            self.command(*words),
            cwd=CHECKOUT,
            env=self.environment(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: str, faults: str = "", **more: str) -> Ended:
        """Run a command to its end, with faults."""
        started = time.monotonic()
        process = self.start(*words, **({VARIABLE: faults} if faults else {}), **more)
        output, _ = process.communicate(timeout=END_SECONDS)
        return Ended(process.returncode, output, time.monotonic() - started)

    def pipeline(self, *, faults: str = "", options: tuple[str, ...] = (), **more: str) -> Ended:
        """`minimind run` of the micro recipe."""
        return self.run(*self.pipeline_words(*options), faults=faults, **more)

    def pipeline_words(self, *options: str) -> list[str]:
        overrides = [word for option in (*DEFAULTS, *options) for word in ("-o", option)]
        return ["run", "-r", str(self.data / "micro.toml"), "-d", str(self.data / "spec.toml"), *overrides]

    @property
    def store(self) -> Store:
        return Store(self.home)

    def artifact(self, label: str) -> Artifact:
        """The only one of a stage; the book counts the stage among those that a fault meets."""
        (found,) = (artifact for artifact in self.store.all() if artifact.label == label)
        self.touched[label] = None
        return found

    def forget(self, label: str) -> None:
        """Take an artifact away, and the note of its version: it is made and registered again."""
        artifact = self.artifact(label)
        note_path(self.home, artifact).unlink()
        shutil.rmtree(artifact.dir)

    def digests(self) -> dict[str, dict[str, str]]:
        """Label → file → sha256 of all sealed artifacts, proven; without the files that tell of times."""
        found = {}
        for artifact in self.store.all():
            verify(artifact)
            payload = {entry.path: entry.sha256 for entry in artifact.manifest.files}
            if (timed := artifact.dir / "evaluation.json").exists():
                untimed = re.sub(r'"seconds": [0-9.e-]+', "", timed.read_text())
                payload[timed.name] = hashlib.sha256(untimed.encode()).hexdigest()
            found[f"{artifact.label} {artifact.fingerprint}"] = {
                path: digest for path, digest in payload.items() if Path(path).name not in UNEQUAL
            }
        return found

    def processes(self) -> list[psutil.Process]:
        """All that this sandbox has started and that still runs, children of children included."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.root) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def orphans(self, *, within: float = 20) -> list[str]:
        """What still runs after a while, and should not."""
        until = time.monotonic() + within
        while (left := self.processes()) and time.monotonic() < until:
            time.sleep(0.2)
        return [" ".join(process.cmdline()) for process in left]

    def open_runs(self) -> list[str]:
        """Runs that MLflow's or Prefect's database says are under way."""
        mlflow = self._rows("mlflow.db", "SELECT name FROM runs WHERE status IN ('RUNNING', 'SCHEDULED')")
        under_way = "state_type NOT IN ('COMPLETED', 'FAILED', 'CRASHED', 'CANCELLED')"
        prefect = [
            row
            for table in ("flow_run", "task_run")
            for row in self._rows("prefect/prefect.db", f"SELECT name FROM {table} WHERE {under_way}")
        ]
        return [*mlflow, *prefect]

    def told_twice(self) -> list[str]:
        """Runs of which MLflow has a step more than once."""
        figures = "SELECT run_uuid || ' ' || key FROM metrics WHERE key IN ('loss', 'lr')"
        return self._rows("mlflow.db", f"{figures} GROUP BY run_uuid, key, step HAVING count(*) > 1")

    def leftovers(self) -> list[str]:
        """Directories in the store that only a broken run has."""
        return [path.name for path in self.store.root.glob("*/.*") if path.name.endswith(LEFTOVERS)]

    def half_artifacts(self) -> list[str]:
        """What has an artifact's name and is not whole."""
        found = json.loads(self.run("fsck", "--json").output)["findings"]
        return [one["path"] for one in found if one["kind"] in HALF]

    def _rows(self, database: str, query: str) -> list[Any]:
        if not (self.home / database).exists():
            return []
        with closing(sqlite3.connect(f"file:{self.home / database}?mode=ro", uri=True)) as connection:
            return [row[0] for row in connection.execute(query)]


@dataclass(frozen=True)
class Whole:
    """The undisturbed run: a copy to begin from, and what it made."""

    copy: Path
    place: Path
    digests: dict[str, dict[str, str]]

    def sandbox(self) -> Sandbox:
        """The store as it was, at the path that its databases know."""
        shutil.rmtree(self.place)
        shutil.copytree(self.copy, self.place, symlinks=True)
        return Sandbox(self.place)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    directory = tmp_path_factory.mktemp("faults")
    sandbox = Sandbox(directory / "here")
    done = sandbox.pipeline()
    assert done.code == 0, done.output
    shutil.copytree(sandbox.root, directory / "whole", symlinks=True)
    yield Whole(directory / "whole", sandbox.root, sandbox.digests())
    shutil.rmtree(directory)


def stopped(sandbox: Sandbox) -> psutil.Process:
    """The process of a sandbox that stopped itself at a failpoint."""
    until = time.monotonic() + END_SECONDS
    while time.monotonic() < until:
        for process in sandbox.processes():
            if process.status() == psutil.STATUS_STOPPED:
                return process
        time.sleep(0.05)
    raise AssertionError("nobody stopped")


def assert_contained(sandbox: Sandbox, ended: Ended, *, code: int, words: str = "") -> None:
    """The end that a fault should have: nothing runs on, nothing is half there."""
    assert ended.code == code, ended.output
    assert words in " ".join(ended.output.split()), ended.output
    said = "killed" if code == KILLED else f"exit {code}"
    _contained[_cell()] = f"{said}: {words}" if words else said
    assert sandbox.orphans() == []
    assert sandbox.half_artifacts() == []


def assert_recovers(sandbox: Sandbox, whole: Whole, *options: str, **more: str) -> Ended:
    """The same command again: it ends well, with the same bytes, and nothing says it was still running."""
    again = sandbox.pipeline(options=options, **more)
    assert again.code == 0, again.output
    write_row(", ".join(sandbox.touched), _contained.get(_cell(), "goes on"), f"{again.seconds:.0f}")
    assert sandbox.digests() == whole.digests
    assert sandbox.orphans() == []
    assert sandbox.open_runs() == []
    assert sandbox.leftovers() == []
    assert sandbox.told_twice() == []
    return again


def write_row(stage: str, end: str, seconds: str) -> None:
    """A row of docs/fault-matrix.md about the test that runs, where such are collected."""
    if book := os.environ.get(BOOK):
        with Path(book).open("a") as file:
            file.write(f"| {_cell()} | {stage} | {end} | {seconds} |\n")


def _cell() -> str:
    """`test_what_is_killed_goes_on[rank 0 killed in a step]` → `what is killed goes on: rank 0 killed in a step`."""
    test = os.environ["PYTEST_CURRENT_TEST"].rpartition("::")[2].partition(" (")[0]
    name, _, case = test.removeprefix("test_").partition("[")
    return ": ".join(filter(None, (name.replace("_", " "), case.removesuffix("]"))))
