"""Both attention paths against a plain float64 one, forward and gradient, for every kind of mask."""

import pytest
import torch
from torch import Tensor

from minimind.model import attention
from minimind.model.attention import attention_bias, blocked_attention, fused_attention
from minimind.model.layers import rotary_tables, rotate

HEADS, KV_HEADS, SIZE = 6, 2, 8


def inputs(time: int, keys: int, *, dtype: torch.dtype = torch.float64, batch: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(time)
    shapes = ((batch, HEADS, time, SIZE), (batch, KV_HEADS, keys, SIZE), (batch, KV_HEADS, keys, SIZE))
    return tuple(torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for s in shapes)


def plain_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, visible_BTS: Tensor) -> Tensor:
    """The definition, in float64, with key heads repeated and a boolean mask."""
    q, k, v = q_BHTC.double(), k_BKSC.double(), v_BKSC.double()
    k, v = k.repeat_interleave(HEADS // KV_HEADS, 1), v.repeat_interleave(HEADS // KV_HEADS, 1)
    scores = torch.einsum("bhtc,bhsc->bhts", q, k) / SIZE**0.5
    return scores.masked_fill(~visible_BTS[:, None], float("-inf")).softmax(-1) @ v


def packed_documents(time: int) -> Tensor:
    """Two rows of several documents each; the second ends in padding."""
    generator = torch.Generator().manual_seed(time)
    starts = torch.rand(2, time, generator=generator) < 0.03
    documents_BS = starts.cumsum(1).to(torch.int32)
    documents_BS[1, time - time // 3 :] = -1
    return documents_BS


def visible(documents_BS: Tensor | None, time: int, keys: int, batch: int = 2) -> Tensor:
    """Written the slow way, as a loop over pairs, to be independent of the code under test."""
    mask = torch.zeros(batch, time, keys, dtype=torch.bool)
    for b in range(batch):
        for t in range(time):
            for s in range(keys - time + t + 1):
                mask[b, t, s] = documents_BS is None or bool(documents_BS[b, keys - time + t] == documents_BS[b, s])
    return mask


def bias_of(documents_BS: Tensor | None, time: int, keys: int, dtype: torch.dtype = torch.float64) -> Tensor | None:
    return attention_bias(documents_BS, time=time, keys=keys, dtype=dtype, device=torch.device("cpu"))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("time", "keys"), [(1, 1), (7, 7), (20, 20), (33, 33), (1, 30), (19, 30)])
def test_blocked_attention_and_its_gradient_equal_the_definition(
    time: int, keys: int, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With blocks of 8: rows shorter than a block, whole blocks, a ragged last one, and continuing a cache."""
    monkeypatch.setattr(attention, "BLOCK", 8)
    documents_BS = packed_documents(keys) if packed else None
    q, k, v = inputs(time, keys)
    expected = plain_attention(q, k, v, visible(documents_BS, time, keys))
    actual = blocked_attention(q, k, v, bias_of(documents_BS, time, keys))
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.autograd.grad(actual, (q, k, v), cotangent), torch.autograd.grad(expected, (q, k, v), cotangent)
    )


@pytest.mark.parametrize("packed", [False, True])
def test_blocked_attention_in_bf16_is_within_rounding_of_the_definition(packed: bool) -> None:
    """The dtype of training on a CPU. 300 tokens make blocks of the real size."""
    documents_BS = packed_documents(300) if packed else None
    q, k, v = inputs(300, 300, dtype=torch.bfloat16)
    at = torch.arange(300)
    mask = (at <= at[:, None]).expand(2, 300, 300)
    if documents_BS is not None:
        mask = mask & (documents_BS[:, :, None] == documents_BS[:, None, :])
    expected = plain_attention(q, k, v, mask)
    actual = blocked_attention(q, k, v, bias_of(documents_BS, 300, 300, torch.bfloat16))
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.01 * expected.norm()
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(actual, (q, k, v), cotangent.bfloat16())
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, (q, k, v), cotangent), strict=True):
        assert (gradient - exact).norm() < 0.015 * exact.norm()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("time", "keys"), [(9, 9), (1, 9), (4, 9)])
def test_the_accelerators_path_equals_the_definition(time: int, keys: int, packed: bool) -> None:
    """`scaled_dot_product_attention` runs on the CPU too: the masks and head groups handed to it are checked here."""
    documents_BS = packed_documents(keys) if packed else None
    q, k, v = inputs(time, keys)
    actual = fused_attention(q, k, v, bias_of(documents_BS, time, keys))
    torch.testing.assert_close(actual, plain_attention(q, k, v, visible(documents_BS, time, keys)))


def test_no_bias_is_built_where_causality_is_enough() -> None:
    """Plain rows take the path without a mask; a bias of T×T would cost memory for nothing."""
    assert bias_of(None, 16, 16) is None
    assert bias_of(None, 1, 16) is None
    assert bias_of(None, 4, 16) is not None


def test_rotation_keeps_lengths_and_depends_on_the_distance_only() -> None:
    """What makes RoPE a *relative* position: q at t and k at s meet as q at t+9 and k at s+9 do."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 1, SIZE, dtype=torch.float64, generator=generator) for _ in range(2))
    frequencies = torch.tensor([1.0, 0.3, 0.1, 0.01])

    def turned(x: Tensor, position: int) -> Tensor:
        return rotate(x, rotary_tables(frequencies, torch.tensor([[position]]), torch.float64))

    torch.testing.assert_close(turned(q, 100).norm(), q.norm())
    torch.testing.assert_close((turned(q, 7) * turned(k, 3)).sum(), (turned(q, 16) * turned(k, 12)).sum())
    assert not torch.isclose((turned(q, 7) * turned(k, 3)).sum(), (turned(q, 7) * turned(k, 4)).sum())


def test_the_gradient_of_the_rotation_equals_autograds() -> None:
    """It is written by hand (the opposite angle)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 5, SIZE, dtype=torch.float64, generator=generator, requires_grad=True)
    frequencies = torch.tensor([1.0, 0.3, 0.1, 0.01])
    cos, sin = rotary_tables(frequencies, torch.arange(5)[None], torch.float64)
    first, second = x.chunk(2, -1)
    plain = x * cos + torch.cat((-second, first), -1) * torch.cat((sin, sin), -1)
    torch.testing.assert_close(rotate(x, (cos, sin)), plain)
    cotangent = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    expected = torch.autograd.grad(plain, x, cotangent)
    torch.testing.assert_close(torch.autograd.grad(rotate(x, (cos, sin)), x, cotangent), expected)
