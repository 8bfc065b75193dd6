"""Shards: rows as Arrow IPC files, how they are written and read.

The corpus is packed with zstd, what comes before it, and is read but once, with lz4. Either reads back several
times cheaper than Parquet.
Rows keep their order, so that the same input gives the same files. Not here: which rows go where (`sharding`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import pyarrow as pa

from minimind.data.columns import text_bytes
from minimind.data.documents import SCHEMAS, RowKind
from minimind.errors import ArtifactError, MissingError

ROWS_DIR = "rows"
SIDES = ("train", "val")
SHARD_BYTES = 64 << 20
BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20
"""A record batch is closed at whichever comes first; it is what a reader holds in memory."""
Compression = Literal["zstd", "lz4"]
"""zstd packs tighter (21 MB of text that takes 35 unpacked, lz4 31), lz4 costs a third of the time."""
_LZ4_LEVEL = -7
"""Looks for less to pack than the usual level does: half of its time for a quarter more bytes."""


class RowWriter:
    """Writes rows of one kind into `directory` as `<stem>-00000.arrow`, `<stem>-00001.arrow`, …

    At least one file is written, without rows if need be, so that a reader finds the schema.
    """

    def __init__(
        self,
        directory: Path,
        kind: RowKind,
        *,
        part_bytes: int = SHARD_BYTES,
        stem: str = "part",
        compression: Compression = "zstd",
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        codec = pa.Codec("lz4", compression_level=_LZ4_LEVEL) if compression == "lz4" else compression
        self._options = pa.ipc.IpcWriteOptions(compression=codec)
        self.rows = 0
        self.parts = 0
        self._directory, self._stem, self._part_bytes = directory, stem, part_bytes
        self._schema = SCHEMAS[kind]
        self._waiting: list[Mapping[str, Any]] = []
        self._waiting_bytes = 0
        self._begin()

    def write(self, row: Mapping[str, Any], size: int = 1024) -> None:
        """Append a row of about `size` bytes."""
        self._waiting.append(row)
        self._waiting_bytes += size
        if len(self._waiting) >= BATCH_ROWS or self._waiting_bytes >= BATCH_BYTES:
            self._flush()

    def write_batch(self, batch: pa.RecordBatch) -> None:
        """Append a whole record batch as it is; one without rows leaves no trace."""
        self._flush()
        if batch.num_rows:
            self._append(batch)

    def close(self) -> None:
        self._flush()
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _flush(self) -> None:
        if self._waiting:
            self._append(pa.RecordBatch.from_pylist(self._waiting, schema=self._schema))
            self._waiting, self._waiting_bytes = [], 0

    def _append(self, batch: pa.RecordBatch) -> None:
        if self._sink.tell() >= self._part_bytes:
            self._end()
            self._begin()
        self._writer.write_batch(batch)
        self.rows += batch.num_rows

    def _begin(self) -> None:
        path = self._directory / f"{self._stem}-{self.parts:05d}.arrow"
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema, options=self._options)
        self.parts += 1

    def _end(self) -> None:
        self._writer.close()
        self._sink.close()


def write_rows(
    directory: Path,
    kind: RowKind,
    batches_or_rows: Iterable[pa.RecordBatch | Mapping[str, Any]],
    *,
    part_bytes: int = SHARD_BYTES,
    stem: str = "part",
) -> int:
    """Write record batches or rows in their order; the number of rows."""
    with RowWriter(directory, kind, part_bytes=part_bytes, stem=stem) as writer:
        for item in batches_or_rows:
            writer.write_batch(item) if isinstance(item, pa.RecordBatch) else writer.write(item)
    return writer.rows


def read_batches(directory: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The record batches of all *.arrow files of `directory`, by name; one batch in memory at a time.

    With `columns` the others are not even decompressed. Raises MissingError where there are no files and
    ArtifactError for a damaged one.
    """
    paths = sorted(directory.glob("*.arrow"))
    if not paths:
        raise MissingError(f"{directory}: no *.arrow files here; run the stage that writes them")
    for path in paths:
        yield from read_file(path, columns)


def read_file(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The record batches of one Arrow file; see `read_batches`."""
    try:
        with pa.memory_map(str(path)) as source:
            yield from _batches(source, columns)
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path}: damaged Arrow file ({str(error)[:100]}); build it again") from None


def read_rows(directory: Path) -> Iterator[dict[str, Any]]:
    """The rows of `directory` in order, as dicts."""
    for batch in read_batches(directory):
        yield from batch.to_pylist()


def count_rows(directory: Path) -> int:
    """How many rows `directory` has; reads one small column."""
    return sum(batch.num_rows for batch in read_batches(directory, ["line"]))


def gather_parts(pieces: Sequence[Path], target: Path, pattern: str, *, stem: str) -> int:
    """Move the *.arrow files of `<piece>/<pattern>` to `<target>/<stem>-00000.arrow`, … in order; their number.

    Files without rows are left out, but for the first where there is no other: a reader finds the schema there.
    """
    files = [path for piece in pieces for path in sorted((piece / pattern).glob("*.arrow"))]
    filled = [path for path in files if pa.ipc.open_file(str(path)).num_record_batches]
    target.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(filled or files[:1]):
        path.rename(target / f"{stem}-{number:05d}.arrow")
    return len(filled or files[:1])


def bytes_of_rows(kind: RowKind, batch: pa.RecordBatch) -> list[int]:
    """UTF-8 bytes of the texts of each row: see `content_bytes`."""
    return text_bytes(kind, batch).tolist()


def content_bytes(row: Mapping[str, Any]) -> int:
    """UTF-8 bytes of a row's texts: the text, or contents and reasoning of all messages."""
    if "text" in row:
        return len(row["text"].encode("utf-8"))
    turns = [turn for name in ("conversations", "chosen", "rejected", "prompt") for turn in row.get(name) or ()]
    texts = [turn[name] or "" for turn in turns for name in ("content", "reasoning_content", "tools", "tool_calls")]
    return sum(len(text.encode("utf-8")) for text in texts)


def _batches(source: pa.NativeFile, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    options = pa.ipc.IpcReadOptions()
    if columns is not None:
        schema = pa.ipc.open_file(source).schema
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
    reader = pa.ipc.open_file(source, options=options)
    for index in range(reader.num_record_batches):
        yield reader.get_batch(index)
