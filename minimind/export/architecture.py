"""Which architecture of others computes what a model of ours computes.

| a model of ours                    | transformers                  | llama.cpp    |
|------------------------------------|-------------------------------|--------------|
| dense                              | `LlamaForCausalLM`            | `llama`      |
| dense, qk-norm                     | `Qwen3ForCausalLM`            | `qwen3`      |
| experts, qk-norm, none shared      | `Qwen3MoeForCausalLM`         | `qwen3moe`   |
| experts, shared ones or none       | `GraniteMoeSharedForCausalLM` | `granitemoe` |

Granite's multipliers at 1, and its attention multiplier at 1/√head, make it the Llama layer. It takes the softmax of
the best experts' scores only, which is our softmax of all, normalised over the best. Experts with qk-norm *and* shared
ones are no class of either; saying so is better than a file that answers something else.

Not here: names of tensors and settings (`hf_model`, `gguf_model`).
"""

from dataclasses import dataclass

from minimind.errors import ConfigError
from minimind.model.config import ModelConfig


@dataclass(frozen=True)
class Architecture:
    """A way to compute, by the names that others have for it."""

    hf_class: str
    model_type: str
    """transformers' short name, which `AutoConfig` goes by."""
    gguf: str
    """llama.cpp's short name."""
    gguf_rotates_pairs: bool
    """Whether llama.cpp turns neighbouring channels there (ours: c and c + C/2), so that q and k are reordered."""


LLAMA = Architecture("LlamaForCausalLM", "llama", "llama", gguf_rotates_pairs=True)
QWEN3 = Architecture("Qwen3ForCausalLM", "qwen3", "qwen3", gguf_rotates_pairs=False)
QWEN3_MOE = Architecture("Qwen3MoeForCausalLM", "qwen3_moe", "qwen3moe", gguf_rotates_pairs=False)
GRANITE_MOE = Architecture("GraniteMoeSharedForCausalLM", "granitemoeshared", "granitemoe", gguf_rotates_pairs=True)
ARCHITECTURES = (LLAMA, QWEN3, QWEN3_MOE, GRANITE_MOE)


def architecture_of(config: ModelConfig) -> Architecture:
    """The architecture that gives equal logits. Raises ConfigError where there is none."""
    if not config.num_experts:
        return QWEN3 if config.qk_norm else LLAMA
    if not config.qk_norm:
        return GRANITE_MOE
    if config.num_shared_experts:
        raise ConfigError(
            f"model.qk_norm with num_shared_experts = {config.num_shared_experts}: no class of transformers and no "
            "architecture of llama.cpp has both, so it cannot be exported; train with one of them, or serve it with "
            "`minimind serve`"
        )
    return QWEN3_MOE
