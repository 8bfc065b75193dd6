"""A folder that is there whole or not at all, wherever the user wants it.

It is filled in a scratch directory beside the target (`.<name>.<pid>.scratch`), flushed, and renamed. A failure takes
the scratch away; what a killed process left is taken away by the next one that writes there. Not here: artifacts of the
store, which have a lock and a manifest (`minimind.artifact`).
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from minimind.artifact import FileEntry
from minimind.errors import ConfigError
from minimind.runtime import file_sha256, fsync_path

RECORD_FILE = "export.json"
"""What was written from what, with checksums; a folder without it is none of ours."""


@contextmanager
def whole_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty directory that becomes `target` when the block ends well.

    Raises ConfigError at once where something is there; with `force` only where that is no export.
    """
    target = target.expanduser().absolute()
    aside = target.with_name(f".{target.name}.replaced")
    scratch = target.with_name(f".{target.name}.{os.getpid()}.scratch")
    _tidy(target, aside)
    _refuse(target, force=force)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch.mkdir()
    except OSError as error:
        raise ConfigError(
            f"--out {target}: cannot be made ({error.strerror}); give a folder you may write to"
        ) from None
    try:
        yield scratch
        for path in (scratch, *scratch.rglob("*")):
            fsync_path(path)
        if target.exists():
            target.rename(aside)
        scratch.rename(target)
        fsync_path(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)


def entries(directory: Path) -> list[FileEntry]:
    """Every file below `directory` but the record itself, with size and sha256, in the order of their paths."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path != directory / RECORD_FILE)
    return [
        FileEntry(path=path.relative_to(directory).as_posix(), size=path.stat().st_size, sha256=file_sha256(path))
        for path in files
    ]


def _refuse(target: Path, *, force: bool) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if not force:
        raise ConfigError(f"--out {target}: is there already; give another place, or --force to replace it")
    if not (target / RECORD_FILE).is_file():
        raise ConfigError(
            f"--out {target}: is no export (it has no {RECORD_FILE}), so --force leaves it alone; remove it yourself"
        )


def _tidy(target: Path, aside: Path) -> None:
    """Undo a replacement that was killed between its two renames; take away what killed processes left."""
    if aside.exists() and not target.exists():
        aside.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
    for leftover in target.parent.glob(f".{target.name}.*.scratch"):
        pid = leftover.name.removesuffix(".scratch").rpartition(".")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(leftover, ignore_errors=True)
