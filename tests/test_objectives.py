"""Objectives against naive references, and the counts that make a loss independent of how a batch is cut."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_parts import ONE_RANK, TINY, VOCABULARY, Pattern

from minimind.artifact import Artifact
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE, RowBatches
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import END_OF_TEXT, Tokenizer
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


def naive_dpo(model: Transformer, start: Transformer, batch: Tensors, beta: float, smoothing: float) -> torch.Tensor:
    with torch.no_grad():
        ref_chosen, ref_rejected = naive_log_probs(start, batch).sum(1).chunk(2)
    chosen, rejected = naive_log_probs(model, batch).sum(1).chunk(2)
    margin = beta * ((chosen - ref_chosen) - (rejected - ref_rejected))
    return -((1 - smoothing) * F.logsigmoid(margin) + smoothing * F.logsigmoid(-margin)).sum()


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


def untouched(model: Transformer, batch: Tensors) -> Reference:
    with torch.no_grad():
        chosen_P, rejected_P, _ = pair_log_probs(model, batch)
    return Reference(chosen_P, rejected_P)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_of_an_untouched_policy_is_ln_2(smoothing: float) -> None:
    """The known starting point of every DPO curve; anything else means the reference is not the policy."""
    model, batch = Transformer(TINY), Tensors.of(Pattern(pairs=True).batch(0), CPU)
    loss, sums = dpo(untouched(model, batch), beta=0.15, label_smoothing=smoothing).loss(model, batch)
    assert loss.item() / 8 == pytest.approx(math.log(2), rel=1e-6)
    assert sums["accuracy"].item() / 8 == 0.5
    assert sums["reward_margin"].item() == 0
    assert sums["drift"].item() == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_dpo_loss_and_gradient_agree_with_a_float64_reference(smoothing: float) -> None:
    """Rafailov et al. eq. 7 and 8, written out plainly; and the fp32 path stays close to it."""
    batch = Tensors.of(Pattern(pairs=True).batch(0), CPU)
    model, start = exact(0), exact(1)
    naive_dpo(model, start, batch, 0.15, smoothing).backward()
    wanted = grads(model)
    reference = untouched(start, batch)
    loss, sums = dpo(reference, beta=0.15, label_smoothing=smoothing).loss(model, batch)
    loss.backward()
    for got, want in zip(grads(model), wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    single = Transformer(TINY, seed=0)
    single_reference = Reference(reference.chosen_P.float(), reference.rejected_P.float())
    dpo(single_reference, beta=0.15, label_smoothing=smoothing).loss(single, batch)[0].backward()
    for got, want in zip(grads(single), wanted, strict=True):
        assert (got - want).norm() <= 1e-4 * want.norm()
    assert 0 <= sums["accuracy"] <= 8


def test_dpo_finds_the_reference_by_the_number_of_the_pair() -> None:
    """Batches are shuffled; the third pair of a batch is not the third of the reference."""
    model, batch = exact(0), Pattern(pairs=True).batch(0)
    tensors = Tensors.of(batch, CPU)
    reference = untouched(model, tensors)
    numbers = torch.tensor([5, 3, 9, 0, 7, 1, 2, 4])
    table = torch.full((10,), 1e6, dtype=torch.float64)
    scattered = Reference(
        table.index_copy(0, numbers, reference.chosen_P), table.index_copy(0, numbers, reference.rejected_P)
    )
    shuffled = replace(tensors, items_B=numbers.repeat(2))
    assert dpo(scattered, beta=1.0).measure(model, shuffled)["loss"].item() == pytest.approx(8 * math.log(2))


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


def test_a_student_equal_to_its_teacher_has_no_divergence() -> None:
    """The other known point: then only the labels teach."""
    model, batch = exact(0), Tensors.of(Pattern().batch(0), CPU)
    sums = distill(exact(0), alpha=0.5, temperature=1.5).measure(model, batch)
    assert sums["divergence"].item() == pytest.approx(0, abs=1e-12)


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
