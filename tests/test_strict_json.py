"""Strict JSON: the quick parser says what the slow one says, or that it does not know."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.reading.json_rows import LineIndex
from minimind.data.reading.strict_json import DOUBT, MAX_DEPTH, RowError, quick_json, read_json

SETTLED = settings(deadline=None, derandomize=True, max_examples=300)
NUMBERS = st.one_of(
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.sampled_from([2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 9.3e18, -0.0, 5e-324]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner, max_size=4)),
    max_leaves=12,
)


def quick(raw: bytes) -> Any:
    """`quick_json` as it is used: with the quotes of the line, and not at all on a doubtful one."""
    index = LineIndex(raw)
    return DOUBT if len(index) != 1 or index.doubtful[0] else quick_json(raw, int(index.num_quotes[0]))


def slow(raw: bytes) -> Any:
    try:
        return read_json(raw)
    except RowError as error:
        return error.reason


@SETTLED
@given(VALUES, st.booleans())
def test_the_quick_parser_gives_the_same_value_or_none(value: Any, ascii_only: bool):
    """Two parsers may differ in nothing but speed, or a row's fate would depend on its neighbours."""
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = quick(raw)
    assert found is DOUBT or repr(found) == repr(slow(raw))


@SETTLED
@given(VALUES, st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=3))
def test_a_damaged_line_is_never_taken_for_another_value(value: Any, damages: list[tuple[int, bytes]]):
    """Flipped, lost and added bytes are what real files have; what is taken must be what is there."""
    raw = json.dumps({"text": 'a\\b"c', "v": value}).encode()
    for place, put in damages:
        raw = raw[: place % len(raw)] + put + raw[place % len(raw) + 1 :]
    raw = raw.split(b"\n")[0] or b" "
    found = quick(raw)
    assert found is DOUBT or repr(found) == repr(slow(raw))


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 1, "a": 2}',
        b'{"a": 1, "\\u0061": 2}',
        b'{"a": {"b": "x\\\\", "b": "y\\""}}',
        b'{"a": "x\\\\", "a": "y\\\\", "b": "z"}',
        b'[{"a": "b", "a": "b"}]',
        b"9223372036854775808",
        b"1e999",
        b"NaN",
        b'"\\ud83d"',
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b"[" * 100_000,
        b'{"a": "\xff"}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": 1} x',
        b"",
    ],
)
def test_what_strict_json_refuses_is_doubted(raw: bytes):
    """Each of these is taken in silence, or kills the process, in some other parser."""
    assert quick(raw) is DOUBT


def test_ordinary_rows_need_no_second_look():
    """The quick parser is of no use if it doubts everything."""
    row = {"text": 'line\n"quoted" \\ 中文 😀', "score": 0.87, "id": 7, "tags": ["a", {"b": None}], "ok": True}
    for ascii_only in (True, False):
        assert quick(json.dumps(row, ensure_ascii=ascii_only).encode()) == row
    assert quick(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not DOUBT
