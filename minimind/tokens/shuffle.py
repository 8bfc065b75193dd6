"""A shuffle without an index: place n of an endless walk over 0 … size − 1, from (seed, n) alone.

Epoch e is the places e·size … (e+1)·size − 1, and has every number once, in an order of its own. A number is
found by a Feistel network over a·b ≥ size (Black and Rogaway 2002, with the two halves in ℤ_a and ℤ_b, so that
hardly any place falls outside), keyed by seed and epoch; what falls outside goes through it again. So no
permutation is ever made: the first batch of a billion rows costs what that of a hundred costs.

Places are worked out in blocks, which brings a place to about 0.1 µs; the block that was used last is kept.
"""

import math

import numpy as np

BLOCK = 4096
_ROUNDS = 8
"""Four for each half; from six on no test told an epoch's order from a random one."""
_GOLDEN, _MIX, _OTHER = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_HALF = np.uint64(32)


class Shuffle:
    """Numbers below `size`, shuffled anew every epoch. `size` is 1 or more."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._key = mixed(np.array([seed], np.uint64))
        self._left = np.uint64(math.isqrt(size - 1) + 1)
        self._right = np.uint64(-(-size // int(self._left)))
        self._kept: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def take(self, start: int, count: int) -> np.ndarray:
        """The numbers at the `count` places from `start` on, int64, over as many epochs as that takes."""
        first, last = start // BLOCK, (start + count - 1) // BLOCK
        parts = [self._block(block) for block in range(first, last + 1)]
        within = start - first * BLOCK
        return np.concatenate(parts)[within : within + count] if len(parts) != 1 else parts[0][within : within + count]

    def _block(self, block: int) -> np.ndarray:
        if self._kept[0] != block:
            self._kept = (block, self._at(np.arange(block * BLOCK, (block + 1) * BLOCK, dtype=np.uint64)))
        return self._kept[1]

    def _at(self, places: np.ndarray) -> np.ndarray:
        epochs, numbers = np.divmod(places, np.uint64(self._size))
        keys = mixed(epochs * _GOLDEN + self._key)
        numbers = self._network(numbers, keys)
        while (outside := np.flatnonzero(numbers >= self._size)).size:
            numbers[outside] = self._network(numbers[outside], keys[outside])
        return numbers.astype(np.int64)

    def _network(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """A permutation of 0 … a·b − 1 for each key."""
        left, right = np.divmod(numbers, self._right)
        for _ in range(_ROUNDS // 2):
            keys = keys + _GOLDEN
            left = (left + (mixed(right + keys) >> _HALF)) % self._left
            right = (right + (mixed(left ^ keys) >> _HALF)) % self._right
        return left * self._right + right


def mixed(values: np.ndarray) -> np.ndarray:
    """Every bit of each uint64 spread over all of it (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX
    values = (values ^ (values >> np.uint64(27))) * _OTHER
    return values ^ (values >> np.uint64(31))
