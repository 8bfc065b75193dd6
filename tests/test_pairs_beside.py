"""Plain text beside preference pairs: what stands in a batch, what it adds to the loss, and a whole training."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from minimind.tokens.pairs_beside_text import PairsBesideText
from resume_parts import COMMON, assert_equal_results, figures_of, interrupted, run_of
from torch import Tensor
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact
from minimind.data.kinds import RowKind
from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.tokens.batches import PairBatches
from minimind.tokens.layout import IGNORE, Batch
from minimind.tokens.token_set import TokenSet
from minimind.train import job
from minimind.train.objectives import Reference, Tensors, TextBeside, next_token, preference
from minimind.train.preference_losses import sigmoid
from minimind.train.splits import rows_read
from minimind.train.stage_configs import DpoConfig

Tokens = dict[RowKind, Artifact]
CPU, PAIRS, LONGEST, TEXT = torch.device("cpu"), 4, 400, 24


def opened(tokens: Tokens, kind: RowKind) -> TokenSet:
    return TokenSet.open(tokens[kind].dir / "train")


@pytest.fixture
def batches(token_artifacts: Tokens) -> PairsBesideText:
    return PairsBesideText(
        opened(token_artifacts, "preference"),
        opened(token_artifacts, "pretrain"),
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


def texts_of(batch: Batch) -> Batch:
    """The third sides as plain rows, each of them a document of its own."""
    third = len(batch) // 3
    kept = batch.rows(2 * third, 3 * third)
    return Batch(
        kept.tokens_BT, kept.labels_BT, np.where(kept.documents_BT >= 0, 0, -1), kept.positions_BT, kept.items_B
    )


def test_pairs_are_what_they_are_alone_and_a_text_stands_beside_each(
    batches: PairsBesideText, alone: PairBatches, token_artifacts: Tokens
) -> None:
    """Whatever is read beside them, the same pairs come at the same step: a resumed training goes on with them."""
    text = opened(token_artifacts, "pretrain")
    for step in (0, 5, alone.steps_per_epoch):
        batch, pairs, pieces = batches.batch(step), alone.batch(step), batches.pieces(step)
        assert len(batch) == 3 * PAIRS and batch.items_B[: 2 * PAIRS].tolist() == pairs.items_B.tolist()
        width = pairs.tokens_BT.shape[1]
        for name in ("labels_BT", "documents_BT"):
            np.testing.assert_array_equal(getattr(batch, name)[: 2 * PAIRS, :width], getattr(pairs, name))
        assert (batch.documents_BT[: 2 * PAIRS, width:] == -1).all()
        for row in np.flatnonzero(pieces.token_sets == 1).tolist():
            place, length = pieces.rows[row], pieces.lengths[row]
            first = int(text.offsets[pieces.documents[row]] + pieces.starts[row])
            ids = np.asarray(text.tokens[first : first + length + 1])
            assert place >= 2 * PAIRS and 0 < length <= TEXT
            assert batch.tokens_BT[place, :length].tolist() == ids[:-1].tolist()
            assert batch.labels_BT[place, :length].tolist() == ids[1:].tolist(), "every token of a text is learnt"
            assert (batch.labels_BT[place, length:] == IGNORE).all()
        assert (pieces.token_sets == 1).sum() == PAIRS == (np.unique(batch.documents_BT) >= 2 * PAIRS).sum()


def test_every_token_of_the_text_comes_once_an_epoch(batches: PairsBesideText, token_artifacts: Tokens) -> None:
    """No document of the corpus is more often beside the pairs than another."""
    text = opened(token_artifacts, "pretrain")
    number = len(text.plan(TEXT).documents)
    taken = [batches.pieces(step) for step in range(-(-number // PAIRS))]
    seen = np.zeros(text.num_tokens, np.int64)
    own = [
        (int(text.offsets[document]) + start, length)
        for pieces in taken
        for document, start, length, of in zip(
            pieces.documents, pieces.starts, pieces.lengths, pieces.token_sets, strict=True
        )
        if of == 1
    ]
    for start, length in own[:number]:
        seen[start : start + length] += 1
    assert (seen == 1).all()


def test_the_loss_is_that_of_the_pairs_and_the_weighted_loss_of_the_texts(
    batches: PairsBesideText, alone: PairBatches
) -> None:
    """Value and gradient in float64, for a batch as a whole and cut into parts, which ranks do."""
    model, weight = exact(0), 0.7
    loss = partial(sigmoid, beta=0.3)
    count = alone.num_pairs
    reference = Reference(*torch.linspace(-90.0, -70.0, 2 * count, dtype=torch.float64).reshape(2, count))
    batch, pairs = batches.batch(1), Tensors.of(alone.batch(1), CPU)
    of_pairs, _ = preference(loss, reference).loss(model, pairs)
    of_texts, _ = next_token().loss(model, Tensors.of(texts_of(batch), CPU))
    wanted = of_pairs + weight * of_texts / TEXT
    wanted_gradient = gradient(model, wanted)

    beside = preference(loss, reference, text=TextBeside(weight, TEXT))
    assert beside.count(batch) == beside.items(batch) == PAIRS
    for cuts in ((0, PAIRS), (0, 1, PAIRS)):
        parts = [
            beside.loss(model, Tensors.of(beside.take(batch, *ends), CPU)) for ends in zip(cuts, cuts[1:], strict=False)
        ]
        total = sum(part for part, _ in parts)
        torch.testing.assert_close(total, wanted, rtol=1e-10, atol=0)
        torch.testing.assert_close(gradient(model, total), wanted_gradient, rtol=1e-8, atol=1e-12)
        torch.testing.assert_close(sum(sums["loss"] for _, sums in parts), of_pairs, rtol=1e-10, atol=0)
        told = sum(sums["text_loss"] for _, sums in parts).item()
        assert told / PAIRS == pytest.approx(np.log(TINY.vocab_size), rel=0.1), "of an untrained model, a token"


def config_of(**changes: Any) -> DpoConfig:
    settings = {**COMMON, "tokens": 6 * 2400, "length": LONGEST, "batch_tokens": 2400, "micro_tokens": 800}
    return DpoConfig(**{**settings, "text_weight": 0.5, "text_length": TEXT, **changes})


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


def test_a_training_keeps_its_language_and_goes_on_where_it_was_killed(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts are learnt, held-out pairs are measured without them, and a resumed training ends in the same bytes."""
    torch.set_num_threads(1)
    given = (token_artifacts, tokenizer_artifact, base)
    told = trained(config_of(checkpoint_steps=2), tmp_path / "whole", *given)
    losses = [figures["text_loss"] for figures in told if "text_loss" in figures]
    assert losses[-1] < losses[0] < 2 * np.log(TINY.vocab_size)
    assert told[-1]["validation_accuracy"] >= 0 and "validation_text_loss" not in told[-1]
    trained(config_of(checkpoint_steps=2), tmp_path / "killed", *given, after=4, monkeypatch=monkeypatch)
    assert_equal_results(tmp_path / "whole", tmp_path / "killed")


def test_losses_without_a_reference_take_texts_too(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, base: Path, tmp_path: Path
) -> None:
    """The text is beside whatever is made of the pairs."""
    config = config_of(tokens=2400, loss="simpo", beta=2.0, target_margin=0.5)
    assert trained(config, tmp_path / "simpo", token_artifacts, tokenizer_artifact, base)[0]["text_loss"] > 0


def test_the_settings_say_what_is_read(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, base: Path, tmp_path: Path
) -> None:
    """A training that is not given the text says so before it begins."""
    assert rows_read(config_of(), ["preference"]) == {"tokens": "preference", "tokens_pretrain": "pretrain"}
    assert rows_read(config_of(text_weight=0), ["preference"]) == {"tokens": "preference"}
    run = run_of("dpo", config_of(), tmp_path, token_artifacts, tokenizer_artifact, base)
    with pytest.raises(ConfigError, match="was given no input `tokens_pretrain`"):
        job.run_rank(run.replace(inputs={n: i for n, i in run.inputs.items() if n != "tokens_pretrain"}), ONE_RANK)
    swapped = {**run.inputs, "tokens_pretrain": token_artifacts["chat"].dir}
    with pytest.raises(ConfigError, match="`tokens_pretrain` has chat rows"):
        job.run_rank(run.replace(inputs=swapped), ONE_RANK)
