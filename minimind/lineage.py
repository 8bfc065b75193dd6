"""What artifacts were made of: the store as a graph, and its artifacts by name.

Not here: the registry (`models:/…` is resolved by `flows.local`).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from minimind.artifact import MANIFEST_FILE, Artifact, Store, open_artifact
from minimind.config import nearest
from minimind.errors import ConfigError, MissingError


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
    names = {artifact.label, artifact.fingerprint}
    if artifact.manifest.parts.config.get("rows") == "pretrain":
        names.add(artifact.kind)
    aliases = {"shard": "corpus", "publish": "chat"}
    if alias := aliases.get(artifact.kind):
        names |= {name.replace(artifact.kind, alias, 1) for name in names if name.startswith(artifact.kind)}
    return names


def _by_age(artifacts: Iterable[Artifact]) -> list[Artifact]:
    return sorted(artifacts, key=lambda artifact: artifact.manifest.created_at)
