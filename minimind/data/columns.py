"""Columns: checked rows as Arrow record batches with the columns of their kind.

Built field by field and, where it can be, from buffers: `pa.array` of a list of messages asks each one for its
type, and the first `pa.array` or `pa.scalar` of a process imports pandas (0.3 seconds, 60 MB).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from minimind.data.documents import CONTENT, MESSAGE, SCHEMAS, Message, Row, RowKind


def row_batch(
    kind: RowKind, source: str, *, lines: pa.Array, ids: pa.Array, groups: pa.Array, content: Mapping[str, pa.Array]
) -> pa.RecordBatch:
    """Rows of `kind`; columns that are not given (the language, not known yet) are null."""
    columns = {
        "id": ids,
        "source": strings_of_one_length(source.encode() * len(ids), len(ids)),
        "line": lines,
        "group": groups,
        **content,
    }
    schema = SCHEMAS[kind]
    arrays = [columns[field.name] if field.name in columns else pa.nulls(len(ids), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def content_columns(kind: RowKind, rows: Sequence[Row]) -> dict[str, pa.Array]:
    """The content fields of checked rows."""
    return {name: _column(SCHEMAS[kind].field(name).type, [row[name] for row in rows]) for name in CONTENT[kind]}


def strings_of_one_length(joined: bytes, count: int) -> pa.StringArray:
    """`count` strings that stand end to end in `joined`."""
    length = len(joined) // max(1, count)
    ends = np.arange(count + 1, dtype=np.int32) * length
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(joined))


def _column(kind: pa.DataType, values: Sequence[str] | Sequence[Sequence[Message]]) -> pa.Array:
    if kind != pa.list_(MESSAGE):
        return pa.array(values, kind)
    turns = [turn for value in values for turn in value]
    fields = [pa.array([turn[field.name] for turn in turns], field.type) for field in MESSAGE]
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    messages = pa.StructArray.from_arrays(fields, fields=list(MESSAGE))
    return pa.ListArray.from_arrays(pa.array(ends), messages, type=pa.list_(MESSAGE))
