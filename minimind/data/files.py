"""Data files: which ones a path means, opening them whatever they are packed in, and reading their lines.

Files are streamed: at most one row and a buffer are in memory. What is wrong with a whole file (cut off,
a web page, UTF-16, one big JSON array, a Git LFS pointer, …) is a DataError that names the remedy; what is
wrong with a line is for the row check to say. Not here: locations other than the local file system.
"""

import glob
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from minimind.errors import DataError, MissingError

BUFFER_BYTES = 4 << 20
MAX_ROW_BYTES = 16 << 20
"""The longest line that is read: two hundred times the longest document of common web corpora."""
SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson", ".jsonl.gz", ".jsonl.zst"),
    "text": (".txt", ".md", ".txt.gz", ".txt.zst"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather", ".ipc"),
}
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_FOREIGN = {
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"BZh": "is packed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "is packed with xz; unpack it with unxz",
    b"PAR1": 'is a Parquet file; give its source kind = "parquet"',
    b"ARROW1": 'is an Arrow file; give its source kind = "arrow"',
    b"\xff\xfe": "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"\xfe\xff": "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)",
    b"version https://git-lfs": "is a Git LFS pointer, not the data; fetch it with `git lfs pull`",
}


def find_files(path: str, kind: str) -> dict[str, Path]:
    """Name → file of all that `path` (a file, a directory or a glob) means, in the order they are read.

    A name is the path below the directory, so it does not change when the directory is moved.
    Raises MissingError where there is nothing.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return {place.name: place}
    if place.is_dir():
        found = _named(place.rglob("*"), place)
        fitting = {name: file for name, file in found.items() if name.lower().endswith(SUFFIXES[kind])}
        if not fitting:
            raise MissingError(f"{place}: no {kind} files in this directory (looked for {', '.join(SUFFIXES[kind])})")
        return fitting
    if "://" in path:
        raise MissingError(f'{path}: only local files are read; download it, or use kind = "hub"')
    if not glob.has_magic(path):
        raise MissingError(f"{place}: no such file or directory")
    base = _fixed_part(place)
    matching = _named(base.glob(str(place.relative_to(base))), base)
    if not matching:
        raise MissingError(f"{place}: no file matches")
    return matching


def read_lines(path: Path, name: str) -> Iterator[tuple[int, bytes]]:
    """(1-based line, bytes without the line end) of every line, blank ones too. Raises DataError.

    Of a line longer than `MAX_ROW_BYTES` the first so many bytes and one more come out.
    """
    with open_packed(path, name) as file:
        number = 0
        try:
            while line := file.readline(MAX_ROW_BYTES + 1):
                number += 1
                if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
                    yield number, line
                    _skip_line(file)
                else:
                    yield number, line.rstrip(b"\r\n")
        except OSError as error:
            detail = str(error)[:80] or type(error).__name__
            raise DataError(
                f"{name}: cannot be unpacked after line {number} ({detail}); it is damaged or cut off, fetch it again"
            ) from None


@contextmanager
def open_packed(path: Path, name: str) -> Iterator[BinaryIO]:
    """The unpacked bytes of a plain, gzip or zstd file, told by its first bytes rather than its name."""
    with path.open("rb") as raw:
        start = raw.read(64)
    for magic, packing in ((_GZIP, "gzip"), (_ZSTD, "zstd")):
        if start.startswith(magic):
            # pyarrow says so when a zstd frame is cut off; the zstandard package's reader does not.
            with pa.input_stream(str(path), compression=packing) as stream:
                yield io.BufferedReader(stream, BUFFER_BYTES)  # type: ignore[arg-type]
            return
    if start and path.suffix in (".gz", ".zst"):
        raise DataError(f"{name}: is not packed, or damaged at its start; take the {path.suffix} from its name")
    with path.open("rb", buffering=BUFFER_BYTES) as plain:
        yield plain


def refuse_foreign(path: Path, name: str, *, json_lines: bool) -> None:
    """Raise a DataError for a file that as a whole is no text, or with `json_lines` not one object a line."""
    with open_packed(path, name) as file:
        try:
            start = file.read(1 << 16)
        except OSError:
            return  # read_lines meets it again and says where
        for magic, remedy in _FOREIGN.items():
            if start.startswith(magic):
                raise DataError(f"{name}: {remedy}")
        if len(start) > 3 and max(start[::2].count(0), start[1::2].count(0)) > len(start) // 5:
            raise DataError(f"{name}: looks like UTF-16 without a mark; save it as UTF-8 (iconv -f UTF-16LE -t UTF-8)")
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if head[:14].lower().startswith((b"<!doctype html", b"<html", b"<head")):
        raise DataError(f"{name}: is a web page, not data; download the file itself (the raw or resolve link)")
    if json_lines and head[:1] in (b"[", b"{"):
        _refuse_document(head, name)


def _refuse_document(head: bytes, name: str) -> None:
    """Tell one JSON document over the whole file from one value a line, by its first line."""
    first, _, rest = head.partition(b"\n")
    remedy = "write one object a line (jq -c '.[]' FILE turns an array into that)"
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        # `[` or `{` alone, or `[{…},` : the value goes on in the next line. Otherwise it is one bad row.
        stripped = first.rstrip()
        if head.startswith(b"[") and (stripped.endswith((b"[", b",")) or not rest):
            raise DataError(f"{name}: is one big JSON array; {remedy}") from None
        if stripped == b"{" and rest.lstrip()[:1] in (b'"', b"}"):
            raise DataError(f"{name}: is JSON over several lines; {remedy}") from None
        return
    if isinstance(value, list) and not rest.strip() and any(isinstance(item, dict) for item in value):
        raise DataError(f"{name}: is one big JSON array; {remedy}")


def _skip_line(file: BinaryIO) -> None:
    while (piece := file.readline(BUFFER_BYTES)) and not piece.endswith(b"\n"):
        pass


def _named(paths: Iterable[Path], base: Path) -> dict[str, Path]:
    """Name below `base` → file, sorted; hidden files and what is in hidden folders left out."""
    named = {path.relative_to(base).as_posix(): path for path in paths if path.is_file()}
    return {name: named[name] for name in sorted(named) if not any(part.startswith(".") for part in name.split("/"))}


def _fixed_part(place: Path) -> Path:
    """The directory a glob starts from: its parts before the first one with a wildcard."""
    parts = list(place.parts)
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:wild])
