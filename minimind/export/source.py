"""The model directory that is exported, and what is known of where it comes from.

A sealed artifact knows its parents and settings, its store what those were made of, and a report card, where one was
published, how good it is. A plain directory knows nothing but its bytes; then the sha256 of its weights is its name.
Nothing here says where anything lay on the machine: an export is for others.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, Artifact, Store, open_artifact, verify
from minimind.errors import MiniMindError
from minimind.evaluate.card.card import REPORT_FILE, Report, read_report
from minimind.evaluate.results import ModelResult
from minimind.infer.generate import name_of
from minimind.lineage import Lineage, Node, by_age, lineage_of, parent, store_of
from minimind.model.config import ModelConfig, count_parameters
from minimind.model.weights import WEIGHTS_FILE, load_config
from minimind.tokens.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

SAMPLES_DIR = runtime.CHECKOUT / "data_specs" / "samples"


@dataclass(frozen=True)
class DataSource:
    """A source that the model, or what it started from, has read."""

    name: str
    rows: str
    what: str
    licence: str


@dataclass(frozen=True)
class Source:
    """A model directory, opened and proven. Make one with `open_source`."""

    dir: Path
    config: ModelConfig
    artifact: Artifact | None

    @property
    def fingerprint(self) -> str | None:
        return self.artifact.fingerprint if self.artifact else None

    @property
    def name(self) -> str:
        """`sft-1a2b3c4d`, or the directory's own name."""
        return name_of(self.dir)

    @property
    def parents(self) -> dict[str, str]:
        return dict(self.artifact.manifest.parents) if self.artifact else {}

    @property
    def parameters(self) -> int:
        return count_parameters(self.config)

    @cached_property
    def weights_sha256(self) -> str:
        return runtime.file_sha256(self.dir / WEIGHTS_FILE)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        return Tokenizer.load(self.dir)

    @cached_property
    def lineage(self) -> Lineage | None:
        return lineage_of(self.artifact) if self.artifact and self._store else None

    @property
    def _store(self) -> Store | None:
        """The store it lies in; None for a plain directory, and for an artifact that was copied out of its store."""
        inside = self.artifact is not None and self.dir.resolve().parent.parent.name == "artifacts"
        return store_of(self.artifact) if self.artifact and inside else None

    @cached_property
    def report(self) -> Report | None:
        """The newest report card that measured this model, or was published with it."""
        if self.artifact and (self.dir / REPORT_FILE).is_file():
            return _readable_report(self.dir)
        cards = [one for one in self._store.all() if one.kind == "publish"] if self._store else []
        reports = (_readable_report(card.dir) for card in reversed(by_age(cards)))
        return next((report for report in reports if report and self.fingerprint in _measured(report)), None)

    @property
    def result(self) -> ModelResult | None:
        """What the report card measured of this very model."""
        if self.report is None:
            return None
        mine = {self.fingerprint, self.report.published_fingerprint if (self.dir / REPORT_FILE).is_file() else None}
        return next((m for m in self.report.evaluation.models.values() if m.fingerprint in mine), None)

    @property
    def figures(self) -> dict[str, Any]:
        """Figures of the stage that made it."""
        return dict(self.artifact.summary().figures) if self.artifact else {}

    @property
    def warnings(self) -> list[str]:
        return list(self.artifact.summary().warnings) if self.artifact else []

    @property
    def base(self) -> Artifact | None:
        """The model it was trained from, as far as the store has it."""
        return parent(self.artifact, "model") if self.artifact and self._store else None

    @property
    def base_fingerprint(self) -> str | None:
        return self.parents.get("model")

    @property
    def languages(self) -> list[str]:
        """The languages, of the two this project is for, that the vocabulary has words of."""
        texts = [raw.decode("utf-8", "ignore").strip() for raw in self.tokenizer.piece_bytes()]
        latin = sum(len(text) >= 3 and text.isascii() and text.isalpha() for text in texts)
        han = sum(any("\u4e00" <= letter <= "\u9fff" for letter in text) for text in texts)
        return [code for code, count in (("en", latin), ("zh", han)) if count >= len(texts) / 100]

    @property
    def data(self) -> list[DataSource]:
        """Every source behind it, as far as its lineage tells."""
        nodes = self.lineage.nodes if self.lineage else []
        ingests = [node for node in nodes if node.kind == "ingest"]
        found = [_described(source, node) for node in ingests for source in node.config.get("sources", ())]
        return list(dict.fromkeys(found))


def open_source(directory: Path) -> Source:
    """The model in `directory`; a sealed artifact's bytes are proven first. Raises what is wrong with it."""
    directory = directory.resolve()
    artifact = open_artifact(directory) if (directory / MANIFEST_FILE).is_file() else None
    if artifact is not None:
        verify(artifact)
    return Source(directory, load_config(directory), artifact)


def _readable_report(directory: Path) -> Report | None:
    try:
        return read_report(directory)
    except MiniMindError as error:
        logger.warning("%s — the model card does without its figures", error)
        return None


def _measured(report: Report) -> set[str]:
    return {model.fingerprint for model in report.evaluation.models.values()}


def _described(source: Mapping[str, Any], node: Node) -> DataSource:
    """A source as an ingest stage's manifest has it: its settings without the place it was read from."""
    name, rows, kind = source["name"], source["rows"], source["kind"]
    if kind == "pydocs":
        what = "documentation of the Python standard library"
        licence = "Python Software Foundation License, as Python itself"
        if source.get("packages", "stdlib") != "stdlib":
            what, licence = "documentation of installed Python packages", "that of each package"
        return DataSource(name, rows, what, licence)
    if kind == "hub":
        what = f"hub data set {source.get('dataset')} ({source.get('revision')})"
        return DataSource(name, rows, what, "see the data set's own card")
    digests = {digest for file, digest in node.sources.items() if file.startswith(f"{name}/")}
    if digests and digests <= _sample_digests():
        return DataSource(name, rows, "samples written for this project", "CC0-1.0")
    return DataSource(name, rows, f"{kind} files", "not recorded")


def _sample_digests() -> set[str]:
    return {runtime.file_sha256(path) for path in SAMPLES_DIR.glob("*.jsonl")}
