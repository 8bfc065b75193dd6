"""Repetition: what says the same again is found in any script, and no bound hides it from the exact count."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.rules.length import LETTERS
from minimind.data.rules.repetition import find_repetition, suspects, verdict
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts

RULES = CleanRules()
STRICT = CleanRules(max_character_share=0.15, max_line_share=0.2, max_gram_share=0.2)
SETTLED = settings(deadline=None, derandomize=True)
POEM = "床前明月光，疑是地上霜。举头望明月，低头思故乡。"
SONG = "\n".join(
    f"{verse}\nRow, row, row your boat, gently down the stream,\nMerrily, merrily, merrily, life is but a dream."
    for verse in ("If you see a crocodile", "If you see a polar bear upon the icy shore", "If there is a waterfall")
)
CODE = "\n".join(
    f"    def get_{name}(self) -> int:\n        return self._{name}\n" for name in ["alpha", "beta", "gamma", "delta"]
)
TABLE = "\n".join(
    ["| name | size | price |", "|------|------|-------|", *(f"| item {i} | {i * 7} | {i * 13} |" for i in range(9))]
)
LOG = "\n".join(
    f"2024-05-0{day} 12:0{day}:1{day} INFO [worker-{day}] request handled in {day * 7} ms path=/api/items/{day * 13}"
    for day in range(1, 10)
)
PLAY = """ROMEO:\nAy me!\nJULIET:\nAy me!\nROMEO:\nShe speaks.\nNURSE:\nMadam!\nJULIET:\nI come, anon.
NURSE:\nMadam!\nJULIET:\nBy and by."""
TIMES = "\n".join(f"{a} × {b} = {a * b}" for a in range(1, 10) for b in range(1, 10))
CONTENTS = "\n".join(
    f"{n}. {title} {'.' * (60 - len(title))} {n * 7}"
    for n, title in enumerate(["Preface", "The first voyage", "Storm", "An island", "Home again", "Index"], 1)
)
CHINESE_CONTENTS = "\n".join(
    f"第{n}回　{title}{'…' * 20}{len(title) * 9}"
    for n, title in zip(
        "一二三四五六七八",
        ["灵根育孕", "悟彻菩提", "四海千山", "官封弼马", "乱蟠桃大圣", "观音赴会问", "八卦炉中", "五行山下"],
        strict=True,
    )
)
FORM = "\n".join(
    f"{field}: {'_' * 40}"
    for field in ["Full name", "Street and number", "Town", "Date of birth", "Place", "Signature"]
)
ANSWERS = "\n".join(f"{n}. {'True' if n % 3 else 'False'}" for n in range(1, 40))
MEASURED = "\n".join(f"{n * 17 % 23}.{n * 7 % 10} newtons" for n in range(100, 140))
HEARTBEATS = "\n".join(f"2024-05-01 12:{n:02}:07,{n * 37 % 1000:03} heartbeat ok" for n in range(40))
VERSES = """采采芣苢，薄言采之。采采芣苢，薄言有之。
采采芣苢，薄言掇之。采采芣苢，薄言捋之。
采采芣苢，薄言袺之。采采芣苢，薄言襭之。"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a" * 200, "dominant_character"),
        ("哈" * 100, "dominant_character"),
        ("=" * 80 + "\n" + "title " * 3, "dominant_character"),
        ("Subscribe to our newsletter!\n" * 20, "repeated_lines"),
        ("点击这里了解更多精彩内容。\n" * 20, "repeated_lines"),
        ("ok\nno\nok\nyes\nno\n" * 20, "repeated_lines"),
        ("buy cheap watches online now " * 30, "repeated_runs"),
        ("便宜的手表在线购买" * 30, "repeated_runs"),
        (("便宜的手表在线购买" + "今天天气很好，我们去公园散步吧。" * 3) * 200, "repeated_runs"),
        ("spam " * 100, "repeated_runs"),
        ("".join("buy  cheap watches" + "\n" * (n % 7 == n % 3) + " online " for n in range(60)), "repeated_runs"),
        ("".join(f"{n}. This is what we all have to say.\n" for n in range(1, 30)), "repeated_lines"),
        ("".join(f"（{n}）今天天气很好，我们去公园。\n" for n in range(1, 30)), "repeated_lines"),
        ("".join(f"{n}、{'- * •'[n % 5]} 点击查看更多精彩内容\n\n" for n in range(1, 30)), "repeated_lines"),
        ("Chapter 1 " + "." * 400 + " 12", "dominant_character"),
        ("这一段话被整段复制了很多遍，用来凑够字数，读者从第二遍起就什么也学不到了。\n\n" * 6, "repeated_lines"),
    ],
)
def test_repetition_is_found_in_both_scripts(text: str, reason: str):
    """Rules made for English words miss Chinese, which writes without spaces."""
    found = find_repetition(Texts([text]), RULES)
    assert isinstance(found[0], Dropped) and found[0].reason == reason
    assert "max_" in found[0].detail


@pytest.mark.parametrize(
    "text", [POEM, SONG, CODE, TABLE, LOG, PLAY, TIMES, VERSES, "哈哈哈哈哈哈", "a" * 63, "", " " * 500]
)
def test_refrains_code_tables_logs_and_plays_stay(text: str):
    """Repetition is a form of art, and of order."""
    assert find_repetition(Texts([text]), RULES) == {}


@pytest.mark.parametrize("text", [CONTENTS, CHINESE_CONTENTS, FORM, ANSWERS, MEASURED, HEARTBEATS])
def test_what_is_filled_with_dots_or_numbered_stays(text: str):
    """Contents and forms are mostly dots; in answers, figures and logs the number is what is said."""
    assert find_repetition(Texts([text]), RULES) == {}


def test_a_text_of_dots_with_a_few_words_is_found():
    """Dots are forgiven only where they fill up lines of words, and only if enough is left to judge."""
    for text in ("......\n" * 40 + "a word\n" * 4, "\n".join("abcd" + "." * 40 for _ in range(4))):
        assert find_repetition(Texts([text]), RULES)[0].reason == "dominant_character"


def dirty_batch(seed: int, count: int) -> list[str]:
    """Texts from clean to fully repeated, in all ways of repeating, so that many are close to a limit."""
    draw = random.Random(seed)
    alphabet = "etaoinshrdlu    \n" + "的一是不了在人有我他" + "[]{}=-"
    texts = []
    for _ in range(count):
        fresh = ["".join(draw.choices(alphabet, k=draw.randint(1, 60))) for _ in range(draw.randint(1, 40))]
        pieces = [draw.choice(fresh[: draw.randint(1, len(fresh))]) for _ in range(draw.randint(1, 60))]
        glue = draw.choice(["\n", " ", "", "\n\n  "])
        if draw.random() < 0.3:
            pieces = [
                f"{draw.choice(['', '(', '- '])}{n}{draw.choice('.、)')}{piece}" for n, piece in enumerate(pieces)
            ]
        if draw.random() < 0.2:
            pieces = [piece + "." * draw.randint(0, 60) for piece in pieces]
        texts.append(glue.join(pieces) + draw.choice(["", "=" * draw.randint(0, 200), "\n" * 20]))
    return texts


@pytest.mark.parametrize("rules", [RULES, STRICT], ids=["default", "strict"])
def test_bounds_clear_no_text_that_the_exact_count_drops(rules: CleanRules):
    """The bounds are there to be fast; the verdicts must be those of counting every text exactly."""
    texts = Texts([*dirty_batch(1, 400), "", "x", " \n "])
    exact = {i: dropped for i in range(len(texts)) if (dropped := verdict(texts, i, rules)) is not None}
    assert find_repetition(texts, rules) == exact
    assert 20 < len(exact) < len(texts) - 20


def plain_verdict(text: str) -> str | None:
    """By strings, sets and a regular expression, in the order in which the reasons are tried."""
    packed = "".join(text.split())
    if len(packed) < 64:
        return None
    lines = [line for line in ("".join(line.split()) for line in text.split("\n")) if line]
    said = [(line, re.sub(r"^[\W\d_]*", "", line)) for line in lines if any(char.isalpha() for char in line)]
    views = [packed]
    shorter = re.sub(r"([.…\-_=·])\1\1+", r"\1", packed)
    if len(said) >= 4 and len(said) > len(lines) / 2 and len(shorter) >= 64:
        views.append(shorter)
    if all(max(view.count(char) for char in set(view)) > 0.5 * len(view) for view in views):
        return "dominant_character"
    repeated = 0
    for at, (line, rest) in enumerate(said):
        if line in [earlier for earlier, _ in said[:at]]:
            repeated += len(line)
        elif len(rest) >= 8 and rest in [earlier for _, earlier in said[:at]]:
            repeated += len(rest)
    if len(said) >= 4 and repeated > 0.6 * sum(len(line) for line, _ in said):
        return "repeated_lines"
    runs = [[view[at : at + 32] for at in range(len(view) - 31)] for view in views]
    return "repeated_runs" if all(1 - len(set(some)) / len(some) > 0.6 for some in runs) else None


def test_the_exact_count_is_what_plain_counting_gives():
    """The arrays of code points must say what anybody would count."""
    for text in dirty_batch(4, 200):
        found = verdict(Texts([text]), 0, RULES)
        assert (found.reason if found else None) == plain_verdict(text)


def test_kinds_of_letters_stand_side_by_side():
    """Letters are told from the rest by two comparisons; a class between them that has none would be taken for one."""
    assert sorted(LETTERS) == list(range(min(LETTERS), max(LETTERS) + 1))


def test_bounds_clear_most_clean_texts():
    """A bound that clears nothing would be correct and useless."""
    draw = random.Random(2)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(2000)]
    texts = Texts([" ".join(draw.choices(words, k=200)) for _ in range(200)])
    assert len(suspects(texts, RULES)) <= 2


@SETTLED
@given(
    st.lists(st.text("aA1.é的龘のк가λ \u200b\n", min_size=1, max_size=45), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["", " ", "\n", "\n2. ", "。"])), max_size=60),
    st.sampled_from([RULES, STRICT]),
)
def test_bounds_hide_nothing_in_any_script(fresh: list[str], order: list[tuple[int, str]], rules: CleanRules):
    """Bounds look at few characters, by kinds; what they clear must be kept by the exact count, whatever is there."""
    text = "".join(fresh[at % len(fresh)] + glue for at, glue in order)
    texts = Texts(["some text before", text, text[: len(text) // 2], "and behind"])
    exact = {i: dropped for i in range(len(texts)) if (dropped := verdict(texts, i, rules)) is not None}
    assert find_repetition(texts, rules) == exact


@pytest.mark.parametrize(
    "letters",
    [
        "abcdefghijklmnopqrstuvwxyz",
        "абвгдежзийклмнопрстуфхцчшщыя",
        "αβγδεζηθικλμνξοπρστυφχψω",
        "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
        "กขคงจชซญดตถทธนบปผพฟมยรลวสหอ",
        "あいうえおかきくけこさしすせそたちつてと",
        "한국어의글자는소리를따라만든것이다",
        "0123456789",
        "ACGT",
    ],
)
def test_bounds_clear_clean_texts_of_every_script(letters: str):
    """A script without anchors would have every text counted exactly: right, but ten times as slow."""
    draw = random.Random(5)
    texts = Texts(["".join(draw.choices(letters, k=600)) for _ in range(100)])
    assert len(suspects(texts, RULES)) <= 5


@SETTLED
@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=()), max_size=40), st.integers(0, 20)), max_size=4))
def test_any_text_is_judged_alone(parts: list[tuple[str, int]]):
    """No crash on any Unicode, and no verdict that depends on the other texts of a batch."""
    texts = [text * times for text, times in parts]
    together = find_repetition(Texts(texts), RULES)
    alone = {i: found[0] for i, text in enumerate(texts) if (found := find_repetition(Texts([text]), RULES))}
    assert together == alone


def test_texts_longer_than_a_slice_are_judged_whole():
    """Batches are hashed in slices of 32,768 characters; one text may be longer than that."""
    draw = np.random.default_rng(3)
    page = "".join(map(chr, draw.integers(0x4E00, 0x5E00, 30_000).tolist()))
    texts = Texts([page * 4, page + page[::-1], "short"])
    assert list(find_repetition(texts, RULES)) == [0]
