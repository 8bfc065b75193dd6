"""The peers that benchmarks compare with are what they claim to be: upstream told again computes what upstream does."""

from typing import Any

import pytest
import torch

from benchmarks import peers_infer, peers_train
from minimind.model.config import ModelConfig
from minimind.model.moe import Experts
from minimind.model.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=61, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_size=8, ffn_size=48,
    qk_norm=False, norm_eps=1e-5,
)  # fmt: skip


@torch.no_grad()
def test_upstream_told_again_has_the_logits_of_this_projects_model() -> None:
    """A comparison of speed is worth something between equal functions only."""
    model, peer = Transformer(CONFIG), peers_train.Upstream(CONFIG)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.normal_(0, 0.2, generator=generator)
    peer.load_state_dict(model.state_dict())
    tokens_BT = torch.randint(0, 61, (2, 30), generator=generator)
    torch.testing.assert_close(peer(tokens_BT), model(tokens_BT), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_upstreams_cache_told_again_gives_what_full_recomputation_does() -> None:
    """The speed of generating is compared with it: a prompt, then token by token."""
    model = Transformer(CONFIG)
    peer: Any = peers_train.Upstream(CONFIG)
    peer.load_state_dict(model.state_dict())
    tokens_BT = torch.randint(0, 61, (2, 20), generator=torch.Generator().manual_seed(0))
    cache: peers_infer.Cache = [None] * CONFIG.num_layers
    pieces = [tokens_BT[:, :12], *tokens_BT[:, 12:].split(1, 1)]
    stepwise = torch.cat([peers_infer.upstream_logits(peer, piece, cache) for piece in pieces], 1)
    torch.testing.assert_close(stepwise, model(tokens_BT), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("per_token", [1, 2])
@torch.no_grad()
def test_upstreams_experts_told_again_give_what_this_projects_do(per_token: int) -> None:
    """Output and balance loss."""
    config = CONFIG.replace(num_experts=4, experts_per_token=per_token, balance_coefficient=0.01)
    ours, theirs = Experts(config), peers_train.UpstreamExperts(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in ours.parameters():
        parameter.normal_(0, 0.3, generator=generator)
    theirs.load_state_dict(ours.state_dict())
    x_BTD = torch.randn(2, 9, 32, generator=generator)
    (actual, balance), routed = theirs(x_BTD), ours(x_BTD)
    torch.testing.assert_close(actual, routed.output_BTD, rtol=1e-4, atol=1e-4)
    # upstream sums over the k experts of a token, where this project takes their mean
    torch.testing.assert_close(balance / per_token, routed.balance_loss)


def test_llama_has_as_many_parameters() -> None:
    """The same shape, tied."""
    ours, theirs = (sum(p.numel() for p in m.parameters()) for m in (Transformer(CONFIG), peers_train.llama_of(CONFIG)))
    assert ours == theirs
