"""Escapes of JSON strings, undone for all texts of a block at once.

Escapes of one letter are undone by arithmetic on the whole block: the letter becomes what it stands for, the
texts are put end to end, and the backslashes are taken out. Those of a code (`\\u4e2d`) are for a parser. Not here:
where texts and escapes are, and which texts are certain (`json_rows`).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minimind.data.arrays import Bools, Bytes, Ints, booleans, int64s, joined_strings, offsets

_BACKSLASH, _NO_UTF8 = ord("\\"), 0xFF
"""The second is a byte that no UTF-8 text has."""


def meanings(letters: Bytes) -> Bytes:
    """What the letters behind backslashes stand for; 0 where that is no character of one byte."""
    return _table()[letters]


def unescaped(codes: Bytes, escapes: Ints, meant: Bytes, begins: Ints, ends: Ints) -> pa.StringArray:
    """The texts between `begins` and `ends`, which are UTF-8, their `escapes` replaced by what is `meant`."""
    codes = codes.copy()
    whole = escapes[: len(escapes) - (len(codes) and codes[-1] == _BACKSLASH)]
    codes[whole + 1] = meant[: len(whole)]
    codes[whole] = _NO_UTF8
    num_escapes = np.searchsorted(escapes, ends) - np.searchsorted(escapes, begins)
    content = _joined(codes, begins, ends)
    if num_escapes.any():
        joined = np.frombuffer(content, np.uint8)
        whole = pa.UInt8Array.from_buffers(pa.uint8(), len(joined), [None, content])
        content = whole.filter(booleans(joined != _NO_UTF8)).buffers()[1]
    return pa.StringArray.from_buffers(len(begins), pa.py_buffer(offsets(ends - begins - num_escapes)), content)


def replaced(texts: pa.StringArray, places: Bools, instead: Sequence[bytes]) -> pa.StringArray:
    """`texts` with others at `places`."""
    return pc.replace_with_mask(texts, booleans(places), joined_strings(instead))


@cache
def _table() -> Bytes:
    table = np.zeros(256, np.uint8)
    table[np.frombuffer(b'"\\/bfnrt', np.uint8)] = np.frombuffer(b'"\\/\b\f\n\r\t', np.uint8)
    return table


def _joined(codes: Bytes, begins: Ints, ends: Ints) -> pa.Buffer:
    """What stands between `begins` and `ends`, end to end."""
    if not len(begins):
        return pa.py_buffer(b"")
    edges = np.stack((begins, ends), axis=1).reshape(-1).astype(np.int32)
    wanted = np.arange(0, len(edges), 2)  # the other pieces are what is between two texts
    pieces = pa.BinaryArray.from_buffers(pa.binary(), len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(codes)])
    taken = pieces.take(int64s(wanted))
    return taken.buffers()[2][: (ends - begins).sum()]
