"""`minimind data clean` and its kin as a user types them: files in, files out, nothing half written."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cleaning import DIRTY, chat, corpus_files
from typer.testing import CliRunner

from minimind.cli import app
from minimind.data.ledger import Ledger
from minimind.data.rules.settings import CleanRules
from minimind.data.standalone import clean_files
from minimind.errors import DataError


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_kept_and_dropped_rows_name_their_file_and_line(tmp_path: Path):
    """Whoever mends the source must find the line."""
    file = write(tmp_path / "rows.jsonl", DIRTY)
    done = clean_files([file], "pretrain", tmp_path / "out", rules=CleanRules())
    kept, dropped = (lines_of(tmp_path / "out" / f"{name}.jsonl") for name in ("kept", "dropped"))
    assert (done.rows_in, done.rows_kept, done.rows_dropped) == (6, len(kept), len(dropped)) == (6, 3, 3)
    assert {row["file"] for row in [*kept, *dropped]} == {file}
    assert sorted(row["line"] for row in [*kept, *dropped]) == [1, 2, 3, 4, 5, 6]
    assert {(row["line"], row["rule"], row["text"]) for row in dropped if row["line"] == 4} == {(4, "length", "stub")}
    assert not Ledger.read(tmp_path / "out").imbalance()
    assert (tmp_path / "out" / "report.html").exists() and (tmp_path / "out" / "changed.jsonl.zst").exists()


def test_files_of_a_folder_are_named_below_it(tmp_path: Path):
    """Two files may have rows of the same line."""
    (tmp_path / "in").mkdir()
    for name, rows in zip("ab", corpus_files(5, files=2, rows=4), strict=True):
        write(tmp_path / "in" / f"{name}.jsonl", rows)
    clean_files([str(tmp_path / "in")], "pretrain", tmp_path / "out", rules=CleanRules())
    files = {row["file"] for row in lines_of(tmp_path / "out" / "kept.jsonl")}
    assert files == {str(tmp_path / "in" / "a.jsonl"), str(tmp_path / "in" / "b.jsonl")}


def test_conversations_come_out_in_their_shape(tmp_path: Path):
    """What was kept can be trained on, or cleaned again, as it is."""
    file = write(tmp_path / "chat.jsonl", [chat("How are you today?", "Fine.")])
    clean_files([file], "chat", tmp_path / "out", rules=CleanRules())
    (row,) = lines_of(tmp_path / "out" / "kept.jsonl")
    assert row == {**chat("How are you today?", "Fine."), "file": file, "line": 1}


def test_a_file_of_nothing_but_dirt_leaves_no_row_and_no_error(tmp_path: Path):
    """The user asked what is wrong with it; every row says so."""
    file = write(tmp_path / "dirt.jsonl", [{"text": "stub"}, {"text": "哈" * 300}])
    done = clean_files([file], "pretrain", tmp_path / "out", rules=CleanRules())
    assert (done.rows_kept, done.rows_dropped) == (0, 2)
    assert (tmp_path / "out" / "kept.jsonl").read_bytes() == b""


def test_a_wrong_file_writes_nothing(tmp_path: Path):
    """Half an output would be taken for a whole one."""
    (tmp_path / "page.jsonl").write_text("<!doctype html><html></html>", encoding="utf-8")
    with pytest.raises(DataError, match="is a web page"):
        clean_files([str(tmp_path / "page.jsonl")], "pretrain", tmp_path / "out", rules=CleanRules())
    assert [path.name for path in tmp_path.iterdir()] == ["page.jsonl"]


def test_the_commands_print_a_balance_and_take_settings(tmp_path: Path):
    """`validate` and `clean` as documented, the report of what they left, and JSON for programs."""
    file, out = write(tmp_path / "rows.jsonl", DIRTY), str(tmp_path / "out")
    runner = CliRunner()
    told = runner.invoke(app, ["data", "validate", file, "--kind", "pretrain", "--out", str(tmp_path / "v")])
    assert told.exit_code == 0 and "6 lines that are not blank = 5 kept + 1 dropped" in told.output
    told = runner.invoke(app, ["data", "clean", file, "-k", "pretrain", "-o", out, "-s", "length=false", "--json"])
    assert told.exit_code == 0 and json.loads(told.output)["rows_kept"] == 4
    told = runner.invoke(app, ["data", "report", out])
    assert told.exit_code == 0 and "unicode" in told.output


def test_a_killed_clean_leaves_the_old_output(tmp_path: Path):
    """What was there before a run that died is still what was there."""
    files = [write(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate(corpus_files(6, rows=400))]
    clean_files(files[:1], "pretrain", tmp_path / "out", rules=CleanRules())
    before = (tmp_path / "out" / "kept.jsonl").read_bytes()
    command = [sys.executable, "-m", "minimind.cli", "data", "clean", *files, "-k", "pretrain"]
    child = subprocess.Popen([*command, "-o", str(tmp_path / "out")], env={**os.environ, "PYTHONUNBUFFERED": "1"})
    while not list(tmp_path.glob(".out*/artifacts/clean/.*.scratch")) and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it was over before it could be killed"
    assert (tmp_path / "out" / "kept.jsonl").read_bytes() == before
