"""`exact`: the same bits at 1, 2 and 4 ranks, and when their number changes in mid-run."""

from pathlib import Path

import pytest
import torch
from rank_processes import run_ranks, train_rank
from resume_parts import COMMON, Tokens, interrupted, run_of, state_of
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact
from minimind.errors import ConfigError
from minimind.model.config import ModelConfig
from minimind.train import job
from minimind.train.config import TrainConfig
from minimind.train.exact import ExactGradientSum, merges, require_exact
from minimind.train.launch import _environment
from minimind.train.parallel import Ranks
from minimind.train.stage_configs import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, SftConfig, TrainRun

MOE = ModelConfig.model_validate({**TINY.model_dump(), "num_experts": 4, "experts_per_token": 2})
EXACT = {**COMMON, "exact": True, "tokens": 8 * 3600, "batch_tokens": 3600, "log_every": 1}
"""Nine rows in nine micro-batches: shares of 4 and 5, of 2, 2, 2 and 3."""
SHORT = {"tokens": 7 * 576, "length": 64, "batch_tokens": 576, "micro_tokens": 64}
PAIRS = {"tokens": 6 * 6400, "batch_tokens": 6400, "micro_tokens": 800, "lr": 1e-3}


def tree(num_micro: int, size: int) -> str:
    """The order in which so many ranks add, written out."""
    nodes = []
    for rank in range(size):
        stack: list[str] = []
        first = Ranks(rank, size, torch.device("cpu")).share(num_micro)[0]
        for place, whole in enumerate(merges(num_micro, level=size.bit_length() - 1, node=rank), first):
            stack.append(str(place))
            for _ in range(whole):
                stack[-2:] = [f"({stack[-2]}+{stack[-1]})"]
        assert len(stack) == 1
        nodes += stack
    while len(nodes) > 1:
        nodes = [f"({left}+{right})" for left, right in zip(nodes[0::2], nodes[1::2], strict=True)]
    return nodes[0]


@pytest.mark.parametrize("size", [2, 4, 8])
def test_the_order_of_the_sum_is_that_of_one_rank(size: int) -> None:
    """For every number of micro-batches: the bits follow from the order."""
    assert tree(5, 1) == "((0+1)+(2+(3+4)))"
    for num_micro in range(size, 70):
        assert tree(num_micro, size) == tree(num_micro, 1)


def test_gradients_are_added_in_the_order_of_the_tree() -> None:
    """1 and three halves of its last bit: from left to right they are lost one by one, in pairs they are not."""
    weight = torch.nn.Parameter(torch.zeros(1))
    gradients = ExactGradientSum([weight], ONE_RANK, num_micro=4)
    half = 2.0**-24
    for _ in range(2):
        gradients.zero()
        for place, value in enumerate((1.0, half, half, half)):
            gradients.backward((weight * value).sum(), last=place == 3)
        assert gradients.buffers[0].item() == 1.0 + 2 * half


@pytest.mark.parametrize(
    ("stage", "config"),
    [
        pytest.param("pretrain", PretrainConfig(model=TINY, **{**EXACT, **SHORT}), marks=pytest.mark.slow),
        pytest.param("pretrain", PretrainConfig(model=MOE, optimizer="muon", **EXACT), marks=pytest.mark.slow),
        pytest.param("pretrain", PretrainConfig(model=TINY, **{**EXACT, "precision": "bf16"}), marks=pytest.mark.slow),
        pytest.param("sft", SftConfig(**EXACT, mix={"pretrain": 0.3}), marks=pytest.mark.slow),
        pytest.param("dpo", DpoConfig(**{**EXACT, **PAIRS}), marks=pytest.mark.slow),
        pytest.param("lora", LoraConfig(rank=2, **EXACT), marks=pytest.mark.slow),
        pytest.param("distill", DistillConfig(**EXACT), marks=pytest.mark.slow),
    ],
)
def test_weights_optimizer_and_figures_are_equal_at_1_2_and_4_ranks(
    stage: str, config: TrainConfig, base: Path, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """With shares of uneven size; the validation split does not divide evenly either."""
    found = {}
    for size in (1, 2, 4):
        path = tmp_path / str(size)
        path.mkdir()
        run = run_of(stage, config.replace(processes=size), path, token_artifacts, tokenizer_artifact, base)
        assert run_ranks(size, train_rank, run) == [0] * size
        found[size] = state_of(path)
    assert found[1]["figures"] and found[1] == found[2] == found[4]


def test_the_number_of_ranks_may_change_in_mid_run(
    base: Path,
    token_artifacts: Tokens,
    tokenizer_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One rank for some steps, then two from its checkpoint: the bits of a training that one rank did alone."""
    config = PretrainConfig(model=TINY, **{**EXACT, **SHORT})
    paths = tmp_path / "whole", tmp_path / "changed"
    whole, changed = (run_of("pretrain", config, p, token_artifacts, tokenizer_artifact, base) for p in paths)
    for path in paths:
        path.mkdir()
    job.run_rank(whole, ONE_RANK)
    interrupted(changed, after=6, monkeypatch=monkeypatch)
    run = changed.replace(config=config.replace(processes=2))
    assert run_ranks(2, train_rank, run) == [0, 0]
    assert state_of(paths[0]) == state_of(paths[1])


@pytest.mark.slow
def test_zero1_divides_the_state_and_not_the_sum(
    base: Path, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """The whole gradient is there before the state is divided, so the weights are those of one rank."""
    models = []
    for size in (1, 4):
        path = tmp_path / str(size)
        path.mkdir()
        config = PretrainConfig(model=TINY, **{**EXACT, **SHORT}, parallel="zero1", processes=size)
        run = run_of("pretrain", config, path, token_artifacts, tokenizer_artifact, base)
        assert run_ranks(size, train_rank, run) == [0] * size
        models.append((path / "model.safetensors").read_bytes())
    assert models[0] == models[1]


def test_what_cannot_be_exact_is_refused() -> None:
    """Three ranks are no level of the tree; a rank without a micro-batch would have nothing to add."""
    config = SftConfig(tokens=1, exact=True, length=100, batch_tokens=400, micro_tokens=200)

    def ranks(size: int) -> Ranks:
        return Ranks(0, size, torch.device("cpu"))

    require_exact(config, ranks(2))
    with pytest.raises(ConfigError, match=r"1, 2, 4, 8, … ranks, there are 3"):
        require_exact(config, ranks(3))
    with pytest.raises(ConfigError, match="holds 2 of `micro_tokens` 200, fewer than 4 ranks"):
        require_exact(config, ranks(4))
    with pytest.raises(ConfigError, match='`parallel` "fsdp" has none'):
        require_exact(config.replace(parallel="fsdp"), ranks(2))


def test_ranks_have_one_thread_each_unless_told_otherwise(tmp_path: Path) -> None:
    """Large sums are cut by threads, and by default their number follows from that of the ranks."""

    def threads(**settings: object) -> set[str]:
        config = SftConfig(tokens=1, exact=True, **settings)
        layouts = (config, config.replace(processes=2))
        runs = (TrainRun(stage="sft", config=c, inputs={}, fingerprints={}, out_dir=tmp_path) for c in layouts)
        return {_environment(run)["OMP_NUM_THREADS"] for run in runs}

    assert threads() == {"1"}
    assert threads(threads=3) == {"3"}


def test_the_size_of_a_micro_batch_counts_only_where_it_decides_bits() -> None:
    """Else a training that moved to a machine with more memory would be trained anew."""
    config = SftConfig(tokens=1)
    assert config.identity() == config.replace(micro_tokens=1024).identity()
    exact = config.replace(exact=True)
    assert exact.identity() != exact.replace(micro_tokens=1024).identity()
    assert exact.identity() == exact.replace(processes=4).identity()
