"""Rows of other kinds beside preference pairs: what stands in a batch, what they add to the loss, whole trainings."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resume_parts import COMMON, assert_equal_results, figures_of, interrupted, run_of
from torch import Tensor
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact
from minimind.data.kinds import RowKind
from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.tokens.batches import PairBatches
from minimind.tokens.layout import IGNORE, Batch
from minimind.tokens.pairs_beside import PairsBeside
from minimind.tokens.token_set import TokenSet
from minimind.train import job
from minimind.train.objectives import Reference, Tensors, next_token, preference
from minimind.train.preference_losses import sigmoid
from minimind.train.splits import rows_read
from minimind.train.stage_configs import DpoConfig

Tokens = dict[RowKind, Artifact]
CPU, PAIRS, LONGEST, TEXT = torch.device("cpu"), 4, 400, 24
BESIDE: dict[RowKind, float] = {"pretrain": 0.7, "chat": 0.4}


def opened(tokens: Tokens, kind: RowKind) -> TokenSet:
    return TokenSet.open(tokens[kind].dir / "train")


@pytest.fixture
def batches(token_artifacts: Tokens) -> PairsBeside:
    return PairsBeside(
        opened(token_artifacts, "preference"),
        [opened(token_artifacts, kind) for kind in BESIDE],
        batch_pairs=PAIRS,
        max_length=LONGEST,
        text_length=TEXT,
        seed=3,
    )


@pytest.fixture
def alone(token_artifacts: Tokens) -> PairBatches:
    return PairBatches(opened(token_artifacts, "preference"), batch_pairs=PAIRS, max_length=LONGEST, seed=3)


def exact(seed: int) -> Transformer:
    return Transformer(TINY, seed=seed, compute_dtype=torch.float64).double()


def gradient(model: Transformer, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def pieces_of(batch: Batch, number: int) -> Batch:
    """The sides of another token set as plain rows, each of them a document of its own."""
    kept = batch.rows((1 + number) * PAIRS, (2 + number) * PAIRS)
    return replace(kept, documents_BT=np.where(kept.documents_BT >= 0, 0, -1))


def test_pairs_are_what_they_are_alone_and_pieces_stand_beside_each(
    batches: PairsBeside, alone: PairBatches, token_artifacts: Tokens
) -> None:
    """Whatever is read beside them, the same pairs come at the same step."""
    sets = [opened(token_artifacts, kind) for kind in ("preference", *BESIDE)]
    for step in (0, 5, alone.steps_per_epoch):
        batch, pairs, pieces = batches.batch(step), alone.batch(step), batches.pieces(step)
        assert len(batch) == 4 * PAIRS and batch.items_B[: 2 * PAIRS].tolist() == pairs.items_B.tolist()
        assert np.bincount(pieces.token_sets).tolist() == [2 * PAIRS, PAIRS, PAIRS]
        width = pairs.tokens_BT.shape[1]
        for name in ("labels_BT", "documents_BT"):
            np.testing.assert_array_equal(getattr(batch, name)[: 2 * PAIRS, :width], getattr(pairs, name))
        assert (batch.documents_BT[: 2 * PAIRS, width:] == -1).all()
        assert sorted(set(batch.documents_BT.flatten().tolist())) == list(range(-1, 4 * PAIRS))
        for at, number in enumerate(pieces.token_sets.tolist()):
            own, row, length = sets[number], pieces.rows[at], pieces.lengths[at]
            first = int(own.offsets[pieces.documents[at]] + pieces.starts[at])
            ids = np.asarray(own.tokens[first : first + length + 1])
            assert batch.tokens_BT[row, :length].tolist() == ids[:-1].tolist()
            assert (batch.documents_BT[row, length:] == -1).all() and (batch.labels_BT[row, length:] == IGNORE).all()
            if number == 1:
                assert 0 < length <= TEXT
                assert batch.labels_BT[row, :length].tolist() == ids[1:].tolist(), "every token of a text is learnt"
            if number == 2:
                assert length == len(own.document(pieces.documents[at])), "a conversation stands whole"
                assert 0 < (batch.labels_BT[row] != IGNORE).sum() < length, "only its answers are learnt"


def test_every_token_beside_the_pairs_comes_once_an_epoch(batches: PairsBeside, token_artifacts: Tokens) -> None:
    """No document is more often beside the pairs than another."""
    for number, kind in enumerate(BESIDE, 1):
        tokens = opened(token_artifacts, kind)
        count = len(tokens.plan(TEXT if kind == "pretrain" else tokens.longest_document).documents)
        seen, left = np.zeros(tokens.num_tokens, np.int64), count
        for step in range(-(-count // PAIRS)):
            pieces = batches.pieces(step)
            for at in np.flatnonzero(pieces.token_sets == number)[:left].tolist():
                first = int(tokens.offsets[pieces.documents[at]] + pieces.starts[at])
                seen[first : first + pieces.lengths[at]] += 1
            left -= PAIRS
        assert (seen == 1).all()


def test_the_loss_is_that_of_the_pairs_and_the_weighted_losses_of_what_is_beside_them(
    batches: PairsBeside, alone: PairBatches
) -> None:
    """Value and gradient in float64, for a batch as a whole and cut into parts, which ranks do."""
    model, loss, count = exact(0), partial(sigmoid, beta=0.3), alone.num_pairs
    reference = Reference(*torch.linspace(-90.0, -70.0, 2 * count, dtype=torch.float64).reshape(2, count))
    batch = batches.batch(1)
    of_pairs, _ = preference(loss, reference).loss(model, Tensors.of(alone.batch(1), CPU))
    means = []
    for number in range(1, 1 + len(BESIDE)):
        rows = pieces_of(batch, number)
        one_by_one = [Tensors.of(rows.rows(row, row + 1), CPU) for row in range(PAIRS)]
        means.append(sum(next_token().loss(model, row)[0] / row.num_trained for row in one_by_one))
    wanted = of_pairs + sum(weight * mean for weight, mean in zip(BESIDE.values(), means, strict=True))
    wanted_gradient = gradient(model, wanted)

    beside = preference(loss, reference, beside=BESIDE)
    assert beside.count(batch) == beside.items(batch) == PAIRS
    for cuts in ((0, PAIRS), (0, 1, PAIRS)):
        parts = [
            beside.loss(model, Tensors.of(beside.take(batch, *ends), CPU)) for ends in zip(cuts, cuts[1:], strict=False)
        ]
        total = sum(part for part, _ in parts)
        torch.testing.assert_close(total, wanted, rtol=1e-10, atol=0)
        torch.testing.assert_close(gradient(model, total), wanted_gradient, rtol=1e-8, atol=1e-12)
        for name, figure in {"loss": of_pairs, "pretrain_loss": means[0], "chat_loss": means[1]}.items():
            torch.testing.assert_close(sum(sums[name] for _, sums in parts), figure, rtol=1e-10, atol=0)


def config_of(**changes: Any) -> DpoConfig:
    settings = {**COMMON, "tokens": 6 * 2400, "length": LONGEST, "batch_tokens": 2400, "micro_tokens": 800}
    return DpoConfig(**{**settings, "beside": BESIDE, "text_length": TEXT, **changes})


def trained(
    config: DpoConfig, directory: Path, tokens: Tokens, tokenizer: Artifact, base: Path, **how: Any
) -> list[dict[str, Any]]:
    """The figures of the lines of its log."""
    directory.mkdir()
    run = run_of("dpo", config, directory, tokens, tokenizer, base)
    if how:
        interrupted(run, **how)
    job.run_rank(run, ONE_RANK)
    return [figures for _, figures in figures_of(directory)]


def test_a_training_keeps_what_it_reads_and_goes_on_where_it_was_killed(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is learnt, held-out pairs are measured without it, and a resumed training ends in the same bytes."""
    torch.set_num_threads(1)
    given = (token_artifacts, tokenizer_artifact, base)
    told = trained(config_of(checkpoint_steps=2), tmp_path / "whole", *given)
    for kind in BESIDE:
        losses = [figures[f"{kind}_loss"] for figures in told if f"{kind}_loss" in figures]
        assert losses[-1] < losses[0] < 2 * np.log(TINY.vocab_size)
    assert told[-1]["validation_accuracy"] >= 0 and "validation_chat_loss" not in told[-1]
    trained(config_of(checkpoint_steps=2), tmp_path / "killed", *given, after=4, monkeypatch=monkeypatch)
    assert_equal_results(tmp_path / "whole", tmp_path / "killed")


def test_losses_without_a_reference_have_it_too(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, base: Path, tmp_path: Path
) -> None:
    """It is beside whatever is made of the pairs."""
    config = config_of(tokens=2400, loss="simpo", beta=2.0, target_margin=0.5)
    assert trained(config, tmp_path / "simpo", token_artifacts, tokenizer_artifact, base)[0]["chat_loss"] > 0


def test_the_settings_say_what_is_read(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, base: Path, tmp_path: Path
) -> None:
    """A training that is not given what it is to read says so before it begins."""
    both = {"tokens_pretrain": "pretrain", "tokens_chat": "chat"}
    assert rows_read(config_of(), ["preference"]) == {"tokens": "preference", **both}
    assert rows_read(config_of(beside={}), ["preference"]) == {"tokens": "preference"}
    run = run_of("dpo", config_of(), tmp_path, token_artifacts, tokenizer_artifact, base)
    with pytest.raises(ConfigError, match="was given no input `tokens_pretrain`"):
        job.run_rank(run.replace(inputs={n: i for n, i in run.inputs.items() if n != "tokens_pretrain"}), ONE_RANK)
    swapped = {**run.inputs, "tokens_pretrain": token_artifacts["chat"].dir}
    with pytest.raises(ConfigError, match="`tokens_pretrain` has chat rows"):
        job.run_rank(run.replace(inputs=swapped), ONE_RANK)
