"""Matrix products for generating: weights laid out for the processor, in the width that is wanted.

A model that generates reads every weight for every token, so what a token costs is the bytes of the weights and how
they are laid out. On a CPU:

- bf16 weights in oneDNN's own blocked layout, made once. One row at minimind2-small's shapes takes 0.35 to 0.5 of the
  time of `F.linear` on weights that lie row by row, which oneDNN lays out anew at every call.
- int8 (a scale for each output) and int4 (a scale for each output and `GROUP` inputs) are torch's own kernels. They
  save reading and cost unpacking: faster for one to three rows, slower from about four. So prompts, which are many
  rows, are multiplied by the same rounded weights in bf16.

Rows do not depend on their company: a row of a product is the same to the bit however many rows are multiplied with
it. Libraries choose another kernel for very few rows; `rows_apart` finds out from how many on they do not, and smaller
products are filled up. That is what makes an answer independent of what else the engine is answering.

Axes: N rows, K inputs, F outputs, R rank. Not here: training, where weights stay fp32 (`minimind.model.layers`).
"""

import os
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind import runtime
from minimind.errors import ConfigError
from minimind.infer.protocol import Precision

GROUP = 32
"""Inputs that share a scale in int4."""
_KERNEL_INPUTS = 32
"""The kernels want a multiple of this; 40 made the one for int8 read beyond its memory."""
_PROBE_ROWS = 64

Product = Callable[[Tensor], Tensor]


class _Correction(NamedTuple):
    """A low-rank addition to some of the outputs: y[:, first : first + width] += x Aᵀ Bᵀ."""

    outputs: slice
    down: Product
    up: Product


class Projection:
    """x·Wᵀ for rows x; several matrices of one input as one. `scale_K` is multiplied into them: a norm's weights."""

    def __init__(
        self, weights: Sequence[Tensor], precision: Precision, dtype: torch.dtype, *, scale_K: Tensor | None = None
    ) -> None:
        weight_FK = torch.cat([weight.detach() for weight in weights]) if len(weights) > 1 else weights[0].detach()
        weight_FK = weight_FK if scale_K is None else weight_FK * scale_K
        self._scale_K = scale_K
        self.firsts = [sum(len(other) for other in weights[:number]) for number in range(len(weights))]
        """The first output of each matrix."""
        self._dtype = dtype
        self._corrections: dict[str, list[_Correction]] = {}
        few: Product | None = None
        if precision == "int8":
            few, weight_FK = _int8(weight_FK)
        elif precision == "int4":
            few, weight_FK = _int4(weight_FK)
        self._many = _dense(weight_FK.to(dtype))
        self._few = alike(few, weight_FK.to(dtype)) if few else self._many

    def __call__(self, x_NK: Tensor, wearers: Sequence[tuple[str, Tensor | slice]] = (), *, many: bool) -> Tensor:
        """The outputs N×F. `many` says that the rows are a prompt's. `wearers`: which rows have which adapter."""
        y_NF = self._many(x_NK) if many else self._few(x_NK)
        for name, rows in wearers:
            for outputs, down, up in self._corrections.get(name, ()):
                y_NF[rows, outputs] += up(down(x_NK[rows]))
        return y_NF

    def correct(self, name: str, first: int, lora_A_RK: Tensor, lora_B_FR: Tensor) -> None:
        """Add B·A to the outputs from `first` on, for rows that wear the adapter `name`."""
        outputs = slice(first, first + len(lora_B_FR))
        lora_A_RK = lora_A_RK if self._scale_K is None else lora_A_RK * self._scale_K
        down, up = (_dense(matrix.detach().to(self._dtype)) for matrix in (lora_A_RK, lora_B_FR))
        self._corrections.setdefault(name, []).append(_Correction(outputs, down, up))


def choose(precision: Precision, device: torch.device) -> tuple[Precision, torch.dtype]:
    """The width of the weights and the dtype of everything else. Raises ConfigError for what a device cannot do."""
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision}: allowed are {', '.join(get_args(Precision))}")
    if precision not in ("int8", "int4"):
        dtype = runtime.choose_precision(precision, device)
        names: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return names[dtype], dtype
    if device.type != "cpu":
        raise ConfigError(f"precision {precision} is for the CPU; on {device.type} take bf16, which is faster there")
    return precision, torch.bfloat16


def use_huge_pages() -> None:
    """Have weights lie in pages of 2 MiB, where Linux has them: a step then looks up 25 addresses instead of 13,000.

    Decoding is 4 to 9 % faster so. Must be said before the first tensor of the process is made; later it does nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def few_rows(product: Product, rows: int) -> Product:
    """The product that is computed with at least so many rows."""
    if rows == 1:
        return product

    def filled(x_NK: Tensor) -> Tensor:
        missing = rows - len(x_NK)
        return product(x_NK) if missing <= 0 else product(F.pad(x_NK, (0, 0, 0, missing)))[: len(x_NK)]

    return filled


def rows_apart(product: Product, inputs: int, dtype: torch.dtype) -> int:
    """From how many rows on each row of a product is what it is among many, to the bit."""
    x_NK = torch.randn(_PROBE_ROWS, inputs, generator=torch.Generator().manual_seed(0)).to(dtype)
    among_many = product(x_NK)
    sizes = (1, 2, 4, 8, 16, 32)
    return next((rows for rows in sizes if torch.equal(product(x_NK[:rows]), among_many[:rows])), _PROBE_ROWS)


def alike(product: Product, weight_FK: Tensor) -> Product:
    """A product whose rows do not depend on their number. Elsewhere than on a CPU that is not promised."""
    if weight_FK.device.type != "cpu":
        return product
    return few_rows(product, rows_apart(product, weight_FK.shape[1], weight_FK.dtype))


def _dense(weight_FK: Tensor) -> Product:
    """With the weights as they are, laid out for the processor where that helps."""
    if weight_FK.device.type != "cpu" or weight_FK.dtype != torch.bfloat16 or not _has_onednn_bf16():
        return alike(lambda x_NK: F.linear(x_NK, weight_FK), weight_FK)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight_FK, None)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return alike(lambda x_NK: multiply(x_NK, laid_out, None, "none", [], ""), weight_FK)


@cache
def _has_onednn_bf16() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _int8(weight_FK: Tensor) -> tuple[Product, Tensor]:
    """The product with weights rounded to 8 bits, and those weights. The largest of each output's becomes ±127."""
    wide_FK = weight_FK.float()
    # Rounded before it is used: the kernel reads scales in bf16, and their error would be one of every weight.
    scale_F1 = (wide_FK.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127).bfloat16().float()
    codes_FK = (wide_FK / scale_F1).round().clamp(-127, 127).to(torch.int8)
    rounded_FK = codes_FK.float() * scale_F1
    if weight_FK.shape[1] % _KERNEL_INPUTS:
        return _dense(rounded_FK.bfloat16()), rounded_FK
    scale_F, multiply = scale_F1.squeeze(1).bfloat16(), torch.ops.aten._weight_int8pack_mm.default
    return lambda x_NK: multiply(x_NK, codes_FK, scale_F), rounded_FK


def _int4(weight_FK: Tensor) -> tuple[Product, Tensor]:
    """The same with 4 bits, 16 steps from the least to the greatest of each group."""
    outputs, inputs = weight_FK.shape
    if outputs % 16 or inputs % GROUP:  # the kernel knows no such shapes
        return _int8(weight_FK)
    groups_FGK = weight_FK.float().unflatten(1, (-1, GROUP))
    least, greatest = groups_FGK.amin(-1, keepdim=True), groups_FGK.amax(-1, keepdim=True)
    scale = ((greatest - least).clamp(min=1e-12) / 15).bfloat16().float()
    middle = (least + 8 * scale).bfloat16().float()
    codes_FGK = ((groups_FGK - middle) / scale).round().add(8).clamp(0, 15)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes_FGK.view(outputs, inputs).to(torch.int32), 1)
    scale_and_middle_GF2 = torch.cat((scale, middle), -1).transpose(0, 1).contiguous().bfloat16()
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu.default
    rounded_FK = ((codes_FGK - 8) * scale + middle).view(outputs, inputs)
    return lambda x_NK: multiply(x_NK, packed, GROUP, scale_and_middle_GF2), rounded_FK
