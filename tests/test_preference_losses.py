"""Preference losses against their papers' formulas in float64, through a whole model, and at points known by heart."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from training_parts import TINY, Pattern

from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE
from minimind.train.objectives import (
    Objective,
    Reference,
    Tensors,
    count_tokens,
    next_token,
    pair_log_probs,
    preference,
)
from minimind.train.preference_losses import LOSSES, Side, ipo, orpo, sigmoid, simpo
from minimind.train.stage_configs import LOSS_SETTINGS, DpoConfig, PreferenceLossName

CPU = torch.device("cpu")
Formula = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def log_sigma(x: Tensor) -> Tensor:
    return torch.log(1 / (1 + torch.exp(-x)))


def log_odds(mean: Tensor) -> Tensor:
    return torch.log(mean.exp() / (1 - mean.exp()))


CASES: dict[str, tuple[str, dict[str, Any], Formula]] = {
    # c, r: log p of chosen and rejected; c0, r0: those of the reference; n, m: their tokens
    "dpo": ("sigmoid", {"beta": 0.15}, lambda c, r, c0, r0, n, m: -log_sigma(0.15 * ((c - c0) - (r - r0)))),
    "cdpo": (
        "sigmoid",
        {"beta": 0.3, "label_smoothing": 0.2},
        lambda c, r, c0, r0, n, m: (
            -0.8 * log_sigma(0.3 * ((c - c0) - (r - r0))) - 0.2 * log_sigma(-0.3 * ((c - c0) - (r - r0)))
        ),
    ),
    "length-normalised dpo": (
        "sigmoid",
        {"beta": 4.0, "length_normalised": True},
        lambda c, r, c0, r0, n, m: -log_sigma(4 * (c - c0) / n - 4 * (r - r0) / m),
    ),
    "dpo with a floor of length": (
        "sigmoid",
        {"beta": 4.0, "length_normalised": True, "length_floor": 17},
        lambda c, r, c0, r0, n, m: -log_sigma(4 * (c - c0) / n.clamp(min=17) - 4 * (r - r0) / m.clamp(min=17)),
    ),
    "ipo": ("ipo", {"beta": 0.1}, lambda c, r, c0, r0, n, m: ((c - c0) - (r - r0) - 1 / (2 * 0.1)) ** 2),
    "length-normalised ipo": (
        "ipo",
        {"beta": 2.0, "length_normalised": True},
        lambda c, r, c0, r0, n, m: ((c - c0) / n - (r - r0) / m - 0.25) ** 2,
    ),
    "simpo": (
        "simpo",
        {"beta": 2.5, "target_margin": 1.4},
        lambda c, r, c0, r0, n, m: -log_sigma(2.5 * c / n - 2.5 * r / m - 1.4),
    ),
    "orpo": (
        "orpo",
        {"beta": 0.25},
        lambda c, r, c0, r0, n, m: -c / n - 0.25 * log_sigma(log_odds(c / n) - log_odds(r / m)),
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small batches: a second thread costs more than it gives."""
    torch.set_num_threads(1)


def exact(seed: int) -> Transformer:
    return Transformer(TINY, seed=seed, compute_dtype=torch.float64).double()


def naive_log_probs(model: Transformer, batch: Tensors) -> tuple[Tensor, Tensor]:
    """Log-probability of each answer, the plain way: chosen, rejected."""
    logp_BTV = model(batch.tokens_BT, documents_BT=batch.documents_BT, positions_BT=batch.positions_BT).log_softmax(-1)
    logp_BT = logp_BTV.gather(-1, batch.labels_BT.clamp(min=0)[..., None])[..., 0] * (batch.labels_BT != IGNORE)
    return tuple(logp_BT.sum(1).chunk(2))


def reference_of(model: Transformer, batch: Tensors) -> Reference:
    with torch.no_grad():
        return Reference(*naive_log_probs(model, batch))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradient_are_those_of_the_formula(case: str) -> None:
    """Each paper's equation, written out plainly, differentiated by autograd through the plain model."""
    name, settings, formula = CASES[case]
    model, start, batch = exact(0), exact(1), Tensors.of(Pattern(pairs=True).batch(0), CPU)
    before, tokens = reference_of(start, batch), (batch.labels_BT != IGNORE).sum(1).chunk(2)
    wanted = formula(*naive_log_probs(model, batch), before.chosen_P, before.rejected_P, *tokens).sum()
    wanted.backward()
    wanted_grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    loss, sums = preference(partial(LOSSES[name], **settings), before).loss(model, batch)
    loss.backward()
    torch.testing.assert_close(loss, wanted, rtol=1e-10, atol=0)
    assert sums["loss"] is loss
    for parameter, want in zip(model.parameters(), wanted_grads, strict=True):
        torch.testing.assert_close(parameter.grad, want, rtol=1e-8, atol=1e-11)


def side(logp: float, *, tokens: int = 10, reference: float | None = None) -> Side:
    one = torch.tensor([logp], dtype=torch.float64, requires_grad=True)
    known = None if reference is None else torch.tensor([reference], dtype=torch.float64)
    return Side(one, torch.tensor([tokens]), known)


def test_the_losses_at_points_known_by_heart() -> None:
    """What a curve starts from, and where a loss has its goal."""
    same = side(-30.0, reference=-30.0), side(-50.0, tokens=7, reference=-50.0)
    assert sigmoid(*same, beta=0.15).loss_P.item() == pytest.approx(math.log(2))
    assert sigmoid(*same, beta=0.15, label_smoothing=0.3).loss_P.item() == pytest.approx(math.log(2))
    assert sigmoid(*same, beta=5.0, length_normalised=True).loss_P.item() == pytest.approx(math.log(2))
    assert ipo(*same, beta=0.15).loss_P.item() == pytest.approx(1 / (4 * 0.15**2))
    there = side(-27.5, reference=-30.0), side(-52.5, reference=-50.0)
    assert ipo(*there, beta=0.1).loss_P.item() == 0  # a margin of 1/(2·0.1) = 5 nats
    equal = side(-20.0), side(-40.0, tokens=20)
    assert simpo(*equal, beta=2.0, target_margin=0.5).loss_P.item() == pytest.approx(math.log(1 + math.exp(0.5)))
    assert orpo(*equal, beta=0.3).loss_P.item() == pytest.approx(2.0 + 0.3 * math.log(2))


def test_smoothing_puts_the_goal_where_the_labels_are_right_that_often() -> None:
    """Conservative DPO stops at a margin of log((1−ε)/ε); plain DPO never does."""
    goal = math.log(0.8 / 0.2)
    chosen, rejected = side(-30.0 + goal, reference=-30.0), side(-50.0, reference=-50.0)
    sigmoid(chosen, rejected, beta=1.0, label_smoothing=0.2).loss_P.sum().backward()
    assert chosen.logp_P.grad.item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", ["sigmoid", "ipo"])
def test_a_mean_over_tokens_gives_no_reward_for_length(name: str) -> None:
    """The same change per token in an answer twice as long is the same reward, and not so of sums."""
    short, long = side(-9.0, tokens=10, reference=-10.0), side(-18.0, tokens=20, reference=-20.0)
    other = side(-10.0, reference=-10.0)
    by_mean = [LOSSES[name](one, other, beta=2.0, length_normalised=True).loss_P.item() for one in (short, long)]
    by_sum = [LOSSES[name](one, other, beta=0.1).loss_P.item() for one in (short, long)]
    assert by_mean[0] == pytest.approx(by_mean[1]) and by_sum[0] > by_sum[1] + 0.01


def test_an_answer_as_good_as_certain_has_finite_odds() -> None:
    """p = 1 happens in fp32 on a repeated answer; infinite odds would end the training."""
    certain = Side(torch.tensor([0.0], requires_grad=True), torch.tensor([3]))
    loss_P = orpo(certain, Side(torch.tensor([-30.0]), torch.tensor([3])), beta=0.2).loss_P
    loss_P.sum().backward()
    assert loss_P.isfinite().all() and certain.logp_P.grad.isfinite().all()


def test_what_is_logged_says_how_far_the_policy_moved() -> None:
    """Rewards, KL and drift against their definitions; zero for a policy that has not moved."""
    model, start, batch = exact(0), exact(1), Tensors.of(Pattern(pairs=True).batch(0), CPU)
    table = torch.arange(TINY.vocab_size) % 4
    loss = partial(sigmoid, beta=0.15)
    before = reference_of(start, batch)
    chosen, rejected = (logp.detach() for logp in naive_log_probs(model, batch))
    sums = preference(loss, before, bytes_per_token=table).measure(model, batch)
    assert sums["chosen_reward"].item() == pytest.approx(0.15 * (chosen - before.chosen_P).sum().item())
    assert sums["rejected_reward"].item() == pytest.approx(0.15 * (rejected - before.rejected_P).sum().item())
    assert sums["reward_margin"].item() == pytest.approx((sums["chosen_reward"] - sums["rejected_reward"]).item())
    nats = ((before.chosen_P - chosen) + (before.rejected_P - rejected)).sum() / 2
    assert sums["kl"].item() == pytest.approx(nats.item())
    sizes = (table[batch.labels_BT.clamp(min=0)] * (batch.labels_BT != IGNORE)).sum(1)[:8]
    bits = (before.chosen_P - chosen) / math.log(2) / sizes
    assert sums["drift_bits_per_byte"].item() == pytest.approx(bits.sum().item())
    still = preference(loss, reference_of(model, batch), bytes_per_token=table).measure(model, batch)
    assert max(abs(still[name].item()) for name in ("kl", "drift_bits_per_byte", "reward_margin")) < 1e-9


def test_losses_without_a_reference_need_none_and_tell_no_kl() -> None:
    """Half of such a training's memory and time would go into numbers nobody uses."""
    model, batch = Transformer(TINY), Tensors.of(Pattern(pairs=True).batch(0), CPU)
    for loss in (partial(simpo, beta=2.0, target_margin=0.5), partial(orpo, beta=0.1)):
        sums = preference(loss).measure(model, batch)
        assert {"accuracy", "chosen_reward", "rejected_reward", "chosen_logp"} <= sums.keys()
        assert not {"kl", "drift_bits_per_byte"} & sums.keys()


@pytest.mark.parametrize("objective", [next_token(), preference(partial(orpo, beta=0.1))], ids=["rows", "pairs"])
def test_sums_and_counts_of_the_parts_are_those_of_the_whole(objective: Objective) -> None:
    """The contract of an objective: otherwise the gradient depends on how a batch is cut."""
    model, batch = exact(0), Pattern(pairs=objective.units.count is not count_tokens).batch(0)
    parts = [Tensors.of(objective.take(batch, *cut), CPU) for cut in ((0, 1), (1, 6), (6, 8))]
    found = [objective.function(model, part) for part in parts]
    whole = objective.function(model, Tensors.of(batch, CPU))
    assert sum(int(part.count) for part in found) == int(whole.count) == objective.count(batch)
    torch.testing.assert_close(sum(part.sum for part in found), whole.sum, rtol=1e-10, atol=0)
    for name, value in whole.extras.items():
        torch.testing.assert_close(sum(part.extras[name] for part in found), value, rtol=1e-9, atol=1e-9)


def test_the_balance_loss_of_experts_is_added_for_pairs_too() -> None:
    """An objective's author does not think of it; a collapsed router would go unnoticed."""
    shape = TINY.replace(num_experts=4, experts_per_token=2, balance_coefficient=0.5)
    model, batch = Transformer(shape), Tensors.of(Pattern(pairs=True).batch(0), CPU)
    total, sums = preference(partial(orpo, beta=0.1)).loss(model, batch)
    assert total.item() == pytest.approx((sums["loss"] + sums["balance_loss"]).item())
    assert sums["balance_loss"].item() / 8 == pytest.approx(pair_log_probs(model, batch)[2].item())


def test_every_loss_can_be_named_and_takes_what_its_settings_say() -> None:
    """A loss is a function, its name, and the settings that its signature asks for."""
    assert set(LOSSES) == set(LOSS_SETTINGS) == set(get_args(PreferenceLossName))
    for name, function in LOSSES.items():
        own = [p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert set(own) == {"beta", *LOSS_SETTINGS[name]}
        given = {"target_margin": 0.5, "beta": 2.0} if name == "simpo" else {}
        config = DpoConfig(epochs=1, loss=name, **given)
        verdict = function(side(-9.0, reference=-8.0), side(-7.0, reference=-8.0), **config.loss_settings)
        assert verdict.loss_P.isfinite().all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loss": "orpo", "label_smoothing": 0.1}, '`label_smoothing` is for `loss` = "sigmoid"; it is "orpo"'),
        ({"loss": "simpo", "target_margin": 1.0, "length_normalised": True}, '"sigmoid" or "ipo"; it is "simpo"'),
        ({"target_margin": 1.0}, '`target_margin` is for `loss` = "simpo"'),
        ({"loss": "simpo", "beta": 2.0}, "needs a `target_margin`"),
        ({"loss": "simpo", "target_margin": 1.0}, "`beta` counts per token"),
        ({"length_normalised": True}, "`beta` counts per token"),
        ({"length_floor": 64}, "set `length_normalised`, or leave it out"),
        ({"loss": "orpo", "length_floor": 64}, '"sigmoid" or "ipo"; it is "orpo"'),
        ({"loss": "kto"}, "'simpo' or 'orpo'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values: dict[str, Any], message: str) -> None:
    """A setting that is silently ignored is believed to have worked."""
    with pytest.raises(ConfigError, match=message):
        DpoConfig.parse({"epochs": 1, **values}, origin="[dpo]")
    config = DpoConfig(epochs=1, loss="simpo", beta=0.15, target_margin=1.0)
    assert config.replace(lr=1e-6).beta == 0.15  # and what was given stays given


def test_a_shuffled_batch_finds_the_reference_of_its_own_pairs() -> None:
    """The third pair of a batch is not the third of the reference."""
    model, batch = exact(0), Tensors.of(Pattern(pairs=True).batch(0), CPU)
    numbers, known = torch.tensor([5, 3, 9, 0, 7, 1, 2, 4]), reference_of(model, batch)
    table = torch.full((10,), 1e6, dtype=torch.float64)
    scattered = Reference(*(table.index_copy(0, numbers, one) for one in (known.chosen_P, known.rejected_P)))
    shuffled = replace(batch, items_B=numbers.repeat(2))
    assert preference(partial(ipo, beta=0.5), scattered).measure(model, shuffled)["loss"].item() == pytest.approx(8.0)
