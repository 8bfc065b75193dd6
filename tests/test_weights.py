"""A model written and read again is the same model; a damaged directory says what is wrong with it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.model.config import ModelConfig
from minimind.model.lora import apply_lora
from minimind.model.transformer import Transformer
from minimind.model.weights import CONFIG_FILE, WEIGHTS_FILE, load_model, save_model

TINY = ModelConfig(vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_size=8, ffn_size=48)
SHAPES = {
    "dense": TINY,
    "untied": TINY.replace(tie_embeddings=False, qk_norm=False),
    "experts": TINY.replace(num_experts=3, experts_per_token=2, num_shared_experts=1, balance="sequence"),
}
TOKENS = torch.randint(0, 61, (2, 13), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_a_saved_model_comes_back_to_the_bit(tmp_path: Path, name: str) -> None:
    """Every later stage starts from this file."""
    model = Transformer(SHAPES[name], seed=4)
    save_model(tmp_path, model)
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert torch.equal(loaded(TOKENS), model(TOKENS))
    assert all(p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())


def test_a_tied_weight_is_stored_once_and_all_of_it_in_fp32(tmp_path: Path) -> None:
    """The names are Hugging Face's; a bf16 model in memory still leaves as fp32."""
    save_model(tmp_path, Transformer(TINY).to(torch.bfloat16))
    stored = load_file(tmp_path / WEIGHTS_FILE)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert "lm_head.weight" not in stored
    assert {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.self_attn.k_proj.weight"} < set(stored)


def test_saving_the_same_model_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    """Artifacts are compared by checksum."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(tmp_path / name, Transformer(TINY))
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@torch.no_grad()
def test_loading_in_bf16_halves_the_matrices_and_keeps_norms_and_routers(tmp_path: Path) -> None:
    """Decoding is bound by reading weights; a rounded router would send tokens elsewhere."""
    model = Transformer(SHAPES["experts"])
    save_model(tmp_path, model)
    loaded = load_model(tmp_path, dtype=torch.bfloat16)
    assert loaded.compute_dtype == torch.bfloat16
    for name, parameter in loaded.named_parameters():
        exact = parameter.ndim == 1 or name.endswith("mlp.gate.weight")
        assert parameter.dtype == (torch.float32 if exact else torch.bfloat16), name
    logits = model.set_compute_dtype(torch.bfloat16)(TOKENS)
    assert (loaded(TOKENS) - logits).norm() < 0.01 * logits.norm()


def test_a_loaded_model_can_be_trained(tmp_path: Path) -> None:
    """It is built without values first; nothing of that may be left."""
    save_model(tmp_path, Transformer(TINY))
    loaded = load_model(tmp_path).set_compute_dtype(torch.bfloat16)
    loaded(TOKENS).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and not p.is_meta for p in loaded.parameters())


def test_unmerged_adapters_are_not_saved_silently(tmp_path: Path) -> None:
    """The file would hold the base model under the tuned one's name."""
    model = Transformer(TINY)
    apply_lora(model, rank=2, alpha=2, targets=("q_proj",))
    with pytest.raises(ConfigError, match="merge_lora"):
        save_model(tmp_path, model)


@pytest.mark.parametrize("file", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    """The usual cause is a wrong path; the message has to show it."""
    save_model(tmp_path, Transformer(TINY))
    (tmp_path / file).unlink()
    with pytest.raises(MissingError, match=file):
        load_model(tmp_path)


def test_a_truncated_file_is_an_artifact_error(tmp_path: Path) -> None:
    """A copy that broke off."""
    save_model(tmp_path, Transformer(TINY))
    path = tmp_path / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="damaged"):
        load_model(tmp_path)


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    """config.json and weights of two different models in one directory."""
    save_model(tmp_path, Transformer(TINY))
    config = json.loads((tmp_path / CONFIG_FILE).read_text())
    for changes, message in (({"ffn_size": 64}, "gate_proj"), ({"num_layers": 3}, "lacks"), ({"num_layers": 1}, "has")):
        (tmp_path / CONFIG_FILE).write_text(json.dumps(config | changes))
        with pytest.raises(ArtifactError, match=message):
            load_model(tmp_path)


def test_a_foreign_config_is_refused_with_the_file_named(tmp_path: Path) -> None:
    """A Hugging Face directory has a config.json too."""
    save_model(tmp_path, Transformer(TINY))
    (tmp_path / CONFIG_FILE).write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(ConfigError, match="config.json.*architectures"):
        load_model(tmp_path)
    (tmp_path / CONFIG_FILE).write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        load_model(tmp_path)


def test_weights_stored_in_half_precision_are_read_as_fp32(tmp_path: Path) -> None:
    """Files from elsewhere come in bf16; training needs fp32 masters."""
    save_model(tmp_path, Transformer(TINY))
    stored = load_file(tmp_path / WEIGHTS_FILE)
    save_file({name: tensor.bfloat16() for name, tensor in stored.items()}, tmp_path / WEIGHTS_FILE)
    assert {p.dtype for p in load_model(tmp_path).parameters()} == {torch.float32}
