"""Twenty steps of every objective, number by number.

A refactoring that changes what is trained shows here first. A golden number changes in a commit
of its own, with the reason. The batches come from a formula and the weights from a seed, so no
tokenizer and no file is in it.
"""

from pathlib import Path

import pytest
import torch
from training_parts import ONE_RANK, TINY, Pattern, losses, make_training

from minimind.events import EVENTS_FILE, EventWriter
from minimind.model.config import ModelConfig
from minimind.model.lora import apply_lora
from minimind.model.transformer import Transformer
from minimind.train.loop import Progress, train
from minimind.train.objectives import Reference, Tensors, distill, dpo, next_token, pair_log_probs
from minimind.train.stage_configs import SftConfig

STEPS = 20
SHOWN = (0, 1, 4, 9, 14, 19)
MOE = TINY.replace(num_experts=4, experts_per_token=2, num_shared_experts=1, balance_coefficient=0.01)

GOLDEN: dict[str, list[float]] = {
    "pretrain": [6.38975, 6.38375, 6.15299, 5.63017, 5.159, 5.18341],
    "muon": [6.38975, 6.38658, 6.17099, 5.65687, 5.26675, 5.30806],
    "moe": [6.38939, 6.38286, 6.14605, 5.58217, 5.0982, 5.16518],
    "lora": [6.38975, 6.39313, 6.40861, 6.38088, 6.3563, 6.35998],
    "dpo": [0.693147, 0.681594, 0.579054, 0.364066, 0.261179, 0.26997],
    "distill": [3.20275, 3.19894, 3.0855, 2.83793, 2.62547, 2.64694],
}


def reference_of(model: Transformer, batches: Pattern) -> Reference:
    """The log-probabilities of every pair of the twenty batches, whose pairs are numbered on."""
    with torch.no_grad():
        tensors = [Tensors.of(batches.batch(step), ONE_RANK.device) for step in range(STEPS)]
        sides = [pair_log_probs(model, batch)[:2] for batch in tensors]
    return Reference(*(torch.cat(side) for side in zip(*sides, strict=True)))


def curve(name: str, directory: Path) -> list[float]:
    """The losses of twenty steps in fp32, cut into uneven micro-batches."""
    config = SftConfig(
        tokens=1,
        lr=1e-3 if name == "dpo" else 1e-2,
        warmup_steps=5,
        length=24,
        batch_tokens=8 * 24,
        micro_tokens=3 * 24,
        log_every=1,
        optimizer="muon" if name == "muon" else "adamw",
    )
    model = Transformer(MOE if name == "moe" else TINY, seed=1)
    batches = Pattern(pairs=name == "dpo")
    objective = next_token()
    if name == "lora":
        apply_lora(model, rank=4, alpha=8, targets=("q_proj", "o_proj"), seed=0)
    if name == "distill":
        teacher_shape = ModelConfig.model_validate({**TINY.model_dump(), "hidden_size": 48})
        objective = distill(Transformer(teacher_shape, seed=2), alpha=0.5, temperature=1.5)
    if name == "dpo":
        objective = dpo(reference_of(model, batches), beta=0.15)
    with EventWriter(directory / EVENTS_FILE) as events:
        train(make_training(config, model, objective, batches, total_steps=STEPS, events=events), Progress())
    return [losses(directory)[step] for step in SHOWN]


@pytest.mark.parametrize("name", ["pretrain", "muon", "moe", "lora", "dpo", "distill"])
def test_the_loss_curve_is_the_golden_one(name: str, tmp_path: Path) -> None:
    """Losses of steps 1, 2, 5, 10, 15 and 20, to one part in ten thousand."""
    torch.set_num_threads(1)
    assert curve(name, tmp_path) == pytest.approx(GOLDEN[name], rel=1e-4)
