"""When `compile = "auto"` compiles: only where it pays, and never at the price of an exact resume."""

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


@pytest.fixture
def one_thread() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("steps", "expected"), [(50, False), (200, True)])
def test_auto_compiles_long_runs_on_a_cpu(steps: int, expected: bool) -> None:
    """0.8 and 3.3 million tokens of 160 MFLOP each, on either side of the threshold."""
    assert setup.compiles(run_of(), steps, CPU) is expected


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "fp32"},
        {"model": {"preset": "minimind-3-moe"}},
        {"compile": "off"},
    ],
)
def test_auto_leaves_alone_what_gains_nothing(settings: dict[str, object]) -> None:
    """fp32 gains nothing, experts break the graph, and off is off, however long the run is."""
    assert not setup.compiles(run_of(**settings), 10_000_000, CPU)


def test_several_threads_are_compiled_only_where_exact_asks_for_a_fixed_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run is promised to be equal to the bit."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert not setup.compiles(run_of(), 10_000_000, CPU)
    assert setup.compiles(run_of(exact=True), 10_000_000, CPU)


def test_auto_compiles_on_a_gpu_from_a_hundred_million_tokens_on() -> None:
    """6,104 steps of 16,384 tokens are as many."""
    assert not setup.compiles(run_of(), 6_000, CUDA)
    assert setup.compiles(run_of(), 6_200, CUDA)


def test_on_is_on() -> None:
    assert setup.compiles(run_of(compile="on"), 1, CPU)
