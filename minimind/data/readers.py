"""Readers: raw rows out of each kind of source, one at a time, with the file and line they stand on.

A raw row is not judged here: it is the bytes of a JSON line, a text, or a mapping, for `sources` to check.
The hub's JSONL files come through `datasets` as lines of text: its own JSON reader rewrites rows whose types
differ (measured: one odd row turned 999 good ones into quoted JSON). `datasets` fetches, we judge.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from minimind.data.files import MAX_ROW_BYTES, SUFFIXES, find_files, read_lines, refuse_foreign
from minimind.data.strict_json import RowError, read_text
from minimind.errors import DataError, MissingError

if TYPE_CHECKING:
    from minimind.data.sources import SourceConfig

PASSAGE_CHARACTERS = 1000
"""A passage of a text file ends at the first blank line after so many: enough context, many documents."""
_TABLE_ROWS = 512


@dataclass(frozen=True)
class RawRow:
    """What stands at one place of a source: JSON bytes, a mapping, or why it cannot be read."""

    file: str
    line: int
    value: bytes | Mapping[str, Any] | RowError
    raw: bytes = b""
    """The row as it was read, where `value` does not say it."""


def raw_rows(source: "SourceConfig") -> Iterator[RawRow]:
    """Every row of `source` in order. Raises MissingError or DataError for what is wrong as a whole."""
    if source.kind == "pydocs":
        return _pydocs_rows(source)
    if source.kind == "hub":
        return _hub_rows(source)
    read = _FILE_READERS[source.kind]
    files = find_files(str(source.path), source.kind)
    return itertools.chain.from_iterable(read(source, path, name) for name, path in files.items())


def _jsonl_rows(source: "SourceConfig", path: Path, name: str) -> Iterator[RawRow]:
    refuse_foreign(path, f"source {source.name}, file {name}", json_lines=True)
    for number, line in read_lines(path, f"source {source.name}, file {name}"):
        if line.strip():
            yield _limited(RawRow(name, number, line))


def _text_rows(source: "SourceConfig", path: Path, name: str) -> Iterator[RawRow]:
    """Documents of a text file: lines, passages or the whole of it, at the line where they begin."""
    refuse_foreign(path, f"source {source.name}, file {name}", json_lines=False)
    lines: list[bytes] = []
    size = begin = 0
    for number, line in read_lines(path, f"source {source.name}, file {name}"):
        blank = not line.strip()
        if blank and not lines:
            continue
        begin = begin or number
        lines.append(line)
        size += len(line) + 1
        ends = {"line": True, "passage": blank and _is_passage(lines), "file": False}[source.document]
        if ends or size > MAX_ROW_BYTES:
            yield _text_row(name, begin, lines)
            lines, size, begin = [], 0, 0
    if lines:
        yield _text_row(name, begin, lines)


def _is_passage(lines: list[bytes]) -> bool:
    return sum(len(line.decode("utf-8", "replace")) for line in lines) >= PASSAGE_CHARACTERS


def _text_row(name: str, line: int, lines: list[bytes]) -> RawRow:
    raw = b"\n".join(lines).strip(b"\n")
    row = _limited(RawRow(name, line, raw))
    if isinstance(row.value, RowError):
        return row
    try:
        return RawRow(name, line, {"text": read_text(raw).removeprefix("\ufeff")}, raw)
    except RowError as error:
        return RawRow(name, line, error, raw)


def _limited(row: RawRow) -> RawRow:
    """The row, or why it is too long, with the beginning of it."""
    if isinstance(row.value, bytes) and len(row.value) > MAX_ROW_BYTES:
        detail = f"more than {MAX_ROW_BYTES >> 20} MiB in one row; only its beginning is kept in the drop log"
        return RawRow(row.file, row.line, RowError("too_long", detail), row.value[: 1 << 16])
    return row


def _parquet_rows(source: "SourceConfig", path: Path, name: str) -> Iterator[RawRow]:
    from pyarrow import parquet

    def batches() -> Iterator[pa.RecordBatch]:
        with parquet.ParquetFile(path, memory_map=True) as file:
            yield from file.iter_batches(batch_size=_TABLE_ROWS)

    return _table_rows(batches, source, name)


def _arrow_rows(source: "SourceConfig", path: Path, name: str) -> Iterator[RawRow]:
    def batches() -> Iterator[pa.RecordBatch]:
        with path.open("rb") as start, pa.memory_map(str(path)) as file:
            if start.read(6) == b"ARROW1":
                reader = pa.ipc.open_file(file)
                yield from (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                yield from pa.ipc.open_stream(file)

    return _table_rows(batches, source, name)


def _table_rows(batches: Callable[[], Iterator[pa.RecordBatch]], source: "SourceConfig", name: str) -> Iterator[RawRow]:
    number = 0
    try:
        for batch in batches():
            for start in range(0, batch.num_rows, _TABLE_ROWS):
                for value in _values(batch.slice(start, _TABLE_ROWS)):
                    number += 1
                    yield RawRow(name, number, value)
    except (pa.ArrowException, OSError) as error:
        what = f"source {source.name}, file {name}: cannot be read as {source.kind} after row {number}"
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


_FILE_READERS: dict[str, Callable[["SourceConfig", Path, str], Iterator[RawRow]]] = {
    "jsonl": _jsonl_rows,
    "text": _text_rows,
    "parquet": _parquet_rows,
    "arrow": _arrow_rows,
}


def _pydocs_rows(source: "SourceConfig") -> Iterator[RawRow]:
    from minimind.data import pydocs

    for value in pydocs.rows(source.rows, source.packages):
        yield RawRow(str(value["group"]), int(value["line"]), value)


def hub_url(source: "SourceConfig") -> str:
    """Where `datasets` finds one file of a hub data set."""
    return f"hf://datasets/{source.dataset}@{source.revision}/{source.file}"


def _hub_rows(source: "SourceConfig") -> Iterator[RawRow]:
    """Rows of a hub data set, streamed; any trouble on the way is one MissingError."""
    import datasets

    lines = bool(source.file and source.file.endswith(SUFFIXES["jsonl"]))
    arguments: dict[str, Any] = {"data_files": source.file, "revision": source.revision, "split": source.split}
    number = 0
    try:
        if lines:
            stream = datasets.load_dataset("text", data_files=hub_url(source), split="train", streaming=True)
        else:
            stream = datasets.load_dataset(source.dataset, streaming=True, **arguments)
        for number, value in enumerate(stream, 1):
            if not lines:
                yield RawRow(source.file or source.split, number, value)
            elif value["text"].strip():
                yield _limited(RawRow(str(source.file), number, value["text"].encode("utf-8")))
    except Exception as error:  # which HTTP library's errors come out depends on the hub client's version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        where = f"source {source.name}: hub data set {source.dataset}"
        raise MissingError(
            f"{where} cannot be read after {number} rows ({reason}); check the name and the network, or download "
            'its files and use kind = "jsonl" with a path'
        ) from error
