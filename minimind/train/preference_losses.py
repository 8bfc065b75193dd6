"""What a pair of answers costs: one function per preference loss, of log-probabilities alone.

A loss sees the two sides of P pairs and says for each pair what it costs and how both answers are rewarded; the mean
over pairs is minimised. It knows neither model nor batch, so it is its formula and nothing else. `LOSSES` is what
`[dpo] loss` names.

Axes: P pairs. Not here: where log-probabilities come from (`objectives.py`), those of the reference (`reference.py`),
which settings a loss takes (`DpoConfig`).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Side(NamedTuple):
    """One side of every pair: its answers' log-probabilities in nats, summed over trained tokens."""

    logp_P: Tensor
    tokens_P: Tensor
    """Trained tokens, 1 or more."""
    reference_P: Tensor | None = None
    """The log-probability under the model that training starts from; None for losses that need none."""

    @property
    def mean_P(self) -> Tensor:
        return self.logp_P / self.tokens_P

    def ratio_P(self, *, length_normalised: bool = False, length_floor: int | None = None) -> Tensor:
        """log π/π_ref of each answer, or its mean over the answer's tokens, of which there are `length_floor` at least.

        Without a floor a token of an answer of two weighs as much as a hundred of an answer of two hundred.
        """
        assert self.reference_P is not None, "this loss compares with a reference"
        ratio_P = self.logp_P - self.reference_P
        return ratio_P / self.tokens_P.clamp(min=length_floor or 1) if length_normalised else ratio_P


class Verdict(NamedTuple):
    """Of each pair: its loss, and the rewards its answers get. The preferred answer is that of the higher reward."""

    loss_P: Tensor
    chosen_reward_P: Tensor
    rejected_reward_P: Tensor


PreferenceLoss = Callable[[Side, Side], Verdict]
"""(chosen, rejected) → verdict, once its settings are bound."""


def sigmoid(
    chosen: Side,
    rejected: Side,
    *,
    beta: float,
    length_normalised: bool = False,
    length_floor: int | None = None,
    label_smoothing: float = 0.0,
) -> Verdict:
    """DPO: −log σ(β·log π/π_ref of the chosen answer − β·that of the rejected one) (Rafailov et al. 2023, eq. 7).

    ln 2 for an untouched policy. With `label_smoothing` ε the labels are believed to be wrong that often:
    −(1−ε)·log σ(z) − ε·log σ(−z) (Mitchell 2023, conservative DPO). With `length_normalised` ratios are means
    over an answer's tokens, which takes away the reward for mere length (Meng et al. 2024, table 3); answers of fewer
    than `length_floor` count as of so many.
    """
    chosen_P, rejected_P = (
        beta * side.ratio_P(length_normalised=length_normalised, length_floor=length_floor)
        for side in (chosen, rejected)
    )
    margin_P = chosen_P - rejected_P
    loss_P = -(1 - label_smoothing) * F.logsigmoid(margin_P) - label_smoothing * F.logsigmoid(-margin_P)
    return Verdict(loss_P, chosen_P, rejected_P)


def ipo(
    chosen: Side, rejected: Side, *, beta: float, length_normalised: bool = False, length_floor: int | None = None
) -> Verdict:
    """IPO: (difference of log π/π_ref − 1/(2β))² (Azar et al. 2023, eq. 17, where β is τ).

    The margin has a goal instead of growing without end; 1/(4β²) for an untouched policy.
    """
    chosen_P, rejected_P = (
        side.ratio_P(length_normalised=length_normalised, length_floor=length_floor) for side in (chosen, rejected)
    )
    return Verdict((chosen_P - rejected_P - 1 / (2 * beta)).square(), beta * chosen_P, beta * rejected_P)


def simpo(chosen: Side, rejected: Side, *, beta: float, target_margin: float) -> Verdict:
    """SimPO: −log σ(β·mean log p of the chosen answer − β·that of the rejected one − γ) (Meng et al. 2024, eq. 6).

    Needs no reference. γ is `target_margin`; equal sides cost −log σ(−γ).
    """
    chosen_P, rejected_P = beta * chosen.mean_P, beta * rejected.mean_P
    return Verdict(-F.logsigmoid(chosen_P - rejected_P - target_margin), chosen_P, rejected_P)


def orpo(chosen: Side, rejected: Side, *, beta: float) -> Verdict:
    """ORPO: −mean log p of the chosen answer − β·log σ(log of the odds ratio) (Hong et al. 2024, eq. 6, where β is λ).

    odds = p/(1−p) of p = exp(mean log p). Learns the chosen answers as SFT does, so it may start from a pretrained
    model, and needs no reference.
    """
    odds_ratio_P = _log_odds(chosen.mean_P) - _log_odds(rejected.mean_P)
    loss_P = -chosen.mean_P - beta * F.logsigmoid(odds_ratio_P)
    return Verdict(loss_P, beta * chosen.mean_P, beta * rejected.mean_P)


LOSSES: dict[str, Callable[..., Verdict]] = {"sigmoid": sigmoid, "ipo": ipo, "simpo": simpo, "orpo": orpo}


def _log_odds(logp_P: Tensor) -> Tensor:
    """log(p/(1−p)) of log p; an answer as good as certain counts as p = 1 − 1e-6, not as infinite odds."""
    logp_P = logp_P.clamp(max=-1e-6)
    return logp_P - torch.log(-torch.expm1(logp_P))
