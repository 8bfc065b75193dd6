"""What the card says of the trainings: their curves, and what in them is a reason to worry."""

from collections.abc import Iterator, Sequence

import numpy as np

from minimind.artifact import Artifact
from minimind.evaluate.card.card import Curve, Training
from minimind.events import EVENTS_FILE, read_events

CURVE_POINTS = 300
"""What a picture of this width can show."""
LOSS, LOOK, BITS = "loss", "validation_", "bits_per_byte"
SHARES = ("accuracy", "repetition", "ended")
"""Endings of figures of a look that are shares from 0 to 1."""
RISE = 1.05
"""Validation loss by its lowest: looks are at the same rows, and differ by a hundredth where nothing happens."""
GAP = 1.5
"""Validation loss by training loss at the end: more than generalisation explains. Chosen, not measured."""
END = 0.1
"""Share of the steps whose mean is the training loss at the end: single steps jump."""
FEW_LOOKS = 3


def training_of(artifact: Artifact) -> Training:
    """A training's figures, the curves of its losses, and what it was asked on the way."""
    events = read_events(artifact.dir / EVENTS_FILE)
    points: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        if event.kind != "step":
            continue
        for metric, value in event.metrics.items():
            if value is not None and (_is_loss(metric) or _is_look(metric)):
                points.setdefault(metric, []).append((event.step, value))
    curves = [_thin(metric, points[metric]) for metric in sorted(points)]
    return Training(
        stage=artifact.kind,
        seconds=artifact.manifest.seconds,
        figures=artifact.summary().figures,
        curves=[curve for curve in curves if _is_loss(curve.metric)],
        looks=[curve for curve in curves if not _is_loss(curve.metric)],
    )


def training_findings(trainings: Sequence[Training]) -> Iterator[str]:
    """Overfitting and jumps of the loss, with what to do about them."""
    for training in trainings:
        yield from _overfit(training)
    spikes = {one.stage: int(float(one.figures.get("loss_spikes") or 0)) for one in trainings}
    if found := [f"{stage} ({count})" for stage, count in spikes.items() if count]:
        yield (
            f"Loss spikes: steps whose loss was far above the usual in {', '.join(found)}. Where the curve does not "
            "come back, lower `lr`, or raise `warmup_steps`; one odd row in a batch does no harm."
        )


def is_share(metric: str) -> bool:
    """Whether a figure of a look lies between 0 and 1."""
    return metric.endswith(SHARES)


def _overfit(training: Training) -> Iterator[str]:
    """The looks of a training are at a sample, the last one at all held-out rows: only the former are compared."""
    stage, curves = training.stage, {curve.metric: curve for curve in training.curves}
    held_out = next((curve for metric, curve in curves.items() if metric != LOSS), None)
    if held_out is None:
        return
    looks = held_out.values[:-1]
    if len(looks) >= FEW_LOOKS and looks[-1] > RISE * min(looks) > 0:
        lowest = min(looks)
        yield (
            f"Overfit: the validation loss of {stage} rose by {looks[-1] / lowest - 1:.0%}, from {lowest:.3f} at step "
            f"{held_out.steps[looks.index(lowest)]:,} to {looks[-1]:.3f}. Stop earlier (fewer `{stage}.epochs`), lower "
            f"`{stage}.lr`, or give it more rows."
        )
        return
    last = held_out.values[-1]
    if LOSS in curves and last > GAP * (loss := _at_the_end(curves[LOSS])) > 0:
        yield (
            f"Overfit: {stage} ends with a loss of {loss:.3f} on what it is trained on and of {last:.3f} on what was "
            f"held out: it learns its rows by heart. Give it more rows, or fewer `{stage}.epochs`."
        )


def _at_the_end(curve: Curve) -> float:
    count = max(1, round(END * len(curve.values)))
    return sum(curve.values[-count:]) / count


def _is_loss(metric: str) -> bool:
    """The training loss and that of the validation split, whatever prefix it has."""
    return metric == LOSS or (metric.startswith("val") and metric.endswith(LOSS))


def _is_look(metric: str) -> bool:
    """What of a look can be drawn: bits per byte of text, and shares."""
    return metric == LOOK + BITS or (metric.startswith(LOOK) and is_share(metric))


def _thin(metric: str, points: list[tuple[int, float]]) -> Curve:
    """At most `CURVE_POINTS` points: means over neighbours."""
    pieces = np.array_split(np.array(points, np.float64), min(CURVE_POINTS, len(points)))
    means = [piece.mean(axis=0) for piece in pieces]
    return Curve(
        metric=metric,
        steps=[round(float(mean[0])) for mean in means],
        values=[round(float(mean[1]), 5) for mean in means],
    )
