"""A batch of texts: its characters end to end, and the tables that say what each of them is."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules.characters import (
    CharClass,
    c1_controls,
    categories,
    class_table,
    first_kinds,
    frequent_han,
    kind_table,
    kinds_of,
    misread_marks,
    rare_hangul,
)
from minimind.data.rules.texts import KINDS, Texts

SETTLED = settings(deadline=None, derandomize=True)
ANY = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates and NUL too


def class_of(char: str) -> CharClass:
    return CharClass(int(class_table()[ord(char)]))


@SETTLED
@given(st.lists(ANY, max_size=8))
def test_counts_are_what_looking_at_each_character_gives(texts: list[str]):
    """All rules decide by these counts; the fast way must not differ from the plain one."""
    batch = Texts(texts)
    plain = np.zeros((len(texts), len(CharClass)), np.int64)
    for row, text in enumerate(texts):
        for char in text:
            plain[row, class_of(char)] += 1
    assert np.array_equal(batch.counts, plain)
    assert batch.lengths.tolist() == [len(text) for text in texts]
    assert batch.histogram.sum() == sum(map(len, texts))


@SETTLED
@given(st.lists(ANY, min_size=1, max_size=8), st.lists(ANY, max_size=200))
def test_counts_of_a_text_do_not_depend_on_its_batch(texts: list[str], others: list[str]):
    """Or the output would depend on how rows are cut into batches, that is on the number of workers."""
    together = Texts([*others, *texts])
    assert np.array_equal(together.counts[len(others) :], Texts(texts).counts)


@SETTLED
@given(st.lists(ANY, max_size=5))
def test_code_points_come_back_as_the_texts(texts: list[str]):
    """Rules cut texts out of the codes by the offsets."""
    batch = Texts(texts)
    parts = [batch.codes[a:b] for a, b in zip(batch.offsets[:-1], batch.offsets[1:], strict=True)]
    assert ["".join(map(chr, part.tolist())) for part in parts] == texts


def test_every_kind_belongs_to_one_class():
    """A kind divides a class: counts by class are sums of counts by kind."""
    owners = np.searchsorted(first_kinds(), kind_table(), side="right") - 1
    assert np.array_equal(owners, class_table())
    assert int(kind_table().max()) < KINDS


def test_tables_agree_with_what_unicode_says_of_each_character():
    """Blocks whose category is settled are not asked for one by one, and names only where Latin letters are."""
    asked = "".join(map(unicodedata.category, map(chr, range(0x30000))))
    assert categories().tobytes().decode() == asked
    latin = {code for code in range(0xC0, 0x1F00) if unicodedata.name(chr(code), "").startswith("LATIN")}
    assert set(np.flatnonzero(class_table() == CharClass.LATIN).tolist()) == latin


@pytest.mark.parametrize(
    ("characters", "kind"),
    [
        ("\u3000 \t\u00a0", CharClass.SPACE),
        ("\n", CharClass.NEWLINE),
        ("\r\x00\x1b\x85\u200b\u202e\ufeff\u2028\u00ad\u115f\u1160\u3164\uffa0\U000e0041\U0001fffe", CharClass.HIDDEN),
        ("\u200d\u200c\u200f", CharClass.OTHER),
        ("07٣７", CharClass.DIGIT),
        ("az", CharClass.LOWER),
        ("AZ", CharClass.UPPER),
        ("éßőĐế", CharClass.LATIN),
        ("的國国", CharClass.HAN),
        ("龘々𠀀", CharClass.RARE_HAN),
        ("のカｶー", CharClass.KANA),
        ("한ㅋ", CharClass.HANGUL),
        ("Яё", CharClass.CYRILLIC),
        ("λعไ", CharClass.LETTER),
        ("!&~", CharClass.PUNCTUATION),
        ("，《Ａ！", CharClass.WIDE),
        ("\ufffd", CharClass.BROKEN),
        ("\ue000\ud800\U00030000", CharClass.PRIVATE),
        ("¿×÷°", CharClass.LATIN1),
        ("“’—…€™", CharClass.QUOTE),
        ("<", CharClass.LESS_THAN),
        ("@", CharClass.AT),
        ("→─😀∑", CharClass.OTHER),
    ],
)
def test_classes_of_well_known_characters(characters: str, kind: CharClass):
    """The classes are what every rule talks of."""
    assert {class_of(char) for char in characters} == {kind}


def test_kinds_that_rules_look_for():
    """Letters in their order, capitals of Cyrillic with their small letters, and the groups with a name."""
    kinds = kind_table()
    assert [int(kinds[ord(char)]) for char in "az"] == [
        kinds_of(CharClass.LOWER).start,
        kinds_of(CharClass.LOWER).stop - 1,
    ]
    assert kinds[ord("Ж")] == kinds[ord("ж")]

    def within(characters: str, group: slice) -> set[bool]:
        return {group.start <= kinds[ord(char)] < group.stop for char in characters}

    assert within("\x80\x9f", c1_controls()) == {True} and within("\x00\u200b", c1_controls()) == {False}
    assert within("的不一國", frequent_han()) == {True} and within("鑫巍龘", frequent_han()) == {False}
    assert within("锛銆鈥锟縺繧", misread_marks()) == {True} and within("鎌鑫", misread_marks()) == {False}
    assert within("뷁햏", rare_hangul()) == {True} and within("한국어의", rare_hangul()) == {False}


def test_empty_batches_and_texts_count_nothing():
    """The last batch of a file may be anything."""
    assert Texts([]).counts.shape == (0, len(CharClass))
    assert Texts([]).having(CharClass.HAN) == []
    assert Texts(["", "好", ""]).count(CharClass.HAN).tolist() == [0, 1, 0]
