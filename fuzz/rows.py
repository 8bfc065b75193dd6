"""The readers of rows: every line of any file ends as a row or as a rejection with a reason, and nothing is lost.

An input is three bytes, which say what kind of rows is read, out of what kind of file and in what sizes, and then the
file. What is claimed of it:

- a file as a whole is read, or refused with a MiniMindError that names it; no other error leaves;
- rows kept + rows dropped + blank lines are the lines there are, counted here in the plainest way;
- a line's fate does not depend on its neighbours: the quick ways of a block say what the slow way says of it alone;
- a file cut into ranges is the file read in one go;
- what was kept is kept when it is read again.

Not here: places that are not on this machine, cleaning.
"""

import gzip
import io
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args
from unittest import mock

import pyarrow as pa
from pyarrow import parquet

from fuzz.mutation import changed, json_line
from fuzz.row_samples import SAMPLES, WORDS
from fuzz.target import Target, claim, scratch
from minimind.data.documents import CONTENT, RowKind
from minimind.data.reading import checking, files, readers
from minimind.data.reading.checking import Checked, Form, RawRow, check_rows
from minimind.data.reading.files import FileKind, Part, line_ranges
from minimind.data.reading.json_rows import LineIndex
from minimind.data.reading.readers import DocumentCut, check_part
from minimind.data.reading.shapes import Shape
from minimind.data.reading.strict_json import DOUBT, RowError, quick_json, read_json
from minimind.data.reading.tally import Tally
from minimind.data.reading.unpacking import packing_of
from minimind.data.reading.validate import DROPPED_FILE, KEPT_FILE, CheckJob, check_piece
from minimind.errors import MiniMindError

FORMS: tuple[Form, ...] = (
    *(Form(rows=kind, shape=shape) for kind in get_args(RowKind) for shape in get_args(Shape)),
    Form(rows="pretrain", as_text=True),
    Form(rows="pretrain", as_text=True, shape="sharegpt", has_groups=True, keys={"group": "id"}),
    Form(rows="pretrain", keys={"text": "content"}),
    Form(rows="pretrain", keys={"text": "meta.body", "group": "id"}, has_groups=True),
    Form(rows="chat", keys={"conversations": "messages"}, has_groups=True),
)


class Container(NamedTuple):
    """A kind of file, and what is made of an input's bytes before they are read as one."""

    kind: FileKind
    suffix: str
    made_of: str = "bytes"
    """`bytes` are the file; `lines` are packed into it; `rows` are JSON that becomes a table."""
    document: DocumentCut = "line"


CONTAINERS = (
    Container("jsonl", ".jsonl"),
    Container("jsonl", ".jsonl.gz", "lines"),
    Container("jsonl", ".jsonl.zst", "lines"),
    Container("jsonl", ".jsonl.gz"),
    Container("jsonl", ".jsonl.zst"),
    Container("text", ".txt"),
    Container("text", ".txt", document="passage"),
    Container("text", ".txt", document="file"),
    Container("parquet", ".parquet"),
    Container("arrow", ".arrow"),
    Container("parquet", ".parquet", "rows"),
    Container("arrow", ".arrow", "rows"),
)
SIZES = ((files.BLOCK_BYTES, files.MAX_ROW_BYTES), (64, files.MAX_ROW_BYTES), (64, 256), (16, 48))
"""Bytes of a block, and of the longest row: small ones, so that small inputs reach the ends of both."""
HEADER_BYTES = 3
WRITTEN = 4
"""A bit of the third byte: what was kept is written and read again, which takes most of the time."""


class Read(NamedTuple):
    """What became of a file."""

    kept: list[dict[str, Any]]
    raw: list[bytes]
    """Of the kept rows, as they were read."""
    bad: list[tuple[int, str, str]]
    """Line, reason and detail."""
    blank: list[int]


def check(data: bytes) -> None:
    """See above."""
    if len(data) < HEADER_BYTES:
        return
    form, container, (block, longest) = FORMS[data[0] % len(FORMS)], CONTAINERS[data[1] % 12], SIZES[data[2] % 4]
    content = data[HEADER_BYTES:]
    stored = _stored(container, content)
    if stored is None:
        return
    if container.kind == "text":
        form = Form(rows="pretrain")
    path = scratch() / f"input{container.suffix}"
    path.write_bytes(stored)
    part = Part(file=path.name, label=str(path), location=str(path), kind=container.kind, size=len(stored))
    with _sizes(block, longest):
        try:
            read = _read([part], form, container.document)
        except MiniMindError as error:
            claim(str(path) in str(error) and len(str(error)) > len(str(path)) + 10, "a refusal names the file", error)
            return
        if data[2] & WRITTEN:
            _check_written(part, form, read)
        if container.kind == "text":
            _check_text(container, content, read, longest)
        elif container.kind == "jsonl":
            if container.made_of == "lines" or packing_of(stored) is None:
                _check_lines(form, content, read, longest)
            if container.suffix == ".jsonl" and packing_of(stored) is None:
                _check_ranges(part, form, read, block)
        else:
            numbers = sorted([row["line"] for row in read.kept] + [line for line, _, _ in read.bad])
            claim(numbers == list(range(1, len(numbers) + 1)), "rows of a table are numbered one by one", numbers)


def _stored(container: Container, content: bytes) -> bytes | None:
    """The file's bytes; None where no file of this kind can be made of the input."""
    if container.made_of == "lines":
        return gzip.compress(content, 1) if container.suffix.endswith(".gz") else _zstd(content)
    if container.made_of == "bytes":
        return content
    try:
        table = pa.Table.from_pylist([row for row in map(json.loads, content.splitlines()) if isinstance(row, dict)])
        sink = io.BytesIO()
        if container.kind == "parquet":
            parquet.write_table(table, sink, compression="none", row_group_size=2)
            return sink.getvalue()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
        return sink.getvalue()
    except (ValueError, RecursionError, OverflowError, TypeError, pa.ArrowException):  # the writer's, not the reader's
        return None


def _zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


@contextmanager
def _sizes(block: int, longest: int) -> Iterator[None]:
    """Have the readers use these sizes."""
    with (
        mock.patch.multiple(files, BLOCK_BYTES=block, MAX_ROW_BYTES=longest),
        mock.patch.object(checking, "MAX_ROW_BYTES", longest),
        mock.patch.object(readers, "MAX_ROW_BYTES", longest),
    ):
        yield


def _read(parts: Sequence[Part], form: Form, document: DocumentCut) -> Read:
    read = Read([], [], [], [])
    for part in parts:
        for checked in check_part(part, form, lambda size: None, source="fuzz", document=document):
            _take(read, checked)
    return read


def _take(read: Read, checked: Checked) -> None:
    checked.rows.validate(full=True)
    read.kept.extend(checked.rows.to_pylist())
    read.raw.extend(checked.raw(place) for place in range(checked.rows.num_rows))
    read.bad.extend((row.line, row.reason, row.detail) for row in checked.bad)
    read.blank.extend(checked.blank.tolist())
    claim(all(row.detail for row in checked.bad), "a rejection has a reason and a detail")


def _check_lines(form: Form, content: bytes, read: Read, longest: int) -> None:
    """The lines of a file, against the plainest reading of it."""
    lines = dict(enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], 1))
    blank = [number for number, line in lines.items() if _is_blank(line) and len(line.removesuffix(b"\r")) <= longest]
    there = [number for number in lines if number not in blank]
    kept = {row["line"]: row for row in read.kept}
    bad = {line: (reason, detail) for line, reason, detail in read.bad}
    claim(len(kept) == len(read.kept) and len(bad) == len(read.bad), "no line counts twice", (kept.keys(), bad.keys()))
    claim(not kept.keys() & bad.keys(), "no line is kept and dropped")
    claim(sorted([*kept, *bad]) == there, "every line is a row or a rejection", (sorted([*kept, *bad]), there))
    claim(read.blank == blank, "blank lines are counted", (read.blank, blank))
    claim([row["line"] for row in read.kept] == sorted(kept), "rows stay in their order")
    for row, raw in zip(read.kept, read.raw, strict=True):
        claim(raw.rstrip(b"\r") == lines[row["line"]].rstrip(b"\r"), "a row's bytes are those of its line", raw)
    for number in there:
        line = lines[number].rstrip(b"\r\n")
        if len(lines[number].removesuffix(b"\r")) > longest:
            claim(bad.get(number, ("",))[0] == "too_long", "a row that is too long is dropped as such", bad.get(number))
            continue
        _check_parsers(line)
        alone = check_rows(form, [RawRow(number, line, line)], source="fuzz")
        found = kept.get(number), bad.get(number)
        slow = next(iter(alone.rows.to_pylist()), None), next(((row.reason, row.detail) for row in alone.bad), None)
        claim(found == slow, "a line's fate is its own", (found, slow))


def _is_blank(line: bytes) -> bool:
    """White space, or what an editor puts at the start of an empty file."""
    return not line.removeprefix(b"\xef\xbb\xbf").strip()


def _check_parsers(line: bytes) -> None:
    """The quick parser gives what the slow one gives, or DOUBT."""
    index = LineIndex(line)
    if len(index) != 1 or index.doubtful[0]:
        return
    quick = quick_json(line, int(index.num_quotes[0]))
    if quick is DOUBT:
        return
    try:
        slow = read_json(line)
    except RowError as error:
        slow = error.reason
    claim(repr(quick) == repr(slow), "the quick parser says what the slow one says", (quick, slow))


def _check_ranges(part: Part, form: Form, whole: Read, size: int) -> None:
    """The file in ranges of about `size` bytes."""
    ranges = line_ranges(part.location, part.label, size=max(16, min(size, 64)))
    parts = [part.replace(begin=begin, end=end, first_line=line, size=end - begin) for begin, end, line in ranges]
    claim(_read(parts, form, "line") == whole, "a file in ranges is the file read in one go")


def _check_text(container: Container, content: bytes, read: Read, longest: int) -> None:
    """The lines of all documents, kept or dropped, against the lines of the file that are not blank."""
    if packing_of(content) is not None:
        return
    lines = content.split(b"\n")
    there = sum(1 for line in lines if line.strip())
    cut_off = sum(1 for line in lines if not line.strip() and len(line) > longest)  # blank as far as it was read
    if container.document == "line":
        rows = len(read.kept) + len(read.bad)
        claim(there <= rows <= there + cut_off, "every line of a text is a row or a rejection", (there, rows))
    elif not read.bad:
        said = b"\n".join(row["text"].encode() for row in read.kept)
        found = sum(1 for line in said.split(b"\n") if line.strip(b"\xef\xbb\xbf").strip())
        there = sum(1 for line in content.split(b"\n") if line.strip(b"\xef\xbb\xbf").strip())
        claim(found == there, "no line of a text is lost", (found, there))


def _check_written(part: Part, form: Form, read: Read) -> None:
    """What `minimind data validate` writes of the file, and that it is kept when it is read again."""
    out = scratch() / "piece"
    (out / "00000").mkdir(parents=True, exist_ok=True)
    for old in (out / "00000").iterdir():
        old.unlink()
    (out / "00000").rmdir()
    check_piece(CheckJob(form=form, parts=(part,)), out, lambda size: None)
    tally = Tally.read(out / "00000")
    if tally.dropped:
        claim(tally.complaint(), "a tally says what is wrong")
    dropped = [json.loads(line) for line in (out / DROPPED_FILE).read_bytes().splitlines()]
    if part.kind != "text":  # `validate` reads texts as passages
        claim(
            len(dropped) == len(read.bad) == tally.dropped, "every rejection is written", (len(dropped), len(read.bad))
        )
        claim(tally.kept == len(read.kept) and tally.blank == len(read.blank), "the tally counts what was read")
    _check_again(out / KEPT_FILE, Form(rows="pretrain") if part.kind == "text" else form, tally.kept)


def _check_again(kept: Path, form: Form, count: int) -> None:
    again = Part(file=kept.name, label=str(kept), location=str(kept), kind="jsonl", size=kept.stat().st_size)
    with _sizes(*SIZES[0]):  # as JSON a text is longer than it was
        read = _read([again], form, "line")
    claim(
        not read.bad and len(read.kept) == count, "what was kept is kept again", (read.bad[:2], len(read.kept), count)
    )


def _mutate(data: bytes, rng: random.Random) -> bytes:
    header, lines = bytearray(data[:HEADER_BYTES].ljust(HEADER_BYTES, b"\0")), data[HEADER_BYTES:].split(b"\n")
    if rng.random() < 0.2:
        header[rng.randrange(HEADER_BYTES)] = rng.randrange(256)
    at = rng.randrange(len(lines))
    how = rng.random()
    if how < 0.1:
        lines.insert(rng.randint(0, len(lines)), lines[at] if rng.random() < 0.5 else rng.choice(_ODD_LINES))
    elif how < 0.15:
        lines[at] += rng.choice(_ODD_LINES)
    elif how < 0.2:
        lines[at] = rng.choice(_ODD_LINES) + lines[at]
    else:
        with suppress(ValueError, RecursionError):
            lines[at] = json_line(changed(json.loads(lines[at]), rng, WORDS, times=rng.randint(1, 3)), rng)
    return bytes(header) + b"\n".join(lines)


_ODD_LINES = (b"", b" ", b"\r", b"\xef\xbb\xbf", b"\t\x0b", b"\0", b"null", b"\xff", b" " * 70, b'{"text": "x"}', b"}")


def _seeds() -> Mapping[str, bytes]:
    found = {}
    for number, form in enumerate(FORMS):
        rows = SAMPLES[form.shape if form.shape != "minimind" else form.rows]
        lines = b"\n".join(json.dumps(row, ensure_ascii=number % 2 == 0).encode() for row in rows) + b"\n"
        label = f"{form.rows} {form.shape} {number}"
        found[label] = bytes([number, number % 3, number % 8]) + lines
        if form.shape == "minimind":
            found[f"{label} table"] = bytes([number, 10 + number % 2, WRITTEN]) + lines
    text = "A first line.\n\nAnother one, é 中.\r\n\n".encode()
    for container in (5, 6, 7):
        found[f"text {container}"] = bytes([0, container, container % 8]) + text * 3
    for number, name in ((10, "parquet"), (11, "arrow")):
        table = _stored(CONTAINERS[number], b'{"text": "one", "n": 1}\n{"text": "two", "n": null}\n{"text": "three"}')
        found[f"{name} bytes"] = bytes([0, number - 2, 0]) + (table or b"")
    packed = b'{"text": "packed"}\n' * 3
    found["gzip bytes"] = bytes([0, 3, 0]) + gzip.compress(packed, 1, mtime=0)
    found["zstd bytes"] = bytes([0, 4, 0]) + _zstd(packed)
    return found


KEYS = tuple(sorted({*WORDS, *(name for names in CONTENT.values() for name in names)}))
_FOLDERS = {
    "jsonl": bytes([0, 0, WRITTEN]),
    "chats": bytes([1, 0, WRITTEN]),
    "text": bytes([0, 5, 0]),
    "gz": bytes([0, 3, 0]),
    "zst": bytes([0, 4, 0]),
    "parquet": bytes([0, 8, 0]),
    "arrow": bytes([0, 9, 0]),
}
TARGET = Target("rows", check, _seeds(), KEYS, _mutate, folders=_FOLDERS)
