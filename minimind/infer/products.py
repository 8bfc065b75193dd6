"""Matrix products for generating: weights laid out for the processor, in the width that is wanted.

A model that generates reads every weight for every token, so what a token costs is the bytes of the weights and how
they are laid out. On a CPU:

- A few rows with int8 (a scale for each output), or with 16 bits on a processor that does not multiply bf16 (before
  avx512_bf16), go through our own kernels (`kernels`), which read weights as fast as memory gives them.
- Many rows with 16 bits on such a processor go to FBGEMM, which widens fp16 to fp32 on the way to the multiplication.
  A weight of bf16 is one of fp16 too. Everything else is fp32 then.
- The rest is oneDNN's, with weights in its own blocked layout, made once. One row at minimind2-small's shapes takes
  0.35 to 0.5 of the time of `F.linear` on weights that lie row by row, which oneDNN lays out anew at every call.
- int4 (a scale for each output and `GROUP` inputs) is torch's own kernel: half of int8's memory, and slower.
- Prompts, which are many rows, are multiplied by the same rounded weights in 16 bits.

Rows do not depend on their company: a row of a product is the same to the bit however many rows are multiplied with
it. Libraries choose other kernels for some numbers of rows; `sizes_alike` finds out for which, and such products are
filled up. That is what makes an answer independent of what else the engine is answering.

Axes: N rows, K inputs, F outputs, R rank. Not here: training, where weights stay fp32 (`minimind.model.layers`).
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind import runtime
from minimind.errors import ConfigError
from minimind.infer import kernels
from minimind.infer.kernels import narrow_product
from minimind.infer.protocol import Precision

GROUP = 32
"""Inputs that share a scale in int4."""
_PIECE = 64
"""Rows. Products of up to as many are tried out; more are multiplied in pieces of as many where that is needed."""
_GREATEST_FP16 = 65504
_sizes: dict[tuple[str, torch.Size, torch.dtype, int], list[int]] = {}

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
        halves = _in_halves(weight_FK, precision, dtype)
        if precision == "int8":
            few, weight_FK = _int8(weight_FK)
        elif precision == "int4":
            few, weight_FK = _int4(weight_FK)
        elif halves:
            weight_FK = weight_FK.to(torch.bfloat16 if precision == "bf16" else torch.float16)
            few = narrow_product(weight_FK) if kernels.fits(weight_FK.shape[1]) else None
        self._many = _dense(weight_FK, dtype, halves=halves)
        self._few = self._many if few is None else _in_dtype(few, dtype)

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
        down, up = (_dense(matrix.detach(), self._dtype) for matrix in (lora_A_RK, lora_B_FR))
        self._corrections.setdefault(name, []).append(_Correction(outputs, down, up))


def choose(precision: Precision, device: torch.device) -> tuple[Precision, torch.dtype]:
    """The width of the weights and the dtype of everything else. Raises ConfigError for what a device cannot do."""
    if precision not in get_args(Precision):
        raise ConfigError(f"precision {precision}: allowed are {', '.join(get_args(Precision))}")
    if device.type == "cpu":
        if precision == "auto":
            precision = "bf16" if runtime.cpu_multiplies_bf16() else "fp16" if _widens_fp16() else "fp32"
        narrow = precision not in ("fp32", "fp16") and runtime.cpu_multiplies_bf16()
        return precision, torch.bfloat16 if narrow else torch.float32
    if precision in ("int8", "int4"):
        raise ConfigError(f"precision {precision} is for the CPU; on {device.type} take bf16, which is faster there")
    dtype = runtime.choose_precision(precision, device)
    names: dict[torch.dtype, Precision] = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    return names[dtype], dtype


def use_huge_pages() -> None:
    """Have weights lie in pages of 2 MiB, where Linux has them: a step then looks up 25 addresses instead of 13,000.

    Decoding is 4 to 9 % faster so. Must be said before the first tensor of the process is made; later it does nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def alike(product: Product, kind: str, weight_FK: Tensor, dtype: torch.dtype) -> Product:
    """A product with these weights whose rows, of `dtype`, do not depend on their number. Promised on a CPU only.

    Products of one `kind` and shape are tried out once.
    """
    if weight_FK.device.type != "cpu":
        return product
    key = (kind, weight_FK.shape, dtype, torch.get_num_threads())
    if key not in _sizes:
        _sizes[key] = sizes_alike(product, weight_FK.shape[1], dtype)
    sizes = _sizes[key]
    if all(size == rows for rows, size in enumerate(sizes)):
        return product

    zeros_NK = torch.zeros(_PIECE, weight_FK.shape[1], dtype=dtype)
    in_pieces = any(size != rows for rows, size in enumerate(sizes[sizes[1] :], sizes[1]))

    def filled(x_NK: Tensor) -> Tensor:
        rows = len(x_NK)
        if rows > _PIECE:
            return torch.cat([filled(piece) for piece in x_NK.split(_PIECE)]) if in_pieces else product(x_NK)
        missing = sizes[rows] - rows
        return product(torch.cat((x_NK, zeros_NK[:missing])))[:rows] if missing else product(x_NK)

    return filled


def sizes_alike(product: Product, inputs: int, dtype: torch.dtype) -> list[int]:
    """For each number of rows up to `_PIECE`, one not smaller by which all rows are computed as by `_PIECE` of them.

    Found with one row again and again: wherever it stands, and among however many, it must give the same bits.
    """
    row_1K = torch.randn(1, inputs, generator=torch.Generator().manual_seed(0)).to(dtype)
    wanted_1F = product(row_1K.expand(_PIECE, -1).contiguous())[:1]
    tried = (*range(1, 8), *range(8, _PIECE, 4))
    products = ((rows, product(row_1K.expand(rows, -1).contiguous())) for rows in tried)
    good = [rows for rows, y_NF in products if torch.equal(y_NF, wanted_1F.expand_as(y_NF))] + [_PIECE]
    if good == [rows for rows in (*tried, _PIECE) if rows >= good[0]]:  # as it is usual: all from there on
        good = list(range(good[0], _PIECE + 1))
    return [0, *(good[bisect_left(good, rows)] for rows in range(1, _PIECE + 1))]


def _dense(weight_FK: Tensor, dtype: torch.dtype, *, halves: bool = False) -> Product:
    """With weights of `dtype`, or of 16 bits that are widened where that can be done; rows are of `dtype`."""
    halves = halves and _widens_fp16()
    product = _of_halves(weight_FK) if halves else _laid_out(weight_FK.to(dtype))
    return alike(product, "halves" if halves else "plain", weight_FK, dtype)


def _in_halves(weight_FK: Tensor, precision: Precision, dtype: torch.dtype) -> bool:
    """Whether weights are held in 16 bits that are widened: only where that is not needed to multiply them."""
    narrow = weight_FK.device.type == "cpu" and dtype == torch.float32 and precision != "fp32"
    return narrow and bool(weight_FK.abs().amax() <= _GREATEST_FP16)


def _in_dtype(product: Product, dtype: torch.dtype) -> Product:
    """For rows of `dtype`, a product of fp32."""
    return product if dtype == torch.float32 else lambda x_NK: product(x_NK.float()).to(dtype)


def _laid_out(weight_FK: Tensor) -> Product:
    if weight_FK.device.type != "cpu" or not _has_onednn(weight_FK.dtype):
        return lambda x_NK: F.linear(x_NK, weight_FK)
    laid_out = torch.ops.mkldnn._reorder_linear_weight(weight_FK, None)
    multiply = torch.ops.mkldnn._linear_pointwise.default
    return lambda x_NK: multiply(x_NK, laid_out, None, "none", [], "")


def _of_halves(weight_FK: Tensor) -> Product:
    """Weights in fp16, widened as they are read."""
    packed = torch.ops.quantized.linear_prepack_fp16(weight_FK.float(), None)
    multiply = torch.ops.quantized.linear_dynamic_fp16.default
    return lambda x_NK: multiply(x_NK, packed)


@cache
def _has_onednn(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


@cache
def _widens_fp16() -> bool:
    return "fbgemm" in torch.backends.quantized.supported_engines


def _int8(weight_FK: Tensor) -> tuple[Product | None, Tensor]:
    """The product with weights rounded to 8 bits, and those weights. The largest of each output's becomes ±127."""
    wide_FK = weight_FK.float()
    scale_F1 = wide_FK.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
    codes_FK = (wide_FK / scale_F1).round().clamp(-127, 127)
    few = narrow_product(codes_FK.to(torch.int8), scale_F1[:, 0]) if kernels.fits(weight_FK.shape[1]) else None
    return few, codes_FK * scale_F1


def _int4(weight_FK: Tensor) -> tuple[Product | None, Tensor]:
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

    def product(x_NK: Tensor) -> Tensor:
        return multiply(x_NK.bfloat16(), packed, GROUP, scale_and_middle_GF2).float()

    return alike(product, "int4", weight_FK, torch.float32), rounded_FK
