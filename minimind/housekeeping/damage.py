"""What is wrong in a store, told apart: every finding has a word for its kind that scripts may rely on.

Each artifact is held against its manifest and its place, each pin against the artifacts. Nothing is changed here
(`mending` does), no server is asked, no link is followed. Not here: what the registry, sweeps, the page and other parts
note (`flows.fsck`).
"""

import os
import stat
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, REGISTRY_DIR, FileEntry, Manifest, Store
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError
from minimind.housekeeping.pins import PINS_DIR, Pin

Kind = Literal[
    "missing-file",  # sealed, and not there
    "cut",  # shorter than it was sealed
    "grown",  # longer
    "flipped",  # as long as it was, and another content
    "not-a-file",  # a directory, a pipe, a socket in the place of a file
    "unreadable",  # by its permissions, or the disk fails
    "extra-file",  # there, and not sealed
    "broken-link",  # a symbolic link to nothing
    "link",  # a symbolic link to something in the same artifact
    "link-outside",  # a symbolic link to something elsewhere
    "hard-link",  # has another name somewhere: who writes there writes here
    "manifest-missing",
    "manifest-damaged",
    "wrong-place",  # another artifact than the directory's name says
    "input-missing",  # was made here of something that is gone
    "input-changed",  # in the place of what it was made of lies something else
    "note-damaged",  # a small file of the store that does not prove itself
    "note-dangling",  # a note of the registry on something that is gone
    "pin-dangling",  # a pin of something that is gone
    "checkpoint-damaged",  # of a training that was broken off
    "leftover",  # of something that was broken off: the next run goes on with it, or takes it away
    "input-elsewhere",  # was fetched from a registry; what it was made of never was in this store
]
KINDS: tuple[Kind, ...] = get_args(Kind)
NO_DAMAGE: frozenset[Kind] = frozenset({"leftover", "input-elsewhere"})
"""Worth knowing, and nothing is wrong: they do not count in the exit code."""
MEND = "`minimind fsck --repair`"


class Finding(Config):
    """One thing that is not as it should be."""

    kind: Kind
    path: str
    """Below the store's home."""
    detail: str
    remedy: str

    @property
    def is_damage(self) -> bool:
        return self.kind not in NO_DAMAGE


def examine(store: Store, *, on_artifact: Callable[[Path], None] = lambda directory: None) -> Iterator[Finding]:
    """All that is wrong with artifacts and pins, in the order of their paths. Reads every byte of every artifact."""
    home, recorded = store.root.parent, recorded_here(store)
    for stage in sorted(path for path in store.root.glob("[!.]*")):
        if stage.is_symlink() or not stage.is_dir():
            yield _odd(stage, home)
            continue
        for path in sorted(stage.iterdir()):
            if path.name.startswith("."):
                yield from _leftover(path, home)
            elif path.is_symlink() or not path.is_dir():
                yield _odd(path, home)
            else:
                on_artifact(path)
                yield from examine_artifact(path, store, recorded=recorded)
    yield from _pins(store)


def examine_artifact(directory: Path, store: Store, *, recorded: Collection[str]) -> Iterator[Finding]:
    """What is wrong with one directory; `recorded` are the fingerprints that were ever recorded in this store."""
    home = store.root.parent
    if (closed := next(_closed(directory, home), None)) is not None:
        yield closed
        return
    manifest, problem = read_manifest(directory, home)
    if problem:
        yield problem
    if manifest is None:
        return
    place = (manifest.parts.stage, manifest.fingerprint)
    if place != (directory.parent.name, directory.name):
        yield _finding("wrong-place", directory, home, f"holds {'/'.join(place)}", f"{MEND} puts it where it belongs")
    yield from _files(directory, manifest, home)
    yield from _inputs(directory, manifest, store, recorded)


def read_manifest(directory: Path, home: Path) -> tuple[Manifest | None, Finding | None]:
    """The manifest of an artifact, or what is wrong with it."""
    path = directory / MANIFEST_FILE
    if path.is_symlink():
        return None, _odd(path, home)
    if path.exists() and (unreadable := _unreadable(path, home)):
        return None, unreadable
    remedy = f"{MEND} takes it from MLflow, or puts the artifact aside"
    try:
        manifest = Manifest.read_json(path, remedy=remedy)
    except MissingError:
        return None, _finding("manifest-missing", path, home, "is not there", remedy)
    except ArtifactError as error:
        detail = str(error).removeprefix(f"{path}: ").removesuffix(f"; {remedy}")
        return None, _finding("manifest-damaged", path, home, detail, remedy)
    if manifest.parts.fingerprint() != manifest.fingerprint:
        return None, _finding("manifest-damaged", path, home, "its parts do not give its fingerprint", remedy)
    if manifest.parts.inputs != manifest.parents:
        return None, _finding("manifest-damaged", path, home, "its parents are not the inputs of its parts", remedy)
    return manifest, None


def recorded_here(store: Store) -> frozenset[str]:
    """Fingerprints of what the registry was told of from this store, whether it is still there or not."""
    notes = (store.root.parent / REGISTRY_DIR).glob("[!.]*.json")
    return frozenset(path.stem.rpartition("-")[2] for path in notes)


def is_held(lock: Path) -> bool:
    """Whether a process has the lock of an artifact that it builds."""
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=0):
            return False
    except Timeout:
        return True


def _files(directory: Path, manifest: Manifest, home: Path) -> Iterator[Finding]:
    sealed = {entry.path: entry for entry in manifest.files}
    for entry in manifest.files:
        yield from _file(directory / entry.path, entry, home)
    manifest_path = directory / MANIFEST_FILE
    if manifest_path.lstat().st_nlink > 1:
        yield _hard_link(manifest_path, home)
    for folder, folders, names in os.walk(directory):
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        for path in (Path(folder) / name for name in sorted([*names, *links])):
            relative = path.relative_to(directory).as_posix()
            if relative not in sealed and relative != MANIFEST_FILE:
                yield _odd(path, home)


def _file(path: Path, entry: FileEntry, home: Path) -> Iterator[Finding]:
    """What is wrong with a sealed file."""
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        yield _finding("missing-file", path, home, f"sealed with {entry.size} bytes", _fetched())
        return
    if stat.S_ISLNK(found.st_mode):
        yield _odd(path, home)
    elif not stat.S_ISREG(found.st_mode):
        yield _finding("not-a-file", path, home, "is no file any more", _fetched())
    elif unreadable := _unreadable(path, home):
        yield unreadable
    else:
        if found.st_nlink > 1:
            yield _hard_link(path, home)
        yield from _content(path, entry, found.st_size, home)


def _content(path: Path, entry: FileEntry, size: int, home: Path) -> Iterator[Finding]:
    if size != entry.size:
        kind: Kind = "cut" if size < entry.size else "grown"
        yield _finding(kind, path, home, f"has {size} bytes, sealed with {entry.size}", _fetched())
        return
    try:
        whole = runtime.file_sha256(path) == entry.sha256
    except OSError as error:
        yield _finding("unreadable", path, home, f"the disk does not give it ({error.strerror})", _fetched())
        return
    if not whole:
        yield _finding("flipped", path, home, "its bytes changed since it was sealed", _fetched())


def _inputs(directory: Path, manifest: Manifest, store: Store, recorded: Collection[str]) -> Iterator[Finding]:
    """What is wrong with what an artifact was made of."""
    home = store.root.parent
    again = f"`minimind run {manifest.context.get('options', '')}`".replace(" `", "`") + " makes it again"
    for name, fingerprint in manifest.parents.items():
        place = next((path for path in store.root.glob(f"[!.]*/{fingerprint}") if path.is_dir()), None)
        if place is None:
            fetched = fingerprint not in recorded and (bool(recorded) or manifest.host != runtime.host())
            kind: Kind = "input-elsewhere" if fetched else "input-missing"
            remedy = "none is needed" if fetched else f"{MEND} fetches it if the registry has it whole, {again}"
            yield _finding(kind, directory, home, f"its input {name} {fingerprint} is not in the store", remedy)
            continue
        found, _ = read_manifest(place, home)  # what is wrong with that one is said of that one
        if found and found.fingerprint != fingerprint:
            detail = f"in the place of its input {name} {fingerprint} lies {found.fingerprint}"
            yield _finding("input-changed", directory, home, detail, f"{MEND}, then {again}")


def _leftover(path: Path, home: Path) -> Iterator[Finding]:
    """What a broken run left beside the artifacts; nothing of one that is under way."""
    fingerprint = path.name.strip(".").partition(".")[0]
    if path.suffix not in (".scratch", ".run", ".replaced", ".trash") or is_held(
        path.with_name(f".{fingerprint}.lock")
    ):
        return
    if path.suffix == ".run" and path.with_suffix(".scratch").exists():
        return
    words = "the next run of the stage goes on from it; `minimind gc` takes it away after a day"
    if path.suffix != ".scratch" or (path / MANIFEST_FILE).exists():
        words = f"{MEND} ends what was broken off"
    yield _finding("leftover", path, home, "was left by something that was broken off", words)


def _pins(store: Store) -> Iterator[Finding]:
    home = store.root.parent
    for path in sorted((home / PINS_DIR).glob("[!.]*.json")):
        try:
            Pin.read_json(path, remedy="")
        except (ArtifactError, MissingError) as error:
            detail = str(error).removeprefix(f"{path}: ").rstrip("; ")
            yield _finding("note-damaged", path, home, detail, f"{MEND} writes it again; it pins all the same")
        if not any(place.is_dir() for place in store.root.glob(f"[!.]*/{path.stem}")):
            detail = "what it keeps is not in the store"
            yield _finding("pin-dangling", path, home, detail, f"{MEND} fetches that, or puts the pin aside")


def _closed(directory: Path, home: Path) -> Iterator[Finding]:
    """The directories of an artifact that cannot be looked into."""
    for folder, folders, _ in os.walk(directory, onerror=lambda error: None):
        for path in (Path(folder), *(Path(folder) / name for name in folders)):
            if not path.is_symlink() and (unreadable := _unreadable(path, home)):
                yield unreadable


def _unreadable(path: Path, home: Path) -> Finding | None:
    """A file or directory that its owner, or this user, may not read."""
    try:
        mode = path.lstat().st_mode
        wanted, access = (0o500, os.R_OK | os.X_OK) if stat.S_ISDIR(mode) else (0o400, os.R_OK)
        if mode & wanted == wanted and os.access(path, access):
            return None
        detail = f"its permissions ({stat.filemode(mode)}) forbid to read it"
    except OSError as error:
        detail = f"cannot be looked at ({error.strerror})"
    return _finding("unreadable", path, home, detail, f"{MEND} gives its owner the right to read it")


def _odd(path: Path, home: Path) -> Finding:
    """Something that nobody sealed, or that lies where artifacts are and is none."""
    aside = f"{MEND} puts it aside"
    if not path.is_symlink():
        return _finding("extra-file", path, home, "nothing of this store wrote it", aside)
    detail = f"leads to {path.readlink()}"
    parts = path.relative_to(home).parts
    own = home.joinpath(*parts[: 3 if len(parts) > 3 else 1]).resolve()  # its artifact, or all artifacts
    try:
        kind: Kind = "link" if path.resolve(strict=True).is_relative_to(own) else "link-outside"
    except FileNotFoundError:
        kind = "broken-link"
    except (OSError, RuntimeError):  # closed to this user, or a circle
        kind = "link-outside"
    return _finding(kind, path, home, detail, aside)


def _hard_link(path: Path, home: Path) -> Finding:
    detail = "has another name elsewhere on the disk: who writes there writes here"
    return _finding("hard-link", path, home, detail, f"{MEND} makes it a file of its own")


def _fetched() -> str:
    return f"{MEND} fetches it where it is kept, or puts the artifact aside for the next run to make again"


def _finding(kind: Kind, path: Path, home: Path, detail: str, remedy: str) -> Finding:
    return Finding(kind=kind, path=path.relative_to(home).as_posix(), detail=detail, remedy=remedy)
