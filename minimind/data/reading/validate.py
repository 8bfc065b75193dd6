"""Validation outside a pipeline: files in, their good rows unchanged and their bad rows with reasons out.

    kept.jsonl      the good rows, byte for byte as they were, one a line, in order
    dropped.jsonl   a bad row a line: file (as it was given), line (as an editor counts), reason, detail, text

Rows are parsed and checked and nothing else: no rule looks at them. Lines that are not blank = kept + dropped.
Rows of Parquet and Arrow files are kept as JSON, documents of text files as {"text": …}. Both files appear at
the end, together, or not at all: a failure or a kill leaves what was there before.

Not here: what is wrong with a row (`checking`) or a file (`foreign`); cleaning (`standalone`).
"""

import os
import platform
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil

from minimind.config import Config
from minimind.data.documents import RowKind
from minimind.data.dropped import DROPPED_FILE
from minimind.data.pieces import Advance, build_pieces, enough_workers, join_files
from minimind.data.reading.checking import Checked, Form
from minimind.data.reading.files import Part, find_all
from minimind.data.reading.readers import check_part, cut_file, share_out
from minimind.data.reading.shapes import Shape
from minimind.data.reading.tally import Tally, shown
from minimind.errors import ConfigError, DataError

KEPT_FILE = "kept.jsonl"
MAX_BAD_FRACTION = 0.5
"""A file with a larger share of bad rows is not what it was taken for."""
GIVE_UP_AFTER = 1000
"""Bad rows at the start of a file without one good row: it is of another kind."""
_encode = msgspec.json.Encoder().encode


class ValidateSummary(Config):
    """What was read, and what became of it: lines = kept + dropped."""

    files: int
    lines: int
    """Rows: lines that are not blank, rows of tables, documents of text files."""
    blank: int
    kept: int
    dropped: int
    reasons: dict[str, int]
    """Bad rows by reason, the most frequent first."""


class CheckJob(Config):
    """Some files, or ranges of them."""

    form: Form
    parts: tuple[Part, ...]


def validate(
    paths: Sequence[str],
    kind: RowKind,
    out_dir: Path,
    *,
    shape: Shape = "minimind",
    workers: int = 0,
    on_progress: Callable[[int], None] = lambda done: None,
) -> ValidateSummary:
    """Check all rows of files and folders into `out_dir`; what else is there is left alone.

    `on_progress` is told the stored bytes that were read. Raises DataError, MissingError or ConfigError, and then
    nothing is written.
    """
    parts = _parts(paths, kind)
    _refuse_target(out_dir, parts)
    jobs = [CheckJob(form=Form(rows=kind, shape=shape), parts=shared) for shared in share_out(parts)]
    workers = enough_workers(workers, sum(part.size for part in parts))
    with scratch_beside(out_dir) as scratch:
        pieces = build_pieces(check_piece, jobs, scratch / "pieces", workers=workers, on_progress=on_progress)
        tallies = _tallies(jobs, pieces)
        for tally in tallies:
            _judge(tally, kind)
        made = scratch / "made"
        made.mkdir()
        for name in (KEPT_FILE, DROPPED_FILE):
            join_files([piece / name for piece in pieces], made / name)
        place_files(made, out_dir)
    return _summary(tallies)


def checked_files(paths: Sequence[str], kind: RowKind, *, shape: Shape = "minimind") -> Iterator[tuple[str, Checked]]:
    """(file as it was given, what became of some of its rows), in order; nothing is written."""
    form = Form(rows=kind, shape=shape)
    for part in _parts(paths, kind):
        for checked in check_part(part, form, lambda size: None, source=part.file, document="passage"):
            yield part.file, checked


def check_piece(job: CheckJob, out_dir: Path, advance: Advance) -> None:
    """The kept and dropped rows of some files, and a tally for each."""
    with (out_dir / KEPT_FILE).open("wb") as kept, (out_dir / DROPPED_FILE).open("wb") as dropped:
        for number, part in enumerate(job.parts):
            tally = Tally(part.file)
            for checked in check_part(part, job.form, advance, source=part.file, document="passage"):
                tally.add(checked, job.form, file=part.file)
                kept.write(_kept_lines(checked, is_text=part.kind == "text"))
                for row in checked.bad:
                    where = {"file": part.file, "line": row.line}
                    why = {"reason": row.reason, "detail": row.detail, "text": shown(row.raw)}
                    dropped.write(_encode({**where, **why}) + b"\n")
                if part.first_line == 1 and not tally.kept and tally.dropped >= GIVE_UP_AFTER:
                    _judge(tally, job.form.rows, gave_up=True)
            directory = out_dir / f"{number:05d}"
            directory.mkdir()
            tally.write(directory)


def place_files(made: Path, out_dir: Path) -> None:
    """Move the files of the directory `made` into `out_dir`, replacing those of the same names."""
    _refuse_file(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    for path in sorted(made.iterdir()):
        path.replace(out_dir / path.name)


@contextmanager
def scratch_beside(out_dir: Path) -> Iterator[Path]:
    """A directory on the disk of `out_dir` that is gone afterwards; what a killed run left there goes, too."""
    target = out_dir.expanduser().resolve()
    place = next(parent for parent in target.parents if parent.is_dir())
    prefix, suffix = f".{target.name}.{platform.node()}-", ".partial"
    for old in place.glob("*" + suffix):
        pid = old.name.removeprefix(prefix).removesuffix(suffix)
        if old.name.startswith(prefix) and pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    scratch = place / f"{prefix}{os.getpid()}{suffix}"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
    except OSError as error:
        raise ConfigError(f"--out {out_dir}: nothing can be written there ({error.strerror})") from None
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _parts(paths: Sequence[str], kind: RowKind) -> list[Part]:
    """The parts of all files, in the order they were given; a file's name is the path as the user typed it."""
    parts: list[Part] = []
    seen: set[str] = set()
    for path in paths:
        for file, (location, file_kind) in find_all(path).items():
            if location in seen:
                raise ConfigError(f"{file}: is given twice; its rows would be there twice")
            if file_kind == "text" and kind != "pretrain":
                raise DataError(f"{file}: is a text file, it can only hold pretrain rows; name files of {kind} rows")
            seen.add(location)
            parts += cut_file(file, location, file_kind, label=file, document="passage")
    return parts


def _refuse_target(out_dir: Path, parts: Sequence[Part]) -> None:
    _refuse_file(out_dir)
    outputs = {str((out_dir / name).expanduser().resolve()) for name in (KEPT_FILE, DROPPED_FILE)}
    for part in parts:
        if str(Path(part.location).resolve()) in outputs:
            raise ConfigError(f"--out {out_dir}: {part.file} would be overwritten; choose another directory")


def _refuse_file(out_dir: Path) -> None:
    blocking = next((place for place in (out_dir, *out_dir.parents) if place.exists()), out_dir)
    if blocking.exists() and not blocking.is_dir():
        raise ConfigError(f"--out {out_dir}: {blocking} is a file; name a directory")


def _kept_lines(checked: Checked, *, is_text: bool) -> bytes:
    if is_text:
        lines = [_encode({"text": text}) for text in checked.rows["text"].to_pylist()]
    else:
        lines = [checked.raw(place) for place in range(checked.rows.num_rows)]
    return b"".join([line + b"\n" for line in lines])


def _tallies(jobs: Sequence[CheckJob], pieces: Sequence[Path]) -> list[Tally]:
    """What became of the rows of each file."""
    tallies: dict[str, Tally] = {}
    for job, piece in zip(jobs, pieces, strict=True):
        for number, part in enumerate(job.parts):
            tallies.setdefault(part.file, Tally(part.file)).merge(Tally.read(piece / f"{number:05d}"))
    return list(tallies.values())


def _judge(tally: Tally, kind: RowKind, *, gave_up: bool = False) -> None:
    """Raise DataError for a file that is wrong as a whole."""
    rows = tally.kept + tally.dropped
    if not rows:
        what = "has only blank lines" if tally.blank else "is empty"
        raise DataError(f"{tally.source}: {what}; fetch it again or leave it out")
    if tally.is_wrong(MAX_BAD_FRACTION):
        verdict = f"More than half are no {kind} rows" if tally.kept else f"None of them is a {kind} row"
        raise DataError(f"{tally.source}: {tally.complaint(gave_up=gave_up)}. {verdict}; mend the file or name another")


def _summary(tallies: Sequence[Tally]) -> ValidateSummary:
    reasons: Counter[str] = Counter()
    for tally in tallies:
        reasons.update(tally.reasons())
    kept, dropped = sum(tally.kept for tally in tallies), sum(tally.dropped for tally in tallies)
    return ValidateSummary(
        files=len(tallies),
        lines=kept + dropped,
        blank=sum(tally.blank for tally in tallies),
        kept=kept,
        dropped=dropped,
        reasons=dict(reasons.most_common()),
    )
