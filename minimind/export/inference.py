"""The shape of a model from its tensors alone, as far as they tell it.

Widths, layers, experts and qk-norm are in the shapes. With qk-norm so is the head's size, and with it the heads. Not
in them: the base of RoPE, ε, how many experts a token goes to, and without qk-norm the heads. That comes from a preset
whose shapes are the same, and from `--preset` where none is, or several are that say different things.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from minimind.config import nearest
from minimind.errors import ConfigError, DataError
from minimind.export.foreign_weights import EMBEDDING, HEAD, has_qk_norm
from minimind.model.config import PRESETS, ModelConfig

_ALL_BUT = ("vocab_size", "num_layers", "tie_embeddings")
"""What tensors tell, and two models of one family may differ in."""


def infer_config(state: Mapping[str, Tensor], *, preset: str | None, where: str) -> tuple[ModelConfig, list[str]]:
    """The model's shape, and what was taken on trust. Raises ConfigError asking for `--preset`, or DataError."""
    seen = _Seen(state, where)
    told = {
        "vocab_size": seen.vocab,
        "num_layers": seen.layers,
        "tie_embeddings": HEAD not in state or bool(state[HEAD].equal(state[EMBEDDING])),
    }
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(f"--preset {preset}: no such preset" + nearest(preset, list(PRESETS)))
        return _of_preset(preset, told, where), []
    fitting = {name: _of_preset(name, told, where) for name in PRESETS if seen.fits(PRESETS[name])}
    if len(set(map(repr, fitting.values()))) == 1:
        name = next(iter(fitting))
        return fitting[name], [f"{where}: heads, ε and the base of RoPE are those of the preset {name}"]
    if fitting:
        raise ConfigError(f"{where}: could be of {', '.join(fitting)}, which differ; say which by --preset")
    if not seen.qk_norm or seen.experts:
        open_ = "the number of heads" if not seen.qk_norm else "how many experts a token goes to"
        raise ConfigError(
            f"{where}: its tensors do not tell {open_}, and no preset has their shapes (width {seen.hidden}, "
            f"feed-forward {seen.ffn}); give the folder with its config.json, or --preset of {', '.join(PRESETS)}"
        )
    sizes = {
        "hidden_size": seen.hidden,
        "ffn_size": seen.ffn,
        "num_heads": seen.query // seen.head,
        "num_kv_heads": seen.key // seen.head,
        "head_size": seen.head,
    }
    config = ModelConfig.parse({**sizes, **told}, origin=where)
    assumed = (
        f"{where}: ε = {config.norm_eps:g}, RoPE θ = {config.rope_theta:g} and {config.max_positions} positions are"
    )
    return config, [f"{assumed} assumed, no file says them"]


def _of_preset(name: str, told: Mapping[str, Any], where: str) -> ModelConfig:
    return ModelConfig.parse({**PRESETS[name].model_dump(), **told}, origin=where)


class _Seen:
    """What the shapes of the tensors say."""

    def __init__(self, state: Mapping[str, Tensor], where: str) -> None:
        try:
            self.vocab, self.hidden = state[EMBEDDING].shape
            first = "model.layers.0."
            self.query = state[f"{first}self_attn.q_proj.weight"].shape[0]
            self.key = state[f"{first}self_attn.k_proj.weight"].shape[0]
            dense = f"{first}mlp.gate_proj.weight"
            self.ffn = state[dense if dense in state else f"{first}mlp.experts.0.gate_proj.weight"].shape[0]
            names = list(state)
            self.layers = 1 + max(int(name.split(".")[2]) for name in names if name.startswith("model.layers."))
            self.qk_norm = has_qk_norm(state)
            self.head = len(state[f"{first}self_attn.q_norm.weight"]) if self.qk_norm else 0
            if self.qk_norm and not self.head:
                raise ValueError("a norm of nothing")
        except KeyError as error:
            raise DataError(f"{where}: has no {error}, so it is no model of the family") from None
        except (ValueError, IndexError, TypeError):
            raise DataError(f"{where}: its tensors have not the names and shapes of a model of the family") from None
        self.experts = len({name for name in names if name.startswith(f"{first}mlp.experts.") and "gate_proj" in name})
        self.shared = any(name.startswith(f"{first}mlp.shared_experts.") for name in names)

    def fits(self, preset: ModelConfig) -> bool:
        """Whether a preset has these shapes, the vocabulary and the number of layers aside."""
        sizes = (preset.hidden_size, preset.ffn_size, preset.num_experts, preset.qk_norm)
        heads = (preset.num_heads * preset.head_size, preset.num_kv_heads * preset.head_size)
        return (
            sizes == (self.hidden, self.ffn, self.experts, self.qk_norm)
            and heads == (self.query, self.key)
            and bool(preset.num_shared_experts) == self.shared
            and (not self.qk_norm or preset.head_size == self.head)
        )
