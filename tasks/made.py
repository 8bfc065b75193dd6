"""What one run of a flow has made, by label (`shard-chat`, `sft`), and where the rest comes from."""

from collections.abc import Iterable
from functools import cached_property
from typing import get_args

from minimind.artifact import Artifact
from minimind.data.kinds import RowKind
from minimind.errors import MissingError
from minimind.evaluate.config import MODEL_NAMES
from tasks.finishing import name_inputs
from tasks.registry import CANDIDATE, registered_as
from tasks.stage import Pipeline

DATA_STAGES = ("ingest", "clean", "shard", "tokens")
READ_FROM = {"ingest": "clean", "clean": "shard"}
"""Stage without an entry in the registry → the one that reads it, which leads to one that has."""


class Made:
    """The artifacts of a run. With `newest`, what it did not make is the newest in the registry."""

    def __init__(self, run: Pipeline, *made: Artifact, newest: bool) -> None:
        self._run, self._newest = run, newest
        self._made = {artifact.label: artifact for artifact in made}

    def add(self, artifact: Artifact) -> None:
        """Count an artifact as made by this run, built or reused."""
        self._made[artifact.label] = artifact

    def has(self, *labels: str) -> bool:
        """Whether this run made one of these."""
        return not self._made.keys().isdisjoint(labels)

    def get(self, label: str) -> Artifact | None:
        """What this run made, else the newest there is, else None."""
        if label in self._made or not self._newest:
            return self._made.get(label)
        stage, _, rows = label.partition("-")
        if stage in READ_FROM:
            reader = self.get(f"{READ_FROM[stage]}-{rows}")
            return self._run.parent(reader, stage, "rows") if reader else None
        return self._run.newest(label)

    def __getitem__(self, label: str) -> Artifact:
        """Like `get`. Raises MissingError."""
        if (found := self.get(label)) is None:
            stage, _, rows = label.partition("-")
            of_rows = f" -p kind={rows}" if stage in ("ingest", "clean", "shard") else ""
            raise MissingError(
                f"{registered_as(label) or label}: not in the registry; `minimind run {stage}{of_rows}` makes it"
            )
        return found

    def take(self, uri: str) -> Artifact:
        """What a registry URI names once this run is recorded: of what it made, its own is the newest."""
        own = (made for made in self._made.values() if uri == f"models:/{registered_as(made.label)}@{CANDIDATE}")
        return next(own, None) or self._run.take(uri)

    @cached_property
    def kinds(self) -> tuple[RowKind, ...]:
        """The kinds of rows that there is data of."""
        known = self._run.registered_names() if self._newest else set()
        return tuple(
            kind
            for kind in get_args(RowKind)
            if self.has(*(f"{stage}-{kind}" for stage in DATA_STAGES)) or registered_as(f"shard-{kind}") in known
        )

    def tokens(self, kinds: Iterable[str]) -> dict[str, Artifact]:
        """The token sets of some kinds of rows, of those that there are."""
        return {kind: found for kind in kinds if (found := self.get(f"tokens-{kind}"))}

    def tokens_for(self, model: Artifact, kinds: Iterable[str]) -> dict[str, Artifact]:
        """Those of them that are of the model's tokenizer, as far as it is known."""
        tokenizer, found = model.summary().figures.get("tokenizer"), self.tokens(kinds)
        return {kind: one for kind, one in found.items() if tokenizer in (None, one.manifest.parents["tokenizer"])}

    def models(self, names: Iterable[str] = MODEL_NAMES) -> dict[str, Artifact]:
        """The models of these names: what this run did not make only if it is of the same tokenizer, else left out."""
        models = {}
        for name in names:
            model = self.get(name)
            if model is None:
                continue
            if self.has(name) or model.summary().figures.get("tokenizer") == self["tokenizer"].fingerprint:
                models[name] = model
            else:
                self._run.display.warn(f"the newest {name} model is left out: it is of another tokenizer")
        return models

    def data(self) -> dict[str, Artifact]:
        """What the data stages made, under the names by which the finishing stages read it."""
        stages = {"ingest": "ingest", "clean": "clean", "shard": "corpus", "tokens": "tokens"}
        found = {
            name: {kind: artifact for kind in self.kinds if (artifact := self.get(f"{stage}-{kind}"))}
            for stage, name in stages.items()
        }
        return name_inputs(**found) | {"tokenizer": self["tokenizer"]}
