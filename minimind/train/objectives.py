"""What a step minimises: each objective is a few functions of (model, batch) that the loop knows nothing about.

Axes: B rows, P pairs, S sides of pairs (the chosen ones, then the rejected ones), T time, D model width,
N tokens (B·T), V vocabulary.

An objective gives the *sum* over its units (trained tokens, or pairs), and says from the batch
alone how many units it holds. The loop divides once by the count of the whole global batch, so
the gradient does not depend on how a batch is cut into micro-batches and ranks. (The balance loss
of a mixture of experts is a mean over what the layer sees at once; it is weighted by the units of
each part, and does depend on the cut a little.)

Not here: which tokens are trained (the token set's mask says it), and generation of answers for online methods.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from minimind.model.cross_entropy import label_log_probs, linear_cross_entropy
from minimind.model.transformer import Transformer
from minimind.tokens.layout import IGNORE, Batch, pack_sides

Sums = dict[str, Tensor]
"""Name → scalar sum over the units of a batch. `loss` is among them; the rest is for people."""


@dataclass(frozen=True)
class Tensors:
    """A `Batch` on the device; ids and labels are int64 there, as PyTorch's indexing wants them."""

    tokens_BT: Tensor
    labels_BT: Tensor
    documents_BT: Tensor
    positions_BT: Tensor
    items_B: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> "Tensors":
        moved = (torch.from_numpy(getattr(batch, f.name)).to(device, non_blocking=True) for f in fields(cls))
        tokens_BT, labels_BT, *others = moved
        return cls(tokens_BT.long(), labels_BT.long(), *others)


@dataclass(frozen=True)
class Objective:
    """How a batch is counted, cut, trained on and measured."""

    count: Callable[[Batch], int]
    """Units in a batch; what its sums are divided by."""
    items: Callable[[Batch], int]
    """Rows or pairs in a batch."""
    take: Callable[[Batch, int, int], Batch]
    """The items from start to stop, as a batch."""
    loss: Callable[[Transformer, Tensors], tuple[Tensor, Sums]]
    """The sum to differentiate, and figures."""
    measure: Callable[[Transformer, Tensors], Sums]
    """Figures on held-out items; called without gradients."""


def next_token(bytes_per_token: Tensor | None = None) -> Objective:
    """Cross-entropy of the trained next tokens. Pretraining and SFT differ in their labels only.

    With `bytes_per_token` (V integers, 0 for special tokens) held-out text is measured in nats
    per content byte too, which compares models of different tokenizers.
    """

    def measure(model: Transformer, batch: Tensors) -> Sums:
        hidden_ND, _ = _flat_hidden(model, batch)
        labels_N = batch.labels_BT.flatten()
        if bytes_per_token is None:
            return {"loss": linear_cross_entropy(hidden_ND, model.output_weight, labels_N)}
        nats_N = -label_log_probs(hidden_ND, model.output_weight, labels_N)
        bytes_N = bytes_per_token.to(labels_N.device)[labels_N.clamp(min=0)] * (labels_N != IGNORE)
        return {
            "loss": nats_N.sum(),
            "content_nats": (nats_N * (bytes_N > 0)).sum(),
            "content_bytes": bytes_N.sum(),
        }

    return Objective(count_tokens, count_rows, take_rows, _next_token_loss, measure)


def _next_token_loss(model: Transformer, batch: Tensors) -> tuple[Tensor, Sums]:
    hidden_ND, balance_loss = _flat_hidden(model, batch)
    loss = linear_cross_entropy(hidden_ND, model.output_weight, batch.labels_BT.flatten())
    return _with_balance(model, loss, balance_loss, units=(batch.labels_BT != IGNORE).sum(), sums={"loss": loss})


@dataclass(frozen=True)
class Reference:
    """Summed log-probabilities of every pair under the model that training starts from, on its device."""

    chosen_P: Tensor
    rejected_P: Tensor


def dpo(reference: Reference, *, beta: float, label_smoothing: float = 0.0) -> Objective:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), label smoothing as in conservative DPO.

    −log σ(β·margin) with margin = log π/ref of the chosen answer − log π/ref of the rejected one,
    log-probabilities summed over the trained tokens: ln 2 for an untouched policy.
    """

    def pair_sums(model: Transformer, batch: Tensors) -> tuple[Tensor, Sums, Tensor]:
        chosen_P, rejected_P, balance_loss = pair_log_probs(model, batch)
        pairs_P = batch.items_B[: len(chosen_P)]
        chosen_reward_P = beta * (chosen_P - reference.chosen_P[pairs_P])
        rejected_reward_P = beta * (rejected_P - reference.rejected_P[pairs_P])
        margin_P = chosen_reward_P - rejected_reward_P
        loss = -(1 - label_smoothing) * F.logsigmoid(margin_P) - label_smoothing * F.logsigmoid(-margin_P)
        sums = {
            "loss": loss.sum(),
            # an untouched policy decides nothing: half a point, not a lost one
            "accuracy": (margin_P > 0).float().sum() + 0.5 * (margin_P == 0).float().sum(),
            "reward_margin": margin_P.sum(),
            "chosen_logp": chosen_P.sum(),
            "rejected_logp": rejected_P.sum(),
            # how far the policy moved from the reference, in nats per pair (an estimate on given text, not a KL)
            "drift": ((chosen_reward_P + rejected_reward_P) / (2 * beta)).abs().sum(),
        }
        return loss.sum(), sums, balance_loss

    def train_loss(model: Transformer, batch: Tensors) -> tuple[Tensor, Sums]:
        loss, sums, balance_loss = pair_sums(model, batch)
        units = torch.tensor(len(batch.items_B) // 2, device=loss.device)
        return _with_balance(model, loss, balance_loss, units=units, sums=sums)

    return Objective(count_pairs, count_pairs, take_pairs, train_loss, lambda model, batch: pair_sums(model, batch)[1])


def pair_log_probs(model: Transformer, batch: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Summed log-probabilities (chosen_P, rejected_P) of the trained tokens, and the balance loss.

    Sides may share a row: `documents_BT` says which side a position is of.
    """
    hidden_ND, balance_loss = _flat_hidden(model, batch)
    logp_N = label_log_probs(hidden_ND, model.output_weight, batch.labels_BT.flatten())
    sides_S = torch.arange(len(batch.items_B), device=logp_N.device)
    # a sum by mask, not by index_add: that is not deterministic on a GPU, and there are few sides
    logp_S = torch.where(batch.documents_BT.flatten() == sides_S[:, None], logp_N, 0).sum(1)
    chosen_P, rejected_P = logp_S.chunk(2)
    return chosen_P, rejected_P, balance_loss


def distill(teacher: Transformer, *, alpha: float, temperature: float) -> Objective:
    """α·cross-entropy + (1−α)·T²·KL(teacher ‖ student) at temperature T (Hinton et al. 2015), per trained token.

    The teacher needs the student's vocabulary, not its shape.
    """

    def sums_of(model: Transformer, batch: Tensors) -> tuple[Tensor, Sums, Tensor]:
        student_ND, balance_loss = _flat_hidden(model, batch)
        labels_N = batch.labels_BT.flatten()
        trained_N = labels_N != IGNORE
        with torch.no_grad():
            teacher_ND, _ = _flat_hidden(teacher, batch)
        cross_entropy = linear_cross_entropy(student_ND, model.output_weight, labels_N)
        divergence = _divergence(
            student_ND[trained_N],
            model.output_weight,
            teacher_ND[trained_N],
            teacher.output_weight,
            temperature=temperature,
        )
        loss = alpha * cross_entropy + (1 - alpha) * temperature**2 * divergence
        return loss, {"loss": loss, "cross_entropy": cross_entropy, "divergence": divergence}, balance_loss

    def train_loss(model: Transformer, batch: Tensors) -> tuple[Tensor, Sums]:
        loss, sums, balance_loss = sums_of(model, batch)
        return _with_balance(model, loss, balance_loss, units=(batch.labels_BT != IGNORE).sum(), sums=sums)

    return Objective(count_tokens, count_rows, take_rows, train_loss, lambda model, batch: sums_of(model, batch)[1])


def _divergence(
    student_ND: Tensor, student_VD: Tensor, teacher_ND: Tensor, teacher_VD: Tensor, *, temperature: float
) -> Tensor:
    """Σ KL(teacher ‖ student), in slices of 1,024 tokens whose logits are made again in the backward pass."""

    def slice_sum(student_nD: Tensor, teacher_nD: Tensor) -> Tensor:
        dtype = torch.promote_types(student_nD.dtype, torch.float32)  # float64 stays, for exact tests
        student_nV = (student_nD @ student_VD.to(student_nD.dtype).T).to(dtype) / temperature
        teacher_nV = (teacher_nD @ teacher_VD.to(teacher_nD.dtype).T).to(dtype) / temperature
        return F.kl_div(student_nV.log_softmax(-1), teacher_nV.log_softmax(-1), log_target=True, reduction="sum")

    total = student_ND.new_zeros((), dtype=torch.promote_types(student_ND.dtype, torch.float32))
    for student_nD, teacher_nD in zip(student_ND.split(1024), teacher_ND.split(1024), strict=True):
        total = total + checkpoint(slice_sum, student_nD, teacher_nD, use_reentrant=False)
    return total


def _flat_hidden(model: Transformer, batch: Tensors) -> tuple[Tensor, Tensor]:
    """(hidden_ND with N = B·T, balance loss). The cross-entropy leaves out what is not trained."""
    hidden_BTD, balance_loss = model.hidden(
        batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT
    )
    return hidden_BTD.flatten(0, 1), balance_loss


def _with_balance(
    model: Transformer, loss: Tensor, balance_loss: Tensor, *, units: Tensor, sums: Sums
) -> tuple[Tensor, Sums]:
    """Add the balance loss of a mixture of experts, which is a mean, weighted by the units of this part."""
    if not model.config.num_experts:
        return loss, sums
    return loss + balance_loss * units, {**sums, "balance_loss": balance_loss * units}


def count_tokens(batch: Batch) -> int:
    return int((batch.labels_BT != IGNORE).sum())


def count_rows(batch: Batch) -> int:
    return len(batch)


def count_pairs(batch: Batch) -> int:
    return len(batch) // 2


def take_rows(batch: Batch, start: int, stop: int) -> Batch:
    return batch.rows(start, stop)


def take_pairs(batch: Batch, start: int, stop: int) -> Batch:
    """Pairs from start to stop, packed: sides 0 … P − 1 are the chosen ones, and the rejected ones follow."""
    chosen = np.arange(start, stop)
    return pack_sides(batch, np.concatenate([chosen, count_pairs(batch) + chosen]))


def bits_per_byte(nats: float, content_bytes: float) -> float:
    """Nats of cross-entropy over so many bytes of text, in bits per byte."""
    return nats / math.log(2) / content_bytes
