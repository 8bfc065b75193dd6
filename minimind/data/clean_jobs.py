"""The jobs of cleaning: one judges a part of the input, one selects of what it left the rows that are no duplicates.

Between them lies a scratch file of Arrow, not compressed, so that any row of it can be read where it lies. Not
here: how the jobs are made and their pieces put together (`cleaning`).
"""

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from minimind.config import WHERE, Config
from minimind.data.arrays import Bools, booleans, int64s, strings
from minimind.data.booking import FORGET, FORGOTTEN, Book, Fates, content_texts
from minimind.data.deduplication.duplicates import NONE, Duplicates
from minimind.data.deduplication.folding import content_keys, fold
from minimind.data.deduplication.signatures import signatures
from minimind.data.documents import SCHEMAS, RowKind
from minimind.data.dropped import ChangeLog, DropLog
from minimind.data.forget_list import Named, Place, has_ids
from minimind.data.judgement import Verdicts, judge
from minimind.data.ledger import Ledger
from minimind.data.memory import keep_freed_memory
from minimind.data.pieces import Advance
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts
from minimind.data.shards import RowWriter, bytes_of_rows, read_file

ROWS_FILE, KEYS_FILE, SIGNATURES_FILE, CLOCK_FILE = "rows.arrow", "keys.npy", "signatures.npy", "clock.json"
NAMED_FILE, FORGOTTEN_FILE = "named.npy", "forgotten.npy"
_FOUND_ARRAYS = ("exact_of", "near_of", "jaccard")


class CleanConfig(CleanRules):
    """The rules, and the kind of rows they are applied to."""

    rows: RowKind
    forget: Annotated[Named, WHERE] = Named()
    """Rows that are left out with all their copies; what they are is the identity, how they are named is not."""
    workers: Annotated[int, WHERE] = 0
    """Processes; 0 takes one for each core."""
    may_be_empty: Annotated[bool, WHERE] = False
    """Whether it is no error if no row is left: not for a corpus, but for a file that somebody has a look at."""

    def tells_near_duplicates(self) -> bool:
        """Whether near duplicates are looked for: conversations repeat each other on purpose, texts do not."""
        return self.near_duplicates and (self.rows == "pretrain" or self.filter_chat)


class JudgeJob(Config):
    """The rules, and the part of the input they are applied to."""

    rules: CleanConfig
    path: str
    forget: tuple[str, ...] = ()
    """Ids of the rows in it that are named to be forgotten."""


class SelectJob(Config):
    """One judged piece, where its rows begin among all that were judged, and what was found of those."""

    rules: CleanConfig
    piece: str
    pieces: tuple[str, ...]
    found: str
    start: int


def judge_part(job: JudgeJob, out_dir: Path, advance: Advance) -> None:
    """Apply the rules to a part: what is left goes to rows.arrow, with digests and signatures beside it."""
    keep_freed_memory()
    config, clock = job.rules, Counter[str]()
    keys, marks, named = [], [], [np.zeros(0, np.bool_)]
    with (
        _scratch_file(out_dir / ROWS_FILE, _scratch_schema(config)) as rows,
        DropLog(out_dir) as dropped,
        ChangeLog(out_dir) as changed,
    ):
        book = Book(config.rows, Ledger(), dropped, changed)
        for batch in read_file(Path(job.path)):
            verdicts = judge(config.rows, batch, config, clock=clock)
            to_forget = has_ids(batch, job.forget)
            _forget(verdicts, batch, to_forget)
            sizes = bytes_of_rows(config.rows, batch)
            _enter(book, batch, verdicts, sizes)
            kept = [place for place in range(batch.num_rows) if place not in verdicts.dropped]
            told = [verdicts.texts[place] for place in kept]
            named.append(to_forget[kept])
            began = time.process_time()
            folded = fold(Texts(told))
            keys.append(content_keys(folded))
            if config.tells_near_duplicates():
                marks.append(signatures(folded))
            clock["signatures"] += time.process_time() - began  # type: ignore[assignment]
            rows.write_batch(_with_measures(verdicts, sizes, told, kept, _scratch_schema(config)))
            advance(batch.num_rows)
    np.save(out_dir / NAMED_FILE, np.concatenate(named))
    np.save(out_dir / KEYS_FILE, np.concatenate(keys) if keys else content_keys(fold(Texts([]))))
    if config.tells_near_duplicates():
        np.save(out_dir / SIGNATURES_FILE, np.concatenate(marks) if marks else signatures(fold(Texts([]))))
    book.ledger.write(out_dir)
    (out_dir / CLOCK_FILE).write_text(json.dumps(clock), encoding="utf-8")


def select_part(job: SelectJob, out_dir: Path, advance: Advance) -> None:
    """Write the rows of a judged piece that are no duplicates and not forgotten; the others go to a drop log."""
    began, kind = time.process_time(), job.rules.rows
    found, at = read_found(Path(job.found)), job.start
    named = np.load(Path(job.piece) / NAMED_FILE)
    forgotten = np.load(Path(job.found) / FORGOTTEN_FILE, mmap_mode="r")
    origins = Origins(job.pieces)
    with RowWriter(out_dir, kind, compression="lz4") as writer, DropLog(out_dir) as dropped:
        book = Book(kind, Ledger(), dropped)
        for batch in read_file(Path(job.piece) / ROWS_FILE):
            places = np.arange(at, at + batch.num_rows)
            kept = (found.exact_of[places] == NONE) & (found.near_of[places] == NONE) & ~forgotten[places]
            if not kept.all():
                rows = batch.filter(booleans(~kept))
                measures = {"sizes": rows["bytes_in"].to_pylist(), "characters": rows["characters"].to_pylist()}
                gone = places[~kept]
                fates = _fates(found, gone, origins)
                fates = _forgotten(fates, rows["id"].to_pylist(), forgotten[gone], named[gone - job.start])
                book.are_dropped(rows, fates, **measures, texts=content_texts(kind, rows))
                batch = batch.filter(booleans(kept))
            book.are_kept(batch, bytes_of_rows(kind, batch))
            writer.write_batch(batch.select(SCHEMAS[kind].names))
            at += len(places)
            advance(len(places))
    book.ledger.write(out_dir)
    (out_dir / CLOCK_FILE).write_text(json.dumps({"select": time.process_time() - began}), encoding="utf-8")


def write_found(found: Duplicates, directory: Path) -> None:
    """Leave what is known of the duplicates where the selecting jobs read it."""
    for name in _FOUND_ARRAYS:
        np.save(directory / f"{name}.npy", getattr(found, name))


def read_found(directory: Path) -> Duplicates:
    """The duplicates that were found, their arrays where they lie on the disk."""
    return Duplicates(*(np.load(directory / f"{name}.npy", mmap_mode="r") for name in _FOUND_ARRAYS))


class Origins:
    """Source and line of any judged row, by its place among all of them."""

    def __init__(self, pieces: Sequence[str]) -> None:
        files = [pa.ipc.open_file(pa.memory_map(str(Path(piece) / ROWS_FILE))) for piece in pieces]
        self._batches = [file.get_batch(number) for file in files for number in range(file.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def take(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Source and line of some rows, in their order."""
        return [f"{name}, line {line}" for name, line in self._pairs(rows)]

    def places(self, rows: npt.NDArray[np.int64]) -> frozenset[Place]:
        """Where some rows were read."""
        return frozenset(Place.of(name, line) for name, line in self._pairs(rows))

    def _pairs(self, rows: npt.NDArray[np.int64]) -> list[tuple[str, int]]:
        pairs = np.empty(len(rows), object)
        numbers = np.searchsorted(self._ends, rows, "right")
        for number in np.unique(numbers).tolist():
            batch, places = self._batches[number], np.flatnonzero(numbers == number)
            within = int64s(rows[places] - (self._ends[number] - batch.num_rows))
            names, lines = (batch[column].take(within).to_pylist() for column in ("source", "line"))
            for place, name, line in zip(places.tolist(), names, lines, strict=True):
                pairs[place] = name, line
        return pairs.tolist()


def told_column(config: CleanConfig) -> str:
    """The column of the scratch file whose texts are compared."""
    return "text" if config.rows == "pretrain" else "told"


def _forget(verdicts: Verdicts, batch: pa.RecordBatch, to_forget: Bools) -> None:
    """Let nothing be said of what was found of named rows. One that no rule dropped is left out when selecting."""
    for place in np.flatnonzero(to_forget).tolist():
        verdicts.changed.pop(place, None)
        if place in verdicts.dropped:
            verdicts.dropped[place] = (FORGET, Dropped(FORGOTTEN, f"id {batch['id'][place].as_py()}"))


def _enter(book: Book, batch: pa.RecordBatch, verdicts: Verdicts, sizes: Sequence[int]) -> None:
    """Book the rows of a batch as they came in, and what the rules dropped and changed of them."""
    book.came_in(batch, sizes)
    if places := sorted(verdicts.dropped):
        rows = batch.take(int64s(np.array(places)))
        outcomes = [verdicts.dropped[place] for place in places]
        fates = Fates(
            [rule for rule, _ in outcomes], [why.reason for _, why in outcomes], [why.detail for _, why in outcomes]
        )
        measures = {
            "sizes": [sizes[place] for place in places],
            "characters": [verdicts.lengths[place] for place in places],
        }
        book.are_dropped(rows, fates, **measures, texts=content_texts(book.kind, rows))
    if places := sorted(set(verdicts.changed) - set(verdicts.dropped)):
        rows, become = (all_rows.take(int64s(np.array(places))) for all_rows in (batch, verdicts.rows))
        before, after = content_texts(book.kind, rows), content_texts(book.kind, become)
        book.are_changed(rows, [verdicts.changed[place] for place in places], before=before, after=after)


def _fates(found: Duplicates, rows: npt.NDArray[np.int64], origins: Origins) -> Fates:
    """Of which row each of `rows` is said to be a copy; one that is no duplicate, of itself."""
    exact, near = found.exact_of[rows] != NONE, found.near_of[rows] != NONE
    firsts = origins.take(np.where(exact, found.exact_of[rows], np.where(near, found.near_of[rows], rows)))
    details = [
        f"the same as {first}" if same else f"Jaccard similarity {likeness:.3f} with {first}"
        for same, likeness, first in zip(exact.tolist(), found.jaccard[rows].tolist(), firsts, strict=True)
    ]
    rules = np.where(exact, "duplicates", "near_duplicates").tolist()
    return Fates(rules, np.where(exact, "exact_duplicate", "near_duplicate").tolist(), details)


def _forgotten(fates: Fates, ids: Sequence[str], forgotten: Bools, named: Bools) -> Fates:
    """The fates with those of forgotten rows put in; of such a row its id is known afterwards, and its place."""
    if not forgotten.any():
        return fates
    details = [
        detail if not gone else f"id {row_id}" if own else f"id {row_id}, a copy of a named row"
        for detail, row_id, gone, own in zip(fates.details, ids, forgotten.tolist(), named.tolist(), strict=True)
    ]
    rules, reasons = np.array(fates.rules, object), np.array(fates.reasons, object)
    rules[forgotten], reasons[forgotten] = FORGET, FORGOTTEN
    return Fates(rules.tolist(), reasons.tolist(), details)


def _scratch_schema(config: CleanConfig) -> pa.Schema:
    measures = [pa.field("bytes_in", pa.int64()), pa.field("characters", pa.int64())]
    told = [] if told_column(config) == "text" else [pa.field("told", pa.string())]
    return pa.schema([*SCHEMAS[config.rows], *measures, *told])


def _scratch_file(path: Path, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
    """Not compressed, so that any row of it can be read where it lies."""
    return pa.ipc.new_file(str(path), schema)


def _with_measures(
    verdicts: Verdicts, sizes: Sequence[int], told: Sequence[str], kept: Sequence[int], schema: pa.Schema
) -> pa.RecordBatch:
    places = np.array(kept, np.int64)
    measures = [int64s(np.array(measure, np.int64)[places]) for measure in (sizes, verdicts.lengths)]
    columns = [*verdicts.rows.take(int64s(places)).columns, *measures]
    if "told" in schema.names:
        columns.append(strings(told))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
