"""Sources: every way a data file can be wrong ends in a counted row or one clear line."""

import gzip
import http.server
import json
import logging
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet
from pydantic import ValidationError

from minimind.artifact import Artifact, Store
from minimind.data.ledger import Ledger
from minimind.data.reading import checking, files, readers
from minimind.data.reading.ingest import INGEST, read_piece
from minimind.data.reading.sources import IngestConfig, SourceConfig, content_digests
from minimind.data.shards import read_rows
from minimind.errors import DataError, MissingError
from minimind.fingerprint import explain
from minimind.stage import build

ROWS = [{"text": f"document number {number}"} for number in range(5)]
CHAT = {"conversations": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}


def jsonl(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def config(path: Path, *, max_bad_fraction: float = 0.5, **source: Any) -> IngestConfig:
    settings = {"name": "mine", "rows": "pretrain", "path": str(path), **source}
    return IngestConfig(rows=settings["rows"], sources=(SourceConfig(**settings),), max_bad_fraction=max_bad_fraction)


def ingest(tmp_path: Path, content: bytes, *, name: str = "rows.jsonl", **settings: Any) -> Artifact:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return build(INGEST, config(path, **settings), {}, store=Store(tmp_path / "store"))[0]


def kept(artifact: Artifact) -> list[dict[str, Any]]:
    return list(read_rows(artifact.dir / "rows"))


def dropped(artifact: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (artifact.dir / "dropped.jsonl").read_text(encoding="utf-8").splitlines()]


BAD_LINES = {
    b'{"text": "cut off': "bad_json",
    b'{"content": "x"}': "missing_field",
    b'{"text": 7}': "wrong_type",
    b'{"text": "\xff\xfe"}': "bad_utf8",
    b'{"text": "nul \x00 byte"}': "nul_char",
    b'{"text": "\\ud83d"}': "lone_surrogate",
    b'{"text": "a", "text": "b"}': "duplicate_key",
    b'{"text": "a", "n": NaN}': "non_finite_number",
    b'{"text": "a", "n": 99999999999999999999}': "number_too_big",
    b"[" * 500 + b"]" * 500: "too_deep",
    b'["text"]': "not_object",
    b'{"text": "  "}': "empty_text",
}


def test_every_bad_row_is_on_file_with_its_line_and_reason(tmp_path: Path):
    """A row may be left out, but never without a trace; the line is the one an editor shows."""
    good = jsonl(ROWS)
    lines = b"\n\n".join(BAD_LINES)  # a blank line after each: skipped, and counted
    artifact = ingest(tmp_path, good + lines + b"\n" + good, max_bad_fraction=0.9)
    records = dropped(artifact)
    assert [record["reason"] for record in records] == list(BAD_LINES.values())
    assert [record["line"] for record in records] == [6 + 2 * n for n in range(len(BAD_LINES))]
    assert {(record["source"], record["file"], record["rule"]) for record in records} == {
        ("mine", "rows.jsonl", "check")
    }
    assert records[0]["text"] == '{"text": "cut off' and records[3]["text"] == '{"text": "\\xff\\xfe"}'
    figures: dict[str, Any] = artifact.summary().figures
    assert (figures["rows_in"], figures["rows_kept"], figures["rows_dropped"]) == (22, 10, 12)
    assert figures["bytes_in"] == figures["bytes_kept"] + figures["bytes_dropped"]
    assert figures["dropped_bad_json"] == 1
    last = kept(artifact)[-1]
    assert (last["line"], last["source"], last["group"]) == (33, "mine", last["id"])


def test_more_than_one_percent_bad_is_a_warning(tmp_path: Path):
    """A few accidents are normal; a pattern wants to be seen."""
    assert (
        "1 of 6 rows cannot be used; most often bad_json"
        in ingest(tmp_path, jsonl(ROWS) + b"{\n").summary().warnings[0]
    )
    many = jsonl(ROWS * 30)
    assert ingest(tmp_path, many + b"{\n", name="many.jsonl").summary().warnings == []


def test_too_many_bad_rows_stop_with_one_line_that_helps(tmp_path: Path):
    """File, counts, the most frequent reason, its first line, what was found instead, and the knob."""
    with pytest.raises(DataError) as caught:
        ingest(tmp_path, b"\n" + jsonl([{"content": "x"}] * 3 + ROWS[:1]))
    message = str(caught.value)
    assert (
        "3 of 4 rows" in message
        and "missing_field (3), first in rows.jsonl, line 2: no `text`; found `content`" in message
    )
    assert "max_bad_fraction = 0.5" in message and "keys" in message and "\n" not in message


def test_a_wrong_key_is_noticed_before_the_whole_file_is_read(tmp_path: Path):
    """Nobody wants to wait an hour to hear that the key is `content`."""
    with pytest.raises(DataError, match="most often missing_field.*keys = { text"):
        ingest(tmp_path, jsonl([{"content": "x"}] * 5000), max_bad_fraction=0.99)


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_an_empty_file_is_an_error(tmp_path: Path, content: bytes):
    """An empty download must not become an empty model."""
    with pytest.raises(DataError, match=r"rows\.jsonl is empty"):
        ingest(tmp_path, content)


def test_nothing_left_is_an_error_even_where_all_may_be_bad(tmp_path: Path):
    """max_bad_fraction = 1 allows bad rows, not an empty corpus."""
    with pytest.raises(DataError, match="no pretrain rows are left"):
        ingest(tmp_path, b"{\n", max_bad_fraction=1.0)


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("a.jsonl", json.dumps(ROWS).encode(), "one big JSON array.*jq"),
        ("a.jsonl", json.dumps(ROWS, indent=2).encode(), "one big JSON array.*jq"),
        ("a.jsonl", json.dumps(ROWS * 5000).encode(), "one big JSON array.*jq"),
        ("a.jsonl", json.dumps(ROWS[0], indent=2).encode(), "JSON over several lines"),
        ("a.jsonl", b"<!DOCTYPE html>\n<html></html>", "a web page"),
        ("a.jsonl", jsonl(ROWS).decode().encode("utf-16"), "UTF-16.*iconv"),
        ("a.jsonl", jsonl(ROWS).decode().encode("utf-16-le"), "UTF-16.*iconv"),
        ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("a.jsonl", b"PK\x03\x04 zip", "zip archive"),
        ("a.jsonl", b"PAR1 and so on", 'kind = "parquet"'),
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS * 999), mtime=0)[:-20], "cut off"),
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS), mtime=0)[:12], "cut off"),
        ("a.jsonl.gz", b"not packed", "is not packed"),
        ("a.jsonl.zst", zstandard.compress(jsonl(ROWS * 999))[:-20], "cut off"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_says_so(tmp_path: Path, name: str, content: bytes, remedy: str):
    """A million bad rows would hide the one thing that is wrong; the message names the file and the way out."""
    with pytest.raises(DataError, match=remedy) as caught:
        ingest(tmp_path, content, name=name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstandard.compress])
@pytest.mark.parametrize("name", ["rows.jsonl", "rows.ndjson"])
def test_packed_files_are_known_by_their_bytes(tmp_path: Path, name: str, pack: Any):
    """The same rows, however packed and named; a mark at the start and \\r\\n are no part of them."""
    content = b"\xef\xbb\xbf" + jsonl(ROWS).replace(b"\n", b"\r\n")
    assert [row["text"] for row in kept(ingest(tmp_path, pack(content), name=name))] == [row["text"] for row in ROWS]


def test_a_last_line_without_an_end_is_a_row(tmp_path: Path):
    """Half of all files end like this."""
    assert len(kept(ingest(tmp_path, jsonl(ROWS).rstrip(b"\n")))) == 5


def test_a_row_beyond_the_limit_is_dropped_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One endless line must not take the memory of the machine."""
    for module in (files, checking):
        monkeypatch.setattr(module, "MAX_ROW_BYTES", 1000)
    artifact = ingest(tmp_path, jsonl(ROWS) + b'{"text": "' + b"x" * 100_000 + b'"}\n' + jsonl(ROWS))
    assert [(record["line"], record["reason"]) for record in dropped(artifact)] == [(6, "too_long")]
    assert len(kept(artifact)) == 10


def test_memory_does_not_grow_with_the_file(tmp_path: Path):
    """Files are larger than memory in real life."""
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        for number in range(1000):
            file.write(jsonl([{"text": f"{number} " + "x" * 60_000}]))  # 60 MB
    tracemalloc.start()
    artifact, _ = build(INGEST, config(path), {}, store=Store(tmp_path / "store"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert artifact.summary().figures["rows_kept"] == 1000
    assert peak < 20_000_000


def test_folders_and_patterns_are_read_in_name_order(tmp_path: Path):
    """Rows of many files stay apart: the source column says which file, and the order is the names'."""
    for name in ("b.jsonl", "a/c.jsonl", ".hidden.jsonl", "notes.txt"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(jsonl([{"text": name}]))
    for path in ("data", "data/**/*.jsonl"):
        artifact, _ = build(INGEST, config(tmp_path / path), {}, store=Store(tmp_path))
        assert [(row["source"], row["text"]) for row in kept(artifact)] == [
            ("mine/a/c.jsonl", "a/c.jsonl"),
            ("mine/b.jsonl", "b.jsonl"),
        ]


@pytest.mark.parametrize(
    ("path", "message"),
    [("gone.jsonl", "no such file"), ("empty", "no jsonl files in this directory"), ("*.jsonl", "no file matches")],
)
def test_what_is_not_there_is_named(tmp_path: Path, path: str, message: str):
    """It must be known when the pipeline is planned, before anything runs."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingError, match=message):
        INGEST.parts(config(tmp_path / path), {})


def test_moved_data_is_reused_and_a_flipped_byte_is_not(tmp_path: Path):
    """What a source is worth is its bytes, not where they lie."""
    first = ingest(tmp_path, jsonl(ROWS), name="here/rows.jsonl")
    assert ingest(tmp_path, jsonl(ROWS), name="there/rows.jsonl").fingerprint == first.fingerprint
    flipped = ingest(tmp_path, jsonl(ROWS).replace(b"number 3", b"number 8"), name="there/rows.jsonl")
    assert flipped.fingerprint != first.fingerprint
    assert [(one.part, one.name) for one in explain(first.manifest.parts, flipped.manifest.parts)] == [
        ("source", "mine/rows.jsonl")
    ]


def test_a_file_that_changes_while_it_is_read_is_an_error_and_leaves_nothing(tmp_path: Path):
    """The fingerprint is of the bytes of before; rows of other bytes must not go by its name, now or later."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(jsonl(ROWS))

    def change(_: Path) -> None:
        path.write_bytes(jsonl([{"text": "another document"}]))

    with pytest.raises(DataError, match=r"mine/rows\.jsonl changed while it was read"):
        build(INGEST, config(path), {}, store=Store(tmp_path), on_start=change)
    path.write_bytes(jsonl(ROWS))
    assert [row["text"] for row in kept(build(INGEST, config(path), {}, store=Store(tmp_path))[0])] == [
        row["text"] for row in ROWS
    ]


def test_keys_rename_fields_and_groups_are_taken_over(tmp_path: Path):
    """Foreign files are used as they are."""
    content = jsonl([{"body": f"text {n}", "url": "u", "text": 7} for n in range(2)])
    rows = kept(ingest(tmp_path, content, keys={"text": "body", "group": "url"}))
    assert [(row["text"], row["group"]) for row in rows] == [("text 0", "u"), ("text 1", "u")]


def test_limit_counts_good_rows(tmp_path: Path):
    """`limit = 3` means three rows to learn from."""
    assert [row["line"] for row in kept(ingest(tmp_path, b"{\n" + jsonl(ROWS), limit=3))] == [2, 3, 4]


def test_conversations_as_text_stay_on_the_side_of_their_chat_rows(tmp_path: Path):
    """Pretraining on what SFT is validated on would be a leak: both rows are of one group."""
    chat = kept(ingest(tmp_path, jsonl([CHAT]), rows="chat"))[0]
    text = kept(ingest(tmp_path, jsonl([CHAT]), as_text=True))[0]
    assert text["text"] == "Hi\nHello"
    assert text["group"] == chat["group"] == chat["id"]


def test_chat_rows_keep_their_messages_whole(tmp_path: Path):
    """One odd row once turned 999 good ones into quoted JSON in another reader."""
    odd = {"conversations": [{"role": "user", "content": ["Hi"]}, {"role": "assistant", "content": "Hello"}]}
    artifact = ingest(tmp_path, jsonl([CHAT, odd, CHAT]), rows="chat")
    assert [turn["content"] for row in kept(artifact) for turn in row["conversations"]] == ["Hi", "Hello"] * 2
    assert dropped(artifact)[0]["reason"] == "wrong_type"


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_are_read_and_checked_like_lines(tmp_path: Path, kind: str):
    """Another container, the same check."""
    table = pa.table({"body": ["first text", None, "third text"], "n": [1, 2, 3]})
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    artifact, _ = build(INGEST, config(path, kind=kind, keys={"text": "body"}), {}, store=Store(tmp_path))
    assert [(row["line"], row["text"]) for row in kept(artifact)] == [(1, "first text"), (3, "third text")]
    assert dropped(artifact)[0]["line"] == 2
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match=f"cannot be read as {kind}"):
        build(INGEST, config(path, kind=kind), {}, store=Store(tmp_path))


@pytest.mark.parametrize(("document", "starts"), [("line", [1, 2, 4, 6]), ("passage", [1, 4]), ("file", [1])])
def test_text_files_are_cut_where_asked(tmp_path: Path, document: str, starts: list[int]):
    """A book is many documents, each with its place in the file and nothing lost."""
    lines = ["Title", "x" * 1200, "", "字" * 999, "", "last words"]
    artifact = ingest(tmp_path, "\n".join(lines).encode(), name="book.txt", kind="text", document=document)
    rows = kept(artifact)
    assert [row["line"] for row in rows] == starts
    assert "".join(row["text"] for row in rows).replace("\n", "") == "".join(lines)


def test_several_sources_keep_their_order_and_counts(tmp_path: Path):
    """The ledger says what each source gave."""
    sources = []
    for name in ("second", "first"):
        path = tmp_path / f"{name}.jsonl"
        path.write_bytes(jsonl([{"text": name}] * len(name)))
        sources.append(SourceConfig(name=name, rows="pretrain", path=str(path)))
    artifact, _ = build(INGEST, IngestConfig(rows="pretrain", sources=tuple(sources)), {}, store=Store(tmp_path))
    figures = artifact.summary().figures
    assert (figures["rows_from_second"], figures["rows_from_first"]) == (6, 5)
    assert [row["source"] for row in kept(artifact)] == ["second"] * 6 + ["first"] * 5


def hub_config(dataset: Path | str, **settings: Any) -> IngestConfig:
    source = SourceConfig(name="hub", kind="hub", dataset=str(dataset), **{"rows": "chat", **settings})
    return IngestConfig(rows=source.rows, sources=(source,))


@pytest.fixture
def hub_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data set as the hub has them, in a folder; `datasets` keeps lock files of it in a place of its own."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "set").mkdir()
    return tmp_path / "set"


def test_hub_files_are_judged_line_by_line(tmp_path: Path, hub_set: Path):
    """`datasets` names the files, our readers judge: the line and the reason are those of the file itself."""
    (hub_set / "train.jsonl").write_bytes(jsonl([CHAT]) + b"\n{\n" + jsonl([CHAT]))
    (hub_set / "test.jsonl").write_bytes(jsonl([CHAT]))
    artifact, _ = build(INGEST, hub_config(hub_set), {}, store=Store(tmp_path))
    assert [row["line"] for row in kept(artifact)] == [1, 4]
    assert [(record["file"], record["line"], record["reason"]) for record in dropped(artifact)] == [
        ("train.jsonl", 3, "bad_json")
    ]


def test_hub_sets_that_only_datasets_reads_come_as_rows(tmp_path: Path, hub_set: Path):
    """A format that we do not read has no lines; its rows are counted and checked like all others."""
    (hub_set / "train.csv").write_text("text,score\nhello,1\n,2\n你好,3\n", encoding="utf-8")
    artifact, _ = build(INGEST, hub_config(hub_set, rows="pretrain"), {}, store=Store(tmp_path))
    assert [(row["line"], row["text"]) for row in kept(artifact)] == [(1, "hello"), (3, "你好")]
    assert [(record["file"], record["line"]) for record in dropped(artifact)] == [("train", 2)]


def test_a_hub_file_that_is_not_there_is_one_clear_error(tmp_path: Path, hub_set: Path):
    """The name of the file is what the user has to mend."""
    with pytest.raises(MissingError, match="gone.jsonl: no such file") as caught:
        build(INGEST, hub_config(hub_set, file="gone.jsonl"), {}, store=Store(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_hub_set_counts_by_its_bytes(hub_set: Path):
    """Or by its commit, behind which no other bytes can be: then the hub need not even answer."""
    (hub_set / "train.jsonl").write_bytes(jsonl([CHAT]))
    first = content_digests(hub_config(hub_set))
    assert list(first) == ["hub/train.jsonl"]
    (hub_set / "train.jsonl").write_bytes(jsonl([CHAT, CHAT]))
    assert content_digests(hub_config(hub_set)) != first
    pinned = [content_digests(hub_config("no/where", revision=40 * digit)) for digit in "ab"]
    assert pinned[0] != pinned[1]


@pytest.mark.slow
def test_installed_documentation_is_a_source(tmp_path: Path):
    """The embedded default needs no files; its rows pass the same check and keep their groups."""
    logging.disable(logging.CRITICAL)
    source = SourceConfig(name="docs", kind="pydocs", rows="pretrain", limit=50)
    artifact, _ = build(INGEST, IngestConfig(rows="pretrain", sources=(source,)), {}, store=Store(tmp_path))
    rows = kept(artifact)
    assert len(rows) == 50 and all(row["group"] != row["id"] for row in rows)


def files_of(artifact: Artifact) -> dict[str, str]:
    """Path → sha256 of what is the output; events and summary have times and places in them."""
    return {entry.path: entry.sha256 for entry in artifact.manifest.files if entry.path != "events.jsonl"}


@pytest.fixture
def many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> IngestConfig:
    """Two sources that are cut into many pieces, with good, bad and blank lines in all of them."""
    monkeypatch.setattr(readers, "PIECE_BYTES", 4000)
    lines = jsonl([{"text": f"row {n} " + "字" * (n % 40)} for n in range(800)]).splitlines(keepends=True)
    lines[::17] = [b"\n"] * len(lines[::17])
    lines[5::23] = [b'{"text": 7}\n'] * len(lines[5::23])
    (tmp_path / "large.jsonl").write_bytes(b"".join(lines))
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        (tmp_path / "packed" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "packed" / name).write_bytes(gzip.compress(b"".join(lines[:90])))
    sources = [
        SourceConfig(name="large", rows="pretrain", path=str(tmp_path / "large.jsonl")),
        SourceConfig(name="packed", rows="pretrain", path=str(tmp_path / "packed")),
    ]
    return IngestConfig(rows="pretrain", sources=tuple(sources))


@pytest.mark.parametrize("workers", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_number_of_workers_changes_no_byte(tmp_path: Path, many_pieces: IngestConfig, workers: int):
    """A corpus that depends on the machine it was read on cannot be reproduced."""
    alone, _ = build(INGEST, many_pieces.replace(workers=1), {}, store=Store(tmp_path / "alone"))
    crowd, _ = build(INGEST, many_pieces.replace(workers=workers), {}, store=Store(tmp_path / "crowd"))
    assert alone.fingerprint == crowd.fingerprint
    assert files_of(alone) == files_of(crowd) and len(files_of(alone)) > 5
    assert not (alone.dir / "pieces").exists() and not (alone.dir / "pieces.taken").exists()
    assert Ledger.read(alone.dir).imbalance() == ""


def test_what_is_read_does_not_depend_on_how_it_was_cut(
    tmp_path: Path, many_pieces: IngestConfig, monkeypatch: pytest.MonkeyPatch
):
    """Pieces are a matter of speed: the rows, the drop log and the ledger are those of one long read."""
    cut, _ = build(INGEST, many_pieces, {}, store=Store(tmp_path / "cut"))
    monkeypatch.setattr(readers, "PIECE_BYTES", 1 << 30)
    whole, _ = build(INGEST, many_pieces, {}, store=Store(tmp_path / "whole"))
    assert kept(cut) == kept(whole) and dropped(cut) == dropped(whole)
    assert Ledger.read(cut.dir) == Ledger.read(whole.dir)
    lines = (tmp_path / "large.jsonl").read_bytes().splitlines()
    large = [row for row in kept(cut) if row["source"] == "large"]
    assert [(row["line"], row["text"]) for row in large] == [
        (n, json.loads(line)["text"]) for n, line in enumerate(lines, 1) if line and b"7}" not in line
    ]


KILLED = """
import sys
from minimind.artifact import Store
from minimind.data.reading import readers
from minimind.data.reading.ingest import INGEST
from minimind.data.reading.sources import IngestConfig
from minimind.stage import build
from pathlib import Path

readers.PIECE_BYTES = 4000
config = IngestConfig.model_validate_json(sys.argv[1])
build(INGEST, config, {}, store=Store(Path(sys.argv[2])))
"""


def test_a_killed_run_goes_on_from_its_finished_pieces(
    tmp_path: Path, many_pieces: IngestConfig, monkeypatch: pytest.MonkeyPatch
):
    """Hours of reading must not be lost with the power; and the bytes are those of an undisturbed run."""
    calm, _ = build(INGEST, many_pieces, {}, store=Store(tmp_path / "calm"))
    home = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, many_pieces.replace(workers=1).model_dump_json(), str(home)]
    run = subprocess.Popen(command)
    while run.poll() is None and len(list(home.glob("artifacts/ingest/.*/pieces/0000[0-9]"))) < 3:
        time.sleep(0.002)
    run.kill()
    run.wait()
    (pieces,) = home.glob("artifacts/ingest/.*/pieces")
    finished = {path.name for path in pieces.glob("[0-9]" * 5)}
    assert len(finished) >= 3
    begun: list[str] = []

    def counted(job: Any, out_dir: Path, advance: Any) -> None:
        begun.append(out_dir.stem)
        read_piece(job, out_dir, advance)

    monkeypatch.setattr("minimind.data.reading.ingest.read_piece", counted)
    resumed, reused = build(INGEST, many_pieces.replace(workers=1), {}, store=Store(home))
    assert not reused and begun and not finished & set(begun)
    assert files_of(resumed) == files_of(calm)


def test_a_kill_while_the_pieces_are_put_together_is_survived(tmp_path: Path, many_pieces: IngestConfig):
    """A piece that was taken apart must not count as finished, nor half an output as one."""
    calm, _ = build(INGEST, many_pieces, {}, store=Store(tmp_path / "calm"))
    store = Store(tmp_path / "killed")
    scratch = store.scratch("ingest", calm.fingerprint)
    for leftover in ("rows/part-00007.arrow", "pieces.taken/00000/rows/x.arrow", "dropped.jsonl", "events.jsonl"):
        (scratch / leftover).parent.mkdir(parents=True, exist_ok=True)
        (scratch / leftover).write_bytes(b"half")
    assert files_of(build(INGEST, many_pieces, {}, store=store)[0]) == files_of(calm)


def test_the_ledger_holds_what_the_summary_says(tmp_path: Path):
    """The report is made from the ledger; it must know the first examples and where they stand."""
    artifact = ingest(tmp_path, jsonl([*ROWS, {"text": 7}, {"content": "x"}]) + b"\n\n")
    ledger, figures = Ledger.read(artifact.dir), artifact.summary().figures
    assert ledger.imbalance() == "" and {**ledger.figures(), "blank_lines": 2, "rows_from_mine": 5} == figures
    assert ledger.bytes_out["mine"] == sum(len(row["text"]) for row in ROWS)
    (example,) = ledger.examples["check: wrong_type"]
    assert (example["file"], example["line"], example["before"]) == ("rows.jsonl", 6, '{"text": 7}')


def test_foreign_shapes_are_turned_into_rows(tmp_path: Path):
    """Alpaca and ShareGPT files are used as they are; keys rename the fields of their shape."""
    alpaca = jsonl([{"question": "Why?", "output": "Because."}])
    chat = kept(ingest(tmp_path, alpaca, rows="chat", shape="alpaca", keys={"instruction": "question"}))
    assert [turn["content"] for turn in chat[0]["conversations"]] == ["Why?", "Because."]
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    assert kept(ingest(tmp_path, jsonl([{"conversations": turns}]), rows="prompt", shape="sharegpt"))
    with pytest.raises(DataError, match='shape = "sharegpt"'):
        ingest(tmp_path, jsonl([{"conversations": turns}]), rows="chat")


def test_a_weight_reads_nothing_again(tmp_path: Path):
    """How often rows are used is decided when they are sharded; it must be a number that can be used."""
    (tmp_path / "a.jsonl").write_bytes(jsonl(ROWS))
    once, thrice = (INGEST.parts(config(tmp_path / "a.jsonl", weight=weight), {}) for weight in (1.0, 3.0))
    assert once.fingerprint() == thrice.fingerprint()
    for weight in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            config(tmp_path / "a.jsonl", weight=weight)


def test_an_empty_file_among_others_is_no_error(tmp_path: Path):
    """Programs that write many parts leave some of them empty."""
    for name, content in (("a.jsonl", b""), ("b.jsonl", jsonl(ROWS)), ("c.jsonl", b"\n")):
        (tmp_path / "data" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_bytes(content)
    artifact, _ = build(INGEST, config(tmp_path / "data"), {}, store=Store(tmp_path))
    assert len(kept(artifact)) == 5


def test_files_in_other_encodings_say_which(tmp_path: Path):
    """Most lines are not UTF-8: not a matter of rows, but of how the file was saved."""
    chinese = "".join(f'{{"text": "第{n}行：梯度累积是把多个小批次的梯度相加"}}\n' for n in range(30))
    with pytest.raises(DataError, match="looks like GB18030; convert it .iconv -f GB18030 -t UTF-8"):
        ingest(tmp_path, chinese.encode("gbk"))
    with pytest.raises(DataError, match="looks like WINDOWS-1252"):
        ingest(tmp_path, "".join(f'{{"text": "café número {n}"}}\n' for n in range(30)).encode("latin-1"))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a web server for `tmp_path`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_files_on_a_web_server_are_read_like_local_ones(tmp_path: Path, server: str):
    """Lines are streamed and unpacked on the way; tables are fetched first. The rows are the same."""
    table = pa.table({"text": [row["text"] for row in ROWS]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS) + b"{\n"))
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(jsonl(ROWS * 99))[:-9])
    for name, kind in (("rows.jsonl.gz", "jsonl"), ("rows.parquet", "parquet")):
        remote = SourceConfig(name="web", rows="pretrain", kind=kind, path=f"{server}/{name}")
        artifact, _ = build(INGEST, IngestConfig(rows="pretrain", sources=(remote,)), {}, store=Store(tmp_path / kind))
        assert [row["text"] for row in kept(artifact)] == [row["text"] for row in ROWS]
    with pytest.raises(DataError, match=r"cut\.jsonl\.gz: the gzip archive is cut off"):
        lost = SourceConfig(name="web", rows="pretrain", path=f"{server}/cut.jsonl.gz")
        build(INGEST, IngestConfig(rows="pretrain", sources=(lost,)), {}, store=Store(tmp_path / "lost"))
    with pytest.raises(MissingError, match=r"gone\.jsonl"):
        gone = SourceConfig(name="web", rows="pretrain", path=f"{server}/gone.jsonl")
        content_digests(IngestConfig(rows="pretrain", sources=(gone,)))
