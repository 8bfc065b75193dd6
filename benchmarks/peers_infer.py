"""What the speed of generating is compared with: upstream's model told again with its cache, Hugging Face's, llama.cpp.

Upstream (jingyaogong/minimind at 0074dcf) is told again from its source as it runs on a CPU: fp32, keys and values
joined to those before at every token, key heads repeated, whole logits of a prompt, scores and mask written out once
there is a cache. Its sampling, which sorts the vocabulary twice for every token, and its search for the end of an
answer are left out, as they are of Hugging Face's loop: all of that favours them. `tests/test_peers.py` holds it to
this project's model.

Axes: B batch, T time, D model width, H heads, C head size, V vocabulary. Not here: what is measured
(`benchmarks/infer.py`).
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers_train import Upstream, repeated, turned_half

Cache = list[tuple[Tensor, Tensor] | None]


def upstream_logits(model: Upstream, tokens_BT: Tensor, cache: Cache) -> Tensor:
    """Whole logits of the tokens, which follow those in the cache and are added to it."""
    start = cache[0][0].shape[1] if cache[0] is not None else 0
    cos, sin = (table[start : start + tokens_BT.shape[1]] for table in (model.cos, model.sin))
    stream = model.model.embed_tokens(tokens_BT)
    for number, layer in enumerate(model.model.layers):
        mixed, cache[number] = _attention(layer.self_attn, layer.input_layernorm(stream), cos, sin, past=cache[number])
        stream = stream + mixed
        stream = stream + layer.mlp(layer.post_attention_layernorm(stream))
    return F.linear(model.model.norm(stream), model.model.embed_tokens.weight)


def _attention(part: Any, x_BTD: Tensor, cos: Tensor, sin: Tensor, *, past: tuple[Tensor, Tensor] | None) -> Any:
    batch, time, _ = x_BTD.shape
    q, k, v = (p(x_BTD).view(batch, time, -1, part.size) for p in (part.q_proj, part.k_proj, part.v_proj))
    q, k = (x * cos + turned_half(x) * sin for x in (q, k))
    if past is not None:
        k, v = torch.cat((past[0], k), 1), torch.cat((past[1], v), 1)
    kept = (k, v)
    q, k, v = q.transpose(1, 2), repeated(k, part.repeats).transpose(1, 2), repeated(v, part.repeats).transpose(1, 2)
    if time > 1 and past is None:
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(part.size)
        scores[:, :, :, -time:] += torch.full((time, time), float("-inf")).triu(1)
        mixed = F.softmax(scores.float(), dim=-1).type_as(q) @ v
    return part.o_proj(mixed.transpose(1, 2).reshape(batch, time, -1)), kept
