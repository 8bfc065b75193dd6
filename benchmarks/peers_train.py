"""What the speed of training is compared with: upstream's model and loops told again, and Hugging Face's Llama.

Upstream (jingyaogong/minimind at d65ef2c) is told again from its source as it runs on a CPU: `torch.nn` modules in fp32
(its CPU path turns autocast off), SDPA on repeated key heads, whole logits, plain AdamW, every document padded to the
recipe's length. Its norms on queries and keys are left out, as the shape compared (minimind2-small) has none, and so
are its tokenizer, its DataLoader and its log: all of that favours it. `tests/test_peers.py` holds it to this project's
model by equal logits.

Axes: B batch, T time, D model width, H heads, C head size, V vocabulary, N tokens. Not here: what is measured
(`benchmarks/train.py`).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer


class Norm(nn.Module):
    """Upstream's RMSNorm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps))).type_as(x)


class UpstreamAttention(nn.Module):
    """Upstream's attention without a cache and without norms on queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.repeats, self.size = config.num_heads // config.num_kv_heads, config.head_size
        self.q_proj = nn.Linear(config.hidden_size, config.num_heads * self.size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.num_kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.num_kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(config.num_heads * self.size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, cos_T1C: Tensor, sin_T1C: Tensor) -> Tensor:
        batch, time, _ = x_BTD.shape
        q, k, v = (p(x_BTD).view(batch, time, -1, self.size) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = (x * cos_T1C + turned_half(x) * sin_T1C for x in (q, k))
        k, v = (repeated(x, self.repeats) for x in (k, v))
        mixed = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1))


def turned_half(x: Tensor) -> Tensor:
    return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), -1)


def repeated(x_BTKC: Tensor, repeats: int) -> Tensor:
    batch, time, heads, size = x_BTKC.shape
    return x_BTKC[:, :, :, None].expand(batch, time, heads, repeats, size).reshape(batch, time, -1, size)


class FeedForward(nn.Module):
    """Upstream's SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.ffn_size, bias=False)
        self.down_proj = nn.Linear(config.ffn_size, config.hidden_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.ffn_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class UpstreamExperts(nn.Module):
    """Upstream's mixture of experts: a loop with a mask for each expert."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.per_token, self.coefficient = config.experts_per_token, config.balance_coefficient
        self.gate = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(config) for _ in range(config.num_experts))

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor]:
        x_ND = x_BTD.flatten(0, 1)
        scores = F.softmax(self.gate(x_ND), -1)
        weights, chosen = torch.topk(scores, self.per_token, dim=-1, sorted=False)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        out = torch.zeros_like(x_ND)
        for number, expert in enumerate(self.experts):
            mask = chosen == number
            if mask.any():
                rows = mask.any(-1).nonzero().flatten()
                out.index_add_(0, rows, (expert(x_ND[rows]) * weights[mask].view(-1, 1)).to(out.dtype))
        load = F.one_hot(chosen, len(self.experts)).float().mean(0)
        balance = (load * scores.mean(0)).sum() * len(self.experts) * self.coefficient
        return out.view_as(x_BTD), balance


class UpstreamLayer(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attn = UpstreamAttention(config)
        self.input_layernorm = Norm(config.hidden_size, config.norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.norm_eps)
        self.mlp = FeedForward(config)

    def forward(self, x_BTD: Tensor, cos_T1C: Tensor, sin_T1C: Tensor) -> Tensor:
        x_BTD = self.self_attn(self.input_layernorm(x_BTD), cos_T1C, sin_T1C) + x_BTD
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Upstream(nn.Module):
    """Upstream's dense model: ids in, whole logits out."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.model.layers = nn.ModuleList(UpstreamLayer(config) for _ in range(config.num_layers))
        self.model.norm = Norm(config.hidden_size, config.norm_eps)
        half = torch.arange(0, config.head_size, 2).float() / config.head_size
        angles = torch.outer(torch.arange(4096).float(), config.rope_theta**-half)
        self.register_buffer("cos", torch.cat((angles.cos(), angles.cos()), -1).unsqueeze(1), persistent=False)
        self.register_buffer("sin", torch.cat((angles.sin(), angles.sin()), -1).unsqueeze(1), persistent=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        hidden = self.model.embed_tokens(tokens_BT)
        for layer in self.model.layers:
            hidden = layer(hidden, self.cos[: tokens_BT.shape[1]], self.sin[: tokens_BT.shape[1]])
        return F.linear(self.model.norm(hidden), self.model.embed_tokens.weight)


class UpstreamLora(nn.Module):
    """Upstream's adapter around a linear map; its own runs next to the map's `forward`, which adds up the same."""

    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base = base
        self.A, self.B = nn.Linear(base.in_features, rank, bias=False), nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.B(self.A(x))


def upstream_of(config: ModelConfig) -> Upstream:
    """Upstream's model with this project's initial weights."""
    model = Upstream(config)
    model.load_state_dict(Transformer(config).state_dict())
    return model


def llama_of(config: ModelConfig) -> LlamaForCausalLM:
    """Hugging Face's Llama of this shape, with its default (SDPA) attention."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_size,
            intermediate_size=config.ffn_size,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def next_token_loss(logits_BTV: Tensor, labels_BT: Tensor) -> Tensor:
    """The mean over labels, from whole logits. Labels are shifted already."""
    return F.cross_entropy(logits_BTV.flatten(0, 1).float(), labels_BT.flatten(), ignore_index=-100)


def upstream_dpo_loss(policy: nn.Module, reference: nn.Module, x: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Upstream's loss of a batch: chosen sides, then rejected ones; the reference runs at every step."""

    def log_probs(model: nn.Module) -> Tensor:
        return (F.log_softmax(model(x), dim=2).gather(2, y.unsqueeze(2)).squeeze(-1) * mask).sum(1)

    with torch.no_grad():
        before = log_probs(reference)
    chosen, rejected = (log_probs(policy) - before).chunk(2)
    return -F.logsigmoid(0.15 * (chosen - rejected)).mean()


def upstream_step(model: nn.Module, loss: Tensor, optimizer: torch.optim.Optimizer, *, clip: float = 1.0) -> None:
    """What upstream does with a loss when it does not accumulate."""
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def upstream_rate(step: int, steps: int, lr: float) -> float:
    return lr * (0.1 + 0.45 * (1 + math.cos(math.pi * step / steps)))
