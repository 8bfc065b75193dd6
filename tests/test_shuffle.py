"""The shuffle without an index: a permutation every epoch, of any size, and none like another."""

from collections import Counter

import numpy as np
import pytest

from minimind.tokens.shuffle import BLOCK, Shuffle


@pytest.mark.parametrize("size", [*range(1, 40), 1023, 1024, 1025, 4097])
def test_an_epoch_has_every_number_once(size: int) -> None:
    """A row that comes twice or never bends the training, and no curve shows it."""
    shuffle = Shuffle(size, seed=7)
    for epoch in range(3):
        assert np.array_equal(np.sort(shuffle.take(epoch * size, size)), np.arange(size))


def test_a_place_does_not_depend_on_what_was_asked_before() -> None:
    """Across blocks and epochs, forwards and back."""
    whole = Shuffle(1500, seed=1).take(0, 3 * BLOCK)
    shuffle = Shuffle(1500, seed=1)
    for start in (2 * BLOCK - 5, 0, BLOCK - 1, 1499, 1500):
        assert np.array_equal(shuffle.take(start, 40), whole[start : start + 40])
        assert np.array_equal(Shuffle(1500, seed=1).take(start, 40), whole[start : start + 40])


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [Shuffle(50, seed).take(epoch * 50, 50).tolist() for seed in range(4) for epoch in range(4)]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_all_orders_of_four_are_about_as_frequent() -> None:
    """A tiny set is where a Feistel network would be at its worst."""
    counts = Counter(tuple(Shuffle(4, seed).take(0, 4).tolist()) for seed in range(2400))
    assert len(counts) == 24
    assert sum((count - 100) ** 2 / 100 for count in counts.values()) < 60  # 23 degrees of freedom: 0.003 % are above


def test_neighbours_do_not_stay_together() -> None:
    """Rows made from one file stand together in the set."""
    order = Shuffle(20_000, seed=3).take(0, 20_000)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.03
    assert np.count_nonzero(np.abs(np.diff(order)) == 1) < 15
