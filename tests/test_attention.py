"""All attention paths against a plain float64 one, forward and gradient, for every kind of mask."""

import pytest
import torch
from torch import Tensor

from minimind.model import attention_blocks
from minimind.model.attention import Kind, attend, document_starts, visible_keys
from minimind.model.attention_blocks import blocked_attention
from minimind.model.layers import rotary_tables, rotate

HEADS, KV_HEADS, SIZE = 6, 2, 8


def inputs(
    time: int, keys: int, *, dtype: torch.dtype = torch.float64, heads: tuple[int, int] = (HEADS, KV_HEADS)
) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(time)
    shapes = ((2, heads[0], time, SIZE), (2, heads[1], keys, SIZE), (2, heads[1], keys, SIZE))
    return tuple(torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).requires_grad_() for s in shapes)


def plain_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, visible_BTS: Tensor) -> Tensor:
    """The definition, in float64, with key heads repeated and a boolean mask."""
    q, k, v = q_BHTC.double(), k_BKSC.double(), v_BKSC.double()
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
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


def attended(kind: Kind, documents_BS: Tensor | None, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """By one of the paths, as the model calls it, B×H×T×C."""
    visible = visible_keys(
        kind, documents_BS, time=q.shape[2], keys=k.shape[2], dtype=q.dtype, device=torch.device("cpu")
    )
    return attend(q, k, v, visible).transpose(1, 2)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 queries and keys from multiples of 4 on."""
    monkeypatch.setattr(attention_blocks, "BLOCK", 8)
    monkeypatch.setattr(attention_blocks, "ROUNDING", 4)


def assert_equal_with_gradients(actual: Tensor, expected: Tensor, inputs: tuple[Tensor, ...]) -> None:
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, cotangent), torch.autograd.grad(expected, inputs, cotangent)
    )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("time", "keys"), [(1, 1), (7, 7), (20, 20), (33, 33), (1, 30), (19, 30)])
def test_blocked_attention_and_its_gradient_equal_the_definition(time: int, keys: int, packed: bool) -> None:
    """With blocks of 8: rows shorter than a block, whole blocks, a ragged last one, and continuing a cache."""
    documents_BS = packed_documents(keys) if packed else None
    q, k, v = inputs(time, keys)
    expected = plain_attention(q, k, v, visible(documents_BS, time, keys))
    assert_equal_with_gradients(attended("blocked", documents_BS, q, k, v), expected, (q, k, v))


LAYOUTS = {
    "documents of one token": [[1] * 33, [1, 31, 1]],
    "borders on the borders of blocks": [[8, 8, 16, 1], [16, 16, 1]],
    "one document in one row, many in the other": [[33], [3, 9, 2, 1, 11, 7]],
    "rows alike": [[5, 28], [5, 28]],
    "padding alone, and padding after a block": [[-33], [20, -13]],
}


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("heads", [(6, 2), (6, 6), (6, 1)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_documents_of_every_length_are_isolated(layout: str, heads: tuple[int, int]) -> None:
    """Ragged rows, forward and gradient, whatever the number of query heads to a key head."""
    documents_BS = torch.tensor(
        [
            [n if length > 0 else -1 for n, length in enumerate(row) for _ in range(abs(length))]
            for row in LAYOUTS[layout]
        ]
    )
    q, k, v = inputs(33, 33, heads=heads)
    expected = plain_attention(q, k, v, visible(documents_BS, 33, 33))
    assert_equal_with_gradients(attended("blocked", documents_BS, q, k, v), expected, (q, k, v))


@pytest.mark.usefixtures("small_blocks")
def test_keys_of_earlier_documents_are_not_looked_at() -> None:
    """What packing gains on long rows: the products stop where the document starts. One of 33 keys would be 33 × 33."""
    starts_BT = document_starts(torch.arange(64).div(8, rounding_mode="floor")[None])
    pieces = list(attention_blocks._pieces(starts_BT, HEADS, 64))
    assert [piece.keys.stop - piece.keys.start for piece in pieces] == [8] * 8
    assert all(piece.one_document for piece in pieces)
    whole = list(attention_blocks._pieces(torch.zeros(3, 64, dtype=torch.int32), HEADS, 64))
    assert [(piece.rows, piece.keys.stop) for piece in whole] == [(slice(0, 3), 8 * n) for n in range(1, 9)]


def test_the_start_of_a_document_is_where_its_number_changes() -> None:
    """Numbers need not ascend, and padding is a document like others."""
    documents_BS = torch.tensor([[4, 4, 2, 7, 7, -1], [-1, -1, 0, 0, 0, 0]])
    assert document_starts(documents_BS).tolist() == [[0, 0, 2, 3, 3, 5], [0, 0, 2, 2, 2, 2]]


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
    actual = attended("blocked", documents_BS, q, k, v)
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.01 * expected.norm()
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(actual, (q, k, v), cotangent.bfloat16())
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, (q, k, v), cotangent), strict=True):
        assert (gradient - exact).norm() < 0.015 * exact.norm()


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_frozen_projections_leave_the_other_gradients_as_they_are(wanted: int) -> None:
    """LoRA on queries alone: keys and values need none."""
    tensors = inputs(20, 20)
    every = torch.autograd.grad(blocked_attention(*tensors).sum(), tensors)
    for number, tensor in enumerate(tensors):
        tensor.requires_grad_(number == wanted)
    alone = torch.autograd.grad(blocked_attention(*tensors).sum(), tensors[wanted])
    torch.testing.assert_close(alone[0], every[wanted])


@pytest.mark.parametrize("packed", [False, True])
def test_without_a_gradient_the_same_comes_out_and_nothing_is_kept(packed: bool) -> None:
    """Validation and decoding go past autograd."""
    tensors = inputs(140, 140)
    starts_BT = document_starts(packed_documents(140)) if packed else None
    trained = blocked_attention(*tensors, starts_BT)
    with torch.no_grad():
        measured = blocked_attention(*tensors, starts_BT)
    assert trained.grad_fn is not None
    assert torch.equal(trained, measured)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["fused", "flex"])
@pytest.mark.parametrize(("time", "keys"), [(9, 9), (1, 9), (4, 9), (200, 200)])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_the_accelerators_paths_equal_the_definition(kind: Kind, time: int, keys: int, packed: bool) -> None:
    """Both run on the CPU too: the masks and head groups handed to them are checked here."""
    documents_BS = packed_documents(keys) if packed else None
    q, k, v = (x.detach() for x in inputs(time, keys))  # flex has no gradient on a CPU
    actual = attended(kind, documents_BS, q, k, v)
    torch.testing.assert_close(actual, plain_attention(q, k, v, visible(documents_BS, time, keys)))


def test_no_bias_is_built_where_it_is_not_needed() -> None:
    """A bias of T×S would cost memory for nothing: plain rows, and all rows on the CPU and by flex."""
    documents_BS = packed_documents(16)

    def bias(kind: Kind, documents_BS: Tensor | None, time: int) -> Tensor | None:
        made = visible_keys(kind, documents_BS, time=time, keys=16, dtype=torch.float32, device=torch.device("cpu"))
        return made.bias_BTS

    assert bias("fused", None, 16) is None
    assert bias("fused", None, 1) is None
    assert bias("fused", None, 4) is not None
    assert bias("auto", documents_BS, 16) is None
    assert bias("flex", documents_BS, 16) is None


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
