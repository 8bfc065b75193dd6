"""Small trainings of every stage in this process, and how one of them is broken off, for the tests of exactness."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_parts import ONE_RANK

from minimind.artifact import Artifact
from minimind.data.documents import RowKind
from minimind.events import EVENTS_FILE, read_events
from minimind.train import job
from minimind.train.config import TrainConfig
from minimind.train.digests import CLOCKS
from minimind.train.loop import Progress, Training, train
from minimind.train.stage_configs import TrainRun

Tokens = dict[RowKind, Artifact]
COMMON = {
    "tokens": 12 * 800,
    "length": 400,  # the longest conversation has 371
    "batch_tokens": 800,
    "micro_tokens": 400,
    "warmup_steps": 2,
    "log_every": 3,
    "validate_every": 4,
    "checkpoint_steps": 5,
    "precision": "fp32",
    "threads": 1,
    "device": "cpu",
}


def run_of(stage: str, config: TrainConfig, out_dir: Path, tokens: Tokens, tokenizer: Artifact, base: Path) -> TrainRun:
    kind: RowKind = {"pretrain": "pretrain", "dpo": "preference"}.get(stage, "chat")
    inputs = {"tokens": tokens[kind].dir, "tokenizer": tokenizer.dir, "model": base, "teacher": base}
    inputs |= {f"tokens_{other}": tokens[other].dir for other in config.other_rows}
    return TrainRun(stage=stage, config=config, inputs=inputs, fingerprints={n: n for n in inputs}, out_dir=out_dir)


def interrupted(run: TrainRun, *, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run until the batch of step `after` (from 0) is asked for, in the middle of the step before; leave it there."""

    def broken(training: Training, progress: Progress) -> dict[str, float]:
        whole = training.batches.batch

        def batch(step: int) -> object:
            if step == after:
                raise KeyboardInterrupt
            return whole(step)

        monkeypatch.setattr(training.batches, "batch", batch)
        return train(training, progress)

    with monkeypatch.context() as patch:
        patch.setattr(job, "train", broken)
        with pytest.raises(KeyboardInterrupt):
            job.run_rank(run, ONE_RANK)


def figures_of(directory: Path) -> list[tuple[int, dict[str, float | None]]]:
    """The step events, without what depends on the clock and the machine."""
    events = read_events(directory / EVENTS_FILE)
    steps = [event for event in events if event.kind == "step"]
    return [(e.step, {name: value for name, value in e.metrics.items() if name not in CLOCKS}) for e in steps]


def assert_equal_results(one: Path, other: Path) -> None:
    assert figures_of(one) == figures_of(other)
    weights = [load_file(directory / "model.safetensors") for directory in (one, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def state_of(directory: Path) -> dict[str, object]:
    """All that must be equal to the bit: weights, optimizers' state, every figure of the log."""
    figures = json.loads((directory / "training.json").read_text())["figures"]
    return {
        "weights": figures["weights_digest"],
        "optimizer": figures["optimizer_digest"],
        "figures": figures_of(directory),
        "model": (directory / "model.safetensors").read_bytes(),
    }
