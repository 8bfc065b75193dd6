"""The model against the stock Hugging Face classes and its own promises."""

import math

import pytest
import torch
from torch import Tensor
from transformers import (
    GraniteMoeSharedConfig,
    GraniteMoeSharedForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from minimind.errors import ConfigError
from minimind.model.attention import Kind
from minimind.model.config import PRESETS, ModelConfig, count_parameters
from minimind.model.cross_entropy import linear_cross_entropy
from minimind.model.layers import RMSNorm, rotary_frequencies
from minimind.model.transformer import Transformer

TINY = ModelConfig(vocab_size=97, hidden_size=32, num_layers=3, num_heads=4, num_kv_heads=2, head_size=16, ffn_size=48)
TINY_MOE = TINY.replace(num_experts=4, experts_per_token=2, balance_coefficient=0.01)
SHAPES = {
    "qk-norm": TINY,
    "plain": TINY.replace(qk_norm=False, norm_eps=1e-5),
    "untied": TINY.replace(tie_embeddings=False),
    "experts": TINY_MOE,
    "shared": TINY_MOE.replace(num_shared_experts=2, balance="sequence"),
}


def random_tokens(batch: int, time: int, *, seed: int = 0, vocab_size: int = 97) -> Tensor:
    return torch.randint(0, vocab_size, (batch, time), generator=torch.Generator().manual_seed(seed))


def enlivened(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """A model with weights large enough, and norms uneven enough, that a wrong formula shows in the logits."""
    model = Transformer(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.ndim == 1 else 0.15 * noise)
    return model


def stock_model(config: ModelConfig) -> PreTrainedModel:
    """The stock class for this shape, in eager fp32."""
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.yarn:
        rope |= {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 2048}
        rope |= {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0}
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "intermediate_size": config.ffn_size,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": rope,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "attn_implementation": "eager",
    }
    if config.num_experts and not config.qk_norm:
        experts = {
            "num_local_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "shared_intermediate_size": config.num_shared_experts * config.ffn_size,
            "attention_multiplier": config.head_size**-0.5,
        }
        return GraniteMoeSharedForCausalLM(GraniteMoeSharedConfig(**common, **experts)).eval()
    if config.num_experts:
        experts = {
            "num_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "moe_intermediate_size": config.ffn_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**common, **experts)).eval()
    if config.qk_norm:
        return Qwen3ForCausalLM(Qwen3Config(**common)).eval()
    return LlamaForCausalLM(LlamaConfig(**common)).eval()


def stock_state(model: Transformer) -> dict[str, Tensor]:
    """The state dict as the stock class holds it in memory: the same names, experts stacked."""
    state = dict(model.state_dict())
    if model.config.tie_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    for layer in range(model.config.num_layers if model.config.num_experts else 0):
        prefix = f"model.layers.{layer}.mlp.experts"
        gate, up, down = (
            torch.stack([state.pop(f"{prefix}.{e}.{part}_proj.weight") for e in range(model.config.num_experts)])
            for part in ("gate", "up", "down")
        )
        state[f"{prefix}.gate_up_proj"], state[f"{prefix}.down_proj"] = torch.cat((gate, up), 1), down
    return state if model.config.qk_norm or not model.config.num_experts else granite_state(model.config, state)


def granite_state(config: ModelConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """GraniteMoeShared computes the same (its multipliers at 1) and has names of its own for it."""
    for layer in range(config.num_layers):
        old, new = f"model.layers.{layer}.mlp", f"model.layers.{layer}.block_sparse_moe"
        state[f"{new}.router.weight"] = state.pop(f"{old}.gate.weight")
        for part in ("gate_up_proj", "down_proj"):
            state[f"{new}.experts.{part}"] = state.pop(f"{old}.experts.{part}")
        gate, up, down = (state.pop(f"{old}.shared_experts.{part}_proj.weight") for part in ("gate", "up", "down"))
        state[f"model.layers.{layer}.shared_mlp.input_linear.weight"] = torch.cat((gate, up))
        state[f"model.layers.{layer}.shared_mlp.output_linear.weight"] = down
    return state


@pytest.mark.parametrize("name", ["plain", "qk-norm", "untied", "experts"])
@torch.no_grad()
def test_logits_equal_those_of_the_stock_class_with_the_same_weights(name: str) -> None:
    """Names, layouts and formulas are Hugging Face's, so an exported model answers as it was trained to."""
    model = enlivened(SHAPES[name])
    stock = stock_model(SHAPES[name])
    stock.load_state_dict(stock_state(model))
    tokens_BT = random_tokens(2, 70)
    logits_BTV = model(tokens_BT)
    assert logits_BTV.std() > 0.5
    assert (logits_BTV - stock(tokens_BT).logits).abs().max() < 1e-4


def narrow(name: str) -> ModelConfig:
    """A preset at a small width: its heads to a key head, norms, experts and settings, at two layers."""
    preset = PRESETS[name]
    size = 12 if preset.head_size % 3 == 0 else 8
    return preset.replace(vocab_size=97, hidden_size=preset.num_heads * size, head_size=size, num_layers=2, ffn_size=64)


@pytest.mark.parametrize("name", PRESETS)
@torch.no_grad()
def test_every_preset_has_the_logits_of_a_stock_class(name: str) -> None:
    """At a small width: what could differ (ε, θ, norms, head groups, routing, shared experts) does not depend on it."""
    model = enlivened(narrow(name))
    stock = stock_model(model.config)
    stock.load_state_dict(stock_state(model))
    tokens_BT = random_tokens(2, 40)
    logits_BTV = model(tokens_BT)
    assert logits_BTV.std() > 0.5
    torch.testing.assert_close(logits_BTV, stock(tokens_BT).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_the_parameters_of_its_stock_class(name: str) -> None:
    """In full size, on the meta device."""
    with torch.device("meta"):
        stock, model = stock_model(PRESETS[name]), Transformer(PRESETS[name])
    stock.tie_weights()
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == sum(parameter.numel() for parameter in stock.parameters()) == count_parameters(PRESETS[name])


@torch.no_grad()
def test_yarn_logits_equal_those_of_the_stock_class() -> None:
    """YaRN is a change of frequencies; Hugging Face's formula is the independent witness."""
    config = TINY.replace(yarn=True, head_size=32)
    model = enlivened(config)
    stock = stock_model(config)
    stock.load_state_dict(stock_state(model))
    tokens_BT, positions_BT = random_tokens(1, 40), torch.arange(3000, 3040)[None]
    expected = stock(tokens_BT, position_ids=positions_BT).logits
    assert (model(tokens_BT, positions_BT=positions_BT) - expected).abs().max() < 1e-4
    model.config = config.replace(yarn=False)
    assert (model(tokens_BT, positions_BT=positions_BT) - expected).abs().max() > 1e-2


def test_yarn_frequencies_follow_the_definition() -> None:
    """f' = f·((1−γ) + γ/16): fast pairs keep their angle, slow ones turn sixteen times slower."""
    config = PRESETS["minimind-3"]
    plain, yarn = rotary_frequencies(config).double(), rotary_frequencies(config.replace(yarn=True)).double()
    turns = plain * 2048 / (2 * math.pi)
    torch.testing.assert_close(yarn[turns > 40], plain[turns > 40])
    torch.testing.assert_close(yarn[turns < 0.7], plain[turns < 0.7] / 16)
    low = math.floor(96 * math.log(2048 / (32 * 2 * math.pi)) / (2 * math.log(1e6)))
    high = math.ceil(96 * math.log(2048 / (2 * math.pi)) / (2 * math.log(1e6)))
    gamma = torch.tensor([min(max((p - low) / (high - low), 0.0), 1.0) for p in range(48)], dtype=torch.float64)
    torch.testing.assert_close(yarn, plain * ((1 - gamma) + gamma / 16), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_token_changes_no_logits_before_it(name: str) -> None:
    """A model that peeks ahead trains to a wonderful loss and cannot write. 300 tokens span several blocks."""
    model = enlivened(SHAPES[name])
    tokens_BT = random_tokens(1, 300)
    changed_BT = tokens_BT.clone()
    changed_BT[0, 200] = (changed_BT[0, 200] + 1) % 97
    before, after = model(tokens_BT), model(changed_BT)
    torch.testing.assert_close(after[:, :200], before[:, :200], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(after[:, 200:], before[:, 200:], atol=1e-3)


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_packed_row_gives_each_document_what_it_gets_alone(name: str) -> None:
    """Packing is only free if documents cannot see each other; padding must not disturb them either."""
    model = enlivened(SHAPES[name])
    lengths = (140, 30, 100)
    alone = [random_tokens(1, length, seed=length) for length in lengths]
    row_BT = torch.cat([*alone, torch.zeros(1, 10, dtype=torch.int64)], 1)
    numbers = [n for n, length in enumerate(lengths) for _ in range(length)] + [-1] * 10
    positions = [t for length in (*lengths, 10) for t in range(length)]
    packed = model(
        row_BT, documents_BT=torch.tensor([numbers], dtype=torch.int32), positions_BT=torch.tensor([positions])
    )
    expected = torch.cat([model(tokens) for tokens in alone], 1)
    torch.testing.assert_close(packed[:, :270], expected, rtol=1e-4, atol=1e-4)
    assert packed.isfinite().all()


@pytest.mark.parametrize("kind", ["fused", "flex"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
@torch.no_grad()
def test_the_accelerators_attention_gives_the_models_logits(kind: Kind) -> None:
    """`attention` chooses the path; on a CPU all three can run, with packed rows and with plain ones."""
    model = enlivened(TINY)
    tokens_BT = random_tokens(2, 40)
    documents_BT = torch.tensor([[0] * 25 + [1] * 15, [0] * 10 + [1] * 20 + [-1] * 10], dtype=torch.int32)
    real_BT = documents_BT >= 0
    blocked, plain = model(tokens_BT, documents_BT=documents_BT), model(tokens_BT)
    model.attention = kind
    packed = model(tokens_BT, documents_BT=documents_BT)
    torch.testing.assert_close(packed[real_BT], blocked[real_BT], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(tokens_BT), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_row_of_padding_alone_gives_finite_values_and_gradients(dtype: torch.dtype) -> None:
    """The last row of a batch may be empty; one NaN would end the run."""
    model = Transformer(TINY_MOE, compute_dtype=dtype)
    documents_BT = torch.tensor([[0] * 20, [-1] * 20], dtype=torch.int32)
    tokens_BT = random_tokens(2, 20)
    labels_BT = tokens_BT.masked_fill(documents_BT < 0, -100)
    hidden_BTD, balance_loss = model.hidden(tokens_BT, documents_BT=documents_BT)
    loss = linear_cross_entropy(hidden_BTD.flatten(0, 1), model.output_weight, labels_BT.flatten())
    (loss + balance_loss).backward()
    assert hidden_BTD.isfinite().all()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_gradients_stay_near_fp32(dtype: torch.dtype, tolerance: float) -> None:
    """fp32 weights, half-precision products: the gradient differs by the rounding and by nothing else.

    The loss is scaled by 1024 as a loss scaler would, so that fp16 does not underflow.
    """
    tokens_BT = random_tokens(2, 150)
    gradients = []
    for compute_dtype in (torch.float32, dtype):
        model = Transformer(TINY, seed=3).set_compute_dtype(compute_dtype)
        hidden_BTD, _ = model.hidden(tokens_BT)
        assert hidden_BTD.dtype == compute_dtype
        loss = linear_cross_entropy(hidden_BTD.flatten(0, 1), model.output_weight, tokens_BT.flatten())
        (loss / 300 * 1024).backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
        gradients.append({name: p.grad / 1024 for name, p in model.named_parameters()})
    for name, exact in gradients[0].items():
        error = (gradients[1][name] - exact).norm() / exact.norm()
        assert error < tolerance, (name, float(error))


def test_initial_weights_depend_on_the_seed_and_on_nothing_else() -> None:
    """Two runs of a recipe start alike, whatever drew from torch's generator before, and it is left alone."""
    torch.manual_seed(1)
    first = Transformer(TINY, seed=5)
    state = torch.get_rng_state()
    second, other = Transformer(TINY, seed=5), Transformer(TINY, seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.output_weight, other.output_weight)


def test_initial_weights_have_the_documented_spread() -> None:
    """0.02, and 0.02/√(2·layers) where a branch ends, so that the sum over layers does not grow with depth."""
    config = TINY.replace(hidden_size=128, ffn_size=256, vocab_size=512)
    weights = dict(Transformer(config).named_parameters())
    for name, weight in weights.items():
        if weight.ndim == 1:
            assert torch.equal(weight, torch.ones_like(weight))
            continue
        ends_branch = name.endswith(("o_proj.weight", "down_proj.weight"))
        expected = 0.02 / math.sqrt(6) if ends_branch else 0.02
        assert weight.std().item() == pytest.approx(expected, rel=0.05), name


def test_rms_norm_and_its_gradient_equal_the_definition() -> None:
    """The gradient is written by hand for the CPU; autograd of the plain formula is the witness."""
    generator = torch.Generator().manual_seed(0)
    norm = RMSNorm(24, 1e-3).double()
    norm.weight.data.normal_(generator=generator)
    x, cotangent = (torch.randn(3, 5, 24, dtype=torch.float64, generator=generator) for _ in range(2))
    x.requires_grad_()
    plain = x / (x.square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), plain)
    expected = torch.autograd.grad(plain, (x, norm.weight), cotangent)
    torch.testing.assert_close(torch.autograd.grad(norm(x), (x, norm.weight), cotangent), expected)


def test_more_positions_than_the_model_has_is_an_error() -> None:
    """Beyond max_positions the logits would be rubbish without a word."""
    model = Transformer(TINY.replace(max_positions=16))
    with pytest.raises(ConfigError, match="max_positions"):
        model(random_tokens(1, 17))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # the compiler's own doing
@pytest.mark.parametrize("packed", [False, True])
def test_a_dense_model_compiles_as_one_graph_with_the_same_gradients(packed: bool) -> None:
    """A graph break in a hand-written gradient costs what compiling gains, and nobody notices it."""
    model = Transformer(TINY)
    tokens_BT = random_tokens(2, 150)
    documents_BT = (torch.arange(150) // 60).to(torch.int32).expand(2, 150) if packed else None
    cotangent = torch.randn(2, 150, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for hidden in (model.hidden, torch.compile(model.hidden, backend="aot_eager", fullgraph=True)):
        output, _ = hidden(tokens_BT, documents_BT=documents_BT)
        gradients.append(torch.autograd.grad(output, list(model.parameters()), cotangent))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
