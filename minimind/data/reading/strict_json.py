"""Strict JSON: one line of a data file as a value, or the exact reason why it is none.

The standard parser is lenient where data goes wrong in silence: of two equal keys the last one wins, NaN
and infinity are numbers, integers have no end. Here each of these is a `RowError`.

`read_json` is Python's own parser with hooks: it decides what is right and tells the column of what is not.
`quick_json` gives the same value at three times the speed where it is certain of it, and `DOUBT` where it is
not; most lines need no more than it. Not here: what a row must look like (`documents`).
"""

import json
import math
from collections import Counter
from enum import Enum
from typing import Any, Final, Literal, NoReturn

import msgspec

from minimind.errors import DataError

Reason = Literal[
    "bad_json",
    "bad_utf8",
    "not_object",
    "missing_field",
    "wrong_type",
    "empty_text",
    "bad_role",
    "bad_turn_order",
    "no_target",
    "identical_pair",
    "prompt_mismatch",
    "too_long",
    "duplicate_key",
    "lone_surrogate",
    "nul_char",
    "non_finite_number",
    "number_too_big",
    "too_deep",
]
MAX_DEPTH = 64
"""Nesting allowed in a JSON row: real rows need 6, and tool schemas some more."""
_BIGGEST = 2**63
"""What fits a 64-bit integer; a longer number is no number anybody meant."""
_HOPELESS = -(2**40)
"""Makes any sum of numbers of strings negative: a row has fewer bytes than that."""


class RowError(DataError):
    """One row cannot be used. `reason` is of the fixed vocabulary, `detail` says what and where."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


def read_json(raw: bytes) -> Any:
    """The value of one JSON line, read strictly: no doubled keys, no NaN, UTF-8 only. Raises RowError.

    A byte order mark in front of the line is skipped.
    """
    text = read_text(raw).removeprefix("\ufeff")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise RowError("bad_json", f"{error.msg} (column {error.colno})") from None
    except RecursionError:
        raise RowError("too_deep", f"more than {MAX_DEPTH} levels") from None
    # Depth can be too large only where there are that many brackets, which is rare enough to look twice.
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(value) > MAX_DEPTH:
        raise RowError("too_deep", f"more than {MAX_DEPTH} levels")
    return value


class Doubt(Enum):
    """The type of `DOUBT`, what `quick_json` says where it cannot tell."""

    DOUBT = 0


DOUBT: Final = Doubt.DOUBT


def quick_json(raw: bytes, num_quotes: int) -> Any:
    """The value that `read_json` gives for `raw`, or DOUBT.

    `raw` is UTF-8 without control characters and has `num_quotes` quotes that no backslash escapes. A key that
    stands twice is one string less in the value than there are in the line, so the quotes tell it.
    """
    try:
        value = _QUICK.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return DOUBT
    return value if 2 * _num_strings(value, MAX_DEPTH) == num_quotes else DOUBT


def read_text(raw: bytes) -> str:
    """`raw` as UTF-8 text without NUL bytes. Raises RowError."""
    if b"\0" in raw:
        raise RowError("nul_char", f"a NUL byte at byte {raw.index(0) + 1}; the file is damaged or is not UTF-8")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RowError("bad_utf8", f"byte {error.start + 1} (0x{raw[error.start]:02x}) is not UTF-8") from None


def _num_strings(value: Any, depth: int) -> int:
    """Strings in `value`, keys too; hopelessly negative where it is deeper than `depth` or has a huge number."""
    kind = type(value)
    if kind is str:
        return 1
    if kind is dict or kind is list:
        if not depth:
            return _HOPELESS
        inner = value.values() if kind is dict else value
        keys = len(value) if kind is dict else 0
        return keys + sum([1 if type(item) is str else _num_strings(item, depth - 1) for item in inner])
    return 0 if value is None or -_BIGGEST <= value < _BIGGEST else _HOPELESS  # a boolean is a number here


def _depth(value: Any) -> int:
    """Levels of nesting, found without recursion."""
    deepest, level = 0, [value]
    while level:
        nested = [item for item in level if isinstance(item, list | dict)]
        deepest += bool(nested)
        level = [inner for item in nested for inner in (item.values() if isinstance(item, dict) else item)]
    return deepest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise RowError("duplicate_key", f"key {twice[:40]!r} stands twice in one object")
    return result


def _constant(name: str) -> NoReturn:
    raise RowError("non_finite_number", f"{name} is not JSON")


def _int(digits: str) -> int:
    # Counted before it is converted: Python takes quadratic time for huge integers.
    if len(digits) > 20 or not -_BIGGEST <= int(digits) < _BIGGEST:
        raise RowError("number_too_big", f"{digits[:20]}… does not fit 64 bits")
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise RowError("number_too_big", f"{digits[:20]} is beyond a double")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_int=_int, parse_float=_float)
_QUICK = msgspec.json.Decoder()
