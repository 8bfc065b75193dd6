"""Repetition: what says the same again is found in any script, and no bound hides it from the exact count."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


def dirty_batch(seed: int, count: int) -> list[str]:
    """Texts from clean to fully repeated, in all ways of repeating, so that many are close to a limit."""
    draw = random.Random(seed)
    alphabet = "etaoinshrdlu    \n" + "的一是不了在人有我他" + "[]{}=-"
    texts = []
    for _ in range(count):
        fresh = ["".join(draw.choices(alphabet, k=draw.randint(1, 60))) for _ in range(draw.randint(1, 40))]
        pieces = [draw.choice(fresh[: draw.randint(1, len(fresh))]) for _ in range(draw.randint(1, 60))]
        glue = draw.choice(["\n", " ", "", "\n\n  "])
        texts.append(glue.join(pieces) + draw.choice(["", "=" * draw.randint(0, 200), "\n" * 20]))
    return texts


@pytest.mark.parametrize("rules", [RULES, STRICT], ids=["default", "strict"])
def test_bounds_clear_no_text_that_the_exact_count_drops(rules: CleanRules):
    """The bounds are there to be fast; the verdicts must be those of counting every text exactly."""
    texts = Texts([*dirty_batch(1, 400), "", "x", " \n "])
    exact = {i: dropped for i in range(len(texts)) if (dropped := verdict(texts, i, rules)) is not None}
    assert find_repetition(texts, rules) == exact
    assert 20 < len(exact) < len(texts) - 20


def test_the_exact_count_is_what_plain_counting_gives():
    """Against sets of strings, in the order in which the reasons are tried."""
    for text in dirty_batch(4, 150):
        packed = "".join(text.split())
        lines = ["".join(line.split()) for line in text.split("\n") if any(char.isalpha() for char in line)]
        runs = [packed[at : at + 32] for at in range(len(packed) - 31)]
        plain = None
        if len(packed) >= 64:
            if max(packed.count(char) for char in set(packed)) > 0.5 * len(packed):
                plain = "dominant_character"
            elif len(lines) >= 4 and 1 - sum(map(len, set(lines))) / sum(map(len, lines)) > 0.6:
                plain = "repeated_lines"
            elif 1 - len(set(runs)) / len(runs) > 0.6:
                plain = "repeated_runs"
        found = verdict(Texts([text]), 0, RULES)
        assert (found.reason if found else None) == plain


def test_bounds_clear_most_clean_texts():
    """A bound that clears nothing would be correct and useless."""
    draw = random.Random(2)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(2000)]
    texts = Texts([" ".join(draw.choices(words, k=200)) for _ in range(200)])
    assert len(suspects(texts, RULES)) <= 2


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
