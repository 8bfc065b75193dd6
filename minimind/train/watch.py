"""What is watched while a training runs, beside its loss: is it healthy, how fast is it, when is it done.

`Watch.describe` adds figures to every line of the log, and `Watch.observe` looks at every step for a spike of the
loss. What they remember is in `Progress`, so a resumed training goes on with the same lines; those that tell of the
clock (`mfu`, `eta_seconds`, `memory_mb`) differ, of course.

    update_norm               norm of the last update over the norm of the weights; a healthy one is 1e-4 to 1e-2
    mfu                       share of the device's peak (`throughput.py`)
    memory_mb                 the most memory the first rank has held
    epoch, done               where in the data and in the training it is; `epoch` = 1.5 is half way through the second
    eta_seconds               what is left at the mean speed so far, without validation and checkpoints
    expert_max_share, expert_min_share, expert_entropy, expert_dropped_share
                              how a mixture of experts shares its tokens; 1 is an even load in `expert_entropy`

Not here: the loss and the norm of the gradient (`loop.py`), bits per byte on held-out rows (`validation.py`).
"""

import math
import statistics
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from minimind.events import EventWriter
from minimind.model.transformer import Transformer
from minimind.model.weights import load_config
from minimind.tokens.batches import Batch
from minimind.train import throughput
from minimind.train.loop import Batches, Figures, Progress
from minimind.train.objectives import Tensors
from minimind.train.parallel import Ranks
from minimind.train.stage_configs import TrainRun

SPIKE_WINDOW = 32
"""Steps whose losses say how much they vary."""
SPIKE_AFTER = 16
"""Steps that must have been seen before a loss can be unusual."""
SPIKE_LEVEL = 8
"""Steps whose median is where the loss is now: few, since it falls."""
SPIKE_DEVIATIONS = 6.0
"""Robust standard deviations above that level that make a spike."""
SPIKE_SHARE = 0.1
"""And at least this part of the level: where losses hardly vary, as at the start of DPO, deviations mean nothing."""
QUIET_STEPS = 10
"""After a spike was told of, further ones are only counted: losses stay high for a few steps."""

LOAD_TOKENS = 2048
"""Positions of a step that the load of experts is measured on: a share to within a percent, a fraction of a step."""


class Watch:
    """The figures of one training, on one rank. Every rank has one and calls it after the same steps."""

    def __init__(
        self,
        run: TrainRun,
        model: Transformer,
        optimizers: Sequence[Optimizer],
        batches: Batches,
        ranks: Ranks,
        events: EventWriter | None,
        progress: Progress,
        *,
        total_steps: int,
        steps_per_epoch: int,
    ) -> None:
        self._run, self._model, self._batches, self._ranks = run, model, batches, ranks
        self._events, self._total_steps, self._steps_per_epoch = events, total_steps, steps_per_epoch
        self._flops = throughput.training_flops_per_token(
            model.config,
            run.config.length,
            adapted=run.config.adapters is not None,
            teacher=load_config(run.inputs["teacher"]) if run.stage == "distill" else None,
        )
        self._update = UpdateNorm(optimizers, lambda: self._ends_a_line(progress.step + 1))

    def describe(self, progress: Progress) -> Figures:
        """The figures of a line of the log, whose sums are `progress.since_log`."""
        return {
            **self._update.figures(self._ranks),
            **self._experts(progress.step - 1),
            **self._speed(progress),
            "epoch": progress.step / self._steps_per_epoch,
            "done": progress.step / self._total_steps,
            "eta_seconds": (self._total_steps - progress.step) * progress.seconds / max(progress.step, 1),
            "memory_mb": throughput.peak_memory_mb(self._ranks.device),
        }

    def observe(self, progress: Progress, batch: Batch, loss: float) -> None:
        """Look at the mean loss of the step after `progress.step` steps; a spike is counted, and told with its rows."""
        usual = spike_above(progress.recent_losses)
        progress.recent_losses = [*progress.recent_losses, loss][-SPIKE_WINDOW:]
        if loss <= usual:
            return
        step, before = progress.step + 1, progress.last_spike
        progress.loss_spikes += 1
        progress.last_spike = step
        if self._events and not (before and step - before <= QUIET_STEPS):
            self._events.log(
                f"step {step}: the loss rose to {loss:.4g}, above {usual:.4g}, the most that is usual after the steps "
                f"before it; its rows: {rows_of(batch)} (`minimind trace {self._run.stage} --step {step}` shows them)",
                level="warning",
            )

    def _ends_a_line(self, step: int) -> bool:
        return step == self._total_steps or step % self._run.config.log_every == 0

    def _speed(self, progress: Progress) -> Figures:
        peak = throughput.peak_flops(self._ranks.device, self._model.compute_dtype)
        sums = progress.since_log
        if not peak or not sums.get("seconds"):
            return {}
        return {"mfu": self._flops * sums["tokens"] / sums["seconds"] / (peak * self._ranks.size)}

    def _experts(self, step: int) -> Figures:
        """How the first rows of a step's batch are shared out among experts; nothing for a dense model."""
        if not self._model.config.num_experts:
            return {}
        batch = self._batches.batch(step)
        rows = max(1, LOAD_TOKENS // batch.tokens_BT.shape[1])
        some = Tensors.of(batch.rows(0, min(rows, len(batch))), self._ranks.device)
        return expert_figures(self._model.expert_load(some.tokens_BT, documents_BT=some.documents_BT))


class UpdateNorm:
    """Norm of an update over the norm of the weights, of the steps after which `wanted` says yes.

    It keeps a copy of the weights from before such a step to its end. Each rank looks at what its own optimizers
    hold, the whole model or a share of it; the quotient of the sums over ranks is the same.
    """

    def __init__(self, optimizers: Sequence[Optimizer], wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._before: dict[Optimizer, list[Tensor]] = {}
        self._squares: list[Tensor] = []
        for optimizer in optimizers:
            optimizer.register_step_pre_hook(self._keep)
            optimizer.register_step_post_hook(self._compare)

    def figures(self, ranks: Ranks) -> Figures:
        """`update_norm`, once for each step that was looked at; nothing where it was skipped."""
        zero = torch.zeros(2, dtype=torch.float32 if ranks.device.type == "mps" else torch.float64)
        update, weights = torch.stack(self._squares).sum(0) if self._squares else zero
        self._squares.clear()
        sums = ranks.sum_figures({"update": update, "weights": weights})
        return {"update_norm": math.sqrt(sums["update"] / sums["weights"])} if sums["weights"] else {}

    def _keep(self, optimizer: Optimizer, *_: object) -> None:
        if self._wanted():
            self._before[optimizer] = [weight.clone() for weight in _weights(optimizer)]

    @torch.no_grad()
    def _compare(self, optimizer: Optimizer, *_: object) -> None:
        before = self._before.pop(optimizer, None)
        if before is None:
            return
        after = _weights(optimizer)
        updates = [old.sub_(new) for old, new in zip(before, after, strict=True)]
        self._squares.append(torch.stack([_square(updates), _square(after)]))


def spike_above(losses: Sequence[float]) -> float:
    """The largest loss that is usual after `losses`; infinite while there are too few to say.

    Medians, so that spikes in the window hardly count; the deviation is that of differences from step to step (1.4826
    median absolute deviations make one of a normal distribution, √2 are two of them), which leaves out that it falls.
    """
    if len(losses) < SPIKE_AFTER:
        return math.inf
    level = statistics.median(losses[-SPIKE_LEVEL:])
    deviation = 1.4826 / math.sqrt(2) * statistics.median(abs(b - a) for a, b in pairwise(losses))
    return level + max(SPIKE_DEVIATIONS * deviation, SPIKE_SHARE * abs(level))


def expert_figures(load_LE: Tensor) -> Figures:
    """The load of the fullest and the emptiest expert of any layer, and over layers the mean entropy and dropped share.

    `load_LE` is each expert's share of the assignments that were asked for; what is missing to 1 was dropped.
    Entropy is divided by that of an even load.
    """
    load_LE = load_LE.double().cpu()
    served_L1 = load_LE.sum(1, keepdim=True)
    shares_LE = load_LE / served_L1.clamp(min=1e-12)
    entropy_L = torch.special.entr(shares_LE).sum(1) / math.log(max(load_LE.shape[1], 2))
    return {
        "expert_max_share": float(shares_LE.max()),
        "expert_min_share": float(shares_LE.min()),
        "expert_entropy": float(entropy_L.mean()),
        "expert_dropped_share": max(0.0, round(float(1 - served_L1.mean()), 6)),  # sums of fp32 are 1 but for rounding
    }


def rows_of(batch: Batch, *, most: int = 16) -> str:
    """The numbers of a batch's rows or pairs, for people."""
    numbers = list(dict.fromkeys(batch.items_B.tolist()))  # a pair stands there once for each side
    return ", ".join(map(str, numbers[:most])) + (", …" if len(numbers) > most else "")


def _weights(optimizer: Optimizer) -> list[Tensor]:
    """What the optimizer updates, without a graph; of sharded parameters this rank's part."""
    whole = (parameter.detach() for group in optimizer.param_groups for parameter in group["params"])
    return [weight.to_local() if isinstance(weight, DTensor) else weight for weight in whole]


def _square(tensors: Sequence[Tensor]) -> Tensor:
    """The sum of squares of all of them, in float64 where the device has it."""
    if not tensors:  # a rank that has no part of this optimizer
        return torch.zeros((), dtype=torch.float64)
    norms = torch.stack([tensor.norm() for tensor in tensors])
    return (norms if norms.device.type == "mps" else norms.double()).square().sum()
