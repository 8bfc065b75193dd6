"""SIGKILL as a matrix, stage × moment × ranks: what goes on is what was never killed, to the bit.

Compared are the weights, the optimizers' state and every figure of the log. The first rank kills itself at the very
place (`minimind.failpoints`), with a real signal; the others are killed as torchrun would. Slow but for a corner of it.
Not here: kills from outside, of the whole tree (`test_resume.py`, and `minimind verify resume`).
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rank_processes import run_ranks, train_rank
from resume_parts import COMMON, Tokens, figures_of, run_of, state_of
from training_parts import TINY

from minimind import failpoints
from minimind.artifact import Artifact, Store
from minimind.events import EVENTS_FILE, read_events
from minimind.stage import build
from minimind.train.config import TrainConfig
from minimind.train.parallel import Ranks
from minimind.train.stage_configs import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, SftConfig, TrainRun
from minimind.train.stages import PRETRAIN

CONFIGS: dict[str, TrainConfig] = {
    "pretrain": PretrainConfig(model=TINY, optimizer="muon", **COMMON),
    "sft": SftConfig(**COMMON, mix={"pretrain": 0.3}, empty_think_share=0.5),
    "dpo": DpoConfig(**COMMON | {"tokens": 12 * 2400, "batch_tokens": 2400, "micro_tokens": 800, "lr": 1e-3}),
    "lora": LoraConfig(rank=2, **COMMON),
    "distill": DistillConfig(**COMMON),
}
"""Twelve steps, saved after 5 and 10."""
DIVIDED: dict[str, dict[str, Any]] = {
    "zero1": {"parallel": "zero1"},
    "fsdp": {"parallel": "fsdp", "optimizer": "adamw"},
    "deepspeed": {
        "parallel": "deepspeed",
        "optimizer": "adamw",
        "deepspeed": {"zero_optimization": {"stage": 3}},
    },
}
"""Pretraining with what two ranks divide."""
CONFIGS |= {name: CONFIGS["pretrain"].replace(**changes) for name, changes in DIVIDED.items()}
MOMENTS = {"start": None, "step": 5, "update": 5, "save": 5, "rename": 5, "end": 10}
"""Where the kill comes → the step after which the next start goes on."""


def faults(moment: str, config: TrainConfig) -> str:
    """The kill of the first rank as a failpoint."""
    optimizers = 2 if config.optimizer == "muon" else 1
    places = {
        "start": "train.start=kill/0",  # before the model is there
        "step": "train.step=kill@9/0",  # gradients are summed, weights not yet changed
        "update": f"train.update=kill@{8 * optimizers + 1}/0",  # ninth update, half done if there are two
        "save": "checkpoint.write=kill@5/0",  # of three files of step 10 two are there
        "rename": "checkpoint.rename=kill@2/0",  # the checkpoint of step 10 is whole, under its other name
        "end": "train.end=kill/0",  # all steps are done, the model is written, its summary is not
    }
    return places[moment]


def train_and_die(ranks: Ranks, run: TrainRun, planned: str) -> None:
    """The rank's own function, with faults."""
    failpoints.plan(planned)
    train_rank(ranks, run)


@dataclass
class Trainings:
    """Runs by stage and ranks, and what came of those that nobody killed."""

    root: Path
    tokens: Tokens
    tokenizer: Artifact
    base: Path
    _whole: dict[tuple[str, int], dict[str, object]] = field(default_factory=dict)

    def run(self, stage: str, ranks: int, name: str) -> TrainRun:
        path = self.root / f"{stage}-{ranks}-{name}"
        path.mkdir()
        config = CONFIGS[stage].replace(processes=ranks)
        return run_of("pretrain" if stage in DIVIDED else stage, config, path, self.tokens, self.tokenizer, self.base)

    def whole(self, stage: str, ranks: int) -> dict[str, object]:
        if (stage, ranks) not in self._whole:
            run = self.run(stage, ranks, "whole")
            assert run_ranks(ranks, train_rank, run) == [0] * ranks
            self._whole[stage, ranks] = state_of(run.out_dir)
        return self._whole[stage, ranks]


@pytest.fixture(scope="module")
def trainings(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> Trainings:
    return Trainings(tmp_path_factory.mktemp("kills"), token_artifacts, tokenizer_artifact, base)


def is_fast(stage: str, moment: str, ranks: int) -> bool:
    return (stage, moment, ranks) == ("pretrain", "save", 1)


@pytest.mark.parametrize(
    ("stage", "moment", "ranks"),
    [
        pytest.param(stage, moment, ranks, marks=() if is_fast(stage, moment, ranks) else pytest.mark.slow)
        for stage in CONFIGS
        for moment in MOMENTS
        for ranks in ((2,) if stage in DIVIDED else (1, 2))
    ],
)
def test_what_was_killed_goes_on_to_the_bit(stage: str, moment: str, ranks: int, trainings: Trainings) -> None:
    """Weights, optimizers' state and figures; and it goes on from the newest checkpoint that is whole."""
    if stage == "deepspeed":
        pytest.importorskip("deepspeed")
    run = trainings.run(stage, ranks, moment)
    codes = run_ranks(ranks, train_and_die, run, faults(moment, run.config))
    assert codes[0] == -signal.SIGKILL
    assert run_ranks(ranks, train_rank, run) == [0] * ranks
    messages = [event.message for event in read_events(run.out_dir / EVENTS_FILE)]
    went_on = [message for message in messages if message.startswith("goes on after step")]
    assert went_on == ([f"goes on after step {MOMENTS[moment]}"] if MOMENTS[moment] else [])
    assert state_of(run.out_dir) == trainings.whole(stage, ranks)


BUILD = """
import sys
from pathlib import Path
from minimind.artifact import Store, open_artifact
from minimind.stage import build
from minimind.train.stage_configs import PretrainConfig
from minimind.train.stages import PRETRAIN

home, config, tokens, tokenizer = sys.argv[1:]
inputs = {"tokens": open_artifact(Path(tokens)), "tokenizer": open_artifact(Path(tokenizer))}
build(PRETRAIN, PretrainConfig.model_validate_json(config), inputs, store=Store(Path(home)))
"""


@pytest.mark.slow
def test_a_stage_killed_before_its_seal_is_built_again_to_the_bit(
    token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """The training is over and nothing is sealed: the next build does it again and hides nothing."""
    config = CONFIGS["pretrain"]
    tokens = token_artifacts["pretrain"]
    command = [sys.executable, "-c", BUILD, str(tmp_path / "killed"), config.model_dump_json()]
    environment = {**os.environ, failpoints.VARIABLE: "stage.end=kill"}
    killed = subprocess.run([*command, str(tokens.dir), str(tokenizer_artifact.dir)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    inputs = {"tokens": tokens, "tokenizer": tokenizer_artifact}
    artifacts = [build(PRETRAIN, config, inputs, store=Store(tmp_path / home))[0] for home in ("killed", "whole")]
    digests = [artifact.summary().figures["optimizer_digest"] for artifact in artifacts]
    assert digests[0] == digests[1]
    assert figures_of(artifacts[0].dir) == figures_of(artifacts[1].dir)
    assert (artifacts[0].dir / "model.safetensors").read_bytes() == (
        artifacts[1].dir / "model.safetensors"
    ).read_bytes()
