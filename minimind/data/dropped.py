"""The logs of what cleaning did: every row that was left out, whole, and every row that was changed, twice.

    dropped.jsonl      source, file, line, rule, reason, detail, text
    changed.jsonl.zst  source, file, line, rules, before, after

One JSON object a line. `rule` is `check` for a row that cannot be used at all, else the cleaning rule that
dropped it; `text` is the row as it was read (bytes that are not UTF-8 as `\\xNN`). `rules` are those that
changed a row, in the order of their first change; `before` and `after` are its whole text, of conversations
and pairs their content as JSON. Both grow on disk, not in memory.

Changed rows are many and stand there twice, so their file is packed with zstd: the second text costs next to
nothing, and frames written one after the other are one file, so the parts that several workers wrote are
joined by copying. Equal rows give equal bytes. Not here: the figures (`ledger`), the page (`report`).
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import pyarrow as pa

from minimind.errors import ArtifactError, MissingError

DROPPED_FILE = "dropped.jsonl"
CHANGED_FILE = "changed.jsonl.zst"
_BUFFER_BYTES = 1 << 20
_encode_lines = msgspec.json.Encoder().encode_lines


class DroppedRow(msgspec.Struct):
    """A line of `dropped.jsonl`."""

    source: str
    file: str
    line: int
    rule: str
    reason: str
    detail: str
    text: str


class _Changed(msgspec.Struct):
    """A line of `changed.jsonl.zst`."""

    source: str
    file: str
    line: int
    rules: list[str]
    before: str
    after: str


class DropLog:
    """Appends to `<directory>/dropped.jsonl`."""

    def __init__(self, directory: Path) -> None:
        self._file = (directory / DROPPED_FILE).open("ab", buffering=_BUFFER_BYTES)

    def add(self, *, source: str, file: str, line: int, rule: str, reason: str, detail: str, text: str) -> None:
        """Write one row down. Half characters, which UTF-8 cannot hold, are written as `?`."""
        self._file.write(_lines_of([DroppedRow(source, file, line, rule, reason, detail, text)]))

    def add_all(
        self,
        sources: Iterable[str],
        files: Iterable[str],
        lines: Iterable[int],
        rules: Iterable[str],
        reasons: Iterable[str],
        details: Iterable[str],
        texts: Iterable[str],
    ) -> None:
        """Write as many rows down as there are values of each."""
        self._file.write(_lines_of(list(map(DroppedRow, sources, files, lines, rules, reasons, details, texts))))

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ChangeLog:
    """Writes `<directory>/changed.jsonl.zst` anew; the file is whole once it is closed."""

    def __init__(self, directory: Path) -> None:
        self._sink = pa.OSFile(str(directory / CHANGED_FILE), "wb")
        self._packed = pa.CompressedOutputStream(self._sink, "zstd")

    def add_all(
        self,
        sources: Iterable[str],
        files: Iterable[str],
        lines: Iterable[int],
        rules: Iterable[list[str]],
        before: Iterable[str],
        after: Iterable[str],
    ) -> None:
        """Write rows down as they were and as they became. Half characters are written as `?`."""
        self._packed.write(_lines_of(list(map(_Changed, sources, files, lines, rules, before, after))))

    def close(self) -> None:
        self._packed.close()
        self._sink.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_dropped(path: Path) -> Iterator[DroppedRow]:
    """The rows of a `dropped.jsonl`, one in memory at a time. Raises ArtifactError with the line that is none."""
    decoder = msgspec.json.Decoder(DroppedRow)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                yield decoder.decode(line)
            except msgspec.DecodeError as error:
                raise ArtifactError(f"{path}:{number}: is no dropped row ({error}); run the stage again") from None


def read_changes(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a `changed.jsonl.zst`, one in memory at a time.

    Raises MissingError, and ArtifactError where the file is cut off or damaged.
    """
    decoder = msgspec.json.Decoder(_Changed)
    try:
        with pa.OSFile(str(path), "rb") as file, pa.CompressedInputStream(file, "zstd") as unpacked:
            for line in io.BufferedReader(unpacked, _BUFFER_BYTES):
                yield msgspec.structs.asdict(decoder.decode(line))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; cleaning writes it") from None
    except (OSError, msgspec.DecodeError) as error:
        raise ArtifactError(
            f"{path}: is no list of changed rows, or damaged ({error}); run the cleaning again"
        ) from None


def _lines_of(rows: Sequence[DroppedRow] | Sequence[_Changed]) -> bytes:
    try:
        return _encode_lines(rows)
    except UnicodeEncodeError:
        return _encode_lines([_encodable_row(row) for row in rows])


def _encodable_row(row: DroppedRow | _Changed) -> DroppedRow | _Changed:
    return type(row)(**{name: _encodable(value) for name, value in msgspec.structs.asdict(row).items()})


def _encodable(value: Any) -> Any:
    if isinstance(value, list):
        return [_encodable(inner) for inner in value]
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
