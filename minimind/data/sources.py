"""Sources: what a [[source]] says, and the stage that reads all of them into checked rows.

Every row, whatever it comes from, passes `documents.check_row`. A row that fails is written to
dropped.jsonl, whole and with the reason; a source with too many of them stops the run with one line that
says what most of them have wrong. What a source is worth is its bytes: `content_digests` names them for the
fingerprint, so a moved folder is reused and a flipped byte is not.

The work is cut into jobs by the files alone. Each leaves a piece, and the pieces in their order are the output:
the same bytes for any number of workers, and after a kill.

Not here: reading the files (`readers`), finding those of a hub data set (`hub`), checking rows (`checking`),
judging whether a text is any good (`cleaning`).
"""

import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from minimind import runtime
from minimind.artifact import Inputs, Summary
from minimind.config import WHERE, Config
from minimind.data.checking import Checked, Form, check_rows
from minimind.data.documents import CONTENT, RowKind
from minimind.data.dropped import DROPPED_FILE, DropLog
from minimind.data.files import FileKind, Part, find_files
from minimind.data.ledger import Ledger
from minimind.data.locations import is_remote, remote_digest
from minimind.data.pieces import Advance, build_pieces, enough_workers, join_files, taken_apart
from minimind.data.readers import DocumentCut, check_part, cut_file, read_hub, read_pydocs, share_out
from minimind.data.row_parts import RowParts
from minimind.data.shapes import Shape
from minimind.data.shards import ROWS_DIR, gather_parts
from minimind.data.tally import CHECK, Tally, shown
from minimind.errors import DataError, MissingError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

FILE_KINDS = ("jsonl", "text", "parquet", "arrow")
WARN_FRACTION = 0.01
"""A source with more bad rows than this is warned of."""
GIVE_UP_AFTER = 1000
"""Bad rows at the start of a source without one good row: a wrong key, not a few accidents."""
_PIECES = "pieces"


class SourceConfig(Config):
    """One [[source]] of a data spec: which rows, and where they are read from."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    """Stands in the `source` column of its rows; unique in its spec."""
    kind: Literal["jsonl", "text", "parquet", "arrow", "hub", "pydocs"] = "jsonl"
    rows: RowKind
    path: Annotated[str | None, WHERE] = None
    """A file, a directory, a glob, or a URL; relative to the data spec. Its bytes are the identity, it is not."""
    shape: Shape = "minimind"
    """How the file writes its rows: as MiniMind does, or as Alpaca, ShareGPT or OpenAI (messages) do."""
    keys: dict[str, str] = {}
    """Our field → the file's field, for example {text = "content"} or {text = "meta.body"}; `group` may be given
    one too. With another shape: the shape's field → the file's."""
    weight: Annotated[float, WHERE] = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often the training rows are in the corpus: 2 is twice, 0.25 a quarter of them. The shard stage does it."""
    as_text: bool = False
    """The file holds conversations; their contents, joined by newlines, become the text of pretraining rows."""
    document: DocumentCut = "passage"
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
    """hub only: a commit (40 digits) pins the bytes, and the hub is not asked again; a branch is looked up always."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind in FILE_KINDS and not self.path:
            raise ValueError(f'source `{self.name}`: kind = "{self.kind}" needs `path`')
        if self.kind == "hub" and not self.dataset:
            raise ValueError(f'source `{self.name}`: kind = "hub" needs `dataset`')
        if self.kind == "text" and self.rows != "pretrain":
            raise ValueError(f'source `{self.name}`: a text file has rows = "pretrain" only')
        if self.kind == "pydocs" and self.rows == "prompt":
            raise ValueError(f"source `{self.name}`: pydocs has no prompts; its rows are pretrain, chat or preference")
        if self.as_text and (self.rows != "pretrain" or self.kind in ("text", "pydocs")):
            raise ValueError(f'source `{self.name}`: as_text is for conversations read with rows = "pretrain"')
        if self.shape != "minimind" and self.kind in ("text", "pydocs"):
            raise ValueError(f'source `{self.name}`: kind = "{self.kind}" has no other shape than minimind')
        allowed = {*CONTENT["chat" if self.as_text else self.rows], "group"}
        allowed |= {"preference": {"prompt"}, "prompt": {"conversations"}}.get(self.rows, set())
        if self.shape == "minimind" and (unknown := set(self.keys) - allowed):
            raise ValueError(f"source `{self.name}`: keys has {sorted(unknown)}; allowed: {sorted(allowed)}")
        return self

    def form(self) -> Form:
        """How its raw rows become rows."""
        return Form(
            rows=self.rows,
            keys=self.keys,
            as_text=self.as_text,
            shape=self.shape,
            has_groups="group" in self.keys or self.kind == "pydocs",
        )

    def files(self) -> tuple[FileKind | None, dict[str, str]]:
        """Kind, and name → place, of its files; no kind where no reader of ours reads them. Raises MissingError."""
        if self.kind == "hub":
            from minimind.data.hub import hub_files

            return hub_files(str(self.dataset), file=self.file, split=self.split, revision=self.revision)
        return (None, {}) if self.kind == "pydocs" else (self.kind, find_files(str(self.path), self.kind))


class IngestConfig(Config):
    """The sources of one kind of rows."""

    rows: RowKind
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    max_bad_fraction: float = Field(default=0.5, ge=0, le=1)
    """A source with a larger share of unusable rows stops the run."""
    workers: Annotated[int, WHERE] = Field(default=0, ge=0)
    """Processes; 0 takes one for each core."""

    @model_validator(mode="after")
    def _sources_have_these_rows(self) -> Self:
        if wrong := [source.name for source in self.sources if source.rows != self.rows]:
            raise ValueError(f"source `{wrong[0]}` does not have {self.rows} rows")
        return self


def content_digests(config: IngestConfig) -> dict[str, str]:
    """`source/file` → digest of the bytes behind it. Raises MissingError for a file that is not there."""
    digests = {}
    for source in config.sources:
        if (whole := _digest_of_whole(source)) is not None:
            digests[source.name] = whole
            continue
        for name, place in source.files()[1].items():
            digests[f"{source.name}/{name}"] = remote_digest(place) if is_remote(place) else _local_digest(place)
    return digests


def _digest_of_whole(source: SourceConfig) -> str | None:
    """What stands for the content of a source that need not be looked into file by file."""
    if source.kind == "pydocs":
        from minimind.data import pydocs

        return pydocs.content_digest(source.packages)
    if source.kind == "hub":
        from minimind.data.hub import is_pinned

        if is_pinned(str(source.dataset), source.revision):
            return f"{source.dataset}@{source.revision}/{source.file or source.split}"
    return None


def ingest(config: IngestConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Read every source in its order; good rows to rows/, the others to dropped.jsonl."""
    shutil.rmtree(out_dir / ROWS_DIR, ignore_errors=True)
    (out_dir / DROPPED_FILE).unlink(missing_ok=True)
    jobs = [job for source in config.sources for job in _jobs(source, config)]
    total = sum(part.size for job in jobs for part in job.parts) + 1
    with EventWriter(out_dir / EVENTS_FILE, keep_bytes=0) as events:
        pieces = build_pieces(
            read_piece,
            jobs,
            out_dir / _PIECES,
            workers=enough_workers(config.workers, total),
            on_progress=lambda done: events.progress(min(done, total - 1), total, "bytes"),
        )
        tallies = _tallies(config, jobs, pieces)
        ledger = Ledger()
        for tally in tallies:
            _judge(tally, config)
            ledger.add(tally.ledger)
        if not ledger.rows_kept.total():
            raise DataError(f"no {config.rows} rows are left of {_named(config)}; the reasons are in {DROPPED_FILE}")
        _collect(pieces, ledger, out_dir)
        events.progress(total, total, "bytes")
    return _summary(tallies, ledger)


INGEST = Stage("ingest", ingest, sources=content_digests, format_version=2, resumable=True)


class ReadJob(Config):
    """Some files, or ranges of them, of one source; no files for a source that our readers do not read."""

    source: SourceConfig
    max_bad_fraction: float
    parts: tuple[Part, ...] = ()
    several: bool = False
    """The source has more files than one, so a row says which it is of."""
    begins: bool = True
    """The first job of its source."""


def read_piece(job: ReadJob, out_dir: Path, advance: Advance) -> None:
    """Check the rows of a job: the good ones to rows/, the others to dropped.jsonl, the counts beside them."""
    source, form, tally = job.source, job.source.form(), Tally(job.source.name)
    with RowParts(out_dir / ROWS_DIR, source.rows) as writer, DropLog(out_dir) as dropped:
        for file, checked in _checked(job, form, advance):
            if source.limit:
                checked = checked.first(source.limit - tally.kept)
            tally.add(checked, form, file=file)
            writer.write(checked.rows)
            for row in checked.bad:
                where = {"source": source.name, "file": file, "line": row.line, "rule": CHECK}
                dropped.add(**where, reason=row.reason, detail=row.detail, text=shown(row.raw))
            if tally.kept == source.limit:
                break
            hopeless = job.begins and not tally.kept and tally.dropped >= GIVE_UP_AFTER
            if hopeless and job.max_bad_fraction < 1:
                raise DataError(_too_bad(tally, job.max_bad_fraction, gave_up=True))
    tally.write(out_dir)


def _jobs(source: SourceConfig, config: IngestConfig) -> Iterator[ReadJob]:
    """The work on one source. What must be read in one go, because of a limit, is one job."""
    whole = ReadJob(source=source, max_bad_fraction=config.max_bad_fraction)
    kind, files = source.files()
    if kind is None:
        yield whole
        return
    parts = [
        part
        for name, place in files.items()
        for part in cut_file(name, place, kind, label=f"source {source.name}, file {name}", document=source.document)
    ]
    for number, shared in enumerate([tuple(parts)] if source.limit else share_out(parts)):
        yield whole.replace(parts=shared, several=len(files) > 1, begins=number == 0)


def _checked(job: ReadJob, form: Form, advance: Advance) -> Iterator[tuple[str, Checked]]:
    """What became of the rows of a job, some at a time, with the file they are of."""
    source = job.source
    if source.kind == "pydocs":
        for group, rows in read_pydocs(source):
            yield group, check_rows(form, rows, source=source.name)
    if source.kind == "hub" and not job.parts:
        for rows in read_hub(source):
            yield source.split, check_rows(form, rows, source=source.name)
    for part in job.parts:
        origin = f"{source.name}/{part.file}" if job.several else source.name
        for checked in check_part(part, form, advance, source=origin, document=source.document):
            yield part.file, checked


def _tallies(config: IngestConfig, jobs: Sequence[ReadJob], pieces: Sequence[Path]) -> list[Tally]:
    """What became of the rows of each source."""
    tallies = {source.name: Tally(source.name) for source in config.sources}
    for job, piece in zip(jobs, pieces, strict=True):
        tallies[job.source.name].merge(Tally.read(piece))
    return [tallies[source.name] for source in config.sources]


def _judge(tally: Tally, config: IngestConfig) -> None:
    if not tally.kept and not tally.dropped:
        source = next(source for source in config.sources if source.name == tally.source)
        what = source.path or source.dataset or source.kind
        raise DataError(f"source {source.name}: {what} is empty, it has no rows; fetch it again or take it out")
    if config.max_bad_fraction < 1 and tally.is_wrong(config.max_bad_fraction):
        raise DataError(_too_bad(tally, config.max_bad_fraction))


def _too_bad(tally: Tally, allowed: float, *, gave_up: bool = False) -> str:
    return (
        f"source {tally.source}: {tally.complaint(gave_up=gave_up)}. That is more than max_bad_fraction = {allowed}; "
        'mend the file, name its fields in `keys` (like {text = "content"}), or raise max_bad_fraction in the data spec'
    )


def _collect(pieces: Sequence[Path], ledger: Ledger, out_dir: Path) -> None:
    """Make the output of the pieces."""
    with taken_apart(pieces) as moved:
        gather_parts(moved, out_dir / ROWS_DIR, ROWS_DIR, stem="part")
        join_files((piece / DROPPED_FILE for piece in moved), out_dir / DROPPED_FILE)
        ledger.write(out_dir)


def _summary(tallies: Sequence[Tally], ledger: Ledger) -> Summary:
    blank = {"blank_lines": sum(tally.blank for tally in tallies)}
    from_each = {f"rows_from_{tally.source}": tally.kept for tally in tallies}
    return Summary(
        figures={**ledger.figures(), **blank, **from_each},
        samples=[sample for tally in tallies for sample in tally.samples],
        warnings=[
            f"source {tally.source}: {tally.complaint()}" for tally in tallies if tally.bad_fraction() > WARN_FRACTION
        ],
    )


def _named(config: IngestConfig) -> str:
    return "source " + ", ".join(source.name for source in config.sources)


def _local_digest(place: str) -> str:
    try:
        stat = Path(place).stat()
        return _sha256(place, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise MissingError(f"{place}: cannot be read ({error.strerror}); look at its place and permissions") from None


@cache
def _sha256(place: str, _size: int, _changed: int) -> str:
    return runtime.file_sha256(Path(place))
