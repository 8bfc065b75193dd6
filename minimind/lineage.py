"""What artifacts were made of: the store as a graph, its artifacts by name, and what differs between two of them.

Not here: the registry (`models:/…` is resolved by `flows.local`), rows and steps (`minimind.tokens.trace`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from minimind.artifact import MANIFEST_FILE, Artifact, Store, open_artifact, prove_small
from minimind.config import Config, nearest
from minimind.errors import ConfigError, MissingError
from minimind.fingerprint import explain


def store_of(artifact: Artifact) -> Store:
    """The store an artifact lies in."""
    return Store(artifact.dir.parents[2])


def find_artifact(name: str, store: Store, *, kinds: Sequence[str] = ()) -> Artifact:
    """The artifact of a directory, or the newest one called `name`: `tokens-chat`, `tokens`, `sft`, `chat`; proven.

    A directory inside an artifact (`…/train`) is that artifact. Raises MissingError, and ConfigError where it is none
    of `kinds`.
    """
    path = Path(name).expanduser()
    found = _enclosing(path.resolve()) if path.is_dir() else _newest(name, store, kinds)
    if kinds and found.kind not in kinds:
        raise ConfigError(f"{name} is an artifact of the stage {found.kind}; one of {', '.join(kinds)} is needed")
    return prove_small(found)


def parent(artifact: Artifact, name: str, *, proven: bool = True) -> Artifact | None:
    """What `artifact` read as its input `name`; None where it has no such input, or it is not in the store any more.

    Proven, unless somebody wants to know what is wrong with it.
    """
    found = by_fingerprint(store_of(artifact), artifact.manifest.parents.get(name, ""))
    return prove_small(found) if found and proven else found


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


def in_order(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """The artifacts, each behind those of them that it was made of."""
    known = {artifact.fingerprint: artifact for artifact in artifacts}
    order = TopologicalSorter({name: one.manifest.parents.values() for name, one in known.items()}).static_order()
    return [known[fingerprint] for fingerprint in order if fingerprint in known]


def by_age(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """The artifacts, the oldest first; of those of one second the one first whose manifest was written first."""
    return sorted(artifacts, key=lambda one: (one.manifest.created_at, (one.dir / MANIFEST_FILE).stat().st_mtime_ns))


def descendants(artifacts: Iterable[Artifact], roots: Collection[str]) -> list[Artifact]:
    """Those of the artifacts that were made of one of `roots`, given by fingerprint, or are one; in order."""
    reached, found = set(roots), []
    for artifact in in_order(artifacts):
        if artifact.fingerprint in reached or not reached.isdisjoint(artifact.manifest.parents.values()):
            reached.add(artifact.fingerprint)
            found.append(artifact)
    return found


class Node(Config):
    """One artifact of a lineage."""

    kind: str
    """The stage; of what is not there any more the name it was read under."""
    label: str
    fingerprint: str
    inputs: dict[str, str] = {}
    """Input name → fingerprint of the node that was read."""
    sources: dict[str, str] = {}
    """What was read from outside the store → digest of it."""
    path: str | None = None
    """Below `artifacts/`; None where the store does not have it any more, and nothing else is known of it."""
    created_at: str | None = None
    seconds: float | None = None
    config: dict[str, Any] = {}
    figures: dict[str, int | float | str | None] = {}
    code_commit: str | None = None
    libraries: dict[str, str] = {}
    host: dict[str, Any] = {}
    context: dict[str, str] = {}
    """Recipe, data spec, and the runs that made it."""


class Lineage(Config):
    """Everything that one artifact was made of; itself first, and every node before what it was made of."""

    nodes: list[Node]

    @property
    def root(self) -> Node:
        return self.nodes[0]

    def node(self, fingerprint: str) -> Node:
        return next(node for node in self.nodes if node.fingerprint == fingerprint)

    def missing(self) -> list[Node]:
        """What is not in the store any more."""
        return [node for node in self.nodes if node.path is None]


def lineage_of(artifact: Artifact) -> Lineage:
    """The lineage of an artifact, as far as its store knows it."""
    return lineage_among(artifact, ancestors(artifact).values())


def lineage_among(artifact: Artifact, known: Iterable[Artifact]) -> Lineage:
    """The lineage of an artifact, as far as it is `known`."""
    known = {one.fingerprint: one for one in [artifact, *known]}
    nodes: dict[str, Node] = {}
    depths: dict[str, int] = {}
    waiting = [(artifact.kind, artifact.fingerprint, 0)]
    while waiting:  # a node ends below all that read it: its depth is that of the longest way to it
        name, fingerprint, depth = waiting.pop()
        if depths.get(fingerprint, -1) >= depth:
            continue
        depths[fingerprint] = depth
        one = known.get(fingerprint)
        nodes[fingerprint] = node_of(one) if one else Node(kind=name, label=name, fingerprint=fingerprint)
        waiting += [(name, below, depth + 1) for name, below in nodes[fingerprint].inputs.items()]
    return Lineage(nodes=sorted(nodes.values(), key=lambda node: (depths[node.fingerprint], node.label)))


def node_of(artifact: Artifact) -> Node:
    """What an artifact says of itself."""
    manifest = artifact.manifest
    return Node(
        kind=artifact.kind,
        label=artifact.label,
        fingerprint=artifact.fingerprint,
        inputs=manifest.parents,
        sources=manifest.parts.sources,
        path=f"{artifact.dir.parent.name}/{artifact.dir.name}",
        created_at=manifest.created_at,
        seconds=manifest.seconds,
        config=manifest.parts.config,
        figures=artifact.summary().figures,
        code_commit=manifest.code_commit,
        libraries=manifest.libraries,
        host=manifest.host,
        context=manifest.context,
    )


class Difference(Config):
    """What differs in one stage of two lineages."""

    label: str
    lines: list[str]
    """`config lr: 0.001 → 0.0003`, and so on; inputs are left out, whose differences stand at their own stages."""


class Comparison(Config):
    """Two artifacts side by side."""

    before: str
    after: str
    differences: list[Difference]
    """By stage, what comes first in the path first."""
    libraries: dict[str, tuple[str | None, str | None]]
    """Of the two artifacts themselves, where they differ."""
    figures: dict[str, tuple[int | float | str | None, int | float | str | None]]
    """All of them; None for one that the other alone has."""

    @property
    def same(self) -> bool:
        """Whether they are the same artifact."""
        return self.before.split()[-1] == self.after.split()[-1]


def compare(before: Artifact, after: Artifact) -> Comparison:
    """What differs between two artifacts and between all that they were made of."""
    old, new = ({one.label: one for one in ancestors(artifact).values()} for artifact in (before, after))
    if before.label != after.label:  # an sft and a dpo model: they stand at different places of the path
        ends = {before.fingerprint, after.fingerprint}  # one may be made of the other
        old, new = ({n: one for n, one in side.items() if one.fingerprint not in ends} for side in (old, new))
        old[_ENDS], new[_ENDS] = before, after
    labels = [*reversed(new), *(label for label in reversed(old) if label not in new)]
    found = [Difference(label=label, lines=list(_lines(old.get(label), new.get(label)))) for label in labels]
    return Comparison(
        before=f"{before.label} {before.fingerprint}",
        after=f"{after.label} {after.fingerprint}",
        differences=[difference for difference in found if difference.lines],
        libraries=_unequal(before.manifest.libraries, after.manifest.libraries),
        figures=_beside(before.summary().figures, after.summary().figures),
    )


_ENDS = "the two themselves"


def _lines(old: Artifact | None, new: Artifact | None) -> Iterator[str]:
    if old is None or new is None:
        one = old or new
        assert one is not None
        yield f"{one.label} {one.fingerprint}: only the {'second' if old is None else 'first'} has it"
        return
    if old.kind != new.kind:
        yield f"stage: {old.kind} → {new.kind}"
    changes = explain(old.manifest.parts, new.manifest.parts)
    yield from (str(change) for change in changes if change.part != "input")


def _beside(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (old.get(name), new.get(name)) for name in [*old, *(name for name in new if name not in old)]}


def _unequal(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: both for name, both in _beside(old, new).items() if both[0] != both[1]}


def _enclosing(path: Path) -> Artifact:
    place = next((place for place in (path, path.parent) if (place / MANIFEST_FILE).exists()), path)
    return open_artifact(place)


def _newest(name: str, store: Store, kinds: Sequence[str]) -> Artifact:
    called: dict[str, Artifact] = {}
    for artifact in by_age(store.all()):
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
