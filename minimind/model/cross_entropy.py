"""Cross-entropy fused with the output projection: the N×V logits never exist, only a chunk of them.

`linear_cross_entropy` forms the gradients in the forward pass, where each chunk's probabilities
are at hand anyway; its backward only scales them. That is right for a loss, a scalar that everything
is differentiated through once. `label_log_probs` gives a number per token, for preference and
distillation objectives; what multiplies each is known only in backward, so that pass computes the
chunks again.

Logits are products in the dtype of `hidden` (rounded to it); softmax, sums and the weight's gradient
are fp32. On the CPU ignored rows are dropped before the projection; on a GPU counting them would
stall the queue, so there they are masked.

Axes: N tokens, D model width, V vocabulary. Not here: label smoothing, z-loss, splitting V over devices.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.model.layers import accumulation_dtype

IGNORE = -100
CHUNK_LOGITS_CPU = 1 << 21
"""Logits per chunk: 8 MB in fp32, 327 rows at a vocabulary of 6400; smaller ones pay for the weight's gradient."""
CHUNK_LOGITS_GPU = 1 << 26
"""256 MB in fp32: a GPU is filled by thousands of rows, not by hundreds."""


def linear_cross_entropy(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> Tensor:
    """The sum of −log p(label) over labels other than IGNORE, as an fp32 scalar."""
    hidden_ND, labels_N, _ = drop_ignored(hidden_ND, labels_N)
    return _LinearCrossEntropy.apply(hidden_ND, weight_VD, labels_N, torch.is_grad_enabled())


def label_log_probs(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> Tensor:
    """log p(label) of every token in fp32, 0 where the label is IGNORE."""
    kept_ND, kept_labels_N, rows = drop_ignored(hidden_ND, labels_N)
    log_probs_N = _LabelLogProbs.apply(kept_ND, weight_VD, kept_labels_N)
    if rows is None:
        return log_probs_N
    return log_probs_N.new_zeros(labels_N.shape).index_copy(0, rows, log_probs_N)


def drop_ignored(hidden_ND: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The rows that have a label, their labels and their numbers (None when all are kept)."""
    if hidden_ND.device.type != "cpu":
        return hidden_ND, labels_N, None
    rows = (labels_N != IGNORE).nonzero().squeeze(1)
    if len(rows) == len(labels_N):
        return hidden_ND, labels_N, None
    return hidden_ND.index_select(0, rows), labels_N.index_select(0, rows), rows


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, training: bool) -> Tensor:
        exact = accumulation_dtype(hidden_ND.dtype)
        cast_VD = weight_VD.to(hidden_ND.dtype)
        # needs_input_grad does not know of torch.no_grad, under which a validation would pay for gradients.
        hidden_wanted, weight_wanted = (training and needed for needed in ctx.needs_input_grad[:2])
        total = torch.zeros((), dtype=exact, device=hidden_ND.device)
        dhidden_ND = torch.empty_like(hidden_ND) if hidden_wanted else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=exact) if weight_wanted else None
        for start, stop in _chunks(hidden_ND, weight_VD):
            rows_ND = hidden_ND[start:stop]
            chances_NV, log_probs_N, label_N1, real_N1 = _chances(rows_ND, cast_VD, labels_N[start:stop], exact)
            total -= log_probs_N.sum()
            if dhidden_ND is None and dweight_VD is None:
                continue
            # d(−log p)/d logits = p − 1 at the label
            chances_NV.scatter_add_(1, label_N1, torch.full_like(label_N1, -1, dtype=exact))
            dlogits_NV = chances_NV.mul_(real_N1).to(hidden_ND.dtype)
            if dhidden_ND is not None:
                torch.mm(dlogits_NV, cast_VD, out=dhidden_ND[start:stop])
            if dweight_VD is not None:
                dweight_VD += dlogits_NV.t() @ rows_ND
        ctx.weight_dtype = weight_VD.dtype
        ctx.save_for_backward(dhidden_ND, dweight_VD)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        dhidden_ND, dweight_VD = ctx.saved_tensors
        # `gradient` is a 0-dim fp32 tensor: it multiplies in fp32 and leaves dhidden's dtype alone.
        return (
            None if dhidden_ND is None else dhidden_ND * gradient,
            None if dweight_VD is None else (dweight_VD * gradient).to(ctx.weight_dtype),
            None,
            None,
        )


class _LabelLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> Tensor:
        exact = accumulation_dtype(hidden_ND.dtype)
        cast_VD = weight_VD.to(hidden_ND.dtype)
        log_probs_N = torch.empty(labels_N.shape, dtype=exact, device=hidden_ND.device)
        for start, stop in _chunks(hidden_ND, weight_VD):
            log_probs_N[start:stop] = _chances(hidden_ND[start:stop], cast_VD, labels_N[start:stop], exact)[1]
        ctx.save_for_backward(hidden_ND, weight_VD, labels_N)
        return log_probs_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        hidden_ND, weight_VD, labels_N = ctx.saved_tensors
        exact = accumulation_dtype(hidden_ND.dtype)
        cast_VD = weight_VD.to(hidden_ND.dtype)
        dhidden_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        dweight_VD = torch.zeros_like(weight_VD, dtype=exact) if ctx.needs_input_grad[1] else None
        for start, stop in _chunks(hidden_ND, weight_VD):
            rows_ND, scale_N1 = hidden_ND[start:stop], gradient_N[start:stop, None]
            chances_NV, _, label_N1, real_N1 = _chances(rows_ND, cast_VD, labels_N[start:stop], exact)
            # d log p / d logits = 1 at the label − p
            chances_NV.neg_().scatter_add_(1, label_N1, torch.ones_like(label_N1, dtype=exact))
            dlogits_NV = chances_NV.mul_(real_N1 * scale_N1).to(hidden_ND.dtype)
            if dhidden_ND is not None:
                torch.mm(dlogits_NV, cast_VD, out=dhidden_ND[start:stop])
            if dweight_VD is not None:
                dweight_VD += dlogits_NV.t() @ rows_ND
        return dhidden_ND, None if dweight_VD is None else dweight_VD.to(weight_VD.dtype), None


def _chances(
    rows_ND: Tensor, cast_VD: Tensor, labels_N: Tensor, exact: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(probabilities, log p of the label or 0 where ignored, labels with 0 for ignored, 1 for real rows)."""
    real_N1 = (labels_N != IGNORE).unsqueeze(1)
    label_N1 = labels_N.unsqueeze(1).masked_fill(~real_N1, 0)
    logits_NV = F.linear(rows_ND, cast_VD)
    at_label_N1 = logits_NV.gather(1, label_N1).to(exact)
    chances_NV = logits_NV.softmax(-1, dtype=exact)
    # log Σ exp = largest − log p(largest): p there is at least 1/V, so nothing underflows and one pass is saved.
    # Twice `amax`, for on a CPU `max`, which also says where, takes five times as long as both.
    log_sum_N1 = logits_NV.amax(1, keepdim=True).to(exact) - chances_NV.amax(1, keepdim=True).log()
    log_probs_N = (at_label_N1 - log_sum_N1).masked_fill(~real_N1, 0.0).squeeze(1)
    return chances_NV, log_probs_N, label_N1, real_N1.to(exact)


def _chunks(hidden_ND: Tensor, weight_VD: Tensor) -> list[tuple[int, int]]:
    rows, logits = len(hidden_ND), CHUNK_LOGITS_CPU if hidden_ND.device.type == "cpu" else CHUNK_LOGITS_GPU
    size = max(logits // len(weight_VD), 1)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
