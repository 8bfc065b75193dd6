"""How sure a figure is, and the difference of two models on the same items."""

import numpy as np
import pytest

from minimind.evaluate.intervals import Resampling, Values, wilson


def ratios(count: int, *, seed: int = 0) -> Values:
    rng = np.random.default_rng(seed)
    return Values(rng.gamma(9.0, 20.0, count), rng.integers(50, 150, count).astype(float))


def test_wilson_interval_has_the_published_values():
    """Textbook values, and no interval outside 0 … 1 at the edges."""
    assert (wilson(5, 10).low, wilson(5, 10).high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert (wilson(0, 10).low, wilson(0, 10).high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10).high == pytest.approx(1.0) and wilson(90, 100).low == pytest.approx(0.8256, abs=1e-4)


def test_interval_holds_the_figure_and_narrows_with_items():
    """The bootstrap is seeded, and more items must mean more certainty."""
    all_items, draws = ratios(900), Resampling(1000, seed=1)
    few, many = (draws.figure(all_items.take(np.arange(count))) for count in (30, 900))
    assert few.value in few.interval and many.value in many.interval and (few.n, many.n) == (30, 900)
    assert many.interval.high - many.interval.low < 0.3 * (few.interval.high - few.interval.low)
    assert few == Resampling(1000, seed=1).figure(all_items.take(np.arange(30)))


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """95 % must mean 95 %: of 200 samples the interval misses the true mean in about ten."""
    truth = 9.0 * 20 / 99.5
    missed = sum(truth not in Resampling(400, seed=seed).figure(ratios(120, seed=seed)).interval for seed in range(200))
    assert 2 <= missed <= 24


def test_yes_and_no_get_wilson_and_shared_points_the_bootstrap():
    """A tie shares its point, so it is no yes or no any more."""
    draws = Resampling(500)
    assert draws.figure(Values.of(np.array([1, 0, 1, 1]))).interval == wilson(3, 4)
    shared = draws.figure(Values.of(np.array([1, 0, 0.5, 1] * 20)))
    assert shared.value == 0.625 and shared.interval.low < 0.625 < shared.interval.high


def test_a_paired_difference_sees_what_two_intervals_hide():
    """Items differ far more than models do: drawn together, what all models find hard cancels out."""
    before, draws = ratios(300), Resampling(1000)
    after = Values(before.values * 1.01, before.weights)
    alone = [draws.figure(values).interval for values in (before, after)]
    assert alone[0].high > alone[1].low
    difference = draws.difference(after, before)
    assert difference.interval.low > 0 and difference.value == pytest.approx(0.01 * before.mean)
    assert draws.difference(before, before).interval.high == 0
