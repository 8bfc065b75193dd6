"""Where things go that do not belong into a store, instead of being deleted: nothing that somebody may miss is lost.

<home>/quarantine/<when>/…   what was put aside then, under the paths that it had below the store's home
"""

import shutil
from functools import cached_property
from pathlib import Path

from minimind import runtime

QUARANTINE_DIR = "quarantine"


class Quarantine:
    """What one repair puts aside. The directory is made for the first thing that comes into it."""

    def __init__(self, home: Path) -> None:
        self._home = home

    @cached_property
    def dir(self) -> Path:
        """The directory of this repair."""
        stamp = runtime.now()[:19].translate({ord("-"): None, ord(":"): None})
        return _free(self._home / QUARANTINE_DIR / stamp)

    def take(self, path: Path) -> Path:
        """Put a file, link or directory aside, by one rename; gives where it is now."""
        target = _free(self.dir / path.relative_to(self._home))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(path, target)
        runtime.fsync_path(path.parent)
        runtime.fsync_path(target.parent)
        return target

    def give_back(self, taken: Path, path: Path) -> None:
        """Undo `take`."""
        shutil.move(taken, path)
        runtime.fsync_path(path.parent)

    def room(self) -> Path:
        """A name on the store's own disk for a file that is being fetched; a rename from there is one step."""
        self.dir.mkdir(parents=True, exist_ok=True)
        return _free(self.dir / ".fetched")

    def close(self) -> None:
        """Leave no empty directories behind."""
        if "dir" not in self.__dict__:
            return
        for path in sorted(self.dir.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
                path.rmdir()
        for path in (self.dir, self.dir.parent):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _free(path: Path) -> Path:
    """The path, or the first with a number behind it at which nothing is."""
    number, free = 1, path
    while free.exists() or free.is_symlink():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free
