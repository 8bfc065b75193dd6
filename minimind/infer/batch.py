"""Batch inference: the stage that answers every row of a file of questions.

    input files ─► questions ─► answer_piece ─┐     (a job for some lines)
                            ─► answer_piece ─┼─► answers-00000.jsonl … , dropped.jsonl, figures.json
                            ─► answer_piece ─┘

Answers are dear, so what is finished is kept to the very end: pieces go only once the answers made of them are on the
disk and `joined/files.json` says so. A kill costs the pieces under way and nothing else. Which lines are a piece
depends on the input and on the kind of device; an answer depends on its row, the model, the settings and the row's
number alone, so neither pieces nor workers change a byte of it.

A row that cannot be asked is kept aside in `dropped.jsonl`, with its line and the reason, and stops nothing. Not here:
what a row may say (`batch_rows`), answering (`batch_jobs`), counting (`batch_figures`).
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from minimind import runtime
from minimind.artifact import Inputs, Summary
from minimind.data.dropped import DROPPED_FILE
from minimind.data.pieces import build_pieces, join_files
from minimind.data.reading.files import BLOCK_BYTES, Block, find_files
from minimind.data.reading.readers import cut_file, read_part
from minimind.data.reading.sources import IngestConfig, SourceConfig, content_digests
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.infer.batch_figures import FIGURES_FILE, PieceFigures, add, complaint, summary
from minimind.infer.batch_jobs import ANSWERS_FILE, AskJob, GenerateConfig, answer_piece, engine_of
from minimind.proven import Proven
from minimind.stage import Stage

logger = logging.getLogger(__name__)

__all__ = ["GENERATE", "GenerateConfig", "copy_answers", "generate"]

SHARD_BYTES = 64 << 20
"""A file of answers ends behind the line that reaches this: as large as a shard of a corpus."""
CPU_PIECE_ROWS = 32
"""Rows of a piece: 8 s of a core at minimind2-small's size and 100 tokens an answer, so few rows reach all cores."""
GPU_PIECE_ROWS = 512
"""Eight full batches, so that the last answers of a piece leave few places empty."""
MAX_PIECES = 512
"""More of them would be more to look after than to do; pieces of long inputs are larger instead."""
JOINED_DIR, JOINED_FILE = "joined", "files.json"
"""Says that the answers are all there: in the scratch directory only."""
_QUESTIONS, _PIECES = "questions.jsonl", "pieces"

Lines = list[tuple[str, np.ndarray]]
"""Name of an input file, and where its lines end in the file of questions; the first number is where they begin."""


class Joined(Proven):
    """File → sha256 of what the pieces were joined to."""

    files: dict[str, str]


def generate(config: GenerateConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Write an answer to every row of the input that can be asked, in order, and keep the others aside."""
    figures_path, model = out_dir / FIGURES_FILE, inputs["model"].dir
    with EventWriter(out_dir / EVENTS_FILE, keep_bytes=0) as events:
        if not _is_joined(out_dir):
            _answer_all(config, model, out_dir, events)
        figures = PieceFigures.read_json(figures_path, remedy="run it again with --refresh")
        for leftover in (_PIECES, f"{_PIECES}.taken"):
            shutil.rmtree(out_dir / leftover, ignore_errors=True)
        (out_dir / _QUESTIONS).unlink(missing_ok=True)
        events.progress(figures.rows, figures.rows, "rows")
    return summary(figures)


def source_digests(config: GenerateConfig) -> dict[str, str]:
    """`input/<file>` → digest of its bytes. Raises MissingError for one that is not there."""
    source = SourceConfig(name="input", rows="prompt", path=config.input)
    return content_digests(IngestConfig(rows="prompt", sources=(source,)))


GENERATE = Stage("generate", generate, inputs=("model",), sources=source_digests, resumable=True, leaves=(JOINED_DIR,))


def copy_answers(directory: Path, target: Path) -> None:
    """Write all answers of a finished stage to one file, which is there whole or as it was before."""
    unfinished = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        join_files(sorted(directory.glob("answers-*.jsonl")), unfinished)
        runtime.fsync_path(unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)
    runtime.fsync_path(target.parent)


def _answer_all(config: GenerateConfig, model: Path, out_dir: Path, events: EventWriter) -> None:
    device = runtime.choose_device(config.device).type
    lines = _gather(config.input, out_dir / _QUESTIONS)
    total = sum(len(ends) - 1 for _, ends in lines)
    try:
        pieces = build_pieces(
            answer_piece,
            _jobs(config, lines, model, out_dir / _QUESTIONS, device),
            out_dir / _PIECES,
            workers=config.workers or (0 if device == "cpu" else 1),
            on_progress=lambda done: events.progress(min(done, total - 1), total, "rows"),
        )
    finally:
        engine_of.cache_clear()
    figures = add(PieceFigures.read_json(piece / FIGURES_FILE, remedy="run it again") for piece in pieces)
    if not figures.finish_reasons:
        raise DataError(f"{config.input}: {complaint(figures)}, so there is nothing to answer; mend the file")
    _join(pieces, out_dir)
    # From here on the pieces are not needed, whatever happens.
    runtime.write_json(out_dir / FIGURES_FILE, figures.model_dump(mode="json"))
    (out_dir / JOINED_DIR).mkdir(exist_ok=True)
    Joined(files=_sums(out_dir)).write(out_dir / JOINED_DIR / JOINED_FILE)


def _is_joined(out_dir: Path) -> bool:
    """Whether all answers are there, with the bytes they were joined with."""
    instead = "what can be is taken from the pieces, the rest is answered again"
    joined = Joined.read_or_set_aside(out_dir / JOINED_DIR / JOINED_FILE, instead=instead)
    if joined is None:
        return False
    if joined.files != _sums(out_dir):
        logger.warning("%s: the answers are not what was joined; %s", out_dir, instead)
        return False
    return True


def _sums(out_dir: Path) -> dict[str, str]:
    paths = [*sorted(out_dir.glob("answers-*.jsonl")), out_dir / DROPPED_FILE, out_dir / FIGURES_FILE]
    return {path.name: runtime.file_sha256(path) for path in paths if path.exists()}


def _gather(path: str, target: Path) -> Lines:
    """Write the lines of all input files one behind the other, unpacked, and say where they are."""
    found: Lines = []
    with target.open("wb") as whole:
        for name, location in find_files(path, "jsonl").items():
            ends = [np.array([whole.tell()])]
            for part in cut_file(name, location, "jsonl", label=name):
                for block in read_part(part, lambda size: None):
                    assert isinstance(block, Block)
                    data = block.data if block.data.endswith(b"\n") else block.data + b"\n"
                    ends.append(np.flatnonzero(np.frombuffer(data, np.uint8) == 0x0A) + whole.tell() + 1)
                    whole.write(data)
            found.append((name, np.concatenate(ends)))
    if not any(len(ends) > 1 for _, ends in found):
        raise DataError(f"{path}: is empty, it has no rows; write one question a line")
    return found


def _jobs(config: GenerateConfig, lines: Lines, model: Path, questions: Path, device: str) -> list[AskJob]:
    """Neighbouring lines together; how they are cut depends on the input and the kind of device alone."""
    total = sum(len(ends) - 1 for _, ends in lines)
    rows = max(CPU_PIECE_ROWS if device == "cpu" else GPU_PIECE_ROWS, -(-total // MAX_PIECES))
    plain = config.replace(workers=0, input="")  # neither changes a piece
    jobs: list[AskJob] = []
    number = 1
    for spans in _spans(lines, rows):
        jobs.append(AskJob(config=plain, model=str(model), lines=str(questions), spans=tuple(spans), number=number))
        number += rows
    return jobs


def _spans(lines: Lines, rows: int) -> Iterator[list[tuple[str, int, int, int]]]:
    """Lines of neighbouring files, `rows` at a time."""
    spans: list[tuple[str, int, int, int]] = []
    room = rows
    for name, ends in lines:
        first = 0
        while first < len(ends) - 1:
            last = min(first + room, len(ends) - 1)
            spans.append((name, first + 1, int(ends[first]), int(ends[last])))
            room -= last - first
            first = last
            if not room:
                yield spans
                spans, room = [], rows
    if spans:
        yield spans


def _join(pieces: Sequence[Path], out_dir: Path) -> None:
    """Write the answers of all pieces into files of `SHARD_BYTES`, and what was kept aside, to the disk."""
    for old in out_dir.glob("answers-*.jsonl"):
        old.unlink()
    shards = 0
    lines = _lines(piece / ANSWERS_FILE for piece in pieces)
    line = next(lines, b"")
    while line:
        with (out_dir / f"answers-{shards:05d}.jsonl").open("wb", buffering=BLOCK_BYTES) as shard:
            while line and shard.tell() < SHARD_BYTES:
                shard.write(line)
                line = next(lines, b"")
        shards += 1
    join_files((piece / DROPPED_FILE for piece in pieces), out_dir / DROPPED_FILE)
    for path in (*out_dir.glob("answers-*.jsonl"), out_dir / DROPPED_FILE, out_dir):
        runtime.fsync_path(path)


def _lines(files: Iterator[Path]) -> Iterator[bytes]:
    for path in files:
        with path.open("rb") as file:
            yield from file
