"""The fused cross-entropy against torch's own in float64: values, gradients, and what it does not compute."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from minimind.model import cross_entropy
from minimind.model.cross_entropy import IGNORE, label_log_probs, linear_cross_entropy

TOKENS, WIDTH, VOCABULARY = 37, 12, 50


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 rows, so that 37 tokens make whole chunks and a ragged last one."""
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS_CPU", 8 * VOCABULARY)


def problem(*, ignored: float = 0.3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, a weight (both wanting gradients) and labels of which a share is ignored."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, dtype=torch.float64, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, dtype=torch.float64, generator=generator)
    weight = weight.to(torch.promote_types(dtype, torch.float32)).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    return hidden, weight, labels.masked_fill(torch.rand(TOKENS, generator=generator) < ignored, IGNORE)


def exact_losses(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(hidden.double() @ weight.double().T, labels, ignore_index=IGNORE, reduction="none")


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_the_sum_and_its_gradients_equal_torchs(ignored: float) -> None:
    """Also with no label at all, where the sum is 0 and gradients are zeros rather than missing."""
    hidden, weight, labels = problem(ignored=ignored)
    expected = exact_losses(hidden, weight, labels).sum()
    actual = linear_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(
        torch.autograd.grad(3.7 * actual, (hidden, weight)), torch.autograd.grad(3.7 * expected, (hidden, weight))
    )


@pytest.mark.parametrize("ignored", [0.0, 0.3, 1.0])
def test_log_probs_and_their_gradients_equal_torchs(ignored: float) -> None:
    """Each token's gradient has a factor of its own, as in a preference objective."""
    hidden, weight, labels = problem(ignored=ignored)
    expected, actual = -exact_losses(hidden, weight, labels), label_log_probs(hidden, weight, labels)
    torch.testing.assert_close(actual, expected)
    factors = torch.linspace(-2, 3, TOKENS, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad(actual, (hidden, weight), factors),
        torch.autograd.grad(expected, (hidden, weight), factors),
    )


def test_gradients_equal_finite_differences() -> None:
    """A witness that knows no calculus."""
    hidden, weight, labels = problem()
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, labels), (hidden, weight), fast_mode=True)
    assert torch.autograd.gradcheck(lambda h, w: label_log_probs(h, w, labels), (hidden, weight), fast_mode=True)


def test_masking_equals_dropping_the_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU ignored rows are masked instead of dropped; the same numbers must come out."""
    hidden, weight, labels = problem()
    dropped = [linear_cross_entropy(hidden, weight, labels), label_log_probs(hidden, weight, labels).exp().sum()]
    monkeypatch.setattr(cross_entropy, "drop_ignored", lambda hidden, labels: (hidden, labels, None))
    masked = [linear_cross_entropy(hidden, weight, labels), label_log_probs(hidden, weight, labels).exp().sum()]
    for one, other in zip(dropped, masked, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(
            torch.autograd.grad(one, (hidden, weight)), torch.autograd.grad(other, (hidden, weight))
        )


@pytest.mark.parametrize("function", [linear_cross_entropy, label_log_probs])
@pytest.mark.parametrize("wanted", ["hidden", "weight"])
def test_one_of_the_two_gradients_may_be_unwanted(function: object, wanted: str) -> None:
    """LoRA freezes the weight; a probe freezes the trunk."""
    hidden, weight, labels = problem()
    expected = dict(
        zip(
            ("hidden", "weight"),
            torch.autograd.grad(exact_losses(hidden, weight, labels).sum(), (hidden, weight)),
            strict=True,
        )
    )[wanted]
    (weight if wanted == "hidden" else hidden).requires_grad_(False)
    function(hidden, weight, labels).sum().backward()
    kept, frozen = (hidden, weight) if wanted == "hidden" else (weight, hidden)
    assert frozen.grad is None
    torch.testing.assert_close(kept.grad.abs(), expected.abs())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision_is_within_rounding_and_the_weights_gradient_is_fp32(
    dtype: torch.dtype, tolerance: float
) -> None:
    """bf16 hidden states against fp32 weights is how training calls it."""
    hidden, weight, labels = problem(dtype=dtype)
    expected = exact_losses(hidden, weight, labels).sum()
    actual = linear_cross_entropy(hidden, weight, labels)
    assert actual.dtype == torch.float32
    assert actual.item() == pytest.approx(expected.item(), rel=tolerance)
    gradients = torch.autograd.grad(actual, (hidden, weight))
    assert [g.dtype for g in gradients] == [dtype, torch.float32]
    for gradient, exact in zip(gradients, torch.autograd.grad(expected, (hidden, weight)), strict=True):
        assert (gradient - exact).norm() < tolerance * exact.norm()


def test_a_scale_that_bf16_cannot_hold_is_applied_exactly() -> None:
    """Dividing by the number of tokens must not shrink the trunk's gradient against the embedding's."""
    hidden, weight, labels = problem(dtype=torch.bfloat16)
    plain = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels), hidden)[0].double()
    scaled = torch.autograd.grad(linear_cross_entropy(hidden, weight, labels) / 3.1, hidden)[0].double()
    applied = (scaled * plain).sum() / plain.square().sum()
    assert applied.item() == pytest.approx(1 / 3.1, rel=4e-4)  # rounded to bf16 first it would be 1e-3 off


def test_confident_and_huge_logits_stay_finite() -> None:
    """log Σ exp is taken from the largest logit; a label that is far from likely must not become −∞."""
    hidden = torch.tensor([[1000.0, 0.0], [0.0, 1.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    labels = torch.tensor([1, 2])
    loss = linear_cross_entropy(hidden, weight, labels)
    assert loss.item() == pytest.approx(2000 + exact_losses(hidden, weight, labels)[1].item())
    assert all(g.isfinite().all() for g in torch.autograd.grad(loss, (hidden, weight)))


def test_validation_pays_for_the_forward_product_alone() -> None:
    """Gradients are formed in the forward pass, so it has to notice that nobody wants them."""
    hidden, weight, labels = problem(ignored=0.0)
    product = 2 * TOKENS * WIDTH * VOCABULARY
    with torch.no_grad(), FlopCounterMode(display=False) as validation:
        linear_cross_entropy(hidden, weight, labels)
    with FlopCounterMode(display=False) as training:
        linear_cross_entropy(hidden, weight, labels)
    assert (validation.get_total_flops(), training.get_total_flops()) == (product, 3 * product)


def test_ignored_tokens_cost_nothing_on_the_cpu() -> None:
    """Fine-tuning trains a third of its tokens; the projection is the largest product of a small model."""
    hidden, weight, labels = problem()
    with FlopCounterMode(display=False) as counter:
        linear_cross_entropy(hidden, weight, labels)
    assert counter.get_total_flops() == 3 * 2 * int((labels != IGNORE).sum()) * WIDTH * VOCABULARY


def test_chunks_cover_every_row_once() -> None:
    """Neither a gap nor an overlap, for counts around a multiple of the chunk."""
    for rows in (0, 1, 7, 8, 9, 16, 37):
        chunks = cross_entropy._chunks(torch.empty(rows, WIDTH), torch.empty(VOCABULARY, WIDTH))
        assert sum(stop - start for start, stop in chunks) == rows
        assert all(before[1] == after[0] for before, after in pairwise(chunks))
        assert all(0 < stop - start <= 8 for start, stop in chunks)
