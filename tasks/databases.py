"""The SQLite databases of MLflow and Prefect: made whole or not at all, and never thrown away once they hold something.

A database is made under another name and renamed, by one process, while others wait. One that was begun at its own
name, by another program that was killed over it, is told apart from a user's: it is behind the newest version of its
tables, and no table that a person or a run writes to has a row. Even that one is set aside, not deleted.
"""

import logging
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from filelock import FileLock

from minimind import runtime

logger = logging.getLogger(__name__)

COMPANIONS = ("-wal", "-shm", "-journal")
"""SQLite's own files beside a database. One that a deleted database left would be played into a new one."""
LOCK_SECONDS = 5.0
REVISION = re.compile(r"""^(down_)?revision\b[^=\n]*=(.*)$""", re.MULTILINE)


@dataclass(frozen=True)
class Kind:
    """A program's databases."""

    package: str
    versions: str
    """Where its package has a file for each version of the tables, named with the one before."""
    written: tuple[str, ...]
    """The tables to which a person or a run writes; a new database has no row in them."""

    def newest(self) -> set[str]:
        """The version of the tables after which there is none."""
        spec = find_spec(self.package)
        assert spec is not None and spec.submodule_search_locations, self.package
        known: dict[bool, set[str]] = {False: set(), True: set()}
        for path in (Path(spec.submodule_search_locations[0]) / self.versions).glob("*.py"):
            for down, value in REVISION.findall(path.read_text(encoding="utf-8")):
                known[bool(down)].update(re.findall(r"""["'](\w+)["']""", value))
        return known[False] - known[True]


MLFLOW = Kind(
    "mlflow",
    "store/db_migrations/versions",
    ("runs", "registered_models", "logged_models", "datasets", "trace_info", "evaluation_datasets", "spans"),
)
PREFECT = Kind(
    "prefect",
    "server/database/_migrations/versions/sqlite",
    ("flow", "flow_run", "task_run", "deployment", "variable", "artifact", "automation", "work_pool", "block_document"),
)


def create_once(kind: Kind, path: Path, create: Callable[[Path], None]) -> None:
    """Have `create` make a database under another name, then rename it: by one process, and whole or not at all.

    One that is whole needs no lock, so a store on a read-only disk can be looked at.
    """
    if _is_newest(kind, path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.stem}.lock")):
        if _is_there(path) and is_unfinished(kind, path):
            aside = _set_aside(path)
            logger.warning("%s had been begun and not finished, and held nothing; it is %s now", path, aside.name)
        if not _is_there(path):
            _create(path, create)


def is_unfinished(kind: Kind, path: Path) -> bool:
    """Whether a database has no row that anybody misses and is not whole. One that cannot be read may hold anything."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LOCK_SECONDS)) as connection:
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table in tables.intersection(kind.written):
                if connection.execute(f"SELECT EXISTS (SELECT 1 FROM {table})").fetchone()[0]:  # noqa: S608  ours
                    return False
            return "alembic_version" not in tables or _versions(connection) != kind.newest()
    except sqlite3.Error:
        return False


def _is_newest(kind: Kind, path: Path) -> bool:
    """Whether a database is there for certain, and whole."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=LOCK_SECONDS)) as connection:
            return _versions(connection) == kind.newest()
    except sqlite3.Error:
        return False


def _versions(connection: sqlite3.Connection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT version_num FROM alembic_version")}


def _is_there(path: Path) -> bool:
    """An empty file is no database: SQLite leaves one where a database is opened and nothing written."""
    return any(file.exists() and file.stat().st_size for file in (path, *_companions(path)[:1]) if path.exists())


def _companions(path: Path) -> list[Path]:
    return [path.with_name(path.name + end) for end in COMPANIONS]


def _set_aside(path: Path) -> Path:
    aside = next(name for name in _names(path) if not name.exists())
    for file, name in zip((*_companions(path), path), (*_companions(aside), aside), strict=True):
        if file.exists():
            file.rename(name)
    return aside


def _names(path: Path) -> Iterator[Path]:
    number = 0
    while True:
        number += 1
        yield path.with_name(f"{path.name}.unfinished{number}")


def _create(path: Path, create: Callable[[Path], None]) -> None:
    unfinished = path.with_name(f".{path.stem}.new{path.suffix}")
    for leftover in path.parent.glob(f"{unfinished.name}*"):
        leftover.unlink()
    create(unfinished)
    with closing(sqlite3.connect(unfinished, timeout=LOCK_SECONDS)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")  # what lies in a log would not be renamed with it
    for leftover in _companions(path):
        leftover.unlink(missing_ok=True)
    runtime.fsync_path(unfinished)
    unfinished.rename(path)
    runtime.fsync_path(path.parent)
