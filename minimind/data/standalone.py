"""Cleaning outside a pipeline: files in, files out, with nothing set up.

The same stages as in a pipeline, ingest and clean, run in a directory of their own that is gone afterwards.
What they made appears in the output directory at the end, all of it or nothing. Not here: parsing and checking
alone (`validate`).
"""

import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from minimind.artifact import Artifact, Store
from minimind.config import Config, expanded
from minimind.data.cleaning import CLEAN, CleanConfig
from minimind.data.documents import CONTENT, RowKind
from minimind.data.dropped import CHANGED_FILE, DROPPED_FILE
from minimind.data.ledger import LEDGER_FILE, READ_LEDGER_FILE
from minimind.data.reading.files import file_kind
from minimind.data.reading.ingest import INGEST
from minimind.data.reading.locations import is_remote
from minimind.data.reading.shapes import Shape
from minimind.data.reading.sources import IngestConfig, SourceConfig
from minimind.data.reading.validate import KEPT_FILE, place_files, scratch_beside
from minimind.data.reports.report import HTML_FILE, MARKDOWN_FILE
from minimind.data.rules.settings import CleanRules
from minimind.data.shards import ROWS_DIR, read_batches
from minimind.stage import build


class CleanResult(Config):
    """What `clean_files` did: rows read, those of them left out, and how they were read and cleaned."""

    rows_in: int
    rows_kept: int
    rows_dropped: int
    read: dict[str, Any]
    """The figures of reading; the next are those of cleaning."""
    cleaned: dict[str, Any]


def clean_files(
    paths: Sequence[str],
    kind: RowKind,
    out_dir: Path,
    *,
    rules: CleanRules,
    shape: Shape = "minimind",
    workers: int = 0,
    on_start: Callable[[str, Path], None] = lambda stage, directory: None,
) -> CleanResult:
    """Read, check and clean the rows of files and folders into `out_dir`.

    There: kept.jsonl (content, file, line), dropped.jsonl, changed.jsonl.zst, report.html, report.md and the
    ledgers. `on_start` is told each stage and the directory where its events are written.
    """
    sources = _named(paths)
    ingest = IngestConfig(
        rows=kind,
        sources=tuple(
            SourceConfig(name=name, rows=kind, kind=file_kind(path), path=_absolute(path), shape=shape)
            for name, path in sources.items()
        ),
        workers=workers,
    )
    settings = CleanConfig(rows=kind, workers=workers, may_be_empty=True, **rules.model_dump())
    with scratch_beside(out_dir) as scratch:
        store = Store(scratch)
        read, _ = build(INGEST, ingest, {}, store=store, on_start=lambda d: on_start("ingest", d))
        cleaned, _ = build(CLEAN, settings, {"rows": read}, store=store, on_start=lambda d: on_start("clean", d))
        made = scratch / "made"
        made.mkdir()
        _write_kept(cleaned, kind, sources, made / KEPT_FILE)
        _write_dropped(cleaned, sources, made / DROPPED_FILE)
        for name in (CHANGED_FILE, HTML_FILE, MARKDOWN_FILE, LEDGER_FILE, READ_LEDGER_FILE):
            shutil.copyfile(cleaned.dir / name, made / name)
        place_files(made, out_dir)
        figures = {"read": read.summary().figures, "cleaned": cleaned.summary().figures}
    rows_in, rows_kept = int(figures["read"]["rows_in"]), int(figures["cleaned"]["rows_kept"])
    return CleanResult(rows_in=rows_in, rows_kept=rows_kept, rows_dropped=rows_in - rows_kept, **figures)


def _write_kept(cleaned: Artifact, kind: RowKind, sources: Mapping[str, str], path: Path) -> None:
    """The kept rows with the file and line they stand on; empty fields of messages are left out again."""
    encode = msgspec.json.Encoder().encode
    with path.open("wb") as file:
        for batch in read_batches(cleaned.dir / ROWS_DIR):
            for row in batch.to_pylist():
                content = {name: _bare(row[name]) for name in CONTENT[kind]}
                origin = {"file": _file(row["source"], sources), "line": row["line"]}
                file.write(encode({**content, **origin}) + b"\n")


def _write_dropped(cleaned: Artifact, sources: Mapping[str, str], path: Path) -> None:
    with (cleaned.dir / DROPPED_FILE).open("rb") as lines, path.open("wb") as file:
        for line in lines:
            row = json.loads(line)
            row["file"] = _typed(row.pop("source"), row["file"], sources)
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n")


def _absolute(path: str) -> str:
    return path if is_remote(path) else str(expanded(path).resolve())


def _named(paths: Sequence[str]) -> dict[str, str]:
    """Source name → path as the user typed it: the file's or folder's own name, numbered where two are equal."""
    named: dict[str, str] = {}
    for path in paths:
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(path).name.partition(".json")[0]).strip("_") or "input"
        number = sum(name.rpartition("-")[0] == plain or name == plain for name in named)
        named[f"{plain}-{number + 1}" if number else plain] = path
    return named


def _file(source: str, sources: Mapping[str, str]) -> str:
    name, _, file = source.partition("/")
    return _typed(name, file, sources)


def _typed(name: str, file: str, sources: Mapping[str, str]) -> str:
    """The file as the user named it: the path itself, or a folder's path with the file's name below it."""
    path = sources[name]
    return str(Path(path) / file) if Path(path).is_dir() and file else path


def _bare(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    return [{key: inner for key, inner in turn.items() if inner is not None} for turn in value]
