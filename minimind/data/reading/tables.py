"""Tables: Parquet and Arrow files as raw rows, in ranges of row groups or record batches.

They are mapped into memory and decoded some rows at a time, as many as take some megabytes, however often a row
repeats what is stored once. A row's bytes are taken to be those of its JSON. A file may lie about itself:
each batch of Arrow is proven before a value of it is touched (an offset beyond the data would end the process), a
Parquet file must have the rows its footer counts, and no more may come out of a small file than out of an archive.

Not here: what the rows mean (`checking`).
"""

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from minimind.data.reading.checking import RawRow
from minimind.data.reading.files import BUFFER_BYTES, PACKED_RATIO, PIECE_BYTES, Part, open_raw
from minimind.data.reading.locations import is_remote
from minimind.data.reading.strict_json import RowError
from minimind.data.reading.unpacking import refuse_bomb
from minimind.errors import DataError, MissingError, ServiceError

_ROWS_AT_ONCE = 512
_SLICE_BYTES = 8 << 20
_DECODED_BYTES = 64 << 20
"""So much of a column is decoded at once where each of its values may be as long as all that are stored once."""


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


def table_rows(part: Part) -> Iterator[RawRow]:
    """The rows of a part, one by one. Raises DataError for a file that is not what it says."""
    num_rows = bytes_out = 0
    with _on_disk(part) as path, _table_errors(part, lambda: num_rows):
        stored = Path(path).stat().st_size
        for batch in (_parquet_batches if part.kind == "parquet" else _arrow_batches)(path, part):
            for value in (value for some in _slices(batch) for value in _values(some)):
                raw = as_json(value)
                bytes_out += len(raw)
                refuse_bomb(part.label, stored=stored, unpacked=bytes_out)
                yield RawRow(part.first_line + num_rows, value, raw)
                num_rows += 1


def _parquet_batches(path: str, part: Part) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    with parquet.ParquetFile(path, memory_map=True) as file:
        groups = range(part.begin, file.num_row_groups if part.end is None else part.end)
        _refuse_doubled(file.schema_arrow, part.label)
        counted = sum(file.metadata.row_group(group).num_rows for group in groups)
        at_once = min([_rows_at_once(file.metadata.row_group(group)) for group in groups], default=_ROWS_AT_ONCE)
        found = 0
        for batch in file.iter_batches(batch_size=at_once, row_groups=list(groups)):
            yield batch
            found += batch.num_rows
        if found != counted:
            raise DataError(
                f"{part.label}: has {found:,} rows where its footer counts {counted:,}; it is damaged, fetch it again"
            )


def _rows_at_once(group: Any) -> int:
    """Rows of a row group that may be decoded together, were each of them as long as a column's whole dictionary."""
    longest = 1
    for number in range(group.num_columns):
        column = group.column(number)
        begin, end = column.dictionary_page_offset, column.data_page_offset
        if begin is not None and end > begin and column.total_compressed_size > 0:
            share = min(1, (end - begin) / column.total_compressed_size)
            longest = max(longest, int(share * column.total_uncompressed_size))
    return max(1, min(_ROWS_AT_ONCE, _DECODED_BYTES // longest))


def _arrow_batches(path: str, part: Part) -> Iterator[pa.RecordBatch]:
    with Path(path).open("rb") as start, pa.memory_map(path) as file:
        is_stream = start.read(6) != b"ARROW1"
        reader = pa.ipc.open_stream(file) if is_stream else pa.ipc.open_file(file)
        _refuse_doubled(reader.schema, part.label)
        last = None if is_stream else reader.num_record_batches if part.end is None else part.end
        for batch in reader if last is None else map(reader.get_batch, range(part.begin, last)):
            _require_sound(batch)
            yield batch


def _require_sound(batch: pa.RecordBatch) -> None:
    """Raise ArrowInvalid where lengths, offsets or keys of a batch lead out of its data."""
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            if not pa.types.is_string(column.type):
                raise
            column.view(pa.binary()).validate(full=True)  # which rows are not UTF-8 is told row by row


def _refuse_doubled(fields: Iterable[pa.Field], label: str) -> None:
    """Raise DataError where two columns, or two fields of one, have one name: only one of them could be read."""
    fields = list(fields)
    if doubled := [name for name, count in Counter(field.name for field in fields).items() if count > 1]:
        raise DataError(f"{label}: two columns are named `{doubled[0]}`; rename one of them and write the file again")
    for field in fields:
        kind = field.type
        _refuse_doubled([kind.field(number) for number in range(kind.num_fields)], label)


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
    except (MissingError, ServiceError):
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last is of a name of a column
        what = f"{part.label}: cannot be read as {part.kind} after row {num_rows()}"
        why = " ".join(str(error).split())[:100]
        raise DataError(f"{what} ({why}); it is damaged or of another format, fetch it again or name another") from None


def _slices(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch in slices of some megabytes, whatever its rows share."""
    most = min([_ROWS_AT_ONCE, *(_SLICE_BYTES // _longest_entry(column) for column in batch.columns)])
    start = 0
    while start < batch.num_rows:
        rows = max(1, most)
        while rows > 1 and batch.slice(start, rows).nbytes > _SLICE_BYTES:
            rows //= 2
        yield batch.slice(start, rows)
        start += rows


def _longest_entry(column: pa.Array) -> int:
    """Bytes of the longest string of a dictionary, which any row may be; 1 of another column."""
    if not pa.types.is_dictionary(column.type) or not _is_binary(column.type.value_type):
        return 1
    return max(1, pc.max(pc.binary_length(column.dictionary)).as_py() or 1)


def _is_binary(kind: pa.DataType) -> bool:
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


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
