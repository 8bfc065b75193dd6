"""A model as stock transformers has it: the folder, its config.json, its generation_config.json, its tensors.

transformers itself is not needed to write them. Every setting that a class has a default for and that changes what is
computed is written out, in the names of both version 5 (`rope_parameters`) and 4 (`rope_theta`, `rope_scaling`), which
other programs read too. Names of tensors are ours but for Granite's, whose files keep all experts of a layer in one
tensor. A tied embedding is written once. The tokenizer's files are transformers' already.

Not here: whether it loads (`verify`), the way back (`foreign_config`, `foreign_weights`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from minimind import runtime
from minimind.export.architecture import GRANITE_MOE, QWEN3_MOE, architecture_of
from minimind.export.settings import DTYPES, HfType
from minimind.model.config import ModelConfig
from minimind.model.layers import YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS
from minimind.model.transformer import Transformer
from minimind.model.weights import CONFIG_FILE, WEIGHTS_FILE
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.vocabulary import SpecialIds

GENERATION_FILE = "generation_config.json"


def write_hf_folder(folder: Path, model: Transformer, tokenizer: Tokenizer, *, dtype: HfType) -> None:
    """Write all that stock transformers needs of a model into `folder`."""
    config, specials, chosen = model.config, tokenizer.specials, DTYPES[dtype]
    state = hf_state(config, {name: tensor.detach() for name, tensor in model.state_dict().items()})
    rounded = {name: tensor.to(chosen).contiguous() for name, tensor in state.items()}
    save_file(rounded, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    runtime.write_json(folder / CONFIG_FILE, hf_config(config, specials, dtype=str(chosen).removeprefix("torch.")))
    runtime.write_json(folder / GENERATION_FILE, generation_config(specials))
    tokenizer.copy_to(folder)


def hf_config(config: ModelConfig, specials: SpecialIds, *, dtype: str) -> dict[str, Any]:
    """The config.json of the stock class; `dtype` is torch's name of the tensors' (`bfloat16`)."""
    architecture = architecture_of(config)
    return {
        "architectures": [architecture.hf_class],
        "model_type": architecture.model_type,
        "torch_dtype": dtype,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.ffn_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": specials.end_of_text,
        "eos_token_id": specials.im_end,
        "pad_token_id": specials.end_of_text,
        **_rope(config),
        **_of_class(config),
    }


def generation_config(specials: SpecialIds) -> dict[str, Any]:
    """Where an answer ends. How it is drawn is left to whoever asks."""
    return {
        "bos_token_id": specials.end_of_text,
        "eos_token_id": sorted(specials.stop),
        "pad_token_id": specials.end_of_text,
    }


def hf_state(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state` under the names and in the shapes of the stock class's files."""
    if architecture_of(config) is not GRANITE_MOE:
        return dict(state)
    theirs = dict(state)
    for layer in range(config.num_layers):
        ours, granite = f"model.layers.{layer}.mlp", f"model.layers.{layer}.block_sparse_moe"
        theirs[f"{granite}.router.layer.weight"] = theirs.pop(f"{ours}.gate.weight")
        experts = [_swiglu(theirs, f"{ours}.experts.{number}") for number in range(config.num_experts)]
        theirs[f"{granite}.input_linear.weight"] = torch.stack([torch.cat((gate, up)) for gate, up, _ in experts])
        theirs[f"{granite}.output_linear.weight"] = torch.stack([down for _, _, down in experts])
        if config.num_shared_experts:
            gate, up, down = _swiglu(theirs, f"{ours}.shared_experts")
            theirs[f"model.layers.{layer}.shared_mlp.input_linear.weight"] = torch.cat((gate, up))
            theirs[f"model.layers.{layer}.shared_mlp.output_linear.weight"] = down
    return theirs


def own_state(config: ModelConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of Granite's names as ours: the inverse of `hf_state`. Those of other names are left as they are."""
    ours = dict(state)
    for layer in range(config.num_layers):
        mlp, granite = f"model.layers.{layer}.mlp", f"model.layers.{layer}.block_sparse_moe"
        if f"{granite}.router.layer.weight" in ours:
            ours[f"{mlp}.gate.weight"] = ours.pop(f"{granite}.router.layer.weight")
        stacked = [ours.pop(f"{granite}.{part}_linear.weight", None) for part in ("input", "output")]
        if stacked[0] is not None and stacked[1] is not None:
            for number, (gate_up, down) in enumerate(zip(*stacked, strict=True)):
                ours |= _named_swiglu(f"{mlp}.experts.{number}", gate_up, down)
        shared = [
            ours.pop(f"model.layers.{layer}.shared_mlp.{part}_linear.weight", None) for part in ("input", "output")
        ]
        if shared[0] is not None and shared[1] is not None:
            ours |= _named_swiglu(f"{mlp}.shared_experts", shared[0], shared[1])
    return ours


def _rope(config: ModelConfig) -> dict[str, Any]:
    if not config.yarn:
        plain = {"rope_type": "default", "rope_theta": config.rope_theta}
        return {"rope_theta": config.rope_theta, "rope_scaling": None, "rope_parameters": plain}
    yarn = {
        "rope_type": "yarn",
        "rope_theta": config.rope_theta,
        "factor": YARN_FACTOR,
        "original_max_position_embeddings": YARN_ORIGINAL_POSITIONS,
        "beta_fast": YARN_BETA_FAST,
        "beta_slow": YARN_BETA_SLOW,
        "attention_factor": 1.0,
    }
    return {"rope_theta": config.rope_theta, "rope_scaling": yarn, "rope_parameters": yarn}


def _of_class(config: ModelConfig) -> dict[str, Any]:
    """What only one class has settings for."""
    architecture = architecture_of(config)
    if architecture is QWEN3_MOE:
        return {
            "num_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "moe_intermediate_size": config.ffn_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "router_aux_loss_coef": config.balance_coefficient,
            "use_sliding_window": False,
            "sliding_window": None,
        }
    if architecture is GRANITE_MOE:
        return {
            "num_local_experts": config.num_experts,
            "num_experts_per_tok": config.experts_per_token,
            "shared_intermediate_size": config.num_shared_experts * config.ffn_size,
            "attention_multiplier": config.head_size**-0.5,
            "embedding_multiplier": 1.0,
            "residual_multiplier": 1.0,
            "logits_scaling": 1.0,
            "router_aux_loss_coef": config.balance_coefficient,
        }
    return {"use_sliding_window": False, "sliding_window": None} if config.qk_norm else {"mlp_bias": False}


def _swiglu(state: dict[str, Tensor], prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    """Gate, up and down of a SwiGLU, taken out of `state`."""
    gate, up, down = (state.pop(f"{prefix}.{part}_proj.weight") for part in ("gate", "up", "down"))
    return gate, up, down


def _named_swiglu(prefix: str, gate_up: Tensor, down: Tensor) -> dict[str, Tensor]:
    gate, up = gate_up.chunk(2)
    named = {"gate": gate, "up": up, "down": down}
    return {f"{prefix}.{part}_proj.weight": tensor.contiguous() for part, tensor in named.items()}
