"""Cross-entropy against labels and a teacher at once, fused with both output projections.

Only a chunk of the logits of student and teacher exists at a time. The gradient is formed in the forward pass, where
the probabilities are at hand: (student − label)·α + (student − teacher at temperature T)·(1−α)·T for the student's
logits. So each product with the vocabulary is taken once, and a student equal to its teacher has a gradient of zero
from it, not of rounding errors.

Logits are products in the dtype of the hidden states; softmax and sums are fp32. Axes: N tokens, n of a chunk, D the
student's width, H the teacher's, V vocabulary. Not here: the forward passes (`objectives.py`), and a teacher that
shares no vocabulary with the student.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.model.cross_entropy import drop_ignored
from minimind.model.layers import accumulation_dtype
from minimind.tokens.layout import IGNORE

CHUNK_TOKENS_CPU = 512
"""13 MB of fp32 logits each of student and teacher at a vocabulary of 6,400; more leave the cache."""
CHUNK_TOKENS_GPU = 8192
"""A GPU is filled by thousands of rows, not by hundreds."""


def distillation_loss(
    student_ND: Tensor,
    student_VD: Tensor,
    teacher_NH: Tensor,
    teacher_VH: Tensor,
    labels_N: Tensor,
    *,
    alpha: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(α·CE + (1−α)·T²·KL(teacher ‖ student), CE, KL), each summed over tokens with a label, in nats.

    Hinton et al. 2015, section 2. Only the first has a gradient, and only the student gets it.
    """
    student_ND, labels_N, rows = drop_ignored(student_ND, labels_N)
    if rows is not None:
        teacher_NH = teacher_NH.index_select(0, rows)
    return _DistillationLoss.apply(
        student_ND, student_VD, teacher_NH, teacher_VH, labels_N, alpha, temperature, torch.is_grad_enabled()
    )


class _DistillationLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_ND: Tensor,
        student_VD: Tensor,
        teacher_NH: Tensor,
        teacher_VH: Tensor,
        labels_N: Tensor,
        alpha: float,
        temperature: float,
        training: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = accumulation_dtype(student_ND.dtype)
        cast_VD, cast_VH = student_VD.to(student_ND.dtype), teacher_VH.to(teacher_NH.dtype)
        hidden_wanted, weight_wanted = (training and needed for needed in ctx.needs_input_grad[:2])
        dhidden_ND = torch.empty_like(student_ND) if hidden_wanted else None
        dweight_VD = torch.zeros_like(student_VD, dtype=exact) if weight_wanted else None
        cross_entropy, divergence = torch.zeros(2, dtype=exact, device=student_ND.device)
        size = CHUNK_TOKENS_CPU if student_ND.device.type == "cpu" else CHUNK_TOKENS_GPU
        for start in range(0, len(labels_N), size):
            chunk = slice(start, start + size)
            student_nV = F.linear(student_ND[chunk], cast_VD).to(exact)
            teacher_nV = F.linear(teacher_NH[chunk], cast_VH).to(exact)
            entropy, kl, dlogits_nV = _chunk(student_nV, teacher_nV, labels_N[chunk], alpha, temperature)
            cross_entropy, divergence = cross_entropy + entropy, divergence + kl
            dlogits_nV = dlogits_nV.to(student_ND.dtype)
            if dhidden_ND is not None:
                dhidden_ND[chunk] = dlogits_nV @ cast_VD
            if dweight_VD is not None:
                dweight_VD += dlogits_nV.t() @ student_ND[chunk]
        ctx.weight_dtype = student_VD.dtype
        ctx.save_for_backward(dhidden_ND, dweight_VD)
        ctx.mark_non_differentiable(cross_entropy, divergence)
        return alpha * cross_entropy + (1 - alpha) * temperature**2 * divergence, cross_entropy, divergence

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        dhidden_ND, dweight_VD = ctx.saved_tensors
        return (
            None if dhidden_ND is None else dhidden_ND * gradient,
            None if dweight_VD is None else (dweight_VD * gradient).to(ctx.weight_dtype),
            *(None,) * 6,
        )


def _chunk(
    student_nV: Tensor, teacher_nV: Tensor, labels_n: Tensor, alpha: float, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(cross-entropy, divergence, gradient of the mixture for the student's logits); ignored rows give nothing."""
    real_n1 = (labels_n != IGNORE).unsqueeze(1)
    label_n1 = labels_n.unsqueeze(1).masked_fill(~real_n1, 0)
    logp_nV = student_nV.log_softmax(-1)
    entropy = -logp_nV.gather(1, label_n1).masked_fill(~real_n1, 0.0).sum()
    dlogits_nV = logp_nV.exp_().mul_(alpha)  # α·p, and −α at the label
    dlogits_nV.scatter_add_(1, label_n1, torch.full_like(label_n1, -alpha, dtype=dlogits_nV.dtype))
    soft_nV, wanted_nV = ((logits_nV / temperature).log_softmax(-1) for logits_nV in (student_nV, teacher_nV))
    chances_nV = wanted_nV.exp()
    kl = (chances_nV * (wanted_nV - soft_nV)).sum(-1, keepdim=True).masked_fill(~real_n1, 0.0).sum()
    dlogits_nV.add_(soft_nV.exp_().sub_(chances_nV), alpha=(1 - alpha) * temperature)
    return entropy, kl, dlogits_nV.mul_(real_n1)
