"""A model as one GGUF file, which llama.cpp and what is built on it load.

Matrices are stored as f32, f16, bf16 or q8_0; norms and routers, which are small, stay f32. A matrix whose rows are no
multiple of 32 cannot be q8_0 and is f16 there. Where llama.cpp turns neighbouring channels (`llama`, `granitemoe`), the
rows of q and k are reordered so that it turns the same pairs. Experts of a layer are one tensor.

YaRN: llama.cpp multiplies what it turns by 1 + 0.1·ln(factor) of its own accord and by `rope.scaling.attn_factor`. The
family has no such factor, so the inverse is written there, which gives equal logits (without it they are off by half).

The package `gguf` is imported when a file is written. Not here: the tokenizer's entries (`gguf_tokenizer`).
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from minimind.export.architecture import GRANITE_MOE, Architecture, architecture_of
from minimind.export.gguf_tokenizer import write_tokenizer
from minimind.model.config import ModelConfig
from minimind.model.layers import YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS
from minimind.tokens.tokenizer import Tokenizer

GgufType = Literal["f32", "f16", "bf16", "q8_0"]

_BLOCK = 32
"""Numbers that share a scale in q8_0."""
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate": "ffn_gate_inp",
    **{f"mlp.{part}_proj": f"ffn_{part}" for part in ("gate", "up", "down")},
    **{f"mlp.shared_experts.{part}_proj": f"ffn_{part}_shexp" for part in ("gate", "up", "down")},
}


def write_gguf(
    path: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    *,
    tokenizer: Tokenizer,
    kind: GgufType,
    name: str,
    fingerprint: str | None = None,
) -> None:
    """Write the model to `path`. Raises ConfigError where llama.cpp has no architecture or no such tokenizer."""
    import gguf

    architecture = architecture_of(config)
    writer = gguf.GGUFWriter(path, architecture.gguf)
    try:
        writer.add_name(name)
        writer.add_file_type(_file_type(kind))
        if fingerprint:
            writer.add_string("minimind.fingerprint", fingerprint)
        _write_shape(writer, config, architecture)
        write_tokenizer(writer, tokenizer)
        for tensor_name, tensor in gguf_tensors(config, state):
            _add(writer, tensor_name, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def gguf_tensors(config: ModelConfig, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Name and values of every tensor of the file, in fp32."""
    pairs = architecture_of(config).gguf_rotates_pairs
    for name, tensor in state.items():
        if ".mlp.experts." in name:
            continue
        short = name.removesuffix(".weight")
        if pairs and short.endswith(("q_proj", "k_proj")):
            tensor = _as_neighbours(tensor, config.head_size)
        prefix = ""
        if short.startswith("model.layers."):
            _, _, layer, short = short.split(".", 3)
            prefix = f"blk.{layer}."
        yield f"{prefix}{_NAMES[short]}.weight", tensor
    for layer in range(config.num_layers if config.num_experts else 0):
        for part in ("gate", "up", "down"):
            names = [f"model.layers.{layer}.mlp.experts.{e}.{part}_proj.weight" for e in range(config.num_experts)]
            yield f"blk.{layer}.ffn_{part}_exps.weight", torch.stack([state[name] for name in names])


def rounded(state: Mapping[str, Tensor], kind: GgufType) -> dict[str, Tensor]:
    """Our tensors with the values that a file of `kind` holds."""
    import gguf

    def value(name: str, tensor: Tensor) -> Tensor:
        stored = _stored_as(name, tensor, kind)
        return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(_fp32(tensor), stored), stored).copy())

    return {name: value(name, tensor) for name, tensor in state.items()}


def _as_neighbours(weight_ND: Tensor, head_size: int) -> Tensor:
    """The rows of every head in another order: channel c at 2c, channel c + C/2 at 2c + 1."""
    halves = weight_ND.view(-1, 2, head_size // 2, weight_ND.shape[-1])
    return halves.transpose(1, 2).reshape(weight_ND.shape)


def _write_shape(writer: Any, config: ModelConfig, architecture: Architecture) -> None:
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_layers)
    writer.add_feed_forward_length(config.ffn_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_size)
    writer.add_value_length(config.head_size)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_dimension_count(config.head_size)
    writer.add_rope_freq_base(config.rope_theta)
    if config.yarn:
        _write_yarn(writer)
    if config.num_experts:
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.experts_per_token)
        writer.add_expert_feed_forward_length(config.ffn_size)
    if architecture is GRANITE_MOE:
        if config.num_shared_experts:
            writer.add_expert_shared_feed_forward_length(config.num_shared_experts * config.ffn_size)
        writer.add_attention_scale(config.head_size**-0.5)
        writer.add_embedding_scale(1.0)
        writer.add_residual_scale(1.0)
        writer.add_logit_scale(1.0)


def _write_yarn(writer: Any) -> None:
    import gguf

    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(YARN_FACTOR)
    writer.add_rope_scaling_orig_ctx_len(YARN_ORIGINAL_POSITIONS)
    writer.add_rope_scaling_attn_factors(1 / (1 + 0.1 * math.log(YARN_FACTOR)))
    writer.add_rope_scaling_yarn_beta_fast(YARN_BETA_FAST)
    writer.add_rope_scaling_yarn_beta_slow(YARN_BETA_SLOW)


def _file_type(kind: GgufType) -> int:
    import gguf

    kinds = gguf.LlamaFileType
    by_name = {"f32": kinds.ALL_F32, "f16": kinds.MOSTLY_F16, "bf16": kinds.MOSTLY_BF16, "q8_0": kinds.MOSTLY_Q8_0}
    return int(by_name[kind])


def _add(writer: Any, name: str, tensor: Tensor, kind: GgufType) -> None:
    import gguf

    values, stored = _fp32(tensor), _stored_as(name, tensor, kind)
    writer.add_tensor(name, gguf.quants.quantize(values, stored), raw_dtype=stored)


def _stored_as(name: str, tensor: Tensor, kind: GgufType) -> Any:
    """gguf's type of a tensor in a file of `kind`; its own name (`mlp.gate`) or llama.cpp's will do."""
    import gguf

    types = gguf.GGMLQuantizationType
    if tensor.ndim == 1 or name.endswith(("ffn_gate_inp.weight", "mlp.gate.weight")):
        return types.F32
    if kind == "q8_0" and tensor.shape[-1] % _BLOCK:
        return types.F16
    return {"f32": types.F32, "f16": types.F16, "bf16": types.BF16, "q8_0": types.Q8_0}[kind]


def _fp32(tensor: Tensor) -> Any:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
