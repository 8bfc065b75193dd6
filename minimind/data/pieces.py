"""Pieces: a stage's work cut into jobs, each of which leaves one directory, there whole or not at all.

    <directory>/plan            digest of the jobs; other jobs mean other pieces, and the old ones go
    <directory>/00000/ …        what job 0 wrote
    <directory>/00000.sums      digests of its files: a piece is believed only if they agree
    <directory>/00001.part/     being written; a killed job begins again, a finished one never

How the work is cut depends on the input alone, so the number of workers, the order in which they finish and a
kill in between change no byte. Pieces are not flushed to the disk, which costs more than making some of them;
after a power cut the sums tell which are whole.

Not here: where jobs run (`workers`), what they do (`sources`, `cleaning`, `sharding`).
"""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import xxhash

from minimind import runtime
from minimind.config import Config
from minimind.failpoints import reach
from minimind.fingerprint import digest
from minimind.workers import map_jobs

Advance = Callable[[int], None]
"""Told how many units of work (bytes, rows) a job has done since it was called last."""
J = TypeVar("J", bound=Config)
PieceFunction = Callable[[J, Path, Advance], None]
"""Writes a job's files into a directory that is there and empty."""

SMALL_BYTES = 32 << 20
"""Less work than this is done before other processes have started."""
_PLAN, _SUMS = "plan", ".sums"
_BLOCK_BYTES = 4 << 20
_REPORT_SECONDS = 0.5


def build_pieces(
    function: PieceFunction[J],
    jobs: Sequence[J],
    directory: Path,
    *,
    workers: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> list[Path]:
    """The directories of all pieces in the order of `jobs`; those that are there already are not built again.

    `on_progress` is told the units done by all jobs together, from another thread, twice a second.
    `function` is a module's function; it may run in another process or on another machine.
    """
    shutil.rmtree(_taken(directory), ignore_errors=True)
    _keep_if_same_plan(directory, jobs)
    targets = [directory / f"{index:05d}" for index in range(len(jobs))]
    missing = [
        _Piece(function, job, target) for job, target in zip(jobs, targets, strict=True) if not _is_whole(target)
    ]
    with _watching(directory, on_progress):
        for _ in map_jobs(_build, missing, workers=workers):
            pass
    return targets


@contextmanager
def taken_apart(pieces: Sequence[Path]) -> Iterator[list[Path]]:
    """Inside, the pieces have another name, so that their files can be moved away; afterwards they are gone.

    A kill in between must not leave a plundered piece that counts as finished: by that name none does.
    """
    directory = pieces[0].parent
    taken = _taken(directory)
    directory.rename(taken)
    yield [taken / piece.name for piece in pieces]
    shutil.rmtree(taken)


def join_files(files: Iterable[Path], target: Path) -> None:
    """Write the files one behind the other to `target`: what pieces left, put together again."""
    with target.open("wb") as whole:
        for path in files:
            with path.open("rb") as file:
                shutil.copyfileobj(file, whole, _BLOCK_BYTES)


def enough_workers(wanted: int, work_bytes: int) -> int:
    """`wanted` workers; where that is 0 (as many as there are), 1 for so little work that they would not pay."""
    return 1 if not wanted and work_bytes < SMALL_BYTES else wanted


@dataclass(frozen=True)
class _Piece:
    function: PieceFunction[Config]
    job: Config
    target: Path


def _build(piece: _Piece) -> None:
    part = piece.target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    piece.function(piece.job, part, _advance(piece.target.with_suffix(".done")))
    piece.target.with_suffix(_SUMS).write_text(json.dumps(_sums(part)), encoding="utf-8")
    reach("piece.rename")
    part.rename(piece.target)


def _is_whole(piece: Path) -> bool:
    """Whether a piece is there with the bytes it was finished with; one that is not is removed."""
    try:
        whole = json.loads(piece.with_suffix(_SUMS).read_text(encoding="utf-8")) == _sums(piece)
    except (OSError, ValueError):
        whole = False
    if not whole:
        shutil.rmtree(piece, ignore_errors=True)
    return whole


def _sums(directory: Path) -> dict[str, str]:
    """File → xxh3-128 of its bytes, for all files below `directory`."""
    sums = {}
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        running = xxhash.xxh3_128()
        with path.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                running.update(block)
        sums[path.relative_to(directory).as_posix()] = running.hexdigest()
    return sums


def _taken(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.taken")


def _keep_if_same_plan(directory: Path, jobs: Sequence[Config]) -> None:
    plan = digest([job.model_dump(mode="json") for job in jobs])
    path = directory / _PLAN
    if not path.exists() or path.read_bytes() != plan.encode():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        runtime.write_atomic(path, plan)


def _advance(path: Path) -> Advance:
    """Adds up and writes the sum to `path` now and then; a reader may see an old or an empty one."""
    done, last = 0, 0.0

    def advance(units: int) -> None:
        nonlocal done, last
        done += units
        if time.monotonic() - last > _REPORT_SECONDS:
            path.write_text(str(done), encoding="ascii")
            last = time.monotonic()

    return advance


@contextmanager
def _watching(directory: Path, on_progress: Callable[[int], None]) -> Iterator[None]:
    """Tell `on_progress` the sum of what all jobs report, until the block ends."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_REPORT_SECONDS):
            texts = [path.read_bytes() for path in directory.glob("*.done")]
            on_progress(sum(int(text) for text in texts if text.isdigit()))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
