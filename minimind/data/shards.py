"""Shards: rows as zstd Arrow IPC files, how they are written and read, and the stage that splits them.

zstd Arrow takes half the room of plain Arrow and reads back several times cheaper than Parquet.
Rows keep their order, so that the same input gives the same files. Whole groups go to `val/` by a
hash of (seed, group): a row's side does not depend on what other rows there are, and the parts of
one file or conversation are never on both sides.

Not here: mixing or weighting of sources.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from pydantic import Field

from minimind.artifact import Inputs, Summary
from minimind.config import WHERE, Config
from minimind.data.documents import SCHEMAS, RowKind
from minimind.data.dropped import DROPPED_FILE
from minimind.errors import ArtifactError, DataError, MissingError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

ROWS_DIR = "rows"
SHARD_BYTES = 64 << 20
BATCH_ROWS = 4096
BATCH_BYTES = 4 << 20
"""A record batch is closed at whichever comes first; it is what a reader holds in memory."""
_WRITE = pa.ipc.IpcWriteOptions(compression="zstd")


class ShardConfig(Config):
    """How rows are split between training and validation, and cut into files."""

    rows: RowKind
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Of the groups, so of the rows about; 0 makes no validation rows."""
    shard_bytes: Annotated[int, WHERE] = Field(default=SHARD_BYTES, ge=1024)
    """Size on disk at which a new file is begun; the rows and their order do not depend on it."""
    seed: int = 0


class RowWriter:
    """Writes rows of one kind into `directory` as `<stem>-00000.arrow`, `<stem>-00001.arrow`, …

    At least one file is written, without rows if need be, so that a reader finds the schema.
    """

    def __init__(self, directory: Path, kind: RowKind, *, part_bytes: int = SHARD_BYTES, stem: str = "part") -> None:
        directory.mkdir(parents=True, exist_ok=True)
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
        """Append a whole record batch as it is."""
        self._flush()
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
        self._writer = pa.ipc.new_file(self._sink, self._schema, options=_WRITE)
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


def shard(config: ShardConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Split clean rows into train/ and val/ and pass on the list of dropped rows."""
    source = inputs["rows"].dir / ROWS_DIR
    cut, warnings = _choose_cut(config, source)
    total, bytes_of = count_rows(source), {"train": 0, "val": 0}
    sides = {
        name: RowWriter(out_dir / name, config.rows, part_bytes=config.shard_bytes, stem="shard") for name in bytes_of
    }
    with sides["train"], sides["val"], EventWriter(out_dir / EVENTS_FILE) as events:
        for batch in read_batches(source):
            in_val = pa.array([_hash(config.seed, group) < cut for group in batch["group"].to_pylist()], pa.bool_())
            for name, mask in (("train", pc.invert(in_val)), ("val", in_val)):
                for row in batch.filter(mask).to_pylist():
                    size = content_bytes(row)
                    bytes_of[name] += size
                    sides[name].write(row, size)
            events.progress(sides["train"].rows + sides["val"].rows, total, "rows")
    (out_dir / "dropped").mkdir()
    shutil.copyfile(inputs["rows"].dir / DROPPED_FILE, out_dir / "dropped" / DROPPED_FILE)
    figures: dict[str, int | float | str | None] = {"rows": total}
    for name, writer in sides.items():
        figures |= {f"{name}_rows": writer.rows, f"{name}_bytes": bytes_of[name], f"{name}_shards": writer.parts}
    return Summary(figures=figures, warnings=warnings)


SHARD = Stage("shard", shard, inputs=("rows",))


def content_bytes(row: Mapping[str, Any]) -> int:
    """UTF-8 bytes of a row's texts: the text, or contents and reasoning of all messages."""
    if "text" in row:
        return len(row["text"].encode("utf-8"))
    turns = row["conversations"] if "conversations" in row else [*row["chosen"], *row["rejected"]]
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


def _hash(seed: int, group: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}:{group}".encode())


def _choose_cut(config: ShardConfig, source: Path) -> tuple[int, list[str]]:
    """The hash below which a group goes to validation, and what to warn of.

    The cut is moved just so far that neither side is empty, where two groups or more allow it.
    """
    lowest, highest = 2**64, -1
    for batch in read_batches(source, ["group"]):
        hashes = [_hash(config.seed, group) for group in batch["group"].to_pylist()]
        lowest, highest = min([lowest, *hashes]), max([highest, *hashes])
    if highest < 0:
        raise DataError(f"{source}: no rows to shard")
    cut = int(config.validation_fraction * 2**64)
    if not cut:
        return 0, []
    if lowest == highest:
        return 0, ["val is empty: all rows are of one group, and a group is not split"]
    if cut <= lowest:
        moved = f"validation_fraction = {config.validation_fraction} chose no group; one was taken for val"
        return lowest + 1, [moved]
    if cut > highest:
        return highest, ["validation_fraction chose every group; one was kept for train"]
    return cut, []
