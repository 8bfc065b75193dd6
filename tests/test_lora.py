"""Adapters change nothing until they are trained, train alone, and merge without a trace."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.model.config import ModelConfig
from minimind.model.cross_entropy import linear_cross_entropy
from minimind.model.lora import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_FILE,
    apply_lora,
    load_adapter,
    load_lora,
    lora_state,
    merge_lora,
    save_adapter,
)
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


@torch.no_grad()
def test_merging_is_exact_to_the_bit() -> None:
    """W + α/r·BA in float64, rounded once to fp32: what is published is what the formula says."""
    with torch.enable_grad():
        model = adapted_model(train_steps=4)
    matrices, base = {name: matrix.clone() for name, matrix in lora_state(model).items()}, Transformer(TINY)
    merge_lora(model)
    for name, weight in base.state_dict().items():
        stem = name.removesuffix(".weight")
        if f"{stem}.lora_A" in matrices:
            product = matrices[f"{stem}.lora_B"].double() @ matrices[f"{stem}.lora_A"].double()
            weight = (weight.double() + 8 / 4 * product).float()
        assert torch.equal(model.state_dict()[name], weight), name


def test_an_adapter_file_gives_the_trained_model_back(tmp_path: Path) -> None:
    """It is the few matrices alone, a fraction of the model, and needs nothing but the model it was trained on."""
    trained, other = adapted_model(train_steps=3, targets=("q_proj", "down_proj")), Transformer(TINY)
    save_adapter(tmp_path, trained, targets=("q_proj", "down_proj"), base="x")
    assert sorted(path.name for path in tmp_path.iterdir()) == [ADAPTER_CONFIG_FILE, ADAPTER_FILE]
    load_adapter(tmp_path, other)
    with torch.no_grad():
        assert torch.equal(other(TOKENS), trained(TOKENS))


def test_a_damaged_or_foreign_adapter_is_named(tmp_path: Path) -> None:
    """Not a traceback, and never a model that is half adapted."""
    with pytest.raises(MissingError, match=ADAPTER_CONFIG_FILE):
        load_adapter(tmp_path, Transformer(TINY))
    with pytest.raises(ConfigError, match="no adapters"):
        save_adapter(tmp_path, Transformer(TINY), targets=("q_proj",), base=None)
    save_adapter(tmp_path, adapted_model(), targets=("q_proj", "o_proj"), base=None)
    whole = (tmp_path / ADAPTER_FILE).read_bytes()
    (tmp_path / ADAPTER_FILE).write_bytes(whole[:100])
    with pytest.raises(ArtifactError, match="damaged"):
        load_adapter(tmp_path, Transformer(TINY))
    (tmp_path / ADAPTER_FILE).write_bytes(whole)
    (tmp_path / ADAPTER_CONFIG_FILE).write_text('{"r": 4}')
    with pytest.raises(ArtifactError, match="lora_alpha"):
        load_adapter(tmp_path, Transformer(TINY))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft 0.21 on transformers 5
@pytest.mark.parametrize("qk_norm", [False, True], ids=["Llama", "Qwen3"])
def test_peft_loads_an_adapter_onto_the_exported_model(qk_norm: bool, tmp_path: Path) -> None:
    """Names, shapes and scale are peft's: the stock class with the adapter answers as ours does, merged or not."""
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape, targets = TINY.replace(qk_norm=qk_norm), ("q_proj", "self_attn.v_proj", "down_proj")
    base = Transformer(shape)
    trained = Transformer(shape)
    apply_lora(trained, rank=4, alpha=6, targets=targets)
    with torch.no_grad():
        for name, matrix in lora_state(trained).items():
            matrix.copy_(torch.randn(matrix.shape, generator=torch.Generator().manual_seed(len(name))) / 4)
    save_adapter(tmp_path, trained, targets=targets, base="base")
    config_class, model_class = (Qwen3Config, Qwen3ForCausalLM) if qk_norm else (LlamaConfig, LlamaForCausalLM)
    stock = model_class(
        config_class(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.num_layers,
            num_attention_heads=shape.num_heads,
            num_key_value_heads=shape.num_kv_heads,
            head_dim=shape.head_size,
            intermediate_size=shape.ffn_size,
            rms_norm_eps=shape.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            max_position_embeddings=shape.max_positions,
            tie_word_embeddings=True,
        )
    ).eval()
    state = dict(base.state_dict())
    stock.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    adapted = peft.PeftModel.from_pretrained(stock, str(tmp_path)).eval()
    with torch.no_grad():
        logits_BTV = trained(TOKENS)
        assert (logits_BTV - base(TOKENS)).abs().max() > 0.05
        assert (adapted(TOKENS).logits - logits_BTV).abs().max() < 1e-4
        merge_lora(trained)
        merged = adapted.merge_and_unload()
        assert (merged(TOKENS).logits - trained(TOKENS)).abs().max() < 1e-4
