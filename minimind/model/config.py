"""The shape of a model, the presets that ship, and their parameter counts.

`ModelConfig` is what a recipe's `[model]` table says: a preset's name, fields, or a preset with
some fields changed (`preset = "minimind-nano"`, `vocab_size = 2048`). What a recipe leaves out is
derived: as many kv heads as query heads, heads that share the width out, the feed-forward width
⌈hidden·π/64⌉·64. Counts are closed formulas here; a test holds them to the built model.

YaRN's constants are the family's (`layers.py`), not settings. Not here: how a shape is computed.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from minimind.config import Config, nearest

MAX_PARAMETERS, MAX_PARTS = 10**12, 10_000
"""Beyond what any machine holds: a slip of the pen, or a file that lies. A model's parts are made one by one."""
MAX_POSITIONS = 1 << 30


class ModelConfig(Config):
    """The shape of a decoder-only Transformer; every field changes what is computed."""

    vocab_size: PositiveInt = 6400
    hidden_size: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    num_kv_heads: PositiveInt
    head_size: PositiveInt
    ffn_size: PositiveInt
    """Width of a SwiGLU; with experts, of each expert."""
    rope_theta: PositiveFloat = 1e6
    norm_eps: PositiveFloat = 1e-6
    qk_norm: bool = True
    max_positions: int = Field(default=32768, gt=0, le=MAX_POSITIONS)
    tie_embeddings: bool = True
    num_experts: int = Field(default=0, ge=0)
    """Routed experts per layer; 0 is a dense model."""
    experts_per_token: int = Field(default=0, ge=0)
    num_shared_experts: int = Field(default=0, ge=0)
    """Experts that see every token, stored as one SwiGLU of that multiple of `ffn_size`."""
    balance: Literal["batch", "sequence"] = "batch"
    """Whether the experts' load is balanced over all tokens of a batch or within each row."""
    balance_coefficient: float = Field(default=0.0, ge=0)
    yarn: bool = False

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """`preset` replaced by its fields, and derived sizes filled in; the rest is validated as usual."""
        if not isinstance(values, Mapping):
            return values
        filled = dict(values)
        preset = filled.pop("preset", None)
        if preset is not None:
            if not isinstance(preset, str) or preset not in PRESETS:
                raise ValueError(f"no preset is named {preset!r}" + nearest(str(preset), list(PRESETS)))
            filled = {**PRESETS[preset].model_dump(), **filled}
        hidden, heads = filled.get("hidden_size"), filled.get("num_heads")
        if isinstance(heads, int) and heads > 0:
            filled.setdefault("num_kv_heads", heads)
            if isinstance(hidden, int) and hidden % heads == 0:
                filled.setdefault("head_size", hidden // heads)
        if isinstance(hidden, int):
            filled.setdefault("ffn_size", math.ceil(hidden * math.pi / 64) * 64)
        return filled

    @model_validator(mode="after")
    def _check(self) -> Self:
        if max(self.num_layers, self.num_experts) > MAX_PARTS:
            raise ValueError(f"num_layers and num_experts must be at most {MAX_PARTS:,}")
        if (size := count_parameters(self)) > MAX_PARAMETERS:
            raise ValueError(f"it would have {size:.3g} parameters, more than {MAX_PARAMETERS:.0e}; look at its sizes")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads ({self.num_kv_heads})")
        if self.head_size % 2:
            raise ValueError(f"head_size ({self.head_size}) must be even: RoPE turns pairs of channels")
        if self.num_experts == 0 and (self.experts_per_token or self.num_shared_experts or self.balance_coefficient):
            raise ValueError(
                "experts_per_token, num_shared_experts and balance_coefficient need num_experts above 0; "
                "leave them out for a dense model"
            )
        if self.num_experts and not 1 <= self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"experts_per_token ({self.experts_per_token}) must be from 1 to num_experts ({self.num_experts})"
            )
        return self


def count_parameters(config: ModelConfig) -> int:
    """All weights of a model of this shape; a tied embedding counts once."""
    return _count(config, experts=config.num_experts)


def count_active_parameters(config: ModelConfig) -> int:
    """The weights one token passes through: of the routed experts only those it is sent to."""
    return _count(config, experts=config.experts_per_token)


def _count(config: ModelConfig, *, experts: int) -> int:
    """Weights when `experts` routed experts per layer are counted (ignored for a dense model)."""
    hidden = config.hidden_size
    attention = 2 * hidden * config.head_size * (config.num_heads + config.num_kv_heads)
    norms = 2 * hidden + (2 * config.head_size if config.qk_norm else 0)
    swiglu = 3 * hidden * config.ffn_size
    if config.num_experts:
        feed_forward = swiglu * (experts + config.num_shared_experts) + hidden * config.num_experts
    else:
        feed_forward = swiglu
    embeddings = config.vocab_size * hidden * (1 if config.tie_embeddings else 2)
    return embeddings + config.num_layers * (attention + norms + feed_forward) + hidden


PRESETS: dict[str, ModelConfig] = {
    "minimind-3": ModelConfig(hidden_size=768, num_layers=8, num_heads=8, num_kv_heads=4, head_size=96, ffn_size=2432),
    "minimind-3-moe": ModelConfig(
        hidden_size=768,
        num_layers=8,
        num_heads=8,
        num_kv_heads=4,
        head_size=96,
        ffn_size=2432,
        num_experts=4,
        experts_per_token=1,
        balance_coefficient=5e-4,
    ),
    "minimind2-small": ModelConfig(
        hidden_size=512,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        head_size=64,
        ffn_size=1408,
        norm_eps=1e-5,
        qk_norm=False,
    ),
    "minimind2": ModelConfig(
        hidden_size=768,
        num_layers=16,
        num_heads=8,
        num_kv_heads=2,
        head_size=96,
        ffn_size=2048,
        norm_eps=1e-5,
        qk_norm=False,
    ),
    "minimind2-moe": ModelConfig(
        hidden_size=640,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        head_size=80,
        ffn_size=1728,
        norm_eps=1e-5,
        qk_norm=False,
        num_experts=4,
        experts_per_token=2,
        num_shared_experts=1,
        balance="sequence",
        balance_coefficient=0.01,
    ),
    "minimind-nano": ModelConfig(
        hidden_size=256, num_layers=4, num_heads=4, num_kv_heads=2, head_size=64, ffn_size=704, max_positions=4096
    ),
}
"""Shapes by name. `minimind-nano` is for minutes on a laptop; its vocabulary is set by the recipe."""
