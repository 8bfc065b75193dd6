"""The parts every layer is made of: linear maps, RMSNorm, rotary positions, SwiGLU.

Precision. Weights are fp32 and are cast where they are used (`weight.to(x.dtype)`), so the dtype
of the activations decides the dtype of every matrix product; `torch.autocast` is not needed and
not consulted. RMSNorm computes in fp32 and casts once, at the end. Angles are fp32; their cosines
and sines are rounded to the dtype of what they turn, as Hugging Face does.

On the CPU, RMSNorm and the rotation are autograd functions written by hand: torch's composites
take 3.6 and 1.7 times as long there in bf16. On CUDA the fused kernel of torch is used.

Axes: B batch, T time, D model width, H heads (query or key), C channels of a head, F ffn width,
P pairs of channels (C/2). Not here: attention itself, experts.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.model.config import ModelConfig

YARN_FACTOR = 16.0
YARN_ORIGINAL_POSITIONS = 2048
YARN_BETA_FAST, YARN_BETA_SLOW = 32.0, 1.0


class Linear(nn.Module):
    """x·Wᵀ without a bias; the weight is created uninitialised (`initialize` of `transformer.py` fills it)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Module):
    """Rows of a V×D table."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return F.embedding(tokens_BT, self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) · weight over the last axis, in fp32 within, cast to `dtype` (default: that of x)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        dtype = dtype or x.dtype
        if x.device.type == "cpu":
            return _RMSNorm.apply(x, self.weight, self.eps, dtype)
        exact = accumulation_dtype(x.dtype)
        return F.rms_norm(x.to(exact), self.weight.shape, self.weight.to(exact), self.eps).to(dtype)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) · up(x))."""

    def __init__(self, width: int, ffn_width: int) -> None:
        super().__init__()
        self.gate_proj = Linear(width, ffn_width)
        self.up_proj = Linear(width, ffn_width)
        self.down_proj = Linear(ffn_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """fp32 for the half precisions, else `dtype` itself (the tests run whole models in float64)."""
    return torch.promote_types(dtype, torch.float32)


def rotary_frequencies(config: ModelConfig, device: torch.device | str = "cpu") -> Tensor:
    """The angle per position of every pair of channels, P numbers in fp32; with YaRN where asked.

    YaRN (Peng et al. 2023, section 3.2): f' = f·((1−γ) + γ/s), where γ rises from 0 for pairs that turn
    more than β_fast times over the original context to 1 for those that turn less than β_slow times.
    """
    size, theta = config.head_size, config.rope_theta
    frequencies_P = theta ** -(torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    if not config.yarn:
        return frequencies_P

    def pair_that_turns(times: float) -> float:
        return size * math.log(YARN_ORIGINAL_POSITIONS / (times * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(YARN_BETA_FAST)), 0)
    high = min(math.ceil(pair_that_turns(YARN_BETA_SLOW)), size // 2 - 1)
    pairs_P = torch.arange(size // 2, device=device, dtype=torch.float32)
    ramp_P = ((pairs_P - low) / max(high - low, 0.001)).clamp(0, 1)
    return frequencies_P * ((1 - ramp_P) + ramp_P / YARN_FACTOR)


def rotary_tables(frequencies_P: Tensor, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines (B×1×T×C: every pair's twice) and sines (B×1×T×P) in `dtype` of angles that are formed in fp32."""
    exact = accumulation_dtype(dtype)
    angles_B1TP = positions_BT[:, None, :, None].to(exact) * frequencies_P.to(exact)
    return angles_B1TP.cos().to(dtype).repeat(1, 1, 1, 2), angles_B1TP.sin().to(dtype)


def rotate(x_BHTC: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """`x_BHTC` turned by `rotary_tables`, in the rotate-half layout (channel c pairs with c + C/2); contiguous."""
    return _Rotate.apply(x_BHTC, *tables)


class _RMSNorm(torch.autograd.Function):
    """Forward and gradient in about half the passes over memory that autograd's own chain makes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        wide = x.to(accumulation_dtype(x.dtype))
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight, scale = ctx.saved_tensors
        normed = x * scale
        gradient = gradient.to(scale.dtype)
        weight_gradient = x_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = (gradient * normed).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            gradient = gradient * weight
            along = torch.linalg.vecdot(gradient, normed).div_(x.shape[-1]).unsqueeze(-1)
            x_gradient = gradient.sub_(normed.mul_(along)).mul_(scale).to(x.dtype)
        return x_gradient, weight_gradient, None, None


class _Rotate(torch.autograd.Function):
    """The gradient of a rotation is the rotation by the opposite angle."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradient, cos, -sin), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    out = torch.mul(x, cos, out=torch.empty(x.shape, dtype=x.dtype, device=x.device))
    (first, second), (out_first, out_second) = x.chunk(2, -1), out.chunk(2, -1)
    out_first.addcmul_(second, sin, value=-1)
    out_second.addcmul_(first, sin)
    return out
