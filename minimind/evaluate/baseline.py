"""What a model must beat: a byte n-gram and xz, on the same text and in the same unit as the model.

`ByteNgram` is an interpolated Kneser–Ney model with three discounts per order (Chen & Goodman
1999, "modified Kneser–Ney") over bytes: order 6 predicts a byte from the five before it. Symbols
take nine bits, so that a gram of up to seven is one uint64: 0–255 are bytes, 256 stands before
the start of a document (it is context, never predicted). The end of a document is not predicted
either, as it is not in the models' bits per byte.

On 1.8 MB of Python documentation it needs 1.775 bits per byte where absolute discounting of plain
counts needs 1.888 and Witten–Bell interpolation 1.912. Not here: longer contexts and mixing with
a cache, which would make a stronger but less well known baseline.
"""

import lzma
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minimind.errors import ConfigError, DataError

BITS = 9
START = 256
MAX_ORDER = 64 // BITS
CHUNK = 1 << 20
"""Bytes scored at a time: bounds memory."""

Keys = np.ndarray
"""uint64, one per byte of text: the byte and the `order − 1` symbols before it."""


@dataclass(frozen=True)
class Level:
    """One order. `grams` and `contexts` are sorted keys; a probability is `weight + backoff · p(shorter)`."""

    grams: np.ndarray
    weights: np.ndarray
    contexts: np.ndarray
    backoffs: np.ndarray


@dataclass(frozen=True)
class ByteNgram:
    """A fitted model; `levels[0]` is the unigram."""

    order: int
    levels: tuple[Level, ...]

    def probabilities(self, keys: Keys) -> np.ndarray:
        """p(byte | the bytes before it) of each key, float64. For a fixed context they sum to 1 over 256 bytes."""
        p = np.full(len(keys), 1 / 256)
        for number, level in enumerate(self.levels, 1):
            grams = keys & _mask(number)
            weights = _look_up(level.grams, level.weights, grams, default=0.0)
            p = weights + _look_up(level.contexts, level.backoffs, grams >> BITS, default=1.0) * p
        return p

    def byte_bits(self, documents: Sequence[bytes]) -> np.ndarray:
        """The code length of every byte of `documents`, in their order, in bits."""
        keys = _keys(documents, self.order)
        return -np.concatenate(
            [np.log2(self.probabilities(keys[i : i + CHUNK])) for i in range(0, len(keys), CHUNK)] or [np.zeros(0)]
        )

    def bits(self, documents: Sequence[bytes]) -> np.ndarray:
        """The code length of each document in bits."""
        return self.bits_behind([(b"", document) for document in documents])

    def bits_behind(self, pairs: Sequence[tuple[bytes, bytes]]) -> np.ndarray:
        """The code length of the second of each pair, where the first stands before it, in bits."""
        near = [before[len(before) - self.order + 1 :] if len(before) >= self.order else before for before, _ in pairs]
        bits = self.byte_bits([before + text for before, (_, text) in zip(near, pairs, strict=True)])
        lengths = np.array([[len(before), len(text)] for before, (_, text) in zip(near, pairs, strict=True)], np.int64)
        ends = np.cumsum(lengths.reshape(-1, 2).ravel())
        sums = np.diff(np.concatenate([[0.0], np.cumsum(bits)])[np.concatenate([[0], ends])])
        return sums[1::2]


def fit_ngram(documents: Sequence[bytes], *, order: int = 6) -> ByteNgram:
    """Count and smooth the byte grams of `documents` (UTF-8). 3 MB take about a second and 300 MB of memory."""
    if not 1 <= order <= MAX_ORDER:
        raise ConfigError(
            f"the baseline's order is {order}; allowed are 1 to {MAX_ORDER} (a gram is packed in 64 bits)"
        )
    keys = _keys(documents, order)
    if not len(keys):
        raise DataError("no text to fit the byte n-gram on: the training split has no bytes")
    grams, counts = np.unique(keys, return_counts=True)
    levels = [_smooth(grams, counts)]
    for number in range(order - 1, 0, -1):  # shorter grams are counted by how many symbols come before them
        grams, counts = np.unique(grams & _mask(number), return_counts=True)
        levels.append(_smooth(grams, counts))
    return ByteNgram(order, tuple(reversed(levels)))


def xz_bits_per_byte(train: Sequence[bytes], validation: Sequence[bytes]) -> tuple[float, float]:
    """Bits per byte of `xz -9e` on the validation text: alone, and after the training text.

    The second is (compressed(train + validation) − compressed(train)) / validation: what a
    compressor that has read the training text still needs. xz looks back 64 MB at most.
    """
    text, seen = b"".join(validation), b"".join(train)
    if not text:
        raise DataError("no validation text to compress")
    alone = _xz_size(text)
    after = _xz_size(seen + text) - _xz_size(seen)
    return 8 * alone / len(text), 8 * after / len(text)


def _xz_size(text: bytes) -> int:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]
    return len(lzma.compress(text, format=lzma.FORMAT_RAW, filters=filters))  # raw: no headers, no checksum


def _keys(documents: Sequence[bytes], order: int) -> Keys:
    """The key of every byte of `documents`, in their order."""
    start = np.full(order - 1, START, dtype=np.uint16)
    parts = [part for document in documents for part in (start, np.frombuffer(document, dtype=np.uint8))]
    symbols = np.concatenate([np.zeros(0, np.uint16), *parts]).astype(np.uint64)
    keys = symbols.copy()
    for back in range(1, order):
        keys[back:] |= symbols[:-back] << np.uint64(BITS * back)
    return keys[symbols != START]


def _smooth(grams: np.ndarray, counts: np.ndarray) -> Level:
    """One order of modified Kneser–Ney from its sorted grams and their counts."""
    firsts = np.flatnonzero(np.diff(grams >> BITS, prepend=~grams[:1] >> BITS))
    sizes = np.diff(np.append(firsts, len(grams)))
    totals = np.add.reduceat(counts, firsts).astype(np.float64)
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    return Level(
        grams=grams,
        weights=(counts - discounts) / np.repeat(totals, sizes),
        contexts=grams[firsts] >> BITS,
        backoffs=np.add.reduceat(discounts, firsts) / totals,
    )


def _discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from grams seen 0, 1, 2 and ≥ 3 times (Chen & Goodman's equation 26).

    Short orders may have no gram seen once or twice, which leaves the estimate undefined; 0.5 is
    taken then. At least 0.05 is taken always, or an unseen byte would have no probability.
    """
    n1, n2, n3, n4 = (int((counts == number).sum()) for number in (1, 2, 3, 4))
    if not n1 or not n2 or not n3:
        return np.array([0.0, 0.5, 0.5, 0.5])
    share = n1 / (n1 + 2 * n2)
    raw = np.array([0.0, 1 - 2 * share * n2 / n1, 2 - 3 * share * n3 / n2, 3 - 4 * share * n4 / n3])
    return np.clip(raw, [0.0, 0.05, 0.05, 0.05], [0.0, 1.0, 2.0, 3.0])


def _mask(number: int) -> np.uint64:
    return np.uint64((1 << (BITS * number)) - 1)


def _look_up(table: np.ndarray, values: np.ndarray, keys: np.ndarray, *, default: float) -> np.ndarray:
    """The value of each key in a sorted table, `default` where it is not there."""
    index = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[index] == keys, values[index], default)
