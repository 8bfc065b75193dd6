"""From sealed artifacts to a report: what each says of itself, brought together.

Artifacts are told apart by the stage that made them, not by the name they are handed over under,
and any of them but the evaluation may be absent: its part of the report is then empty.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np

from minimind.artifact import Artifact, Inputs
from minimind.data.dropped import DROPPED_FILE
from minimind.errors import ArtifactError
from minimind.evaluate.card import Curve, Dropped, Funnel, Headline, Report, Training, Value
from minimind.evaluate.config import MODEL_NAMES, ModelName, PublishConfig
from minimind.evaluate.results import Evaluation, ModelResult, read_evaluation
from minimind.events import EVENTS_FILE, read_events
from minimind.lineage import node_of
from minimind.model.config import count_active_parameters
from minimind.model.weights import load_config

CURVE_POINTS = 300
"""What a picture of this width can show."""
STAGE_ORDER = ("ingest", "clean", "shard", "tokenizer", "tokens", *MODEL_NAMES, "evaluate")
KIND_ORDER = ("pretrain", "chat", "preference", "prompt")


class _DroppedRow(msgspec.Struct):
    rule: str
    reason: str


def collect(config: PublishConfig, inputs: Inputs, published: ModelName, *, warnings: Iterable[str]) -> Report:
    """The report on `published` and everything among `inputs`; `warnings` come first."""
    artifacts = _in_order(inputs.values())
    evaluated = inputs["evaluation"]
    evaluation = read_evaluation(evaluated.dir)
    manifest = inputs[published].manifest
    return Report(
        name=config.name,
        recipe=_context(artifacts, "recipe"),
        data=_context(artifacts, "data"),
        created_at=evaluated.manifest.created_at,
        host=_host(evaluated),
        commit=evaluated.manifest.code_commit or "not in git",
        libraries=manifest.libraries,
        published=published,
        published_fingerprint=manifest.fingerprint,
        model=_shape(inputs[published].dir, evaluation.models.get(published)),
        headlines=_headlines(evaluation, published, artifacts),
        warnings=[*warnings, *evaluated.summary().warnings, *_stage_warnings(artifacts), *_code_warnings(artifacts)],
        evaluation=evaluation,
        funnels=_funnels(artifacts),
        tokenizer=next((a.summary().figures for a in artifacts if a.kind == "tokenizer"), {}),
        trainings=[training_of(artifact) for artifact in artifacts if artifact.kind in MODEL_NAMES],
        lineage=[node_of(artifact) for artifact in artifacts],
        commands=list(config.commands),
        seconds=round(sum(artifact.manifest.seconds for artifact in artifacts), 1),
    )


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
    return found[-1] if found else "–"


def _host(artifact: Artifact) -> str:
    host = artifact.manifest.host
    return f"{host.get('name', 'unknown')} ({host.get('cores', '?')} cores, {host.get('system', 'unknown')})"


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


def _headlines(evaluation: Evaluation, published: str, artifacts: Iterable[Artifact]) -> list[Headline]:
    result, baselines = evaluation.models.get(published), evaluation.baselines
    headlines = []
    if result:
        headlines = [
            Headline(
                label="bits per byte",
                value=f"{result.score.bits_per_byte:.3f}",
                note=f"lower is better; a byte {baselines.ngram_order}-gram needs {baselines.ngram:.3f}",
            ),
            Headline(
                label="parameters", value=f"{result.parameters / 1e6:.1f} M", note=f"published model: {published}"
            ),
        ]
    if result and result.preference:
        before = evaluation.models.get("sft")
        note = f"{result.preference.pairs} pairs; chance is 50 %"
        if before and before.preference and published != "sft":
            note = f"{before.preference.accuracy:.1%} before (sft); {result.preference.pairs} pairs"
        headlines.insert(1, Headline(label="preference accuracy", value=f"{result.preference.accuracy:.1%}", note=note))
    seconds = sum(artifact.manifest.seconds for artifact in artifacts)
    headlines.append(Headline(label="minutes, all stages", value=f"{seconds / 60:.1f}", note="summed over the stages"))
    return headlines


def _stage_warnings(artifacts: Iterable[Artifact]) -> list[str]:
    """What the other stages warned of, with the stage's name; a model's evaluation is not repeated."""
    return [f"{a.kind}: {warning}" for a in artifacts if a.kind != "evaluate" for warning in a.summary().warnings]


def _code_warnings(artifacts: Iterable[Artifact]) -> list[str]:
    changed = sorted({a.kind for a in artifacts if (a.manifest.code_commit or "").endswith("+changes")})
    return [f"Made from a checkout with changes that were not committed: {', '.join(changed)}."] if changed else []


def _funnels(artifacts: list[Artifact]) -> list[Funnel]:
    """One per corpus; rows that its token set left out for their length are counted too."""
    tokens = {a.manifest.parents.get("corpus"): a for a in artifacts if a.kind == "tokens"}
    return [_funnel(shard, tokens.get(shard.fingerprint)) for shard in artifacts if shard.kind == "shard"]


def _funnel(shard: Artifact, tokens: Artifact | None) -> Funnel:
    """Counted from the rows that were dropped, which the artifacts carry with them whole."""
    figures, counts = shard.summary().figures, _count_dropped(shard.dir / "dropped" / DROPPED_FILE)
    kept = {side: int(figures.get(f"{side}_rows") or 0) for side in ("train", "val")}
    rows_in = sum(kept.values()) + counts.total()
    if tokens is not None:
        counts += _count_dropped(tokens.dir / "dropped" / DROPPED_FILE)
        kept = {side: kept[side] - int(tokens.summary().figures.get(f"{side}_dropped_rows") or 0) for side in kept}
    return Funnel(
        kind=str(shard.manifest.parts.config.get("rows", "rows")),
        rows_in=rows_in,
        train_rows=kept["train"],
        validation_rows=kept["val"],
        dropped=[Dropped(rule=rule, reason=reason, rows=rows) for (rule, reason), rows in counts.most_common()],
    )


def _count_dropped(path: Path) -> Counter[tuple[str, str]]:
    counts: Counter[tuple[str, str]] = Counter()
    if not path.exists():
        return counts
    decoder = msgspec.json.Decoder(_DroppedRow)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise ArtifactError(
                    f"{path}:{number}: is no dropped row ({error}); run the data stages again"
                ) from None
            counts[row.rule, row.reason] += 1
    return counts


def training_of(artifact: Artifact) -> Training:
    """A training's figures and the curves of its losses."""
    events, _ = read_events(artifact.dir / EVENTS_FILE)
    points: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        if event.kind != "step":
            continue
        for metric, value in event.metrics.items():
            if value is not None and _is_loss(metric):
                points.setdefault(metric, []).append((event.step, value))
    return Training(
        stage=artifact.kind,
        seconds=artifact.manifest.seconds,
        figures=artifact.summary().figures,
        curves=[_thin(metric, points[metric]) for metric in sorted(points)],
    )


def _is_loss(metric: str) -> bool:
    """The training loss and that of the validation split, whatever prefix it has."""
    return metric == "loss" or (metric.startswith("val") and metric.endswith("loss"))


def _thin(metric: str, points: list[tuple[int, float]]) -> Curve:
    """At most `CURVE_POINTS` points: means over neighbours."""
    pieces = np.array_split(np.array(points, np.float64), min(CURVE_POINTS, len(points)))
    means = [piece.mean(axis=0) for piece in pieces]
    return Curve(
        metric=metric,
        steps=[round(float(mean[0])) for mean in means],
        values=[round(float(mean[1]), 5) for mean in means],
    )
