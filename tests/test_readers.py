"""Readers: a source is cut the same way every time, and its parts together are the whole."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from minimind.data.reading import readers, tables
from minimind.data.reading.checking import Checked, Form
from minimind.data.reading.files import FileKind, Part
from minimind.data.reading.readers import DocumentCut, check_part, cut_file, share_out
from minimind.errors import DataError

FORM = Form(rows="pretrain")


def checked(parts: Iterable[Part], form: Form = FORM, document: DocumentCut = "line") -> list[Checked]:
    return [
        found for part in parts for found in check_part(part, form, lambda size: None, source="s", document=document)
    ]


def rows_of(parts: Iterable[Part], form: Form = FORM, document: DocumentCut = "line") -> list[tuple[int, str]]:
    rows = [row for found in checked(parts, form, document) for row in found.rows.to_pylist()]
    return [(row["line"], row["text"]) for row in rows]


def cut(path: Path, kind: FileKind, **settings: Any) -> list[Part]:
    return cut_file(path.name, str(path), kind, label=path.name, **settings)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of a few kilobytes are large."""
    for module in (readers, tables):
        monkeypatch.setattr(module, "PIECE_BYTES", 1000)


def test_the_ranges_of_a_large_file_are_its_rows(tmp_path: Path, small_pieces: None):
    """Jobs on many cores read what one would have read, with the same line numbers."""
    lines = [json.dumps({"text": f"text {n} " + "x" * (n % 90)}) if n % 7 else "" for n in range(200)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(lines))
    parts = cut(path, "jsonl")
    assert len(parts) > 5 and sum(part.size for part in parts) == path.stat().st_size
    assert rows_of(parts) == [(n + 1, json.loads(line)["text"]) for n, line in enumerate(lines) if line]
    told: list[int] = []
    for part in parts:
        for _ in check_part(part, FORM, told.append, source="s", document="line"):
            pass
    assert sum(told) == path.stat().st_size


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_the_ranges_of_a_large_table_are_its_rows(tmp_path: Path, small_pieces: None, kind: FileKind):
    """Row groups and batches are cut between, not through; the number of a row counts from the start of the file."""
    table = pa.table({"text": [f"text {n} " + chr(97 + n % 26) * 50 for n in range(300)], "n": range(300)})
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        parquet.write_table(table, path, row_group_size=20, compression=None)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    parts = cut(path, kind)
    assert len(parts) > 5
    assert rows_of(parts) == list(enumerate(table["text"].to_pylist(), 1))


def test_an_arrow_stream_is_one_part(tmp_path: Path, small_pieces: None):
    """It has no index; reading it to find places would be reading it twice."""
    table = pa.table({"text": [f"text {n}" for n in range(300)]})
    with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    parts = cut(tmp_path / "a.arrow", "arrow")
    assert [(part.begin, len(rows_of([part]))) for part in parts] == [(0, 300)]


def test_small_files_share_a_job_and_packed_ones_count_for_more(tmp_path: Path, small_pieces: None):
    """Ten thousand jobs of a kilobyte each would cost more than the work."""

    def part(name: str, size: int) -> Part:
        return Part(file=name, label=name, location=name, kind="jsonl", size=size)

    sizes = {"a.jsonl": 600, "b.jsonl": 300, "c.jsonl.gz": 200, "d.jsonl": 100, "e.jsonl": 5000, "f.jsonl": 1}
    jobs = list(share_out(part(name, size) for name, size in sizes.items()))
    assert [[part.file[0] for part in job] for job in jobs] == [["a", "b"], ["c", "d"], ["e"], ["f"]]
    assert list(share_out([])) == []


def test_documents_of_text_files_are_not_cut_through(tmp_path: Path, small_pieces: None):
    """Lines may be read in ranges; passages and whole files may not."""
    path = tmp_path / "book.txt"
    path.write_text("\n".join(f"line {n} " + "x" * 50 for n in range(100)))
    assert len(cut(path, "text", document="line")) > 3
    assert len(rows_of(cut(path, "text", document="line"))) == 100
    assert len(cut(path, "text", document="passage")) == len(cut(path, "text", document="file")) == 1
    assert len(rows_of(cut(path, "text"), document="file")) > 1


def test_a_large_file_that_is_none_of_lines_is_refused_before_it_is_cut(tmp_path: Path, small_pieces: None):
    """Counting the lines of a hundred gigabytes of UTF-16 helps nobody."""
    path = tmp_path / "a.jsonl"
    path.write_bytes((json.dumps({"text": "x" * 200}) + "\n").encode("utf-16") * 20)
    with pytest.raises(DataError, match=r"a\.jsonl: is UTF-16"):
        cut(path, "jsonl")


def test_odd_values_of_tables_do_not_stop_a_run(tmp_path: Path):
    """Dates, decimals and maps beside the text are no reason to fail; a text that is no UTF-8 is a bad row."""
    broken = pa.StringArray.from_buffers(2, pa.array([0, 2, 4], pa.int32()).buffers()[1], pa.py_buffer(b"ok\xff\xfe"))
    table = pa.table(
        {
            "text": broken,
            "when": pa.array([0, 1], pa.timestamp("us")),
            "map": pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
            "raw": pa.array([b"\xff", None], pa.binary()),
        }
    )
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    (found,) = checked(cut(tmp_path / "a.arrow", "arrow"))
    assert found.rows["text"].to_pylist() == ["ok"] and json.loads(found.raw(0))["text"] == "ok"
    assert [(row.line, row.reason) for row in found.bad] == [(2, "bad_utf8")]
