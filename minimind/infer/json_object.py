"""Which bytes may come next in a JSON object, so that a model can be kept to one.

`JsonObject` reads an object byte by byte, as RFC 8259 has it, and says of any further bytes whether they could continue
it. Strings must be UTF-8, so that the whole is text. White space between values is limited: a model that may always
write another blank would never end. Not here: JSON Schema; trailing text, for the answer ends with the object.
"""

from collections.abc import Iterable, Sequence

_BLANKS = frozenset(b" \t\n\r")
_MAX_BLANKS = 24
_MAX_DEPTH = 64
_DIGITS = frozenset(b"0123456789")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_WORDS = {ord("t"): b"rue", ord("f"): b"alse", ord("n"): b"ull"}
_NUMBERS = {
    # where in a number → what may follow, and where that leads
    "-": {**dict.fromkeys(b"123456789", "int"), ord("0"): "zero"},
    "zero": {ord("."): ".", ord("e"): "e", ord("E"): "e"},
    "int": {**dict.fromkeys(_DIGITS, "int"), ord("."): ".", ord("e"): "e", ord("E"): "e"},
    ".": dict.fromkeys(_DIGITS, "fraction"),
    "fraction": {**dict.fromkeys(_DIGITS, "fraction"), ord("e"): "e", ord("E"): "e"},
    "e": {**dict.fromkeys(_DIGITS, "exponent"), ord("+"): "e+", ord("-"): "e+"},
    "e+": dict.fromkeys(_DIGITS, "exponent"),
    "exponent": dict.fromkeys(_DIGITS, "exponent"),
}
_COMPLETE_NUMBERS = frozenset({"zero", "int", "fraction", "exponent"})

_State = tuple[str, tuple[bytes, ...], int, object]
"""What is expected; the brackets that are open; blanks in a row; and what that place needs to know."""
_START: _State = ("object", (), 0, None)


class JsonObject:
    """An object under way. `pieces` are the bytes of a vocabulary's tokens, by id; special tokens have none."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces, self._state = pieces, _START

    @property
    def complete(self) -> bool:
        """Whether the object has ended."""
        return self._state[0] == "end"

    def allows(self, token: int) -> bool:
        """Whether a token may come next. One that goes on behind the end of the object may not."""
        piece = self._pieces[token]
        return bool(piece) and _after(self._state, piece) is not None

    def take(self, token: int) -> None:
        """Go on by a token that is allowed."""
        state = _after(self._state, self._pieces[token])
        assert state is not None, "only what is allowed is taken"
        self._state = state


def _after(state: _State, more: Iterable[int]) -> _State | None:
    for byte in more:
        found = _step(state, byte)
        if found is None:
            return None
        state = found
    return state


def _step(state: _State, byte: int) -> _State | None:
    place, opened, blanks, detail = state
    if place == "string":
        return _in_string(opened, byte, *detail)  # type: ignore[misc]
    if place == "word":
        rest: bytes = detail  # type: ignore[assignment]
        if byte != rest[0]:
            return None
        return ("word", opened, 0, rest[1:]) if rest[1:] else ("after value", opened, 0, None)
    if place == "number":
        following = _NUMBERS[detail].get(byte)  # type: ignore[index]
        if following:
            return "number", opened, 0, following
        return _step(("after value", opened, 0, None), byte) if detail in _COMPLETE_NUMBERS else None
    if place == "end":
        return None
    if byte in _BLANKS:
        return (place, opened, blanks + 1, detail) if blanks < _MAX_BLANKS else None
    return _between(place, opened, byte)


def _between(place: str, opened: tuple[bytes, ...], byte: int) -> _State | None:
    """A byte that is no blank, between the parts of an object."""
    sign = bytes([byte])
    if place == "object":
        return ("first key", (b"{",), 0, None) if sign == b"{" else None
    if place in ("first key", "key"):
        if sign == b'"':
            return "string", opened, 0, ("colon", "")
        return _closed(opened, sign) if place == "first key" else None
    if place == "colon":
        return ("value", opened, 0, None) if sign == b":" else None
    if place == "after value":
        if sign == b",":
            return ("key" if opened[-1] == b"{" else "value"), opened, 0, None
        return _closed(opened, sign)
    if place == "first item" and sign == b"]":
        return _closed(opened, sign)
    return _value(opened, byte)


def _value(opened: tuple[bytes, ...], byte: int) -> _State | None:
    sign = bytes([byte])
    if sign == b'"':
        return "string", opened, 0, ("after value", "")
    if sign in (b"{", b"["):
        if len(opened) >= _MAX_DEPTH:
            return None
        return ("first key" if sign == b"{" else "first item"), (*opened, sign), 0, None
    if byte in _WORDS:
        return "word", opened, 0, _WORDS[byte]
    if sign == b"-":
        return "number", opened, 0, "-"
    return ("number", opened, 0, _NUMBERS["-"][byte]) if byte in _DIGITS else None


def _closed(opened: tuple[bytes, ...], sign: bytes) -> _State | None:
    if (opened[-1], sign) not in ((b"{", b"}"), (b"[", b"]")):
        return None
    return ("after value", opened[:-1], 0, None) if len(opened) > 1 else ("end", (), 0, None)


def _in_string(opened: tuple[bytes, ...], byte: int, then: str, within: str) -> _State | None:
    """`within` is "" between characters, else what the character under way still needs."""
    if within == "\\":
        if byte == ord("u"):
            return "string", opened, 0, (then, "xxxx")
        return ("string", opened, 0, (then, "")) if byte in b'"\\/bfnrt' else None
    if within.startswith("x"):
        return ("string", opened, 0, (then, within[1:])) if byte in _HEX else None
    if within:  # the least and greatest value of the next byte of a UTF-8 character, and how many come after it
        least, greatest, more = (int(part) for part in within.split())
        if not least <= byte <= greatest:
            return None
        return "string", opened, 0, (then, f"128 191 {more - 1}" if more else "")
    if byte == ord('"'):
        return then, opened, 0, None
    if byte == ord("\\"):
        return "string", opened, 0, (then, "\\")
    if byte < 0x20:
        return None
    if byte < 0x80:
        return "string", opened, 0, (then, "")
    bounds = _utf8_bounds(byte)
    return ("string", opened, 0, (then, bounds)) if bounds else None


def _utf8_bounds(first: int) -> str | None:
    """What may follow the first byte of a character of several (Unicode 16, table 3-7)."""
    if 0xC2 <= first <= 0xDF:
        return "128 191 0"
    if 0xE0 <= first <= 0xEF:
        least = 0xA0 if first == 0xE0 else 0x80
        return f"{least} {0x9F if first == 0xED else 0xBF} 1"
    if 0xF0 <= first <= 0xF4:
        least = 0x90 if first == 0xF0 else 0x80
        return f"{least} {0x8F if first == 0xF4 else 0xBF} 2"
    return None
