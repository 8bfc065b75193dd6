"""Checking: raw rows in, a record batch of good rows and the bad ones with their reasons out.

Of a block of JSON lines the plain rows of one text are taken out by `json_rows` without a look at each, and plain
conversations by `plain_chats` with a quick one; all others are parsed one by one and pass `shapes.convert` and
`documents.check_row`. Which way a row goes makes no difference to what becomes of it: where the quick way is not
certain, the slow one decides.

Not here: where the rows come from (`readers`), counting them (`tally`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from minimind.config import Config
from minimind.data.arrays import Ints, int64s, strings
from minimind.data.columns import content_columns, row_batch, strings_of_one_length
from minimind.data.documents import Row, RowKind, check_row, id_seed
from minimind.data.kinds import CONVERSATIONS
from minimind.data.reading.files import MAX_ROW_BYTES, Block
from minimind.data.reading.json_rows import FlatTexts, LineIndex, flat_texts
from minimind.data.reading.plain_chats import PlainChats, plain_chats
from minimind.data.reading.shapes import Shape, convert
from minimind.data.reading.strict_json import DOUBT, Reason, RowError, quick_json, read_json

LONG_ROW_KEPT = 1 << 16
"""Bytes of a row beyond MAX_ROW_BYTES that go to the drop log."""


class Form(Config):
    """How raw rows become rows of one kind."""

    rows: RowKind
    keys: dict[str, str] = {}
    """Our field → the file's field; `meta.body` is `body` inside `meta`."""
    as_text: bool = False
    """Conversations whose contents become the text of pretraining rows."""
    shape: Shape = "minimind"
    has_groups: bool = False
    """The field `group`, where a row has it, keeps rows together; else each is on its own."""

    def text_key(self) -> str:
        """The field that is the text where rows can be read without a look at each; "" where they cannot."""
        key, group = self.keys.get("text", "text"), self.keys.get("group", "group")
        plain = self.rows == "pretrain" and not self.as_text and self.shape == "minimind"
        return key if plain and "." not in key + group and key != group and key != "group" else ""

    def is_of_plain_chats(self) -> bool:
        """Whether rows may be conversations of plain turns as they stand."""
        return self.rows in CONVERSATIONS and self.shape == "minimind" and not self.keys and not self.has_groups


@dataclass(frozen=True)
class RawRow:
    """What stands at one place of a source that is not a file of JSON lines."""

    line: int
    value: bytes | Mapping[str, Any] | RowError
    """A line of JSON, the row itself, or why it cannot be read."""
    raw: bytes
    """The row as it was read, or as JSON."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used."""

    line: int
    reason: Reason
    detail: str
    raw: bytes
    size: int
    """Bytes as it was read; more than are in `raw` where it is too long."""


@dataclass(frozen=True)
class Checked:
    """What became of some consecutive rows; everything in their order."""

    rows: pa.RecordBatch
    """The good ones, with all columns of their kind."""
    data: bytes
    begins: Ints
    """Where in `data` each good row begins as it was read, and where it ends."""
    ends: Ints
    bad: Sequence[BadRow]
    blank: Ints
    """The numbers of blank lines."""
    last_line: int

    def sizes(self) -> Ints:
        """Bytes of each good row as it was read."""
        return self.ends - self.begins

    def raw(self, place: int) -> bytes:
        """A good row as it was read."""
        return self.data[self.begins[place] : self.ends[place]]

    def first(self, num_good: int) -> "Checked":
        """What had been read when so many good rows were there."""
        if self.rows.num_rows < num_good:
            return self
        last = self.rows["line"][num_good - 1].as_py() if num_good else 0
        return replace(
            self,
            rows=self.rows.slice(0, num_good),
            begins=self.begins[:num_good],
            ends=self.ends[:num_good],
            bad=[row for row in self.bad if row.line < last],
            blank=self.blank[self.blank < last],
            last_line=last,
        )


def check_block(form: Form, block: Block, *, source: str, first_line: int) -> Checked:
    """Check the rows of a block of JSON lines; `source` is what their source column says."""
    index = LineIndex(block.data)
    is_long = index.ends - index.starts > MAX_ROW_BYTES
    is_long[-1:] |= block.left_out > 0
    index.doubtful |= is_long
    index.blank[is_long] = False  # what it begins with says nothing of what was left out
    quick, quick_lines = _quick_rows(form, index, source, first_line)
    waiting = ~index.blank
    waiting[quick_lines] = False
    slow = _Rows(form, source)
    for line in np.flatnonzero(waiting).tolist():
        number, raw = first_line + line, index.line(line)
        if is_long[line]:
            slow.bad.append(too_long(number, raw, block.left_out))
        else:
            slow.check_line(number, raw, _quotes(index, line))
    lines = np.array(slow.lines, np.int64) - first_line
    if quick is None:
        rows = slow.batch()
    elif not len(lines):
        rows, lines = quick, quick_lines
    else:
        both = np.concatenate((quick_lines, lines))
        order = np.argsort(both)
        rows = pa.concat_batches([quick, slow.batch()]).take(int64s(order))
        lines = both[order]
    return Checked(
        rows=rows,
        data=block.data,
        begins=index.starts[lines],
        ends=index.ends[lines],
        bad=slow.bad,
        blank=np.flatnonzero(index.blank) + first_line,
        last_line=first_line + len(index) - 1,
    )


def check_rows(form: Form, raw_rows: Iterable[RawRow], *, source: str) -> Checked:
    """Check rows that are no JSON lines of a file, or are such lines one by one."""
    rows = _Rows(form, source)
    kept: list[bytes] = []
    last = 0
    for raw in raw_rows:
        before, last = len(rows.lines), raw.line
        rows.check(raw)
        if len(rows.lines) > before:
            kept.append(raw.raw)
    ends = np.cumsum([len(raw) for raw in kept], dtype=np.int64)
    begins = ends - np.array([len(raw) for raw in kept], np.int64)
    blank = np.zeros(0, np.int64)
    return Checked(rows.batch(), b"".join(kept), begins, ends, bad=rows.bad, blank=blank, last_line=last)


class _Rows:
    """Rows that are checked one by one, and the columns they fill."""

    def __init__(self, form: Form, source: str) -> None:
        self.lines: list[int] = []
        self.bad: list[BadRow] = []
        self._form, self._source = form, source
        self._groups: list[str] = []
        self._rows: list[Row] = []

    def check(self, raw: RawRow) -> None:
        """Take a row, or note why not."""
        if len(raw.raw) > MAX_ROW_BYTES:
            self.bad.append(too_long(raw.line, raw.raw))
            return
        try:
            if isinstance(raw.value, RowError):
                raise raw.value
            self._take(raw.line, read_json(raw.value) if isinstance(raw.value, bytes) else raw.value)
        except RowError as error:
            self.bad.append(_bad(raw.line, error, raw.raw))

    def check_line(self, line: int, raw: bytes, num_quotes: int) -> None:
        """Take a line of JSON, or note why not; `num_quotes` is negative where only `read_json` may parse it."""
        try:
            value = quick_json(raw, num_quotes) if num_quotes >= 0 else DOUBT
            self._take(line, read_json(raw) if value is DOUBT else value)
        except RowError as error:
            self.bad.append(_bad(line, error, raw))

    def batch(self) -> pa.RecordBatch:
        ids = strings([row["id"] for row in self._rows])
        groups = strings(self._groups)
        lines = int64s(np.array(self.lines, np.int64))
        content = content_columns(self._form.rows, self._rows)
        return row_batch(self._form.rows, self._source, lines=lines, ids=ids, groups=groups, content=content)

    def _take(self, line: int, value: Any) -> None:
        row, group = checked_row(self._form, value)
        self.lines.append(line)
        self._rows.append(row)
        self._groups.append(group)


def checked_row(form: Form, value: Any) -> tuple[Row, str]:
    """The row that a parsed value is, with `id` and content, and its group. Raises RowError."""
    value = _renamed(value, form.keys)
    group = value.get("group") if form.has_groups and isinstance(value, Mapping) else None
    if form.as_text:
        chat = check_row("chat", convert(form.shape, "chat", value))
        # The conversation's id as the group: where it is a chat row too, both are on one side of the split.
        group = chat["id"] if group is None else group
        turns = [turn["content"] for turn in chat["conversations"]]
        value = {"text": "\n".join(text for text in turns if text.strip())}
    else:
        value = convert(form.shape, form.rows, value)
    row = check_row(form.rows, value)
    return row, row["id"] if group is None else _group(group)


def too_long(line: int, raw: bytes, left_out: int = 0) -> BadRow:
    """A row beyond MAX_ROW_BYTES, with the beginning of it."""
    detail = f"more than {MAX_ROW_BYTES >> 20} MiB in one row; only its beginning is kept in the drop log"
    return BadRow(line, "too_long", detail, raw[:LONG_ROW_KEPT], len(raw) + left_out)


def _bad(line: int, error: RowError, raw: bytes) -> BadRow:
    # A detail may quote a key of the row, and with it half a character, which no file of ours could hold.
    return BadRow(line, error.reason, error.detail.encode("utf-8", "backslashreplace").decode(), raw, len(raw))


def _group(group: Any) -> str:
    try:
        str(group).encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError("lone_surrogate", f"group: half a character at {error.start + 1}") from None
    return str(group)


def _renamed(value: Any, keys: Mapping[str, str]) -> Any:
    if not keys or not isinstance(value, Mapping):
        return value
    found = {ours: _inside(value, theirs) for ours, theirs in keys.items()}
    return {**value, **{ours: inner for ours, inner in found.items() if inner is not DOUBT}}


def _inside(value: Any, name: str) -> Any:
    """The field `name` of a value; `a.b` is `b` in `a` where there is no field of the whole name. DOUBT for none."""
    if not isinstance(value, Mapping):
        return DOUBT
    if name in value:
        return value[name]
    outer, dot, inner = name.partition(".")
    return _inside(value.get(outer), inner) if dot else DOUBT


def _quotes(index: LineIndex, line: int) -> int:
    return -1 if index.doubtful[line] else int(index.num_quotes[line])


def _quick_rows(form: Form, index: LineIndex, source: str, first_line: int) -> tuple[pa.RecordBatch | None, Ints]:
    """The rows of a block that are certain without a look at each field, and the numbers of their lines in it."""
    if key := form.text_key():
        found: FlatTexts | PlainChats = flat_texts(index, key)
    elif form.is_of_plain_chats():
        found = plain_chats(index)
    else:
        return None, np.zeros(0, np.int64)
    if not len(found):
        return None, found.lines
    lines = int64s(found.lines + first_line)
    if isinstance(found, PlainChats):
        ids = groups = strings_of_one_length("".join(found.ids).encode(), len(found))
        content: dict[str, pa.Array] = {"conversations": found.conversations}
    else:
        ids, groups = _ids_and_groups(form, found)
        content = {"text": found.texts}
    return row_batch(form.rows, source, lines=lines, ids=ids, groups=groups, content=content), found.lines


def _ids_and_groups(form: Form, flat: FlatTexts) -> tuple[pa.Array, pa.Array]:
    seed = id_seed(form.rows)
    hashes = [xxhash.xxh3_64_hexdigest(text, seed) for text in flat.encoded()]
    ids = strings_of_one_length("".join(hashes).encode(), len(flat))
    if not form.has_groups:
        return ids, ids
    found = [_renamed(other, form.keys).get("group") for other in flat.others]
    names = [row_id if group is None else _group(group) for row_id, group in zip(hashes, found, strict=True)]
    return ids, strings(names)
