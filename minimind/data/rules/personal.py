"""`personal`: addresses, numbers and keys that belong to somebody are replaced by a word in brackets.

    [EMAIL] [PHONE] [ID] [CARD] [IP] [KEY]

Where an @, seven digits, or a long run of letters with digits stand is found for the whole batch in a few passes
over its characters; only there a text is read, by the parts beside: `personal_mail` (which addresses are public),
`personal_numbers`, `personal_hosts` and `personal_keys`. The setting `personal_bylines` masks public addresses too.

Not covered: names of people, postal addresses, dates of birth, and numbers of a kind that the parts do not list.
"""

import re
from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import CharClass, kind_table, kinds_of
from minimind.data.rules.personal_hosts import ipv4_at, ipv6_at
from minimind.data.rules.personal_keys import key_at, login_at, private_keys, secret_at
from minimind.data.rules.personal_mail import mail_at
from minimind.data.rules.personal_numbers import iban_near, number_at
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, Texts

MAIL = "[EMAIL]"
MIN_DIGITS = 7
"""Of the shortest telephone number worth reading: a local one behind a label."""
MIN_RUN = 10
"""Letters and digits in a row in every key, whatever signs stand between its parts."""

Positions = npt.NDArray[np.int64]
Span = tuple[int, int, str]


def mask_personal(texts: Texts, settings: CleanRules) -> dict[int, Changed]:
    """The texts with something personal in them, masked."""
    outcomes: dict[int, Changed] = {}
    indices, pending = list(range(len(texts))), texts
    while found := _masked(pending, bylines=settings.personal_bylines):
        # once more: a mask may have set free what stood beside it. Every round takes digits or an @ away
        indices = [indices[local] for local in found]
        pending = Texts(list(found.values()))
        outcomes.update(zip(indices, map(Changed, pending.texts), strict=True))
    return outcomes


def _masked(texts: Texts, *, bylines: bool) -> dict[int, str]:
    """Index → masked text, for the texts in which something was found."""
    signs = _Signs.of(texts)
    readings = {index: _narrow(texts.texts[index]) for index in set(_owners(texts, signs.wide)[0])}
    spans: dict[int, list[Span]] = {}
    for find, positions in _candidates(texts, signs, bylines=bylines):
        for index, start in zip(*_owners(texts, positions), strict=True):
            taken = spans.get(index, [])
            if taken and not _is_free(taken, start, start + 1):
                continue
            for span in find(readings[index] if index in readings else texts.texts[index], start):
                if _is_free(taken, span[0], span[1]):
                    insort(spans.setdefault(index, taken), span)
    return {index: _with_masks(texts.texts[index], found) for index, found in sorted(spans.items())}


def _is_free(taken: list[Span], start: int, end: int) -> bool:
    """Whether none of the spans, which are in order and apart, has a character in start..end."""
    at = bisect_left(taken, (start, end, ""))
    return (at == 0 or taken[at - 1][1] <= start) and (at == len(taken) or end <= taken[at][0])


def _owners(texts: Texts, positions: Positions) -> tuple[list[int], list[int]]:
    """The text of each position of the batch, and the place in it."""
    owners = np.searchsorted(texts.offsets, positions, side="right") - 1
    return owners.tolist(), (positions - texts.offsets[owners]).tolist()


def _with_masks(text: str, spans: list[Span]) -> str:
    parts, done = [], 0
    for begin, end, mask in spans:
        parts += [text[done:begin], mask]
        done = end
    return "".join([*parts, text[done:]])


SIGNS = "@＠-:=：＝([（"
"""What an address, a key, or the value behind a label is looked for at."""


def _narrow(text: str) -> str:
    """`text` with fullwidth ASCII (１３８＠) as ASCII, so that a reading has everything at the same places."""
    return _WIDE.sub(lambda wide: chr(ord(wide[0]) - 0xFEE0), text)


_WIDE = re.compile("[＋－．０-９＝＠Ａ-Ｚ＿ａ-ｚ]")


@dataclass(frozen=True)
class _Signs:
    """Where in the batch everything may begin that the finders look for."""

    digits: Positions
    ats: Positions
    """Every @, also a wide one."""
    wide: Positions
    """Fullwidth digits and ＠."""
    others: Positions
    """The characters of SIGNS (a few more), and what they are."""
    codes: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, texts: Texts) -> "_Signs":
        kinds = texts.kinds
        digit = kinds_of(CharClass.DIGIT)
        wanted = (kinds >= digit.start) & (kinds < digit.stop)
        for kind in {int(kind_table()[ord(character)]) for character in SIGNS}:
            wanted |= kinds == kind
        positions = np.flatnonzero(wanted)
        found, codes = kinds[positions], texts.codes[positions]
        is_digit = (found >= digit.start) & (found < digit.stop)
        is_at = (codes == ord("@")) | (codes == ord("＠"))
        is_wide = (is_digit & (codes > 0x7F)) | (codes == ord("＠"))
        is_other = ~(is_digit | is_at)
        return cls(positions[is_digit], positions[is_at], positions[is_wide], positions[is_other], codes[is_other])

    def where(self, characters: str) -> Positions:
        """The places of these of SIGNS."""
        found = self.codes == ord(characters[0])
        for character in characters[1:]:
            found |= self.codes == ord(character)
        return self.others[found]


Finder = Callable[[str, int], list[Span]]


def _candidates(texts: Texts, signs: _Signs, *, bylines: bool) -> list[tuple[Finder, Positions]]:
    """What to look for and where; what names a whole (keys, addresses) before what may be its part (numbers)."""
    codes = texts.codes
    starts, ends = _runs(signs.digits, texts.offsets)

    def mail(text: str, at: int) -> list[Span]:
        if login := login_at(text, at):
            return [login]
        span = mail_at(text, at, bylines=bylines)
        return [(*span, MAIL)] if span else []

    return [
        (lambda text, _: private_keys(text), _first_of_each(texts, _key_fences(codes, signs.where("-")))),
        (lambda text, start: _listed(key_at(text, start)), _long_runs(texts, signs.digits)),
        (lambda text, sign: _listed(secret_at(text, sign)), _assignments(codes, signs.where(":=：＝"))),
        (mail, np.concatenate((_joined_ats(codes, signs.ats), _spelt_ats(codes, signs.where("([（"))))),
        (lambda text, start: _listed(ipv6_at(text, start)), _hextets(codes, starts)),
        (_numbers, _number_groups(texts, starts, ends)),
    ]


def _listed(span: Span | None) -> list[Span]:
    return [span] if span else []


def _numbers(text: str, start: int) -> list[Span]:
    return _listed(ipv4_at(text, start) or number_at(text, start) or iban_near(text, start))


def _runs(positions: Positions, borders: Positions) -> tuple[Positions, Positions]:
    """Where runs of neighbouring positions begin and where they end; none goes across a border of two texts."""
    if not len(positions):
        return positions, positions
    is_cut = np.diff(positions) != 1
    first = np.searchsorted(positions, borders)
    first = first[(first > 0) & (first < len(positions))]
    is_cut[first - 1] = True
    cuts = np.flatnonzero(is_cut)
    return positions[np.concatenate(([0], cuts + 1))], positions[np.concatenate((cuts, [-1]))] + 1


def _number_groups(texts: Texts, starts: Positions, ends: Positions) -> Positions:
    """Beginnings of the runs of digits that have MIN_DIGITS together, or are four, with at most two signs between."""
    if not len(starts):
        return starts
    after, before = texts.codes[ends[:-1]], texts.codes[starts[1:] - 1]
    is_joined = (starts[1:] - ends[:-1] <= 2) & _is_joint(after) & _is_joint(before)
    groups = np.concatenate(([0], np.cumsum(~is_joined)))
    enough = (np.bincount(groups, ends - starts) >= MIN_DIGITS) | (np.bincount(groups) >= 4)
    return starts[enough[groups]]


def _is_joint(codes: npt.NDArray[np.uint32]) -> npt.NDArray[np.bool_]:
    joints = np.zeros(128, np.bool_)
    joints[[ord(char) for char in " -.()"]] = True
    return joints[np.minimum(codes, 127)] | (codes == ord("）"))


def _hextets(codes: npt.NDArray[np.uint32], starts: Positions) -> Positions:
    """Beginnings of runs of digits that may be the first quarter of a public IPv6 address: 2xxx: or 3xxx:."""
    first = starts[starts + 4 < len(codes)]
    return first[(codes[first + 4] == ord(":")) & ((codes[first] == ord("2")) | (codes[first] == ord("3")))]


def _long_runs(texts: Texts, digits: Positions) -> Positions:
    """Beginnings of runs of MIN_RUN and more letters and digits of ASCII that have a digit, or _LONG_RUN of them."""
    kinds = texts.kinds
    if len(kinds) < MIN_RUN:
        return digits[:0]
    long = (kinds >= kinds_of(CharClass.DIGIT).start) & (kinds < kinds_of(CharClass.UPPER).stop)
    for shift in _SHIFTS:  # long[i]: all from i on, as many as the shifts add up to and one, are letters or digits
        long = long[:-shift] & long[shift:]
    starts, ends = _runs(np.flatnonzero(long), texts.offsets)
    has_digit = np.searchsorted(digits, ends + MIN_RUN - 1) > np.searchsorted(digits, starts)
    return starts[has_digit | (ends - starts >= _LONG_RUN - MIN_RUN)]


_SHIFTS = (1, 2, 4, MIN_RUN - 8)
_LONG_RUN = 30
"""Letters in a row that are read even without a digit: some makers' keys have none, and no word is as long."""


def _key_fences(codes: npt.NDArray[np.uint32], dashes: Positions) -> Positions:
    """Where `Y-----` or `K-----` stands: PRIVATE KEY-----, PRIVATE KEY BLOCK-----."""
    inner = dashes[(dashes > 0) & (dashes + 4 < len(codes))]
    inner = inner[(codes[inner - 1] == ord("Y")) | (codes[inner - 1] == ord("K"))]
    return inner[(codes[inner + 1] == ord("-")) & (codes[inner + 4] == ord("-"))]


def _first_of_each(texts: Texts, positions: Positions) -> Positions:
    """Of the positions in a text only the first."""
    owners = np.searchsorted(texts.offsets, positions, side="right")
    return positions[np.unique(owners, return_index=True)[1]]


def _joined_ats(codes: npt.NDArray[np.uint32], ats: Positions) -> Positions:
    """Every @ but those behind a blank or a line end, which are of `@property` and the like."""
    before = codes[ats - 1]
    return ats[(before != 0x20) & (before != 0x0A)]


def _spelt_ats(codes: npt.NDArray[np.uint32], brackets: Positions) -> Positions:
    """Brackets with `at` in them."""
    inner = brackets[brackets + 3 < len(codes)]
    return inner[(codes[inner + 1] | 32 == ord("a")) & (codes[inner + 2] | 32 == ord("t"))]


def _assignments(codes: npt.NDArray[np.uint32], signs: Positions) -> Positions:
    """`:` and `=` behind what may end a label."""
    last = signs - 1
    for _ in range(2):  # blanks and quotes between
        last = last - _between()[np.minimum(codes[np.maximum(last, 0)], 127)]
    signs, last = signs[last > 0], last[last > 0]
    end = codes[last]
    pairs = ((codes[last - 1] & 0xFF | 32) << 8) | (end & 0xFF | 32)
    found = np.flatnonzero((_label_ends()[pairs] & (end < 128)) | np.isin(end, _HAN_LABEL_ENDS))
    third = codes[np.maximum(last[found] - 2, 0)]
    is_third = np.isin((third | 32) << 16 | pairs[found], _LABEL_THIRDS) | (third > 127) | (end[found] > 127)
    return signs[found[is_third]]


@cache
def _between() -> npt.NDArray[np.int64]:
    """By ASCII code: 1 for what may stand between a label and its sign."""
    table = np.zeros(128, np.int64)
    table[[ord(char) for char in " \"'`*"]] = 1
    return table


@cache
def _label_ends() -> npt.NDArray[np.bool_]:
    """Whether two letters (each 8 bits) may end a label."""
    table = np.zeros(1 << 16, np.bool_)
    table[[third & 0xFFFF for third in _LABEL_THIRDS]] = True
    return table


_LABEL_THIRDS = [int.from_bytes(end) for end in (b"ord", b"swd", b"pwd", b"key", b"ret", b"ken", b"ase", b"ode")]
"""The last three letters of password, passwd, pwd, …-key, secret, token, passphrase, passcode."""
_HAN_LABEL_ENDS = [ord(char) for char in "码令钥匙牌"]
