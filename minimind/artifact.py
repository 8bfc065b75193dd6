"""Artifacts: sealed directories that are there whole or not at all.

    <home>/artifacts/<stage>/<fingerprint>/   payload files, summary.json, manifest.json
    <home>/artifacts/<stage>/.<fingerprint>.scratch/   being built; kept after a failure, for a resume
    <home>/artifacts/<stage>/.<fingerprint>.lock       held by the one process that builds it

A scratch directory becomes an artifact by one rename, after its files, manifest and directories
are flushed: present means whole. One that is replaced changes places with its successor in one
step, where the system can. A scratch directory with a manifest lacks nothing but the rename: the
next builder does it. `verify` proves an artifact again from the manifest's sha256 sums; a pipeline does so before it
reads one, and who is given a directory by name too (`prove_model`, `prove_small`). A summary is proven when it is read.
"""

import fcntl
import hashlib
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from filelock import FileLock
from pydantic import AfterValidator

from minimind import runtime
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError
from minimind.failpoints import reach
from minimind.fingerprint import Parts
from minimind.proven import Proven

MANIFEST_FILE = "manifest.json"
SUMMARY_FILE = "summary.json"
IN_USE_FILE = ".in-use.lock"
REGISTRY_DIR = "registry"
"""Beside the artifacts: `<stage>-<fingerprint>.json` says where one was registered."""
SMALL_BYTES = 64 << 20
"""A file of this size is proven in a tenth of a second or two."""


class Summary(Config):
    """What a stage says of itself: figures for people and MLflow, a few samples, warnings."""

    figures: dict[str, int | float | str | None] = {}
    samples: list[str] = []
    warnings: list[str] = []


def _inside(path: str) -> str:
    """A path that stays where it is relative to. A manifest comes from a registry that others may write to."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise ValueError(f"the path {path!r} leads out of the directory")
    return path


class FileEntry(Config):
    """A payload file: path relative to the artifact, bytes, sha256."""

    path: Annotated[str, AfterValidator(_inside)]
    size: int
    sha256: str


class Manifest(Proven):
    """Where an artifact comes from and which bytes it is."""

    kind: str
    fingerprint: str
    parts: Parts
    parents: dict[str, str]
    """Input name → fingerprint of the artifact that was read."""
    files: list[FileEntry]
    created_at: str
    seconds: float
    code_commit: str | None
    libraries: dict[str, str]
    host: dict[str, Any]
    context: dict[str, str] = {}
    """Who asked for it: recipe, data spec, run links. Not part of the identity."""


@dataclass(frozen=True)
class Artifact:
    """A sealed directory and its manifest."""

    dir: Path
    manifest: Manifest

    @property
    def kind(self) -> str:
        return self.manifest.kind

    @property
    def fingerprint(self) -> str:
        return self.manifest.fingerprint

    @property
    def label(self) -> str:
        return self.manifest.parts.label

    def summary(self) -> Summary:
        """What the stage said of itself. Raises ArtifactError where that is not what was sealed."""
        path, remedy = self.dir / SUMMARY_FILE, self.remedy
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
        sealed = next((entry.sha256 for entry in self.manifest.files if entry.path == SUMMARY_FILE), None)
        if hashlib.sha256(raw).hexdigest() != sealed:
            raise ArtifactError(f"{path}: its bytes changed since it was sealed; {remedy}")
        return Summary.from_json(raw, origin=path, remedy=remedy)

    @property
    def remedy(self) -> str:
        """What to do about a damage."""
        return f"`minimind fsck --repair`, or delete {self.dir} and run the stage {self.kind} again"


def open_artifact(directory: Path) -> Artifact:
    """The artifact at `directory`, its manifest proven but its bytes not (see `verify`)."""
    path = directory / MANIFEST_FILE
    try:
        return Artifact(directory, Manifest.read_json(path, remedy=f"delete {directory} and run again"))
    except MissingError:
        raise MissingError(f"{directory}: no artifact here (there is no {MANIFEST_FILE})") from None


def verify(artifact: Artifact, *, largest: int | None = None) -> None:
    """Prove every byte against the manifest. Raises ArtifactError with the first file that differs.

    Of files of more than `largest` bytes only that they are there, and of their size.
    """
    manifest, remedy = artifact.manifest, artifact.remedy
    if manifest.parts.fingerprint() != manifest.fingerprint:
        raise ArtifactError(f"{artifact.dir / MANIFEST_FILE}: its parts do not give its fingerprint; it was changed")
    for entry in manifest.files:
        path = artifact.dir / entry.path
        try:
            if not path.is_file():
                raise ArtifactError(f"{path}: missing from a sealed artifact; {remedy}")
            if path.stat().st_size != entry.size:
                raise ArtifactError(f"{path}: {path.stat().st_size} bytes, sealed with {entry.size}; {remedy}")
            if (largest is None or entry.size <= largest) and runtime.file_sha256(path) != entry.sha256:
                raise ArtifactError(f"{path}: its bytes changed since it was sealed; {remedy}")
        except PermissionError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None


def prove_model(directory: Path) -> Path:
    """A model's directory, its bytes proven where it is an artifact; only then something says what they were."""
    if (directory / MANIFEST_FILE).is_file():
        verify(open_artifact(directory))
    return directory


def prove_small(artifact: Artifact) -> Artifact:
    """An artifact that somebody looks into: every file of it but the large ones, which may be terabytes, proven."""
    verify(artifact, largest=SMALL_BYTES)
    return artifact


class Store:
    """The artifacts under one home directory."""

    def __init__(self, home: Path | None = None) -> None:
        self.root = (home or runtime.home()) / "artifacts"

    def path(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / fingerprint

    def scratch(self, stage: str, fingerprint: str) -> Path:
        return self.root / stage / f".{fingerprint}.scratch"

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The sealed and proven artifact; None where there is none. Raises ArtifactError where it is damaged."""
        path = self.path(stage, fingerprint)
        if not path.exists():
            return None
        artifact = open_artifact(path)
        verify(artifact)
        return artifact

    def all(self) -> Iterator[Artifact]:
        """Every sealed artifact whose manifest can be read; `minimind fsck` names the others."""
        for path in sorted(self.root.glob(f"*/[!.]*/{MANIFEST_FILE}")):
            with suppress(ArtifactError):
                yield open_artifact(path.parent)

    @contextmanager
    def building(self, stage: str, fingerprint: str) -> Iterator[Path]:
        """Hold the artifact's lock and yield its scratch directory, made if need be.

        A second process waits here for the first; look again with `find` once inside. The
        kernel frees the lock of a killed holder.
        """
        scratch = self.scratch(stage, fingerprint)
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / stage / f".{fingerprint}.lock"):
            self._recover(self.path(stage, fingerprint), scratch)
            scratch.mkdir(exist_ok=True)
            yield scratch

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Inside, nothing is removed from the store. Any number of processes; the kernel lets go of a killed one."""
        with self._holding(fcntl.LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, nobody else uses the store. Raises ArtifactError where somebody does."""
        try:
            with self._holding(fcntl.LOCK_EX | fcntl.LOCK_NB):
                yield
        except BlockingIOError:
            raise ArtifactError(f"{self.root}: a pipeline runs on this store; wait until it ends") from None

    @contextmanager
    def _holding(self, how: int) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / IN_USE_FILE).open("wb") as file:
            fcntl.flock(file, how)
            yield

    def seal(self, scratch: Path, summary: Summary, manifest: Manifest, *, leaving: Collection[str] = ()) -> Artifact:
        """Turn a scratch directory into the artifact; `manifest.files` is filled in here.

        The directories `leaving` names are no part of it. They go when nothing can need them any more.
        """
        runtime.write_json(scratch / SUMMARY_FILE, summary.model_dump(mode="json"))
        manifest = manifest.replace(files=_entries(scratch, leaving))
        for directory in {scratch, *(p for p in scratch.rglob("*") if p.is_dir())}:
            runtime.fsync_path(directory)
        reach("seal.manifest")
        manifest = manifest.write(scratch / MANIFEST_FILE)
        for name in leaving:
            shutil.rmtree(scratch / name, ignore_errors=True)
        target = self.path(manifest.parts.stage, manifest.fingerprint)
        self.place(scratch, target)
        return Artifact(target, manifest)

    def place(self, whole: Path, target: Path) -> None:
        """Put a whole directory where an artifact belongs; one that is there is removed after it."""
        aside = _aside(target)
        shutil.rmtree(aside, ignore_errors=True)
        reach("seal.rename")
        if not target.exists():
            whole.rename(target)
        elif runtime.exchange(whole, target):
            whole.rename(aside)
        else:
            target.rename(aside)
            whole.rename(target)
        reach("seal.renamed")
        runtime.fsync_path(target.parent)
        shutil.rmtree(aside, ignore_errors=True)

    def _recover(self, target: Path, scratch: Path) -> None:
        """Undo a replacement that was killed between two renames, and end a sealing that was killed before its one."""
        aside = _aside(target)
        if aside.exists() and not target.exists():
            aside.rename(target)
        shutil.rmtree(aside, ignore_errors=True)
        if not (scratch / MANIFEST_FILE).exists():
            return
        if target.exists():
            shutil.rmtree(scratch)  # what another one has replaced
            return
        try:
            sealed = open_artifact(scratch)
            verify(sealed)
        except ArtifactError:  # what a stage goes on from may still be there
            (scratch / MANIFEST_FILE).unlink()
            return
        keep_only_payload(sealed)
        self.place(scratch, target)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.replaced")


def keep_only_payload(artifact: Artifact) -> None:
    """Remove what lies in an artifact's directory and is not in its manifest."""
    wanted = {MANIFEST_FILE, *(entry.path for entry in artifact.manifest.files)}
    for path in sorted(artifact.dir.rglob("*"), reverse=True):  # what is in a directory before it
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):  # it is not empty
                path.rmdir()
        elif path.relative_to(artifact.dir).as_posix() not in wanted:
            path.unlink()


def _entries(scratch: Path, leaving: Collection[str]) -> list[FileEntry]:
    """The payload below `scratch`, flushed to the disk, in the order of its paths."""
    entries = []
    for path in sorted(p for p in scratch.rglob("*") if p.is_file()):
        relative = path.relative_to(scratch).as_posix()
        if relative == MANIFEST_FILE or relative.partition("/")[0] in leaving:
            continue
        if runtime.is_unfinished(path):  # by a process that was killed; nobody writes here any more
            path.unlink()
            continue
        runtime.fsync_path(path)
        entries.append(FileEntry(path=relative, size=path.stat().st_size, sha256=runtime.file_sha256(path)))
    return entries


Inputs = Mapping[str, Artifact]
"""What a stage function reads: input name → artifact."""
