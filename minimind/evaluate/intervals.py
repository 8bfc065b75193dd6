"""From values of single items to a figure with its interval, and to the difference of two models on the same items.

Every metric here is Σ values / Σ weights over items: bits over bytes, nats over tokens, right ones over questions. So
one bootstrap over items serves them all; shares of yes and no have Wilson's interval, which is sensible at 0, at 1
and for few items.
"""

import math
from dataclasses import dataclass

import numpy as np

from minimind.evaluate.results import Figure, Interval

Z = 1.959964
"""Half the width of a 95 % interval, in standard deviations."""


@dataclass(frozen=True)
class Values:
    """One metric of one model, item by item (float64)."""

    values: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray) -> "Values":
        """Items that count alike."""
        return cls(np.asarray(values, np.float64), np.ones(len(values)))

    def take(self, places: np.ndarray) -> "Values":
        """Those of some items, by number or mask."""
        return Values(self.values[places], self.weights[places])

    @property
    def mean(self) -> float:
        return float(self.values.sum() / max(self.weights.sum(), 1e-300))

    @property
    def is_share(self) -> bool:
        """Whether each item is a yes or a no."""
        return bool(np.isin(self.values, (0.0, 1.0)).all() and (self.weights == 1).all())


@dataclass(frozen=True)
class Resampling:
    """How intervals are drawn."""

    resamples: int = 1000
    seed: int = 0

    def figure(self, values: Values) -> Figure:
        """The figure of some items, of which there is at least one."""
        count = len(values.values)
        if values.is_share:
            return Figure(value=values.mean, interval=wilson(int(values.values.sum()), count), n=count)
        return Figure(value=values.mean, interval=self.interval(values), n=count)

    def interval(self, values: Values) -> Interval:
        """The middle 95 % of Σ values / Σ weights over items drawn anew with replacement."""
        return _middle(self._drawn(values, self._draw(len(values.values))))

    def difference(self, after: Values, before: Values) -> Figure:
        """What `after` has more than `before` on the same items; drawn together, so what they share cancels out."""
        drawn = self._draw(len(after.values))
        interval = _middle(self._drawn(after, drawn) - self._drawn(before, drawn))
        return Figure(value=after.mean - before.mean, interval=interval, n=len(after.values))

    def _draw(self, count: int) -> np.ndarray:
        """How often each item is drawn, resamples × items."""
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(count, np.full(count, 1 / count), size=self.resamples)

    @staticmethod
    def _drawn(values: Values, drawn: np.ndarray) -> np.ndarray:
        return (drawn @ values.values) / np.maximum(drawn @ values.weights, 1e-300)


def wilson(right: float, total: int, *, z: float = Z) -> Interval:
    """The 95 % interval of a share (Wilson 1927)."""
    share, shrink = right / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / shrink
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half))


def _middle(drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Interval(low=float(low), high=float(high))
