"""JSON mode: what is allowed, byte by byte, against the standard library's parser."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.infer.json_object import JsonObject

BYTES = [bytes([byte]) for byte in range(256)]


def read(data: bytes) -> tuple[bool, bool]:
    """Whether all of `data` is allowed, byte by byte, and whether it is complete then."""
    reader = JsonObject(BYTES)
    for byte in data:
        if not reader.allows(byte):
            return False, False
        reader.take(byte)
    return True, reader.complete


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), values, max_size=4), st.booleans(), st.sampled_from([None, 2]))
@settings(max_examples=150, deadline=None)
def test_every_object_is_allowed_and_complete_at_its_end(value: dict[str, Any], ascii_only: bool, indent: int | None):
    """A mode that forbids a valid answer would bend what the model says."""
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert read(text.encode("utf-8", "surrogatepass")) == (True, True) or any("\ud800" <= c <= "\udfff" for c in text)


@given(st.integers(min_value=0, max_value=2**32))
@settings(max_examples=150, deadline=None)
def test_whatever_is_allowed_is_json_in_the_end(seed: int):
    """The promise to a client: what came out can be parsed. Random walks through what is allowed, closed in time."""
    rng, reader, data = random.Random(seed), JsonObject(BYTES), bytearray()
    while not reader.complete:
        allowed = [byte for byte in range(256) if reader.allows(byte)]
        assert allowed, bytes(data)
        if len(data) > 40:  # towards the end: close whatever can be closed
            allowed = [byte for byte in allowed if byte in b'}]":,tfn0ruealsn'] or allowed
        byte = rng.choice(allowed)
        reader.take(byte)
        data.append(byte)
        if len(data) > 4000:
            return
    assert isinstance(json.loads(data.decode("utf-8")), dict)


@pytest.mark.parametrize(
    "text",
    [
        "[1]", "1", '"a"', "{]", "{,", '{"a"}', '{"a":}', '{"a":1,}', "{'a':1}", '{"a":01}', '{"a":1.}', '{"a":.5}',
        '{"a":+1}', '{"a":-}', '{"a":1e}', '{"a":tru,', '{"a":True}', '{"a":NaN}', '{"a":"\n"}', '{"a":"\\x"}',
        '{"a":"\\u12g4"}', '{"a":1}}', '{"a":1} ', '{"a":[1,]}', '{"a" "b"}', '{"a":1 "b":2}', "{1:2}", "",
    ],
)  # fmt: skip
def test_what_is_no_object_is_never_complete(text: str) -> None:
    """Each is a slip that models make."""
    allowed, complete = read(text.encode())
    assert not (allowed and complete)


@pytest.mark.parametrize("data", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe4\xbd\x22", b"\x80"])
def test_strings_are_utf8(data: bytes) -> None:
    """Models that write bytes can write half a character, and a client could not decode the whole."""
    assert not read(b'{"a":"' + data + b'"}')[0]


def test_blanks_between_values_come_to_an_end() -> None:
    """A model may find a line feed likeliest for ever; it must be made to go on."""
    assert read(b'{ "a": 1 }')[0]
    assert not read(b'{"a":' + b" " * 100)[0]


def test_tokens_of_several_bytes_are_allowed_as_a_whole() -> None:
    """A vocabulary's pieces go across the borders of values; one bad byte forbids the whole piece."""
    reader = JsonObject([b"", b'{"', b'a":', b"1}", b"1}x", b"\xe5\xa5", b'\xbd"'])
    assert [token for token in range(7) if reader.allows(token)] == [1]
    for token in (1, 2):
        reader.take(token)
    assert reader.allows(3)
    assert not reader.allows(4)
    reader.take(3)
    assert reader.complete
    assert not any(reader.allows(token) for token in range(7))
