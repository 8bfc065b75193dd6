"""JSON Lines at the speed of memory: where the lines, strings and escapes of a block of bytes are.

A block is some megabyte of whole lines. It is looked at as one array: a pass each for control characters,
quotes and backslashes says where lines begin, which quotes count, and which lines want a closer look. Rows of
one text, `{"text": "…"}` with or without other plain fields, are then taken out without making a Python string
of any text: what stands around the text is parsed strictly, the text itself is copied and its escapes undone.
This is about four times faster than parsing each line and building a column of the strings.

Only what is certain is taken; every other line is for `checking`, and `strict_json.read_json` has the last
word. Not here: what a row must look like (`documents`), reading files (`files`).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from minimind.data.arrays import Bools, Bytes, Ints
from minimind.data.reading.json_escapes import meanings, replaced, unescaped
from minimind.data.reading.strict_json import DOUBT, quick_json

_NEWLINE, _RETURN, _SPACE, _QUOTE, _BACKSLASH = b'\n\r "\\'
_MARK = 0xEF
"""The first byte of a byte order mark (and of wide punctuation)."""
BLANKS = "\0 \t\r\n\ufeff"
"""Characters that are no content."""
_BLANK = re.compile(rb"(?: |\\[nrt]|\xef\xbb\xbf)*")
_SPLIT = 8
"""Parts of a block that are looked at for bytes that are not UTF-8."""
_MAX_KEY_PAIRS = 16
"""The text is looked for among so many strings of a line."""
_FIRST_LINES = 5
"""Some of them may be odd."""


class LineIndex:
    """The lines of `data`, which are whole, and what is in them."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.codes = np.frombuffer(data, np.uint8)
        found = self.codes == _QUOTE
        found |= self.codes == _BACKSLASH
        found |= self.codes < _SPACE
        marks = np.flatnonzero(found)
        kinds = self.codes[marks]
        self._find_lines(marks[kinds < _SPACE])
        self._find_strings(marks, kinds)
        self._doubt_encoding()

    def __len__(self) -> int:
        return len(self.starts)

    def line(self, number: int) -> bytes:
        """The bytes of one line without its end."""
        return self.data[self.starts[number] : self.ends[number]].rstrip(b"\r\n")

    @cached_property
    def blank(self) -> Bools:
        """Lines of white space."""
        blank = self.starts == self.ends
        maybe = np.flatnonzero(~blank)
        firsts = self.codes[self.starts[maybe]]
        for line in maybe[(firsts <= _SPACE) | (firsts == _MARK)]:
            blank[line] = not self.line(line).removeprefix(b"\xef\xbb\xbf").strip()
        return blank

    def _doubt_encoding(self) -> None:
        """Find the lines that are not UTF-8: a look at each part of the block, and a closer one where it has some."""
        view, step = memoryview(self.data), max(1, -(-len(self) // _SPLIT))
        for first in range(0, len(self), step):
            begin, end = int(self.starts[first]), int(self.ends[min(first + step, len(self)) - 1])
            while begin < end and not is_utf8(view[begin:end]):
                line = int(np.searchsorted(self.starts, begin + _first_fault(view[begin:end]), "right")) - 1
                self.doubtful[line] = True
                begin = int(self.ends[line])

    def _find_lines(self, controls: Ints) -> None:
        codes, size = self.codes, len(self.codes)
        is_end = codes[controls] == _NEWLINE
        newlines, others = controls[is_end], controls[~is_end]
        if size and codes[-1] != _NEWLINE:
            newlines = np.append(newlines, size)
        self.starts: Ints = np.concatenate((np.zeros(min(1, len(newlines)), np.int64), newlines[:-1] + 1))
        self.ends: Ints = newlines
        self.doubtful: Bools = np.zeros(len(newlines), np.bool_)
        """Lines that have control characters (but one `\\r` at the end) or are no UTF-8."""
        if len(others):
            at_end = (codes[others] == _RETURN) & (_next_codes(codes, others, _NEWLINE) == _NEWLINE)
            self.doubtful[np.searchsorted(newlines, others[~at_end])] = True
            self.ends = newlines.copy()
            self.ends[np.searchsorted(newlines, others[at_end])] -= 1

    def _find_strings(self, marks: Ints, kinds: Bytes) -> None:
        is_slash = kinds == _BACKSLASH
        self.escapes: Ints = _first_of_pairs(marks[is_slash])
        """Backslashes that begin an escape."""
        self.letters = _next_codes(self.codes, self.escapes, 0)
        """The byte behind each of them, which says what it stands for."""
        is_quote = kinds == _QUOTE
        # A quote behind a backslash that begins an escape is text.
        is_quote[np.searchsorted(marks, self.escapes[self.letters == _QUOTE]) + 1] = False
        self.quotes: Ints = marks[is_quote]
        self.first_quote: Ints = np.searchsorted(self.quotes, np.append(self.starts, len(self.codes)))
        """Of each line, by number of quote; one more behind the last line."""
        self.num_quotes: Ints = np.diff(self.first_quote)
        """Quotes of each line that no backslash escapes."""


@dataclass(frozen=True)
class FlatTexts:
    """The lines that are certainly objects of plain fields and one text, and these texts."""

    lines: Ints
    """Their numbers in the block, from 0."""
    texts: pa.StringArray
    others: list[dict[str, Any]]
    """The objects, with an empty text."""

    def __len__(self) -> int:
        return len(self.lines)

    def encoded(self) -> Iterator[memoryview]:
        """The UTF-8 of each text."""
        _, offsets, content = self.texts.buffers()
        view, ends = memoryview(content), np.frombuffer(offsets, np.int32)[: len(self) + 1].tolist()
        return (view[begin:end] for begin, end in pairwise(ends))


def flat_texts(index: LineIndex, key: str) -> FlatTexts:
    """Rows whose text is the string `key`, as far as that is certain: no nested fields, no blank text."""
    lines, begins, ends = _values_of(index, key.encode())
    meant = meanings(index.letters)
    fits = _not_blank(index, begins, ends)
    spelled = _spelled_out(index, index.escapes[meant == 0], begins, ends)
    if no_text := [begin for begin, text in spelled.items() if not text]:
        fits &= ~np.isin(begins, no_text)
    lines, begins, ends = lines[fits], begins[fits], ends[fits]
    certain, others = _check_surroundings(index, key, lines, begins, ends)
    lines, begins, ends = lines[certain], begins[certain], ends[certain]
    texts = unescaped(index.codes, index.escapes, meant, begins, ends)
    if len(spelled) > len(no_text):
        places = np.isin(begins, list(spelled))
        texts = replaced(texts, places, [spelled[begin] for begin in begins[places].tolist()])
    return FlatTexts(lines, texts, others)


def is_utf8(data: bytes | memoryview) -> bool:
    """Whether `data` is UTF-8, as Python judges it."""
    ends = np.array([0, len(data)], np.int32)
    try:
        pa.StringArray.from_buffers(1, pa.py_buffer(ends), pa.py_buffer(data)).validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _first_fault(data: memoryview) -> int:
    """Where the first byte stands that is not UTF-8, in data that has one."""
    try:
        str(data, "utf-8")
    except UnicodeDecodeError as error:
        return error.start
    raise AssertionError("Arrow and Python disagree about UTF-8")


def _first_of_pairs(slashes: Ints) -> Ints:
    """Every other one of backslashes that follow one another: the second of `\\\\` is text."""
    followers = np.flatnonzero(slashes[1:] - slashes[:-1] == 1) + 1
    if not len(followers):
        return slashes
    begins = np.where(np.diff(followers, prepend=-1) == 1, 0, followers - 1)
    np.maximum.accumulate(begins, out=begins)
    first = np.ones(len(slashes), np.bool_)
    first[followers[(followers - begins) & 1 == 1]] = False
    return slashes[first]


def _next_codes(codes: Bytes, places: Ints, at_end: int) -> Bytes:
    """The byte behind each of `places`, in order; `at_end` where there is none."""
    if len(places) and places[-1] + 1 == len(codes):
        return np.append(codes[places[:-1] + 1], np.uint8(at_end))
    return codes[places + 1]


def _values_of(index: LineIndex, key: bytes) -> tuple[Ints, Ints, Ints]:
    """Lines that have a string as long as `key` where it is looked for, and where the inside of the next one is.

    That is at one place among the strings of a line, where most of the first few lines have it.
    """
    lines = np.flatnonzero(~index.doubtful & (index.num_quotes >= 4) & (index.num_quotes % 2 == 0))
    none = np.zeros(0, np.int64)
    if not len(lines):
        return none, none, none
    found = [_pair_of(index, line, key) for line in lines[:_FIRST_LINES].tolist()]
    pair = max(found, key=lambda place: (place >= 0, found.count(place)))
    lines = lines[index.num_quotes[lines] >= 2 * (pair + 2)]
    if pair < 0 or not len(lines):
        return none, none, none
    first = index.first_quote[lines] + 2 * pair
    opens, closes, begins, ends = (index.quotes[first + step] for step in range(4))
    fits = closes - opens - 1 == len(key)
    return lines[fits], begins[fits] + 1, ends[fits]


def _pair_of(index: LineIndex, line: int, key: bytes) -> int:
    """Which string of the line is `key`, before a colon; -1 for none of the first few."""
    first, last = (int(place) for place in index.first_quote[line : line + 2])
    quotes = index.quotes[first : min(last, first + 2 * _MAX_KEY_PAIRS)].tolist()
    for pair, (begin, end) in enumerate(zip(quotes[::2], quotes[1::2], strict=False)):
        if index.data[begin + 1 : end] == key and index.data[end + 1 : end + 2] == b":":
            return pair
    return -1


def _equal_bytes(index: LineIndex, places: Ints, wanted: bytes) -> Bools:
    """Whether `wanted`, which has no NUL, stands at each of `places`."""
    windows = np.ndarray(len(index.data) - len(wanted) + 1, f"S{len(wanted)}", index.data, strides=(1,))
    return windows[places] == wanted


def _check_surroundings(
    index: LineIndex, key: str, lines: Ints, begins: Ints, ends: Ints
) -> tuple[Bools, list[dict[str, Any]]]:
    """Which lines are objects of plain fields and have the text at `key`; and these objects, with an empty text.

    In an object without nested values a string before a colon is a key of it, so the text found is the one.
    Most lines of a file have the same around their texts, which is parsed once.
    """
    starts, stops, name = index.starts[lines], index.ends[lines], b'"' + key.encode() + b'":'

    def around(place: int) -> dict[str, Any] | None:
        before, after = index.data[starts[place] : begins[place]], index.data[ends[place] : stops[place]]
        is_value = before.endswith((name + b'"', name + b' "'))
        return _plain_object(before + after, int(index.num_quotes[lines[place]]), key) if is_value else None

    certain, objects = np.zeros(len(lines), np.bool_), [None] * len(lines)
    for place in range(min(_FIRST_LINES, len(lines))):
        if (found := around(place)) is not None:
            certain, objects = _alike(index, place, starts, begins, ends, stops), [found] * len(lines)
            break
    for place in np.flatnonzero(~certain).tolist():
        objects[place] = around(place)
        certain[place] = objects[place] is not None
    return certain, objects if certain.all() else [found for found in objects if found is not None]


def _alike(index: LineIndex, place: int, starts: Ints, begins: Ints, ends: Ints, stops: Ints) -> Bools:
    """Which lines have the same before and after their texts as the one at `place`."""
    before, after = index.data[starts[place] : begins[place]], index.data[ends[place] : stops[place]]
    same = (begins - starts == len(before)) & (stops - ends == len(after))
    same[same] = _equal_bytes(index, starts[same], before) & _equal_bytes(index, ends[same], after)
    return same


def _plain_object(raw: bytes, num_quotes: int, key: str) -> dict[str, Any] | None:
    value = quick_json(raw, num_quotes)
    if value is DOUBT or type(value) is not dict or value.get(key) != "":
        return None
    return None if any(isinstance(field, dict | list) for field in value.values()) else value


def _spelled_out(index: LineIndex, odd: Ints, begins: Ints, ends: Ints) -> dict[int, bytes]:
    """Beginning → UTF-8 of the texts that have one of the escapes `odd`; empty where they are no text."""
    if not len(odd):
        return {}
    places = np.flatnonzero(np.searchsorted(odd, begins) != np.searchsorted(odd, ends))
    spelled = {}
    for begin, end in zip(begins[places].tolist(), ends[places].tolist(), strict=True):
        text = quick_json(index.data[begin - 1 : end + 1], 2)
        blank = text is DOUBT or not text.strip(BLANKS)
        spelled[begin] = b"" if blank else text.encode("utf-8")
    return spelled


def _not_blank(index: LineIndex, begins: Ints, ends: Ints) -> Bools:
    """Which texts have more than blanks and byte order marks: of few the first byte leaves a doubt."""
    filled = begins < ends
    maybe = np.flatnonzero(filled)
    firsts = index.codes[begins[maybe]]
    maybe = maybe[(firsts == _SPACE) | (firsts == _BACKSLASH) | (firsts == _MARK)]
    for place in maybe:
        filled[place] = not _BLANK.fullmatch(index.data, int(begins[place]), int(ends[place]))
    return filled
