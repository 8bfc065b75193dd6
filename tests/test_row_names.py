"""The rows of a bad batch are named by the lines they come from."""

from pathlib import Path

import pytest
import torch
from resume_parts import COMMON, Tokens, run_of
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact
from minimind.errors import StageError
from minimind.events import EVENTS_FILE, read_events
from minimind.tokens.batches import PairBatches, RowBatches
from minimind.tokens.microscope import Slide
from minimind.tokens.token_set import TokenSet
from minimind.train import job
from minimind.train.loop import Progress, Training, train
from minimind.train.row_names import name_rows
from minimind.train.stage_configs import PretrainConfig


def test_rows_are_named_by_source_and_line(token_artifacts: Tokens) -> None:
    """A number in the packing plan helps nobody; a line in a file can be looked at."""
    artifact = token_artifacts["pretrain"]
    batches = RowBatches(TokenSet.open(artifact.dir / "train"), row_length=64, batch_rows=2, seed=0)
    slide = Slide.of(artifact, "train")
    for step in range(4):
        documents = batches.pieces(step).documents.tolist()
        wanted = ", ".join(dict.fromkeys(str(slide.origins([document])[document]) for document in documents))
        assert name_rows(batches, [artifact.dir], step) == wanted
        assert wanted.startswith("given:")


def test_many_rows_are_cut_short_and_both_sides_of_a_pair_are_one(token_artifacts: Tokens) -> None:
    """The message is for a person."""
    artifact = token_artifacts["preference"]
    batches = PairBatches(TokenSet.open(artifact.dir / "train"), batch_pairs=20, max_length=400, seed=0)
    names = name_rows(batches, [artifact.dir], 0, limit=3).split(", ")
    assert len(names) == 4 and names[-1] == "…"
    assert len(set(names)) == 4


def test_without_a_corpus_in_the_store_nothing_is_named(token_artifacts: Tokens, tmp_path: Path) -> None:
    """The message about the batch must still come."""
    artifact = token_artifacts["pretrain"]
    batches = RowBatches(TokenSet.open(artifact.dir / "train"), row_length=64, batch_rows=2, seed=0)
    assert name_rows(batches, [tmp_path], 0) == ""


@pytest.mark.parametrize("for_good", [False, True])
def test_a_planted_nan_is_skipped_counted_and_traced_to_its_lines(
    for_good: bool,
    base: Path,
    token_artifacts: Tokens,
    tokenizer_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A weight that turns to NaN in the fourth step, and is mended after it or not."""

    def broken(training: Training, progress: Progress) -> dict[str, float]:
        weight = training.model.model.norm.weight
        whole, good = training.batches.batch, weight.detach().clone()

        def batch(step: int) -> object:
            with torch.no_grad():
                if step == 4:  # asked for in the middle of step 3: the forward pass of that is over
                    weight[0] = torch.nan
                elif step == 5 and not for_good:
                    weight.copy_(good)
            return whole(step)

        monkeypatch.setattr(training.batches, "batch", batch)
        return train(training, progress)

    config = PretrainConfig(model=TINY, **{**COMMON, "tokens": 20 * 800, "lr": 1e-9, "validate_every": 0})
    run = run_of("pretrain", config, tmp_path, token_artifacts, tokenizer_artifact, base)
    monkeypatch.setattr(job, "train", broken)
    if for_good:
        with pytest.raises(StageError, match=r"10 steps in a row, up to step 14 \(batch items .*: given:\d+, given"):
            job.run_rank(run, ONE_RANK)
        return
    job.run_rank(run, ONE_RANK)
    warnings = [e.message for e in read_events(tmp_path / EVENTS_FILE) if "was skipped" in e.message]
    batches = RowBatches(
        TokenSet.open(token_artifacts["pretrain"].dir / "train"), row_length=400, batch_rows=2, seed=config.seed
    )
    named = name_rows(batches, [token_artifacts["pretrain"].dir], 4)
    assert named and len(warnings) == 1 and warnings[0].startswith("step 5 was skipped")
    assert named in warnings[0]
