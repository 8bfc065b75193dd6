"""Every stage under zero1 and fsdp, on two real ranks: what ddp trains, and exact when it is broken off.

Not here: the parts by themselves (`test_strategy.py`).
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rank_processes import run_ranks
from resume_parts import COMMON, Tokens, assert_equal_results, figures_of, run_of
from safetensors.torch import load_file
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact
from minimind.train import job
from minimind.train.config import TrainConfig
from minimind.train.loop import Progress, Training, train
from minimind.train.parallel import Ranks
from minimind.train.stage_configs import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, SftConfig, TrainRun

EXPERTS = TINY.replace(num_experts=4, experts_per_token=2, balance_coefficient=0.01)
CONFIGS: dict[str, tuple[str, TrainConfig]] = {
    "pretrain": ("pretrain", PretrainConfig(model=TINY, **COMMON | {"batch_tokens": 1600, "tokens": 8 * 1600})),
    "experts": ("pretrain", PretrainConfig(model=EXPERTS, **COMMON)),
    "muon": ("pretrain", PretrainConfig(model=TINY, optimizer="muon", **COMMON)),
    "sft": ("sft", SftConfig(**COMMON)),
    "dpo": ("dpo", DpoConfig(**COMMON | {"tokens": 8 * 3200, "batch_tokens": 3200, "micro_tokens": 800, "lr": 1e-3})),
    "lora": ("lora", LoraConfig(rank=2, **COMMON)),
    "distill": ("distill", DistillConfig(**COMMON)),
}
STOP_AFTER = 7
"""Steps; the last checkpoint is of step 5."""


def train_in_turn(ranks: Ranks, plan: list[tuple[TrainRun, bool]]) -> None:
    """Run each training to its end, or break it off where its flag says so."""
    for run, breaks_off in plan:
        if ranks.is_first:
            run.out_dir.mkdir(exist_ok=True)
        ranks.from_first(0)
        job.train = broken_off if breaks_off else train  # type: ignore[attr-defined]
        try:
            job.run_rank(run, ranks)
        except KeyboardInterrupt:
            assert breaks_off


def broken_off(training: Training, progress: Progress) -> dict[str, float]:
    def observe(progress: Progress, *_: Any) -> None:
        if progress.step == STOP_AFTER:
            raise KeyboardInterrupt

    return train(replace(training, observe=observe), progress)


def weights_of(directory: Path) -> torch.Tensor:
    tensors = load_file(directory / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_stage_is_the_same_training_however_it_is_divided(
    name: str, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """zero1 to the bit, fsdp but for the order of sums; both to the bit after a break; and fsdp from zero1's files."""
    start = PretrainConfig(model=TINY, **COMMON).replace(tokens=800)
    base = tmp_path / "base"
    base.mkdir()
    job.run_rank(run_of("pretrain", start, base, token_artifacts, tokenizer_artifact, base), ONE_RANK)
    stage, config = CONFIGS[name]

    def run(kind: str, directory: str) -> TrainRun:
        settings = config.replace(parallel=kind, processes=2)
        return run_of(stage, settings, tmp_path / directory, token_artifacts, tokenizer_artifact, base)

    kinds = ["ddp", "zero1"] + ["fsdp"] * (name != "muon")
    plan = [(run(kind, kind), False) for kind in kinds]
    for kind in kinds[1:]:
        plan += [(run(kind, f"{kind} broken off"), True), (run(kind, f"{kind} broken off"), False)]
    plan += [(run("zero1", "crossed"), True), (run(kinds[-1], "crossed"), False)]
    assert run_ranks(2, train_in_turn, plan, timeout=300) == [0, 0]

    whole = weights_of(tmp_path / "ddp")
    assert torch.equal(weights_of(tmp_path / "zero1"), whole)
    for kind in kinds[1:]:
        assert_equal_results(tmp_path / kind, tmp_path / f"{kind} broken off")
    for directory in (*kinds[1:], "crossed"):
        found = weights_of(tmp_path / directory)
        assert (found - whole).norm() < 1e-5 * whole.norm(), directory
        for (step, one), (other_step, other) in zip(
            figures_of(tmp_path / "ddp"), figures_of(tmp_path / directory), strict=True
        ):
            assert step == other_step
            for figure in one.keys() & {"loss", "validation_loss", "grad_norm", "tokens"}:
                assert other[figure] == pytest.approx(one[figure], rel=1e-5), (directory, step)
