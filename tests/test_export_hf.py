"""Stock transformers loads what was exported, without anybody's code, and answers as our model does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_parts import DENSE, SHAPES, lively, model_directory, some_tokens
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from minimind.errors import ConfigError
from minimind.export.architecture import ARCHITECTURES, architecture_of
from minimind.export.exporting import export_model
from minimind.export.hf_model import hf_config, hf_state, own_state, write_hf_folder
from minimind.export.probes import greedy, until_stop
from minimind.export.settings import ExportConfig
from minimind.infer.network import Network
from minimind.model.config import PRESETS, ModelConfig, count_parameters
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.vocabulary import SpecialIds

SPECIALS = SpecialIds(0, 1, 2)
EXPECTED = {
    "minimind-3": "Qwen3ForCausalLM",
    "minimind-3-moe": "Qwen3MoeForCausalLM",
    "minimind2-small": "LlamaForCausalLM",
    "minimind2": "LlamaForCausalLM",
    "minimind2-moe": "GraniteMoeSharedForCausalLM",
    "minimind-nano": "Qwen3ForCausalLM",
}


def loaded(folder: Path, **settings: Any) -> Any:
    """What stock transformers makes of the folder; every tensor must have been used, and none made up."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **settings)
    assert not any(info.values()), info
    return model.eval()


@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_the_stock_class_has_equal_logits_and_greedy_answers(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """The promise of an export. YaRN is read beyond its original 2,048 positions nowhere, but it turns all of them."""
    model = lively(SHAPES[name])
    write_hf_folder(tmp_path, model, tokenizer, dtype="fp32")
    stock = loaded(tmp_path, dtype=torch.float32)
    assert type(stock).__name__ == EXPECTED.get(name, type(stock).__name__)
    tokens_BT = some_tokens(300)
    logits_BTV = model(tokens_BT)
    assert logits_BTV.std() > 0.5
    assert (stock(tokens_BT).logits - logits_BTV).abs().max() < 1e-5 * logits_BTV.abs().max()
    prompt = tokens_BT[:, :20]
    made = stock.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    own = until_stop(greedy(Network(model, "fp32"), prompt[0].tolist(), count=12), tokenizer)
    assert made[0, 20 : 20 + len(own)].tolist() == own


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_at_its_full_size_has_the_parameters_of_the_stock_class(name: str) -> None:
    """Shapes without values: what is exported fits to the last number."""
    config = PRESETS[name]
    values = hf_config(config, SPECIALS, dtype="float32")
    with torch.device("meta"):
        stock = AutoModelForCausalLM.from_config(AutoConfig.for_model(**values))
        ours = hf_state(config, Transformer(config).state_dict())
    assert type(stock).__name__ == EXPECTED[name]
    assert sum(parameter.numel() for parameter in stock.parameters()) == count_parameters(config)
    assert sum(tensor.numel() for tensor in ours.values()) == count_parameters(config)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
@torch.no_grad()
def test_every_preset_at_its_full_size_has_equal_logits(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Once in full: 62 to 400 MB of weights through the file."""
    model = lively(PRESETS[name])
    write_hf_folder(tmp_path, model, tokenizer, dtype="fp32")
    tokens_BT = some_tokens(200, vocab_size=6400)
    logits_BTV = model(tokens_BT)
    difference = (loaded(tmp_path, dtype=torch.float32)(tokens_BT).logits - logits_BTV).abs().max()
    assert difference < 2e-5 * logits_BTV.abs().max()


@pytest.mark.parametrize("name", SHAPES)
def test_granites_names_come_back_to_the_bit(name: str) -> None:
    """An import undoes the export, whatever was stacked."""
    state = lively(SHAPES[name]).state_dict()
    back = own_state(SHAPES[name], hf_state(SHAPES[name], state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_what_no_stock_class_computes_is_refused() -> None:
    """Experts with qk-norm and shared ones: a file that loads and answers something else would be worse."""
    config = SHAPES["minimind-3-moe"].replace(num_shared_experts=1)
    with pytest.raises(ConfigError, match="qk_norm.*num_shared_experts = 1"):
        architecture_of(config)
    assert {architecture_of(config).hf_class for config in SHAPES.values()} == {a.hf_class for a in ARCHITECTURES}


def test_the_tokenizer_in_the_folder_gives_our_ids_and_the_chat_format(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Beside a config.json transformers chooses a tokenizer by the model's type; it must still be this one."""
    for name in EXPECTED:
        folder = tmp_path / name
        folder.mkdir()
        write_hf_folder(folder, lively(SHAPES[name]), tokenizer, dtype="bf16")
        stock = AutoTokenizer.from_pretrained(folder)
        for text in ("def f(x):\n    return 1984\n", "今天 天气很好。\n\n", " <|im_end|> \u2581 \t", ""):
            assert stock.encode(text, add_special_tokens=False, split_special_tokens=True) == tokenizer.encode(text)
        chat = [{"role": "system", "content": "简短"}, {"role": "user", "content": "Who are you?"}]
        ids = stock.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert ids == render_prompt(chat, tokenizer)
        assert (stock.eos_token_id, stock.pad_token_id) == (tokenizer.specials.im_end, tokenizer.specials.end_of_text)


def test_an_answer_ends_where_ours_does(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """eos in both files: else `generate` runs on through the next turn."""
    write_hf_folder(tmp_path, lively(DENSE), tokenizer, dtype="fp32")
    stock = loaded(tmp_path)
    assert set(stock.generation_config.eos_token_id) == tokenizer.specials.stop
    assert stock.config.eos_token_id == tokenizer.specials.im_end


@pytest.mark.parametrize(("dtype", "torch_dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_numbers_are_stored_as_asked_and_loaded_as_stored(
    dtype: str, torch_dtype: torch.dtype, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Half the bytes; what was rounded is our weight, rounded once."""
    model = lively(DENSE)
    write_hf_folder(tmp_path, model, tokenizer, dtype=dtype)  # type: ignore[arg-type]
    stored = load_file(tmp_path / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert all(torch.equal(stored[name], tensor.to(torch_dtype)) for name, tensor in model.state_dict().items())
    assert {parameter.dtype for parameter in loaded(tmp_path).parameters()} == {torch_dtype}


def test_a_weight_beyond_fp16_is_an_error_that_names_it(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """It would be written as infinity, and the model would answer with NaN."""
    directory = model_directory(tmp_path / "model", DENSE, tokenizer)
    model = lively(DENSE)
    with torch.no_grad():
        model.model.norm.weight[0] = 7e4
    save_model(directory, model)
    for config in (ExportConfig(to=("hf",), dtype="fp16"), ExportConfig(to=("gguf",), gguf_type="f16")):
        with pytest.raises(ConfigError, match=r"model\.norm\.weight.*7e\+04"):
            export_model(directory, tmp_path / "out", config=config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.slow
def test_transformers_is_not_needed_to_write(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """It is a development dependency; an export runs in production."""
    directory = model_directory(tmp_path / "model", DENSE, tokenizer)
    script = (
        "import sys; sys.modules['transformers'] = sys.modules['peft'] = sys.modules['xllamacpp'] = None\n"
        "from pathlib import Path; from minimind.export.exporting import export_model\n"
        "from minimind.export.settings import ExportConfig\n"
        f"export_model(Path({str(directory)!r}), Path({str(tmp_path / 'out')!r}), config=ExportConfig(to=('hf',)))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "out" / "config.json").is_file()


def test_the_config_says_every_setting_in_the_words_of_old_and_new_versions() -> None:
    """transformers 4, vLLM and others read `rope_theta` and `rope_scaling`; transformers 5 `rope_parameters`."""
    config: ModelConfig = SHAPES["yarn"]
    values = json.loads(json.dumps(hf_config(config, SPECIALS, dtype="bfloat16")))
    assert values["rope_theta"] == 1e6
    assert values["rope_scaling"] == values["rope_parameters"]
    wanted = {"rope_type": "yarn", "factor": 16, "original_max_position_embeddings": 2048, "attention_factor": 1}
    assert wanted.items() <= values["rope_scaling"].items()
    assert (values["rope_scaling"]["beta_fast"], values["rope_scaling"]["beta_slow"]) == (32, 1)
    assert values["head_dim"] == config.head_size and values["torch_dtype"] == "bfloat16"
