"""Signatures guess similarity; the guess must be close, cheap to make equal, and independent of the batch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.deduplication.folding import fold
from minimind.data.deduplication.signatures import BINS, SHINGLE, band_keys, bands, shingle_sets, signatures
from minimind.data.rules.texts import Texts

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=30)


def random_text(rng: np.random.Generator, length: int, *, chinese: bool) -> str:
    """Letters or Han characters with rare blanks; folding leaves them as they are."""
    first, kinds = (0x4E00, 3000) if chinese else (ord("a"), 26)
    return "".join(map(chr, rng.integers(first, first + kinds, length)))


def plain_shingles(text: str) -> set[str]:
    """The definition, written down plainly."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))} if text else set()


def sign(texts: list[str]) -> np.ndarray:
    return signatures(fold(Texts(texts)))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(ANY_TEXT, max_size=5))
def test_sets_hold_each_shingle_once(texts):
    """The sets decide what is dropped: as many hashes as there are different shingles, shared where those are."""
    folded = fold(Texts(texts))
    found = shingle_sets(folded)
    plain = [plain_shingles(folded.text(i)) for i in range(len(texts))]
    assert [len(hashes) for hashes in found] == [len(shingles) for shingles in plain]
    assert all((hashes[1:] > hashes[:-1]).all() for hashes in found)
    for one, other in zip(range(len(texts)), range(1, len(texts)), strict=False):
        assert len(np.intersect1d(found[one], found[other])) == len(plain[one] & plain[other])


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.lists(ANY_TEXT, max_size=5))
def test_a_text_has_its_signature_in_any_company(texts):
    """Pieces are cut by size: neighbours must not leak into a text's shingles."""
    np.testing.assert_array_equal(sign(texts), np.concatenate([sign([text]) for text in texts] or [sign([])]))


def test_long_texts_are_hashed_whole():
    """Blocks hold whole texts; one longer than a block, and those around it, are signed as alone."""
    rng = np.random.default_rng(0)
    texts = [random_text(rng, length, chinese=True) for length in (3, 70_000, 0, 66_000, 500)]
    np.testing.assert_array_equal(sign(texts), np.concatenate([sign([text]) for text in texts]))


@pytest.mark.parametrize("chinese", [False, True])
@pytest.mark.parametrize("length", [12, 60, 300, 4000])
def test_agreeing_bins_estimate_the_similarity(length, chinese):
    """An estimate that is off, for short texts above all, loses pairs or floods the comparison."""
    rng = np.random.default_rng(length)
    errors = []
    for _ in range(60):
        text = random_text(rng, length, chinese=chinese)
        at, cut = rng.integers(0, length, 2) // np.array([1, 5])
        other = text[:at] + random_text(rng, int(rng.integers(0, 4)), chinese=chinese) + text[at + cut :]
        one, two = plain_shingles(text), plain_shingles(other)
        agreeing = (sign([text]) == sign([other])).mean()
        errors.append(agreeing - len(one & two) / len(one | two))
    assert abs(np.mean(errors)) < 0.035
    assert np.std(errors) < 0.1


@pytest.mark.parametrize("chinese", [False, True])
def test_bins_are_used_evenly(chinese):
    """English and Chinese code points are small numbers in narrow ranges; their hashes must fill all bins alike."""
    rng = np.random.default_rng(1)
    found = sign([random_text(rng, SHINGLE, chinese=chinese) for _ in range(20_000)])
    counts = np.bincount(found[:, 0] >> 26, minlength=BINS)
    assert 0.75 * counts.mean() < counts.min() and counts.max() < 1.25 * counts.mean()
    assert len(np.unique(found[:, 0] & 0xFF)) == 256
    assert (sign([random_text(rng, 20_000, chinese=chinese)])[0] >> 26 == np.arange(BINS)).all()


@pytest.mark.parametrize("text", ["a", "ab", "abcd", "abcde", "好", "床前明月", "aaaaaaaaaa"])
def test_texts_of_one_shingle_have_full_signatures(text):
    """Every bin borrows from the only one that is filled; else they would agree with each other in nothing."""
    found = sign([text])[0]
    assert (found == found[0]).all() and found[0] != 0xFFFFFFFF


def test_only_texts_without_characters_are_empty():
    """Nothing is in no bin."""
    assert (sign(["", " \n"]) == 0xFFFFFFFF).all()


def test_band_keys_are_equal_where_all_bins_of_a_band_are():
    """A key is a bet on equality: never missed where it holds, and not won by chance."""
    rng = np.random.default_rng(2)
    found = rng.integers(0, 3, (400, BINS), np.uint32)
    chosen = bands(0.8)
    for keys, band in zip(band_keys(found, chosen), chosen, strict=True):
        _, by_key = np.unique(keys, return_inverse=True)
        _, by_bins = np.unique(found[:, list(band)], axis=0, return_inverse=True)
        same = by_bins.reshape(-1)[:, None] == by_bins.reshape(-1)
        np.testing.assert_array_equal(by_key[:, None] == by_key, same)
        assert same.sum() > len(found)


@pytest.mark.parametrize("threshold", [0.35, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 1.0])
def test_bands_find_pairs_at_the_threshold(threshold):
    """Independent bins that agree with this chance share a band in 99 of 100 pairs, though bands share bins."""
    agree = np.random.default_rng(3).random((20_000, BINS)) < threshold
    found = np.any([agree[:, list(band)].all(axis=1) for band in bands(threshold)], axis=0)
    assert found.mean() > 0.985
    assert all(len(set(band)) == len(band) for band in bands(threshold))


def test_signatures_are_the_same_on_every_machine():
    """Golden: pieces signed on another machine, or before an upgrade, are compared with these."""
    found = sign(["The quick brown fox jumps over the lazy dog.", "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"])
    assert found[:, :3].tolist() == [[3160353614, 1268249572, 324302613], [26968624, 4141687667, 276010505]]
    assert next(band_keys(found, bands(0.8))).tolist() == [9023061362882484582, 5075461911916469634]
