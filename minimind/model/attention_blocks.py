"""Attention by blocks of queries, for the CPU: forward and gradient written by hand.

A block of queries meets the keys from the start of its first query's document to its own end, rounded
so that matrix products have few shapes (oneDNN compiles a kernel for each). Neighbouring rows of the batch
that start at nearly the same key are multiplied together: full rows are one product.

The probabilities are kept for the backward pass, in one buffer as large as the whole triangle; what
documents leave out of it is never written, so it is never memory. Its size depends on the shapes
alone, which lets the compiler see the two passes as two operations without looking into them.

Axes: B batch, T query time, S key time, H query heads, K kv heads, R = H/K, C head size, N rows of a
product (R · queries). Not here: which path a device takes (`attention.py`).
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 128
"""Queries per block: smaller ones skip more of the upper triangle, larger ones make better matrix products."""
ROUNDING = 64
"""First keys of a block are rounded down to a multiple of this."""


SPARE_KEYS = 32
"""Keys a row may be multiplied with in vain, on average, to share a product with its neighbours. With none, two threads
take 15 % longer than over the whole triangle (small products keep them waiting); with 128 one thread gains nothing."""


class Piece(NamedTuple):
    """One product: some rows of the batch, a block of their queries, and the keys these may see."""

    rows: slice
    queries: slice
    keys: slice
    one_document: bool
    """Whether all these queries see all these keys but the later ones of the block."""
    kept: slice
    """Where its probabilities are in the buffer."""


def blocked_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, starts_BT: Tensor | None = None) -> Tensor:
    """Attention of the last T of S positions, B×T×H×C; `starts_BT` is the first key that each query sees."""
    if starts_BT is None:
        starts_BT = torch.zeros((), dtype=torch.int32).expand(len(q_BHTC), q_BHTC.shape[2])
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q_BHTC, k_BKSC, v_BKSC))
    if needs_gradient or torch.compiler.is_compiling():
        return _forward(q_BHTC, k_BKSC, v_BKSC, starts_BT, needs_gradient)[0]
    return _mixed(q_BHTC, k_BKSC, v_BKSC, starts_BT, None)


def _mixed(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, starts_BT: Tensor, kept: Tensor | None) -> Tensor:
    """The output; probabilities go into `kept` where there is one."""
    batch, heads, time, size = q_BHTC.shape
    kv_heads = k_BKSC.shape[1]
    q_BKRTC = q_BHTC.unflatten(1, (kv_heads, -1))
    out_BTHC = q_BHTC.new_empty(batch, time, heads, size)
    out_BKRTC = out_BTHC.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
    for piece in _pieces(starts_BT, heads, k_BKSC.shape[2]):
        rows_BKNC = _scaled_rows(q_BKRTC, piece)
        scores_BKNS = rows_BKNC @ k_BKSC[piece.rows, :, piece.keys].transpose(-1, -2)
        _hide(scores_BKNS, starts_BT, piece, k_BKSC.shape[2])
        if kept is None:
            chances_BKNS = scores_BKNS.softmax(-1)
        else:
            chances_BKNS = torch.softmax(scores_BKNS, -1, out=kept[piece.kept].view_as(scores_BKNS))
        mixed_BKNC = chances_BKNS @ v_BKSC[piece.rows, :, piece.keys]
        out_BKRTC[piece.rows, :, :, piece.queries] = mixed_BKNC.unflatten(2, (q_BKRTC.shape[2], -1))
    return out_BTHC


@torch.library.custom_op("minimind::blocked_attention", mutates_args=())
def _forward(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, starts_BT: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    kept = q_BHTC.new_empty(_kept_size(q_BHTC, k_BKSC) if keep else 0)
    return _mixed(q_BHTC, k_BKSC, v_BKSC, starts_BT, kept if keep else None), kept


@_forward.register_fake
def _(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, starts_BT: Tensor, keep: bool) -> tuple[Tensor, Tensor]:
    batch, heads, time, size = q_BHTC.shape
    return q_BHTC.new_empty(batch, time, heads, size), q_BHTC.new_empty(_kept_size(q_BHTC, k_BKSC) if keep else 0)


@torch.library.custom_op("minimind::blocked_attention_backward", mutates_args=())
def _backward(
    gradient_BTHC: Tensor,
    q_BHTC: Tensor,
    k_BKSC: Tensor,
    v_BKSC: Tensor,
    starts_BT: Tensor,
    kept: Tensor,
    keys_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients; without `keys_wanted` those of keys and values are zeros."""
    kv_heads, scale = k_BKSC.shape[1], q_BHTC.shape[-1] ** -0.5
    q_BKRTC = q_BHTC.unflatten(1, (kv_heads, -1))
    gradient_BKRTC = gradient_BTHC.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)
    dq_BHTC = q_BHTC.new_empty(q_BHTC.shape)
    dq_BKRTC = dq_BHTC.unflatten(1, (kv_heads, -1))
    # Every block adds to the keys before it: bf16 would lose what late blocks contribute.
    wide = torch.promote_types(k_BKSC.dtype, torch.float32)
    dk_BKSC, dv_BKSC = (torch.zeros(x.shape, dtype=wide) for x in (k_BKSC, v_BKSC))
    for piece in _pieces(starts_BT, q_BHTC.shape[1], k_BKSC.shape[2]):
        rows_BKNC = _scaled_rows(q_BKRTC, piece)
        gradient_BKNC = gradient_BKRTC[piece.rows, :, :, piece.queries].flatten(2, 3)
        keys_BKSC, values_BKSC = (x[piece.rows, :, piece.keys] for x in (k_BKSC, v_BKSC))
        chances_BKNS = kept[piece.kept].view(*rows_BKNC.shape[:3], -1)
        if keys_wanted:
            dv_BKSC[piece.rows, :, piece.keys] += chances_BKNS.transpose(-1, -2) @ gradient_BKNC
        dchances_BKNS = gradient_BKNC @ values_BKSC.transpose(-1, -2)
        dscores_BKNS = torch.ops.aten._softmax_backward_data(dchances_BKNS, chances_BKNS, -1, chances_BKNS.dtype)
        if keys_wanted:
            dk_BKSC[piece.rows, :, piece.keys] += dscores_BKNS.transpose(-1, -2) @ rows_BKNC
        dq_BKNC = (dscores_BKNS @ keys_BKSC).mul_(scale)
        dq_BKRTC[piece.rows, :, :, piece.queries] = dq_BKNC.unflatten(2, (q_BKRTC.shape[2], -1))
    return dq_BHTC, dk_BKSC.to(k_BKSC.dtype), dv_BKSC.to(v_BKSC.dtype)


@_backward.register_fake
def _(
    gradient_BTHC: Tensor,
    q_BHTC: Tensor,
    k_BKSC: Tensor,
    v_BKSC: Tensor,
    starts_BT: Tensor,
    kept: Tensor,
    keys_wanted: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return q_BHTC.new_empty(q_BHTC.shape), k_BKSC.new_empty(k_BKSC.shape), v_BKSC.new_empty(v_BKSC.shape)


def _note(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:4], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else the gradient of what is kept, which nobody has, is made of zeros


def _differentiate(ctx: Any, gradient_BTHC: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    # of a frozen first layer, below which nothing is learnt
    keys_wanted = any(ctx.needs_input_grad[1:3])
    return (*_backward(gradient_BTHC, *ctx.saved_tensors, keys_wanted), None, None)


_forward.register_autograd(_differentiate, setup_context=_note)


def _pieces(starts_BT: Tensor, heads: int, keys: int) -> Iterator[Piece]:
    """All products of a pass, block by block; neighbouring rows of nearly equal bounds together."""
    time, at = starts_BT.shape[1], 0
    for start in range(0, time, BLOCK):
        stop = min(start + BLOCK, time)
        end = keys - time + stop
        firsts_B, lasts_B = starts_BT[:, start].tolist(), starts_BT[:, stop - 1].tolist()
        lows_B = [first // ROUNDING * ROUNDING for first in firsts_B]
        for rows in _together(lows_B):
            low = min(lows_B[rows])
            one_document = max(lasts_B[rows]) <= low
            size = (rows.stop - rows.start) * heads * (stop - start) * (end - low)
            yield Piece(rows, slice(start, stop), slice(low, end), one_document, slice(at, at + size))
            at += size


def _together(lows_B: Sequence[int]) -> Iterator[slice]:
    """Runs of rows whose first keys are alike enough for one product."""
    first, total, lowest = 0, 0, 0
    for row, low in enumerate(lows_B):
        together, least = total + low, min(lowest, low) if row > first else low
        if together - least * (row + 1 - first) > SPARE_KEYS * (row + 1 - first):
            yield slice(first, row)
            first, together, least = row, low, low
        total, lowest = together, least
    if lows_B:
        yield slice(first, len(lows_B))


def _scaled_rows(q_BKRTC: Tensor, piece: Piece) -> Tensor:
    """The queries of a piece divided by √C, the heads of a group in the rows: B×K×N×C."""
    return (q_BKRTC[piece.rows, :, :, piece.queries] * q_BKRTC.shape[-1] ** -0.5).flatten(2, 3)


def _hide(scores_BKNS: Tensor, starts_BT: Tensor, piece: Piece, keys: int) -> None:
    """Make −∞, in place, of the scores of keys that are later than the query or of another document."""
    block, offset = piece.queries.stop - piece.queries.start, keys - starts_BT.shape[1]
    first = piece.queries.start + offset if piece.one_document else piece.keys.start
    if piece.one_document and block == 1:
        return
    at_S = torch.arange(first, piece.keys.stop, dtype=torch.int32)
    hidden = at_S > torch.arange(piece.queries.start, piece.queries.stop, dtype=torch.int32)[:, None] + offset
    if not piece.one_document:
        hidden = (hidden | (at_S < starts_BT[piece.rows, piece.queries, None]))[:, None, None]
    bias = torch.zeros(hidden.shape, dtype=scores_BKNS.dtype).masked_fill_(hidden, float("-inf"))
    scores_BKNS.unflatten(2, (-1, block))[..., first - piece.keys.start :] += bias


def _kept_size(q_BHTC: Tensor, k_BKSC: Tensor) -> int:
    """Elements of the whole triangle, in blocks."""
    batch, heads, time, _ = q_BHTC.shape
    keys = k_BKSC.shape[2]
    stops = [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]
    return batch * heads * sum((stop - start) * (keys - time + stop) for start, stop in stops)
