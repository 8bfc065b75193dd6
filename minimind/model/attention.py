"""Causal self-attention with grouped key/value heads and document isolation.

Who sees whom is one number per query: the key its document starts at. A query sees the keys from
there to itself. Documents are contiguous, so nothing of the size T×S is needed to say it, and blocks
of keys that no query of a block may see are never looked at. Padding counts as one more document:
every query sees itself, so no row of the softmax is empty and nothing becomes NaN.

Three ways to the same numbers. On the CPU, torch's fused attention gains nothing from bf16; blocks of
queries against the keys they may see, with the query heads that share a key head folded into the rows
of one matrix product, take less than half its time (`blocked_attention`). Elsewhere it is torch's
`scaled_dot_product_attention` with a dense bias for packed rows (`fused_attention`), or, where the
model's `attention` is set to "flex", torch's flex attention, which skips what is masked
(`flex_attention`; it has been compared with the others on a CPU and has not been run on a GPU yet).
On the CPU scores are rounded to the compute dtype; softmax sums in fp32 in all.

Axes: B batch, T query time, S key time, D model width, H query heads, K kv heads, R = H/K, C head
size, N rows of a product (R · queries). Not here: keys that are kept (`minimind.infer`), sliding windows, attention
split over devices.
"""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import flex_attention as flex

from minimind.model.attention_blocks import blocked_attention
from minimind.model.config import ModelConfig
from minimind.model.layers import Linear, RMSNorm, rotate

Kind = Literal["auto", "blocked", "fused", "flex"]
"""How attention is computed; `auto` is "blocked" on the CPU and "fused" elsewhere."""


class Attention(nn.Module):
    """Grouped-query attention with RoPE, and RMSNorm over each head's queries and keys where `qk_norm`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.q_proj = Linear(config.hidden_size, config.num_heads * config.head_size)
        self.k_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_size)
        self.v_proj = Linear(config.hidden_size, config.num_kv_heads * config.head_size)
        self.o_proj = Linear(config.num_heads * config.head_size, config.hidden_size)
        self.q_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None
        self.k_norm = RMSNorm(config.head_size, config.norm_eps) if config.qk_norm else None

    def forward(self, x_BTD: Tensor, *, tables: tuple[Tensor, Tensor], visible: "Visible") -> Tensor:
        """What attention adds to the residual stream."""
        heads = (*x_BTD.shape[:2], -1, self.head_size)
        q_BTHC, k_BTKC, v_BTKC = (p(x_BTD).view(heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.q_norm is not None and self.k_norm is not None:
            q_BTHC, k_BTKC = self.q_norm(q_BTHC), self.k_norm(k_BTKC)
        q_BHTC, k_BKTC = rotate(q_BTHC.transpose(1, 2), tables), rotate(k_BTKC.transpose(1, 2), tables)
        v_BKTC = v_BTKC.transpose(1, 2)
        return self.o_proj(attend(q_BHTC, k_BKTC, v_BKTC, visible).flatten(2))


class Visible(NamedTuple):
    """Which keys each query sees, made once per forward pass for all layers (`visible_keys`)."""

    kind: Kind
    starts_BT: Tensor | None = None
    """The first key of each query's document; None where rows are one document that starts at key 0."""
    bias_BTS: Tensor | None = None
    """For "fused": 0 where a query may see a key, else −∞; None where causality is enough."""
    blocks: Any = None
    """For "flex": torch's BlockMask."""


def visible_keys(
    kind: Kind, documents_BS: Tensor | None, *, time: int, keys: int, dtype: torch.dtype, device: torch.device
) -> Visible:
    """What the queries, the last `time` of the `keys` positions, see; without documents all are of one.

    Raises ConfigError for a `kind` that cannot do it.
    """
    if kind == "auto":
        kind = "blocked" if device.type == "cpu" else "fused"
    if kind == "flex" and time != keys:
        kind = "fused"  # decoding: one query at a time has no blocks to skip
    starts_BT = None if documents_BS is None else document_starts(documents_BS)[:, keys - time :]
    if kind == "blocked":
        return Visible(kind, starts_BT)
    if kind == "fused":
        return Visible(kind, bias_BTS=attention_bias(starts_BT, time=time, keys=keys, dtype=dtype, device=device))
    return Visible(kind, blocks=_flex_blocks(starts_BT, time, device))


def document_starts(documents_BS: Tensor) -> Tensor:
    """The position at which the document of each position starts, B×S in int32; no host sync."""
    at_S = torch.arange(documents_BS.shape[1], dtype=torch.int32, device=documents_BS.device)
    changes_BS = F.pad(documents_BS[:, 1:] != documents_BS[:, :-1], (1, 0))
    return torch.where(changes_BS, at_S, 0).cummax(1).values


def attend(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, visible: Visible) -> Tensor:
    """Attention of the last T of S positions, B×T×H×C; without documents it is causal."""
    if visible.kind == "blocked":
        return blocked_attention(q_BHTC, k_BKSC, v_BKSC, visible.starts_BT)
    if visible.kind == "flex":
        grouped = q_BHTC.shape[1] != k_BKSC.shape[1]
        mixed_BHTC = flex.flex_attention(q_BHTC, k_BKSC, v_BKSC, block_mask=visible.blocks, enable_gqa=grouped)
    else:
        mixed_BHTC = fused_attention(q_BHTC, k_BKSC, v_BKSC, visible.bias_BTS)
    return mixed_BHTC.transpose(1, 2)


def fused_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, bias_BTS: Tensor | None = None) -> Tensor:
    """Attention by torch's fused kernels, B×H×T×C; without a bias it is causal (T = S) or sees all (T = 1)."""
    if bias_BTS is None:
        return F.scaled_dot_product_attention(
            q_BHTC, k_BKSC, v_BKSC, is_causal=q_BHTC.shape[2] > 1, enable_gqa=q_BHTC.shape[1] != k_BKSC.shape[1]
        )
    # With a mask only the memory-efficient kernel avoids the T×S scores, and that one knows no grouped heads.
    repeats = q_BHTC.shape[1] // k_BKSC.shape[1]
    k_BHSC, v_BHSC = k_BKSC.repeat_interleave(repeats, 1), v_BKSC.repeat_interleave(repeats, 1)
    return F.scaled_dot_product_attention(q_BHTC, k_BHSC, v_BHSC, attn_mask=bias_BTS[:, None])


def attention_bias(
    starts_BT: Tensor | None, *, time: int, keys: int, dtype: torch.dtype, device: torch.device
) -> Tensor | None:
    """0 where a query may see a key (same document, not later), else −∞: B×T×S, or None where none is needed."""
    if starts_BT is None and time in (1, keys):
        return None
    at_S = torch.arange(keys, device=device)
    visible_BTS = (at_S <= at_S[keys - time :, None])[None]
    if starts_BT is not None:
        visible_BTS = visible_BTS & (at_S >= starts_BT[:, :, None])
    return torch.zeros(visible_BTS.shape, dtype=dtype, device=device).masked_fill_(~visible_BTS, float("-inf"))


def _flex_blocks(starts_BT: Tensor | None, time: int, device: torch.device) -> Any:
    """The BlockMask of rows of documents; made on the device, without a sync.

    In a compiled model; outside of one, torch forms the T×T mask first, and flex attention the scores.
    """

    def sees(b: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) if starts_BT is None else (key <= query) & (key >= starts_BT[b, query])

    batch = None if starts_BT is None else len(starts_BT)
    return flex.create_block_mask(sees, batch, None, time, time, device=str(device))
