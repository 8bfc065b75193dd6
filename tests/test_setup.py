"""When `compile = "auto"` compiles: only where it pays."""

from pathlib import Path

import pytest
import torch

from minimind.train import setup
from minimind.train.parallel import Ranks
from minimind.train.stage_configs import PretrainConfig, TrainRun

CPU, CUDA = (Ranks(0, 1, torch.device(name)) for name in ("cpu", "cuda"))


def run_of(**settings: object) -> TrainRun:
    """A pretraining of minimind2-small, 16,384 tokens to a step."""
    values = {"model": {"preset": "minimind2-small"}, "tokens": 1, "compile": "auto", "precision": "bf16"}
    config = PretrainConfig.model_validate({**values, **settings})
    return TrainRun(stage="pretrain", config=config, inputs={}, fingerprints={}, out_dir=Path("nowhere"))


@pytest.mark.parametrize(("settings", "ranks"), [({}, CPU), ({"compile": "off"}, CUDA), ({"compile": "off"}, CPU)])
def test_what_gains_nothing_is_left_alone(settings: dict[str, object], ranks: Ranks) -> None:
    """A CPU gains nothing, and off is off, however long the run is."""
    assert not setup.compiles(run_of(**settings), 10_000_000, ranks)


def test_auto_compiles_on_a_gpu_from_a_hundred_million_tokens_on() -> None:
    """6,104 steps of 16,384 tokens are as many."""
    assert not setup.compiles(run_of(), 6_000, CUDA)
    assert setup.compiles(run_of(), 6_200, CUDA)


def test_auto_leaves_a_model_to_deepspeed() -> None:
    table = {"zero_optimization": {"stage": 2}}
    assert not setup.compiles(run_of(parallel="deepspeed", deepspeed=table), 10_000_000, CUDA)


def test_on_is_on() -> None:
    assert setup.compiles(run_of(compile="on"), 1, CPU)
