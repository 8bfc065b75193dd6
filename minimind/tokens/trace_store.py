"""Where things are in a store: artifacts by name, what they were made of, and a training as it can be gone through.

Steps are counted from 1, as in MLflow and `events.jsonl`.
Not here: the registry (`models:/…` is resolved by `flows.local`); what a training was given (`minimind.train.history`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.artifact import MANIFEST_FILE, Artifact, Store, open_artifact
from minimind.config import nearest
from minimind.errors import ConfigError, MissingError
from minimind.tokens.batches import PairBatches, RowBatches
from minimind.tokens.token_set import INFO_FILE, TokenSet
from minimind.tokens.trace_pieces import Source

TRAININGS = ("pretrain", "sft", "dpo", "lora", "distill")
SPLITS = ("train", "val")


def label_of(artifact: Artifact) -> str:
    """`tokens-chat`: the stage, and the kind of rows where there are several."""
    rows = artifact.manifest.parts.config.get("rows")
    return f"{artifact.kind}-{rows}" if rows else artifact.kind


def store_of(artifact: Artifact) -> Store:
    """The store an artifact lies in."""
    return Store(artifact.dir.parents[2])


def find_artifact(name: str, store: Store, *, kinds: Sequence[str] = ()) -> Artifact:
    """The artifact of a directory, or the newest one called `name`: `tokens-chat`, `tokens`, `sft`, `chat`.

    A directory inside an artifact (`…/train`) is that artifact. Raises MissingError, and ConfigError where it is none
    of `kinds`.
    """
    path = Path(name).expanduser()
    found = _enclosing(path.resolve()) if path.is_dir() else _newest(name, store, kinds)
    if kinds and found.kind not in kinds:
        raise ConfigError(f"{name} is an artifact of the stage {found.kind}; one of {', '.join(kinds)} is needed")
    return found


def parent(artifact: Artifact, name: str) -> Artifact | None:
    """What `artifact` read as its input `name`; None where it has no such input, or it is not in the store any more."""
    return by_fingerprint(store_of(artifact), artifact.manifest.parents.get(name, ""))


def by_fingerprint(store: Store, fingerprint: str) -> Artifact | None:
    """The artifact of any stage that has this fingerprint."""
    found = (path for path in store.root.glob(f"*/{fingerprint}/{MANIFEST_FILE}") if fingerprint)
    return next((open_artifact(path.parent) for path in found), None)


def ancestors(artifact: Artifact) -> dict[str, Artifact]:
    """Fingerprint → artifact of all that `artifact` was made of, itself among them, as far as the store has it."""
    store, known, waiting = store_of(artifact), {artifact.fingerprint: artifact}, [artifact]
    while waiting:
        for fingerprint in waiting.pop().manifest.parents.values():
            if fingerprint not in known and (found := by_fingerprint(store, fingerprint)):
                known[fingerprint] = found
                waiting.append(found)
    return known


def split_dir(place: Path, split: str) -> Path:
    """The directory of a split: of a token set's artifact, or `place` itself where it is one already."""
    return place if (place / INFO_FILE).exists() else place / split


@dataclass(frozen=True)
class Training:
    """A training as it can be gone through again; `minimind.train.history` makes one of a trained model."""

    label: str
    fingerprint: str
    token_sets: tuple[Artifact, ...]
    """What it learns from: its own, then those that are mixed in, as `PiecesOfStep.token_sets` counts them."""
    length: int
    batch_items: int
    """Rows (or pairs) of a step."""
    seed: int
    figures: Mapping[str, Any]
    """What it says of itself; empty before it ran."""
    steps: int
    """All of them, also before it has run."""
    open: Callable[[], Source]
    """Gives its batches; step s is `batch(s - 1)`."""
    changed_code: tuple[str, ...] = ()
    """Modules that choose the rows of a step and are not those it was trained with: then steps tell nothing."""

    @property
    def tokens(self) -> Artifact:
        """Its own token set."""
        return self.token_sets[0]

    def reads(self, token_set: Artifact) -> bool:
        """Whether it learns from this token set."""
        return token_set.fingerprint in [one.fingerprint for one in self.token_sets]

    def facts(self) -> dict[str, str]:
        """What its batches follow from, for people."""
        sets = ", ".join(f"{label_of(one)} {one.fingerprint}" for one in self.token_sets)
        return {"token set": sets, "length": str(self.length), "seed": str(self.seed)}


def open_batches(tokens: TokenSet, *, length: int, batch_items: int, seed: int) -> RowBatches | PairBatches:
    """Pairs of a preference set, packed rows of any other."""
    if tokens.kind == "preference":
        return PairBatches(tokens, batch_pairs=batch_items, max_length=length, seed=seed)
    return RowBatches(tokens, row_length=length, batch_rows=batch_items, seed=seed)


def _enclosing(path: Path) -> Artifact:
    place = next((place for place in (path, path.parent) if (place / MANIFEST_FILE).exists()), path)
    return open_artifact(place)


def _newest(name: str, store: Store, kinds: Sequence[str]) -> Artifact:
    called: dict[str, Artifact] = {}
    for artifact in _by_age(store.all()):
        if not kinds or artifact.kind in kinds:
            called |= dict.fromkeys(_names(artifact), artifact)
    if name not in called:
        names = [known for known, artifact in called.items() if known != artifact.fingerprint]
        known = nearest(name, names) if names else " (the store is empty; `minimind run` fills it)"
        raise MissingError(f"no path and no artifact `{name}` in {store.root}{known}; give one, or a models:/ URI")
    return called[name]


def _names(artifact: Artifact) -> set[str]:
    names = {label_of(artifact), artifact.fingerprint}
    if artifact.manifest.parts.config.get("rows") == "pretrain":
        names.add(artifact.kind)
    aliases = {"shard": "corpus", "publish": "chat"}
    if alias := aliases.get(artifact.kind):
        names |= {name.replace(artifact.kind, alias, 1) for name in names if name.startswith(artifact.kind)}
    return names


def _by_age(artifacts: Iterable[Artifact]) -> list[Artifact]:
    return sorted(artifacts, key=lambda artifact: artifact.manifest.created_at)
