"""A stage: a plain function `(config, inputs, out_dir) -> Summary` and what is needed to name its output.

`build` runs one without any server: it takes the lock, reuses the sealed artifact where there is
one, else runs the function in the scratch directory and seals it. `tasks.stage` wraps the same
`build` into a Prefect task and an MLflow run.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from minimind import runtime
from minimind.artifact import Artifact, Inputs, Manifest, Store, Summary
from minimind.config import Config
from minimind.errors import ArtifactError, ConfigError, DataError, disk_error
from minimind.failpoints import reach
from minimind.fingerprint import Parts, code_digests

logger = logging.getLogger(__name__)

C = TypeVar("C", bound=Config)


def _no_sources(_: Any) -> dict[str, str]:
    return {}


@dataclass(frozen=True)
class Stage(Generic[C]):
    """A stage as a value. `inputs` are the names of the artifacts its function reads."""

    name: str
    function: Callable[[C, Inputs, Path], Summary]
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    format_version: int = 1
    resumable: bool = False
    """Keeps its scratch directory after a failure and goes on from it."""
    leaves: tuple[str, ...] = ()
    """Directories of the scratch that only serve to go on, and are no part of the artifact."""
    launches: tuple[str, ...] = ()
    """Modules the function starts as processes: their code counts, though no import shows it."""
    sources: Callable[[C], dict[str, str]] = _no_sources
    """Name → digest of what is read from outside the store (files, installed packages)."""

    def parts(self, config: C, inputs: Mapping[str, str]) -> Parts:
        """What the fingerprint is made of; `inputs` maps input names to fingerprints."""
        missing, unknown = set(self.inputs) - set(inputs), set(inputs) - {*self.inputs, *self.optional_inputs}
        if missing or unknown:
            raise ConfigError(f"stage {self.name} reads {', '.join(self.inputs)}; was given {', '.join(inputs)}")
        return Parts(
            stage=self.name,
            format_version=self.format_version,
            config=config.identity(),
            inputs=dict(inputs),
            sources=self.sources(config),
            code=code_digests([self.function.__module__, *self.launches]),
        )


def build(
    stage: Stage[C],
    config: C,
    inputs: Inputs,
    *,
    store: Store,
    refresh: bool = False,
    context: Mapping[str, str] | None = None,
    on_start: Callable[[Path], None] = lambda scratch: None,
) -> tuple[Artifact, bool]:
    """The stage's artifact, and whether it was reused.

    `refresh` runs it in any case. `on_start` is told the scratch directory just before the
    function runs. A damaged artifact is replaced, and said so.
    """
    parts = stage.parts(config, {name: artifact.fingerprint for name, artifact in inputs.items()})
    fingerprint = parts.fingerprint()
    with _disk_named(stage.name, store), store.building(stage.name, fingerprint) as scratch:
        if not refresh and (found := _find(store, stage.name, fingerprint)):
            scratch.rmdir() if not any(scratch.iterdir()) else shutil.rmtree(scratch)
            return found, True
        if not stage.resumable or refresh:
            _empty(scratch)
        on_start(scratch)
        reach("stage.start")
        started = time.monotonic()
        summary = stage.function(config, inputs, scratch)
        reach("stage.end")
        if changed := _changed(parts.sources, stage.sources(config)):
            _empty(scratch)  # nothing may be made of it later
            raise DataError(f"{changed} changed while it was read; run the stage {stage.name} again once it is still")
        manifest = Manifest(
            kind=stage.name,
            fingerprint=fingerprint,
            parts=parts,
            parents={name: artifact.fingerprint for name, artifact in inputs.items()},
            files=[],
            created_at=runtime.now(),
            seconds=round(time.monotonic() - started, 3),
            **_surroundings(),
            context=dict(context or {}),
        )
        return store.seal(scratch, summary, manifest, leaving=stage.leaves), False


@contextmanager
def _disk_named(name: str, store: Store) -> Iterator[None]:
    """Inside, what a disk does is said with the stage it was done to."""
    try:
        yield
    except OSError as error:
        if named := disk_error(error, name, store.root / name):
            raise named from error
        raise


def _changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """The first of the things outside the store that is not what the fingerprint says; empty where all are."""
    return next((name for name in sorted({*before, *now}) if before.get(name) != now.get(name)), "")


@cache
def _surroundings() -> dict[str, Any]:
    """The commit, the libraries and the machine, asked once: this process goes on with what it started with."""
    return {"code_commit": runtime.git_commit(), "libraries": runtime.libraries(), "host": runtime.host()}


def _find(store: Store, name: str, fingerprint: str) -> Artifact | None:
    try:
        return store.find(name, fingerprint)
    except ArtifactError as error:
        logger.warning("%s — it is built again now", error)
        return None


def _empty(directory: Path) -> None:
    for path in directory.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
