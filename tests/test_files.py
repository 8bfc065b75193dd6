"""Data files: which ones a path means, and how they are cut at line ends."""

import io
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.reading import files
from minimind.data.reading.files import Block, file_kind, find_all, find_files, line_ranges, open_raw, read_blocks
from minimind.errors import ConfigError, MissingError

SETTLED = settings(deadline=None, derandomize=True, max_examples=150)


def put(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"x")


def test_a_directory_means_its_files_in_name_order(tmp_path: Path):
    """The order of the rows must not depend on the file system; hidden files are nobody's data."""
    put(tmp_path, "b.jsonl", "a/c.NDJSON", "a/d.json.gz", ".hidden.jsonl", ".git/e.jsonl", "notes.txt", "f.json")
    assert list(find_files(str(tmp_path), "jsonl")) == ["a/c.NDJSON", "a/d.json.gz", "b.jsonl"]
    assert list(find_files(str(tmp_path / "**" / "*.json*"), "jsonl")) == ["a/d.json.gz", "b.jsonl", "f.json"]
    assert find_files(str(tmp_path / "f.json"), "jsonl") == {"f.json": str(tmp_path / "f.json")}


def test_what_is_not_there_or_no_file_is_named(tmp_path: Path):
    """Reading a pipe twice, once for its digest, would hang for ever."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingError, match="is no regular file"):
        find_files(str(tmp_path / "pipe"), "jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(MissingError, match=r"gone\.jsonl: no such file"):
        find_files(str(tmp_path / "gone.jsonl"), "jsonl")
    with pytest.raises(MissingError, match="no parquet files in this directory"):
        find_files(str(tmp_path), "parquet")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The remedy is another than for a file that is not there."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    put(tmp_path, "a.jsonl")
    monkeypatch.setattr(Path, "open", refuse)
    with (
        pytest.raises(MissingError, match=r"a\.jsonl: cannot be read \(Permission denied\).*permissions"),
        open_raw(str(tmp_path / "a.jsonl"), "a.jsonl"),
    ):
        pass


def test_files_of_a_folder_are_told_by_their_suffix(tmp_path: Path):
    """A README beside the data is not data; a folder of texts alone is."""
    put(tmp_path, "a.jsonl", "b.parquet", "README.md", "picture.png")
    found = find_all(str(tmp_path))
    assert found == {
        str(tmp_path / "a.jsonl"): (str(tmp_path / "a.jsonl"), "jsonl"),
        str(tmp_path / "b.parquet"): (str(tmp_path / "b.parquet"), "parquet"),
    }
    put(tmp_path / "books", "one.txt", "two.md")
    assert [kind for _, kind in find_all(str(tmp_path / "books")).values()] == ["text", "text"]
    put(tmp_path / "pictures", "a.png")
    with pytest.raises(MissingError, match="no data files in this directory"):
        find_all(str(tmp_path / "pictures"))


def test_names_are_those_the_user_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """They stand in the drop log, where the user looks for them."""
    put(tmp_path, "data/a.jsonl", "data/sub/b.jsonl")
    monkeypatch.chdir(tmp_path)
    assert list(find_all("data/a.jsonl")) == ["data/a.jsonl"]
    assert list(find_all("data")) == list(find_all("data/")) == ["data/a.jsonl", "data/sub/b.jsonl"]
    assert list(find_all("data/*.jsonl")) == ["data/a.jsonl"]


def test_the_kind_of_a_path_is_its_name_or_its_first_bytes(tmp_path: Path):
    """What is called .json or nothing at all is taken for lines, unless it says otherwise."""
    for name, content, kind in [
        ("a.jsonl.zst", b"x", "jsonl"),
        ("a.json", b"{}", "jsonl"),
        ("rows", b"PAR1...", "parquet"),
        ("table", b"ARROW1..", "arrow"),
        ("a.txt.gz", b"x", "text"),
    ]:
        (tmp_path / name).write_bytes(content)
        assert file_kind(str(tmp_path / name)) == kind
    put(tmp_path / "mixed", "a.jsonl", "b.arrow")
    with pytest.raises(ConfigError, match="holds arrow and jsonl files"):
        file_kind(str(tmp_path / "mixed"))


@SETTLED
@given(st.lists(st.sampled_from([b"a", b"\n", b"bc", b"\r\n", b"d" * 9]), max_size=60).map(b"".join), st.integers(1, 9))
def test_blocks_are_whole_lines_and_nothing_is_lost(data: bytes, size: int):
    """A line cut in two would be two bad rows; a byte lost one wrong row."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", size)
        blocks = list(read_blocks(io.BytesIO(data)))
    assert b"".join(block.data for block in blocks) == data
    assert all(block.data.endswith(b"\n") for block in blocks[:-1])
    assert all(block.left_out == 0 for block in blocks)


@SETTLED
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.booleans(), st.integers(1, 15))
def test_an_endless_line_is_cut_and_the_next_is_whole(lengths: list[int], ended: bool, size: int):
    """One damaged file may be one line of gigabytes; what follows it is still good."""
    lines = [bytes([97 + number]) * length for number, length in enumerate(lengths)]
    data = b"\n".join(lines) + (b"\n" if ended else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", size)
        patch.setattr(files, "MAX_ROW_BYTES", 20)
        blocks = list(read_blocks(io.BytesIO(data)))
    read: list[tuple[bytes, int]] = []
    for block in blocks:
        rows = block.data.removesuffix(b"\n").split(b"\n") if block.data else []
        read += [(row, block.left_out if row is rows[-1] else 0) for row in rows]
        assert not block.left_out or len(rows) == 1
    wanted = lines if ended or (lines and lines[-1]) else lines[:-1]
    assert [len(row) + left_out for row, left_out in read] == [len(line) for line in wanted]
    assert all(wanted[number].startswith(row) for number, (row, _) in enumerate(read))
    assert all(len(row) <= 20 + 1 + size for row, _ in read)


@SETTLED
@given(st.lists(st.integers(0, 30), max_size=40), st.booleans(), st.integers(1, 60))
def test_ranges_follow_one_another_and_know_their_first_line(lengths: list[int], ended: bool, size: int):
    """Jobs read a file from many places at once; the drop log must still name the line."""
    data = b"\n".join(b"x" * length for length in lengths) + (b"\n" if ended else b"")
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        ranges = list(line_ranges(file.name, "f", size=size))
    assert b"".join(data[begin:end] for begin, end, _ in ranges) == data
    assert [line for _, _, line in ranges] == [data[:begin].count(b"\n") + 1 for begin, _, _ in ranges]
    assert all(begin == 0 or data[begin - 1 : begin] == b"\n" for begin, _, _ in ranges)
    assert all(end - begin >= size for begin, end, _ in ranges[:-1])


def test_a_range_gives_its_own_lines(tmp_path: Path):
    """What one job reads another does not."""
    (tmp_path / "a").write_bytes(b"one\ntwo\nthree\n")
    with (tmp_path / "a").open("rb") as file:
        file.seek(4)
        assert list(read_blocks(file, size=4)) == [Block(b"two\n")]
