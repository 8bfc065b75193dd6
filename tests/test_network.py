"""The network that generates, against the model that was trained: token by token, for every architecture there is."""

import pytest
import torch
from torch.nn import functional as F

from minimind.infer.key_values import BLOCK, FIRST_LENGTH
from minimind.infer.network import Network, _filled, _spans, keys_alike
from minimind.model.config import PRESETS, ModelConfig
from minimind.model.transformer import Transformer

SMALL = {"vocab_size": 97, "hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_size": 16}
FLAGS = ("qk_norm", "num_experts", "experts_per_token", "num_shared_experts", "balance", "norm_eps", "rope_theta")
SHAPES = {
    **{name: {flag: getattr(preset, flag) for flag in FLAGS} for name, preset in PRESETS.items()},
    "yarn": {"yarn": True},
    "untied": {"tie_embeddings": False},
    "one kv head": {"num_kv_heads": 1},
}


def model_of(name: str, *, max_positions: int = 1024, **changes: object) -> Transformer:
    """A model of a preset's architecture, small, with weights large enough for clear choices."""
    config = ModelConfig(**{**SMALL, "ffn_size": 96, "max_positions": max_positions, **SHAPES[name], **changes})
    model = Transformer(config, seed=1).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def text(length: int, *, seed: int = 0) -> list[int]:
    return torch.randint(0, SMALL["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def scores_of(model: Transformer, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0]


@pytest.mark.parametrize("name", SHAPES)
def test_every_token_has_the_scores_of_full_recomputation(name: str) -> None:
    """Keys kept, products joined, rotation and masks written anew: none of it may change a number beyond rounding."""
    model = model_of(name)
    ids, network = text(150), Network(model, "fp32")
    wanted_TV, keys = scores_of(model, ids), network.new_key_values(1)
    assert torch.allclose(network.prefill(ids[:100], start=0, key_values=keys), wanted_TV[99], atol=2e-5, rtol=1e-4)
    for position in range(100, 150):
        scores_V = network.decode([ids[position]], lengths=[position], key_values=keys)[0]
        assert torch.allclose(scores_V, wanted_TV[position], atol=2e-5, rtol=1e-4), position


def test_yarn_reads_beyond_the_length_it_stretches() -> None:
    """Positions past the original 2,048 are what YaRN is for, and where a wrong angle shows."""
    model = model_of("yarn", max_positions=4096, num_layers=1)
    ids, network = text(2200), Network(model, "fp32")
    wanted_TV, keys = scores_of(model, ids), network.new_key_values(1)
    assert torch.allclose(network.prefill(ids[:2190], start=0, key_values=keys), wanted_TV[2189], atol=2e-5, rtol=1e-4)
    for position in range(2190, 2200):
        scores_V = network.decode([ids[position]], lengths=[position], key_values=keys)[0]
        assert torch.allclose(scores_V, wanted_TV[position], atol=2e-5, rtol=1e-4), position
    plain = model_of("minimind-3", max_positions=4096, num_layers=1)
    assert not torch.allclose(scores_of(plain, ids)[-1], wanted_TV[-1], atol=1e-2)


@pytest.mark.parametrize(("precision", "error"), [("fp16", 0.005), ("bf16", 0.05), ("int8", 0.08), ("int4", 0.4)])
def test_narrow_weights_stay_near_the_model(precision: str, error: float) -> None:
    """How much is lost is the price of speed; a mistake in packing would lose everything."""
    model = model_of("minimind-3")
    ids, network = text(120), Network(model, precision)
    keys, wanted_TV = network.new_key_values(1), scores_of(model, ids)
    found = [network.prefill(ids[:80], start=0, key_values=keys)]
    found += [network.decode([ids[i]], lengths=[i], key_values=keys)[0] for i in range(80, 120)]
    assert (torch.stack(found) - wanted_TV[79:]).norm() <= error * wanted_TV[79:].norm()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("name", ["minimind-3", "minimind2-moe"])
def test_a_prompt_read_in_parts_is_the_prompt_read_at_once(name: str, precision: str) -> None:
    """To the bit: or an answer would depend on what was read before it, and on how busy the engine is."""
    network, ids = Network(model_of(name), precision), text(5 * BLOCK + 17)
    whole, parts = network.new_key_values(1), network.new_key_values(1)
    wanted_V = network.prefill(ids, start=0, key_values=whole)
    for start, stop in ((0, BLOCK), (BLOCK, 4 * BLOCK), (4 * BLOCK, len(ids))):
        scores_V = network.prefill(ids[start:stop], start=start, key_values=parts)
    assert torch.equal(scores_V, wanted_V)
    assert torch.equal(whole.row(0)[..., : len(ids), :], parts.row(0)[..., : len(ids), :])


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8", "int4"])
@pytest.mark.parametrize("name", ["minimind-3", "minimind-3-moe", "minimind2-moe"])
def test_a_row_is_the_same_in_any_company(name: str, precision: str) -> None:
    """To the bit: the same seed gives the same text, however many others are answered and however long they are."""
    network = Network(model_of(name, max_positions=2048), precision)
    lengths = [70, 3, 200, 530, 64, 63, 130, 1, 700]
    prompts = [text(length, seed=length) for length in lengths]
    keys = network.new_key_values(len(prompts))
    for row, prompt in enumerate(prompts):
        network.prefill(prompt, start=0, key_values=keys, row=row)
    together_BV = network.decode([5] * len(prompts), lengths=lengths, key_values=keys)
    for row, prompt in enumerate(prompts):
        alone = network.new_key_values(1)
        network.prefill(prompt, start=0, key_values=alone)
        assert torch.equal(network.decode([5], lengths=[lengths[row]], key_values=alone)[0], together_BV[row]), row


def test_memory_grows_with_the_longest_row_and_keeps_what_is_there() -> None:
    """A context of 32,768 is not allocated for a conversation of ten words."""
    network, ids = Network(model_of("minimind-3", max_positions=4096), "fp32"), text(FIRST_LENGTH - 3)
    keys = network.new_key_values(2)
    network.prefill(ids, start=0, key_values=keys)
    assert keys.length == FIRST_LENGTH
    wanted_TV = scores_of(model_of("minimind-3", max_positions=4096), ids + ids[:6])
    for more in range(6):
        scores_V = network.decode([ids[more]], lengths=[len(ids) + more], key_values=keys)[0]
    assert keys.length == 2 * FIRST_LENGTH
    assert torch.allclose(scores_V, wanted_TV[-1], atol=2e-5, rtol=1e-4)
    keys.shrink()
    assert keys.length == FIRST_LENGTH


def test_rows_of_very_different_lengths_are_not_filled_up_to_the_longest() -> None:
    """One long conversation would make every short one as slow as itself."""
    assert list(_spans([10, 500, 20], 64)) == [(slice(0, 3), 512)]
    assert list(_spans([10, 4000, 20, 30], 64)) == [(slice(0, 1), 64), (slice(1, 2), 4032), (slice(2, 4), 64)]
    assert [_filled(keys, 192) for keys in (1, 193, 385, 512, 513, 705, 1024)] == [192, 384, 512, 512, 704, 896, 1024]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("queries", "head_size"), [(4, 64), (2, 96), (1, 128), (8, 64), (2, 8)])
def test_what_keys_are_filled_up_with_changes_no_sum(queries: int, head_size: int, dtype: torch.dtype) -> None:
    """Libraries cut long sums in two, where depends on how many keys there are: a row would depend on longer ones."""
    multiple, generator = keys_alike(queries, head_size, dtype), torch.Generator().manual_seed(1)
    q_BKRC = torch.randn(3, 2, queries, head_size, generator=generator).to(dtype)
    kv_2BKSC = torch.randn(2, 3, 2, 2048, head_size, generator=generator).to(dtype)
    for length in (7, 150, 211, 333, 512, 640, 1111):
        first, *others = (
            F.scaled_dot_product_attention(
                q_BKRC, *kv_2BKSC[..., :keys, :], attn_mask=(torch.arange(keys) < length).expand(3, 1, 1, -1)
            )
            for keys in sorted({_filled(keys, multiple) for keys in range(length, 2049)})
        )
        assert all(torch.equal(other, first) for other in others), length
