"""What turns a gradient into new weights: the schedule, AdamW, Muon, the scale of fp16 losses.

Every function of the step is a function of its number alone, so a resumed run needs no scheduler
state. Parameters are grouped by part (embedding, attention, ffn, norm, output); decay is for
matrices, not for norms and embeddings. With `optimizer = "muon"` the hidden matrices are Muon's
and all else stays AdamW's, under the same learning rate (the 0.2·√max(shape) of Moonlight, Liu et
al. 2025, eq. 4, gives Muon's update the root mean square of AdamW's).

Not here: sums over ranks and clipping (`parallel.py`), and Muon's work split over ranks: each
rank orthogonalises every matrix, which costs less than sending it below about a billion weights.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minimind.train.config import Part, TrainConfig

DECAY_FRACTION = 0.2
"""Of a `wsd` training: Hägele et al. 2024 gain little from more."""

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of Jordan et al. 2024: steep at zero; singular values end between 0.7 and 1.2."""


def learning_rate(step: int, total_steps: int, config: TrainConfig) -> float:
    """The rate of step 0 … total_steps-1: linear warm-up, then down to `min_lr`, which the last step has.

    `constant` never goes down. `wsd` stays at the peak until its last `decay_fraction` of the steps, so that the part
    before it is the same however long the training is (Hu et al. 2024, MiniCPM); its shapes are those of Hägele et
    al. 2024, who find 1 − √x to end lower than a line.
    """
    peak, lowest = config.lr, config.lowest_lr
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    if config.schedule == "wsd":
        return peak - (peak - lowest) * _decayed(step, total_steps, config)
    done = (step - config.warmup_steps) / max(1, total_steps - 1 - config.warmup_steps)
    left = 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * min(done, 1.0))) / 2
    return lowest + (peak - lowest) * max(left, 0.0)


def _decayed(step: int, total_steps: int, config: TrainConfig) -> float:
    """How far `wsd` has gone from the peak to `min_lr`: 0 before its decay, 1 in the last step."""
    fraction = DECAY_FRACTION if config.decay_fraction is None else config.decay_fraction
    decay_steps = max(1, round(fraction * total_steps))
    done = max(step + 1 - (total_steps - decay_steps), 0) / decay_steps
    return min(done if config.decay_shape == "linear" else math.sqrt(done), 1.0)


def part_of(name: str, parameter: Tensor) -> Part:
    """Which part of the model a parameter belongs to, by its Hugging Face name."""
    if "embed_tokens" in name:
        return "embedding"
    if "lm_head" in name:
        return "output"
    if parameter.ndim < 2:
        return "norm"
    return "attention" if "self_attn" in name else "ffn"


def make_optimizers(model: nn.Module, config: TrainConfig, *, dtype: torch.dtype) -> list[Optimizer]:
    """AdamW, and before it Muon where `config` asks for it, over the parameters that want a gradient.

    `dtype` is the one matrices are multiplied in; Muon orthogonalises in it, but never in fp16.
    """
    grouped: dict[tuple[bool, Part], list[Tensor]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            part = part_of(name, parameter)
            hidden = part in ("attention", "ffn") and not name.endswith("gate.weight")  # a router is no hidden matrix
            grouped[hidden and config.optimizer == "muon", part].append(parameter)

    def groups(muon: bool) -> list[dict[str, Any]]:
        return [
            {
                "params": parameters,
                "lr": 0.0,
                "lr_scale": config.lr_scales.get(part, 1.0),
                "weight_decay": 0.0 if part in ("norm", "embedding") else config.weight_decay,
            }
            for (is_muon, part), parameters in grouped.items()
            if is_muon == muon
        ]

    optimizers: list[Optimizer] = []
    if groups(True):
        optimizers.append(Muon(groups(True), dtype=torch.bfloat16 if dtype == torch.bfloat16 else torch.float32))
    if groups(False):
        fused = next(model.parameters()).device.type in ("cpu", "cuda")
        optimizers.append(torch.optim.AdamW(groups(False), betas=(config.beta1, config.beta2), fused=fused))
    return optimizers


def set_learning_rate(optimizers: Iterable[Optimizer], lr: float) -> None:
    """Give every group `lr` times its part's scale."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["lr"] = lr * group["lr_scale"]


class Muon(Optimizer):
    """Momentum, orthogonalised: W ← W − lr·0.2·√max(shape)·NS(nesterov momentum).

    For matrices, and for stacks of them (the last two axes count). Matrices of one shape are
    orthogonalised in one batch, since a small model is bound by the number of calls.
    """

    def __init__(self, params: Iterable[Any], *, momentum: float = 0.95, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(params, {"lr": 0.0, "lr_scale": 1.0, "weight_decay": 0.0, "momentum": momentum})
        self.dtype = dtype
        if any(p.ndim < 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("Muon is for matrices; give vectors to AdamW")

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # the base class's signature
        assert closure is None
        for group in self.param_groups:
            for same in _by_shape(p for p in group["params"] if p.grad is not None):
                self._update(same, group)

    def _update(self, parameters: list[Tensor], group: Mapping[str, Any]) -> None:
        momentum = group["momentum"]
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["momentum"] = torch.zeros_like(parameter)
            state["momentum"].lerp_(parameter.grad, 1 - momentum)
            directions.append(parameter.grad.lerp(state["momentum"], momentum))
        updates = orthogonalise(torch.stack(directions).to(self.dtype)).to(parameters[0].dtype)
        rate = group["lr"] * 0.2 * math.sqrt(max(parameters[0].shape[-2:]))
        for parameter, update in zip(parameters, updates, strict=True):
            parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-rate)


def orthogonalise(matrices: Tensor, *, iterations: int = 5) -> Tensor:
    """About U·Vᵀ of each matrix U·S·Vᵀ in the last two axes, by Newton–Schulz: matrix products only."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def _by_shape(parameters: Iterable[Tensor]) -> list[list[Tensor]]:
    found: dict[torch.Size, list[Tensor]] = defaultdict(list)
    for parameter in parameters:
        found[parameter.shape].append(parameter)
    return list(found.values())


@dataclass
class LossScale:
    """The factor that keeps fp16 gradients above underflow; 1 for ever in other precisions.

    It halves when a gradient overflows and doubles after 2,000 steps that did not (Micikevicius
    et al. 2018). Plain numbers, so that every rank holds the same and a checkpoint is JSON.
    """

    value: float = 1.0
    good_steps: int = 0

    @classmethod
    def of(cls, dtype: torch.dtype) -> "LossScale":
        return cls(2.0**16 if dtype == torch.float16 else 1.0)

    def overflowed(self) -> bool:
        """Take note of an overflow; whether there was room to lower the scale."""
        if self.value <= 1.0:
            return False
        self.value, self.good_steps = self.value / 2, 0
        return True

    def went_well(self) -> None:
        self.good_steps += 1
        if self.value > 1.0 and self.good_steps % 2000 == 0:
            self.value *= 2
