"""The stream of events a running stage leaves in `events.jsonl`, and how others follow it.

One JSON object a line, appended by one process (rank 0 of a training, or the stage itself):

    {"time": 1760000000.123, "kind": "step", "step": 10, "total": 300, "metrics": {"loss": 5.1, ...}}
    {"time": ..., "kind": "progress", "step": 40, "total": 100, "message": "MB read"}
    {"time": ..., "kind": "log", "level": "warning", "message": "..."}

The file is the truth; MLflow, Prefect and the progress bar are views of it that may lag, fail and
catch up. A byte offset names a position in it, so a resumed training cuts the file back to the
offset of its checkpoint and the lines come out as if nothing had happened (but for `time`).
"""

import hashlib
import json
import math
import os
import time
import zlib
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

from minimind.config import Config

EVENTS_FILE = "events.jsonl"

Row = TypeVar("Row")


class Event(Config):
    """One line of the stream. `step` and `total` count steps, rows or bytes; `message` names the unit of a progress."""

    time: float
    kind: Literal["step", "progress", "log"]
    step: int = 0
    total: int = 0
    metrics: dict[str, float | None] = {}
    level: Literal["info", "warning", "error"] = "info"
    message: str = ""


class EventWriter:
    """Appends events to `path`; usable as a context manager.

    `keep_bytes` cuts the file back to that offset first (a resume); by default it is appended to.
    """

    def __init__(self, path: Path, *, keep_bytes: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab")
        if keep_bytes is not None:
            self._file.truncate(keep_bytes)
        with path.open("rb") as file:
            self._sha256 = hashlib.file_digest(file, "sha256")
        self._last_progress = 0.0

    def step(self, step: int, total: int, metrics: Mapping[str, float]) -> None:
        """The figures of one training step; a value that is not finite is written as null."""
        finite = {name: float(value) if math.isfinite(value) else None for name, value in metrics.items()}
        self._write({"kind": "step", "step": step, "total": total, "metrics": finite})

    def progress(self, done: int, total: int, unit: str) -> None:
        """How far a stage is; at most five lines a second, but always the last one."""
        if done < total and time.monotonic() - self._last_progress < 0.2:
            return
        self._last_progress = time.monotonic()
        self._write({"kind": "progress", "step": done, "total": total, "message": unit})

    def log(self, message: str, level: Literal["info", "warning", "error"] = "info") -> None:
        """A line for people."""
        self._write({"kind": "log", "level": level, "message": message})

    def track(self, rows: Iterator[Row], total: int, unit: str) -> Iterator[Row]:
        """Pass `rows` through and report how many went by."""
        for done, row in enumerate(rows, 1):
            yield row
            self.progress(done, total, unit)

    def offset(self) -> int:
        """Bytes written so far, flushed to the disk first: what a checkpoint remembers."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def digest(self) -> str:
        """The sha256 of the file so far."""
        return self._sha256.hexdigest()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "EventWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, fields: Mapping[str, object]) -> None:
        line = json.dumps({"time": round(time.time(), 3), **fields}, ensure_ascii=False, allow_nan=False)
        data = line.encode("utf-8") + b"\n"
        self._file.write(data)
        self._file.flush()
        self._sha256.update(data)


class EventReader:
    """Reads a file of events while it grows: every line once, also where a resume cuts the file back and writes on.

    `pending` gives the lines that are new, `take` says that they were delivered.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._ends, self._sums = array("Q"), array("L")  # of each line taken: the offset behind it, its crc32
        self._found: list[bytes] = []
        self._kept = 0

    def pending(self) -> list[Event]:
        """The whole lines that were not taken; one that is still being written is left for the next call.

        A file that is not there yet has none. Raises ArtifactError for a line that nobody wrote so.
        """
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            self._kept = self._still_there(file)
            file.seek(self._ends[self._kept - 1] if self._kept else 0)
            self._found = [line for line in file if line.endswith(b"\n")]
        remedy = "the figures of what made it are not shown; what it made is not touched"
        return [Event.from_json(line, origin=self._path, remedy=remedy) for line in self._found]

    def take(self) -> None:
        """What was pending is not wanted again."""
        del self._ends[self._kept :], self._sums[self._kept :]
        for line in self._found:
            self._ends.append((self._ends[-1] if self._ends else 0) + len(line))
            self._sums.append(zlib.crc32(line))
        self._kept, self._found = len(self._ends), []

    @property
    def was_cut(self) -> bool:
        """Whether the file has lost lines that were taken."""
        return self._kept < len(self._ends)

    def _still_there(self, file: BinaryIO) -> int:
        """How many of the lines that were taken the file still begins with; all, as a rule."""
        count = len(self._ends)
        if count == 0:
            return 0
        start = self._ends[-2] if count > 1 else 0
        file.seek(start)
        if zlib.crc32(file.read(self._ends[-1] - start)) == self._sums[-1]:
            return count
        file.seek(0)
        return next((place for place, known in enumerate(self._sums) if zlib.crc32(file.readline()) != known), count)


def read_events(path: Path) -> list[Event]:
    """The whole lines of a file of events. Raises ArtifactError for a line that nobody wrote so."""
    return EventReader(path).pending()
