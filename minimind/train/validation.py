"""Figures on held-out rows or pairs, each looked at once, shared over the ranks.

A look during training takes a fixed sample, the one at the end takes all. Means are per trained
token (or pair). Not here: which figures there are; the objective's `measure` says it.
"""

from dataclasses import dataclass

import torch

from minimind.model.transformer import Transformer
from minimind.tokens.batches import Batch
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


def validate(model: Transformer, objective: Objective, held_out: HeldOut, ranks: Ranks, *, sample: bool) -> Figures:
    """`validation_loss` and the objective's other figures; nothing where nothing is held out."""
    wanted = min(held_out.num_items, SAMPLE_ITEMS) if sample else held_out.num_items
    totals, units = Sums(), 0
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for first in range(0, wanted, held_out.batch_items):
            whole = held_out.batches.batch(first // held_out.batch_items)
            whole = objective.take(whole, 0, min(held_out.batch_items, wanted - first))
            units += objective.count(whole)
            _add(totals, _measure(model, objective, whole, ranks))
    model.train(was_training)
    return _figures(ranks.sum_figures(totals), units) if units else {}


def _measure(model: Transformer, objective: Objective, whole: Batch, ranks: Ranks) -> Sums:
    start, stop = ranks.share(objective.items(whole))
    if start < stop:
        return objective.measure(model, Tensors.of(objective.take(whole, start, stop), ranks.device))
    # a rank without an item must still name every figure
    names = objective.measure(model, Tensors.of(objective.take(whole, 0, 1), ranks.device))
    return {name: torch.zeros_like(value) for name, value in names.items()}


def _add(totals: Sums, sums: Sums) -> None:
    for name, value in sums.items():
        value = value.double() if value.device.type != "mps" else value.float()
        totals[name] = totals[name] + value if name in totals else value


def _figures(sums: Figures, units: int) -> Figures:
    nats, content_bytes = sums.pop("content_nats", 0.0), sums.pop("content_bytes", 0.0)
    figures = {f"validation_{name}": value / units for name, value in sums.items()}
    if content_bytes:
        figures["validation_bits_per_byte"] = bits_per_byte(nats, content_bytes)
    return figures
