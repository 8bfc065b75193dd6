"""`items.parquet`: what every model got for every single item, so that two evaluations can be compared item by item.

    task  item  source  language  subject   model  metric  value  weight  leaked

A figure is Σ value / Σ weight. `answers.jsonl` beside it has the checked answers word for word.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from minimind.errors import ArtifactError, MissingError
from minimind.evaluate.contamination import Overlap
from minimind.evaluate.intervals import Values
from minimind.evaluate.material import Material
from minimind.evaluate.measuring import Scores

ITEMS_FILE, ANSWERS_FILE = "items.parquet", "answers.jsonl"

Items = Mapping[str, tuple[float, float]]
"""Item → value and weight."""


def write_items(
    path: Path,
    materials: Sequence[Material],
    scores: Mapping[str, Scores],
    overlaps: Mapping[str, Mapping[str, Sequence[Overlap]]],
) -> None:
    """Write what models got; `overlaps` are by model and task."""
    batches = [
        _batch(material, model, metric, values, overlaps.get(model, {}).get(material.name))
        for model, found in scores.items()
        for material in materials
        for metric, values in found.tasks[material.name].items()
    ]
    pq.write_table(pa.Table.from_batches(batches), path, compression="zstd", write_page_checksum=True)


def write_answers(path: Path, scores: Mapping[str, Scores]) -> None:
    """Write the checked answers of all models."""
    lines = [
        json.dumps(
            {
                "model": model,
                "task": task,
                "item": outcome.item.id,
                "prompt": outcome.item.question,
                "answer": outcome.text,
                "failures": outcome.failures,
                "tokens": outcome.tokens,
                "ended": outcome.ended,
            },
            ensure_ascii=False,
        )
        for model, found in scores.items()
        for task, outcomes in found.outcomes.items()
        for outcome in outcomes
    ]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", errors="replace")


def read_items(directory: Path, *, model: str, task: str, metric: str) -> Items:
    """What a model got for each item of a task; empty where it was not measured."""
    path = directory / ITEMS_FILE
    wanted = (pc.field("model") == model) & (pc.field("task") == task) & (pc.field("metric") == metric)
    try:
        table = pq.read_table(
            path, columns=["item", "value", "weight"], filters=wanted, page_checksum_verification=True
        )
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; run the stage evaluate again") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise ArtifactError(f"{path}: damaged ({str(error)[:100]}); run the stage evaluate again") from None
    names, values, weights = (table[name].to_pylist() for name in ("item", "value", "weight"))
    return dict(zip(names, zip(values, weights, strict=True), strict=True))


def paired(after: Items, before: Items) -> tuple[Values, Values] | None:
    """Both on the items that both have, of equal weight in both; None where there are fewer than two."""
    shared = [name for name, (_, weight) in after.items() if name in before and before[name][1] == weight]
    if len(shared) < 2:
        return None
    return _values(after, shared), _values(before, shared)


def _values(items: Items, names: Sequence[str]) -> Values:
    return Values(np.array([items[name][0] for name in names]), np.array([items[name][1] for name in names]))


def _batch(
    material: Material, model: str, metric: str, values: Values, overlaps: Sequence[Overlap] | None
) -> pa.RecordBatch:
    facts, count = material.facts, len(material.facts)
    return pa.RecordBatch.from_pydict(
        {
            "task": pa.array([material.name] * count),
            "item": pa.array([one.id for one in facts]),
            "source": pa.array([one.source for one in facts]),
            "language": pa.array([one.language for one in facts]),
            "subject": pa.array([one.subject for one in facts]),
            "model": pa.array([model] * count),
            "metric": pa.array([metric] * count),
            "value": pa.array(values.values, pa.float64()),
            "weight": pa.array(values.weights, pa.float64()),
            "leaked": pa.array([None] * count if overlaps is None else [one.leaked for one in overlaps], pa.bool_()),
        }
    )
