"""The one training loop. It does not know the objective, the stage, or where batches come from.

A step takes the global batch of its number, this rank's slice of it, in micro-batches; divides by
the count of the whole global batch, which every rank knows from the batch itself; sums gradients
over ranks; clips; updates. One vector goes over the ranks per step: the sums for the log, and the
votes to stop or to save, so that all ranks do it after the same step. Reading it is the one place where
the host waits for the device; the batch of the next step is made just before.

What a resumed run must know besides tensors is `Progress`, plain numbers. Not here: building the
parts (`job.py`) and what a checkpoint looks like (`checkpoint.py`).
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.optim import Optimizer

from minimind.errors import StageError
from minimind.events import EventWriter
from minimind.failpoints import reach
from minimind.model.transformer import Transformer
from minimind.tokens.batches import Batch
from minimind.train.config import TrainConfig
from minimind.train.exact import sum_in_order
from minimind.train.objectives import Objective, Sums, Tensors
from minimind.train.optimizer import LossScale, learning_rate, set_learning_rate
from minimind.train.parallel import Gradients, Ranks

PATIENCE = 10
"""Steps in a row without a finite loss after which a training is given up."""

Figures = dict[str, float]


class Stopped(StageError):
    """A signal asked for an end, and a checkpoint of the last whole step was saved, or it says why not."""


class Batches(Protocol):
    """Global batches by step number; a pure function of it."""

    def batch(self, step: int) -> Batch: ...


@dataclass
class Progress:
    """Where a training stands; as JSON a part of every checkpoint."""

    step: int = 0
    tokens: int = 0
    """Real positions so far, padding left out."""
    units: int = 0
    """Trained tokens (or pairs) so far."""
    seconds: float = 0.0
    """Wall time spent in steps, over all restarts."""
    skipped_steps: int = 0
    bad_in_a_row: int = 0
    loss_scale: LossScale = field(default_factory=LossScale)
    recent_losses: list[float] = field(default_factory=list)
    """Of the newest steps, the last one last; what a spike is told by."""
    loss_spikes: int = 0
    last_spike: int = 0
    """The step of the newest spike, counted from 1; 0 before the first."""
    since_log: Figures = field(default_factory=dict)
    """Sums since the last line of the log; `units`, `tokens` and `seconds` among them."""


@dataclass(frozen=True)
class Training:
    """The parts that a training is made of."""

    config: TrainConfig
    total_steps: int
    model: Transformer
    objective: Objective
    batches: Batches
    optimizers: Sequence[Optimizer]
    gradients: Gradients
    ranks: Ranks
    events: EventWriter | None
    """None on every rank but the first."""
    validate: Callable[[], Figures] = dict
    save: Callable[[Progress], str | None] = lambda progress: None
    """Leave a checkpoint; why there is none, where it could not."""
    describe: Callable[[Progress], Figures] = lambda progress: {}
    """More figures for a line of the log: memory, share of the peak, update norm, …; every rank calls it."""
    name_rows: Callable[[int], str] = lambda step: ""
    """Where the rows of a step (from 0) come from, for a message about a bad one."""
    observe: Callable[[Progress, Batch, float], None] = lambda progress, batch, loss: None
    """Told of every step that updated the weights, with its mean loss."""


def train(training: Training, progress: Progress) -> Figures:
    """Train to the last step; the figures of the last line of the log.

    Raises StageError where the loss is not finite any more, and Stopped after a SIGTERM or SIGINT.
    """
    config, ranks, figures = training.config, training.ranks, Figures()
    with _stop_requests() as asked_to_stop:
        saved_at = time.monotonic()

        def due() -> bool:
            return ranks.is_first and time.monotonic() - saved_at >= config.checkpoint_seconds

        batch = _batch(training, progress.step)
        while batch is not None:
            votes, batch = _step(
                training, progress, batch, lambda: {"stop": float(asked_to_stop()), "save": float(due())}
            )
            last = progress.step == training.total_steps
            line = Figures()
            if last or progress.step % config.log_every == 0:
                line |= _report(training, progress)
            if config.validate_every and progress.step % config.validate_every == 0 and not last:
                line |= training.validate()
            if line and training.events:
                training.events.step(progress.step, training.total_steps, line)
            figures |= line
            if votes["stop"] and not last:
                problem = training.save(progress)
                raise Stopped(
                    f"stopped by a signal after step {progress.step}; "
                    + (f"{problem}; run it again to go on from that" if problem else "run it again to go on from there")
                )
            by_number = config.checkpoint_steps and progress.step % config.checkpoint_steps == 0
            if (votes["save"] or by_number) and not last:
                training.save(progress)
                saved_at = time.monotonic()
    return figures


def _batch(training: Training, step: int) -> Batch | None:
    """The global batch of a step; None behind the last one."""
    return training.batches.batch(step) if step < training.total_steps else None


def _step(
    training: Training, progress: Progress, batch: Batch, cast: Callable[[], Figures]
) -> tuple[Figures, Batch | None]:
    """One update, or none where the gradient is not finite; the votes `cast`, over all ranks, and the next batch."""
    started = time.perf_counter()
    units, tokens = training.objective.count(batch), int((batch.documents_BT >= 0).sum())
    training.gradients.zero()
    micro = _accumulate(training, batch, scale=progress.loss_scale.value / max(units, 1))
    norm = training.gradients.norm()
    following = _batch(training, progress.step + 1)  # while a GPU is still at work on this one
    votes = cast()
    summed = _sum_figures(training, batch, micro, {**votes, "norm": norm})
    reach("train.step")
    norm_of_step = summed.pop("norm") / progress.loss_scale.value
    decided = {name: summed.pop(name) for name in votes}
    if math.isfinite(norm_of_step) and math.isfinite(summed["loss"]):
        clip = training.config.grad_clip
        factor = clip / norm_of_step if 0 < clip < norm_of_step else 1.0
        training.gradients.scale(factor / progress.loss_scale.value)
        lr = learning_rate(progress.step, training.total_steps, training.config)
        set_learning_rate(training.optimizers, lr)
        for optimizer in training.optimizers:
            optimizer.step()
            reach("train.update")
        progress.loss_scale.went_well()
        progress.bad_in_a_row = 0
        training.observe(progress, batch, summed["loss"] / max(units, 1))
        seen = {**summed, "grad_norm": norm_of_step, "steps": 1.0, "units": float(units)}
    else:
        _skip(training, progress, batch, loss=summed["loss"])
        seen = {}
    progress.step += 1
    progress.tokens += tokens
    progress.units += units
    seconds = time.perf_counter() - started
    progress.seconds += seconds
    for name, value in {**seen, "tokens": tokens, "seconds": seconds}.items():
        progress.since_log[name] = progress.since_log.get(name, 0.0) + value
    return decided, following


def _accumulate(training: Training, batch: Batch, *, scale: float) -> list[Sums]:
    """Add up the gradient of this rank's slice of `batch`, and over ranks; the sums of each of its micro-batches."""
    found = []
    objective, config = training.objective, training.config
    for micro, last in micro_batches(
        batch, objective.items(batch), objective.take, training.ranks, config.micro_items, unit=config.unit
    ):
        training.ranks.beat()
        loss, sums = objective.loss(training.model, micro)
        if reach("train.loss"):
            loss = loss * math.nan
        training.gradients.backward(loss * scale, last=last)
        found.append({name: value.detach().float() for name, value in sums.items()})
    return found


def _sum_figures(training: Training, batch: Batch, micro: list[Sums], once: Mapping[str, float | Tensor]) -> Figures:
    """The sums of all micro-batches over all ranks; of `once` the votes summed, and the norm as it is."""
    ranks, config = training.ranks, training.config
    norm = torch.as_tensor(once["norm"])
    # it is equal on all ranks already: a rank's share of it comes back whole from the sum
    alone = {name: torch.as_tensor(value, device=norm.device) for name, value in once.items()}
    alone["norm"] = norm / ranks.size
    if config.exact:
        count = -(-training.objective.items(batch) // config.unit)
        return sum_in_order(range(*ranks.share(count)), micro, count=count, ranks=ranks, once=alone)
    totals = Sums()
    for sums in micro:
        for name, value in sums.items():
            totals[name] = totals[name] + value if name in totals else value
    return ranks.sum_figures({**totals, **alone})


def micro_batches(
    batch: Batch,
    num_items: int,
    take: Callable[[Batch, int, int], Batch],
    ranks: Ranks,
    limit: int,
    *,
    unit: int = 1,
) -> Iterator[tuple[Tensors, bool]]:
    """This rank's slice of a global batch, at most `limit` items at a time, and whether it is the last.

    Slices are multiples of `unit`; with one of `limit`, micro-batches are the same however many ranks there are.
    """
    start, stop = ranks.share(num_items, unit)
    for first in range(start, stop, limit):
        after = min(first + limit, stop)
        yield Tensors.of(take(batch, first, after), ranks.device), after == stop


def _skip(training: Training, progress: Progress, batch: Batch, *, loss: float) -> None:
    """Note a step without an update; give up after ten in a row."""
    if math.isfinite(loss) and progress.loss_scale.overflowed():
        return  # fp16 finding its scale is no fault
    progress.skipped_steps += 1
    progress.bad_in_a_row += 1
    rows = ", ".join(str(item) for item in batch.items_B[:16].tolist()) + (", …" if len(batch.items_B) > 16 else "")
    named = training.name_rows(progress.step)
    rows += f": {named}" if named else ""
    message = f"step {progress.step + 1} was skipped: its loss or gradient is not finite (batch items {rows})"
    if training.events:
        training.events.log(message, level="warning")
    if progress.bad_in_a_row >= PATIENCE:
        raise StageError(
            f"the loss was not finite in {PATIENCE} steps in a row, up to step {progress.step + 1} (batch items "
            f'{rows}); lower `lr`, raise `warmup_steps`, or set `precision = "fp32"`'
        )


def _report(training: Training, progress: Progress) -> Figures:
    """The figures since the last line: means per unit, counts so far, speed. Starts a new line."""
    sums = dict(progress.since_log)
    described = training.describe(progress)
    progress.since_log.clear()
    steps, units = sums.pop("steps", 0.0), sums.pop("units", 0.0)
    tokens, seconds = sums.pop("tokens"), sums.pop("seconds")
    grad_norm = sums.pop("grad_norm", math.nan)
    return {
        "loss": math.nan,  # where every step was skipped
        **{name: value / units if units else math.nan for name, value in sums.items()},
        "lr": learning_rate(progress.step - 1, training.total_steps, training.config),
        "grad_norm": grad_norm / steps if steps else math.nan,
        "tokens": float(progress.tokens),
        "tokens_per_second": tokens / max(seconds, 1e-9),
        **({"skipped_steps": float(progress.skipped_steps)} if progress.skipped_steps else {}),
        **described,
    }


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Inside, SIGTERM and SIGINT do not end the process; the function yielded says whether one came."""
    came = False

    def note(_signal: int, _frame: object) -> None:
        nonlocal came
        came = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
