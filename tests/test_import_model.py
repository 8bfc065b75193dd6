"""Models from elsewhere come in as they are, to the bit, or are refused with what is wrong and where."""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import documents
from export_parts import DENSE, NARROW, SHAPES, lively, model_directory, some_tokens
from safetensors.torch import load_file, save_file
from test_foreign_tokenizer import UPSTREAM, byte_level
from torch import Tensor

from minimind.artifact import Artifact, Store, verify
from minimind.errors import ConfigError, DataError, MiniMindError, MissingError
from minimind.export.exporting import export_model
from minimind.export.hf_model import write_hf_folder
from minimind.export.importing import import_model
from minimind.export.probes import greedy
from minimind.export.settings import ExportConfig, HfType
from minimind.housekeeping.pins import pins
from minimind.infer.generate import prompt_ids
from minimind.infer.network import Network
from minimind.model.config import PRESETS, ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import load_config, load_model
from minimind.tokens.tokenizer import Tokenizer

Taken = Callable[..., Artifact]


@pytest.fixture
def home(tmp_path: Path) -> Store:
    return Store(tmp_path / "home")


def weights(directory: Path) -> dict[str, Tensor]:
    return load_file(directory / "model.safetensors")


@pytest.mark.parametrize("name", SHAPES)
def test_what_was_exported_comes_back_to_the_bit(name: str, tokenizer: Tokenizer, home: Store, tmp_path: Path) -> None:
    """Weights, shape and tokenizer: the artifact is the model that left."""
    directory = model_directory(tmp_path / "model", SHAPES[name], tokenizer)
    export_model(directory, tmp_path / "out", config=ExportConfig(to=("hf",), dtype="fp32"))
    artifact, reused = import_model(tmp_path / "out", store=home)
    verify(artifact)
    assert pins(home) == {artifact.fingerprint: "import"}  # else gc would remove what no pipeline can make again
    before, after = weights(directory), weights(artifact.dir)
    assert not reused and artifact.kind == "import"
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    ignored = {"balance": "batch", "balance_coefficient": 0.0}  # how it was trained is in no file of theirs
    assert load_config(artifact.dir) == SHAPES[name].replace(**ignored)
    for file in ("tokenizer.model", "tokenizer.json", "tokenizer_config.json"):
        assert (artifact.dir / file).read_bytes() == (directory / file).read_bytes()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_rounded_weights_come_back_as_they_were_rounded(
    dtype: HfType, tokenizer: Tokenizer, home: Store, tmp_path: Path
) -> None:
    """Half a number each, and no second rounding."""
    directory = model_directory(tmp_path / "model", DENSE, tokenizer)
    export_model(directory, tmp_path / "out", config=ExportConfig(to=("hf",), dtype=dtype))
    artifact, _ = import_model(tmp_path / "out", store=home)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    before, after = weights(directory), weights(artifact.dir)
    assert all(torch.equal(before[key].to(half).float(), after[key]) for key in before)


def test_the_same_files_elsewhere_are_the_same_artifact_and_a_changed_byte_is_another(
    tokenizer: Tokenizer, home: Store, tmp_path: Path
) -> None:
    """Its sources are digests, not places."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_hf_folder(tmp_path / name, lively(DENSE), tokenizer, dtype="fp32")
    first, _ = import_model(tmp_path / "a", store=home)
    again, reused = import_model(tmp_path / "b", store=home)
    assert reused and again.fingerprint == first.fingerprint
    assert set(first.manifest.parts.sources) == {"model.safetensors", "config.json", "tokenizer.model"}
    assert str(tmp_path) not in (first.dir / "manifest.json").read_text()
    write_hf_folder(tmp_path / "b", lively(DENSE, seed=1), tokenizer, dtype="fp32")
    assert import_model(tmp_path / "b", store=home)[0].fingerprint != first.fingerprint


def test_an_imported_model_answers_and_can_be_exported(tokenizer: Tokenizer, home: Store, tmp_path: Path) -> None:
    """The way through the house: in, talk, out."""
    (tmp_path / "theirs").mkdir()
    write_hf_folder(tmp_path / "theirs", lively(DENSE), tokenizer, dtype="fp32")
    artifact, _ = import_model(tmp_path / "theirs", store=home)
    model, read = load_model(artifact.dir).eval(), Tokenizer.load(artifact.dir)
    ids = prompt_ids(read, "你是谁？")
    own = greedy(Network(lively(DENSE), "fp32"), ids, count=8)
    assert greedy(Network(model, "fp32"), ids, count=8) == own
    record = export_model(artifact.dir, tmp_path / "out", config=ExportConfig(to=("hf",), dtype="fp32"))
    assert record.fingerprint == artifact.fingerprint


def test_a_stock_model_of_transformers_comes_in_with_its_logits(
    tokenizer: Tokenizer, home: Store, tmp_path: Path
) -> None:
    """Written by their `save_pretrained`, in shards, with an untied head and their own defaults."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=600, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128,
    )  # fmt: skip
    stock = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in stock.parameters():
            parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    stock.save_pretrained(tmp_path / "theirs", max_shard_size="100KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    tokenizer.copy_to(tmp_path / "theirs")
    artifact, _ = import_model(tmp_path / "theirs", store=home)
    ours, tokens_BT = load_model(artifact.dir), some_tokens(40)
    assert not ours.config.tie_embeddings and ours.config.rope_theta == 1e4
    with torch.no_grad():
        assert (ours(tokens_BT) - stock(tokens_BT).logits).abs().max() < 1e-4


def upstream_state(model: Transformer) -> dict[str, Tensor]:
    """A state dict as upstream saves it: halves, the tied head once more, shared experts one by one."""
    state = {name: tensor.half() for name, tensor in model.state_dict().items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    for layer in range(model.config.num_layers):
        for part, axis in (("gate", 0), ("up", 0), ("down", 1)):
            name = f"model.layers.{layer}.mlp.shared_experts.{part}_proj.weight"
            if name in state:
                for number, piece in enumerate(state.pop(name).split(model.config.ffn_size, axis)):
                    state[name.replace("shared_experts.", f"shared_experts.{number}.")] = piece.contiguous()
    return state


@pytest.fixture(scope="module")
def upstream_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a byte-level tokenizer of 600 tokens."""
    return byte_level(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", UPSTREAM, size=600).parent


FIRST = {"model_type": "minimind", "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_act": "silu"}
FIRST |= {"vocab_size": 600, "num_hidden_layers": 2, "rope_theta": 1000000.0, "rms_norm_eps": 1e-5, "dropout": 0.0}
EXPERTS = {"use_moe": True, "n_routed_experts": 4, "num_experts_per_tok": 2, "scoring_func": "softmax"}
SECOND = {"model_type": "minimind", "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 600}
SECOND |= {"num_hidden_layers": 2, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096}
UPSTREAM_MODELS: dict[str, tuple[ModelConfig, dict[str, Any]]] = {
    "first": (NARROW["minimind2"], {**FIRST, "use_moe": False}),
    "first, experts": (
        SHAPES["two shared experts"],
        {**FIRST, **EXPERTS, "n_shared_experts": 2, "norm_topk_prob": True, "seq_aux": True, "aux_loss_alpha": 0.01},
    ),
    "second": (NARROW["minimind-3"], {**SECOND, "use_moe": False, "inference_rope_scaling": False}),
    "second, experts": (NARROW["minimind-3-moe"], {**SECOND, "use_moe": True, "num_experts": 4}),
    "second, YaRN": (NARROW["minimind-3"].replace(yarn=True), {**SECOND, "inference_rope_scaling": True}),
}


@pytest.mark.parametrize("name", UPSTREAM_MODELS)
@torch.no_grad()
def test_upstreams_own_folder_comes_in(name: str, upstream_tokenizer: Path, home: Store, tmp_path: Path) -> None:
    """Both generations of `model_type: minimind`: what the file does not say is what its class would take."""
    shape, settings = UPSTREAM_MODELS[name]
    settings = {"hidden_size": shape.hidden_size, "intermediate_size": shape.ffn_size, **settings}
    model = lively(shape)
    torch.save(upstream_state(model), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    artifact, _ = import_model(tmp_path, tokenizer=upstream_tokenizer, store=home)
    model.load_state_dict({key: tensor.half().float() for key, tensor in model.state_dict().items()})
    tokens_BT = some_tokens(50)
    assert torch.equal(load_model(artifact.dir)(tokens_BT), model(tokens_BT))
    read = Tokenizer.load(artifact.dir)
    assert all(read.decode(read.encode(text)) == text for text in documents(5))


@pytest.mark.parametrize("name", PRESETS)
def test_a_state_dict_of_a_presets_shapes_needs_no_more_words(
    name: str, upstream_tokenizer: Path, home: Store, tmp_path: Path
) -> None:
    """Upstream publishes `full_sft_768.pth` and nothing beside it; two layers and 600 tokens are small enough here."""
    shape = PRESETS[name].replace(vocab_size=600, num_layers=1)
    torch.save(upstream_state(Transformer(shape)), tmp_path / "full_sft.pth")
    artifact, _ = import_model(tmp_path / "full_sft.pth", tokenizer=upstream_tokenizer, store=home)
    taken = load_config(artifact.dir)
    assert taken == shape
    assert name in artifact.summary().warnings[0]


def test_what_tensors_do_not_tell_is_asked_for_or_said(upstream_tokenizer: Path, home: Store, tmp_path: Path) -> None:
    """Without qk-norm 4 heads of 16 look like 8 heads of 8; with it only ε and θ are taken on trust."""
    path = tmp_path / "model.pth"
    torch.save(lively(NARROW["minimind2"]).state_dict(), path)
    with pytest.raises(ConfigError, match="number of heads.*--preset"):
        import_model(path, tokenizer=upstream_tokenizer, store=home)
    torch.save(lively(NARROW["minimind-3-moe"]).state_dict(), path)
    with pytest.raises(ConfigError, match="how many experts.*--preset"):
        import_model(path, tokenizer=upstream_tokenizer, store=home)
    torch.save(lively(NARROW["minimind-3"]).state_dict(), path)
    artifact, _ = import_model(path, tokenizer=upstream_tokenizer, store=home)
    assert "assumed" in artifact.summary().warnings[0]
    assert load_config(artifact.dir).num_heads == NARROW["minimind-3"].num_heads
    with pytest.raises(ConfigError, match="did you mean `minimind2`"):
        import_model(path, tokenizer=upstream_tokenizer, preset="minimind-2", store=home)
    with pytest.raises(DataError, match="embed_tokens.weight is .* the settings make it"):
        import_model(path, tokenizer=upstream_tokenizer, preset="minimind-3", store=home)
    (tmp_path / "config.json").write_text(json.dumps({**SECOND, "hidden_size": 96, "intermediate_size": 64}))
    assert not import_model(path, tokenizer=upstream_tokenizer, store=home)[0].summary().warnings


class Payload:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch owned",)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(
    protocol: str, upstream_tokenizer: Path, home: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .pth from anywhere is a program to pickle."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pth"
    payload = {"model.embed_tokens.weight": torch.zeros(2, 2), "x": Payload()}
    torch.save(payload, path) if protocol == "torch" else path.write_bytes(pickle.dumps(payload))
    with pytest.raises(DataError, match="would run code") as raised:
        import_model(path, tokenizer=upstream_tokenizer, store=home)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "owned").exists()


def hf_folder(directory: Path, tokenizer: Tokenizer, config: ModelConfig = DENSE) -> Path:
    directory.mkdir(exist_ok=True)
    write_hf_folder(directory, lively(config), tokenizer, dtype="fp32")
    return directory


def _drop(state: dict[str, Tensor]) -> None:
    del state["model.layers.1.mlp.up_proj.weight"]


def _add(state: dict[str, Tensor]) -> None:
    state["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(4)


def _cut(state: dict[str, Tensor]) -> None:
    state["model.norm.weight"] = state["model.norm.weight"][:-1].contiguous()


def _nan(state: dict[str, Tensor]) -> None:
    state["model.norm.weight"][3] = float("nan")


def _quantise(state: dict[str, Tensor]) -> None:
    state["model.norm.weight"] = state["model.norm.weight"].to(torch.int8)


def _untie(state: dict[str, Tensor]) -> None:
    state["lm_head.weight"] = state["model.embed_tokens.weight"] + 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (_drop, "lacks model.layers.1.mlp.up_proj.weight"),
        (_add, "has model.layers.0.self_attn.q_proj.bias, unknown"),
        (_cut, r"model.norm.weight is \(31,\), the settings make it \(32,\)"),
        (_nan, "model.norm.weight has NaN"),
        (_quantise, "torch.int8; quantised"),
        (_untie, "tie_word_embeddings is set, and lm_head.weight differs"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    fault: Callable[[dict[str, Tensor]], None], message: str, tokenizer: Tokenizer, home: Store, tmp_path: Path
) -> None:
    """A model with one wrong tensor still answers, only badly."""
    folder = hf_folder(tmp_path / "theirs", tokenizer)
    state = weights(folder)
    fault(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(DataError, match=message):
        import_model(folder, store=home)
    assert not list(home.all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; can be imported: llama, qwen3"),
        ({"attention_bias": True}, "attention_bias = True"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"use_sliding_window": True, "sliding_window": 64}, "use_sliding_window"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has sliding_attention"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "rope_scaling": None}, "rope type `linear`"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "factor = 4.0.*factor = 16"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": "yarn", "rope_scaling": None}, "rope_parameters is str"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0; a whole number above 0"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers = 'two'"),
        ({"num_key_value_heads": 3}, "multiple of num_kv_heads"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"model_type": "llama"}, "llama, and its tensors have q_norm"),
    ],
)
def test_settings_that_our_model_does_not_compute_are_named(
    changes: dict[str, Any], message: str, tokenizer: Tokenizer, home: Store, tmp_path: Path
) -> None:
    """It would load and answer something else."""
    folder = hf_folder(tmp_path / "theirs", tokenizer)
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))
    with pytest.raises(ConfigError, match=message):
        import_model(folder, store=home)


def test_granites_multipliers_and_experts_that_do_not_sum_to_one_are_refused(
    tokenizer: Tokenizer, home: Store, tmp_path: Path
) -> None:
    """Real Granite models have them, and Qwen's MoE has both kinds."""
    for shape, changes, message in (
        ("minimind2-moe", {"residual_multiplier": 0.22}, "residual_multiplier = 0.22"),
        ("minimind2-moe", {"attention_multiplier": 0.5}, "attention_multiplier = 0.5"),
        ("minimind2-moe", {"shared_intermediate_size": 65}, "no multiple"),
        ("minimind-3-moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("minimind-3-moe", {"mlp_only_layers": [0]}, "mlp_only_layers"),
    ):
        folder = hf_folder(tmp_path / shape, tokenizer, NARROW[shape])
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(values | changes))
        with pytest.raises(ConfigError, match=message):
            import_model(folder, store=home)


def test_rows_that_no_token_has_are_left_out_and_too_many_tokens_refused(
    tokenizer: Tokenizer, home: Store, tmp_path: Path
) -> None:
    """Vocabularies are padded to round numbers; a tokenizer of another model would read beyond the table."""
    padded = hf_folder(tmp_path / "padded", tokenizer, DENSE.replace(vocab_size=640))
    artifact, _ = import_model(padded, store=home)
    assert load_config(artifact.dir).vocab_size == 600
    assert "600 to 639" in artifact.summary().warnings[0]
    small = hf_folder(tmp_path / "small", tokenizer, DENSE.replace(vocab_size=500))
    with pytest.raises(ConfigError, match="600 tokens and the model 500.*--tokenizer"):
        import_model(small, store=home)


def test_places_that_hold_no_model_say_what_is_missing(tokenizer: Tokenizer, home: Store, tmp_path: Path) -> None:
    """The usual mistakes: a wrong path, a folder above, no tokenizer, a broken download."""
    cases: list[tuple[Path, type[MiniMindError], str]] = [
        (tmp_path / "nowhere", MissingError, "no such file or folder"),
        (tmp_path, MissingError, "has none of model.safetensors"),
    ]
    (tmp_path / "model.txt").touch()
    cases.append((tmp_path / "model.txt", ConfigError, "is no model"))
    bare = hf_folder(tmp_path / "bare", tokenizer)
    for name in ("tokenizer.model", "tokenizer.json"):
        (bare / name).unlink()
    cases.append((bare, MissingError, "--tokenizer"))
    broken = hf_folder(tmp_path / "broken", tokenizer)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-9])
    cases.append((broken, DataError, "damaged"))
    torn = hf_folder(tmp_path / "torn", tokenizer)
    torch.save(lively(DENSE).state_dict(), torn / "model.pth")
    (torn / "model.pth").write_bytes((torn / "model.pth").read_bytes()[:-2000])
    cases.append((torn / "model.pth", DataError, "damaged"))
    sharded = hf_folder(tmp_path / "sharded", tokenizer)
    (sharded / "model.safetensors").rename(sharded / "model.safetensors.index.json")
    cases.append((sharded, DataError, "no index of shards"))
    torch.save([1, 2], tmp_path / "list.pth")
    cases.append((tmp_path / "list.pth", DataError, "holds list"))
    for path, error, message in cases:
        with pytest.raises(error, match=message):
            import_model(
                path, tokenizer=torn if path.suffix == ".pth" and path.parent == tmp_path else None, store=home
            )
