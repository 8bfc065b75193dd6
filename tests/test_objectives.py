"""Objectives against naive references, and the counts that make a loss independent of how a batch is cut."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_parts import ONE_RANK, TINY, VOCABULARY, Pattern

from minimind.artifact import Artifact
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE, RowBatches
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import END_OF_TEXT, Tokenizer
from minimind.train import distillation
from minimind.train.objectives import (
    Reference,
    Tensors,
    count_pairs,
    count_tokens,
    distill,
    dpo,
    next_token,
    pair_log_probs,
    take_pairs,
)
from minimind.train.validation import HeldOut, validate

CPU = torch.device("cpu")


def exact(seed: int) -> Transformer:
    return Transformer(TINY, seed=seed, compute_dtype=torch.float64).double()


def grads(model: Transformer) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def naive_log_probs(model: Transformer, batch: Tensors) -> torch.Tensor:
    """log p of each label, 0 where ignored, the plain way."""
    logits_BTV = model(batch.tokens_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)
    logp_BT = logits_BTV.log_softmax(-1).gather(-1, batch.labels_BT.clamp(min=0)[..., None])[..., 0]
    return logp_BT * (batch.labels_BT != IGNORE)


def test_next_token_loss_is_the_sum_over_trained_labels() -> None:
    """The count and the sum must speak of the same tokens."""
    model, batch = exact(0), Pattern().batch(0)
    tensors = Tensors.of(batch, CPU)
    loss, sums = next_token().loss(model, tensors)
    torch.testing.assert_close(loss, -naive_log_probs(model, tensors).sum(), rtol=1e-10, atol=0)
    assert sums["loss"] is loss
    assert next_token().count(batch) == count_tokens(batch) == int((batch.labels_BT != IGNORE).sum())


def test_a_batch_without_trained_tokens_has_a_loss_of_zero_and_a_gradient() -> None:
    """It happens to a rank's slice of a chat batch, and must neither fail nor be NaN."""
    model, batch = exact(0), Pattern().batch(0)
    loss, _ = next_token().loss(model, Tensors.of(replace(batch, labels_BT=np.full_like(batch.labels_BT, IGNORE)), CPU))
    loss.backward()
    assert loss == 0
    assert all(g.abs().max() == 0 for g in grads(model))


def test_dpo_in_fp32_is_close_to_float64() -> None:
    """Summed log-probabilities of long answers are large, and their differences small."""
    batch, start = Tensors.of(Pattern(pairs=True).batch(0), CPU), exact(1)
    with torch.no_grad():
        known = Reference(*pair_log_probs(start, batch)[:2])
    wanted, got = exact(0), Transformer(TINY, seed=0)
    dpo(known, beta=0.15).loss(wanted, batch)[0].backward()
    dpo(Reference(known.chosen_P.float(), known.rejected_P.float()), beta=0.15).loss(got, batch)[0].backward()
    for one, other in zip(grads(got), grads(wanted), strict=True):
        assert (one - other).norm() <= 1e-4 * other.norm()


def test_pairs_stay_together_when_a_batch_is_cut() -> None:
    """A chosen row beside another pair's rejected row would train on noise, without any error."""
    batch = Pattern(pairs=True, rows=5).batch(0)
    assert count_pairs(batch) == 5
    part = take_pairs(batch, 2, 4)
    assert part.items_B.tolist() == [2, 3, 2, 3]
    assert np.array_equal(part.tokens_BT, batch.tokens_BT[[2, 3, 7, 8]])


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.0, 1.5), (0.5, 2.0)])
def test_distillation_agrees_with_the_formula(alpha: float, temperature: float) -> None:
    """Value and gradient of α·CE + (1−α)·T²·KL over trained tokens, in float64."""
    model, teacher, batch = exact(0), exact(1), Tensors.of(Pattern().batch(0), CPU)
    kept = batch.labels_BT != IGNORE
    student_NV = model(batch.tokens_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)[kept]
    with torch.no_grad():
        teacher_NV = teacher(batch.tokens_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT)[kept]
    p, q = (teacher_NV / temperature).softmax(-1), (student_NV / temperature).log_softmax(-1)
    kl = (p * (p.log() - q)).sum()
    cross_entropy = F.cross_entropy(student_NV, batch.labels_BT[kept], reduction="sum")
    wanted = alpha * cross_entropy + (1 - alpha) * temperature**2 * kl
    wanted.backward()
    wanted_grads = grads(model)
    loss, _ = distill(teacher, alpha=alpha, temperature=temperature).loss(model, batch)
    loss.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-9, atol=0)
    for got, want in zip(grads(model), wanted_grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-11)


def test_a_student_equal_to_its_teacher_has_no_divergence_and_no_gradient() -> None:
    """The other known point, in the training's own fp32: nothing but the labels may teach."""
    model, batch = Transformer(TINY), Tensors.of(Pattern().batch(0), CPU)
    loss, sums = distill(Transformer(TINY), alpha=0.0, temperature=1.5).loss(model, batch)
    loss.backward()
    assert sums["divergence"].item() == 0 == loss.item()
    assert all(g.abs().max() == 0 for g in grads(model))


@pytest.mark.parametrize(
    "shape",
    [
        TINY.replace(hidden_size=48, num_layers=3, num_heads=6),
        TINY.replace(num_experts=4, experts_per_token=2, num_shared_experts=1),
    ],
    ids=["wider and deeper", "experts"],
)
def test_a_teacher_of_another_shape_gives_its_divergence(shape: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is distilled is the distribution; and its logits are taken in chunks that nobody notices."""
    model, batch = exact(0), Tensors.of(Pattern().batch(0), CPU)
    teacher = Transformer(shape, seed=4, compute_dtype=torch.float64).double()
    found = []
    for tokens in (7, 10_000):
        monkeypatch.setattr(distillation, "CHUNK_TOKENS_CPU", tokens)
        loss, sums = distill(teacher, alpha=0.3, temperature=2.0).loss(model, batch)
        loss.backward()
        found.append((loss.detach(), sums["divergence"], *grads(model)))
    with torch.no_grad():
        p, q = (
            (m(batch.tokens_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT) / 2).softmax(-1)
            for m in (teacher, model)
        )
        kl_BT = (p * (p / q).log()).sum(-1)[batch.labels_BT != IGNORE]
    torch.testing.assert_close(found[0][1], kl_BT.sum(), rtol=1e-9, atol=0)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert all(p.grad is None for p in teacher.parameters())


def test_tokens_that_are_not_trained_teach_nothing_on_any_device() -> None:
    """A GPU masks where the CPU drops; both must give the same."""
    labels_N = torch.tensor([3, IGNORE, 5, 1, IGNORE])
    hidden_ND = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    student_VD, teacher_VD = torch.randn(2, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = []
    for apply in (distillation.distillation_loss, masked_distillation_loss):
        student_ND = hidden_ND.clone().requires_grad_()
        loss, *_ = apply(student_ND, student_VD, hidden_ND, teacher_VD, labels_N, alpha=0.4, temperature=2.0)
        loss.backward()
        found.append((loss.detach(), student_ND.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    assert found[0][1][1].abs().max() == 0


def masked_distillation_loss(*tensors: torch.Tensor, alpha: float, temperature: float) -> tuple[torch.Tensor, ...]:
    """As on a GPU: nothing is dropped."""
    return distillation._DistillationLoss.apply(*tensors, alpha, temperature, True)


def test_the_balance_loss_is_a_mean_and_kept_apart_from_the_loss() -> None:
    """What is logged as loss stays comparable with a dense model's."""
    shape = TINY.replace(num_experts=4, experts_per_token=2, balance_coefficient=0.5)
    model, batch = Transformer(shape), Pattern().batch(0)
    total, sums = next_token().loss(model, Tensors.of(batch, CPU))
    units = count_tokens(batch)
    assert total.item() == pytest.approx(sums["loss"].item() + sums["balance_loss"].item())
    assert 2 * 0.5 * 0.9 < sums["balance_loss"].item() / units < 2 * 0.5 * 2  # two layers; 1 when balanced


def test_bits_per_byte_counts_every_content_token_and_byte_once(
    token_artifacts: dict[str, Artifact], tokenizer: Tokenizer
) -> None:
    """The figure that compares tokenizers: bytes are those of the text, END_OF_TEXT is no content.

    A model that finds all tokens equally likely needs log2(V) bits for each.
    """
    tokens = TokenSet.open(token_artifacts["pretrain"].dir / "val")
    table = torch.tensor([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])
    batches = RowBatches(tokens, row_length=48, batch_rows=5, seed=3)
    model = Transformer(TINY)
    with torch.no_grad():
        model.output_weight.zero_()
    held_out = HeldOut(batches, batches.num_rows, 5)
    figures = validate(model, next_token(table), held_out, ONE_RANK, sample=False)
    content = int((np.asarray(tokens.tokens) != END_OF_TEXT).sum())
    bits = content * math.log2(VOCABULARY) / int(tokens.bytes.sum())
    assert figures["validation_bits_per_byte"] == pytest.approx(bits, rel=1e-6)
    assert figures["validation_loss"] == pytest.approx(math.log(VOCABULARY), rel=1e-6)


def test_validation_sees_every_row_once_however_it_is_cut(token_artifacts: dict[str, Artifact]) -> None:
    """The last batch wraps into the next epoch; those rows must not count twice."""
    tokens = TokenSet.open(token_artifacts["pretrain"].dir / "val")
    model = Transformer(TINY)
    found = []
    for size in (1, 4, 7):
        batches = RowBatches(tokens, row_length=48, batch_rows=size, seed=size)
        found.append(validate(model, next_token(), HeldOut(batches, batches.num_rows, size), ONE_RANK, sample=False))
    assert found[0]["validation_loss"] == pytest.approx(found[1]["validation_loss"], rel=1e-5)
    assert found[0]["validation_loss"] == pytest.approx(found[2]["validation_loss"], rel=1e-5)
