"""Ingest: the stage that reads all sources into checked rows.

Every row, whatever it comes from, passes `documents.check_row`. A row that fails is written to
dropped.jsonl, whole and with the reason; a source with too many of them stops the run with one line that
says what most of them have wrong.

The work is cut into jobs by the files alone. Each leaves a piece, and the pieces in their order are the output:
the same bytes for any number of workers, and after a kill.

Not here: what a source is (`sources`), reading its files (`readers`), checking rows (`checking`), judging whether a
text is any good (`cleaning`).
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from minimind.artifact import Inputs, Summary
from minimind.config import Config
from minimind.data.dropped import DROPPED_FILE, DropLog
from minimind.data.ledger import Ledger
from minimind.data.pieces import Advance, build_pieces, enough_workers, join_files, taken_apart
from minimind.data.reading.checking import Checked, Form, check_rows
from minimind.data.reading.files import Part
from minimind.data.reading.readers import check_part, cut_file, read_hub, read_pydocs, share_out
from minimind.data.reading.sources import IngestConfig, SourceConfig, content_digests
from minimind.data.reading.tally import CHECK, Tally, shown
from minimind.data.row_parts import RowParts
from minimind.data.shards import ROWS_DIR, gather_parts
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

WARN_FRACTION = 0.01
"""A source with more bad rows than this is warned of."""
GIVE_UP_AFTER = 1000
"""Bad rows at the start of a source without one good row: a wrong key, not a few accidents."""
_PIECES = "pieces"


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
