"""What a pipeline would do for a stage: reuse or run it, why, of which versions, for how long. No server is asked."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from minimind import runtime
from minimind.artifact import Artifact, Inputs, Manifest, Store
from minimind.config import Config
from minimind.fingerprint import Change, Parts, explain
from minimind.train.config import TrainConfig
from minimind.train.forecast import find as find_forecast
from tasks.registry import noted


@dataclass(frozen=True)
class Step:
    """What a pipeline did, or plans to do, for one stage."""

    label: str
    parts: Parts
    reused: bool
    changes: tuple[Change, ...] = ()
    """Why it must run: what is new against the artifact nearest to it."""
    problem: str = ""
    """Why it must run, where that is no change: `not built yet`, what is damaged."""
    uri: str | None = None
    """Its version in the registry, as far as it has one."""
    reads: dict[str, str] = field(default_factory=dict)
    """Input name → the version that would be read; a label and `new` for what would be made first."""
    seconds: float | None = None
    """What it is expected to take; None where nothing is known."""
    seconds_from: str = ""
    """Where that is from: an estimate of this very training, or the last one of its kind."""


def plan(
    parts: Parts, config: Config, inputs: Inputs, *, before: Sequence[Step], store: Store, reused: bool, because: str
) -> Step:
    """The step of a stage after those `before` it. `because` says why it must run, where that is no change."""
    home, made = store.root.parent, {step.parts.fingerprint() for step in before if not step.reused}
    reads = {
        name: f"{artifact.label} (new)" if artifact.fingerprint in made else _version(home, artifact.manifest.parts)
        for name, artifact in inputs.items()
    }
    if reused:
        return Step(parts.label, parts, True, uri=_version(home, parts), reads=reads, seconds=0.0)
    same = [artifact.manifest for artifact in store.all() if artifact.label == parts.label]
    changes = () if because else min((tuple(explain(old.parts, parts)) for old in same), key=len, default=())
    seconds, seconds_from = _expected(parts, config, home, same)
    return Step(
        parts.label,
        parts,
        False,
        changes=changes,
        problem="" if changes else because or ("its artifact was removed" if same else "not built yet"),
        reads=reads,
        seconds=seconds,
        seconds_from=seconds_from,
    )


def stand_in(store: Store, parts: Parts) -> Artifact:
    """Stands for an artifact that is not built yet, so that a plan can walk on."""
    fingerprint = parts.fingerprint()
    manifest = Manifest(
        kind=parts.stage,
        fingerprint=fingerprint,
        parts=parts,
        parents=dict(parts.inputs),
        files=[],
        created_at=runtime.now(),
        seconds=0.0,
        code_commit=None,
        libraries={},
        host={},
    )
    return Artifact(store.path(parts.stage, fingerprint), manifest)


def _expected(parts: Parts, config: Config, home: Path, same: Sequence[Manifest]) -> tuple[float | None, str]:
    if isinstance(config, TrainConfig) and (forecast := find_forecast(home, parts.stage, config, parts.inputs)):  # type: ignore[arg-type]
        return forecast.seconds, "estimate"
    last = max(same, key=lambda manifest: manifest.created_at, default=None)
    return (last.seconds, "last time") if last else (None, "")


def _version(home: Path, parts: Parts) -> str:
    """The registry's URI of an artifact as the store noted it, else its label and fingerprint."""
    registration = noted(home, parts.stage, parts.fingerprint())
    return (registration and registration.uri) or f"{parts.label} {parts.fingerprint()}"
