"""What a character is to the rules: its class, of which there are few, and its kind, of which there are 256.

Tables by code point, made once a process from Unicode's own data and Python's codecs. Classes are what rules
talk of; kinds divide them finely enough (every ASCII character is one) to see letter frequencies and a single
character that fills a text, and still fit into a byte, so counting them costs no more than counting classes.

Not here: counting (`texts`).
"""

import unicodedata
from enum import IntEnum
from functools import cache

import numpy as np
import numpy.typing as npt


class CharClass(IntEnum):
    """What a character is to the rules; every code point has exactly one."""

    OTHER = 0
    """Symbols, marks, emoji, box drawing, joiners and direction marks."""
    SPACE = 1
    """Blank and tab, no-break and wide spaces; no line ends."""
    NEWLINE = 2
    """\\n alone."""
    HIDDEN = 3
    """What rule `control` takes out or turns into \\n: see HIDDEN_RANGES."""
    DIGIT = 4
    """0-9, and decimal digits of other scripts."""
    LOWER = 5
    """a-z."""
    UPPER = 6
    """A-Z."""
    LATIN = 7
    """Latin letters beyond a-z: é, ß, ő, ế."""
    HAN = 8
    """Characters of everyday Chinese, simplified and traditional: level 1 of GB 2312 and of Big5."""
    RARE_HAN = 9
    """All other Han characters."""
    KANA = 10
    HANGUL = 11
    CYRILLIC = 12
    LETTER = 13
    """Letters of other scripts: Greek, Arabic, Hebrew, Thai, …"""
    PUNCTUATION = 14
    """ASCII punctuation and symbols but for `<` and `@`."""
    WIDE = 15
    """Punctuation of Chinese and Japanese, and fullwidth ASCII."""
    BROKEN = 16
    """U+FFFD, put where bytes could not be read."""
    PRIVATE = 17
    """Private use and unassigned code points, lone surrogates."""
    LATIN1 = 18
    """Symbols U+00A1-U+00BF, × and ÷: rare in text, frequent in mojibake."""
    LESS_THAN = 19
    AT = 20
    QUOTE = 21
    """Typographic punctuation U+2010-U+2027, U+2030-U+205E, € and ™: in good text, and in mojibake by windows-1252."""


HIDDEN_RANGES = (
    (0x00, 0x08),  # C0 but for tab and newline; \r and its kin become \n
    (0x0B, 0x1F),
    (0x7F, 0x9F),  # DEL and C1
    (0xAD, 0xAD),  # soft hyphen
    (0x115F, 0x1160),  # Hangul fillers: letters to Unicode, nothing to the eye; names in chats are made of them
    (0x180E, 0x180E),  # Mongolian vowel separator
    (0x200B, 0x200B),  # zero-width space; joiners and direction marks (200C-200F) stay, scripts need them
    (0x2028, 0x202E),  # line and paragraph separators, bidi embeddings and overrides
    (0x2060, 0x206F),  # invisible operators, bidi isolates, deprecated format characters
    (0x3164, 0x3164),  # Hangul filler
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFA0, 0xFFA0),  # halfwidth Hangul filler
    (0xFFF9, 0xFFFB),  # interlinear annotation
    (0xFDD0, 0xFDEF),  # non-characters
    *((plane | 0xFFFE, plane | 0xFFFF) for plane in range(0, 0x110000, 0x10000)),
    (0xE0000, 0xE007F),  # tags: invisible ASCII, for hidden messages; in the flags of regions they stay
)


@cache
def class_table() -> npt.NDArray[np.uint8]:
    """CharClass by code point, for all 0x110000 of them."""
    table = np.full(0x110000, CharClass.PRIVATE, np.uint8)
    letters, details = categories().T
    by_letter = np.full(0x80, CharClass.PRIVATE, np.uint8)
    by_letter[[ord(letter) for letter in _BY_CATEGORY]] = list(_BY_CATEGORY.values())
    table[:_ASSIGNED] = by_letter[letters]
    table[:_ASSIGNED][(letters == ord("C")) & (details == ord("f"))] = CharClass.OTHER
    table[0xE0100:0xE01F0] = CharClass.OTHER  # variation selectors
    for first, last, kind in _RANGES:
        part = table[first : last + 1]
        part[part != CharClass.PRIVATE] = kind
    table[:_ASSIGNED][(letters == ord("N")) & (details == ord("d"))] = CharClass.DIGIT
    table[[c for c in _MAYBE_LATIN if unicodedata.name(chr(c), "").startswith("LATIN")]] = CharClass.LATIN
    table[_everyday_han()] = CharClass.HAN
    table[[0x20, 0x09, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000]] = CharClass.SPACE
    for first, last in HIDDEN_RANGES:
        table[first : last + 1] = CharClass.HIDDEN
    table[0x0A], table[0xFFFD] = CharClass.NEWLINE, CharClass.BROKEN
    table[ord("<")], table[ord("@")] = CharClass.LESS_THAN, CharClass.AT
    table.setflags(write=False)
    return table


@cache
def categories() -> npt.NDArray[np.uint8]:
    """Unicode's general category of each code point of the first three planes: two letters, (0x30000, 2)."""
    found = np.empty((_ASSIGNED, 2), np.uint8)
    done = 0
    for first, last in (*_SETTLED, (_ASSIGNED, _ASSIGNED)):
        asked = "".join(map(unicodedata.category, map(chr, range(done, first))))
        found[done:first] = np.frombuffer(asked.encode(), np.uint8).reshape(-1, 2)
        found[first : last + 1] = np.frombuffer(unicodedata.category(chr(first)).encode(), np.uint8)
        done = last + 1
    return found


_SETTLED = (
    (0x3400, 0x4DB5),
    (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3),
    (0x20000, 0x2A6D6),
)
"""Han and Hangul syllables: of one category each in every version of Unicode since 3.1."""
_ASSIGNED = 0x30000
"""Behind it rare Han, tags and private use: nothing a rule needs to know apart."""
_MAYBE_LATIN = (*range(0xC0, 0x300), *range(0x1D00, 0x1F00))
_BY_CATEGORY = {
    "L": CharClass.LETTER,
    "M": CharClass.OTHER,
    "N": CharClass.OTHER,
    "P": CharClass.OTHER,
    "S": CharClass.OTHER,
    "Z": CharClass.SPACE,
}
_RANGES = (
    (0x21, 0x7E, CharClass.PUNCTUATION),
    (0x41, 0x5A, CharClass.UPPER),
    (0x61, 0x7A, CharClass.LOWER),
    (0xA1, 0xBF, CharClass.LATIN1),
    (0xD7, 0xD7, CharClass.LATIN1),
    (0xF7, 0xF7, CharClass.LATIN1),
    (0x400, 0x52F, CharClass.CYRILLIC),
    (0x1100, 0x11FF, CharClass.HANGUL),
    (0x2010, 0x2027, CharClass.QUOTE),
    (0x2030, 0x205E, CharClass.QUOTE),
    (0x20AC, 0x20AC, CharClass.QUOTE),
    (0x2122, 0x2122, CharClass.QUOTE),
    (0x3001, 0x303F, CharClass.WIDE),
    (0x3041, 0x30FF, CharClass.KANA),
    (0x3130, 0x318F, CharClass.HANGUL),
    (0x31F0, 0x31FF, CharClass.KANA),
    (0x3005, 0x3007, CharClass.RARE_HAN),  # 々〆〇
    (0x3400, 0x4DBF, CharClass.RARE_HAN),
    (0x4E00, 0x9FFF, CharClass.RARE_HAN),
    (0xAC00, 0xD7AF, CharClass.HANGUL),
    (0xF900, 0xFAFF, CharClass.RARE_HAN),
    (0xFE10, 0xFE1F, CharClass.WIDE),
    (0xFE30, 0xFE6F, CharClass.WIDE),
    (0xFF01, 0xFF65, CharClass.WIDE),
    (0xFF66, 0xFF9F, CharClass.KANA),
    (0xFFE0, 0xFFEE, CharClass.WIDE),
    (0x20000, 0x2FFFF, CharClass.RARE_HAN),
)


def _everyday_han() -> list[int]:
    """Code points of GB 2312 level 1 (3,755 characters) and Big5 level 1 (5,401), from Python's own codecs."""
    characters = _decoded("gb2312", range(0xB0, 0xD8)) + _decoded("big5", range(0xA4, 0xC7))
    return sorted({ord(char) for char in characters if 0x4E00 <= ord(char) <= 0x9FFF})


_KINDS = {
    CharClass.OTHER: 8,
    CharClass.HIDDEN: 2,
    CharClass.DIGIT: 10,
    CharClass.LOWER: 26,
    CharClass.UPPER: 26,
    CharClass.LATIN: 8,
    CharClass.HAN: 32,
    CharClass.RARE_HAN: 10,
    CharClass.KANA: 8,
    CharClass.HANGUL: 10,
    CharClass.CYRILLIC: 32,
    CharClass.LETTER: 8,
    CharClass.PUNCTUATION: 30,
    CharClass.WIDE: 8,
    CharClass.LATIN1: 4,
    CharClass.QUOTE: 6,
}
"""How many kinds a class has, if more than one; 256 at most in all."""


@cache
def first_kinds() -> npt.NDArray[np.int64]:
    """The first kind of each class: kinds are numbered class after class."""
    sizes = [_KINDS.get(kind, 1) for kind in CharClass]
    return np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)


def kinds_of(kind: CharClass, first: int = 0, stop: int | None = None) -> slice:
    """The kinds of a class, or some of them: where they stand in a text's histogram."""
    start = int(first_kinds()[kind])
    return slice(start + first, start + (_KINDS.get(kind, 1) if stop is None else stop))


def c1_controls() -> slice:
    """U+0080-U+009F: hardly ever meant, mostly bytes of another encoding."""
    return kinds_of(CharClass.HIDDEN, 0, 1)


def frequent_han() -> slice:
    """The 500 characters that make up half of any Chinese text, even of a poem, and a tenth of random ones."""
    return kinds_of(CharClass.HAN, 0, 8)


def misread_marks() -> slice:
    """Rare Han that stand where UTF-8's usual punctuation or kana was read as GBK, Big5 or Shift-JIS."""
    return kinds_of(CharClass.RARE_HAN, 0, 1)


def rare_hangul() -> slice:
    """Hangul outside KS X 1001: 79 % of the block, 0.1 % of Korean text."""
    return kinds_of(CharClass.HANGUL, 8, 10)


@cache
def kind_table() -> npt.NDArray[np.uint8]:
    """Kind by code point, for all 0x110000 of them."""
    classes = class_table()
    table = first_kinds().astype(np.uint8).take(classes)
    table[_ASSIGNED:][classes[_ASSIGNED:] == CharClass.HIDDEN] += 1
    table[0xE0100:0xE01F0] += (np.arange(0xE0100, 0xE01F0) % _KINDS[CharClass.OTHER]).astype(np.uint8)
    table[:_ASSIGNED] += _within(classes[:_ASSIGNED]).astype(np.uint8)
    table.setflags(write=False)
    return table


def _within(classes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Which of the kinds of its class each code point is, from 0 on."""
    codes = np.arange(len(classes), dtype=np.uint32)
    sizes = np.array([_KINDS.get(kind, 1) for kind in CharClass], np.uint32)
    within = codes % sizes[classes]  # of Cyrillic: U+0410 and U+0430 are 32 apart, so capital and small are one kind
    for kind in (CharClass.DIGIT, CharClass.LOWER, CharClass.UPPER, CharClass.PUNCTUATION):
        members = np.flatnonzero(classes == kind)
        within[members] = np.arange(len(members)) % sizes[kind]
    within[classes == CharClass.HIDDEN] = 1
    within[0x80:0xA0] = 0
    _divide(within, classes == CharClass.HAN, _codes(_FREQUENT_HAN), 8)
    _divide(within, classes == CharClass.RARE_HAN, _misread(), 1)
    within[classes == CharClass.HANGUL] %= 8
    is_rare = (codes >= 0xAC00) & (codes < 0xD7A4)
    is_rare[_codes(_decoded("euc_kr", range(0xB0, 0xC9)))] = False
    within[is_rare] = 8 + codes[is_rare] % 2
    return within


def _divide(
    within: npt.NDArray[np.uint32], members: npt.NDArray[np.bool_], chosen: npt.NDArray[np.int64], kinds: int
) -> None:
    """Give the first `kinds` kinds of a class to the chosen characters and the others to the others."""
    codes = np.flatnonzero(members)
    size = within[codes].max() + 1
    within[codes] = kinds + codes % (size - kinds)
    chosen = chosen[members[chosen]]
    within[chosen] = chosen % kinds


def _codes(characters: str) -> npt.NDArray[np.int64]:
    return np.array(sorted({ord(char) for char in characters}), np.int64)


def _misread() -> npt.NDArray[np.int64]:
    """What the first two bytes of 。，“ U+FFFD, hiragana and katakana become in other encodings: 銆 锛 鈥 锟 縺 繧 …"""
    pairs = (char.encode()[:2] for char in "。，“\ufffdあめア\u00bf")
    return _codes("".join(pair.decode(codec, "ignore") for pair in pairs for codec in ("gbk", "big5", "cp932")))


def _decoded(codec: str, rows: range) -> str:
    """All characters of two bytes that a codec has in these rows, and what is left of others: ASCII."""
    cells = [*range(0x40, 0x7F), *range(0xA1, 0xFF)]
    return b"\n".join(bytes((row, cell)) for row in rows for cell in cells).decode(codec, "ignore")


_FREQUENT_HAN = (
    # The most frequent, each kind of text weighted the same: modern prose, novels of the Ming, poetry of Tang and
    # Song (traditional characters), technical documentation, the Declaration of Human Rights in both scripts.
    "一七三上下不与且世东两並个中串为主么义之九也书了事二于五些交享人什今从他代令以们件任会传似但位住体何"
    "作你使來例供依便保信修值做儿元先光免入全八公六共关兵其具内再写军况准几出函分切列则创初利别到制前力功"
    "加务动包化北区十千单南即却原去参又及发取受变口句只叫可号各合同名后向君否含听告员周命和响器四回因国國"
    "在地块型城基士声处复外多夜大天太失头女好如始子字存学它安宋完宗官定实客宣家容对导将尊對小少就层展属山"
    "州工己已布师帝带常平年并序库应度庭建开异式引弟张当形往待很律得心必态思性息情想意應成我或户所手才打执"
    "把护括持指换据接提插操支收改放效教数整文新方於无日时明春是時普景更最會月有服望朝期未本机权李条来构林"
    "果染查标样根格條检模權次正此步武歸死段每比民水求江没法注活流测消深清源点為無然爲父版物特状玉王环现理"
    "生用由界留白百的目直相看真着知石码确示社神秋种称移程空立章端符第等简算管类系素索级线组细经结给统编罪"
    "置老者而育能自至致色节花若获落行表被西要見见解言詩计认让记许论设访证译试话该语误说请读调象走起路身转"
    "载输边达过运返还这进送选通遍道那部都配酒里重量金错长门问间队限除集雨雲需青非面项须领题風风首马高黄默"
)
