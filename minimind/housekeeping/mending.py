"""What `damage` finds, mended: from other copies of the same bytes, or by putting aside what a run then makes again.

In this order, and only as far as it is needed: rights are given back, what nobody sealed is put aside, a manifest is
fetched, single files are copied from another artifact that has them or fetched, the whole artifact is fetched, the
whole artifact is put aside. Each step is one rename, so a kill leaves a store that the next repair goes on with.
Nothing is deleted but what another process had begun to delete. Call it inside `Store.alone()`.
"""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, REGISTRY_DIR, FileEntry, Manifest, Store, open_artifact
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError, ServiceError
from minimind.housekeeping.damage import Finding, examine_artifact, read_manifest, recorded_here
from minimind.housekeeping.pins import PINS_DIR, pin
from minimind.housekeeping.quarantine import Quarantine

ALIEN = frozenset({"extra-file", "broken-link", "link", "link-outside", "not-a-file"})
"""What is put aside as it is. What was sealed under its name is then missing."""
IN_FILES = frozenset({"missing-file", "cut", "grown", "flipped", "unreadable", "manifest-missing", "manifest-damaged"})
OF_ITS_OWN = ALIEN | IN_FILES | {"hard-link", "wrong-place"}
"""What is wrong with an artifact itself, and not with what it was made of."""
BROKEN_OFF = (".scratch", ".replaced")


class Mend(Config):
    """One thing that was done."""

    did: Literal["fetched", "copied", "moved", "put-aside", "permitted", "written", "ended"]
    path: str
    """Below the store's home, where it was found."""
    detail: str


class Source(Protocol):
    """Where else the bytes of artifacts are kept. Raises ServiceError where it does not answer."""

    def fetch_file(self, kind: str, fingerprint: str, path: str, target: Path) -> bool:
        """Write a file of an artifact to `target`, if it is there; nobody has proven it."""
        ...

    def fetch_artifact(self, kind: str, fingerprint: str) -> bool:
        """Put a whole artifact into its place in the store, proven, if it is there."""
        ...


class Mender:
    """One repair of a store."""

    def __init__(self, store: Store, source: Source) -> None:
        self.store, self.source, self.home = store, source, store.root.parent
        self.quarantine = Quarantine(self.home)

    def mend(self, findings: Iterable[Finding]) -> Iterator[Mend]:
        """Do what can be done about what `examine` found, and say what."""
        findings = list(findings)
        for path in self._paths(findings, "leftover"):
            yield from self._end(path)
        own = (self._directory(finding) for finding in findings if finding.kind in OF_ITS_OWN)
        for directory in dict.fromkeys(filter(None, own)):
            yield from self._artifact(directory)
        for finding in findings:
            path = self.home / finding.path
            if finding.kind in ALIEN and self._directory(finding) is None and os.path.lexists(path):
                yield self.put_aside(path, finding.detail)
        for finding in findings:
            if finding.kind in ("input-missing", "input-changed"):
                yield from self._inputs(self.home / finding.path)
        for path in self._paths(findings, "note-damaged", "pin-dangling"):
            if path.parent.name == PINS_DIR and path.exists():
                yield from self._pin(path)

    def fetch(self, fingerprint: str) -> Iterator[Mend]:
        """An artifact that is not here, if it was ever recorded and can be had; nothing else."""
        notes = (self.home / REGISTRY_DIR).glob(f"*-{fingerprint}.json")
        kinds = sorted({path.stem.rpartition("-")[0] for path in notes})
        with suppress(ServiceError):
            for kind in kinds:
                if not self.store.path(kind, fingerprint).exists() and self.source.fetch_artifact(kind, fingerprint):
                    yield self._did("fetched", self.store.path(kind, fingerprint), "whole, from the registry")

    def _artifact(self, directory: Path) -> Iterator[Mend]:
        for _ in range(3):  # a directory that is opened shows what is in it, and that may be closed too
            yield from self._simple(directory)
        yield from self._manifest(directory)
        manifest, _ = read_manifest(directory, self.home)
        if manifest:
            directory, moved = self._to_its_place(directory, manifest)
            yield from moved
            yield from self._payload(directory, manifest)
        if any(finding.kind in IN_FILES for finding in self._found(directory)):
            yield from self._whole(directory)

    def _simple(self, directory: Path) -> Iterator[Mend]:
        """Rights, links and what nobody sealed."""
        for finding in self._found(directory):
            path = self.home / finding.path
            if finding.kind in ALIEN:
                yield self.put_aside(path, finding.detail)
            elif finding.kind == "hard-link":
                copy = self.quarantine.room()
                shutil.copy(path, copy)
                self._put(copy, path)
                yield self._did("copied", path, "it is a file of its own now")
            elif finding.kind == "unreadable":
                mode = path.lstat().st_mode
                allowed = mode | (0o700 if stat.S_ISDIR(mode) else 0o600)
                with suppress(PermissionError):  # it belongs to somebody else
                    if allowed != mode:  # else it is the disk that does not give it
                        path.chmod(stat.S_IMODE(allowed))
                        yield self._did("permitted", path, "its owner may read it again")

    def _manifest(self, directory: Path) -> Iterator[Mend]:
        manifest, problem = read_manifest(directory, self.home)
        if manifest or not problem or not directory.exists():
            return
        kind, fingerprint, fetched = directory.parent.name, directory.name, self.quarantine.room()
        with suppress(ServiceError):
            self.source.fetch_file(kind, fingerprint, MANIFEST_FILE, fetched)
        with suppress(ArtifactError, MissingError):
            found = Manifest.read_json(fetched, remedy="")
            if found.fingerprint == fingerprint == found.parts.fingerprint() and found.parts.stage == kind:
                path = directory / MANIFEST_FILE
                if os.path.lexists(path):
                    yield self.put_aside(path, problem.detail)
                self._put(fetched, path)
                yield self._did("fetched", path, "from MLflow")
        fetched.unlink(missing_ok=True)

    def _to_its_place(self, directory: Path, manifest: Manifest) -> tuple[Path, list[Mend]]:
        """Where an artifact is once it is where it belongs; or aside, where something is there already."""
        right = self.store.path(manifest.parts.stage, manifest.fingerprint)
        if right == directory:
            return directory, []
        in_its_place, _ = read_manifest(right, self.home) if right.exists() else (None, None)
        right.parent.mkdir(parents=True, exist_ok=True)
        if not right.exists():
            directory.rename(right)
        elif not (in_its_place and in_its_place.fingerprint != right.name and runtime.exchange(directory, right)):
            return right, [self.put_aside(directory, f"another {manifest.fingerprint} is in its place")]
        runtime.fsync_path(right.parent)
        runtime.fsync_path(directory.parent)
        return right, [self._did("moved", directory, f"to {right.relative_to(self.home)}")]

    def _payload(self, directory: Path, manifest: Manifest) -> Iterator[Mend]:
        """Single files, from wherever the same bytes are."""
        damaged = {finding.path for finding in self._found(directory) if finding.kind in IN_FILES}
        for entry in manifest.files:
            path = directory / entry.path
            if path.relative_to(self.home).as_posix() not in damaged:
                continue
            fetched = self.quarantine.room()
            did = self._copy(entry, path, fetched) or self._fetch_file(manifest, entry, fetched)
            if did:
                if os.path.lexists(path):
                    yield self.put_aside(path, "it was damaged")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._put(fetched, path)
                yield did.replace(path=path.relative_to(self.home).as_posix())
            fetched.unlink(missing_ok=True)

    def _copy(self, entry: FileEntry, path: Path, target: Path) -> Mend | None:
        """The same bytes out of another artifact: a model has its tokenizer's files, a shard what its rows dropped."""
        for artifact in self.store.all():
            for other in artifact.manifest.files:
                place = artifact.dir / other.path
                if other.sha256 == entry.sha256 and place != path and place.is_file():
                    shutil.copyfile(place, target)
                    if runtime.file_sha256(target) == entry.sha256:
                        return self._did("copied", path, f"from {place.relative_to(self.home)}")
        return None

    def _fetch_file(self, manifest: Manifest, entry: FileEntry, target: Path) -> Mend | None:
        with suppress(ServiceError):
            there = self.source.fetch_file(manifest.kind, manifest.fingerprint, entry.path, target)
            if there and runtime.file_sha256(target) == entry.sha256:
                return self._did("fetched", target, "from MLflow")
        return None

    def _whole(self, directory: Path) -> Iterator[Mend]:
        """The artifact out of the registry, or aside; where the registry should have it and is down, as it is."""
        kind, fingerprint = directory.parent.name, directory.name
        aside = self.quarantine.take(directory)
        place = aside.relative_to(self.home)
        try:
            fetched = self.source.fetch_artifact(kind, fingerprint)
        except ServiceError:
            self.quarantine.give_back(aside, directory)
            return
        if fetched:
            yield self._did("fetched", directory, f"whole, from the registry; the damaged one is {place}")
        else:
            yield self._did("put-aside", directory, f"to {place}; the next run makes it again")

    def _inputs(self, directory: Path) -> Iterator[Mend]:
        with suppress(ArtifactError, MissingError):
            for fingerprint in open_artifact(directory).manifest.parents.values():
                if not any(self.store.root.glob(f"[!.]*/{fingerprint}")):
                    yield from self.fetch(fingerprint)

    def _pin(self, path: Path) -> Iterator[Mend]:
        if not any(self.store.root.glob(f"[!.]*/{path.stem}")):
            yield from self.fetch(path.stem)
        for place in self.store.root.glob(f"[!.]*/{path.stem}"):
            with suppress(ArtifactError, MissingError):
                yield self._did("written", pin(open_artifact(place), self.store), "it pins what it pinned")
                return
        yield self.put_aside(path, "what it keeps is gone")

    def _end(self, path: Path) -> Iterator[Mend]:
        """What a kill broke off between two renames, or in the middle of a removal."""
        if path.suffix == ".trash":
            shutil.rmtree(path)
            yield self._did("ended", path, "what was being removed is gone")
        elif path.suffix == ".run":
            yield self.put_aside(path, "of a stage that is not there")
        elif path.suffix in BROKEN_OFF and (path.suffix != ".scratch" or (path / MANIFEST_FILE).exists()):
            fingerprint = path.name.strip(".").partition(".")[0]
            with self.store.building(path.parent.name, fingerprint) as scratch, suppress(OSError):
                scratch.rmdir()  # unless a stage can go on from what is in it
            yield self._did("ended", path, "what was broken off is done")

    def _found(self, directory: Path) -> list[Finding]:
        if not directory.is_dir():
            return []
        return list(examine_artifact(directory, self.store, recorded=recorded_here(self.store)))

    def _directory(self, finding: Finding) -> Path | None:
        """The artifact that a finding is about; None where it is about something else."""
        parts = Path(finding.path).parts
        if len(parts) < 3 or parts[0] != self.store.root.name or parts[2].startswith("."):
            return None
        directory = self.home.joinpath(*parts[:3])
        return None if directory.is_symlink() or not directory.is_dir() else directory

    def _paths(self, findings: Iterable[Finding], *kinds: str) -> list[Path]:
        return list(dict.fromkeys(self.home / finding.path for finding in findings if finding.kind in kinds))

    def _put(self, new: Path, path: Path) -> None:
        runtime.fsync_path(new)
        new.replace(path)
        runtime.fsync_path(path.parent)

    def put_aside(self, path: Path, why: str) -> Mend:
        """Take something out of the store into the quarantine."""
        return self._did("put-aside", path, f"to {self.quarantine.take(path).relative_to(self.home)}: {why}")

    def _did(self, did: str, path: Path, detail: str) -> Mend:
        return Mend.model_validate({"did": did, "path": path.relative_to(self.home).as_posix(), "detail": detail})
