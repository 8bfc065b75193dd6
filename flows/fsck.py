"""`minimind fsck`: everything in the store proven, and with `repair` mended as far as there are other copies.

Artifacts and pins are `minimind.housekeeping`'s; here are the notes of all other parts, the registry, and what is
printed. Not here: MLflow's and Prefect's databases, which are theirs; logs and pages, which nobody reads back.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape

from minimind.artifact import REGISTRY_DIR, Store
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError, ServiceError
from minimind.evaluate.gate import Verdict
from minimind.housekeeping.damage import MEND, Finding, examine, is_held
from minimind.housekeeping.mending import Mend, Mender
from minimind.housekeeping.pins import PINS_DIR
from minimind.proven import Proven
from minimind.serve.webui.chats import Chat
from minimind.sweep.comparison import Comparison
from minimind.train.forecast import Forecast
from tasks.copies import Copies
from tasks.registry import Registration
from tasks.running import Note

MOST_PASSES = 3
"""What one pass puts aside may be what another artifact was made of."""


@dataclass(frozen=True)
class NoteKind:
    """One kind of small file, and what becomes of a damaged one."""

    places: str
    """Below the store's home."""
    read: type[Proven]
    instead: str


NOTES = (
    NoteKind("registry/[!.]*.json", Registration, "it is written again from MLflow"),
    NoteKind("gate/[!.]*.json", Verdict, "it is put aside, and the next run judges again"),
    NoteKind("running/[!.]*.json", Note, "it is put aside; Prefect's page may show that run as running"),
    NoteKind("estimates/[!.]*.json", Forecast, "it is put aside; `minimind estimate` makes another one"),
    NoteKind("sweeps/*/sweep.json", Comparison, "it is put aside; the same sweep reuses its trainings and writes it"),
    NoteKind("chats/[!.]*.json", Chat, "it is put aside; what can be read of it is text"),
)


class Examination(Config):
    """What `minimind fsck --json` prints."""

    artifacts: int
    whole: int
    findings: list[Finding]
    mended: list[Mend] = []

    @property
    def well(self) -> bool:
        """Whether nothing is damaged."""
        return not any(finding.is_damage for finding in self.findings)


def fsck(console: Console, *, as_json: bool, repair: bool = False) -> bool:
    """Prove the store, mend it if asked to, and print that; says whether nothing is damaged now."""
    store = Store()
    copies = Copies(store)
    found = _repaired(store, copies) if repair else examined(store, copies)
    if as_json:
        facts = found.model_dump(mode="json")
        for finding, shown in zip(found.findings, facts["findings"], strict=True):
            shown["damage"] = finding.is_damage
        console.print_json(data=facts)
    else:
        _print(console, found, copies.trouble)
    return found.well


def examined(store: Store, copies: Copies) -> Examination:
    """All that is wrong in a store."""
    directories: list[Path] = []
    findings = list(examine(store, on_artifact=directories.append))
    home = store.root.parent
    damaged = {home.joinpath(*Path(one.path).parts[:3]) for one in findings if one.is_damage}
    findings += [*_notes(home), *_dangling(store, findings, copies), *_checkpoints(store), *_unfinished(home)]
    whole = sum(directory not in damaged for directory in directories)
    return Examination(artifacts=len(directories), whole=whole, findings=findings)


def _repaired(store: Store, copies: Copies) -> Examination:
    """The store after all that can be done, which nobody may use meanwhile."""
    with store.alone():
        mender, mended = Mender(store, copies), list[Mend]()
        try:
            for _ in range(MOST_PASSES):
                found = examined(store, copies)
                done = [*mender.mend(found.findings), *_mend_notes(mender, copies, found.findings)]
                mended += done
                if not done:
                    break
        finally:
            mender.quarantine.close()
        return examined(store, copies).replace(mended=mended)


def _notes(home: Path) -> Iterator[Finding]:
    for kind in NOTES:
        for path in sorted(home.glob(kind.places)):
            try:
                kind.read.read_json(path, remedy="")
            except MissingError:  # a process ended meanwhile
                continue
            except ArtifactError as error:
                detail = str(error).removeprefix(f"{path}: ").rstrip("; ")
                yield _finding("note-damaged", path, home, detail, f"{MEND}: {kind.instead}")


def _dangling(store: Store, findings: list[Finding], copies: Copies) -> Iterator[Finding]:
    """Notes of the registry on what is gone, here or there; not those by which an input can be fetched again."""
    home = store.root.parent
    wanted = {parent for artifact in store.all() for parent in artifact.manifest.parents.values()}
    wanted |= {path.stem for path in (home / PINS_DIR).glob("[!.]*.json")}
    for path in sorted(home.glob("registry/[!.]*.json")):
        kind, fingerprint = _artifact_of(path)
        if not os.path.lexists(store.path(kind, fingerprint)):
            if fingerprint not in wanted:
                yield _finding("note-dangling", path, home, "its artifact is not in the store", f"{MEND} puts it aside")
        elif copies.tracker and (note := _read(path)) and not copies.tracker.knows(note):
            detail = f"MLflow at {note.tracking_uri} has no run {note.run_id} any more"
            yield _finding("note-dangling", path, home, detail, f"{MEND} writes it again as MLflow has it")


def _artifact_of(path: Path) -> tuple[str, str]:
    """Stage and fingerprint of what a note of the registry is about."""
    kind, _, fingerprint = path.stem.rpartition("-")
    return kind, fingerprint


def _read(path: Path) -> Registration | None:
    try:
        return Registration.read_json(path, remedy="")
    except (ArtifactError, MissingError):
        return None


def _checkpoints(store: Store) -> Iterator[Finding]:
    """Checkpoints of trainings that were broken off."""
    home = store.root.parent
    for path in sorted(store.root.glob("*/.*.scratch/checkpoints/step-*")):
        scratch = path.parents[1]
        if is_held(scratch.with_suffix(".lock")):
            continue
        from minimind.train.checkpoint import prove_checkpoint  # it imports torch

        try:
            prove_checkpoint(path)
        except ArtifactError as error:
            remedy = f"none is needed: the training goes on from the one before; {MEND} puts it aside"
            detail = str(error).rpartition(f"{path}/")[2].partition(";")[0]
            yield _finding("checkpoint-damaged", path, home, detail, remedy)


def _unfinished(home: Path) -> Iterator[Finding]:
    """Files that a process was writing when it was killed."""
    for path in sorted(p for folder in ("", "*/", "*/*/") for p in home.glob(f"{folder}.*.tmp")):
        pid = path.name.removesuffix(".tmp").rpartition(".")[2]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            yield _finding("leftover", path, home, "was being written when its process was killed", f"{MEND} takes it")


def _mend_notes(mender: Mender, copies: Copies, findings: list[Finding]) -> Iterator[Mend]:
    for finding in findings:
        path = mender.home / finding.path
        if not path.exists() or path.parent.name == PINS_DIR:
            continue
        gone = finding.kind == "note-dangling" and not mender.store.path(*_artifact_of(path)).exists()
        if finding.kind != "leftover" and path.parent.name == REGISTRY_DIR and not gone:
            yield from _registered_again(mender, copies, path)
        elif finding.kind in ("note-damaged", "note-dangling", "checkpoint-damaged") or path.suffix == ".tmp":
            yield mender.put_aside(path, finding.detail)


def _registered_again(mender: Mender, copies: Copies, path: Path) -> Iterator[Mend]:
    """A note of the registry as MLflow has it; where that does not answer the note stays as it is."""
    try:
        registration = copies.look_up(*_artifact_of(path))
    except ServiceError:
        return
    yield mender.put_aside(path, "it was damaged, or wrong")
    if registration and copies.tracker and copies.tracker.knows(registration):
        registration.write(path)
        detail = f"from MLflow: {registration.uri or registration.run_id}"
        yield Mend(did="written", path=path.relative_to(mender.home).as_posix(), detail=detail)


def _finding(kind: str, path: Path, home: Path, detail: str, remedy: str) -> Finding:
    place = path.relative_to(home).as_posix()
    return Finding.model_validate({"kind": kind, "path": place, "detail": detail, "remedy": remedy})


def _print(console: Console, found: Examination, trouble: str) -> None:
    for mend in found.mended:
        _line(console, f"[green]✓[/green] {mend.did:<18} {escape(mend.path)}: {escape(mend.detail)}")
    for finding in found.findings:
        sign = "[red]✗[/red]" if finding.is_damage else "[yellow]·[/yellow]"
        words = f"{finding.path}: {finding.detail}; {finding.remedy}"
        _line(console, f"{sign} {finding.kind:<18} {escape(words)}")
    if trouble:
        _line(console, f"[yellow]![/yellow] the registry was not asked: {escape(trouble)}")
    _line(
        console,
        f"{found.whole} of {found.artifacts} artifacts are whole; the store is {escape(str(Store().root.parent))}",
    )


def _line(console: Console, words: str) -> None:
    console.print(words, highlight=False, soft_wrap=True)
