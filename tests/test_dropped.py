"""The logs of dropped and changed rows: whole, in order, and joined by copying."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.dropped import CHANGED_FILE, DROPPED_FILE, ChangeLog, DropLog, read_changes
from minimind.errors import ArtifactError, MissingError

SETTLED = settings(deadline=None, derandomize=True, max_examples=50)
ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)  # half characters and NUL too
BEFORE = "第一行\u200b\r\nsecond line\x00 ☃ 𝄞"


def drop(**changes: Any) -> dict[str, Any]:
    row = {"source": "web", "file": "a.jsonl", "line": 7, "rule": "html", "reason": "web_page", "detail": "d"}
    return {**row, "text": BEFORE, **changes}


def change(line: int = 1, **changes: Any) -> dict[str, Any]:
    row = {"source": "web", "file": "a.jsonl", "line": line, "rules": ["unicode", "control"], "before": BEFORE}
    return {**row, "after": "第一行\nsecond line ☃ 𝄞", **changes}


def write_changes(directory: Path, rows: list[dict[str, Any]]) -> bytes:
    directory.mkdir(exist_ok=True)
    with ChangeLog(directory) as log:
        log.add_all(*([row[name] for row in rows] for name in ("source", "file", "line", "rules", "before", "after")))
    return (directory / CHANGED_FILE).read_bytes()


def shown(value: Any) -> Any:
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value


def test_a_dropped_row_is_one_line_with_all_that_is_known_of_it(tmp_path: Path) -> None:
    with DropLog(tmp_path) as log:
        log.add(**drop())
        log.add(**drop(line=9, reason="too_short"))
    lines = (tmp_path / DROPPED_FILE).read_bytes().split(b"\n")
    assert [json.loads(line) for line in lines[:-1]] == [drop(), drop(line=9, reason="too_short")]
    assert lines[-1] == b""
    assert list(json.loads(lines[0])) == ["source", "file", "line", "rule", "reason", "detail", "text"]


def test_the_drop_log_goes_on_behind_what_is_there(tmp_path: Path) -> None:
    """Cleaning's drops stand behind those of reading, in one file."""
    for line in (1, 2):
        with DropLog(tmp_path) as log:
            log.add(**drop(line=line))
    rows = [json.loads(line) for line in (tmp_path / DROPPED_FILE).read_text("utf-8").splitlines()]
    assert [row["line"] for row in rows] == [1, 2]


@SETTLED
@given(ANY_TEXT, ANY_TEXT)
def test_any_text_can_be_dropped(tmp_path_factory: pytest.TempPathFactory, text: str, file: str) -> None:
    """Rows are dropped because their characters are broken; the log is the last that may fail on them."""
    directory = tmp_path_factory.mktemp("dropped")
    with DropLog(directory) as log:
        log.add(**drop(text=text, file=file))
    content = (directory / DROPPED_FILE).read_bytes()
    assert content.count(b"\n") == 1
    assert json.loads(content) == drop(text=shown(text), file=shown(file))


@SETTLED
@given(st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=4))
def test_any_change_is_read_again(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    rows = [change(n, before=before, after=after) for n, (before, after) in enumerate(texts)]
    write_changes(directory := tmp_path_factory.mktemp("changed"), rows)
    wanted = [{name: shown(value) for name, value in row.items()} for row in rows]
    assert list(read_changes(directory / CHANGED_FILE)) == wanted


def test_the_files_of_pieces_are_joined_by_copying(tmp_path: Path) -> None:
    """zstd frames one after the other are one file, for us, for zstandard and for pyarrow; empty pieces too."""
    rows = [change(n, before=f"{n} {BEFORE}" * 400) for n in range(300)]
    parts = [rows[:1], [], rows[1:120], rows[120:], []]
    joined = b"".join(write_changes(tmp_path / str(n), part) for n, part in enumerate(parts))
    path = tmp_path / CHANGED_FILE
    path.write_bytes(joined)
    assert list(read_changes(path)) == rows
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(joined), read_across_frames=True) as reader:
        lines = reader.read().splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert pa.CompressedInputStream(pa.BufferReader(joined), "zstd").read().splitlines() == lines


def test_equal_changes_give_equal_bytes(tmp_path: Path) -> None:
    """A resumed run must end in the same files; and what a crash left there is written over."""
    rows = [change(n, before=BEFORE * n) for n in range(50)]
    first = write_changes(tmp_path, rows)
    assert write_changes(tmp_path, rows) == first
    assert len(first) < sum(len(row["before"].encode()) for row in rows) / 4


def test_no_changes_are_a_file_too(tmp_path: Path) -> None:
    """A reader finds a file that says there is nothing, not a missing one."""
    write_changes(tmp_path, [])
    assert list(read_changes(tmp_path / CHANGED_FILE)) == []


def test_changes_that_are_cut_off_or_foreign_are_refused(tmp_path: Path) -> None:
    """A cut zstd file may read as a shorter one; silence would make the count of changes wrong."""
    whole = write_changes(tmp_path, [change(n) for n in range(1000)])
    path = tmp_path / CHANGED_FILE
    foreign = zstandard.compress(b'{"text": "no change"}\n')
    for content in (whole[:-3], whole[: len(whole) // 2], whole + b"xx", b"plain text\n", foreign):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"changed\.jsonl\.zst: .* run the cleaning again"):
            list(read_changes(path))
    path.unlink()
    with pytest.raises(MissingError, match=r"changed\.jsonl\.zst: no such file"):
        next(read_changes(path))
