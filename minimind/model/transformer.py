"""The decoder-only Transformer: tokens in, hidden states or logits out.

Pre-norm layers of attention and SwiGLU (or experts), a final RMSNorm, an output projection tied to
the embedding. Parameter names are Hugging Face's, so a state dict fits the stock classes as it is.

Precision. Weights are fp32 masters; matrix products run in `compute_dtype` (fp32, bf16 or fp16),
chosen at construction or by `set_compute_dtype`, with weights cast where they are used. autocast is
not used: explicit casts are as fast, leave nothing behind and can be read. The residual stream
stays in fp32, as under autocast: it is a sum over layers that bf16 would round at every step and
that fp16 could overflow. Hidden states come out in `compute_dtype`, logits in fp32.

Axes: B batch, T time, D model width, V vocabulary, L layers, E experts, P
pairs of channels of a head. A layer with `recompute` keeps its input and makes its activations again in the
backward pass. Not here: the loss (`cross_entropy.py`), generating (`minimind.infer`), files (`weights.py`).
"""

import hashlib
import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from minimind.errors import ConfigError
from minimind.model.attention import Attention, Kind, Visible, visible_keys
from minimind.model.config import ModelConfig
from minimind.model.layers import (
    Embedding,
    Linear,
    RMSNorm,
    SwiGLU,
    accumulation_dtype,
    rotary_frequencies,
    rotary_tables,
)
from minimind.model.moe import Experts

INITIAL_STD = 0.02


class Layer(nn.Module):
    """One pre-norm layer; adds to the fp32 residual stream what attention and feed-forward give."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = Experts(config) if config.num_experts else SwiGLU(config.hidden_size, config.ffn_size)
        self.recompute = False
        """Keep no activations of this layer for the backward pass, but make them again there."""

    def forward(self, stream_BTD: Tensor, *inputs: Any) -> tuple[Tensor, Tensor, Tensor | None]:
        """(the stream with this layer's part added, balance loss, load_E of a layer of experts)."""
        if self.recompute and torch.is_grad_enabled():
            # nothing in a layer draws random numbers
            return checkpoint(self.compute, stream_BTD, *inputs, use_reentrant=False, preserve_rng_state=False)
        return self.compute(stream_BTD, *inputs)

    def compute(
        self,
        stream_BTD: Tensor,
        dtype: torch.dtype,
        tables: tuple[Tensor, Tensor],
        visible: Visible,
        real_BT: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        normed_BTD = self.input_layernorm(stream_BTD, dtype)
        stream_BTD = stream_BTD + self.self_attn(normed_BTD, tables=tables, visible=visible)
        normed_BTD = self.post_attention_layernorm(stream_BTD, dtype)
        if isinstance(self.mlp, Experts):
            routed = self.mlp(normed_BTD, real_BT)
            return stream_BTD + routed.output_BTD, routed.balance_loss, routed.load_E
        return stream_BTD + self.mlp(normed_BTD), stream_BTD.new_zeros(()), None


class Trunk(nn.Module):
    """Everything but the output projection; exists for the `model.` in the parameters' names."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)


class Transformer(nn.Module):
    """A model of one `ModelConfig`, initialised from `seed` whatever the state of torch's own generators.

    Under `torch.device("meta")` it has shapes and no values.
    """

    def __init__(self, config: ModelConfig, *, seed: int = 0, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.attention: Kind = "auto"
        """How attention is computed; not part of the model, and the same numbers up to rounding."""
        self.model = Trunk(config)
        self.lm_head = None if config.tie_embeddings else Linear(config.hidden_size, config.vocab_size)
        if self.output_weight.device.type != "meta":
            initialize(self, seed)

    @property
    def output_weight(self) -> nn.Parameter:
        """The V×D output projection: the embedding where they are tied."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    @property
    def device(self) -> torch.device:
        return self.output_weight.device

    def set_compute_dtype(self, dtype: torch.dtype) -> Self:
        """Run matrix products in `dtype` from now on; the weights stay as they are."""
        self.compute_dtype = dtype
        return self

    def forward(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits B×T×V in fp32, all at once; training uses `hidden` and the chunked cross-entropy instead."""
        hidden_BTD, _ = self.hidden(tokens_BT, positions_BT=positions_BT, documents_BT=documents_BT)
        return self.logits(hidden_BTD)

    def logits(self, hidden: Tensor) -> Tensor:
        """The output projection of hidden states (…×D → …×V), in fp32; decoding calls it for the last position."""
        return F.linear(hidden, self.output_weight.to(hidden.dtype)).to(accumulation_dtype(hidden.dtype))

    def hidden(
        self,
        tokens_BT: Tensor,
        *,
        positions_BT: Tensor | None = None,
        documents_BT: Tensor | None = None,
        visible: Visible | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(hidden_BTD after the last norm in the compute dtype, the experts' balance loss as an fp32 scalar).

        Positions count from 0 by default. Tokens of different `documents_BT` do not see each other and are
        contiguous; −1 is padding, whose hidden states are finite and mean nothing. Where rows are no documents one
        after another, `visible` says who sees whom.
        """
        hidden_BTD, balance_loss, _ = self._run(tokens_BT, positions_BT, documents_BT, visible)
        return hidden_BTD, balance_loss

    @torch.no_grad()
    def expert_load(self, tokens_BT: Tensor, *, documents_BT: Tensor | None = None) -> Tensor:
        """Share of the tokens' assignments per layer and expert, L×E (E = 0 for a dense model); for logging."""
        loads = self._run(tokens_BT, None, documents_BT)[2]
        return torch.stack(loads) if loads else torch.zeros(self.config.num_layers, 0)

    def _run(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None,
        documents_BT: Tensor | None,
        visible: Visible | None = None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        time = tokens_BT.shape[1]
        if time > self.config.max_positions:
            raise ConfigError(f"{time} positions exceed the model's max_positions of {self.config.max_positions}")
        if positions_BT is None:
            positions_BT = torch.arange(time, device=tokens_BT.device)[None]
        if visible is None:
            visible = visible_keys(
                self.attention,
                documents_BT,
                time=time,
                keys=time,
                dtype=self.compute_dtype,
                device=tokens_BT.device,
            )
        frequencies_P = rotary_frequencies(self.config, tokens_BT.device)
        tables = rotary_tables(frequencies_P, positions_BT, self.compute_dtype)
        real_BT = None if documents_BT is None else documents_BT >= 0

        stream_BTD = self.model.embed_tokens(tokens_BT).to(accumulation_dtype(self.compute_dtype))
        balance_loss = torch.zeros((), dtype=stream_BTD.dtype, device=stream_BTD.device)
        loads = []
        for layer in self.model.layers:
            stream_BTD, layer_loss, load_E = layer(stream_BTD, self.compute_dtype, tables, visible, real_BT)
            if load_E is not None:
                balance_loss = balance_loss + layer_loss
                loads.append(load_E)
        return self.model.norm(stream_BTD, self.compute_dtype), balance_loss, loads


@torch.no_grad()
def initialize(model: Transformer, seed: int) -> None:
    """Fill every weight: norms 1, matrices normal with std 0.02, those that end a residual branch / √(2·layers).

    Each matrix has a generator of its own, seeded by `seed` and its name and run on the CPU, so the
    values depend neither on the device nor on which other weights there are.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            parameter.fill_(1.0)
            continue
        std = INITIAL_STD
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            std /= math.sqrt(2 * model.config.num_layers)
        digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
        generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        parameter.copy_(torch.empty(parameter.shape, dtype=torch.float32).normal_(0.0, std, generator=generator))
