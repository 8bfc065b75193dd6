"""Real ranks over gloo, started by the real torchrun: the same training as one rank's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_parts import TINY, losses

from minimind.artifact import Artifact, Store
from minimind.data.documents import RowKind
from minimind.model.config import ModelConfig
from minimind.stage import build
from minimind.train.stage_configs import DpoConfig, PretrainConfig
from minimind.train.stages import DPO, PRETRAIN

SUM_OF_GRADIENTS = """
import torch
from torch import nn
from minimind.train.parallel import GradientSum, join

with join("cpu") as ranks:
    torch.manual_seed(0)
    layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
    gradients = GradientSum(layers.parameters(), ranks, bucket_bytes=100)
    for _ in range(2):
        gradients.zero()
        for micro in range(3):  # the middle layer only on rank 1, the last only on rank 0 and not at the end
            x = torch.full((2, 4), 1.0 + ranks.rank + micro)
            y = layers[0](x)
            y = layers[1](y) if ranks.rank == 1 else y
            y = layers[2](y) if ranks.rank == 0 and micro < 2 else y
            gradients.backward(y.sum(), last=micro == 2)
        found = torch.cat([p.grad.flatten() for p in layers.parameters()])
        wanted = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        wanted.load_state_dict(layers.state_dict())
        for rank in range(2):
            for micro in range(3):
                y = wanted[0](torch.full((2, 4), 1.0 + rank + micro))
                y = wanted[1](y) if rank == 1 else y
                y = wanted[2](y) if rank == 0 and micro < 2 else y
                y.sum().backward()
        torch.testing.assert_close(found, torch.cat([p.grad.flatten() for p in wanted.parameters()]))
    assert ranks.sum_figures({"a": torch.tensor(1.0 + ranks.rank)}) == {"a": 3.0}
    assert ranks.from_first(7 if ranks.is_first else 8) == 7
    assert [int(t) for t in ranks.gather(torch.tensor(ranks.rank))] == [0, 1]
    assert ranks.share(5) == ((0, 2) if ranks.is_first else (2, 5))
"""


@pytest.mark.slow
def test_the_gradient_is_summed_though_ranks_use_different_parameters(tmp_path: Path) -> None:
    """An expert without a token on one rank must neither hang the other nor lose its gradient."""
    script = tmp_path / "ranks.py"
    script.write_text(SUM_OF_GRADIENTS)
    command = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *command], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def weights_and_losses(artifact: Artifact) -> tuple[torch.Tensor, list[float | None]]:
    tensors = load_file(artifact.dir / "model.safetensors")
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)]), losses(artifact.dir)


@pytest.mark.slow
@pytest.mark.parametrize("experts", [0, 4])
def test_two_ranks_train_what_one_trains(
    experts: int, token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Five rows a step, so that the ranks' shares differ, and one micro-batch more on one of them.

    Equal up to the order of a sum. The balance loss of experts is left out: it depends on the cut.
    """
    shape = {**TINY.model_dump(), "num_experts": experts, "experts_per_token": min(experts, 2)}
    config = PretrainConfig(
        model=ModelConfig.model_validate(shape),
        tokens=8 * 5 * 128,
        length=128,
        batch_tokens=5 * 128,
        micro_tokens=2 * 128,
        warmup_steps=2,
        log_every=1,
        validate_every=0,
        precision="fp32",
        device="cpu",
        threads=1,
    )
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    one, _ = build(PRETRAIN, config, inputs, store=Store(tmp_path / "1"))
    two, _ = build(PRETRAIN, config.replace(processes=2), inputs, store=Store(tmp_path / "2"))
    assert two.fingerprint == one.fingerprint
    assert two.summary().figures["processes"] == 2
    (weights, curve), (other_weights, other_curve) = weights_and_losses(one), weights_and_losses(two)
    assert len(curve) == 8
    assert other_curve == pytest.approx(curve, rel=1e-5)
    assert (weights - other_weights).norm() < 1e-4 * weights.norm()
    figures, others = one.summary().figures, two.summary().figures
    for name in ("steps", "tokens", "trained_tokens"):
        assert figures[name] == others[name]
    for name in ("validation_loss", "validation_bits_per_byte"):
        assert others[name] == pytest.approx(figures[name], rel=1e-5)


@pytest.mark.slow
def test_two_ranks_start_dpo_at_ln_2(
    token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Each rank computes the reference of its pairs only; every pair must end up in every rank's table."""
    store = Store(tmp_path)
    common = {"length": 400, "precision": "fp32", "device": "cpu", "threads": 1, "log_every": 1}
    start = PretrainConfig(model=TINY, tokens=2 * 800, batch_tokens=800, **common)
    base, _ = build(
        PRETRAIN, start, {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}, store=store
    )
    config = DpoConfig(epochs=1, batch_tokens=4000, processes=2, lr=1e-9, warmup_steps=0, **common)
    inputs = {"tokens": token_artifacts["preference"], "model": base}
    artifact, _ = build(DPO, config, inputs, store=store)
    assert losses(artifact.dir) == pytest.approx([0.693147] * artifact.summary().figures["steps"], abs=1e-4)
    assert artifact.summary().figures["validation_loss"] == pytest.approx(0.693147, abs=1e-4)
