"""The model card: README.md of an exported folder, for people and for the hub that reads its first lines.

It says only what is known: figures with what they were measured on, the data as far as the lineage goes, and where
something is not recorded, that it is not. A licence for the model is its owner's to choose, so none is set.
Not here: what is known (`source`), where it is written (`exporting`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.data.pages import template
from minimind.evaluate.card.wording import interval_of, shown_figure
from minimind.evaluate.results import METRICS, Figure
from minimind.export.adapter import read_adapter_settings
from minimind.export.architecture import architecture_of
from minimind.export.settings import Check, ExportConfig
from minimind.export.source import Source
from minimind.model.config import count_active_parameters
from minimind.tokens.tokenizer import MODEL_FILE

TEMPLATES = Path(__file__).parent / "templates"
CARD_FILE = "README.md"
CARD_TEMPLATE, ADAPTER_TEMPLATE = "card.md.j2", "adapter.md.j2"

_FIGURES = {
    "loss": "last training loss",
    "validation_loss": "validation loss",
    "validation_bits_per_byte": "bits per byte of validation text",
    "bits_per_byte": "bits per byte of validation text",
    "preference_accuracy": "preference accuracy (chance is 0.5)",
    "validation_accuracy": "share of validation pairs whose better answer gained",
    "tokens": "tokens read in training",
    "steps": "steps",
}
"""Figures of a training that stand in a card, where there is no report card."""


def model_card(source: Source, config: ExportConfig, *, gguf: str | None, checks: list[Check]) -> str:
    """README.md of the folder; `gguf` is the name of its GGUF file, if it has one."""
    return template(TEMPLATES / CARD_TEMPLATE).render(**_known(source, config), gguf=gguf, checks=checks)


def adapter_card(source: Source, config: ExportConfig, *, checks: list[Check]) -> str:
    """README.md of the adapter's folder."""
    adapter = read_adapter_settings(source)
    return template(TEMPLATES / ADAPTER_TEMPLATE).render(**_known(source, config), adapter=adapter, checks=checks)


def export_command(source: Source, config: ExportConfig) -> str:
    """The command that writes the same again from the same artifact."""
    artifact = source.artifact
    directory = f".minimind/artifacts/{artifact.kind}/{artifact.fingerprint}" if artifact else source.name
    words = ["minimind export", directory, "--to", ",".join(config.to)]
    if "hf" in config.to:
        words += ["--dtype", config.dtype]
    if "gguf" in config.to:
        words += ["--gguf-type", config.gguf_type]
    return " ".join([*words, "--out FOLDER"])


def _known(source: Source, config: ExportConfig) -> dict[str, Any]:
    figures = source.figures
    return {
        "source": source,
        "shape": source.config,
        "config": config,
        "to": config.to,
        "architecture": architecture_of(source.config),
        "active": count_active_parameters(source.config),
        "made_by": source.artifact.kind if source.artifact else None,
        "report": source.report,
        "result": source.result,
        "measured": list(_measured(source)),
        "figures": {text: figures[name] for name, text in _FIGURES.items() if figures.get(name) is not None},
        "warnings": source.report.warnings if source.report else source.warnings,
        "spells_mark": (source.tokenizer.directory / MODEL_FILE).is_file(),
        "parents": source.parents,
        "commands": [*_pipeline_command(source), export_command(source, config)],
        "commit": source.artifact.manifest.code_commit if source.artifact else None,
    }


@dataclass(frozen=True)
class Measured:
    """The leading figure of a task, as it is shown."""

    task: str
    title: str
    value: str
    interval: str
    n: int
    compared: str
    """What chance or an n-gram gets."""
    leaked: int
    """Items that a training had seen, as far as that was looked for."""


def _measured(source: Source) -> Iterator[Measured]:
    """What the report card says of this model, task by task."""
    if source.report is None or source.result is None:
        return
    evaluation = source.report.evaluation
    for name, found in source.result.tasks.items():
        metric, task = found.leading, evaluation.tasks[name]
        figure = found.figures[metric]
        compared = []
        if evaluation.baselines and (ngram := task.ngram.get(metric)):
            compared.append(f"a byte {evaluation.baselines.ngram_order}-gram: {shown_figure(metric, ngram.value)}")
        if METRICS[metric].is_share and (chance := task.chance.get(metric)):
            compared.append(f"chance: {shown_figure(metric, chance)}")
        yield _shown(name, metric, figure, compared=", ".join(compared), leaked=found.leaked or 0)
    for metric, figure in source.result.said.items():
        yield _shown("all answers", metric, figure)


def _shown(task: str, metric: str, figure: Figure, *, compared: str = "", leaked: int = 0) -> Measured:
    return Measured(
        task=task,
        title=METRICS[metric].title,
        value=shown_figure(metric, figure.value),
        interval=interval_of(metric, figure.interval),
        n=figure.n,
        compared=compared,
        leaked=leaked,
    )


def _pipeline_command(source: Source) -> list[str]:
    """The command that made the model, as far as its manifest says; a recipe or spec at a path is given by its name."""
    if source.report is not None:
        return list(source.report.commands)
    context = source.artifact.manifest.context if source.artifact else {}
    pipeline = context.get("pipeline")
    if not pipeline:
        return []
    words = ["minimind run", pipeline]
    words += [f"--recipe {context['recipe']}"] if context.get("recipe") else []
    words += [f"--data {context['data']}"] if context.get("data") and pipeline == "full-pipeline" else []
    return [" ".join(words)]
