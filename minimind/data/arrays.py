"""Arrays between numpy and Arrow, made of their buffers.

`pa.array`, `pa.scalar` and `to_numpy` look for pandas first, and where it is installed they import it: a quarter
of a second and 60 MB, to find that nothing here is of it. Not here: columns of rows (`columns`).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]


def numbers(array: pa.Array) -> Ints:
    """Integers with a sign; 0 where there is none."""
    if not len(array):
        return np.zeros(0, np.int64)
    place = slice(array.offset, array.offset + len(array))
    validity, values = array.buffers()
    found = np.frombuffer(values, f"i{array.type.bit_width // 8}")[place].astype(np.int64)
    if array.null_count:
        found[np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[place] == 0] = 0
    return found


def int64s(values: Ints) -> pa.Int64Array:
    return pa.Int64Array.from_buffers(pa.int64(), len(values), [None, pa.py_buffer(np.ascontiguousarray(values))])


def booleans(values: Bools) -> pa.BooleanArray:
    return pa.BooleanArray.from_buffers(pa.bool_(), len(values), [None, _bits(values)])


def strings(values: Sequence[str | None]) -> pa.StringArray:
    """Strings, some of which may be null. Raises UnicodeEncodeError for half characters."""
    num_null = values.count(None)
    if num_null == len(values):
        return pa.nulls(num_null, pa.string())
    if not num_null:
        return joined_strings([value.encode() for value in values])  # type: ignore[union-attr]
    validity = _bits(np.array([value is not None for value in values], np.bool_))
    return joined_strings([(value or "").encode() for value in values], validity, num_null)


def joined_strings(encoded: Sequence[bytes], validity: pa.Buffer | None = None, num_null: int = 0) -> pa.StringArray:
    """Strings of their UTF-8."""
    ends = offsets(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    content = pa.py_buffer(b"".join(encoded))
    return pa.StringArray.from_buffers(len(encoded), pa.py_buffer(ends), content, validity, num_null)


def offsets(lengths: Ints) -> npt.NDArray[np.int32]:
    """Where each of some things that stand end to end begins, and where the last one ends."""
    ends = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _bits(values: Bools) -> pa.Buffer:
    return pa.py_buffer(np.packbits(values, bitorder="little"))
