"""Figures on held-out rows or pairs, each looked at once, shared over the ranks.

A look during training takes a fixed sample, the one at the end takes all. Means are per trained
token (or pair). With `exact` ranks divide no micro-batch, and all are added up in their order.
Not here: which figures there are; the objective's `measure` says it.
"""

from dataclasses import dataclass

import torch

from minimind.model.transformer import Transformer
from minimind.tokens.batches import Batch
from minimind.train.exact import sum_in_order
from minimind.train.loop import Batches, Figures
from minimind.train.objectives import Objective, Sums, Tensors, bits_per_byte
from minimind.train.parallel import Ranks

SAMPLE_ITEMS = 64
"""Rows (or pairs) of a look during training: enough to see a curve, cheap enough to take often."""


@dataclass(frozen=True)
class HeldOut:
    """A split to measure on. One epoch of `batches` holds each of its items once, then wraps."""

    batches: Batches
    num_items: int
    batch_items: int
    """Those of a micro-batch, times the ranks."""
    unit: int | None = None
    """With `exact` the items of a micro-batch, which ranks never divide."""


def validate(model: Transformer, objective: Objective, held_out: HeldOut, ranks: Ranks, *, sample: bool) -> Figures:
    """`validation_loss` and the objective's other figures; nothing where nothing is held out."""
    wanted = min(held_out.num_items, SAMPLE_ITEMS) if sample else held_out.num_items
    unit = held_out.unit or 1
    units, places, parts = 0, list[int](), list[Sums]()
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, wanted, held_out.batch_items):
            whole = held_out.batches.batch(first // held_out.batch_items)
            whole = objective.take(whole, 0, min(held_out.batch_items, wanted - first))
            units += objective.count(whole)
            ranks.beat()
            places.append((first + ranks.share(objective.items(whole), unit)[0]) // unit)
            parts.append(_measure(model, objective, whole, ranks, unit=unit))
    model.train(was_training)
    if not units:
        return {}
    if held_out.unit:
        return _figures(sum_in_order(places, parts, count=-(-wanted // unit), ranks=ranks), units)
    return _figures(ranks.sum_figures(_total(parts)), units)


def _measure(model: Transformer, objective: Objective, whole: Batch, ranks: Ranks, *, unit: int) -> Sums:
    start, stop = ranks.share(objective.items(whole), unit)
    if start < stop:
        return objective.measure(model, Tensors.of(objective.take(whole, start, stop), ranks.device))
    # a rank without an item must still name every figure
    names = objective.measure(model, Tensors.of(objective.take(whole, 0, 1), ranks.device))
    return {name: torch.zeros_like(value) for name, value in names.items()}


def _total(parts: list[Sums]) -> Sums:
    """Their sum in float64, where the device has it."""
    totals = Sums()
    for sums in parts:
        for name, value in sums.items():
            value = value.double() if value.device.type != "mps" else value.float()
            totals[name] = totals[name] + value if name in totals else value
    return totals


def _figures(sums: Figures, units: int) -> Figures:
    nats, content_bytes = sums.pop("content_nats", 0.0), sums.pop("content_bytes", 0.0)
    figures = {f"validation_{name}": value / units for name, value in sums.items()}
    if content_bytes:
        figures["validation_bits_per_byte"] = bits_per_byte(nats, content_bytes)
    return figures
