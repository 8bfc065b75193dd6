"""Tables: Parquet and Arrow files as raw rows, in ranges of row groups or record batches.

They are mapped into memory and decoded a few rows at a time. A row's bytes are taken to be those of its JSON.
Not here: what the rows mean (`checking`).
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from minimind.data.reading.checking import RawRow
from minimind.data.reading.files import BUFFER_BYTES, PACKED_RATIO, PIECE_BYTES, Part, open_raw
from minimind.data.reading.locations import is_remote
from minimind.data.reading.strict_json import RowError
from minimind.errors import DataError, MissingError

_ROWS_AT_ONCE = 512


def table_parts(whole: Part) -> Iterator[Part]:
    """Ranges of row groups or batches that take up about PIECE_BYTES of the file."""
    rows = _rows_by_group(whole)
    size = whole.size // max(1, len(rows))
    step = max(1, PIECE_BYTES // max(1, size * (PACKED_RATIO if whole.kind == "parquet" else 1)))
    line = 1
    for begin in range(0, len(rows), step):
        end = min(begin + step, len(rows))
        yield whole.replace(begin=begin, end=end, first_line=line, size=size * (end - begin))
        line += sum(rows[begin:end])


def _rows_by_group(whole: Part) -> list[int]:
    """How many rows each row group or batch has; one group for a stream, which has no index."""
    with _table_errors(whole, lambda: 0):
        if whole.kind == "parquet":
            from pyarrow import parquet

            metadata = parquet.read_metadata(whole.location)
            return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        with pa.memory_map(whole.location) as file:
            if file.read(6) != b"ARROW1":
                return [0]
            file.seek(0)
            narrow = pa.ipc.IpcReadOptions(included_fields=[0])
            reader = pa.ipc.open_file(file, options=narrow)
            return [reader.get_batch(index).num_rows for index in range(reader.num_record_batches)]


def table_rows(part: Part) -> Iterator[list[RawRow]]:
    line = part.first_line
    with _on_disk(part) as path, _table_errors(part, lambda: line - part.first_line):
        for batch in (_parquet_batches if part.kind == "parquet" else _arrow_batches)(path, part):
            for start in range(0, batch.num_rows, _ROWS_AT_ONCE):
                values = _values(batch.slice(start, _ROWS_AT_ONCE))
                yield [RawRow(line + place, value, as_json(value)) for place, value in enumerate(values)]
                line += len(values)


def _parquet_batches(path: str, part: Part) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, memory_map=True) as file:
        groups = range(part.begin, file.num_row_groups if part.end is None else part.end)
        yield from file.iter_batches(batch_size=_ROWS_AT_ONCE, row_groups=list(groups))


def _arrow_batches(path: str, part: Part) -> Iterator[pa.RecordBatch]:
    with Path(path).open("rb") as start, pa.memory_map(path) as file:
        if start.read(6) != b"ARROW1":
            yield from pa.ipc.open_stream(file)
            return
        reader = pa.ipc.open_file(file)
        last = reader.num_record_batches if part.end is None else part.end
        yield from (reader.get_batch(index) for index in range(part.begin, last))


@contextmanager
def _on_disk(part: Part) -> Iterator[str]:
    """The path of a table; a remote one is fetched to a temporary file, because it is read from its end."""
    if not is_remote(part.location):
        with open_raw(part.location, part.label):
            yield part.location
        return
    with tempfile.NamedTemporaryFile(suffix=f".{part.kind}") as copy, open_raw(part.location, part.label) as raw:
        shutil.copyfileobj(raw, copy, BUFFER_BYTES)
        copy.flush()
        yield copy.name


@contextmanager
def _table_errors(part: Part, num_rows: Callable[[], int]) -> Iterator[None]:
    try:
        yield
    except MissingError:
        raise
    except (pa.ArrowException, OSError) as error:
        what = f"{part.label}: cannot be read as {part.kind} after row {num_rows()}"
        raise DataError(f"{what} ({str(error)[:100]}); it is damaged or of another format") from None


def _values(batch: pa.RecordBatch) -> list[Mapping[str, Any] | RowError]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        return [_value(batch.slice(index, 1)) for index in range(batch.num_rows)]


def _value(one_row: pa.RecordBatch) -> Mapping[str, Any] | RowError:
    try:
        return one_row.to_pylist()[0]
    except UnicodeDecodeError as error:
        return RowError("bad_utf8", f"byte {error.start + 1} of a string is not UTF-8")


def as_json(value: Mapping[str, Any] | RowError) -> bytes:
    """A row of a table as JSON: what its bytes are taken to be."""
    return b"" if isinstance(value, RowError) else msgspec.json.encode(value, enc_hook=str)
