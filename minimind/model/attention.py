"""Causal self-attention with grouped key/value heads, document isolation and a decoding cache.

Two ways to the same numbers, chosen by the device. On the CPU, torch's fused attention gains
nothing from bf16; blocks of queries against the keys up to the block's end, with the query heads
that share a key head folded into the rows of one matrix product, take less than half its time
(`blocked_attention`). Everywhere else it is torch's `scaled_dot_product_attention`
(`fused_attention`). On the CPU scores are rounded to the compute dtype; softmax sums in fp32 in both.

A mask is an additive bias (0 or −∞), built once per forward pass and shared by all layers; none
is needed for plain causal rows. Every query sees itself, padding included (padding counts as one
more document), so no row of the softmax is empty and nothing becomes NaN.

Axes: B batch, T query time, S key time, D model width, H query heads, K kv heads, R = H/K, C head
size. Not here: attention that skips masked blocks (flex, varlen), sliding windows.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from minimind.errors import ConfigError
from minimind.model.config import ModelConfig
from minimind.model.layers import Linear, RMSNorm, rotate

# Queries per block: smaller blocks skip more of the upper triangle, larger ones make better matrix products.
BLOCK = 128


class KeyValueCache:
    """Keys and values of the tokens a model has seen, in memory allocated once.

    `length` slots are filled, the same number for every row. Rows of different lengths are padded
    on the left: pass `documents_BT` (−1 for padding) and `positions_BT` to the model, and the cache
    remembers which slots hold padding.
    """

    def __init__(
        self, config: ModelConfig, batch: int, max_length: int, dtype: torch.dtype, device: torch.device | str = "cpu"
    ) -> None:
        shape = (config.num_layers, batch, config.num_kv_heads, max_length, config.head_size)
        self.keys_LBKSC = torch.empty(shape, dtype=dtype, device=device)
        self.values_LBKSC = torch.empty(shape, dtype=dtype, device=device)
        self.documents_BS: Tensor | None = None
        self.length = 0

    @property
    def batch(self) -> int:
        return self.keys_LBKSC.shape[1]

    @property
    def max_length(self) -> int:
        return self.keys_LBKSC.shape[3]

    def reserve(self, batch: int, time: int, documents_BT: Tensor | None) -> Tensor | None:
        """Check that `time` more tokens fit and note their documents; gives those of all slots, or None."""
        if batch != self.batch:
            raise ConfigError(f"the cache was made for {self.batch} rows, {batch} were given")
        if self.length + time > self.max_length:
            raise ConfigError(
                f"{self.length} tokens in the cache and {time} more exceed its max_length of {self.max_length}; "
                "make it longer or shorten the prompt"
            )
        if documents_BT is None and self.documents_BS is None:
            return None
        if self.documents_BS is None:
            device = self.keys_LBKSC.device
            self.documents_BS = torch.zeros(batch, self.max_length, dtype=torch.int32, device=device)
        # Without documents of their own, new tokens go on with the row's last one.
        here = self.documents_BS[:, self.length - 1 : self.length] if documents_BT is None else documents_BT
        self.documents_BS[:, self.length : self.length + time] = here
        return self.documents_BS[:, : self.length + time]

    def append(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Store one layer's new keys and values; gives all of them so far, as views."""
        stop = self.length + k_BKTC.shape[2]
        self.keys_LBKSC[layer, :, :, self.length : stop] = k_BKTC
        self.values_LBKSC[layer, :, :, self.length : stop] = v_BKTC
        return self.keys_LBKSC[layer, :, :, :stop], self.values_LBKSC[layer, :, :, :stop]

    def advance(self, time: int) -> None:
        """Count `time` tokens as seen, once every layer has appended them."""
        self.length += time

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.length = min(self.length, length)


class Attention(nn.Module):
    """Grouped-query attention with RoPE, and RMSNorm over each head's queries and keys where `qk_norm`."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_size = config.head_size
        self.q_proj = Linear(config.hidden_size, config.num_heads * config.head_size)
        self.k_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_size)
        self.v_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_size)
        self.o_proj = Linear(config.num_heads * config.head_size, config.hidden_size)
        self.q_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None

    def forward(
        self, x_BTD: Tensor, *, tables: tuple[Tensor, Tensor], bias_BTS: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        """What attention adds to the residual stream; appends to `cache` where there is one."""
        heads = (*x_BTD.shape[:2], -1, self.head_size)
        q_BTHC, k_BTKC, v_BTKC = (p(x_BTD).view(heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHC, k_BTKC = self.q_norm(q_BTHC), self.k_norm(k_BTKC)
        q_BHTC, k_BKTC = rotate(q_BTHC.transpose(1, 2), tables), rotate(k_BTKC.transpose(1, 2), tables)
        v_BKTC = v_BTKC.transpose(1, 2)
        if cache is not None:
            k_BKTC, v_BKTC = cache.append(self.layer, k_BKTC, v_BKTC)
        mixed_BHTC = attend(q_BHTC, k_BKTC, v_BKTC, bias_BTS)
        return self.o_proj(mixed_BHTC.transpose(1, 2).flatten(2))


def attend(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, bias_BTS: Tensor | None) -> Tensor:
    """Attention of the last T of S positions; without a bias it is causal (T = S) or sees all (T = 1)."""
    if q_BHTC.device.type == "cpu":
        return blocked_attention(q_BHTC, k_BKSC, v_BKSC, bias_BTS)
    return fused_attention(q_BHTC, k_BKSC, v_BKSC, bias_BTS)


def fused_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, bias_BTS: Tensor | None = None) -> Tensor:
    """Attention by torch's fused kernels, for accelerators; the arguments of `attend`."""
    if bias_BTS is None:
        return F.scaled_dot_product_attention(
            q_BHTC, k_BKSC, v_BKSC, is_causal=q_BHTC.shape[2] > 1, enable_gqa=q_BHTC.shape[1] != k_BKSC.shape[1]
        )
    # With a mask only the memory-efficient kernel avoids the T×S scores, and that one knows no grouped heads.
    repeats = q_BHTC.shape[1] // k_BKSC.shape[1]
    k_BHSC, v_BHSC = k_BKSC.repeat_interleave(repeats, 1), v_BKSC.repeat_interleave(repeats, 1)
    return F.scaled_dot_product_attention(q_BHTC, k_BHSC, v_BHSC, attn_mask=bias_BTS[:, None])


def attention_bias(
    documents_BS: Tensor | None, *, time: int, keys: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """0 where a query may see a key (same document, not later), else −∞: B×T×S, or None where none is needed.

    The queries are the last `time` of the `keys` positions; without documents all are of one.
    """
    if documents_BS is None and time in (1, keys):
        return None
    at_S = torch.arange(keys, device=device)
    visible_BTS = (at_S <= at_S[keys - time :, None])[None]
    if documents_BS is not None:
        visible_BTS = visible_BTS & (documents_BS[:, keys - time :, None] == documents_BS[:, None, :])
    return torch.zeros(visible_BTS.shape, dtype=dtype, device=device).masked_fill_(~visible_BTS, float("-inf"))


def blocked_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, bias_BTS: Tensor | None = None) -> Tensor:
    """Attention by blocks of queries, for the CPU; the arguments of `attend`."""
    return _BlockedAttention.apply(q_BHTC, k_BKSC, v_BKSC, bias_BTS, torch.is_grad_enabled())


class _BlockedAttention(torch.autograd.Function):
    """Keeps the probabilities of the lower triangle; autograd would also pad and add a gradient per slice."""

    @staticmethod
    def forward(
        ctx: Any, q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, bias_BTS: Tensor | None, training: bool
    ) -> Tensor:
        kv_heads, size = k_BKSC.shape[1], q_BHTC.shape[-1]
        q_BKRTC = q_BHTC.unflatten(1, (kv_heads, -1)) * size**-0.5
        out_BKRTC = torch.empty_like(q_BKRTC)
        # needs_input_grad does not know of torch.no_grad, under which nothing needs keeping.
        needs_gradient = training and any(ctx.needs_input_grad)
        kept = []
        for start, stop, seen in _blocks(q_BHTC.shape[2], k_BKSC.shape[2]):
            rows_BKNC = q_BKRTC[:, :, :, start:stop].flatten(2, 3)
            scores_BKNS = rows_BKNC @ k_BKSC[:, :, :seen].transpose(-1, -2)
            _add_bias(scores_BKNS, bias_BTS, start, stop)
            chances_BKNS = scores_BKNS.softmax(-1)
            mixed_BKNC = chances_BKNS @ v_BKSC[:, :, :seen]
            out_BKRTC[:, :, :, start:stop] = mixed_BKNC.unflatten(2, (-1, stop - start))
            if needs_gradient:
                kept.append(chances_BKNS)
        if needs_gradient:
            ctx.save_for_backward(q_BKRTC, k_BKSC, v_BKSC, *kept)
        return out_BKRTC.flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHTC: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_BKRTC, k_BKSC, v_BKSC, *kept = ctx.saved_tensors
        gradient_BKRTC = gradient_BHTC.unflatten(1, (k_BKSC.shape[1], -1))
        dq_BKRTC = torch.empty_like(q_BKRTC)
        # Every block adds to the first keys: bf16 would lose what late blocks contribute.
        wide = torch.promote_types(k_BKSC.dtype, torch.float32)
        dk_BKSC, dv_BKSC = (torch.zeros(x.shape, dtype=wide, device=x.device) for x in (k_BKSC, v_BKSC))
        for (start, stop, seen), chances_BKNS in zip(_blocks(q_BKRTC.shape[3], k_BKSC.shape[2]), kept, strict=True):
            rows_BKNC = q_BKRTC[:, :, :, start:stop].flatten(2, 3)
            gradient_BKNC = gradient_BKRTC[:, :, :, start:stop].flatten(2, 3)
            dv_BKSC[:, :, :seen] += chances_BKNS.transpose(-1, -2) @ gradient_BKNC
            dchances_BKNS = gradient_BKNC @ v_BKSC[:, :, :seen].transpose(-1, -2)
            dscores_BKNS = torch.ops.aten._softmax_backward_data(dchances_BKNS, chances_BKNS, -1, chances_BKNS.dtype)
            dq_BKNC = dscores_BKNS @ k_BKSC[:, :, :seen]
            dq_BKRTC[:, :, :, start:stop] = dq_BKNC.unflatten(2, (-1, stop - start))
            dk_BKSC[:, :, :seen] += dscores_BKNS.transpose(-1, -2) @ rows_BKNC
        dq_BKRTC.mul_(q_BKRTC.shape[-1] ** -0.5)
        return dq_BKRTC.flatten(1, 2), dk_BKSC.to(k_BKSC.dtype), dv_BKSC.to(v_BKSC.dtype), None, None


def _blocks(time: int, keys: int) -> list[tuple[int, int, int]]:
    """(first query, end of the block, keys it may see) of every block; queries are the last of the keys."""
    stops = [min(start + BLOCK, time) for start in range(0, time, BLOCK)]
    return [(start, stop, keys - time + stop) for start, stop in zip(range(0, time, BLOCK), stops, strict=True)]


def _add_bias(scores_BKNS: Tensor, bias_BTS: Tensor | None, start: int, stop: int) -> None:
    """Mask one block's scores in place; without a bias only the triangle at its end."""
    block, seen = stop - start, scores_BKNS.shape[-1]
    scores_BKRTS = scores_BKNS.unflatten(2, (-1, block))
    if bias_BTS is not None:
        scores_BKRTS += bias_BTS[:, None, None, start:stop, :seen]
    elif block > 1:
        later_TT = torch.ones(block, block, dtype=torch.bool, device=scores_BKNS.device).triu_(1)
        triangle_TT = torch.zeros(block, block, dtype=scores_BKNS.dtype, device=scores_BKNS.device)
        scores_BKRTS[..., seen - block :] += triangle_TT.masked_fill_(later_TT, float("-inf"))
