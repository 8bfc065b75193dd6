"""Similarity: the true Jaccard similarity of pairs of rows, their texts read where they lie.

Texts are in uncompressed Arrow files: one is found by its row number in constant time. Only the files' offsets are
mapped into memory; texts are read, and take memory only while they are compared. Pairs are taken in blocks of so
many bytes of text; in a block every text is folded and cut into shingles once, however many pairs it is in, and
what all its pairs share is counted together.
Similarity is exact but for shingles whose 64-bit hashes are equal: a chance of 1e-9 for a pair of texts of 100,000
characters.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from minimind.data.deduplication.folding import fold
from minimind.data.deduplication.signatures import shingle_sets
from minimind.data.rules.texts import Texts
from minimind.errors import DataError
from minimind.workers import map_jobs

BYTES_PER_TEXT_BYTE = 32
"""While texts are compared: the strings, code points, folded ones, hashes and sorted hashes; seen: 14 to 29."""
JOB_BYTES = 64 << 20
"""Of text to a job: about 2 s of work, against 1 s to start a process."""
_BLOCK_BYTES = 1 << 20
"""Of text compared together: larger blocks are not faster."""
_SHINGLES_AT_ONCE = 1 << 16
"""512 KB of hashes: a core's cache."""


class TextStore:
    """The texts of all rows, by row number. Can be sent to another process: it goes by its paths."""

    def __init__(self, paths: Sequence[Path], column: str) -> None:
        """`paths` are uncompressed Arrow IPC files in the order of the rows; `column` is of strings."""
        self.paths = tuple(paths)
        self.column = column

    def __reduce__(self) -> tuple[Any, ...]:
        return TextStore, (self.paths, self.column)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __call__(self, row: int) -> str:
        """The text of one row."""
        return self.take(np.array([row]))[0]

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """The texts of some rows, in their order."""
        texts: list[str] = [""] * len(rows)
        for batch, places, within in self._located(rows):
            begins, ends = (batch.start + batch.offsets[within + side].astype(np.int64) for side in (0, 1))
            with batch.path.open("rb", buffering=0) as file:
                for place, begin, end in zip(places.tolist(), begins.tolist(), ends.tolist(), strict=True):
                    texts[place] = os.pread(file.fileno(), end - begin, begin).decode()
        return texts

    def num_bytes(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """UTF-8 bytes of the texts of some rows; reads none of them."""
        sizes = np.zeros(len(rows), np.int64)
        for batch, places, within in self._located(rows):
            sizes[places] = batch.offsets[within + 1] - batch.offsets[within]
        return sizes

    def _located(
        self, rows: npt.NDArray[np.int64]
    ) -> Iterator[tuple["_Batch", npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Batches that hold any of `rows`: the batch, places in `rows`, and the rows' numbers within the batch."""
        batches = np.searchsorted(self._ends, rows, "right")
        order = np.argsort(batches, kind="stable")
        borders = np.flatnonzero(np.diff(batches[order], prepend=-1, append=len(self._ends)))
        for first, last in zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True):
            places = order[first:last]
            number = int(batches[places[0]])
            batch = self._batches[number]
            yield batch, places, rows[places] - (self._ends[number] - len(batch.offsets) + 1)

    @cached_property
    def _batches(self) -> list["_Batch"]:
        return [batch for path in self.paths for batch in _text_batches(path, self.column)]

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        return np.cumsum([len(batch.offsets) - 1 for batch in self._batches], dtype=np.int64)


@dataclass(frozen=True)
class _Batch:
    path: Path
    start: int
    """Byte of the file at which offset 0 lies."""
    offsets: npt.NDArray[np.int32] | npt.NDArray[np.int64]
    """Mapped into memory; one more than there are rows."""


def jaccards(
    store: TextStore,
    pairs: npt.NDArray[np.int64],
    *,
    memory_bytes: int,
    workers: int = 1,
    job_bytes: int = JOB_BYTES,
) -> npt.NDArray[np.float64]:
    """The Jaccard similarity of the shingles of each pair of rows, (n, 2); two texts without any are equal.

    Pairs that are near in `pairs` are compared together, so sort them. Each worker uses about `memory_bytes`,
    and more only where two texts alone need more. Many pairs are cut into jobs for `workers` processes.
    """
    sizes = store.num_bytes(pairs.reshape(-1)).reshape(-1, 2).sum(axis=1)
    block_bytes = min(memory_bytes // BYTES_PER_TEXT_BYTE, _BLOCK_BYTES)
    jobs = [_Job(store, pairs[first:last], block_bytes) for first, last in _cuts(sizes, job_bytes)]
    return np.concatenate([np.empty(0), *map_jobs(_compare, jobs, workers=workers)])


@dataclass(frozen=True)
class _Job:
    store: TextStore
    pairs: npt.NDArray[np.int64]
    """Numbers, not texts: 16 bytes a pair."""
    block_bytes: int


def _compare(job: _Job) -> npt.NDArray[np.float64]:
    sizes = job.store.num_bytes(job.pairs.reshape(-1)).reshape(-1, 2).sum(axis=1)
    found = np.empty(len(job.pairs))
    for first, last in _cuts(sizes, job.block_bytes):
        rows, places = np.unique(job.pairs[first:last], return_inverse=True)
        sets = shingle_sets(fold(Texts(job.store.take(rows))))
        found[first:last] = jaccards_of(sets, places.reshape(-1, 2))
    return found


def jaccards_of(sets: Sequence[npt.NDArray[np.uint64]], pairs: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of pairs of sets, as sorted arrays: what they share over what they have together; 1 for two empty ones."""
    found = np.ones(len(pairs))
    sizes = np.array([len(hashes) for hashes in sets])[pairs].sum(axis=1)
    for first, last in _cuts(sizes, _SHINGLES_AT_ONCE):
        both = np.concatenate([sets[at] for at in pairs[first:last].ravel().tolist()])
        ends = np.cumsum(sizes[first:last])
        begins = ends - sizes[first:last]
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            both[begin:end].sort(kind="stable")  # merges the two sorted runs, 4x faster than sorting anew
        repeated = np.zeros(len(both) + 1, np.int64)
        np.cumsum(both[1:] == both[:-1], out=repeated[1:-1])
        shared = repeated[np.maximum(ends - 1, begins)] - repeated[begins]
        np.divide(shared, sizes[first:last] - shared, out=found[first:last], where=ends > begins)
    return found


def _cuts(sizes: npt.NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Runs of at most `limit` together, or of one: first and behind the last."""
    ends = np.cumsum(sizes)
    first = 0
    while first < len(sizes):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + limit, "right")))
        yield first, last
        first = last


def _text_batches(path: Path, column: str) -> Iterator[_Batch]:
    whole = pa.memory_map(str(path)).read_buffer()
    reader = pa.ipc.open_file(whole)
    if column not in reader.schema.names:
        raise DataError(f"{path}: has no column {column!r}; its columns are {', '.join(reader.schema.names)}")
    if reader.schema.field(column).type not in (pa.string(), pa.large_string()):
        raise DataError(f"{path}: column {column!r} is of {reader.schema.field(column).type}, not of strings")
    for index in range(reader.num_record_batches):
        texts = reader.get_batch(index).column(column)
        _, borders, data = texts.buffers()
        start = data.address - whole.address if data is not None and len(data) else 0
        if not 0 <= start <= len(whole):
            raise DataError(f"{path}: is compressed; texts can be looked up in uncompressed Arrow files only")
        word = np.int32 if texts.type == pa.string() else np.int64
        yield _Batch(path, start, np.frombuffer(borders, word)[texts.offset : texts.offset + len(texts) + 1])
