"""A model with the evaluation that measured it: what the gate and `minimind report diff` compare.

A published model has its evaluation among its parents. Of any other the newest evaluation in its store counts. What
`minimind eval --out` wrote is a folder of figures without either.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from minimind.artifact import MANIFEST_FILE, Artifact
from minimind.errors import MissingError
from minimind.evaluate.config import EvaluateConfig
from minimind.evaluate.gathering import from_corpora
from minimind.evaluate.material import Subject
from minimind.evaluate.measuring import measure
from minimind.evaluate.results import Evaluation, ModelResult, read_evaluation
from minimind.evaluate.table import Items, read_items
from minimind.lineage import by_age, by_fingerprint, parent, store_of

TEXT, BITS = "text", "bits_per_byte"
"""The task and the metric that any two models can be compared by, whatever tokenizer they have."""


@dataclass(frozen=True)
class ModelFigures:
    """What the files of an evaluation say of one of its models."""

    directory: Path
    """Of the evaluation."""
    name: str
    """What the evaluation calls the model: dpo."""

    @cached_property
    def evaluation(self) -> Evaluation:
        return read_evaluation(self.directory)

    @property
    def result(self) -> ModelResult:
        return self.evaluation.models[self.name]

    def items(self, task: str, metric: str, *, name: str = "") -> Items:
        """What the model, or another one of the evaluation, got for each item of a task."""
        return read_items(self.directory, model=name or self.name, task=task, metric=metric)


@dataclass(frozen=True)
class Evaluated(ModelFigures):
    """The same of a model in a store."""

    artifact: Artifact
    """The model itself, or what published it."""
    source: Artifact
    """The evaluation's artifact."""

    @classmethod
    def of(cls, artifact: Artifact, name: str, source: Artifact) -> "Evaluated":
        """The model that the evaluation `source` calls `name`."""
        return cls(source.dir, name, artifact, source)

    @property
    def config(self) -> EvaluateConfig:
        """What it was measured with."""
        origin = str(self.source.dir / MANIFEST_FILE)
        return EvaluateConfig.parse(self.source.manifest.parts.config, origin=origin)

    @property
    def start(self) -> str | None:
        """What the evaluation calls the model that this one was trained from, where it measured that too."""
        model = by_fingerprint(store_of(self.source), self.result.fingerprint)
        begun = model and model.manifest.parents.get("model")
        return next((name for name, one in self.evaluation.models.items() if one.fingerprint == begun), None)


def evaluated(artifact: Artifact) -> Evaluated:
    """A published model or any other with its evaluation. Raises MissingError where there is none."""
    if artifact.kind == "publish":
        source, name = parent(artifact, "evaluation"), str(artifact.summary().figures.get("model"))
        if source is None:
            raise MissingError(
                f"{artifact.dir}: the evaluation it was published with is not in the store any more; "
                "`minimind run evaluate --downstream` measures and publishes the newest models"
            )
        return Evaluated.of(artifact, name, source)
    found = by_age(_measured_by(store_of(artifact).all(), artifact.fingerprint))
    if not found:
        raise MissingError(
            f"{artifact.label} {artifact.fingerprint}: no evaluation measured it; `minimind run evaluate` measures the "
            "newest model of every name"
        )
    names = {fingerprint: name for name, fingerprint in found[-1].manifest.parents.items()}
    return Evaluated.of(artifact, names[artifact.fingerprint], found[-1])


def texts_anew(model: Artifact, like: Evaluated, *, context: int) -> Items:
    """What `model` gets on the held-out texts that `like` was measured on. Raises MissingError where they are gone."""
    corpus = parent(like.source, "corpus")
    if corpus is None:
        raise MissingError(f"the corpus that {like.name} was measured on is not in the store any more")
    config = like.config
    materials = from_corpora(config, {"corpus": corpus})
    subject = Subject.load(
        model.dir, context=context, device=config.device, precision=config.precision, batch_tokens=config.batch_tokens
    )
    measured = measure(subject, materials).tasks[TEXT][BITS]
    names = [facts.id for material in materials for facts in material.facts]
    return dict(zip(names, zip(measured.values.tolist(), measured.weights.tolist(), strict=True), strict=True))


def _measured_by(artifacts: Iterable[Artifact], fingerprint: str) -> Iterator[Artifact]:
    return (one for one in artifacts if one.kind == "evaluate" and fingerprint in one.manifest.parents.values())
