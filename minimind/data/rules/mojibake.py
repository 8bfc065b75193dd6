"""`unicode`: text that was read in the wrong encoding is repaired where it can be, else dropped.

Three kinds of damage. UTF-8 read as a single-byte encoding (`Ã©`, `â€™`, `Ð¿`), also twice over, is ftfy's.
UTF-8 read as GBK, Big5, Shift-JIS or EUC-KR (`锛`, `銆`, `縺`) and GBK, Big5, Shift-JIS or EUC-KR read as
latin-1 (`ÖÐÎÄ`) are undone in `double_bytes`. What was lost on the way shows as U+FFFD; a text with more of it
than `max_broken_share` is dropped, whether the loss came with the text (`broken_characters`) or with the damage
(`mojibake`).

A text is repaired line by line, so only damaged lines change. Texts about encodings keep their short samples.
Which texts are looked at is decided by counts of characters: most have none that mojibake is made of.

Not here: width, quotes, ligatures, entities and normal form, which are style, not damage; a lone Â before a space,
once a no-break space; Cyrillic, Greek and others of one byte read as latin-1, which are dropped.
"""

import re
from functools import cache

import ftfy
import numpy as np
from ftfy import badness, chardata

from minimind.data.rules.characters import CharClass, c1_controls, misread_marks
from minimind.data.rules.double_bytes import (
    CP1252,
    HIGH_RUN,
    SINGLE,
    best_reading,
    of_double_bytes,
    of_high_bytes,
    wrong_encodings,
)
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Dropped, Outcomes, Texts

ABOUT_SHARE = 0.05
"""Of a text about encodings, what may be a sample of mojibake or of U+FFFD."""
_RUN = 4
"""A run of U+FFFD counts for this many at most: it is one place, often what a program printed."""


def repair_unicode(texts: Texts, settings: CleanRules) -> Outcomes:
    """The texts with mojibake, repaired, and those with too much that cannot be read."""
    outcomes: dict[int, Changed | Dropped] = {}
    for i in _suspects(texts):
        outcome = _judged(texts.texts[i], settings)
        if outcome is not None:
            outcomes[i] = outcome
    return outcomes


def _suspects(texts: Texts) -> list[int]:
    """The texts with characters that mojibake is made of."""
    if not len(texts):
        return []
    latin, cyrillic, other = (texts.count(kind) for kind in (CharClass.LATIN, CharClass.CYRILLIC, CharClass.OTHER))
    han, rare, hangul = (texts.count(kind) for kind in (CharClass.HAN, CharClass.RARE_HAN, CharClass.HANGUL))
    symbols = texts.count(CharClass.LATIN1, CharClass.QUOTE, CharClass.LETTER) + other
    sure = texts.count(CharClass.BROKEN) > 0
    sure |= texts.histogram[:, misread_marks()].sum(axis=1) > 0
    sure |= texts.histogram[:, c1_controls()].sum(axis=1) > 0
    sure |= (rare >= 3) & (rare > 0.22 * (han + rare))  # the rarest of 5,700 poems has 0.16
    sure |= (hangul > 3) & (han + rare > 3) & (han + rare > 0.1 * hangul)
    sure |= 2 * (latin + texts.count(CharClass.LATIN1)) > texts.lengths
    maybe = ((latin + cyrillic > 0) & (symbols > 0)) | (other > 1) | (cyrillic + latin > 8)
    looked_at = np.flatnonzero(sure | maybe).tolist()
    return [i for i in looked_at if sure[i] or _pair().search(texts.texts[i])]


def _judged(text: str, settings: CleanRules) -> Changed | Dropped | None:
    fixed = _repaired(text)
    share, limit = _broken(fixed) / max(1, len(fixed)), settings.max_broken_share
    if fixed != text or share > limit:
        sample = max(len(text) - len(fixed), _broken(text)) <= ABOUT_SHARE * len(text)
        if sample and _ABOUT.search(text):
            return None
    if share > limit:
        reason = "broken_characters" if fixed == text else "mojibake"
        return Dropped(reason, f"{share:.1%} cannot be read, max_broken_share is {limit}")
    if _is_beyond_repair(fixed):
        return Dropped("mojibake", "most letters are Latin with accents that stand together in no language")
    return Changed(fixed) if fixed != text else None


def _broken(text: str) -> int:
    """Characters that could not be read, but for those in quotes: they are spoken of."""
    if "\ufffd" not in text and "锟斤拷" not in text:
        return 0
    text = _QUOTED_BROKEN.sub("", text)
    broken = text.count("\ufffd")
    once_more = 2 * text.count("锟斤拷")  # two U+FFFD, written as UTF-8 and read as GBK
    if broken * 3 > len(text):
        return broken + once_more
    return broken - sum(len(run) - _RUN for run in _LONG_RUN.findall(text)) + once_more


def _is_beyond_repair(text: str) -> bool:
    """Whether text is accented letters and symbols side by side, as bytes look that no encoding can read."""
    high = len(_HIGH.findall(text))
    if high < 24 or high * 5 < 2 * len(text):  # Vietnamese has a third, French a tenth
        return False
    return badness.badness(text) * 10 > high or high > 4 * len(_ASCII_LETTER.findall(text))


def _repaired(text: str) -> str:
    """`text` repaired until there is nothing left to repair: damage may be double, or triple."""
    while True:
        fixed = _repaired_once(text)
        if _size(fixed) < _size(text):  # as every repair is, so this comes to an end
            text = fixed
        elif _C1.search(text) and _QUOTES_AS_C1.search(text) and not _OTHER_C1.search(text):
            text = text.translate(_cp1252())
        else:
            return text


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _repaired_once(text: str) -> str:
    wrong = wrong_encodings(text)
    whole = best_reading(text, wrong, lossless=True) or of_high_bytes(text)
    if whole is not None:
        return whole
    if not wrong and not HIGH_RUN.search(text) and not _pair().search(text):
        return text
    lines = text.split("\n")
    fixed = [_repaired_line(line, wrong) for line in lines]
    if fixed == lines:
        return text
    return "\n".join(_strictly_read(new) if new == old else new for old, new in zip(lines, fixed, strict=True))


def _repaired_line(line: str, wrong: list[str]) -> str:
    if line.isascii():
        return line
    line = of_high_bytes(line) or (of_double_bytes(line, wrong) if wrong else line)
    return _of_single_bytes(line) if _pair().search(line) else line


def _strictly_read(line: str) -> str:
    """A line beside damaged ones that ftfy did not dare to touch, repaired if all of it is UTF-8."""
    for wrong in () if line.isascii() else SINGLE:
        try:
            return line.encode(wrong).decode("utf-8")
        except UnicodeError:
            continue
    return line


def _of_single_bytes(line: str) -> str:
    """UTF-8 that was read as latin-1, windows-1252, cp437, mac-roman …: ftfy's work."""
    fixed, steps = ftfy.fix_encoding_and_explain(line, _ftfy_settings())
    if any(step.parameter == "windows-1252" and step.action == "decode" for step in steps or ()):
        return line  # C1 controls taken for quotes; whether they are is seen from the whole text
    return fixed


_HIGH = re.compile(f"[\x80-\xff{CP1252}]")
_ASCII_LETTER = re.compile("[A-Za-z]")
_LONG_RUN = re.compile("\ufffd" * (_RUN + 1) + "\ufffd*")
_QUOTED_BROKEN = re.compile("[\"'`“‘「『(（](?:\ufffd+|(?:锟斤拷)+)[\"'`”’」』)）]")
_QUOTES_AS_C1 = re.compile(
    "(?<=\\w)[\x92\x96\x97](?=\\w)|\x93[^\x93\x94]+\x94|\x91[^\x91\x92]+\x92|(?<=\\w )[\x96\x97](?= \\w)|\x95 "
)
_C1 = re.compile("[\x80-\x9f]")
_OTHER_C1 = re.compile("[\x81\x83\x86-\x8a\x8c-\x90\x98\x9a\x9c-\x9f]")
_ABOUT = re.compile(
    "mojibake|encod|utf-?8|unicode|charset|codec|latin-?1|乱码|亂碼|编码|編碼|字符集|文字化け", re.IGNORECASE
)


@cache
def _pair() -> re.Pattern[str]:
    """A leading byte of UTF-8 and a following one, as any of ftfy's encodings reads them."""
    leading, following = set[str](), set[str]()
    for encoding in chardata.CHARMAP_ENCODINGS:
        leading |= set(bytes(range(0xC2, 0xF5)).decode(encoding, "ignore"))
        following |= set(bytes(range(0x80, 0xC0)).decode(encoding, "ignore"))
    return re.compile(f"[{re.escape(''.join(sorted(leading)))}][{re.escape(''.join(sorted(following)))}]")


@cache
def _cp1252() -> dict[int, str]:
    """What latin-1 makes of the bytes 80 to 9F → what windows-1252 does."""
    return {code: bytes([code]).decode("sloppy-windows-1252") for code in range(0x80, 0xA0)}


@cache
def _ftfy_settings() -> ftfy.TextFixerConfig:
    """Of ftfy its work on encodings alone; C1 controls it would all read as windows-1252."""
    return ftfy.TextFixerConfig(unescape_html=False, fix_c1_controls=False, normalization=None, explain=True)
