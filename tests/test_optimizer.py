"""Schedules, parameter groups, Muon against torch's own, and the scale of fp16 losses."""

import math

import pytest
import torch
from training_parts import TINY

from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.train.config import TrainConfig
from minimind.train.optimizer import (
    LossScale,
    Muon,
    learning_rate,
    make_optimizers,
    orthogonalise,
    part_of,
    set_learning_rate,
)


def config(**values: object) -> TrainConfig:
    return TrainConfig(**{"epochs": 1, "lr": 1e-2, "warmup_steps": 4, **values})


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 2.5e-3),
        ("cosine", 3, 1e-2),
        ("cosine", 4, 1e-2),
        ("cosine", 9, 1e-3 + 9e-3 * 0.5),
        ("cosine", 14, 1e-3),
        ("linear", 9, 1e-3 + 9e-3 * 0.5),
        ("linear", 14, 1e-3),
        ("constant", 14, 1e-2),
        ("wsd", 3, 1e-2),
        ("wsd", 11, 1e-2),
        ("wsd", 12, 1e-3 + 9e-3 * (1 - math.sqrt(1 / 3))),
        ("wsd", 13, 1e-3 + 9e-3 * (1 - math.sqrt(2 / 3))),
        ("wsd", 14, 1e-3),
    ],
)
def test_the_schedule_has_these_values(schedule: str, step: int, expected: float) -> None:
    """Fifteen steps, four of warm-up: the peak is reached, the middle is half way, the last step is lowest."""
    assert learning_rate(step, 15, config(schedule=schedule)) == pytest.approx(expected)


def test_the_schedule_bears_odd_lengths() -> None:
    """One step, a warm-up longer than the training, none at all: never zero, negative or an error."""
    assert learning_rate(0, 1, config(warmup_steps=0)) == pytest.approx(1e-2)
    assert learning_rate(2, 3, config(warmup_steps=100)) == pytest.approx(3e-4)
    assert learning_rate(5, 5, config(warmup_steps=0)) == pytest.approx(1e-3)


def test_the_decay_of_wsd_can_be_a_line_of_any_length() -> None:
    """Half of twenty steps, or all of them, or less than one: the last step is always the lowest."""
    line = config(schedule="wsd", decay_shape="linear", decay_fraction=0.5, warmup_steps=0)
    assert [learning_rate(step, 20, line) for step in (0, 9)] == [1e-2, 1e-2]
    assert [learning_rate(step, 20, line) for step in (10, 14, 19)] == pytest.approx([9.1e-3, 5.5e-3, 1e-3])
    whole = line.replace(decay_fraction=1.0)
    assert learning_rate(0, 20, whole) == pytest.approx(1e-2 - 9e-3 / 20)
    short = line.replace(decay_fraction=0.01)
    assert [learning_rate(step, 20, short) for step in (18, 19)] == pytest.approx([1e-2, 1e-3])


def test_wsd_is_the_same_before_its_decay_however_long_it_is() -> None:
    """What it is for: a training is made longer from a checkpoint of before the decay, and no step was for nothing."""
    wsd, cosine = config(schedule="wsd"), config()
    assert [learning_rate(s, 100, wsd) for s in range(80)] == [learning_rate(s, 1000, wsd) for s in range(80)]
    assert learning_rate(79, 100, cosine) != learning_rate(79, 1000, cosine)


def test_every_parameter_is_in_one_group_and_only_matrices_decay() -> None:
    """A parameter in no group would silently never train; one decayed by mistake shrinks the norms."""
    model = Transformer(TINY)
    for optimizer in ("adamw", "muon"):
        optimizers = make_optimizers(model, config(optimizer=optimizer, weight_decay=0.1), dtype=torch.float32)
        groups = [group for one in optimizers for group in one.param_groups]
        grouped = [parameter for group in groups for parameter in group["params"]]
        assert len(grouped) == len({id(p) for p in grouped}) == len(list(model.parameters()))
        names = {id(p): name for name, p in model.named_parameters()}
        decayed = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
        assert decayed == {n for n in names.values() if n.endswith("proj.weight")}


def test_muon_gets_the_hidden_matrices_and_no_other() -> None:
    """Embeddings and routers are look-up tables, not maps between hidden states."""
    moe = TINY.replace(num_experts=2, experts_per_token=1, balance_coefficient=0.01)
    model = Transformer(moe)
    muon, adamw = make_optimizers(model, config(optimizer="muon"), dtype=torch.float32)
    names = {id(p): name for name, p in model.named_parameters()}
    muons = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert muons == {name for name in names.values() if name.endswith("proj.weight")}
    assert isinstance(muon, Muon)
    assert isinstance(adamw, torch.optim.AdamW)


def test_parts_have_learning_rates_of_their_own() -> None:
    """`lr_scales` reaches the parameters it names."""
    model = Transformer(TINY)
    optimizers = make_optimizers(model, config(lr_scales={"embedding": 0.5, "norm": 0.0}), dtype=torch.float32)
    set_learning_rate(optimizers, 1e-2)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for o in optimizers for g in o.param_groups for p in g["params"]}
    assert rates["model.embed_tokens.weight"] == 5e-3
    assert rates["model.norm.weight"] == 0.0
    assert rates["model.layers.0.mlp.up_proj.weight"] == 1e-2
    assert part_of("lm_head.weight", torch.zeros(2, 2)) == "output"


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (24, 24), (3, 16, 40)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    """What Muon is: every direction of the gradient moves by about the same amount."""
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.3  # a random square matrix has a singular value near zero, which five rounds lift
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    aligned = (orthogonalise(matrices) * (left @ right)).sum() / (left @ right).pow(2).sum()
    assert 0.6 < aligned < 1.2


def test_muon_takes_the_steps_of_torchs_own() -> None:
    """Another implementation of the paper as oracle, five steps, with decay; torch's works in bf16."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(16, 40, generator=generator), torch.randn(40, 16, generator=generator)]
    ours, theirs = ([torch.nn.Parameter(p.clone()) for p in start] for _ in range(2))
    muon = Muon(ours, dtype=torch.bfloat16)
    muon.param_groups[0].update(lr=0.02, weight_decay=0.1)
    oracle = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        muon.step()
        oracle.step()
    for mine, other, first in zip(ours, theirs, start, strict=True):
        assert (mine - other).norm() < 0.02 * (mine - first).norm()


def test_a_stack_of_matrices_is_updated_like_its_members() -> None:
    """Batching by shape is for speed and must not mix matrices up."""
    grads = torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(1))
    together = [torch.nn.Parameter(torch.zeros(8, 12)) for _ in range(3)]
    alone = [torch.nn.Parameter(torch.zeros(8, 12)) for _ in range(3)]
    for parameter, grad in zip([*together, *alone], [*grads, *grads], strict=True):
        parameter.grad = grad.clone()
    optimizers = [Muon(together), *(Muon([p]) for p in alone)]
    set_learning_rate(optimizers, 0.1)
    for optimizer in optimizers:
        optimizer.step()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other)


def step(model: Transformer, optimizers: list[torch.optim.Optimizer]) -> None:
    set_learning_rate(optimizers, 1e-2)
    model(torch.arange(12)[None]).square().mean().backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()


def test_the_loss_scale_halves_and_doubles() -> None:
    """fp16 needs it; other precisions never leave 1."""
    scale = LossScale.of(torch.float16)
    assert scale.overflowed()
    assert scale.value == 2.0**15
    for _ in range(2000):
        scale.went_well()
    assert scale.value == 2.0**16
    plain = LossScale.of(torch.bfloat16)
    assert not plain.overflowed()
    for _ in range(4000):
        plain.went_well()
    assert plain.value == 1.0


def test_an_untied_output_is_trained_and_decayed() -> None:
    """`lm_head` exists only in untied models and must not be forgotten."""
    shape = ModelConfig.model_validate({**TINY.model_dump(), "tie_embeddings": False})
    optimizers = make_optimizers(Transformer(shape), config(weight_decay=0.1), dtype=torch.float32)
    sizes = [sum(p.numel() for p in g["params"]) for o in optimizers for g in o.param_groups if g["weight_decay"]]
    assert math.isclose(sum(sizes), shape.vocab_size * 32 + 2 * (3 * 32 * 64 + 2 * 32 * 8 * 6))
