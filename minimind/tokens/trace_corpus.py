"""Rows of a corpus: by number, and by a text that stands in them.

A corpus split is Arrow files of record batches. Rows by number read no more than their batches. A text is searched in
the buffers of the string columns, where all texts of a batch stand one behind the other: three times as fast as
Arrow's own search (1.1 GB a second against 0.35). What is left is the cost of unpacking the file.
Not here: what became of the rows afterwards (`minimind.tokens.trace`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minimind.data.documents import CONTENT
from minimind.data.shards import read_file
from minimind.errors import ArtifactError, MissingError

_ORIGIN = ("id", "source", "line")
_TEXTS = ("content", "reasoning_content", "tools", "tool_calls")


@dataclass(frozen=True)
class Origin:
    """Where a row comes from."""

    row: int
    """Number of the row in its split, from 0."""
    id: str
    source: str
    """The source's name, and `/file` where it has several."""
    line: int

    def __str__(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Hit:
    """A place where a text stands."""

    origin: Origin
    field: str
    """`text`, or `conversations, turn 2: content`."""
    offset: int
    """Bytes before it in that field."""


class CorpusSplit:
    """The rows of `train/` or `val/` of a corpus, or of `rows/` of the stages before."""

    def __init__(self, directory: Path) -> None:
        """Raises MissingError where there are no Arrow files."""
        self._paths = sorted(directory.glob("*.arrow"))
        if not self._paths:
            raise MissingError(f"{directory}: no *.arrow files here; the corpus is not in the store any more")

    @cached_property
    def num_rows(self) -> int:
        return int(self._index[1][-1])

    def origins(self, rows: Iterable[int]) -> dict[int, Origin]:
        """Row → where it comes from."""
        found = self._take(rows, _ORIGIN)
        return {row: Origin(row, values["id"], values["source"], values["line"]) for row, values in found.items()}

    def contents(self, rows: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Row → all its columns."""
        return self._take(rows, ())

    def find(self, text: str) -> Iterator[Hit]:
        """Every row and field in which `text` stands, in order, with the first place in it."""
        needle = re.compile(re.escape(text.encode("utf-8")))
        start = 0
        for path in self._paths:
            for batch in read_file(path):
                found = sorted(_found(batch, needle))
                origins = batch.select(list(_ORIGIN)).take([row for row, _, _ in found]).to_pylist() if found else []
                for (row, field, offset), values in zip(found, origins, strict=True):
                    yield Hit(Origin(start + row, values["id"], values["source"], values["line"]), field, offset)
                start += batch.num_rows

    @cached_property
    def _index(self) -> tuple[list[tuple[Path, int]], np.ndarray]:
        """(file, batch) of each record batch, and where its rows begin; the last is the number of rows."""
        places, counts = [], [0]
        for path in self._paths:
            for number, batch in enumerate(read_file(path, ["line"])):
                places.append((path, number))
                counts.append(batch.num_rows)
        return places, np.cumsum(counts)

    def _take(self, rows: Iterable[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        wanted = np.unique(np.fromiter(rows, np.int64))
        places, starts = self._index
        if len(wanted) and not 0 <= wanted[0] <= wanted[-1] < starts[-1]:
            raise ArtifactError(f"{self._paths[0].parent}: no row {wanted[-1]}, it has {starts[-1]}; build it again")
        taken: dict[int, dict[str, Any]] = {}
        batches = np.searchsorted(starts, wanted, side="right") - 1
        for number in np.unique(batches).tolist():
            own = wanted[batches == number]
            batch = _read_batch(*places[number], columns).take(pa.array(own - starts[number]))
            taken |= dict(zip(own.tolist(), batch.to_pylist(), strict=True))
        return taken


def _read_batch(path: Path, number: int, columns: Sequence[str]) -> pa.RecordBatch:
    with pa.memory_map(str(path)) as source:
        options = pa.ipc.IpcReadOptions()
        if columns:
            schema = pa.ipc.open_file(source).schema
            options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
        return pa.ipc.open_file(source, options=options).get_batch(number)


def _found(batch: pa.RecordBatch, needle: re.Pattern[bytes]) -> Iterator[tuple[int, str, int]]:
    """Row, field and offset of every text of `batch` that holds the needle."""
    for column in dict.fromkeys(name for names in CONTENT.values() for name in names):
        if column not in batch.schema.names:
            continue
        if column == "text":
            yield from ((row, column, offset) for row, offset in _search(batch[column], needle))
            continue
        turns, starts = batch[column].flatten(), batch[column].offsets.to_numpy()
        starts = starts - starts[0]
        for name in _TEXTS:
            for turn, offset in _search(pc.struct_field(turns, name), needle):
                row = int(np.searchsorted(starts, turn, side="right")) - 1
                yield row, f"{column}, turn {turn - starts[row] + 1}: {name}", offset


def _search(texts: pa.StringArray, needle: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
    """(number, bytes before the needle) of each text of the array that holds it."""
    _, offsets_buffer, data = texts.buffers()
    if not len(texts) or data is None:
        return
    offsets = np.frombuffer(offsets_buffer, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    last = -1
    for match in needle.finditer(memoryview(data)[: offsets[-1]], int(offsets[0])):
        number = int(np.searchsorted(offsets, match.start(), side="right")) - 1
        if number != last and match.end() <= offsets[number + 1]:
            last = number
            yield number, match.start() - int(offsets[number])
