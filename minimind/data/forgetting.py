"""Forgetting: rows that a list names are left out of the clean rows, and every copy of them with them.

A named row goes through the rules and the search for duplicates like any other, so that its copies are known: the row
that it was a copy of, and all that were dropped for that one. They go together, and every other row stays what it was.
None of them leaves its text behind: not in the drop log, the change log or the ledger, nor in what these repeat of
ingest's, where a named row may stand that could not be used. What ingest read is a copy of the sources and stays.

Not here: what a list says (`forget_list`), how rows are judged (`clean_jobs`) and put together (`cleaning`).
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from minimind.data.arrays import Bools, booleans
from minimind.data.deduplication.duplicates import Duplicates
from minimind.data.dropped import ChangeLog, DropLog, read_changes, read_dropped
from minimind.data.forget_list import Named, Place
from minimind.data.ledger import Ledger
from minimind.data.shards import read_file

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Found:
    """The named rows among those that come in."""

    ids: list[tuple[str, ...]]
    """Of each part the ids in it, sorted."""
    unknown: int
    """Names of no row."""


def find_named(named: Named, parts: Sequence[Path], read_log: Path) -> Found:
    """The named rows of the parts; one that is named by its place is named wherever it stands.

    `read_log` is ingest's drop log, where the rows are that could not be used.
    """
    if not named:
        return Found([()] * len(parts), 0)
    ids, places = set(named.ids), set[tuple[str, int]]()
    if named.places:
        for _, rows in _origins(parts):
            for row in rows.filter(booleans(named.mask(rows))).to_pylist():
                ids.add(row["id"])
                places.add((Place.of(row["source"], row["line"]).source, row["line"]))
        places |= {(row.source, row.line) for row in read_dropped(read_log) if named.has_logged(_place_of(row))}
    of_part: list[set[str]] = [set() for _ in parts]
    for number, rows in _origins(parts):
        of_part[number] |= ids.intersection(rows["id"].to_pylist())
    unknown = named.ids.difference(*of_part)
    nowhere = [place for place in named.places if (place.source, place.line) not in places]
    return Found([tuple(sorted(found)) for found in of_part], len(unknown) + len(nowhere))


def with_copies(found: Duplicates, named: Bools) -> Bools:
    """Which of all judged rows are forgotten: those that are named, and those of a cluster with one."""
    forgotten = np.zeros(len(named), np.bool_)
    if not named.any():
        return forgotten
    kept = found.kept_for
    forgotten[kept[named]] = True
    return forgotten[kept]


def write_read_log(read_log: Path, directory: Path, named: Named) -> Path:
    """Write ingest's drop log to a directory, without what it says of named rows."""
    with DropLog(directory) as log:
        for row in read_dropped(read_log):
            if named.has_logged(_place_of(row)):
                row.detail = row.text = ""
            log.add(**msgspec.structs.asdict(row))
    return directory / read_log.name


def write_changes(logs: Iterable[Path], directory: Path, copies: Collection[Place]) -> None:
    """Write the change logs one behind the other to a directory, without what they say of the copies."""
    with ChangeLog(directory) as log:
        rows = (row for path in logs for row in read_changes(path) if _place(row) not in copies)
        while some := list(islice(rows, _ROWS_AT_ONCE)):
            log.add_all(*zip(*(row.values() for row in some), strict=True))


def leave_out_examples(ledger: Ledger, is_forgotten: Callable[[Place], bool]) -> None:
    """Take the examples of forgotten rows out of a ledger."""
    for key, examples in ledger.examples.items():
        ledger.examples[key] = [example for example in examples if not is_forgotten(_place(example))]


def _place(row: dict[str, Any]) -> Place:
    return Place(row["source"], row["file"], row["line"])


def _place_of(row: Any) -> Place:
    return Place(row.source, row.file, row.line)


def _origins(parts: Sequence[Path]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """The number of each part with the columns by which its rows are named."""
    for number, part in enumerate(parts):
        for batch in read_file(part, ["id", "source", "line"]):
            yield number, batch
