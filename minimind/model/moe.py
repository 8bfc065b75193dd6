"""Experts: a router sends each token to its best few SwiGLUs, and all tokens to the shared ones.

Scores are a softmax over the experts, in fp32; the weights of the chosen are normalised to sum to
1. With one expert per token that weight is the constant 1, so the router then learns from the
balance loss alone, as it does upstream. The loss is returned, never kept on the module:

    coefficient · E · Σ_e (share of assignments that went to e) · (mean score of e)

over all real tokens of the batch, or per row and then averaged (`balance = "sequence"`; a packed
row counts as one sequence). It is 1·coefficient when balanced. Tokens of documents −1 are padding
and count for nothing in it.

Axes: B batch, T time, D model width, N tokens (B·T), E experts, K experts per token. Not here:
dropping tokens over a capacity, experts on several devices, grouped matrix products.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minimind.model.config import ModelConfig
from minimind.model.layers import SwiGLU, accumulation_dtype


class Routed(NamedTuple):
    """What a layer of experts gives."""

    output_BTD: Tensor
    balance_loss: Tensor
    load_E: Tensor
    """Share of the assignments each expert got; sums to 1 and carries no gradient."""


class Router(nn.Module):
    """Scores of every expert for every token; a class of its own because it stays in fp32."""

    def __init__(self, width: int, experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, width))

    def forward(self, x_ND: Tensor) -> Tensor:
        exact = accumulation_dtype(x_ND.dtype)
        return F.linear(x_ND.to(exact), self.weight.to(exact)).softmax(-1)


class Experts(nn.Module):
    """A mixture of SwiGLUs in the place of one."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.experts_per_token = config.experts_per_token
        self.balance = config.balance
        self.balance_coefficient = config.balance_coefficient
        self.gate = Router(config.hidden_size, config.num_experts)
        self.experts = nn.ModuleList(SwiGLU(config.hidden_size, config.ffn_size) for _ in range(config.num_experts))
        shared = config.num_shared_experts
        self.shared_experts = SwiGLU(config.hidden_size, config.ffn_size * shared) if shared else None

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> Routed:
        """`real_BT` is false for padding, None when there is none."""
        x_ND = x_BTD.flatten(0, 1)
        scores_NE = self.gate(x_ND)
        weights_NK, chosen_NK = scores_NE.topk(self.experts_per_token, dim=-1)
        weights_NK = weights_NK / weights_NK.sum(-1, keepdim=True)
        output_ND = self._mix(x_ND, weights_NK, chosen_NK)
        if self.shared_experts is not None:
            output_ND = output_ND + self.shared_experts(x_ND)
        scores_BTE = scores_NE.view(*x_BTD.shape[:2], -1)
        chosen_BTK = chosen_NK.view(*x_BTD.shape[:2], -1)
        loss, load_E = balance_loss(scores_BTE, chosen_BTK, real_BT, per_row=self.balance == "sequence")
        return Routed(output_ND.view_as(x_BTD), loss * self.balance_coefficient, load_E)

    def _mix(self, x_ND: Tensor, weights_NK: Tensor, chosen_NK: Tensor) -> Tensor:
        """The weighted sum of the chosen experts' outputs.

        Assignments are sorted by expert, so that the counts are read from the device once. An expert
        that got no token runs on none: its gradient is zero rather than missing, which DDP needs.
        """
        order = chosen_NK.flatten().argsort(stable=True)
        counts = torch.bincount(chosen_NK.flatten(), minlength=len(self.experts)).tolist()
        inputs = x_ND.index_select(0, order // self.experts_per_token).split(counts)
        outputs = torch.cat([expert(x) for expert, x in zip(self.experts, inputs, strict=True)])
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        outputs_NKD = outputs.index_select(0, back).view(*chosen_NK.shape, -1)
        return (outputs_NKD * weights_NK.to(outputs.dtype).unsqueeze(-1)).sum(1)


def balance_loss(
    scores_BTE: Tensor, chosen_BTK: Tensor, real_BT: Tensor | None, *, per_row: bool
) -> tuple[Tensor, Tensor]:
    """(E · Σ load · mean score, load of the whole batch); 0 when every token is padding."""
    num_experts = scores_BTE.shape[-1]
    assigned_BTE = F.one_hot(chosen_BTK, num_experts).sum(2).to(scores_BTE.dtype) / chosen_BTK.shape[-1]
    if real_BT is not None:
        # A padded position may hold anything, so it is replaced rather than multiplied by zero.
        scores_BTE = scores_BTE.masked_fill(~real_BT[..., None], 0.0)
        assigned_BTE = assigned_BTE.masked_fill(~real_BT[..., None], 0.0)
        tokens_B = real_BT.sum(1).to(scores_BTE.dtype)
    else:
        tokens_B = scores_BTE.new_full(scores_BTE.shape[:1], scores_BTE.shape[1])
    load_E = assigned_BTE.sum((0, 1)) / tokens_B.sum().clamp(min=1)
    if not per_row:
        means_E = scores_BTE.sum((0, 1)) / tokens_B.sum().clamp(min=1)
        return num_experts * (load_E * means_E).sum(), load_E
    per_token_B1 = 1 / tokens_B.clamp(min=1)[:, None]
    losses_B = num_experts * (assigned_BTE.sum(1) * per_token_B1 * scores_BTE.sum(1) * per_token_B1).sum(-1)
    return losses_B.sum() / (tokens_B > 0).sum().clamp(min=1), load_E
