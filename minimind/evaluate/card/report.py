"""The stage `publish`: the chosen model's files, and the report card beside them.

    model.safetensors config.json tokenizer.*      the model, ready to load
    report.json                                    everything the card says
    report.md report.html figures/*.png            drawn from it

`report.json` is written first and read back; the pages show what it says. The card is a function
of the artifacts, their manifests and the config: made twice from the same, it is the same.
"""

import shutil
from pathlib import Path

from minimind import runtime
from minimind.artifact import Inputs, Summary
from minimind.errors import ConfigError, MissingError
from minimind.evaluate.card.card import REPORT_FILE, Report, read_report
from minimind.evaluate.card.charts import FIGURES_DIR, draw_all
from minimind.evaluate.card.collect import collect
from minimind.evaluate.card.page import render_html, render_markdown, template_digests
from minimind.evaluate.config import MODEL_NAMES, ModelName, PublishConfig
from minimind.evaluate.results import read_evaluation
from minimind.model.weights import CONFIG_FILE, WEIGHTS_FILE
from minimind.stage import Stage
from minimind.tokens.tokenizer import tokenizer_files

MODEL_FILES = (WEIGHTS_FILE, CONFIG_FILE)
FALLBACKS: tuple[ModelName, ...] = ("dpo", "lora", "sft", "pretrain")
"""What is published where the wanted model was not trained: the furthest along that was."""
ROW_KINDS = ("", "_chat", "_preference", "_lora")


def publish(config: PublishConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Copy the model that is handed out and write its report card."""
    name, warnings = choose_model(config, inputs)
    evaluated = read_evaluation(inputs["evaluation"].dir).models.get(name)
    if evaluated is None or evaluated.fingerprint != inputs[name].fingerprint:
        raise ConfigError(
            f"publish: the evaluation did not measure this {name} ({inputs[name].fingerprint}); "
            "run evaluate on the same models"
        )
    model = inputs[name].dir
    for path in (*(model / file for file in MODEL_FILES), *tokenizer_files(model)):
        try:
            shutil.copyfile(path, out_dir / path.name)
        except FileNotFoundError:
            raise MissingError(f"{path}: missing from the model; run {name} again") from None
    report = collect(config, inputs, name, warnings=warnings)
    runtime.write_json(out_dir / REPORT_FILE, report.model_dump(mode="json"))
    draw(out_dir)
    return Summary(figures=_figures(report), samples=_samples(report), warnings=report.warnings)


PUBLISH = Stage(
    "publish",
    publish,
    inputs=("evaluation",),
    optional_inputs=(
        *MODEL_NAMES,
        "tokenizer",
        *(f"{stage}{kind}" for stage in ("ingest", "clean", "corpus", "tokens") for kind in ROW_KINDS),
    ),
    sources=lambda _: template_digests(),
)


def draw(directory: Path) -> None:
    """Draw pictures and pages anew from the `report.json` in `directory`."""
    report = read_report(directory)
    draw_all(report, directory / FIGURES_DIR)
    runtime.write_atomic(directory / "report.md", render_markdown(report))
    runtime.write_atomic(directory / "report.html", render_html(report, directory))


def choose_model(config: PublishConfig, inputs: Inputs) -> tuple[ModelName, list[str]]:
    """The model to publish, and a warning where it is not the one that was asked for."""
    if config.model in inputs:
        return config.model, []
    name = next((name for name in FALLBACKS if name in inputs), None)
    if name is None:
        raise ConfigError(f"publish was given no model; give {config.model} or one of {', '.join(FALLBACKS)}")
    return name, [f"publish.model is {config.model}, which was not trained: {name} is published instead."]


def _figures(report: Report) -> dict[str, int | float | str | None]:
    """The headline figures, as numbers."""
    result, text = report.evaluation.models[report.published], report.evaluation.tasks.get("text")
    found = {"bits_per_byte": result.bits_per_byte, "preference_accuracy": result.preference}
    ngram = text.ngram.get("bits_per_byte") if text else None
    figures: dict[str, int | float | str | None] = {
        "model": report.published,
        "model_fingerprint": report.published_fingerprint,
        "parameters": result.parameters,
        **{name: round(figure.value, 5) for name, figure in found.items() if figure},
        **({"byte_ngram_bits_per_byte": round(ngram.value, 5)} if ngram else {}),
    }
    return {
        **figures,
        "warnings": len(report.warnings),
        "gate_refused": sum(ruling.passed is False for ruling in report.gate),
        "pipeline_seconds": report.seconds,
    }


def _samples(report: Report) -> list[str]:
    return [f"{answer.prompt} → {answer.text}" for answer in report.evaluation.models[report.published].answers]
