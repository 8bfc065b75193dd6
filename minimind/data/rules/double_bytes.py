"""Text of two-byte encodings gone wrong: UTF-8 read as GBK and the like, and GBK and the like read as latin-1.

Both are undone the same way: the text is written in the encoding it was wrongly read in, and the bytes must read
well in the right one. GBK (as GB18030), Big5 (with HKSCS), Shift-JIS and EUC-KR have so many pairs of bytes that
nearly any UTF-8 can be read in them, and most of what comes out is rare Han; natural text is hardly ever valid
UTF-8 the other way round. What was lost on the way becomes U+FFFD.

Not here: which texts to look at, and how much loss is too much (`mojibake`).
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import (
    CharClass,
    class_table,
    first_kinds,
    frequent_han,
    kind_table,
    misread_marks,
    rare_hangul,
)
from minimind.data.rules.texts import KINDS

SINGLE = ("latin-1", "sloppy-windows-1252")
"""The encodings in which other bytes are mostly read by mistake; ftfy's windows-1252 keeps undefined bytes."""
CP1252 = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"
"""What windows-1252 has for the bytes 80 to 9F."""
_READ_WELL = 0.5
"""Of the bytes that are not ASCII, what must be in good UTF-8 before a lossy line is taken for mojibake."""
_LEAST_HAN = 4
"""Characters that must come out of a damaged piece without other signs: half of random ones are rare Han."""
_FREQUENT = 0.15
"""Of Han that came out, what must be among the 500 most frequent: prose has 0.4 and more, other bytes 0.05."""


def of_high_bytes(line: str) -> str | None:
    """GBK, Big5, Shift-JIS or EUC-KR that was read as latin-1 or windows-1252; None if it was not."""
    if not HIGH_RUN.search(line):
        return None
    readings = [read for wrong in SINGLE for read in _read_as(line, wrong)]
    return max(readings, key=_frequent_share, default=None)


def _read_as(line: str, wrong: str) -> Iterator[str]:
    """What the line may have been in each encoding, if its bytes were read as `wrong`; nothing if it was UTF-8."""
    try:
        raw = line.encode(wrong)
        raw.decode("utf-8")
    except UnicodeEncodeError:
        return
    except UnicodeDecodeError:
        for codec in (*_CODECS, "euc_jp"):
            read = raw.decode(codec, "ignore")
            if len(read.encode(codec, "ignore")) == len(raw) and _reads_well(read):
                yield read


def wrong_encodings(text: str) -> list[str]:
    """The encodings in which `text` looks most like UTF-8 of Chinese and the like: none, of almost all texts."""
    kinds = _histogram(_codes(text))
    counts = _by_class(kinds)
    han, rare, hangul = (counts[kind] for kind in (CharClass.HAN, CharClass.RARE_HAN, CharClass.HANGUL))
    high = sum(counts[kind] for kind in (CharClass.LATIN, CharClass.LATIN1, CharClass.QUOTE))
    codecs = SINGLE if 10 * high > 3 * len(text) else ()  # three bytes are a letter and two symbols or controls
    if rare >= 3 or kinds[misread_marks()].any() or min(hangul, han + rare) >= 3:
        codecs += _CODECS
    signs = {codec: len(_UTF8_BYTES.findall(text.encode(codec, "ignore"))) for codec in codecs}
    return [codec for codec, count in signs.items() if count and 2 * count >= max(signs.values())]


def of_double_bytes(line: str, wrong: list[str]) -> str:
    """UTF-8 that was read as GBK, Big5, Shift-JIS or EUC-KR: the whole line, else its damaged stretches."""
    whole = best_reading(line, wrong)
    if whole is not None:
        return whole
    return _STRETCH.sub(lambda found: best_reading(found[0], wrong, lossless=True) or found[0], line)


def best_reading(damaged: str, wrong: list[str], *, lossless: bool = False) -> str | None:
    """The UTF-8 behind `damaged` in the encoding that loses least; None if it never was UTF-8."""
    if lossless and "\ufffd" in damaged:
        return None
    readings = (_reading(damaged, codec, lossless=lossless) for codec in wrong)
    return min(((read.count("\ufffd"), read) for read in readings if read is not None), default=(0, None))[1]


def _reading(damaged: str, codec: str, *, lossless: bool) -> str | None:
    """`damaged` written in `codec` and read as UTF-8, U+FFFD standing for what was lost; None if that is no text.

    Three bytes are valid UTF-8 by chance once in fifty tries and two once in five, so a few characters of three
    bytes prove enough where they are everyday ones; Cyrillic or Latin letters must be without a gap.
    """
    pieces = [piece.encode(codec, "ignore") for piece in damaged.split("\ufffd")]
    raw = b"\xff".join(pieces)
    if codec == "gb18030":
        raw = raw.replace(_EURO_IN_GB, b"\x80")  # as Windows and browsers read this byte
    read = raw.decode("utf-8", "replace")
    is_lossless = "\ufffd" not in read
    if lossless and not is_lossless:
        return None
    codes = _codes(read)
    broken = 0 if is_lossless else read.count("\ufffd")
    wide = int(np.count_nonzero(codes > 0x7FF)) - broken
    narrow = int(np.count_nonzero(codes > 0x7F)) - broken - wide
    if 3 * wide + 2 * narrow < _READ_WELL * np.count_nonzero(np.frombuffer(raw, np.uint8) > 0x7F):
        return None
    if sum(len(piece.decode(codec, "ignore")) for piece in pieces) < 0.9 * len(damaged.replace("\ufffd", "")):
        return None  # characters that this encoding has not
    if wide >= _LEAST_HAN and wide > narrow and _reads_well(read):
        return _GAP.sub("\ufffd", read)
    if is_lossless and wide and not narrow and _MARK.search(damaged) and _reads_well(read, least=0):
        return read
    if is_lossless and not wide and narrow >= 10:
        scripts = set(class_table()[codes[codes > 0x7F]].tolist())
        return read if len(scripts - {CharClass.LATIN1, CharClass.SPACE}) == 1 else None
    return None


def _reads_well(read: str, *, least: int = _LEAST_HAN) -> bool:
    """Whether what is not ASCII is everyday Chinese, Japanese or Korean with its punctuation."""
    if 4 * len(_HALFWIDTH.findall(read)) > len(read):
        return False  # as Shift-JIS reads any byte from A1 to DF
    codes = _codes(read)
    kinds = _histogram(codes)
    counts = _by_class(kinds)
    high = int(np.count_nonzero(codes > 0x7F)) - counts[CharClass.BROKEN]
    good = counts[CharClass.HAN] + counts[CharClass.KANA] + counts[CharClass.HANGUL]
    neutral = counts[CharClass.WIDE] + counts[CharClass.QUOTE] + counts[CharClass.SPACE]
    neutral -= read.count(" ") + read.count("\t")
    everyday = good + neutral >= 0.7 * high and good + neutral + counts[CharClass.RARE_HAN] >= 0.9 * high
    return everyday and good >= least and (good < 2 * _LEAST_HAN or _share_of_frequent(kinds) > _FREQUENT)


def _frequent_share(read: str) -> float:
    return _share_of_frequent(_histogram(_codes(read)))


def _share_of_frequent(kinds: npt.NDArray[np.int64]) -> float:
    """Of Han, kana and Hangul, those that are frequent: kana all, of Hangul those that are written at all."""
    counts = _by_class(kinds)
    frequent = int(kinds[frequent_han()].sum()) + counts[CharClass.KANA]
    hangul = counts[CharClass.HANGUL] - int(kinds[rare_hangul()].sum())
    return (frequent + hangul) / max(1, sum(counts[kind] for kind in _CJK_CLASSES))


def _codes(text: str) -> npt.NDArray[np.uint32]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _histogram(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    return np.bincount(kind_table()[codes], minlength=KINDS)


def _by_class(kinds: npt.NDArray[np.int64]) -> list[int]:
    return np.add.reduceat(kinds, first_kinds()).tolist()


_CJK_CLASSES = (CharClass.HAN, CharClass.RARE_HAN, CharClass.KANA, CharClass.HANGUL)
_CODECS = ("gb18030", "big5hkscs", "cp932", "cp949")
_EURO_IN_GB = "€".encode("gb18030")
HIGH_RUN = re.compile(f"[\x80-\xff{CP1252}][\x80-\xff{CP1252}]{{3}}")
_HALFWIDTH = re.compile("[\uff61-\uff9f]")
_STRETCH = re.compile(r"[^\s\x00-\x7f，。：；！？、]{4,}")
_UTF8_BYTES = re.compile(
    b"[\xc3-\xef][\x80-\xbf](?:"  # what all of them begin with comes first: three times as fast
    b"[\x80-\xbf](?<![\xc3-\xe0]..)(?:[\xe1-\xef][\x80-\xbf]{2}){2}"  # three characters of three bytes
    b"|[\xc3-\xdf](?<![\xe0-\xef]..)[\x80-\xbf](?:[\xc3-\xdf][\x80-\xbf]){4}"  # six of two bytes
    b"|(?<=\xe2\x80)[\x90-\xa6]|(?<=\xe3\x80)[\x80-\x91]|(?<=\xef\xbc)[\x81-\x9f])"  # or one of “ ’ … 。、「 ，：？
)
_GAP = re.compile("\ufffd\ufffd+")
_MARK = re.compile("[锛銆鈥]")
