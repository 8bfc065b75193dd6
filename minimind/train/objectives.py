"""What a step minimises: each objective is one function `(model, batch) -> Loss` that the loop knows nothing about.

Axes: B rows, P pairs, S sides of pairs (the chosen ones, then the rejected ones), T time, D model width,
N tokens (B·T), V vocabulary.

A `Loss` is the *sum* over units (trained tokens, or pairs), their count, and figures. The loop divides once by the
count of the whole global batch, so the gradient does not depend on how a batch is cut into micro-batches and ranks.
It needs that count before the first backward pass, for fp16 to have gradients of a size it can hold; so `Units` says
it from the batch alone, which every rank has, and no rank asks another. (The balance loss of a mixture of experts is
a mean over what the layer sees at once; it is weighted by the count of each part, and does depend on the cut a little.)

Not here: the formulas of preference losses (`preference_losses.py`) and of distillation (`distillation.py`), which
tokens are trained (the token set's mask says it), and generation of answers for online methods.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind.model.cross_entropy import label_log_probs, linear_cross_entropy
from minimind.model.transformer import Transformer
from minimind.tokens.layout import IGNORE, Batch, pack_sides
from minimind.train.distillation import distillation_loss
from minimind.train.preference_losses import PreferenceLoss, Side, sigmoid

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

    @property
    def num_trained(self) -> Tensor:
        """Tokens with a label; stays on the device."""
        return (self.labels_BT != IGNORE).sum()


class Loss(NamedTuple):
    """What an objective gives for a part of a batch."""

    sum: Tensor
    """Over the units of the part; what is differentiated."""
    count: Tensor | int
    """Units of the part."""
    extras: Sums = {}
    """Further sums over the units, for the log."""
    balance_loss: Tensor | None = None
    """That of the model's experts, as its forward pass gave it; a mean, added by `Objective`."""
    added: Tensor | None = None
    """What is differentiated with the sum and is no part of the figure `loss`; over the units too."""


@dataclass(frozen=True)
class Units:
    """What a loss is a sum over, and how a batch is counted and cut. An item is what is never cut: a row, a pair."""

    count: Callable[[Batch], int]
    items: Callable[[Batch], int]
    take: Callable[[Batch, int, int], Batch]
    """The items from start to stop, as a batch."""


@dataclass(frozen=True)
class Objective:
    """A function to minimise, as the loop and the validation use it."""

    function: Callable[[Transformer, Tensors], Loss]
    units: Units
    figures: Callable[[Transformer, Tensors], Sums] | None = None
    """What held-out items are measured by, where it is not the function itself; called without gradients."""

    def count(self, batch: Batch) -> int:
        """Units in a batch; what its sums are divided by."""
        return self.units.count(batch)

    def items(self, batch: Batch) -> int:
        """Rows or pairs in a batch."""
        return self.units.items(batch)

    def take(self, batch: Batch, start: int, stop: int) -> Batch:
        """The items from start to stop, as a batch."""
        return self.units.take(batch, start, stop)

    def loss(self, model: Transformer, batch: Tensors) -> tuple[Tensor, Sums]:
        """The sum to differentiate, balance loss included, and figures."""
        found = self.function(model, batch)
        sums = {"loss": found.sum, **found.extras}
        total = found.sum if found.added is None else found.sum + found.added
        if found.balance_loss is None or not model.config.num_experts:
            return total, sums
        balance_loss = found.balance_loss * found.count
        return total + balance_loss, {**sums, "balance_loss": balance_loss}

    def measure(self, model: Transformer, batch: Tensors) -> Sums:
        """Figures on held-out items."""
        if self.figures:
            return self.figures(model, batch)
        found = self.function(model, batch)
        return {"loss": found.sum, **found.extras}


def next_token(bytes_per_token: Tensor | None = None) -> Objective:
    """Cross-entropy of the trained next tokens. Pretraining and SFT differ in their labels only.

    With `bytes_per_token` (V integers, 0 for special tokens) held-out text is measured in nats
    per content byte too, which compares models of different tokenizers.
    """

    def function(model: Transformer, batch: Tensors) -> Loss:
        hidden_ND, balance_loss = flat_hidden(model, batch)
        loss = linear_cross_entropy(hidden_ND, model.output_weight, batch.labels_BT.flatten())
        return Loss(loss, batch.num_trained, balance_loss=balance_loss)

    def figures(model: Transformer, batch: Tensors) -> Sums:
        hidden_ND, _ = flat_hidden(model, batch)
        labels_N = batch.labels_BT.flatten()
        nats_N = -label_log_probs(hidden_ND, model.output_weight, labels_N)
        assert bytes_per_token is not None
        bytes_N = _label_bytes(bytes_per_token, labels_N)
        return {
            "loss": nats_N.sum(),
            "content_nats": (nats_N * (bytes_N > 0)).sum(),
            "content_bytes": bytes_N.sum(),
        }

    return Objective(function, TOKENS, None if bytes_per_token is None else figures)


@dataclass(frozen=True)
class Reference:
    """Summed log-probabilities of every pair under the model that training starts from, on its device."""

    chosen_P: Tensor
    rejected_P: Tensor


def dpo(reference: Reference, *, beta: float, label_smoothing: float = 0.0) -> Objective:
    """Direct preference optimisation as published."""
    return preference(partial(sigmoid, beta=beta, label_smoothing=label_smoothing), reference)


def preference(
    loss: PreferenceLoss,
    reference: Reference | None = None,
    *,
    bytes_per_token: Tensor | None = None,
    beside: Mapping[str, float] = MappingProxyType({}),
) -> Objective:
    """The mean of a preference loss over pairs, and how far the model has moved.

    Without a `reference` (for losses that need none) `kl` and `drift_bits_per_byte` are not told, without
    `bytes_per_token` (V integers, 0 for special tokens) the second is not.

    `beside` are the further sides of every pair, rows of other kinds, and the weights of their losses, means over a
    piece's tokens, which are added: the γ of InstructGPT (Ouyang et al. 2022, equation 2).
    """
    sides = 2 + len(beside)

    def function(model: Transformer, batch: Tensors) -> Loss:
        logp_S, tokens_S, balance_loss = _side_log_probs(model, batch)
        chosen_P, rejected_P, *others_P = logp_S.chunk(sides)
        chosen_tokens_P, rejected_tokens_P, *others_tokens_P = tokens_S.chunk(sides)
        pairs_P = batch.items_B[: len(chosen_P)]
        chosen = Side(chosen_P, chosen_tokens_P, None if reference is None else reference.chosen_P[pairs_P])
        rejected = Side(rejected_P, rejected_tokens_P, None if reference is None else reference.rejected_P[pairs_P])
        verdict = loss(chosen, rejected)
        margin_P = verdict.chosen_reward_P - verdict.rejected_reward_P
        extras = {
            # an untouched policy decides nothing: half a point, not a lost one
            "accuracy": (margin_P > 0).float().sum() + 0.5 * (margin_P == 0).float().sum(),
            "chosen_reward": verdict.chosen_reward_P.sum(),
            "rejected_reward": verdict.rejected_reward_P.sum(),
            "reward_margin": margin_P.sum(),
            "chosen_logp": chosen_P.sum(),
            "rejected_logp": rejected_P.sum(),
            **_moved(chosen, rejected, batch, bytes_per_token),
        }
        losses = {
            kind: -(logp_P / tokens_P).sum()
            for kind, logp_P, tokens_P in zip(beside, others_P, others_tokens_P, strict=True)
        }
        extras |= {f"{kind}_loss": loss for kind, loss in losses.items()}
        added = torch.stack([beside[kind] * loss for kind, loss in losses.items()]).sum() if losses else None
        return Loss(verdict.loss_P.sum(), len(chosen_P), extras, balance_loss, added)

    return Objective(function, pairs_with(sides))


def _moved(chosen: Side, rejected: Side, batch: Tensors, bytes_per_token: Tensor | None) -> Sums:
    """How far the policy is from its reference, on the pairs' own answers.

    `kl` is the mean of log π_ref/π over both answers, in nats an answer: what KL(π_ref ‖ π) would be if the answers
    were drawn from the reference. They are not, so it may be negative; a policy that drifts shows it all the same.
    `drift_bits_per_byte` is what the policy needs more than the reference for a byte of the chosen answer.
    """
    if chosen.reference_P is None:
        return {}
    worse_chosen_P, worse_rejected_P = -chosen.ratio_P(), -rejected.ratio_P()
    moved = {"kl": ((worse_chosen_P + worse_rejected_P) / 2).sum()}
    if bytes_per_token is not None:
        bytes_S = _by_side(_label_bytes(bytes_per_token, batch.labels_BT), batch)
        bytes_P = bytes_S[: len(worse_chosen_P)].clamp(min=1)
        moved["drift_bits_per_byte"] = (worse_chosen_P / bytes_P).sum() / math.log(2)
    return moved


def pair_log_probs(model: Transformer, batch: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Summed log-probabilities (chosen_P, rejected_P) of the trained tokens, and the balance loss."""
    logp_S, _, balance_loss = _side_log_probs(model, batch)
    chosen_P, rejected_P = logp_S.chunk(2)
    return chosen_P, rejected_P, balance_loss


def _side_log_probs(model: Transformer, batch: Tensors) -> tuple[Tensor, Tensor, Tensor]:
    """Of each side the summed log-probabilities of its trained tokens and their number, 1 or more; the balance loss."""
    hidden_ND, balance_loss = flat_hidden(model, batch)
    logp_N = label_log_probs(hidden_ND, model.output_weight, batch.labels_BT.flatten())
    return _by_side(logp_N, batch), _by_side(batch.labels_BT != IGNORE, batch).clamp(min=1), balance_loss


def _by_side(values: Tensor, batch: Tensors) -> Tensor:
    """Sums, S of them, of a value per position. Sides may share a row: `documents_BT` says whose a position is."""
    sides_S = torch.arange(len(batch.items_B), device=values.device)
    # a sum by mask, not by index_add: that is not deterministic on a GPU, and there are few sides
    return torch.where(batch.documents_BT.flatten() == sides_S[:, None], values.flatten(), 0).sum(1)


def distill(teacher: Transformer, *, alpha: float, temperature: float) -> Objective:
    """α·cross-entropy + (1−α)·T²·KL(teacher ‖ student) at temperature T (Hinton et al. 2015), per trained token.

    The teacher needs the student's vocabulary, not its shape: it may be larger, or have experts.
    """

    def function(model: Transformer, batch: Tensors) -> Loss:
        student_ND, balance_loss = flat_hidden(model, batch)
        with torch.no_grad():
            teacher_ND, _ = flat_hidden(teacher, batch)
        loss, cross_entropy, divergence = distillation_loss(
            student_ND,
            model.output_weight,
            teacher_ND,
            teacher.output_weight,
            batch.labels_BT.flatten(),
            alpha=alpha,
            temperature=temperature,
        )
        extras = {"cross_entropy": cross_entropy, "divergence": divergence}
        return Loss(loss, batch.num_trained, extras, balance_loss)

    return Objective(function, TOKENS)


def flat_hidden(model: Transformer, batch: Tensors) -> tuple[Tensor, Tensor]:
    """(hidden_ND with N = B·T, balance loss). The cross-entropy leaves out what is not trained."""
    hidden_BTD, balance_loss = model.hidden(
        batch.tokens_BT, positions_BT=batch.positions_BT, documents_BT=batch.documents_BT
    )
    return hidden_BTD.flatten(0, 1), balance_loss


def _label_bytes(bytes_per_token: Tensor, labels: Tensor) -> Tensor:
    """Content bytes of each label, 0 where there is none."""
    return bytes_per_token.to(labels.device)[labels.clamp(min=0)] * (labels != IGNORE)


def count_tokens(batch: Batch) -> int:
    return int((batch.labels_BT != IGNORE).sum())


def count_pairs(batch: Batch, *, sides: int = 2) -> int:
    return len(batch) // sides


def take_rows(batch: Batch, start: int, stop: int) -> Batch:
    return batch.rows(start, stop)


def take_pairs(batch: Batch, start: int, stop: int, *, sides: int = 2) -> Batch:
    """Pairs from start to stop, packed: sides 0 … P − 1 are the chosen ones, then the rejected ones, then others."""
    chosen = np.arange(start, stop)
    num_pairs = count_pairs(batch, sides=sides)
    return pack_sides(batch, np.concatenate([chosen + side * num_pairs for side in range(sides)]))


TOKENS = Units(count_tokens, len, take_rows)


def pairs_with(sides: int) -> Units:
    """Pairs of so many sides."""
    return Units(*(partial(function, sides=sides) for function in (count_pairs, count_pairs, take_pairs)))


def bits_per_byte(nats: float, content_bytes: float) -> float:
    """Nats of cross-entropy over so many bytes of text, in bits per byte."""
    return nats / math.log(2) / content_bytes
