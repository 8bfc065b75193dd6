"""Data files: which ones a path means, opening them wherever they are, and cutting them at line ends.

Files are streamed: at most one row and a buffer are in memory. A plain file of lines can be cut into ranges
that are read by themselves; a packed or remote one is read from its beginning to its end.

Not here: what they are packed in (`unpacking`), what is wrong with a whole file (`foreign`), what the lines
mean (`checking`), how a remote place is reached (`locations`).
"""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, NoReturn

from minimind.config import Config, expanded, shortened
from minimind.data.reading.locations import find_remote, is_remote, open_remote
from minimind.data.reading.remote import shown
from minimind.data.reading.unpacking import Unpacked
from minimind.errors import ConfigError, MiniMindError, MissingError

FileKind = Literal["jsonl", "text", "parquet", "arrow"]

BLOCK_BYTES = 1 << 20
"""Read at once: enough to forget what a call of numpy costs, and what is made of it nearly stays in a core's cache."""
BUFFER_BYTES = 4 << 20
MAX_ROW_BYTES = 16 << 20
"""The longest line that is read: two hundred times the longest document of common web corpora."""
PIECE_BYTES = 64 << 20
"""A large file is cut into ranges of so many bytes: seconds of work, and little is lost with one."""
PACKED_RATIO = 4
"""Packed text is about so much smaller; for sharing out the work only."""
SUFFIXES: dict[FileKind, tuple[str, ...]] = {
    "jsonl": tuple(f".{name}{packed}" for packed in ("", ".gz", ".zst") for name in ("jsonl", "ndjson"))
    + (".json.gz", ".json.zst"),  # of many corpora these are lines; a bare .json seldom is
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather", ".ipc"),
    "text": (".txt", ".md", ".txt.gz", ".txt.zst"),
}


class Part(Config):
    """A file, or a range of one that is read by itself."""

    file: str
    """Its name below the path that was given."""
    label: str
    """What errors call it."""
    location: str
    """A path, or a URL."""
    kind: FileKind
    size: int
    """Stored bytes of the part; 0 where that is not known."""
    begin: int = 0
    end: int | None = None
    """A range of bytes, row groups or batches; None is the whole file."""
    first_line: int = 1


@dataclass(frozen=True)
class Block:
    """Some whole lines of a file; the last may lack its end."""

    data: bytes
    left_out: int = 0
    """Bytes that were not kept of its only line, which is longer than MAX_ROW_BYTES."""


def find_files(path: str, kind: FileKind) -> dict[str, str]:
    """Name → path or URL of all that `path` (a file, a directory, a glob, or a URL) means, in reading order.

    A name is the path below the directory, so it does not change when the directory is moved.
    Raises MissingError where there is nothing.
    """
    if is_remote(path):
        return find_remote(path, SUFFIXES[kind])
    with _readable_place(path):
        return _find_local(path, kind)


def _find_local(path: str, kind: FileKind) -> dict[str, str]:
    place = expanded(path)
    if place.is_file():
        return {_readable(place.name): str(place)}
    if place.is_dir():
        found = _named(_below(place), place)
        fitting = {name: file for name, file in found.items() if name.lower().endswith(SUFFIXES[kind])}
        if not fitting:
            raise MissingError(f"{place}: no {kind} files in this directory (looked for {', '.join(SUFFIXES[kind])})")
        return fitting
    if place.exists():
        raise MissingError(f"{place}: is no regular file; write what comes out of it to a file first")
    if not glob.has_magic(path):
        raise MissingError(f"{place}: no such file or directory")
    base = _fixed_part(place)
    matching = _named(base.glob(str(place.relative_to(base))), base)
    if not matching:
        raise MissingError(f"{place}: no file matches")
    return matching


def find_all(path: str) -> dict[str, tuple[str, FileKind]]:
    """File → place and kind of all data files that `path` means, of any kind, in reading order.

    A file's name here is as the user typed it, joined with its name below a directory. Text files in a directory
    beside others (a README) do not count. Raises MissingError where there is nothing.
    """
    suffixes = tuple(suffix for those in SUFFIXES.values() for suffix in those)
    if is_remote(path):
        found = find_remote(path, suffixes)
        files = {shown(place): (place, kind_by_name(name) or "jsonl") for name, place in found.items()}
    else:
        with _readable_place(path):
            files = _find_local_of_any_kind(path)
    if not files:
        raise MissingError(f"{path}: no data files in this directory (looked for {', '.join(suffixes)})")
    data = {file: found for file, found in files.items() if found[1] != "text"}
    return data if data and len(files) > 1 else files


def _find_local_of_any_kind(path: str) -> dict[str, tuple[str, FileKind]]:
    place = expanded(path)
    if place.is_dir():
        named = _named(_below(place), place)
        return {str(Path(path, name)): (file, kind) for name, file in named.items() if (kind := kind_by_name(name))}
    found = find_files(path, "jsonl")
    return {path if file == str(place) else file: (file, _kind_of_file(file)) for file in found.values()}


def file_kind(path: str) -> FileKind:
    """What `path` holds: see `find_all`. Raises ConfigError for a mixture."""
    kinds = {kind for _, kind in find_all(path).values()}
    if len(kinds) > 1:
        raise ConfigError(f"{path}: holds {' and '.join(sorted(kinds))} files; name those of one kind by a pattern")
    return kinds.pop()


def kind_by_name(name: str) -> FileKind | None:
    """The kind that has the suffix of `name`."""
    return next((kind for kind, suffixes in SUFFIXES.items() if name.lower().endswith(suffixes)), None)


@contextmanager
def open_raw(location: str, name: str) -> Iterator[BinaryIO]:
    """The bytes of a file as they are stored. Raises MissingError where it cannot be opened."""
    if is_remote(location):
        with open_remote(location) as remote:
            yield remote
        return
    try:
        file = Path(location).open("rb")  # noqa: SIM115
    except OSError as error:
        raise MissingError(f"{name}: cannot be read ({error.strerror}); look at its place and permissions") from None
    with file:
        yield file


def read_blocks(file: Unpacked | BinaryIO, *, size: int | None = None) -> Iterator[Block]:
    """The bytes of `file`, or the next `size` of them, in blocks of whole lines.

    Of a line longer than MAX_ROW_BYTES so many bytes and one more come out, in a block of its own.
    """
    waiting, left_out = b"", 0  # the beginning of a line
    for data in _chunks(file, size):
        if len(waiting) > MAX_ROW_BYTES:
            end = data.find(b"\n")
            left_out += len(data) if end < 0 else end
            if end < 0:
                continue
            yield _cut_off(waiting, left_out)
            waiting, left_out, data = b"", 0, data[end + 1 :]
        cut = data.rfind(b"\n") + 1
        if cut:
            yield Block(b"".join((waiting, memoryview(data)[:cut])))
        waiting = data[cut:] if cut else waiting + data
    if waiting:
        yield _cut_off(waiting, left_out)


def line_ranges(location: str, name: str, *, size: int) -> Iterator[tuple[int, int, int]]:
    """(begin, end, 1-based number of the first line) of ranges of about `size` bytes, cut at line ends."""
    with open_raw(location, name) as file:
        begin, line = 0, 1
        while True:
            count, left, last = 0, size, b""
            while left and (data := file.read(min(left, BUFFER_BYTES))):
                count, left, last = count + data.count(b"\n"), left - len(data), data
            while last and not last.endswith(b"\n"):
                last = file.readline(BUFFER_BYTES)
                count += last.endswith(b"\n")
            end = file.tell()
            if end == begin:
                return
            yield begin, end, line
            begin, line = end, line + count


def _chunks(file: Unpacked | BinaryIO, size: int | None) -> Iterator[bytes]:
    left = sys.maxsize if size is None else size
    while data := file.read(min(BLOCK_BYTES, left)):
        left -= len(data)
        yield data


def _cut_off(line: bytes, left_out: int) -> Block:
    kept = line[: MAX_ROW_BYTES + 1]
    return Block(kept, len(line) - len(kept) + left_out)


def _kind_of_file(file: str) -> FileKind:
    """By its name, else by its first bytes."""
    if by_name := kind_by_name(file):
        return by_name
    with open_raw(file, file) as raw:
        start = raw.read(6)
    return "parquet" if start.startswith(b"PAR1") else "arrow" if start == b"ARROW1" else "jsonl"


def _named(paths: Iterable[Path], base: Path) -> dict[str, str]:
    """Name below `base` → file, sorted; hidden files and what is in hidden folders left out."""
    named = {_readable(path.relative_to(base).as_posix()): str(path) for path in paths if path.is_file()}
    return {name: named[name] for name in sorted(named) if not any(part.startswith(".") for part in name.split("/"))}


@contextmanager
def _readable_place(path: str) -> Iterator[None]:
    """Whatever the system has against looking there, as one error: a name too long, a folder that is closed to us."""
    try:
        yield
    except MiniMindError:
        raise
    except OSError as error:
        where = shortened(str(error.filename or path))
        raise MissingError(f"{where}: cannot be read ({error.strerror}); look at its place and permissions") from None


def _below(place: Path) -> Iterator[Path]:
    """All files below a directory. Raises OSError for a folder that cannot be listed, which others leave out."""
    for folder, _, names in os.walk(place, onerror=_raise):
        yield from (Path(folder, name) for name in names)


def _raise(error: OSError) -> NoReturn:
    raise error


def _readable(name: str) -> str:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        raise MissingError(f"{name!r}: the file's name is not UTF-8; rename it") from None
    return name


def _fixed_part(place: Path) -> Path:
    """The directory a glob starts from: its parts before the first one with a wildcard."""
    parts = list(place.parts)
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])
