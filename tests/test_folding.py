"""Folding says which texts are the same: what it drops must never matter, and what it keeps must."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.deduplication import folding
from minimind.data.deduplication.folding import blocks, content_keys, fold, fold_table
from minimind.data.rules.texts import Texts

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
"""Lone surrogates, NUL, unassigned and private characters too."""
AWKWARD = st.text(
    "aÅe´ \u0301\u030a\u0323\u200b\r\n\u3000ｶﾞハﾟ\u1100\u1161\u11a8가ㅏﬁ¼…Ａİß\ud800\U0010ffff", max_size=12
)


def folded(text: str) -> str:
    """One text, folded between two others that must not touch it."""
    found = fold(Texts([" before ", text, "\tafter"]))
    assert (found.text(0), found.text(2)) == ("before", "after")
    return found.text(1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The  Quick\tFox\r\n\r\njumps ", "the quick fox jumps"),
        ("ＡＢＣ，１２３！　好", "abc,123! 好"),
        ("春眠不觉晓，\r\n处处闻啼鸟。\n", "春眠不觉晓， 处处闻啼鸟。"),
        ("cafe\u0301", "CAFÉ"),
        ("ｶﾞｷﾞ", "ガギ"),
        ("\u1112\u1161\u11ab", "한"),
        ("ef\u200bfi\u00adcient\ufeff", "efficient"),
        ("eﬃcient ㎏", "efficient kg"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("“Don’t” – he said—‘no’", "\"Don't\" - he said-'no'"),
        ("“好”——他说", '"好"--他说'),
        ("ef\u3164fi\u115fci\u1160en\uffa0t", "efficient"),
        ("a\u2028b\u0085c\u00a0d", "a b c d"),
    ],
)
def test_what_does_not_count_is_folded_away(one, other):
    """Copies of a text come with other case, width, line ends, accents and invisible characters."""
    assert folded(one) == folded(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("a b", "ab"), ("1.5", "15"), ("e", "é"), ("买", "賣"), ("a.", "a,"), ("你好", "您好"), ("x", "")],
)
def test_what_counts_is_kept_apart(one, other):
    """Texts called equal lose all but one: letters, signs and borders of words must tell them apart."""
    assert folded(one) != folded(other)


def test_white_space_is_one_space_between_words_and_none_outside():
    """Every mixture of runs, at both ends, next to empty texts and to texts of white space alone."""
    texts = ["", " ", "  a", "a  ", " \t a \n\r b  ", "\n\n", "", "a", "  "]
    found = fold(Texts(texts))
    assert [found.text(i) for i in range(len(texts))] == [" ".join(text.split()) for text in texts]


@settings(deadline=None, derandomize=True, max_examples=300)
@given(ANY_TEXT | AWKWARD)
def test_folding_twice_is_folding_once(text):
    """Else equal texts could have two keys, depending on who folded before."""
    once = folded(text)
    assert folded(once) == once


@settings(deadline=None, derandomize=True, max_examples=300)
@given(st.lists(ANY_TEXT | AWKWARD, max_size=6))
def test_a_text_folds_the_same_among_others(texts):
    """Batches are cut by size; a text's key must not depend on its neighbours."""
    together = fold(Texts(texts))
    assert [together.text(i) for i in range(len(texts))] == [folded(text) for text in texts]


@settings(deadline=None, derandomize=True)
@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=30))
def test_composed_and_decomposed_text_fold_alike(text):
    """macOS writes e and an accent where others write é."""
    assert folded(unicodedata.normalize("NFD", text)) == folded(unicodedata.normalize("NFC", text))


def test_the_table_skips_no_character_that_folds():
    """The ranges that are not looked at must hold nothing with case, compatibility form or white space."""
    table = fold_table()
    skipped = set(range(0x110000)) - set(folding._foldable())
    for code in skipped:
        char = chr(code)
        assert table[code] == code
        if unicodedata.category(char) not in ("Cn", "Co", "Cs"):
            assert unicodedata.normalize("NFKC", char) == char == char.casefold(), hex(code)
            assert not char.isspace() and unicodedata.category(char)[0] not in "MC", hex(code)


def test_blocks_change_nothing():
    """A block holds whole texts; how many is a matter of speed alone."""
    texts = Texts(["Aé " * n + "e\u0301" * (n % 3) for n in range(60)])
    whole = fold(texts)
    cut = fold(texts, block=50)
    np.testing.assert_array_equal(cut.codes, whole.codes)
    np.testing.assert_array_equal(cut.offsets, whole.offsets)
    assert list(blocks(np.array([0, 0, 30, 60, 200, 201]), 50)) == [(0, 2), (2, 3), (3, 4), (4, 5)]


def test_texts_that_grow_in_folding_keep_their_borders():
    """One character can become eighteen (U+FDFA); the codes are then more than came in."""
    found = fold(Texts(["\ufdfa" * 40, "b", "\ufdfa"]))
    assert found.text(0) == unicodedata.normalize("NFKC", "\ufdfa") * 40
    assert (found.text(1), found.text(2)) == ("b", unicodedata.normalize("NFKC", "\ufdfa"))


def test_keys_are_equal_where_folded_texts_are():
    """128 bits of the folded text: no more and no less than equality."""
    keys = content_keys(fold(Texts(["A b", " a  B\r\n", "ab", "", "  ", "ａ　ｂ"])))
    assert keys.shape == (6, 2) and keys.dtype == np.uint64
    same = (keys[:, None] == keys[None]).all(axis=2)
    groups = [0, 0, 1, 2, 2, 0]
    assert same.tolist() == [[a == b for b in groups] for a in groups]


def test_keys_are_the_same_on_every_machine():
    """Golden: keys of pieces made elsewhere, or before an upgrade, must still match."""
    assert content_keys(fold(Texts(["Hello, 世界"]))).tolist() == [[1332559148446517572, 8286408879900363108]]


def test_no_texts_have_no_keys():
    """An empty piece is a piece."""
    nothing = fold(Texts([]))
    assert len(nothing) == 0 and content_keys(nothing).shape == (0, 2)
