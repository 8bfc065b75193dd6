"""`gibberish`: texts that are mostly no language: random letters, mashed keys, base64 and hex, random Han, symbols.

Letters are judged in pairs: how much more often a pair stands in text of the Latin script than by chance. The
tables are means over the Universal Declaration of Human Rights in 402 languages and English prose, so Polish,
Welsh and Zulu pass like English; so do code, LaTeX and lists of names, because identifiers are made of words. Han
are judged by how frequent and how rare they are, which needs no words either; a poem differs from random
characters as much as prose. Of other scripts only this is known: random letters are all equally frequent.

A text is dropped when most of it is gibberish, so documents with a key, a hash or a piece of ASCII art stay.
Addresses are not looked at: pages of documentation have longer ones than sentences, with all their code inside.
Proteins and keys of other kinds count as gibberish when a text is nothing else; DNA, chess games and digits stay.
Sentences of real words without sense are not found, nor keys mashed within the upper row, which has the vowels.

Not here: one thing said again and again (`repetition`); text in a wrong encoding (`mojibake`).
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import cache

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import CharClass, class_table, frequent_han, kinds_of, rare_hangul
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Outcomes, Texts

LEAST_PAIRS = 24
"""Pairs of letters below which nothing is said: with so few, one random text in six looks like language."""
WINDOW = 96
"""Pairs that are judged together: random ones have -1.5 ± 0.24 bits, languages 0.2 to 2."""
RANDOM_BITS = -0.75
"""Mean bits below which a window is random, less 8 / pairs; of all windows in 402 languages the lowest has -0.4."""
MOST = 0.5
"""The share of a text that must be gibberish."""
_SUSPICIOUS_BITS = 0.05
"""Mean bits of single letters below which pairs are looked at: prose has 0.3 to 0.6, base64 -0.5."""
_HAN_NATURAL = (0.42, 0.46, 0.12)
"""Shares of frequent, other everyday and rare characters in poetry of the Tang and Song; prose is farther off."""
_HAN_RANDOM = ((0.127, 0.872, 0.001), (0.07, 0.63, 0.3), (0.024, 0.31, 0.666))
"""The same for random characters of GB 2312 level 1, all of GB 2312, and Unicode's first block."""
_HAN_BITS = (60.0, 40.0, 25.0)
"""Bits by which a text must be more likely random: the oddest of 5,700 poems have 37, 23 and 0."""
_HAN_BITS_EACH = 0.25
"""And on average for each character, so that an odd book is not dropped for its length."""


def find_gibberish(texts: Texts, settings: CleanRules) -> Outcomes:
    """The texts that are mostly gibberish, and of which kind."""
    if not len(texts):
        return {}
    found: dict[int, Dropped] = {}
    visible = texts.lengths - texts.count(CharClass.SPACE, CharClass.NEWLINE, CharClass.HIDDEN)
    for judge in (_unassigned, _random_han, _hex, _symbols, _random_letters, _random_script):
        for i, dropped in judge(texts, visible).items():
            found.setdefault(i, dropped)
    return found


def _unassigned(texts: Texts, visible: npt.NDArray[np.int64]) -> dict[int, Dropped]:
    """Code points that are no characters, or syllables nobody writes: random numbers, not text."""
    strange = texts.count(CharClass.PRIVATE) + texts.histogram[:, rare_hangul()].sum(axis=1)
    share = strange / np.maximum(1, visible)
    hits = np.flatnonzero((strange >= 8) & (share > 0.2))  # fonts of icons put a private character before a label
    return {i: Dropped("random_characters", f"{share[i]:.0%} are no characters of any language") for i in hits.tolist()}


def _random_han(texts: Texts, visible: npt.NDArray[np.int64]) -> dict[int, Dropped]:
    """Texts whose Han are as frequent and as rare as characters by chance, not as in prose or poetry."""
    everyday, rare = texts.count(CharClass.HAN), texts.count(CharClass.RARE_HAN)
    mostly_han = np.flatnonzero(everyday + rare > MOST * visible)
    frequent = texts.histogram[mostly_han, frequent_han()].sum(axis=1)
    seen = np.stack((frequent, everyday[mostly_han] - frequent, rare[mostly_han]), axis=1)
    bits = seen @ np.log2(np.array(_HAN_RANDOM) / np.array(_HAN_NATURAL)).T
    likely = (bits > np.array(_HAN_BITS)) & (bits > _HAN_BITS_EACH * seen.sum(axis=1)[:, None])
    found: dict[int, Dropped] = {}
    for at in np.flatnonzero(likely.any(axis=1)).tolist():
        i = int(mostly_han[at])
        if texts.histogram[i, kinds_of(CharClass.HAN)].max() < MOST * visible[i]:  # 哈哈哈 is repetition
            said = f"of {seen[at].sum()} Han {frequent[at]} are frequent and {rare[i]} rare"
            found[i] = Dropped("random_han", said)
    return found


def _hex(texts: Texts, visible: npt.NDArray[np.int64]) -> dict[int, Dropped]:
    """Bytes written as hexadecimal numbers and nothing else: no letter but a-f (and the x of 0x), many digits."""
    found: dict[int, Dropped] = {}
    digits = texts.count(CharClass.DIGIT)
    for i in np.flatnonzero((digits > 24) & (digits > 0.23 * visible)).tolist():  # what the conditions below imply
        letters = _latin(texts, i)
        a_to_f = letters[:6].sum()
        others = letters.sum() - a_to_f - letters[ord("x") - ord("a")]
        written = a_to_f + digits[i]
        if written < 64 or others > 0.05 * written or written <= 0.6 * visible[i]:
            continue
        if 0.15 * written < a_to_f < 0.6 * written:  # of random ones 37 % are letters; in tables 0
            found[i] = Dropped("hex_dump", f"{written / visible[i]:.0%} are hexadecimal digits")
    return found


def _symbols(texts: Texts, visible: npt.NDArray[np.int64]) -> dict[int, Dropped]:
    """ASCII symbols without order. Drawings and tables are made of a few, and of many side by side."""
    found: dict[int, Dropped] = {}
    symbols = texts.count(CharClass.PUNCTUATION, CharClass.LESS_THAN, CharClass.AT, CharClass.LATIN1)
    for i in np.flatnonzero((symbols >= 40) & (symbols > 0.8 * visible)).tolist():
        kinds = texts.histogram[i, kinds_of(CharClass.PUNCTUATION)]
        if (kinds / symbols[i]).max() >= 0.25 or np.count_nonzero(kinds) < 8:
            continue
        codes = texts.codes[texts.offsets[i] : texts.offsets[i + 1]]
        if np.mean(codes[1:] == codes[:-1]) < 0.15:  # 0.03 to 0.1 by chance; a third in shaded drawings
            found[i] = Dropped("symbol_soup", f"{symbols[i] / visible[i]:.0%} are symbols in no order")
    return found


def _random_letters(texts: Texts, visible: npt.NDArray[np.int64]) -> dict[int, Dropped]:
    """Texts whose Latin letters stand together as by chance: keys, base64, random words."""
    latin, others = texts.count(CharClass.LOWER, CharClass.UPPER), texts.count(*_OTHER_LETTERS)
    is_latin = (latin > MOST * (latin + others)) & (latin + texts.count(CharClass.DIGIT) > MOST * visible)
    mostly_latin = np.flatnonzero(is_latin & (latin > LEAST_PAIRS))
    odd = _latin(texts, mostly_latin) @ np.array(_LETTER_BITS) < _SUSPICIOUS_BITS * latin[mostly_latin]
    found: dict[int, Dropped] = {}
    for i in mostly_latin[odd].tolist():
        share, pairs = random_share(texts.texts[i])
        if share > MOST and pairs > MOST * (pairs + others[i]):  # addresses are not in `pairs`
            found[i] = Dropped("random_letters", f"{share:.0%} of {pairs} pairs of letters stand together as by chance")
    return found


def random_share(text: str) -> tuple[float, int]:
    """The share of pairs of letters that are in windows of random ones, and how many pairs there are.

    It must be so of the text and of its different words: few names of registers do not decide on pages of
    assembler, nor the larger vocabulary of random words on the prose beside them.
    """
    text = text.lower()
    if "http" in text:
        text = _ADDRESS.sub(" ", text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text)
        for mark in filter(unicodedata.combining, set(text)):
            text = text.replace(mark, "")
    words = _WORD.findall(text)
    share, pairs = _share_of_words(words)
    if share > MOST:
        share = min(share, _share_of_words(dict.fromkeys(words))[0])
    return share, pairs


def _share_of_words(words: Iterable[str]) -> tuple[float, int]:
    symbols = _symbol_table()[np.frombuffer(" ".join(words).encode(), np.uint8)]
    scores = _pair_bits().take(symbols[:-1] * np.uint16(_SYMBOLS) + symbols[1:])
    scores = scores[~np.isnan(scores)]
    if len(scores) < LEAST_PAIRS:
        return 0.0, len(scores)
    starts = np.arange(max(1, len(scores) // WINDOW)) * WINDOW
    sizes = np.diff(starts, append=len(scores))
    bits = np.add.reduceat(scores, starts) / sizes
    is_random = bits < RANDOM_BITS - 8 / sizes  # fewer pairs must be worse
    return float(sizes[is_random].sum() / len(scores)), len(scores)


def _random_script(texts: Texts, visible: npt.NDArray[np.int64]) -> dict[int, Dropped]:
    """Texts of another alphabet or of kana whose letters are all equally frequent, as in no language."""
    of_script = texts.count(*_SCRIPTS)
    found: dict[int, Dropped] = {}
    for i in np.flatnonzero((of_script >= 120) & (of_script > MOST * visible)).tolist():
        codes = texts.codes[texts.offsets[i] : texts.offsets[i + 1]]
        evenness = _evenness(codes[np.isin(class_table()[codes], _SCRIPTS)])
        if evenness < 1.25:
            found[i] = Dropped("random_script", f"letters meet {evenness:.2f} times as often as by chance")
    return found


def _evenness(codes: npt.NDArray[np.uint32]) -> float:
    """How much more often two letters of the text are the same than if all that occur were equally frequent."""
    counts = np.unique(codes, return_counts=True)[1]
    total = counts.sum()
    return float((counts * (counts - 1)).sum() / (total * (total - 1)) * len(counts))


def _latin(texts: Texts, which: int | npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Letters a to z in one text or in each of some, capitals with the small ones: 26 numbers, or (len, 26)."""
    return texts.histogram[which, kinds_of(CharClass.LOWER)] + texts.histogram[which, kinds_of(CharClass.UPPER)]


_OTHER_LETTERS = (
    CharClass.HAN,
    CharClass.RARE_HAN,
    CharClass.KANA,
    CharClass.HANGUL,
    CharClass.CYRILLIC,
    CharClass.LETTER,
)
_SCRIPTS = (CharClass.CYRILLIC, CharClass.LETTER, CharClass.KANA)
_WORD = re.compile(r"[a-z0-9]{4,}")  # shorter ones are mostly abbreviations, registers, units
_ADDRESS = re.compile(r"\bhttps?://[^\s<>\"]+")
_DIGIT, _SPACE, _SYMBOLS = 26, 27, 28


@cache
def _symbol_table() -> npt.NDArray[np.uint8]:
    """ASCII to 0-25 for small letters, _DIGIT, _SPACE."""
    table = np.full(128, _SPACE, np.uint8)
    table[ord("a") : ord("z") + 1] = np.arange(26)
    table[ord("0") : ord("9") + 1] = _DIGIT
    return table


@cache
def _pair_bits() -> npt.NDArray[np.float32]:
    """log2 of how much more frequent a pair is in language than by chance; nan where a pair says nothing."""
    table = np.full((_SYMBOLS, _SYMBOLS), np.nan, np.float32)
    table[:26, :26] = np.array([[int(digit) for digit in row] for row in _PAIRS.split()]) - 6
    table[:26, _DIGIT] = table[_DIGIT, :26] = -1  # words seldom have digits within; two digits say nothing
    return table


_LETTER_BITS = (
    1.9,
    -1.0,
    -0.8,
    -0.3,
    1.3,
    -1.7,
    -0.8,
    -0.3,
    1.2,
    -1.9,
    -0.3,
    0.1,
    -0.2,
    1.1,
    0.6,
    -0.9,
    -3.1,
    0.2,
    0.3,
    0.7,
    0.4,
    -2.0,
    -1.4,
    -3.1,
    -0.9,
    -2.7,
)
"""log2 of 26 times the frequency of a to z, from the same texts as the pairs."""
_PAIRS = (
    # A row for each first letter, a digit for each second one: 6 + log2(676 × frequency), rounded. The frequency is
    # the mean of 402 languages and the fourth highest of them, two parts each, English, one part, and 2e-5 for what
    # was never seen. The fourth highest is what makes room for digraphs as of Polish and Welsh.
    "87776577878989677989767675 84228013742622710532725151 82426008715623721436713043 "
    "82168126853434710652735066 76777666767879565988666665 72226414612313710534604243 "
    "86247456735525731554735453 82348123834545744536734251 87777776767879765788665676 "
    "72327013744245631235613140 92337146845534760355836161 83258345844744833155735162 "
    "97248343733454761344735041 95788696866557754678855575 66675765667779765877866555 "
    "81217315722622750745625150 61124003513432533124701010 84459454845555733667744253 "
    "83638337836544765368755062 93439259944644842776844265 76667565756778665777655555 "
    "73137113631324611432633243 82127116723424720343612021 62325022633322540135523333 "
    "82447333714446753445623242 62146025612223520123534043 "
)
