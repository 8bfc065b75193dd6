"""Rows to forget: a list that names them, and which rows of a kind those are.

A list is JSON Lines. A line names one row:

    {"text": "…"}, {"conversations": […]}, …           by its content, as MiniMind writes rows
    {"id": "0123456789abcdef", "rows": "chat"}         by its id in the corpus, and the kind of rows it is of
    {"source": "web", "file": "a.jsonl", "line": 7}    by its place; `file` where the source has several

A row's id is made of its content as it was read, so equal rows are one row wherever they stand. A conversation is
meant wherever it is learnt, and as the text and the prompt that sources make of it, unless `rows` beside it says which
kind alone is meant. A line of `dropped.jsonl` is a place as it stands. An id without `rows`, also bare on its line,
will do to look for a row. It will not do to leave it out: every kind of rows would be cleaned again for it.

Not here: leaving rows out (`forgetting`), who saw them (`minimind.forget`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minimind.config import Config, nearest
from minimind.data.arrays import Bools, int64s, strings
from minimind.data.documents import RowKind, check_row
from minimind.data.kinds import CONVERSATIONS
from minimind.data.reading.checking import Form, checked_row
from minimind.data.reading.sources import SourceConfig
from minimind.data.reading.strict_json import RowError, read_json
from minimind.errors import DataError, MissingError
from minimind.fingerprint import digest

KINDS: tuple[RowKind, ...] = get_args(RowKind)
AS_TEXT, ANY = "as_text", ""
"""Beside the kinds of rows: a text that `as_text` makes of a conversation, and a row of which nobody says the kind."""
_ID_LENGTH = 16
_CONTENT: tuple[tuple[str, RowKind], ...] = (
    ("chosen", "preference"),
    ("conversations", "chat"),
    ("text", "pretrain"),
    ("prompt", "prompt"),
)
"""What a row has → its kind; the first that is there."""
HOW = 'name a row by its content, as {"id": "…", "rows": "chat"}, or as {"source": "…", "line": 7}'


class Place(NamedTuple):
    """Where a row was read; `file` is empty for a source that has only one, or where nobody says."""

    source: str
    file: str
    line: int

    @classmethod
    def of(cls, column: str, line: int) -> "Place":
        """The place that the columns `source` and `line` of a row say."""
        source, _, file = column.partition("/")
        return cls(source, file, line)


class Named(Config):
    """The rows of one kind that are named."""

    ids: frozenset[str] = frozenset()
    places: frozenset[Place] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.ids or self.places)

    def digest(self) -> str:
        """The same for the same rows, in whatever order and form they are named."""
        return digest({"ids": sorted(self.ids), "places": sorted(self.places)})

    def mask(self, rows: pa.RecordBatch) -> Bools:
        """Which rows of a batch are named; it has the columns `id`, `source` and `line`."""
        found = has_ids(rows, self.ids)
        if self.places:
            lines = np.array(sorted({place.line for place in self.places}), np.int64)
            near = rows.filter(there := pc.is_in(rows["line"], value_set=int64s(lines))).select(["source", "line"])
            places = np.flatnonzero(_bools(there)).tolist()
            for at, row in zip(places, near.to_pylist(), strict=True):
                found[at] |= self.has(Place.of(row["source"], row["line"]))
        return found

    def has(self, place: Place) -> bool:
        """Whether the row at a place is named by it. The file need not be named of a source that has only one."""
        files = self._files.get((place.source, place.line), frozenset[str]())
        return bool(files) and (not place.file or place.file in files)

    def has_logged(self, place: Place) -> bool:
        """The same for a place in ingest's log, which says the file also of a source that has only one."""
        return self.has(place) or "" in self._files.get((place.source, place.line), frozenset[str]())

    @cached_property
    def _files(self) -> Mapping[tuple[str, int], frozenset[str]]:
        files: dict[tuple[str, int], set[str]] = {}
        for source, file, line in self.places:
            files.setdefault((source, line), set()).add(file)
        return {place: frozenset(names) for place, names in files.items()}


class ForgetList(Config):
    """What a list says, line by line."""

    path: str
    entries: dict[int, dict[str, str] | Place]
    """Number of the line → the id of the row it names, by the kind of rows it may be of; or a place."""

    def of(self, kind: RowKind, sources: Mapping[str, bool]) -> Named:
        """The named rows of a kind that has these sources: name → whether it makes texts of conversations."""
        own = (kind, AS_TEXT) if any(sources.values()) else (kind,)
        return Named(
            ids=frozenset(self._ids(own)),
            places=frozenset(place for place in self.places.values() if place.source in sources),
        )

    def anywhere(self, kind: RowKind) -> Named:
        """All that may be meant by an id or a content among rows of a kind, whatever its sources."""
        own = (kind, AS_TEXT, ANY) if kind == "pretrain" else (kind, ANY)
        return Named(ids=frozenset(self._ids(own)))

    @property
    def places(self) -> dict[int, Place]:
        """The lines that are places."""
        return {line: entry for line, entry in self.entries.items() if isinstance(entry, Place)}

    @property
    def of_no_kind(self) -> list[int]:
        """The lines that are an id of which nobody says the kind."""
        return [line for line, entry in self.entries.items() if not isinstance(entry, Place) and ANY in entry]

    def check(self, sources: Collection[str]) -> None:
        """Raise DataError for what cannot be left out of these sources, all that a data spec has."""
        for line in self.of_no_kind:
            raise DataError(
                f'{self.path}:{line}: of which kind is this row? Write {{"id": "…", "rows": "chat"}}; '
                f"`minimind forget --rows {self.path} --out FILE` looks it up"
            )
        for line, place in self.places.items():
            if place.source not in sources:
                known = nearest(place.source, sorted(sources))
                raise DataError(f"{self.path}:{line}: no source `{place.source}` in the data spec{known}")

    def _ids(self, kinds: Sequence[str]) -> Iterator[str]:
        for entry in self.entries.values():
            if not isinstance(entry, Place):
                yield from (entry[kind] for kind in kinds if kind in entry)


def read_list(path: Path) -> ForgetList:
    """The list at `path`. Raises MissingError, and DataError with the line that names no row."""
    try:
        stat = path.stat()
        return _read(str(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise MissingError(f"{path}: cannot be read ({error.strerror}); it must be a list of rows to forget") from None


def named_rows(forget: str | None, kind: RowKind, sources: Iterable[SourceConfig]) -> Named:
    """The rows of a kind that a data spec's `forget` names; of no list none."""
    if forget is None:
        return Named()
    sources, found = tuple(sources), read_list(Path(forget))
    found.check([source.name for source in sources])
    return found.of(kind, {source.name: source.as_text for source in sources if source.rows == kind})


def has_ids(rows: pa.RecordBatch, ids: Collection[str]) -> Bools:
    """Which rows of a batch have one of these ids."""
    if not ids:
        return np.zeros(rows.num_rows, np.bool_)
    return _bools(pc.is_in(rows["id"], value_set=strings(sorted(ids))))


@lru_cache(maxsize=4)
def _read(path: str, _size: int, _changed: int) -> ForgetList:
    entries: dict[int, dict[str, str] | Place] = {}
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if raw := line.removeprefix(b"\xef\xbb\xbf").strip():
                try:
                    entries[number] = _entry(raw)
                except RowError as error:
                    raise DataError(f"{path}:{number}: {error.detail}; {HOW}") from None
    return ForgetList(path=path, entries=entries)


def _entry(raw: bytes) -> dict[str, str] | Place:
    """What a line names. Raises RowError where that is nothing."""
    if _is_id(bare := raw.decode("ascii", "replace")):
        return {ANY: bare}
    value = read_json(raw)
    if not isinstance(value, Mapping):
        raise RowError("not_object", "this is no object")
    if not _is_logged(value) and (kind := _kind_of(value)):
        return _ids_of(value, kind)
    if "id" not in value:
        return _place(value)
    if not _is_id(value["id"]):
        raise RowError("wrong_type", f"`id` is {value['id']!r:.40}; an id is {_ID_LENGTH} hexadecimal digits")
    if "rows" in value and value["rows"] not in KINDS:
        raise RowError("wrong_type", f"no rows `{value['rows']!s:.40}`{nearest(str(value['rows']), KINDS)}")
    return {value.get("rows", ANY): value["id"]}


def _ids_of(value: Mapping[str, Any], kind: RowKind) -> dict[str, str]:
    """Kind → id of every row that a content is or becomes."""
    if kind != "chat" or value.get("rows") == "chat":
        return {kind: check_row(kind, value)["id"]}
    found: dict[str, str] = {}
    with suppress(RowError):
        found["prompt"] = check_row("prompt", value)["id"]
    with suppress(RowError):
        found[AS_TEXT] = checked_row(Form(rows="pretrain", as_text=True), value)[0]["id"]
    try:
        found |= {name: check_row(name, value)["id"] for name in CONVERSATIONS}
    except RowError:
        if not found:
            raise
    return found


def _kind_of(value: Mapping[str, Any]) -> RowKind | None:
    """The kind of rows whose content a line has."""
    kind = next((kind for name, kind in _CONTENT if name in value), None)
    return value["rows"] if kind and value.get("rows") in KINDS else kind


def _is_logged(value: Mapping[str, Any]) -> bool:
    """Whether it is a line of a drop log, whose text is for people."""
    return {"source", "line", "rule", "reason"} <= value.keys()


def _place(value: Mapping[str, Any]) -> Place:
    if missing := [name for name in ("source", "line") if name not in value]:
        raise RowError("missing_field", f"no content, no `id`, no `{missing[0]}`")
    source, file, line = value["source"], value.get("file") or "", value["line"]
    if not isinstance(source, str) or not isinstance(file, str) or isinstance(line, bool) or not isinstance(line, int):
        raise RowError("wrong_type", "`source` and `file` are strings, `line` is a number")
    if line < 1:
        raise RowError("wrong_type", f"`line` is {line}; lines are counted from 1")
    name, _, inner = source.partition("/")  # the source as `minimind trace` prints it
    return Place(name, file or inner, line)


def _is_id(value: Any) -> bool:
    return isinstance(value, str) and len(value) == _ID_LENGTH and not set(value) - set("0123456789abcdef")


def _bools(array: pa.BooleanArray) -> Bools:
    """Booleans without nulls; `to_numpy` would look for pandas."""
    if not len(array):
        return np.zeros(0, np.bool_)
    bits = np.unpackbits(np.frombuffer(array.buffers()[1], np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].astype(np.bool_)
