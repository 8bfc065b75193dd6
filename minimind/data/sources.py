"""Sources: what a [[source]] says, and the stage that reads all of them into checked rows.

Every row, whatever it comes from, passes `documents.check_row`. A row that fails is written to
dropped.jsonl, whole and with the reason; a source with too many of them stops the run with one line that
says what most of them have wrong. What a source is worth is its bytes: `content_digests` names them for the
fingerprint, so a moved folder is reused and a flipped byte is not.

Not here: reading the files (`files`, `readers`), judging whether a text is any good (`cleaning`). A hub data
set counts by its name, file and revision; pin a commit where its bytes must not change.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from minimind import runtime
from minimind.artifact import Inputs, Summary
from minimind.config import WHERE, Config
from minimind.data.documents import CONTENT, Row, RowKind, check_row
from minimind.data.dropped import DROPPED_FILE, DropLog
from minimind.data.files import find_files
from minimind.data.readers import RawRow, raw_rows
from minimind.data.shards import ROWS_DIR, RowWriter
from minimind.data.strict_json import RowError, read_json
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

FILE_KINDS = ("jsonl", "text", "parquet", "arrow")
WARN_FRACTION = 0.01
"""A source with more bad rows than this is warned of."""
GIVE_UP_AFTER = 1000
"""Bad rows at the start of a source without one good row: a wrong key, not a few accidents."""


class SourceConfig(Config):
    """One [[source]] of a data spec: which rows, and where they are read from."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Stands in the `source` column of its rows; unique in its spec."""
    kind: Literal["jsonl", "text", "parquet", "arrow", "hub", "pydocs"] = "jsonl"
    rows: RowKind
    path: Annotated[str | None, WHERE] = None
    """A file, a directory or a glob; relative to the data spec. Its bytes are the identity, it is not."""
    keys: dict[str, str] = {}
    """Our field → the file's field, for example {text = "content"}; `group` may be given one too."""
    as_text: bool = False
    """The file holds conversations; their contents, joined by newlines, become the text of pretraining rows."""
    document: Literal["passage", "line", "file"] = "passage"
    """Text files only: what a document is. A passage is some paragraphs, at least 1,000 characters."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many good rows are taken."""
    packages: Literal["stdlib", "installed"] = "stdlib"
    """pydocs only: whose documentation."""
    dataset: str | None = None
    """hub only: the data set's name, `owner/name`."""
    file: str | None = None
    """hub only: one file of the data set; without it the data set's own layout decides."""
    split: str = "train"
    """hub only."""
    revision: str = "main"
    """hub only: a commit pins the bytes; a branch is taken at its word and not looked at again."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind in FILE_KINDS and not self.path:
            raise ValueError(f'source `{self.name}`: kind = "{self.kind}" needs `path`')
        if self.kind == "hub" and not self.dataset:
            raise ValueError(f'source `{self.name}`: kind = "hub" needs `dataset`')
        if self.kind == "text" and self.rows != "pretrain":
            raise ValueError(f'source `{self.name}`: a text file has rows = "pretrain" only')
        if self.as_text and (self.rows != "pretrain" or self.kind in ("text", "pydocs")):
            raise ValueError(f'source `{self.name}`: as_text is for conversations read with rows = "pretrain"')
        allowed = {*CONTENT["chat" if self.as_text else self.rows], "group"}
        allowed |= {"prompt"} if self.rows == "preference" else set()
        if unknown := set(self.keys) - allowed:
            raise ValueError(f"source `{self.name}`: keys has {sorted(unknown)}; allowed: {sorted(allowed)}")
        return self


class IngestConfig(Config):
    """The sources of one kind of rows."""

    rows: RowKind
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    max_bad_fraction: float = Field(default=0.5, ge=0, le=1)
    """A source with a larger share of unusable rows stops the run."""

    @model_validator(mode="after")
    def _sources_have_these_rows(self) -> Self:
        if wrong := [source.name for source in self.sources if source.rows != self.rows]:
            raise ValueError(f"source `{wrong[0]}` does not have {self.rows} rows")
        return self


def content_digests(config: IngestConfig) -> dict[str, str]:
    """`source/file` → digest of the bytes behind it. Raises MissingError for a file that is not there."""
    digests = {}
    for source in config.sources:
        if source.kind == "pydocs":
            from minimind.data import pydocs

            digests[source.name] = pydocs.content_digest(source.packages)
        elif source.kind == "hub":
            digests[source.name] = f"{source.dataset}@{source.revision}/{source.file or source.split}"
        else:
            for name, path in find_files(str(source.path), source.kind).items():
                stat = path.stat()
                digests[f"{source.name}/{name}"] = _sha256(path, stat.st_size, stat.st_mtime_ns)
    return digests


def ingest(config: IngestConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Read every source in its order; good rows to rows/, the others to dropped.jsonl."""
    figures: Counter[str] = Counter()
    warnings: list[str] = []
    samples: list[str] = []
    with (
        RowWriter(out_dir / ROWS_DIR, config.rows) as writer,
        DropLog(out_dir) as dropped,
        EventWriter(out_dir / EVENTS_FILE) as events,
    ):
        progress = _progress(config, events)
        for source in config.sources:
            tally = _read_source(source, config, writer, dropped, progress)
            figures.update(tally.figures())
            figures[f"rows_from_{source.name}"] = tally.rows_kept
            samples.extend(tally.samples)
            if tally.bad_fraction() > WARN_FRACTION:
                warnings.append(tally.complaint())
        figures.update({f"dropped_{reason}": count for (_, reason), count in sorted(dropped.counts.items())})
    if not writer.rows:
        raise DataError(f"no {config.rows} rows are left of {_named(config)}; the reasons are in {DROPPED_FILE}")
    return Summary(figures=dict(figures), samples=samples, warnings=warnings)


INGEST = Stage("ingest", ingest, sources=content_digests)


class _Tally:
    """What became of the rows of one source."""

    def __init__(self, source: SourceConfig) -> None:
        self.source = source
        self.rows_kept = self.rows_dropped = self.bytes_kept = self.bytes_dropped = 0
        self.reasons: Counter[str] = Counter()
        self.first: dict[str, str] = {}
        """Reason → where it was met first, and what was wrong there."""
        self.samples: list[str] = []

    def figures(self) -> dict[str, int]:
        """The ledger: in = kept + dropped, in rows and in bytes as read."""
        return {
            "rows_in": self.rows_kept + self.rows_dropped,
            "rows_kept": self.rows_kept,
            "rows_dropped": self.rows_dropped,
            "bytes_in": self.bytes_kept + self.bytes_dropped,
            "bytes_kept": self.bytes_kept,
            "bytes_dropped": self.bytes_dropped,
        }

    def keep(self, row: Row, size: int) -> None:
        self.rows_kept += 1
        self.bytes_kept += size
        if len(self.samples) < 2:
            self.samples.append(json.dumps(row, ensure_ascii=False)[:400])

    def drop(self, raw: RawRow, error: RowError, size: int) -> None:
        self.rows_dropped += 1
        self.bytes_dropped += size
        self.reasons[error.reason] += 1
        self.first.setdefault(error.reason, f"{raw.file}, line {raw.line}: {error.detail}")

    def bad_fraction(self) -> float:
        return self.rows_dropped / max(1, self.rows_kept + self.rows_dropped)

    def complaint(self) -> str:
        """How many rows are bad, and the most frequent reason with its first place."""
        reason, count = self.reasons.most_common(1)[0]
        total = self.rows_kept + self.rows_dropped
        return (
            f"source {self.source.name}: {self.rows_dropped:,} of {total:,} rows cannot be used; "
            f"most often {reason} ({count:,}), first in {self.first[reason]}"
        )


def _read_source(
    source: SourceConfig, config: IngestConfig, writer: RowWriter, dropped: DropLog, progress: Callable[[int], None]
) -> _Tally:
    """Pass the rows of one source through the check. Raises DataError where too many fail it."""
    tally = _Tally(source)
    several = source.kind in FILE_KINDS and len(find_files(str(source.path), source.kind)) > 1
    for raw in _until_limit(source, tally):
        text = _raw_bytes(raw)
        try:
            row = _row(source, raw, several)
        except RowError as error:
            tally.drop(raw, error, len(text))
            shown = text.decode("utf-8", "backslashreplace")
            where = {"source": source.name, "file": raw.file, "line": raw.line}
            dropped.add(**where, rule="check", reason=error.reason, detail=error.detail, text=shown)
            if not tally.rows_kept and tally.rows_dropped >= GIVE_UP_AFTER and config.max_bad_fraction < 1:
                break
        else:
            tally.keep(row, len(text))
            writer.write(row, len(text))
        progress(len(text))
    _judge(tally, config)
    return tally


def _judge(tally: _Tally, config: IngestConfig) -> None:
    source = tally.source
    if not tally.rows_kept and not tally.rows_dropped:
        raise DataError(
            f"source {source.name}: {source.path or source.dataset or source.kind} is empty, it has no rows"
        )
    if tally.bad_fraction() > config.max_bad_fraction:
        raise DataError(
            f"{tally.complaint()}. That is more than max_bad_fraction = {config.max_bad_fraction}; mend the file, "
            'name its fields in `keys` (like {text = "content"}), or raise max_bad_fraction in the data spec'
        )


def _progress(config: IngestConfig, events: EventWriter) -> Callable[[int], None]:
    """Takes the bytes of each row and reports their sum; packed files and the hub have more than is foreseen."""
    files = [find_files(str(source.path), source.kind) for source in config.sources if source.kind in FILE_KINDS]
    total = sum(path.stat().st_size for named in files for path in named.values()) + 1
    done = 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        events.progress(min(done, total - 1), total, "bytes")

    return advance


def _until_limit(source: SourceConfig, tally: _Tally) -> Iterator[RawRow]:
    return itertools.takewhile(lambda _: source.limit is None or tally.rows_kept < source.limit, raw_rows(source))


def _row(source: SourceConfig, raw: RawRow, several: bool) -> Row:
    """The checked row with all columns. Raises RowError."""
    if isinstance(raw.value, RowError):
        raise raw.value
    value = read_json(raw.value) if isinstance(raw.value, bytes) else raw.value
    group = None
    if isinstance(value, dict):
        value = {**value, **{ours: value[theirs] for ours, theirs in source.keys.items() if theirs in value}}
        group = value.get("group") if "group" in source.keys or source.kind == "pydocs" else None
    if source.as_text:
        chat = check_row("chat", value)
        # The conversation's id as the group: where it is a chat row too, both are on one side of the split.
        group = chat["id"] if group is None else group
        turns = [turn["content"] for turn in chat["conversations"]]
        value = {"text": "\n".join(text for text in turns if text.strip())}
    row = check_row(source.rows, value)
    origin = f"{source.name}/{raw.file}" if several else source.name
    return {"source": origin, "line": raw.line, "group": str(row["id"] if group is None else group), **row}


def _raw_bytes(raw: RawRow) -> bytes:
    if raw.raw:
        return raw.raw
    if isinstance(raw.value, bytes):
        return raw.value
    if isinstance(raw.value, RowError):
        return b""
    return json.dumps(dict(raw.value), ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")


def _named(config: IngestConfig) -> str:
    return "source " + ", ".join(source.name for source in config.sources)


@cache
def _sha256(path: Path, _size: int, _changed: int) -> str:
    return runtime.file_sha256(path)
