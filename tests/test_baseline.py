"""The byte n-gram and xz: what a neural model is measured against must itself be right."""

import math
from collections import Counter

import numpy as np
import pytest

from minimind.errors import ConfigError, DataError
from minimind.evaluate.baseline import BITS, START, ByteNgram, fit_ngram, xz_bits_per_byte

TRAIN = [f"def function_{i % 7}(a, b):\n    return a + b * {i}\n".encode() for i in range(60)] + ["你好，世界".encode()]


def _key(context: list[int], byte: int, order: int) -> int:
    """The packed gram of `byte` after `context`, padded with START as at the start of a document."""
    key = 0
    for symbol in [*[START] * order, *context, byte][-order:]:
        key = key << BITS | symbol
    return key


@pytest.mark.parametrize("order", [1, 2, 6, 7])
def test_probabilities_sum_to_one_over_all_bytes(order: int):
    """A code that does not sum to one cheats; seen, half-seen and unseen contexts and the start are tried."""
    ngram = fit_ngram(TRAIN, order=order)
    for context in (b"", b"d", b"def fu", b"return", b"zzzzzz", b"\xff\x00\xff\x00\xff\x00", "你".encode()):
        keys = np.array([_key(list(context), byte, order) for byte in range(256)], np.uint64)
        assert math.isclose(ngram.probabilities(keys).sum(), 1.0, rel_tol=1e-9), context


def test_every_byte_is_possible_everywhere():
    """A byte that was never seen must cost many bits, not infinitely many."""
    bits = fit_ngram([b"aaaa"], order=6).bits([bytes(range(256))])
    assert np.isfinite(bits).all() and bits[0] > 256


def test_bigram_agrees_with_the_textbook_formula():
    """Interpolated Kneser–Ney written out with dictionaries gives the same numbers as the packed tables."""
    documents = [b"abracadabra, abracadabra", b"barbara and abba ran a bar", b"cab cabbage ad"]
    pairs = Counter((before, byte) for text in documents for before, byte in zip([START, *text], text, strict=False))
    followers = Counter(byte for _, byte in pairs)

    def discounts(counts: Counter) -> list[float]:
        n = [0, *(sum(c == k for c in counts.values()) for k in (1, 2, 3, 4))]
        if not n[1] or not n[2] or not n[3]:
            return [0.0, 0.5, 0.5, 0.5]
        y = n[1] / (n[1] + 2 * n[2])
        raw = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
        return [0.0, *(min(max(d, 0.05), k) for k, d in enumerate(raw, 1))]

    def unigram(byte: int) -> float:
        d, total = discounts(followers), sum(followers.values())
        left = sum(d[min(c, 3)] for c in followers.values()) / total
        count = followers[byte]
        return (count - d[min(count, 3)]) / total + left / 256

    def bigram(before: int, byte: int) -> float:
        d, seen = discounts(pairs), {b: c for (a, b), c in pairs.items() if a == before}
        if not seen:
            return unigram(byte)
        left = sum(d[min(c, 3)] for c in seen.values()) / sum(seen.values())
        count = seen.get(byte, 0)
        return (count - d[min(count, 3)]) / sum(seen.values()) + left * unigram(byte)

    text = b"a bad crab"
    expected = -sum(math.log2(bigram(before, byte)) for before, byte in zip([START, *text], text, strict=False))
    assert math.isclose(fit_ngram(documents, order=2).bits([text])[0], expected, rel_tol=1e-9)


def test_documents_do_not_see_each_other():
    """The code length of a document is its own: neighbours must not lend it context."""
    ngram = fit_ngram(TRAIN, order=6)
    together = ngram.bits([TRAIN[0], b"", TRAIN[1]])
    assert together.tolist() == pytest.approx([ngram.bits([TRAIN[0]])[0], 0.0, ngram.bits([TRAIN[1]])[0]])


def test_longer_context_predicts_better_and_noise_stays_at_eight_bits():
    """Order 6 must profit from its five bytes; bytes without structure must not look compressible."""
    held_out = [b"def function_3(a, b):\n    return a + b * 77\n"]
    per_byte = [fit_ngram(TRAIN, order=order).bits(held_out)[0] / len(held_out[0]) for order in (1, 3, 6)]
    assert per_byte[0] > per_byte[1] > per_byte[2]
    noise = np.random.default_rng(0).bytes(40_000)
    assert 7.9 < fit_ngram([noise[:20_000]], order=6).bits([noise[20_000:]])[0] / 20_000 < 8.6


def test_bits_are_those_of_the_probabilities():
    """`bits` adds up −log₂ p of each byte in its document, also for text in several chunks."""
    ngram: ByteNgram = fit_ngram(TRAIN, order=3)
    text = "return 你".encode()
    keys = np.array([_key(list(text[:i]), text[i], 3) for i in range(len(text))], np.uint64)
    assert math.isclose(ngram.bits([text])[0], -np.log2(ngram.probabilities(keys)).sum(), rel_tol=1e-12)


def test_xz_profits_from_training_text():
    """Both figures are in bits per byte of the validation text, and knowing similar text must help."""
    alone, after = xz_bits_per_byte(TRAIN, TRAIN[:5])
    assert 0 < after < alone < 8


def test_unusable_input_is_refused_with_the_reason():
    """An order that does not fit in 64 bits and an empty split are the user's to mend."""
    with pytest.raises(ConfigError, match="1 to 7"):
        fit_ngram(TRAIN, order=8)
    with pytest.raises(DataError, match="training split"):
        fit_ngram([b""], order=2)
    with pytest.raises(DataError, match="validation"):
        xz_bits_per_byte(TRAIN, [b""])
