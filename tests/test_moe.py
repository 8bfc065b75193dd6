"""Experts against a dense reference that runs every expert on every token, and the balance loss by hand."""

import pytest
import torch
from torch import Tensor

from minimind.model.config import ModelConfig
from minimind.model.cross_entropy import linear_cross_entropy
from minimind.model.moe import Experts, balance_loss
from minimind.model.transformer import Transformer

CONFIG = ModelConfig(
    vocab_size=61, hidden_size=16, num_layers=2, num_heads=2, num_kv_heads=1, head_size=8, ffn_size=24,
    num_experts=5, experts_per_token=2, balance_coefficient=0.01,
)  # fmt: skip


def experts_of(config: ModelConfig) -> Experts:
    """A float64 layer of experts with lively weights."""
    layer = Experts(config).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return layer


def states(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()


def dense_reference(layer: Experts, x: Tensor) -> Tensor:
    """Every expert sees every token; weights outside the best k are zero."""
    scores = torch.softmax(x @ layer.gate.weight.T, -1)
    threshold = scores.topk(layer.experts_per_token, -1).values[..., -1:]
    weights = torch.where(scores >= threshold, scores, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    output = sum(weights[..., e, None] * expert(x) for e, expert in enumerate(layer.experts))
    return output if layer.shared_experts is None else output + layer.shared_experts(x)


@pytest.mark.parametrize(("per_token", "shared"), [(1, 0), (2, 0), (2, 1), (5, 2)])
def test_output_and_gradients_equal_the_dense_reference(per_token: int, shared: int) -> None:
    """Sorting tokens by expert and putting them back must be invisible."""
    layer = experts_of(CONFIG.replace(experts_per_token=per_token, num_shared_experts=shared))
    x = states(3, 11, 16)
    actual, expected = layer(x).output_BTD, dense_reference(layer, x)
    torch.testing.assert_close(actual, expected)
    wanted = [x, *(p for p in layer.parameters() if per_token > 1 or p is not layer.gate.weight)]
    cotangent = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        torch.autograd.grad(actual, wanted, cotangent), torch.autograd.grad(expected, wanted, cotangent)
    )


def test_grouped_products_equal_the_experts_one_by_one() -> None:
    """The path of CUDA, which torch can run on a CPU: outputs and all gradients, with an expert that gets nothing."""
    layer = experts_of(CONFIG).float()
    x_ND = states(2, 11, 16).detach().float().flatten(0, 1).requires_grad_()
    counts_E = torch.tensor([7, 0, 3, 11, 1])
    wanted = [x_ND, *layer.experts.parameters()]
    expected, actual = layer._one_by_one(x_ND, counts_E), layer._grouped(x_ND, counts_E)
    torch.testing.assert_close(actual, expected)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        torch.autograd.grad(actual, wanted, cotangent), torch.autograd.grad(expected, wanted, cotangent)
    )


def test_an_expert_without_tokens_has_a_zero_gradient_rather_than_none() -> None:
    """DDP waits for every parameter's gradient; a missing one hangs or fails the run."""
    layer = experts_of(CONFIG.replace(experts_per_token=1))
    x = states(1, 1, 16)
    routed = layer(x)
    (routed.output_BTD.sum() + routed.balance_loss).backward()
    idle = [expert for expert, load in zip(layer.experts, routed.load_E, strict=True) if load == 0]
    assert len(idle) == 4
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for expert in idle for p in expert.parameters())


def test_the_balance_loss_is_the_formula_over_the_batch() -> None:
    """E · Σ load · mean score, worked out with plain loops."""
    layer, x = experts_of(CONFIG), states(2, 6, 16)
    scores = torch.softmax(x @ layer.gate.weight.T, -1).reshape(12, 5)
    load = [0.0] * 5
    for row in scores:
        for expert in row.topk(2).indices.tolist():
            load[expert] += 1 / 24
    expected = 5 * sum(load[e] * scores[:, e].mean() for e in range(5))
    routed = layer(x)
    torch.testing.assert_close(routed.balance_loss, 0.01 * expected)
    torch.testing.assert_close(routed.load_E, torch.tensor(load, dtype=torch.float64))


def test_the_per_sequence_loss_is_the_mean_of_each_rows_own() -> None:
    """minimind2-moe balances within each row."""
    batch = experts_of(CONFIG)
    rows = experts_of(CONFIG.replace(balance="sequence"))
    x = states(3, 6, 16)
    alone = torch.stack([batch(x[i : i + 1]).balance_loss for i in range(3)])
    torch.testing.assert_close(rows(x).balance_loss, alone.mean())
    assert not torch.isclose(rows(x).balance_loss, batch(x).balance_loss)


def test_perfect_balance_costs_exactly_the_coefficient() -> None:
    """The scale of the loss does not depend on the number of experts."""
    scores = torch.full((2, 4, 4), 0.25)
    chosen = torch.arange(8).remainder(4).view(2, 4, 1)
    for per_row in (False, True):
        loss, load = balance_loss(scores, chosen, None, per_row=per_row)
        assert loss.item() == pytest.approx(1.0)
        assert load.tolist() == [0.25] * 4


@pytest.mark.parametrize("balance", ["batch", "sequence"])
def test_padding_counts_for_nothing_in_the_balance_loss(balance: str) -> None:
    """Padding looks all alike and goes to one expert; counted, it would push the router away from it."""
    layer = experts_of(CONFIG.replace(balance=balance))
    x = states(2, 7, 16)
    padded = torch.cat((torch.cat((x, torch.full((2, 3, 16), 9.0)), 1), torch.full((1, 10, 16), 9.0)))
    real = torch.zeros(3, 10, dtype=torch.bool)
    real[:2, :7] = True
    with_padding, without = layer(padded, real), layer(x)
    torch.testing.assert_close(with_padding.balance_loss, without.balance_loss)
    torch.testing.assert_close(with_padding.load_E, without.load_E)
    torch.testing.assert_close(with_padding.output_BTD[:2, :7], without.output_BTD)
    nothing = layer(padded, torch.zeros_like(real))
    assert nothing.balance_loss.item() == 0
    torch.testing.assert_close(
        torch.autograd.grad(with_padding.balance_loss, layer.gate.weight),
        torch.autograd.grad(without.balance_loss, layer.gate.weight),
    )


def test_the_model_returns_the_layers_losses_summed_and_keeps_none() -> None:
    """A loss left on a module leaks a graph from one step into the next."""
    model = Transformer(CONFIG)
    tokens = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(0))
    before = {name: set(vars(module)) for name, module in model.named_modules()}
    _, loss = model.hidden(tokens)
    assert {name: set(vars(module)) for name, module in model.named_modules()} == before
    assert 2 * 0.01 * 0.9 < loss.item() < 2 * 0.01 * 1.5
    load = model.expert_load(tokens)
    assert load.shape == (2, 5)
    torch.testing.assert_close(load.sum(1), torch.ones(2))


def test_with_one_expert_per_token_the_router_learns_from_the_balance_loss_alone() -> None:
    """A weight normalised to 1 carries no gradient: stated in the module, so held by a test."""
    model = Transformer(CONFIG.replace(experts_per_token=1))
    tokens = torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(0))
    gate = model.model.layers[0].mlp.gate.weight
    hidden, loss = model.hidden(tokens)
    cross_entropy = linear_cross_entropy(hidden.flatten(0, 1), model.output_weight, tokens.flatten())
    assert torch.autograd.grad(cross_entropy, gate, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(loss, gate)[0].abs().max() > 1e-6
