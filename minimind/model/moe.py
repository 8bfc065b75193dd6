"""Experts: a router sends each token to its best few SwiGLUs, and all tokens to the shared ones.

Scores are a softmax over the experts, in fp32; the weights of the chosen are normalised to sum to
1. With one expert per token that weight is the constant 1, so the router then learns from the
balance loss alone, as it does upstream. The loss is returned, never kept on the module:

    coefficient · E · Σ_e (share of assignments that went to e) · (mean score of e)

over all real tokens of the batch, or per row and then averaged (`balance = "sequence"`; a packed
row counts as one sequence). It is 1·coefficient when balanced. Tokens of documents −1 are padding
and count for nothing in it.

Tokens are sorted by expert. On the CPU each expert then multiplies its own part; on CUDA in bf16 the
parts are multiplied together (`torch.nn.functional.grouped_mm`), so that nothing waits for their sizes
on the host. The grouped path has been compared with the other on a CPU and has not been run on a GPU
yet. No token is dropped, however uneven the load: there is no capacity to exceed.

Axes: B batch, T time, D model width, F ffn width, N tokens (B·T; sorted, B·T·K), E experts, K experts
per token. Not here: dropping tokens over a capacity, experts on several devices.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.model.config import ModelConfig
from minimind.model.layers import Linear, SwiGLU, accumulation_dtype


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
        """The weighted sum of the chosen experts' outputs; assignments are sorted by expert."""
        order = chosen_NK.flatten().argsort(stable=True)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        inputs_ND = _Sorted.apply(x_ND, order, back, self.experts_per_token)
        counts_E = (chosen_NK.flatten()[:, None] == torch.arange(len(self.experts), device=order.device)).sum(0)
        outputs_ND = self._grouped(inputs_ND, counts_E) if self._groups(x_ND) else self._one_by_one(inputs_ND, counts_E)
        outputs_ND = _Sorted.apply(outputs_ND, back, order, 1)
        if self.experts_per_token == 1:  # whose weight is 1
            return outputs_ND
        outputs_NKD = outputs_ND.view(*chosen_NK.shape, -1)
        return (outputs_NKD * weights_NK.to(outputs_ND.dtype).unsqueeze(-1)).sum(1)

    def _groups(self, x_ND: Tensor) -> bool:
        """Whether grouped products can be used: not for experts with adapters, which have matrices of their own."""
        plain = all(type(part) is Linear for expert in self.experts for part in expert.children())
        return x_ND.device.type == "cuda" and x_ND.dtype == torch.bfloat16 and plain

    def _one_by_one(self, inputs_ND: Tensor, counts_E: Tensor) -> Tensor:
        """Each expert on its share of the sorted inputs; reads the counts from the device.

        An expert that got no token runs on none: its gradient is zero rather than missing, which DDP needs.
        """
        shares = inputs_ND.split(counts_E.tolist())
        return torch.cat([expert(x) for expert, x in zip(self.experts, shares, strict=True)])

    def _grouped(self, inputs_ND: Tensor, counts_E: Tensor) -> Tensor:
        """The same as three grouped matrix products, whose sizes never leave the device.

        Experts keep their own weights, so these are stacked at every use: a copy of each, as small beside the
        product as the cast that they need anyway.
        """
        ends_E = counts_E.cumsum(0).to(torch.int32)

        def product(x_ND: Tensor, name: str) -> Tensor:
            weights_EFD = torch.stack([getattr(expert, name).weight.to(x_ND.dtype) for expert in self.experts])
            return F.grouped_mm(x_ND, weights_EFD.transpose(-2, -1), offs=ends_E)

        return product(F.silu(product(inputs_ND, "gate_proj")) * product(inputs_ND, "up_proj"), "down_proj")


class _Sorted(torch.autograd.Function):
    """Rows, each `copies` times, in the order of a permutation; its gradient gathers by the inverse."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, order: Tensor, back: Tensor, copies: int) -> Tensor:
        ctx.save_for_backward(back)
        ctx.copies = copies
        return x_ND.index_select(0, order // copies if copies > 1 else order)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_ND: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        gradient_ND = gradient_ND.index_select(0, back)
        if ctx.copies > 1:
            gradient_ND = gradient_ND.unflatten(0, (-1, ctx.copies)).sum(1)
        return gradient_ND, None, None, None


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
