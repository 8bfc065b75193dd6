"""Small files of JSON objects, one a line: questions, choices, prompts. Every row of one counts.

A row that cannot be used stops the reading with its line; corpora, where it is put aside, are read by `readers`. Not
here: what an object must hold.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minimind.data.reading.strict_json import RowError, read_json
from minimind.errors import DataError, MissingError


def read_objects(path: Path, *, of: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line that is not blank, of a plain file or a `.gz`; at least one.

    `of` says what stands in the file: questions, prompts. Raises MissingError, or DataError with file and line.
    """
    if not path.exists():
        raise MissingError(f"{path}: no such file; {of} are a JSONL file, one object a line")
    if not path.is_file():
        raise DataError(f"{path}: is not a file; {of} are a JSONL file, one object a line")
    empty = True
    for number, line in _lines(path):
        if line.strip():
            empty = False
            yield number, _object(line, f"{path}:{number}")
    if empty:
        raise DataError(f"{path}: has no {of}; write one JSON object a line")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield from enumerate(file, 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is not a whole gzip file ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = read_json(line)
    except RowError as error:
        raise DataError(f"{where}: {error.reason}: {error.detail}; write one JSON object a line") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: is not a JSON object; write one object a line")
    return value
