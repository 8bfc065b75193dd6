"""The parts of a model as it generates: products laid out for reading, and what is computed with them.

Built from a `Transformer` once; what is computed here is what its own layers compute, without gradients, with queries,
keys and values as one product, gate and up as another, and the weights of a norm in the matrix behind it. Every
function is one of rows: a row's result does not depend on the other rows, to the bit on a CPU (`products`).

Axes: N tokens, D model width, H query heads, K kv heads, C head size, F ffn width, E experts, T experts per token. Not
here: which tokens, attention (`network`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from minimind.infer.products import Precision, Product, Projection, alike
from minimind.model.attention import Attention
from minimind.model.layers import RMSNorm, SwiGLU, accumulation_dtype
from minimind.model.lora import LoraLinear
from minimind.model.moe import Experts
from minimind.model.transformer import Layer, Transformer

Wearers = Sequence[tuple[str, Tensor | slice]]
"""Names of adapters, and the rows that are computed with each."""


@dataclass(frozen=True)
class AttentionPart:
    """What attention multiplies with."""

    qkv: Projection
    qk_norm: Tensor | None
    """Weights (H+K)×C; None where heads are not normalised."""
    o: Projection


@dataclass(frozen=True)
class SwiGLUPart:
    """down(silu(gate(x)) · up(x))."""

    gate_up: Projection
    down: Projection

    def __call__(self, x_ND: Tensor, wearers: Wearers, *, many: bool) -> Tensor:
        both_NF = self.gate_up(x_ND, wearers, many=many)
        width = both_NF.shape[1] // 2
        return self.down(F.silu(both_NF[:, :width]).mul_(both_NF[:, width:]), wearers, many=many)


@dataclass(frozen=True)
class ExpertsPart:
    """Each token through its best experts and the shared ones."""

    score: Product
    """The router's, in fp32."""
    experts: list[SwiGLUPart]
    shared: SwiGLUPart | None
    per_token: int

    def __call__(self, x_ND: Tensor, wearers: Wearers, *, many: bool) -> Tensor:
        scores_NE = self.score(x_ND.to(accumulation_dtype(x_ND.dtype))).softmax(-1)
        weights_NT, chosen_NT = scores_NE.topk(self.per_token, dim=-1)
        weights_NT = (weights_NT / weights_NT.sum(-1, keepdim=True)).to(x_ND.dtype)
        outputs_NTD = x_ND.new_empty(*chosen_NT.shape, x_ND.shape[-1])
        for number, expert in enumerate(self.experts):
            tokens_M, places_M = (chosen_NT == number).nonzero(as_tuple=True)
            if len(tokens_M):
                outputs_NTD[tokens_M, places_M] = expert(x_ND[tokens_M], _among(wearers, tokens_M), many=many)
        mixed_ND = outputs_NTD[:, 0] if self.per_token == 1 else (outputs_NTD * weights_NT[..., None]).sum(1)
        return mixed_ND if self.shared is None else mixed_ND + self.shared(x_ND, wearers, many=many)


@dataclass(frozen=True)
class LayerPart:
    """One pre-norm layer."""

    attention: AttentionPart
    feed_forward: SwiGLUPart | ExpertsPart


@dataclass
class Parts:
    """Builds the parts, and remembers in which product a matrix of the model is."""

    precision: Precision
    dtype: torch.dtype
    _places: dict[str, tuple[Projection, int]] = field(default_factory=dict)

    def layers(self, model: Transformer) -> list[LayerPart]:
        """All layers of a model."""
        return [self._layer(layer, f"model.layers.{number}") for number, layer in enumerate(model.model.layers)]

    def project(
        self, weights: Sequence[Tensor], names: Sequence[str] = (), *, after: RMSNorm | None = None
    ) -> Projection:
        """The product with these matrices of one input, which comes from `unit` in the place of the norm `after`.

        `names` says which of the model's matrices they are.
        """
        projection = Projection(weights, self.precision, self.dtype, scale_K=None if after is None else _scale(after))
        self._places |= {name: (projection, first) for name, first in zip(names, projection.firsts, strict=False)}
        return projection

    def attach(self, name: str, model: Transformer) -> None:
        """Add the adapters that `model` carries to the products its matrices are in."""
        for matrix, module in model.named_modules():
            if isinstance(module, LoraLinear):
                projection, first = self._places[matrix]
                projection.correct(name, first, module.lora_A, module.lora_B * module.scale)

    def _layer(self, layer: Layer, name: str) -> LayerPart:
        attention, mlp = layer.self_attn, layer.mlp
        make = self._experts if isinstance(mlp, Experts) else self._swiglu
        qkv = [f"{name}.self_attn.{part}" for part in ("q_proj", "k_proj", "v_proj")]
        return LayerPart(
            AttentionPart(
                qkv=self.project(
                    [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight],
                    qkv,
                    after=layer.input_layernorm,
                ),
                qk_norm=_qk_norm(attention),
                o=self.project([attention.o_proj.weight], [f"{name}.self_attn.o_proj"]),
            ),
            make(mlp, f"{name}.mlp", after=layer.post_attention_layernorm),
        )

    def _swiglu(self, swiglu: SwiGLU, name: str, *, after: RMSNorm) -> SwiGLUPart:
        gate_up = [swiglu.gate_proj.weight, swiglu.up_proj.weight]
        return SwiGLUPart(
            self.project(gate_up, [f"{name}.gate_proj", f"{name}.up_proj"], after=after),
            self.project([swiglu.down_proj.weight], [f"{name}.down_proj"]),
        )

    def _experts(self, experts: Experts, name: str, *, after: RMSNorm) -> ExpertsPart:
        router_ED = experts.gate.weight.detach().to(accumulation_dtype(self.dtype)) * _scale(after)
        numbered, shared = enumerate(experts.experts), experts.shared_experts
        return ExpertsPart(
            score=alike(lambda x_ND: F.linear(x_ND, router_ED), "router", router_ED, router_ED.dtype),
            experts=[self._swiglu(expert, f"{name}.experts.{i}", after=after) for i, expert in numbered],
            shared=None if shared is None else self._swiglu(shared, f"{name}.shared_experts", after=after),
            per_token=experts.experts_per_token,
        )


def rms(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """x / rms(x) · weight over the last axis, in fp32 within; on a CPU in fewer passes than torch's own."""
    wide = x.to(accumulation_dtype(x.dtype))
    if x.device.type != "cpu":
        return (F.rms_norm(wide, wide.shape[-1:], None, eps) * weight).to(dtype)
    scale = torch.linalg.vecdot(wide, wide).unsqueeze_(-1).div_(x.shape[-1]).add_(eps).rsqrt_()
    return torch.mul(wide * scale, weight, out=torch.empty(x.shape, dtype=dtype))


def unit(x_ND: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Rows over their length: what RMSNorm gives, but for its weights and √D, which are in the matrix behind it."""
    squares_N1 = torch.linalg.vecdot(x_ND, x_ND).unsqueeze_(-1)
    scale_N1 = squares_N1.add_(x_ND.shape[-1] * eps).rsqrt_()
    return torch.mul(x_ND, scale_N1, out=torch.empty(x_ND.shape, dtype=dtype, device=x_ND.device))


def _scale(norm: RMSNorm) -> Tensor:
    """What is left of a norm once rows have unit length."""
    return norm.weight.detach() * math.sqrt(len(norm.weight))


def _qk_norm(attention: Attention) -> Tensor | None:
    if attention.q_norm is None or attention.k_norm is None:
        return None
    pairs = ((attention.q_proj, attention.q_norm), (attention.k_proj, attention.k_norm))
    return torch.cat([norm.weight.detach().expand(len(p.weight) // attention.head_size, -1) for p, norm in pairs])


def _among(wearers: Wearers, tokens_M: Tensor) -> Wearers:
    """The wearers among some of the rows, by their places there."""
    return [
        (name, slice(None) if isinstance(rows, slice) else torch.isin(tokens_M, rows).nonzero().squeeze(1))
        for name, rows in wearers
    ]
