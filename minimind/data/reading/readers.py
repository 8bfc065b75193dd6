"""Readers: what a source holds, cut into parts, and what becomes of the rows of each part.

A part is a file, or where that is possible a range of a large one: bytes of a plain file of lines, row groups
of Parquet, batches of Arrow. How files are cut depends on them alone. Lines come in blocks, other rows one by
one; neither is judged here but in `checking`.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from minimind.data.memory import keep_freed_memory
from minimind.data.reading.checking import Checked, Form, RawRow, check_block, check_rows
from minimind.data.reading.files import (
    BLOCK_BYTES,
    MAX_ROW_BYTES,
    PACKED_RATIO,
    PIECE_BYTES,
    Block,
    FileKind,
    Part,
    line_ranges,
    open_raw,
    read_blocks,
)
from minimind.data.reading.foreign import HEAD_BYTES, refuse_foreign
from minimind.data.reading.locations import is_remote, remote_size
from minimind.data.reading.strict_json import RowError, read_text
from minimind.data.reading.tables import as_json, table_parts, table_rows
from minimind.data.reading.unpacking import Unpacked, packing_of

if TYPE_CHECKING:
    from minimind.data.reading.sources import SourceConfig

PASSAGE_CHARACTERS = 1000
"""A passage of a text file ends at the first blank line after so many: enough context, many documents."""
_ROWS_AT_ONCE = 512

DocumentCut = Literal["passage", "line", "file"]
Advance = Callable[[int], None]
"""Told the stored bytes that were read since it was called last."""


def cut_file(file: str, location: str, kind: FileKind, *, label: str, document: DocumentCut = "line") -> list[Part]:
    """The parts of a file, in order: more than one of a large plain one. Raises as reading it would."""
    if is_remote(location):
        return [Part(file=file, label=label, location=location, kind=kind, size=remote_size(location) or 0)]
    size = Path(location).stat().st_size
    whole = Part(file=file, label=label, location=location, kind=kind, size=size)
    if size <= PIECE_BYTES:
        return [whole]
    if kind in ("parquet", "arrow"):
        return list(table_parts(whole))
    with open_raw(location, label) as raw:
        start = raw.read(HEAD_BYTES)
    if packing_of(start) or (kind == "text" and document != "line"):
        return [whole]
    refuse_foreign(start, label, json_lines=kind == "jsonl")
    return [
        whole.replace(begin=begin, end=end, first_line=line, size=end - begin)
        for begin, end, line in line_ranges(location, label, size=PIECE_BYTES)
    ]


def share_out(parts: Iterable[Part]) -> Iterator[tuple[Part, ...]]:
    """Neighbouring small parts together, as work for one job each."""
    job: list[Part] = []
    work = 0
    for part in parts:
        packed = part.location.endswith((".gz", ".zst")) or part.kind == "parquet"
        amount = (part.size or PIECE_BYTES) * (PACKED_RATIO if packed else 1)
        if job and work + amount > PIECE_BYTES:
            yield tuple(job)
            job, work = [], 0
        job.append(part)
        work += amount
    if job:
        yield tuple(job)


def read_part(part: Part, advance: Advance, *, document: DocumentCut = "line") -> Iterator[Block | list[RawRow]]:
    """The content of a part: blocks of JSON lines, or raw rows. Raises DataError or MissingError."""
    keep_freed_memory()
    if part.kind in ("parquet", "arrow"):
        yield from _in_lists(table_rows(part))
        advance(part.size)
        return
    with open_raw(part.location, part.label) as raw:
        blocks = _blocks(raw, part, advance)
        yield from _in_lists(_text_rows(blocks, part.first_line, document)) if part.kind == "text" else blocks


def check_part(part: Part, form: Form, advance: Advance, *, source: str, document: DocumentCut) -> Iterator[Checked]:
    """What became of the rows of a part, some at a time; `source` is what their source column says."""
    line = part.first_line
    for read in read_part(part, advance, document=document):
        if isinstance(read, Block):
            checked = check_block(form, read, source=source, first_line=line)
            line = checked.last_line + 1
        else:
            checked = check_rows(form, read, source=source)
        yield checked


def read_hub(source: "SourceConfig") -> Iterator[list[RawRow]]:
    """Rows of a hub data set as `datasets` reads them, for formats that we have no reader for."""
    from minimind.data.reading.hub import hub_rows

    rows = hub_rows(str(source.dataset), split=source.split, revision=source.revision)
    return _in_lists(RawRow(number, row, as_json(row)) for number, row in enumerate(rows, 1))


def read_pydocs(source: "SourceConfig") -> Iterator[tuple[str, list[RawRow]]]:
    """Rows of Python's documentation, module by module, and the module's name."""
    from minimind.data.python_docs import pydocs

    values = pydocs.rows(source.rows, source.packages)
    for group, rows in groupby(values, key=lambda value: str(value["group"])):
        yield group, [RawRow(int(value["line"]), value, as_json(value)) for value in rows]


def _blocks(raw: BinaryIO, part: Part, advance: Advance) -> Iterator[Block]:
    """The lines of a part. Raises DataError where the file as a whole is none of lines."""
    if part.end is not None:
        raw.seek(part.begin)
        for block in read_blocks(raw, size=part.end - part.begin):
            yield block
            advance(len(block.data) + block.left_out)
        return
    file = Unpacked(raw, part.label)
    refuse_foreign(file.peek(HEAD_BYTES), part.label, json_lines=part.kind == "jsonl")
    told = 0
    for block in read_blocks(file):
        yield block
        advance(file.bytes_read - told)
        told = file.bytes_read


def _text_rows(blocks: Iterable[Block], first_line: int, document: DocumentCut) -> Iterator[RawRow]:
    """Documents of a text file: lines, passages or the whole of it, at the line where they begin."""
    lines: list[bytes] = []
    size = begin = 0
    for number, line in enumerate(_lines(blocks), first_line):
        blank = len(line) <= MAX_ROW_BYTES and not line.strip()  # of a longer one the end is not here
        if blank and not lines:
            continue
        begin = begin or number
        lines.append(line)
        size += len(line) + 1
        ends = {"line": True, "passage": blank and _is_passage(lines), "file": False}[document]
        if ends or size > MAX_ROW_BYTES:
            yield _text_row(begin, lines)
            lines, size, begin = [], 0, 0
    if lines:
        yield _text_row(begin, lines)


def _lines(blocks: Iterable[Block]) -> Iterator[bytes]:
    for block in blocks:
        for line in block.data.removesuffix(b"\n").split(b"\n"):
            yield line if block.left_out else line.rstrip(b"\r")


def _is_passage(lines: list[bytes]) -> bool:
    return sum(len(line.decode("utf-8", "replace")) for line in lines) >= PASSAGE_CHARACTERS


def _text_row(line: int, lines: list[bytes]) -> RawRow:
    raw = b"\n".join(lines).strip(b"\n")
    try:
        return RawRow(line, {"text": read_text(raw).removeprefix("\ufeff")}, raw)
    except RowError as error:
        return RawRow(line, error, raw)


def _in_lists(rows: Iterable[RawRow]) -> Iterator[list[RawRow]]:
    """Rows, some at a time, to be checked and written together."""
    waiting: list[RawRow] = []
    size = 0
    for row in rows:
        waiting.append(row)
        size += len(row.raw)
        if len(waiting) >= _ROWS_AT_ONCE or size >= BLOCK_BYTES:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting
