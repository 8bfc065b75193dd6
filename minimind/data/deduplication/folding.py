"""Folding: what two texts must share to be called the same, however they were typed, encoded or wrapped.

Case, width, compatibility forms, composed or decomposed accents, kinds and runs of white space, line ends and
hidden characters do not count. One look-up in a table folds a character; the few texts with characters that
are not folded one by one (combining marks, ligatures, ㎏) are normalised by Python first. `content_keys` names
a folded text by 128 bits: texts with equal keys are taken to be equal (a chance of 1e-19 in 10**10 texts).

Curly quotes are straight ones and dashes are hyphens, for editors and sites change them unasked. Not folded: other
punctuation (… stays apart from ...), simplified and traditional characters, one letter that becomes several (ß);
near duplicates find those. Rows of several texts are the caller's to join.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import xxhash

from minimind.data.rules.characters import categories
from minimind.data.rules.texts import HIDDEN_RANGES, Texts

BLOCK = 1 << 16
"""Characters folded at a time: the arrays in use (about 1 MB) stay in a core's cache; 2x faster than 1 << 21."""
_GONE, _SPACE, _CLOSER = 0, 0x20, 1 << 31
"""What the table says of a character: it goes; it is white space; its text needs a closer look (a bit)."""


@dataclass(frozen=True)
class Folded:
    """Folded texts: their code points end to end, and where each begins."""

    codes: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.int64]
    """One more than there are texts: text i is codes[offsets[i] : offsets[i + 1]]."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def text(self, index: int) -> str:
        """One folded text as a string."""
        codes = self.codes[self.offsets[index] : self.offsets[index + 1]]
        return codes.tobytes().decode("utf-32-le", "surrogatepass")


def fold(texts: Texts, *, block: int = BLOCK) -> Folded:
    """All texts folded, `block` characters at a time. Folding a folded text changes nothing."""
    codes = np.empty(len(texts.codes), np.uint32)
    offsets = np.zeros(len(texts) + 1, np.int64)
    end = 0
    for first, last in blocks(texts.offsets, block):
        block, ends = _fold_block(texts, first, last)
        if end + len(block) > len(codes):  # a ligature is several letters now
            codes = np.concatenate((codes[:end], np.empty(len(block) + len(codes), np.uint32)))
        codes[end : end + len(block)] = block
        offsets[first + 1 : last + 1] = ends + end
        end += len(block)
    return Folded(codes[:end], offsets)


def content_keys(folded: Folded) -> npt.NDArray[np.uint64]:
    """xxh3-128 of each folded text, as two numbers: (len, 2)."""
    view = memoryview(folded.codes.astype("<u4", copy=False)).cast("B")
    ends = (folded.offsets * 4).tolist()
    digests = [xxhash.xxh3_128_digest(view[a:b]) for a, b in zip(ends, ends[1:], strict=False)]
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2).astype(np.uint64, copy=False)


def blocks(offsets: npt.NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Runs of texts, first and behind the last, of at most `size` characters together (or one longer text)."""
    first, count = 0, len(offsets) - 1
    while first < count:
        last = int(np.searchsorted(offsets, offsets[first] + size, "right")) - 1
        last = min(count, max(first + 1, last))
        yield first, last
        first = last


def _fold_block(texts: Texts, first: int, last: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """The folded code points of some texts, and where each text ends in them."""
    offsets = texts.offsets[first : last + 1] - texts.offsets[first]
    codes = fold_table().take(texts.codes[texts.offsets[first] : texts.offsets[last]], mode="clip")
    if len(codes) and codes.max() >= _CLOSER:
        closer = np.unique(np.searchsorted(offsets, np.flatnonzero(codes >= _CLOSER), "right") - 1).tolist()
        strings = list(texts.texts[first:last])
        for index in closer:
            strings[index] = _compose(texts.codes[texts.offsets[first + index] : texts.offsets[first + index + 1]])
        composed = Texts(strings)
        offsets = composed.offsets
        codes = fold_table().take(composed.codes, mode="clip") & np.uint32(_CLOSER - 1)
    if len(codes) and codes.min() == _GONE:
        codes, offsets = _without(codes, offsets, np.flatnonzero(codes == _GONE))
    codes, offsets = _without(codes, offsets, _needless_spaces(codes, offsets))
    return codes, offsets[1:]


def _needless_spaces(codes: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where a space follows another, or stands at the beginning or the end of its text."""
    space = codes == _SPACE
    needless = np.zeros(len(codes), np.bool_)
    np.logical_and(space[1:], space[:-1], out=needless[1:])
    filled = offsets[1:] > offsets[:-1]
    firsts, lasts = offsets[:-1][filled], offsets[1:][filled] - 1
    needless[firsts] |= space[firsts]
    needless[lasts] |= space[lasts]
    found = np.flatnonzero(needless)
    ends = lasts[space[lasts] & space[np.maximum(lasts - 1, 0)]]
    if len(ends):  # of a run that ends a text its first space is still there
        runs = found - np.arange(len(found))  # the same number for neighbours
        before = found[np.searchsorted(runs, runs[np.searchsorted(found, ends)])] - 1
        needless[before] |= space[before]
        found = np.flatnonzero(needless)
    return found


def _without(
    codes: npt.NDArray[np.uint32], offsets: npt.NDArray[np.int64], needless: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """The codes but for those at some places, and the offsets moved accordingly."""
    if not len(needless):
        return codes, offsets
    needed = np.ones(len(codes), np.bool_)
    needed[needless] = False
    return codes[needed], offsets - np.searchsorted(needless, offsets)


def _compose(codes: npt.NDArray[np.uint32]) -> str:
    """A text without hidden characters, in compatibility form and composed, but for what stays as it is."""
    seen = codes[fold_table().take(codes, mode="clip") != _GONE]
    parts = _kept().split(seen.tobytes().decode("utf-32-le", "surrogatepass"))
    return "".join(part if at % 2 else unicodedata.normalize("NFKC", part) for at, part in enumerate(parts))


@cache
def fold_table() -> npt.NDArray[np.uint32]:
    """What becomes of each code point: another one, 0 if it goes; the top bit if its text needs a closer look."""
    table = np.arange(0x110000, dtype=np.uint32)
    table[list(_foldable())] = [_fold_code(code) for code in _foldable()]
    table.setflags(write=False)
    return table


@cache
def _foldable() -> tuple[int, ...]:
    """The code points worth asking Python about, ten thousand: the others fold to themselves."""
    looked_at = np.zeros(0x110000, np.bool_)
    for first, last in _LOOKED_AT:
        looked_at[first : last + 1] = True
    folds = np.zeros(0x110000, np.bool_)
    folds[[*_unseen(), *_TYPED]] = True
    major, minor = categories().T
    assigned = (major != ord("C")) | (minor != ord("n"))
    always = (major == ord("M")) | (major == ord("C")) | (major == ord("Z"))
    always[0x1160:0x1200] = True  # jamo
    folds[: len(major)] |= always & assigned
    for code in np.flatnonzero(assigned & looked_at[: len(major)] & ~folds[: len(major)]).tolist():
        char = chr(code)
        folds[code] = char.casefold() != char or bool(unicodedata.decomposition(char))
    return tuple(np.flatnonzero(folds & looked_at).tolist())


_LOOKED_AT = (
    (0, 0x33FF),
    (0x4DC0, 0x4DFF),
    (0xA490, 0xABFF),
    (0xD7B0, 0xD7FF),
    (0xF900, 0x16FFF),
    (0x18D09, 0x1FFFF),
    (0x2F800, 0x2FFFF),
    (0xE0000, 0xE0FFF),
)
"""All but Han, Yi, Hangul syllables, surrogates, private use, Tangut and the unassigned planes; of the last range
only what is unseen."""
_UNSEEN_RANGES = (*HIDDEN_RANGES, (0xFE00, 0xFE0F), (0xE0100, 0xE01EF))
"""Variation selectors say how a character is drawn."""


_TYPED = str.maketrans(dict.fromkeys("‘’‚‛", "'") | dict.fromkeys("“”„‟", '"') | dict.fromkeys("‐‑‒–—―", "-"))
"""What a keyboard has for quotes and dashes."""


@cache
def _unseen() -> frozenset[int]:
    return frozenset(code for first, last in _UNSEEN_RANGES for code in range(first, last + 1))


def _fold_code(code: int) -> int:
    char = chr(code)
    if char.isspace():
        return _SPACE
    if code in _unseen() or unicodedata.category(char) in ("Cf", "Cc"):
        return _GONE
    form = unicodedata.normalize("NFKC", char)
    if _stays(char, form):
        return code
    if len(form) > 1 or unicodedata.category(form)[0] == "M" or 0x1160 <= ord(form) <= 0x11FF:
        return code | _CLOSER  # several letters, or a mark or jamo that may join the character before it
    return ord(_lower(form).translate(_TYPED))


def _lower(char: str) -> str:
    """One character for all cases of `char`, in its compatibility form; itself if that would be several."""
    for form in (char.casefold(), char.lower()):
        folded = unicodedata.normalize("NFKC", form)
        if len(folded) == 1:
            return folded
    return char


def _stays(char: str, form: str) -> bool:
    """Characters whose compatibility form is further from what is meant: … ‥, ´ and its kin, single jamo."""
    jamo = len(form) == 1 and form != char and 0x1100 <= ord(form) <= 0x11FF
    return char in "…‥" or jamo or (len(form) > 1 and form[0] == " ")


@cache
def _kept() -> re.Pattern[str]:
    """One of the characters that stay; as a group, so that `split` gives it too."""
    table = fold_table()
    same = [chr(code) for code in _foldable() if table[code] == code]
    return re.compile("([" + "".join(char for char in same if _stays(char, unicodedata.normalize("NFKC", char))) + "])")
