"""What a store can do without: artifacts that nothing needs, and what broken runs left behind.

Needed is what has an alias in the registry or a pin, and everything that it was made of. A pipeline holds the store
while it runs (`Store.in_use`), and nothing is removed from one that is held. What is removed disappears by one rename
first, so a kill leaves no half artifact; the next removal takes the rest away.
"""

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from minimind.artifact import REGISTRY_DIR, Store, open_artifact
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError
from minimind.housekeeping.pins import pins
from minimind.lineage import ancestors, by_fingerprint

DAY_SECONDS = 86_400
TRASH_SUFFIX = ".trash"


class Leftover(Config):
    """Something that can be removed."""

    path: str
    """Below `artifacts/`."""
    kind: Literal["artifact", "damaged", "unfinished", "references", "rest"]
    label: str
    bytes: int
    days: float
    """Since it was changed."""


class Plan(Config):
    """What a removal would take away, and what it would leave."""

    leftovers: list[Leftover]
    kept: dict[str, str]
    """Fingerprint → by what it is needed, of every artifact that stays."""
    bytes_kept: int

    @property
    def bytes_freed(self) -> int:
        return sum(leftover.bytes for leftover in self.leftovers)


def plan_removal(store: Store, aliased: Mapping[str, str], *, unfinished_days: float = 1.0) -> Plan:
    """What could go, where `aliased` maps the fingerprints of the registry's aliases to their URIs.

    What was left unfinished in the last `unfinished_days` stays, for a resume.
    """
    reasons = dict(aliased) | dict.fromkeys(pins(store), "a pin")
    kept: dict[str, str] = {}
    for fingerprint, reason in reasons.items():
        root = by_fingerprint(store, fingerprint)
        for needed in ancestors(root) if root else ():
            kept.setdefault(needed, reason)
    places = _directories(store)
    leftovers = [
        leftover
        for path in places
        if path.name not in kept and (leftover := _leftover(path, store, kept, unfinished_days=unfinished_days))
    ]
    return Plan(leftovers=leftovers, kept=kept, bytes_kept=sum(_size(path) for path in places if path.name in kept))


def remove(store: Store, leftovers: Iterable[Leftover]) -> Iterator[Leftover]:
    """Remove one after the other, and give each that is gone. Plan and remove inside one `store.alone()`."""
    for leftover in leftovers:
        path = store.root / leftover.path
        if path.is_dir():
            trash = path if path.suffix == TRASH_SUFFIX else path.with_name(f".{path.name}{TRASH_SUFFIX}")
            if trash != path:
                path.rename(trash)
            shutil.rmtree(trash)
            if leftover.kind in ("artifact", "damaged"):  # else the note would say where something is that is not
                note = store.root.parent / REGISTRY_DIR / f"{path.parent.name}-{path.name}.json"
                note.unlink(missing_ok=True)
        else:
            path.unlink(missing_ok=True)
        yield leftover


def _directories(store: Store) -> list[Path]:
    """Everything below the stages' directories, but for locks, which may be held."""
    return sorted(path for path in store.root.glob("*/*") if path.suffix != ".lock")


def _leftover(path: Path, store: Store, kept: Mapping[str, str], *, unfinished_days: float) -> Leftover | None:
    """What a path is that no kept artifact has; None where it has to stay."""
    days = (time.time() - _changed(path)) / DAY_SECONDS
    fingerprint = path.name.strip(".").partition(".")[0]
    kind: Literal["artifact", "damaged", "unfinished", "references", "rest"] = "rest"
    label = path.parent.name
    if path.name.endswith((".scratch", ".run")):
        if days < unfinished_days:
            return None
        kind = "unfinished"
    elif path.name.endswith(".references"):
        if fingerprint in kept:
            return None
        kind = "references"
    elif not path.name.startswith("."):
        try:
            kind, label = "artifact", open_artifact(path).label
        except (ArtifactError, MissingError):
            kind = "damaged"
    relative = path.relative_to(store.root).as_posix()
    return Leftover(path=relative, kind=kind, label=label, bytes=_size(path), days=round(days, 2))


def _changed(path: Path) -> float:
    """When anything in it was last written."""
    times = [path.stat().st_mtime, *(inner.stat().st_mtime for inner in path.rglob("*"))]
    return max(times)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(inner.stat().st_size for inner in path.rglob("*") if inner.is_file())
