"""Adapters change nothing until they are trained, train alone, and merge without a trace."""

import pytest
import torch
from torch import Tensor

from minimind.errors import ArtifactError, ConfigError
from minimind.model.config import ModelConfig
from minimind.model.cross_entropy import linear_cross_entropy
from minimind.model.lora import apply_lora, load_lora, lora_state, merge_lora
from minimind.model.transformer import Transformer

TINY = ModelConfig(vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_size=8, ffn_size=48)
TOKENS = torch.randint(0, 61, (2, 13), generator=torch.Generator().manual_seed(0))


def loss_of(model: Transformer) -> Tensor:
    hidden, _ = model.hidden(TOKENS)
    return linear_cross_entropy(hidden.flatten(0, 1), model.output_weight, TOKENS.flatten()) / TOKENS.numel()


def adapted_model(*, train_steps: int = 0, targets: tuple[str, ...] = ("q_proj", "o_proj")) -> Transformer:
    """A model with adapters of rank 4 that have taken some steps."""
    model = Transformer(TINY)
    apply_lora(model, rank=4, alpha=8, targets=targets, seed=3)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(train_steps):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    return model


def test_a_fresh_adapter_changes_no_logit() -> None:
    """B starts at zero, so fine-tuning starts from the model it was given."""
    with torch.no_grad():
        assert torch.equal(adapted_model()(TOKENS), Transformer(TINY)(TOKENS))


def test_only_the_adapters_train() -> None:
    """The base weights stay as they were to the bit, and the loss goes down all the same."""
    base, model = Transformer(TINY), adapted_model(train_steps=8)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(lora_state(model))
    assert trainable == {
        f"model.layers.{layer}.self_attn.{target}.{matrix}"
        for layer in range(2)
        for target in ("q_proj", "o_proj")
        for matrix in ("lora_A", "lora_B")
    }
    state = model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in base.state_dict().items())
    assert loss_of(model) < loss_of(base) - 0.01


@pytest.mark.parametrize("targets", [("q_proj", "o_proj"), ("self_attn.v_proj", "gate_proj", "down_proj")])
@torch.no_grad()
def test_merging_leaves_the_logits_and_no_adapter(targets: tuple[str, ...]) -> None:
    """What is evaluated after merging is what was trained before it."""
    with torch.enable_grad():
        model = adapted_model(train_steps=5, targets=targets)
    attached = model(TOKENS)
    merge_lora(model)
    assert (model(TOKENS) - attached).abs().max() < 1e-6
    assert (attached - Transformer(TINY)(TOKENS)).abs().max() > 1e-3
    assert model.state_dict().keys() == Transformer(TINY).state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())


@torch.no_grad()
def test_saved_adapters_load_into_a_model_adapted_alike() -> None:
    """An adapter is published as its few matrices; they and the base must give the trained model."""
    with torch.enable_grad():
        trained = adapted_model(train_steps=3)
    state = {name: tensor.clone() for name, tensor in lora_state(trained).items()}
    other = Transformer(TINY)
    apply_lora(other, rank=4, alpha=8, targets=("q_proj", "o_proj"), seed=99)
    load_lora(other, state)
    assert torch.equal(other(TOKENS), trained(TOKENS))


def test_adapters_of_another_shape_are_refused_by_name() -> None:
    """Half an adapter loaded silently is the worst of all outcomes."""
    model = adapted_model()
    with pytest.raises(ArtifactError, match="o_proj"):
        load_lora(model, lora_state(adapted_model(targets=("q_proj",))))
    other = Transformer(TINY)
    apply_lora(other, rank=2, alpha=8, targets=("q_proj", "o_proj"))
    with pytest.raises(ArtifactError, match="rank"):
        load_lora(model, lora_state(other))


def test_the_first_matrix_depends_on_the_seed_alone() -> None:
    """Runs with one recipe start alike."""
    torch.manual_seed(7)
    first, second = lora_state(adapted_model()), lora_state(adapted_model())
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = Transformer(TINY)
    apply_lora(other, rank=4, alpha=8, targets=("q_proj", "o_proj"), seed=4)
    name = "model.layers.0.self_attn.q_proj.lora_A"
    assert not torch.equal(first[name], lora_state(other)[name])
    assert not torch.equal(first[name], first[name.replace("layers.0", "layers.1")])


def test_alpha_over_rank_scales_the_correction() -> None:
    """The convention of the paper and of peft; an adapter moved between tools keeps its strength."""
    name = "model.layers.0.self_attn.q_proj.weight"
    for rank, alpha in ((4, 4.0), (4, 12.0), (2, 3.0)):
        model = Transformer(TINY)
        apply_lora(model, rank=rank, alpha=alpha, targets=("q_proj",), seed=0)
        matrices = lora_state(model)
        matrices[name.replace("weight", "lora_B")].fill_(0.1)
        product = 0.1 * matrices[name.replace("weight", "lora_A")].sum(0)
        merge_lora(model)
        correction = model.state_dict()[name] - Transformer(TINY).state_dict()[name]
        torch.testing.assert_close(correction, (alpha / rank * product).expand_as(correction), rtol=1e-4, atol=1e-6)


def test_experts_can_be_targets_and_the_router_cannot() -> None:
    """`gate_proj` of every expert has the same last name; the router is no linear map of the kind."""
    model = Transformer(TINY.replace(num_experts=3, experts_per_token=1))
    apply_lora(model, rank=2, alpha=2, targets=("gate_proj",))
    assert len(lora_state(model)) == 2 * 3 * 2
    with pytest.raises(ConfigError, match="gate_proj"):
        apply_lora(Transformer(model.config), rank=2, alpha=2, targets=("gate",))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ("q_prj",)}, "q_proj"),
        ({"targets": ()}, "at least one"),
        ({"rank": 0}, "lora.rank"),
    ],
)
def test_impossible_settings_name_the_knob(changes: dict[str, object], message: str) -> None:
    """A misspelt target would otherwise train nothing for hours."""
    settings = {"rank": 2, "alpha": 4, "targets": ("q_proj",), **changes}
    with pytest.raises(ConfigError, match=message):
        apply_lora(Transformer(TINY), **settings)


def test_a_second_set_of_adapters_is_refused() -> None:
    """It would freeze the first in the middle of its training."""
    model = adapted_model()
    with pytest.raises(ConfigError, match="merge_lora"):
        apply_lora(model, rank=2, alpha=2, targets=("v_proj",))
