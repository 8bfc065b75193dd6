"""Row parts: record batches of any size, written as files of 64 to 96 MB of rows each.

Small batches are put together, because a reader takes a batch at a time and zstd packs larger ones better. How
rows fall into batches and files depends on the rows alone. The files are those of `shards`; there they are cut
by their size on disk, here by what is in them: a part is what a later stage gives one of its jobs.
"""

from pathlib import Path
from typing import Self

import pyarrow as pa

from minimind.data.documents import RowKind
from minimind.data.shards import BATCH_BYTES, BATCH_ROWS, RowWriter

PART_BYTES = 96 << 20
"""Of rows in memory: a range of 64 MiB of a large file is one part, whatever ids and lines add to its rows."""


class RowParts:
    """Writes `<directory>/part-00000-00000.arrow`, `part-00001-00000.arrow`, …; at least one file."""

    def __init__(self, directory: Path, kind: RowKind) -> None:
        self._directory, self._kind = directory, kind
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_bytes = self._part_bytes = self._parts = 0
        self._writer = self._begin()

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        if not batch.num_rows:
            return
        self._waiting.append(batch)
        self._waiting_bytes += batch.nbytes
        if self._waiting_bytes >= BATCH_BYTES or sum(b.num_rows for b in self._waiting) >= BATCH_ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> RowWriter:
        self._parts += 1
        stem = f"part-{self._parts - 1:05d}"
        return RowWriter(self._directory, self._kind, part_bytes=8 * PART_BYTES, stem=stem, compression="lz4")

    def _flush(self) -> None:
        if not self._waiting:
            return
        if self._part_bytes >= PART_BYTES:
            self._writer.close()
            self._writer, self._part_bytes = self._begin(), 0
        self._writer.write_batch(pa.concat_batches(self._waiting))
        self._part_bytes += self._waiting_bytes
        self._waiting, self._waiting_bytes = [], 0
