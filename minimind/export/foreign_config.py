"""Somebody else's config.json as ours, or a plain word that our model does not compute that.

Read are Llama, Qwen3, Qwen3Moe, Granite with shared experts (as we export it), and upstream MiniMind's own `minimind`
in both of its generations. A default is the one of the class that would read the file: what a config.json does not say
is not open. Refused is all that would change a logit and that we have no setting for: biases, other activations,
sliding windows, other scalings of positions, multipliers, dense layers among experts.

Not here: tensors (`foreign_weights`), which decide what a config.json of upstream does not say (qk-norm).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minimind.data.reading.strict_json import RowError, read_json
from minimind.errors import ConfigError, MissingError
from minimind.model.config import ModelConfig
from minimind.model.layers import YARN_BETA_FAST, YARN_BETA_SLOW, YARN_FACTOR, YARN_ORIGINAL_POSITIONS

CONFIG_FILE = "config.json"
_UPSTREAM = "minimind"
TYPES = ("llama", "qwen3", "qwen3_moe", "granitemoeshared", _UPSTREAM)
_LLAMA_POSITIONS, _QWEN_POSITIONS = 2048, 32768
"""Defaults of transformers."""
_YARN = {
    "factor": YARN_FACTOR,
    "original_max_position_embeddings": YARN_ORIGINAL_POSITIONS,
    "beta_fast": YARN_BETA_FAST,
    "beta_slow": YARN_BETA_SLOW,
    "attention_factor": 1.0,
}
_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim"),
    *("intermediate_size", "moe_intermediate_size", "num_experts", "num_local_experts", "n_routed_experts"),
    *("num_experts_per_tok", "max_position_embeddings"),
)
_NUMBERS = ("rms_norm_eps", "rope_theta", "attention_multiplier", "partial_rotary_factor", "factor")
_FLAGS = ("tie_word_embeddings", "use_moe", "inference_rope_scaling", "use_sliding_window", "norm_topk_prob")
_REFUSED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False, None),
    "mlp_bias": (False, None),
    "hidden_act": ("silu", None),
    "use_sliding_window": (False, None),
    "norm_topk_prob": (True,),
    "decoder_sparse_step": (1,),
    "mlp_only_layers": ([], None),
    "embedding_multiplier": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "scoring_func": ("softmax",),
    "partial_rotary_factor": (1, 1.0, None),
    "quantization_config": (None,),
}
"""Settings of others → the values that our model computes."""


def read_config(path: Path) -> dict[str, Any]:
    """The settings in a config.json. Raises MissingError or ConfigError naming the file."""
    try:
        values = read_json(path.read_bytes())
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; give the folder that has it") from None
    except RowError as error:
        raise ConfigError(f"{path}: is not valid JSON ({error.detail}); fetch it again") from None
    except OSError as error:
        raise MissingError(f"{path}: cannot be read ({error.strerror}); look at its place and permissions") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds {type(values).__name__}, a JSON object was expected")
    return values


def own_config(values: Mapping[str, Any], *, qk_norm: bool, where: str) -> ModelConfig:
    """Our shape for the settings of a config.json; `qk_norm` is whether its tensors have these norms.

    Raises ConfigError naming the first setting that our model does not compute.
    """
    kind = values.get("model_type")
    if kind is None and "ffn_size" in values:
        raise ConfigError(f"{where}: is a model directory of ours; it can be used as it is")
    if kind not in TYPES:
        raise ConfigError(f"{where}: model_type is {kind!r}; can be imported: {', '.join(TYPES)}")
    _require_types(values, where)
    _refuse(values, kind, where)
    fields = {
        "vocab_size": _given(values, "vocab_size", 6400 if kind == _UPSTREAM else None, where),
        "hidden_size": _given(values, "hidden_size", None, where),
        "num_layers": _given(values, "num_hidden_layers", None, where),
        "num_heads": _given(values, "num_attention_heads", 8 if kind == _UPSTREAM else None, where),
        "qk_norm": qk_norm,
        **_positions(values, kind, where),
    }
    fields["num_kv_heads"] = values.get("num_key_value_heads") or _kv_heads(kind, fields["num_heads"], qk_norm)
    fields["head_size"] = values.get("head_dim") or _head_size(kind, fields)
    fields["norm_eps"] = values.get("rms_norm_eps", 1e-5 if kind == _UPSTREAM and not qk_norm else 1e-6)
    fields["tie_embeddings"] = values.get("tie_word_embeddings", kind == _UPSTREAM)
    fields |= _feed_forward(values, kind, fields["hidden_size"], where)
    config = ModelConfig.parse(fields, origin=where)
    _require_known_attention(values, kind, config, where)
    return config


def _require_types(values: Mapping[str, Any], where: str) -> None:
    """Sizes are whole numbers above 0; what is said of positions is a table. The rest is checked where it is used."""
    tables = [values.get(name) or {} for name in ("rope_parameters", "rope_scaling")]
    for name in _SIZES:
        size = values.get(name)
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ConfigError(f"{where}: {name} = {size!r}; a whole number above 0 was expected")
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(values.get(name) or {}, Mapping):
            raise ConfigError(f"{where}: {name} is {type(values[name]).__name__}, a JSON object was expected")
    for table, name in ((table, name) for table in (values, *tables) for name in _NUMBERS):
        number = table.get(name)
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise ConfigError(f"{where}: {name} = {number!r:.80}; a number was expected")
    for name in _FLAGS:
        if not isinstance(values.get(name), bool | None):
            raise ConfigError(f"{where}: {name} = {values[name]!r:.80}; true or false was expected")
    layers = values.get("layer_types") or []
    if not isinstance(layers, list) or not all(isinstance(kind, str) for kind in layers):
        raise ConfigError(f"{where}: layer_types = {layers!r:.80}; a list of names was expected")
    for name in ("n_shared_experts", "shared_intermediate_size"):
        shared = values.get(name)
        if shared is not None and (isinstance(shared, bool) or not isinstance(shared, int) or shared < 0):
            raise ConfigError(f"{where}: {name} = {shared!r:.80}; a whole number was expected")


def _refuse(values: Mapping[str, Any], kind: str, where: str) -> None:
    for name, allowed in _REFUSED.items():
        if kind == _UPSTREAM and name == "norm_topk_prob" and not values.get("use_moe"):
            continue
        if name in values and values[name] not in allowed:
            raise ConfigError(f"{where}: {name} = {values[name]!r}; our model computes {allowed[0]!r} only")
    if kind == "qwen3_moe" and not values.get("norm_topk_prob", False):
        raise ConfigError(f"{where}: norm_topk_prob is not true; our weights of the chosen experts sum to 1")
    if kind != _UPSTREAM and values.get("sliding_window") and values.get("use_sliding_window") is not False:
        raise ConfigError(f"{where}: sliding_window = {values['sliding_window']}; our attention sees all positions")
    if other := {*(values.get("layer_types") or ())} - {"full_attention"}:
        raise ConfigError(f"{where}: layer_types has {sorted(other)[0]}; our attention sees all positions")


def _positions(values: Mapping[str, Any], kind: str, where: str) -> dict[str, Any]:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if kind == _UPSTREAM and not values.get("inference_rope_scaling"):
        rope = {}
    theta = rope.get("rope_theta", values.get("rope_theta", 1e6 if kind == _UPSTREAM else 1e4))
    scaling = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("partial_rotary_factor", 1.0) != 1:
        raise ConfigError(f"{where}: partial_rotary_factor is {rope['partial_rotary_factor']}; we turn whole heads")
    positions = _LLAMA_POSITIONS if kind in ("llama", "granitemoeshared") else _QWEN_POSITIONS
    found = {"rope_theta": theta, "max_positions": values.get("max_position_embeddings", positions)}
    if kind == _UPSTREAM:
        return {**found, "yarn": bool(values.get("inference_rope_scaling"))}
    if scaling == "default":
        return {**found, "yarn": False}
    given = {"beta_fast": YARN_BETA_FAST, "beta_slow": YARN_BETA_SLOW} | {
        k: v for k, v in rope.items() if v is not None
    }
    differing = [f"{name} = {given.get(name)}" for name, value in _YARN.items() if given.get(name) != value]
    if scaling != "yarn" or differing or rope.get("truncate") is False:
        what = f"rope type `{scaling}`" + (f" with {', '.join(differing)}" if scaling == "yarn" else "")
        raise ConfigError(
            f"{where}: {what}; our model computes `default`, and `yarn` with "
            f"{', '.join(f'{name} = {value:g}' for name, value in _YARN.items())}"
        )
    return {**found, "yarn": True}


def _kv_heads(kind: str, heads: int, qk_norm: bool) -> int:
    if kind == _UPSTREAM:
        return 4 if qk_norm else 2  # of its second generation, and of its first
    return 32 if kind == "qwen3" else 4 if kind == "qwen3_moe" else heads


def _head_size(kind: str, fields: Mapping[str, Any]) -> int:
    return 128 if kind in ("qwen3", "qwen3_moe") else fields["hidden_size"] // fields["num_heads"]


def _feed_forward(values: Mapping[str, Any], kind: str, hidden: int, where: str) -> dict[str, Any]:
    if kind in ("llama", "qwen3"):
        return {"ffn_size": _given(values, "intermediate_size", None, where)}
    if kind == "qwen3_moe":
        return {
            "ffn_size": values.get("moe_intermediate_size", 768),
            "num_experts": values.get("num_experts", values.get("num_local_experts", 128)),
            "experts_per_token": values.get("num_experts_per_tok", 8),
        }
    if kind == "granitemoeshared":
        return _of_granite(values, where)
    return _of_upstream(values, hidden, where)


def _of_granite(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    ffn, shared = _given(values, "intermediate_size", None, where), values.get("shared_intermediate_size", 1024)
    if shared % ffn:
        raise ConfigError(
            f"{where}: shared_intermediate_size = {shared} is no multiple of intermediate_size = {ffn}; our shared "
            "experts are as wide as the others"
        )
    return {
        "ffn_size": ffn,
        "num_experts": values.get("num_local_experts", 8),
        "experts_per_token": values.get("num_experts_per_tok", 2),
        "num_shared_experts": shared // ffn,
    }


def _of_upstream(values: Mapping[str, Any], hidden: int, where: str) -> dict[str, Any]:
    """Its first generation says `n_routed_experts` and derives the width from 8/3 of the model's, its second from π."""
    first = "n_routed_experts" in values
    ffn = values.get("intermediate_size")
    if ffn is None:
        ffn = 64 * ((int(hidden * 8 / 3) + 63) // 64) if first else 64 * math.ceil(hidden * math.pi / 64)
    if not values.get("use_moe"):
        return {"ffn_size": ffn}
    per_token = values.get("num_experts_per_tok", 2 if first else 1)
    if first and per_token == 1:
        raise ConfigError(
            f"{where}: n_routed_experts with num_experts_per_tok = 1, whose weight is not normalised there"
        )
    return {
        "ffn_size": values.get("moe_intermediate_size", ffn),
        "num_experts": values.get("n_routed_experts", values.get("num_experts", 4)),
        "experts_per_token": per_token,
        "num_shared_experts": (values.get("n_shared_experts", 1) or 0) if first else 0,
    }


def _require_known_attention(values: Mapping[str, Any], kind: str, config: ModelConfig, where: str) -> None:
    """Granite's scale of attention is a setting; Llama's and Qwen's norms are not."""
    wanted = {"llama": False, "granitemoeshared": False, "qwen3": True, "qwen3_moe": True}.get(kind)
    if wanted is not None and config.qk_norm != wanted:
        raise ConfigError(
            f"{where}: model_type {kind}, and its tensors {'lack' if wanted else 'have'} q_norm and k_norm"
        )
    scale = values.get("attention_multiplier", 1.0)
    if kind == "granitemoeshared" and not math.isclose(scale, config.head_size**-0.5, rel_tol=1e-6):
        raise ConfigError(
            f"{where}: attention_multiplier = {scale}; our model computes 1/√head_dim = {config.head_size**-0.5:.6g}"
        )


def _given(values: Mapping[str, Any], name: str, default: Any, where: str) -> Any:
    found = values.get(name, default)
    if found is None:
        raise ConfigError(f"{where}: has no {name}, without which the model has no shape")
    return found
