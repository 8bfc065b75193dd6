"""The rows to be forgotten, looked up in the artifacts of a store.

Rows are asked for by a list (`minimind.data.forget_list`) or by what they were read from: sources by name, files by
name or by their bytes. A place in a list is meant as the newest `ingest` of its source has it, since the same line of
an older file may be another row; from there on a row is known by its id. What cleaning took for the same counts as the
same: the row that a named one was dropped for, and all that were dropped for it.

Not here: what became of the rows (`minimind.forget.reach`).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow as pa

from minimind import runtime
from minimind.artifact import Artifact
from minimind.config import Config, nearest
from minimind.data.arrays import Bools, booleans, numbers
from minimind.data.documents import RowKind
from minimind.data.dropped import DROPPED_FILE, read_dropped
from minimind.data.forget_list import ANY, AS_TEXT, ForgetList, Named, Place, has_ids
from minimind.data.shards import ROWS_DIR, read_batches
from minimind.errors import MissingError
from minimind.lineage import by_age

ORIGIN = ["id", "source", "line"]
"""The columns by which rows are known."""
DUPLICATES = ("duplicates", "near_duplicates")
_COPY_OF = re.compile(r"(?:the same as|with) (.+), line (\d+)$")
Ids = dict[str, set[str]]
"""By kind of rows."""


class Row(Config):
    """A row that is to be forgotten."""

    rows: RowKind
    id: str
    """Empty for one that could not be used."""
    source: str
    """Name, and `/file` where the source has several."""
    line: int
    is_copy: bool = False
    """Not named itself; cleaning took it and a named one for the same."""


@dataclass(frozen=True)
class Sought:
    """What is looked for among rows, and in logs of dropped ones."""

    ids: Mapping[str, Iterable[str]]
    """By kind of rows."""
    places: Mapping[str, frozenset[Place]]
    """Where these rows stand, and those that could not be used, by the `ingest` that read them."""
    sources: frozenset[str] = frozenset()
    """Whole ones."""
    files: frozenset[str] = frozenset()
    """`source/file`, of sources that have others too."""
    alone: frozenset[str] = frozenset()
    """Sources that had nothing but such a file once: their rows of then do not say the file."""

    def mask(self, kind: str, rows: pa.RecordBatch) -> Bools:
        """Which rows of a batch are meant."""
        found = has_ids(rows, set(self.ids.get(kind, ())))
        if self.sources or self.files:
            names = rows["source"].dictionary_encode()
            meant = [self._is_from(name) for name in names.dictionary.to_pylist()]
            found |= np.array(meant, np.bool_)[numbers(names.indices)]
        return found

    def has(self, ingest: str, place: Place) -> bool:
        """Whether the row at a place in a log is meant; `ingest` is the fingerprint of the one that read it."""
        name = f"{place.source}/{place.file}" if place.file else place.source
        return self._is_from(name) or place in self.places.get(ingest, ())

    def _is_from(self, name: str) -> bool:
        return name.partition("/")[0] in self.sources or name in self.files or name in self.alone


def find_rows(listed: ForgetList, artifacts: Sequence[Artifact]) -> tuple[Sought, list[Row]]:
    """How to find the rows of a list, and where they were read, the named ones first. Raises MissingError for none."""
    ingests = {one.fingerprint: one for one in artifacts if one.kind == "ingest"}
    kinds = {kind_of(one) for one in artifacts if one.kind in ("ingest", "clean", "shard")}
    ids: Ids = {kind: set(listed.anywhere(kind).ids) for kind in kinds}
    unusable = _look_up_places(listed, list(ingests.values()), ids)
    copies: Ids = {kind: set() for kind in kinds}
    for clean in (one for one in artifacts if one.kind == "clean"):
        if ingest := ingests.get(clean.manifest.parents.get("rows", "")):
            copies[kind_of(clean)] |= _copies(clean, ingest, ids[kind_of(clean)])
    both = {kind: ids[kind] | copies[kind] for kind in kinds}
    places: dict[str, frozenset[Place]] = {}
    found: dict[Row, None] = {}
    for artifact in (one for one in artifacts if _is_first_known(one, ingests)):
        kind = kind_of(artifact)
        rows = list(_rows_of(artifact, Named(ids=frozenset(both[kind]))))
        others = unusable.get(artifact.fingerprint, ())
        places[artifact.fingerprint] = frozenset(Place.of(row.source, row.line) for row in [*rows, *others])
        found |= dict.fromkeys(row.replace(is_copy=row.id not in ids[kind]) for row in rows) | dict.fromkeys(others)
    if not found:
        raise MissingError(
            f"none of the {len(listed.entries)} rows of {listed.path} is in an artifact of this store; "
            "`minimind trace --text` finds a text within rows"
        )
    return Sought(ids=both, places=places), sorted(found, key=lambda row: (row.is_copy, row.rows, row.source, row.line))


def find_sources(patterns: Sequence[str], artifacts: Sequence[Artifact]) -> Sought:
    """The sources and files that are called so, or have the bytes of a file that is. Raises MissingError for others."""
    read = [(name, files) for one in artifacts if one.kind == "ingest" for name, files in files_of(one).items()]
    sources, files = set[str](), set[str]()
    for pattern in patterns:
        whole = {name for name, _ in read if fnmatchcase(name, pattern)}
        parts = {f"{name}/{file}" for name, file in _files_called(pattern, read)}
        if not whole and not parts:
            names = sorted({name for name, _ in read} | {f"{name}/{file}" for name, own in read for file in own})
            raise MissingError(f"no source or file `{pattern}` was read into this store{nearest(pattern, names)}")
        sources |= whole
        files |= parts
    known: dict[str, set[str]] = {}
    for name, own in read:
        known.setdefault(name, set()).update(f"{name}/{file}" for file in own)
    sources |= {name for name, own in known.items() if own and own <= files}
    return Sought(
        ids={},
        places={},
        sources=frozenset(sources),
        files=frozenset(file for file in files if file.partition("/")[0] not in sources),
        alone=frozenset(name for name, own in read if len(own) == 1 and {f"{name}/{file}" for file in own} <= files),
    )


def _files_called(pattern: str, read: Sequence[tuple[str, Mapping[str, str]]]) -> Iterator[tuple[str, str]]:
    """Source and name of every file with the bytes of the file at `pattern`; where none has, of those called so."""
    digest = runtime.file_sha256(Path(pattern)) if Path(pattern).is_file() else ""
    by_bytes = any(digest in files.values() for _, files in read)
    for name, files in read:
        for file, own in files.items():
            called = any(fnmatchcase(word, pattern) for word in (file, f"{name}/{file}")) or pattern.endswith(
                f"/{file}"
            )
            if own == digest if by_bytes else called:
                yield name, file


def unknown_lines(listed: ForgetList, rows: Sequence[Row]) -> list[int]:
    """The lines of a list that name none of the rows that were found."""
    known = {
        (name, row.id) for row in rows for name in (row.rows, ANY, *((AS_TEXT,) if row.rows == "pretrain" else ()))
    }
    places = {(row.source.partition("/")[0], row.line) for row in rows}
    return [
        line
        for line, entry in listed.entries.items()
        if ((entry.source, entry.line) not in places if isinstance(entry, Place) else known.isdisjoint(entry.items()))
    ]


def listed_rows(rows: Sequence[Row]) -> ForgetList:
    """A list that names these rows: by their ids, and those without one by their places."""
    entries = [{row.rows: row.id} if row.id else Place.of(row.source, row.line) for row in rows]
    return ForgetList(path="", entries=dict(enumerate(entries, 1)))


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Write such a list, without a word of what the rows say."""
    lines = [{"id": row.id, "rows": row.rows} for row in rows if row.id]
    lines += [Place.of(row.source, row.line)._asdict() for row in rows if not row.id]
    unique = dict.fromkeys(json.dumps(line, ensure_ascii=False) for line in lines)
    runtime.write_atomic(path.expanduser(), "".join(f"{line}\n" for line in unique).encode())


def drops(log: Path) -> Iterator[tuple[Place, Place]]:
    """Where each dropped duplicate was read, and the row it was dropped for."""
    for row in read_dropped(log):
        if row.rule in DUPLICATES and (of := _COPY_OF.search(row.detail)):
            yield Place(row.source, row.file, row.line), Place.of(of[1], int(of[2]))


def files_of(ingest: Artifact) -> dict[str, dict[str, str]]:
    """Source → its files, by their names below its path → their digests; none of a source that is not of files."""
    found: dict[str, dict[str, str]] = {name: {} for name in sources_of(ingest)}
    for key, digest in ingest.manifest.parts.sources.items():
        name, _, file = key.partition("/")
        if file:
            found.setdefault(name, {})[file] = digest
    return found


def sources_of(ingest: Artifact) -> dict[str, bool]:
    """The sources that were read: name → whether it makes texts of conversations."""
    return {str(one["name"]): bool(one.get("as_text")) for one in ingest.manifest.parts.config.get("sources", ())}


def kind_of(artifact: Artifact) -> RowKind:
    """The kind of rows that a data artifact is of."""
    return artifact.manifest.parts.config["rows"]


def _look_up_places(listed: ForgetList, ingests: Sequence[Artifact], ids: Ids) -> dict[str, list[Row]]:
    """Add the ids of the rows at the named places to `ids`; the rows among them that could not be used, by ingest."""
    newest = {name: one.fingerprint for one in by_age(ingests) for name in sources_of(one)}
    unusable: dict[str, list[Row]] = {}
    for ingest in ingests:
        own = (place for place in listed.places.values() if newest.get(place.source) == ingest.fingerprint)
        if not (named := Named(places=frozenset(own))):
            continue
        ids[kind_of(ingest)] |= {row.id for row in _rows_of(ingest, named)}
        unusable[ingest.fingerprint] = [
            Row(rows=kind_of(ingest), id="", source=f"{row.source}/{row.file}", line=row.line)
            for row in read_dropped(ingest.dir / DROPPED_FILE)
            if named.has_logged(Place(row.source, row.file, row.line))
        ]
    return unusable


def _copies(clean: Artifact, ingest: Artifact, ids: set[str]) -> set[str]:
    """The ids of all rows that a cleaning took for the same as one of these."""
    named = {Place.of(row.source, row.line) for row in _rows_of(ingest, Named(ids=frozenset(ids)))}
    known, size = set(named), -1
    while named and size < len(known):  # a copy of a row that was dropped for a third one: three rounds at most
        size = len(known)
        for dropped, kept in drops(clean.dir / DROPPED_FILE):
            known |= {dropped, kept} if dropped in known or kept in known else set()
    return {row.id for row in _rows_of(ingest, Named(places=frozenset(known - named)))}


def _rows_of(artifact: Artifact, named: Named) -> Iterator[Row]:
    """The named rows of a data artifact."""
    directories = ("train", "val") if artifact.kind == "shard" else (ROWS_DIR,)
    for directory in directories if named else ():
        for batch in read_batches(artifact.dir / directory, ORIGIN):
            for row in batch.filter(booleans(named.mask(batch))).to_pylist():
                yield Row(rows=kind_of(artifact), **row)


def _is_first_known(artifact: Artifact, ingests: Mapping[str, Artifact]) -> bool:
    """Whether it is an ingest, or rows whose ingest is not in the store."""
    is_orphan = artifact.kind == "clean" and artifact.manifest.parents.get("rows") not in ingests
    return artifact.kind == "ingest" or is_orphan
