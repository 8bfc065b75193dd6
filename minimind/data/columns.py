"""Columns: checked rows as Arrow record batches with the columns of their kind, and how much is in these.

Built field by field and from buffers: `pa.array` of a list of messages asks each one for its type.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minimind.data.arrays import Ints, numbers, offsets, strings
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


def text_bytes(kind: RowKind, rows: pa.RecordBatch) -> Ints:
    """UTF-8 bytes of each row's texts: the text, or contents, reasoning and tools of all messages."""
    return _summed(kind, rows, pc.binary_length, ("content", "reasoning_content", "tools", "tool_calls"))


def text_characters(kind: RowKind, rows: pa.RecordBatch) -> Ints:
    """Characters of what is said in each row's texts, so not of tools and their calls."""
    return _summed(kind, rows, pc.utf8_length, ("content", "reasoning_content"))


def strings_of_one_length(joined: bytes, count: int) -> pa.StringArray:
    """`count` strings that stand end to end in `joined`."""
    length = len(joined) // max(1, count)
    ends = np.arange(count + 1, dtype=np.int32) * length
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(joined))


def message_lists(fields: Mapping[str, Sequence[str | None]], lengths: Sequence[int]) -> pa.ListArray:
    """Lists of messages, one after the other in `fields`; fields that are not given are null."""
    given = {name: strings(values) for name, values in fields.items()}
    arrays = [given[name] if name in given else pa.nulls(sum(lengths), pa.string()) for name in MESSAGE.names]
    messages = pa.StructArray.from_arrays(arrays, fields=list(MESSAGE))
    ends = offsets(np.array(lengths, np.int64))
    return pa.Array.from_buffers(pa.list_(MESSAGE), len(lengths), [None, pa.py_buffer(ends)], children=[messages])


def _column(kind: pa.DataType, values: Sequence[str] | Sequence[Sequence[Message]]) -> pa.Array:
    if kind != pa.list_(MESSAGE):
        return strings(values)
    turns = [turn for value in values for turn in value]
    fields = {field.name: [turn[field.name] for turn in turns] for field in MESSAGE}
    return message_lists(fields, [len(value) for value in values])


def _summed(kind: RowKind, rows: pa.RecordBatch, length: Callable[[pa.Array], pa.Array], parts: Sequence[str]) -> Ints:
    """The lengths of each row's text, or of `parts` of all its messages."""
    if kind == "pretrain":
        return numbers(length(rows["text"]))
    sums = np.zeros(rows.num_rows, np.int64)
    for column in (rows[name] for name in CONTENT[kind]):
        turns, ends = column.flatten(), offsets(numbers(pc.list_value_length(column)))
        for part in parts:
            sums += np.diff(np.concatenate(([0], np.cumsum(numbers(length(turns.field(part))))))[ends])
    return sums
