"""From sealed artifacts to a report: what each says of itself, brought together.

Artifacts are told apart by the stage that made them, not by the name they are handed over under,
and any of them but the evaluation may be absent: its part of the report is then empty.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from minimind.artifact import Artifact, Inputs
from minimind.data.kinds import RowKind
from minimind.evaluate.card.answers import failed_answers_of
from minimind.evaluate.card.card import Cost, Report, Value
from minimind.evaluate.card.data import funnels_of, mask_of, mixture_findings, mixtures_of
from minimind.evaluate.card.headlines import headlines_of, verdict_on
from minimind.evaluate.card.trainings import training_findings, training_of
from minimind.evaluate.config import MODEL_NAMES, ModelName, PublishConfig
from minimind.evaluate.evaluated import Evaluated
from minimind.evaluate.gate import own_rules
from minimind.evaluate.results import ModelResult, read_evaluation
from minimind.lineage import node_of
from minimind.model.config import count_active_parameters
from minimind.model.weights import load_config

STAGE_ORDER = ("ingest", "clean", "shard", "tokenizer", "tokens", *MODEL_NAMES, "evaluate")
KIND_ORDER = get_args(RowKind)
UNKNOWN = "–"
CHANGED = "+changes"
"""Behind a commit that the checkout was not quite at."""


def collect(config: PublishConfig, inputs: Inputs, published: ModelName, *, warnings: Iterable[str]) -> Report:
    """The report on `published` and everything among `inputs`; `warnings` come first."""
    artifacts = _in_order(inputs.values())
    evaluated = inputs["evaluation"]
    evaluation = read_evaluation(evaluated.dir)
    manifest = inputs[published].manifest
    trainings = [training_of(artifact) for artifact in artifacts if artifact.kind in MODEL_NAMES]
    mixtures = mixtures_of(artifacts)
    cost = _cost(config, artifacts)
    return Report(
        name=config.name,
        recipe=_context(artifacts, "recipe"),
        data=_context(artifacts, "data"),
        pipeline=_context(artifacts, "pipeline"),
        user=str(evaluated.manifest.host.get("user", UNKNOWN)),
        created_at=evaluated.manifest.created_at,
        host=_hosts(artifacts),
        commit=evaluated.manifest.code_commit or "not in git",
        libraries=manifest.libraries,
        seconds=round(_seconds(artifacts), 1),
        cost=cost,
        published=published,
        published_fingerprint=manifest.fingerprint,
        model=_shape(inputs[published].dir, evaluation.models.get(published)),
        headlines=headlines_of(evaluation, published, seconds=_seconds(artifacts), cost=cost),
        warnings=[
            *warnings,
            *evaluated.summary().warnings,
            *training_findings(trainings),
            *mixture_findings(mixtures),
            *_stage_warnings(artifacts),
            *_code_warnings(artifacts),
        ],
        gate=own_rules(config.gate, Evaluated.of(inputs[published], published, evaluated)),
        verdict=verdict_on(evaluation),
        evaluation=evaluation,
        failed_answers=failed_answers_of(evaluated.dir),
        funnels=funnels_of(artifacts),
        mixtures=mixtures,
        mask=mask_of(inputs["tokens_chat"]) if "tokens_chat" in inputs else None,
        tokenizer=next((a.summary().figures for a in artifacts if a.kind == "tokenizer"), {}),
        trainings=trainings,
        lineage=[node_of(artifact) for artifact in artifacts],
        commands=list(config.commands) or commands_of(evaluated),
    )


def commands_of(evaluated: Artifact) -> list[str]:
    """What to type to make the same again, as far as the manifest says what ran."""
    context, commit = evaluated.manifest.context, (evaluated.manifest.code_commit or "").removesuffix(CHANGED)
    if "options" not in context:
        return []
    ran = f"minimind run {context['pipeline']} {context['options']}"  # options are written for a shell
    return [*([f"git checkout {commit}"] if commit else []), ran]


def _in_order(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """Each artifact once, in the order of the pipeline's stages and of the kinds of rows."""
    unique = {(artifact.kind, artifact.fingerprint): artifact for artifact in artifacts}

    def place(artifact: Artifact) -> tuple[int, int, str]:
        rows, kind = artifact.manifest.parts.config.get("rows"), artifact.kind
        stage = STAGE_ORDER.index(kind) if kind in STAGE_ORDER else len(STAGE_ORDER)
        return stage, KIND_ORDER.index(rows) if rows in KIND_ORDER else len(KIND_ORDER), artifact.fingerprint

    return sorted(unique.values(), key=place)


def _context(artifacts: Iterable[Artifact], key: str) -> str:
    """What the pipeline said it ran with; the last stage that knows it counts."""
    found = [artifact.manifest.context[key] for artifact in artifacts if key in artifact.manifest.context]
    return found[-1] if found else UNKNOWN


def _hosts(artifacts: Iterable[Artifact]) -> str:
    """The machines that the stages ran on, that of the last first."""
    hosts = [artifact.manifest.host for artifact in artifacts]
    told = [f"{h.get('name', 'unknown')} ({h.get('cores', '?')} cores, {h.get('system', 'unknown')})" for h in hosts]
    return ", ".join(dict.fromkeys(reversed(told)))


def _seconds(artifacts: Iterable[Artifact]) -> float:
    return sum(artifact.manifest.seconds for artifact in artifacts)


def _cost(config: PublishConfig, artifacts: Sequence[Artifact]) -> Cost:
    """Of a training on GPUs each process has one; anything else may use every core of its machine."""
    core_seconds = gpu_seconds = 0.0
    for artifact in artifacts:
        figures, seconds = artifact.summary().figures, artifact.manifest.seconds
        if figures.get("device") == "cuda":
            gpu_seconds += seconds * float(figures.get("processes") or 1)
        else:
            core_seconds += seconds * float(artifact.manifest.host.get("cores") or 1)
    price = config.price_per_hour
    return Cost(
        core_hours=round(core_seconds / 3600, 4),
        gpu_hours=round(gpu_seconds / 3600, 4),
        money=None if price is None else round(price * _seconds(artifacts) / 3600, 4),
    )


def _shape(directory: Path, result: ModelResult | None) -> dict[str, Value]:
    """What people want to know of a model's shape."""
    config = load_config(directory)
    shape: dict[str, Value] = {
        "parameters": result.parameters if result else None,
        "vocabulary": config.vocab_size,
        "layers": config.num_layers,
        "width": config.hidden_size,
        "attention heads": f"{config.num_heads} query, {config.num_kv_heads} key/value, {config.head_size} wide",
        "feed-forward width": config.ffn_size,
        "longest context": config.max_positions,
    }
    if config.num_experts:
        shape |= {
            "experts": f"{config.num_experts}, {config.experts_per_token} per token",
            "active parameters": count_active_parameters(config),
        }
    return {name: value for name, value in shape.items() if value is not None}


def _stage_warnings(artifacts: Iterable[Artifact]) -> list[str]:
    """What the other stages warned of, with the stage's name; a model's evaluation is not repeated."""
    return [f"{a.kind}: {warning}" for a in artifacts if a.kind != "evaluate" for warning in a.summary().warnings]


def _code_warnings(artifacts: Iterable[Artifact]) -> list[str]:
    changed = sorted({a.kind for a in artifacts if (a.manifest.code_commit or "").endswith(CHANGED)})
    return [f"Made from a checkout with changes that were not committed: {', '.join(changed)}."] if changed else []
