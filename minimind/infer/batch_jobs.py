"""The jobs of batch inference: some lines of questions in, their answers out.

A job reads its lines, keeps aside those that cannot be asked, and hands the others to the engine together. On a CPU
it computes with one thread: more threads add up in another order, and an answer must not depend on how many cores
there are; several jobs run side by side instead.

Not here: which lines a job has, and what becomes of its files (`batch`); what a line may say (`batch_rows`).
"""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field

from minimind import runtime
from minimind.config import WHERE, Config
from minimind.data.dropped import DropLog
from minimind.data.pieces import Advance
from minimind.data.reading.strict_json import RowError
from minimind.data.reading.tally import shown
from minimind.errors import ConfigError
from minimind.infer.batch_figures import FIGURES_FILE, PieceFigures
from minimind.infer.batch_rows import Question, answered_row, ids_of, read_question
from minimind.infer.engine import Engine
from minimind.infer.generate import complete_all, load
from minimind.infer.products import Precision
from minimind.infer.sampling import Sampling

ANSWERS_FILE = "answers.jsonl"
RULE = "question"
"""The rule that a row which cannot be asked has met."""


class GenerateConfig(Config):
    """What is asked of a model, and how it answers."""

    input: Annotated[str, WHERE]
    """A file, a directory, a glob or a URL of JSON lines; its bytes are the identity, it is not."""
    sampling: Sampling = Sampling()
    """Of every row that has no settings of its own; from its seed (0 without one) follow those of the rows."""
    precision: Precision = "auto"
    """In what the weights are kept."""
    device: Annotated[str, WHERE] = "auto"
    max_batch: Annotated[int, WHERE] = Field(64, ge=1)
    """Answers computed at once by a process."""
    workers: Annotated[int, WHERE] = Field(0, ge=0)
    """Processes; 0 takes one for each core, and one in all on a GPU."""


class AskJob(Config):
    """Neighbouring lines of the input."""

    config: GenerateConfig
    model: str
    lines: str
    """The file they stand in, all inputs one behind the other."""
    spans: tuple[tuple[str, int, int, int], ...]
    """Name of an input file, the number of the first line in it, and the bytes of `lines`: begin, end."""
    number: int
    """Of the first line, over all input files."""


@dataclass(frozen=True)
class _Line:
    file: str
    line: int
    number: int
    raw: bytes


@dataclass(frozen=True)
class _Asked:
    line: _Line
    question: Question
    ids: list[int]


def answer_piece(job: AskJob, out_dir: Path, advance: Advance) -> None:
    """Write the answers of the job's lines in their order, the rows that were kept aside, and figures."""
    config, began = job.config, time.time()
    engine = engine_of(job.model, config.device, config.precision, config.max_batch)
    dropped: Counter[str] = Counter()
    with DropLog(out_dir) as log:
        asked, first_dropped = _questions(job, engine, log, dropped)
    advance(dropped.total())
    rows: list[dict[str, Any]] = [{}] * len(asked)
    with _one_thread(runtime.choose_device(config.device).type):
        prompts, samplings = [one.ids for one in asked], [one.question.sampling for one in asked]
        for index, done in complete_all(engine, prompts, samplings=samplings):
            one = asked[index]
            place = {"file": one.line.file, "line": one.line.line}
            rows[index] = answered_row(one.question, done, engine.tokenizer, prompt_tokens=len(one.ids), **place)
            advance(1)
    (out_dir / ANSWERS_FILE).write_bytes(b"".join(map(_encoded, rows)))
    figures = PieceFigures(
        rows=len(rows) + dropped.total(),
        prompt_tokens=sum(row["generated"]["prompt_tokens"] for row in rows),
        completion_tokens=sum(row["generated"]["completion_tokens"] for row in rows),
        finish_reasons=dict(Counter(row["generated"]["finish_reason"] for row in rows)),
        dropped=dict(dropped),
        first_dropped=first_dropped,
        samples=[_sample(one.question, row) for one, row in zip(asked[:2], rows, strict=False)],
        busy=[(began, time.time())],
    )
    runtime.write_json(out_dir / FIGURES_FILE, figures.model_dump(mode="json"))


@lru_cache(maxsize=1)
def engine_of(directory: str, device: str, precision: Precision, max_batch: int) -> Engine:
    """The model's engine, kept between the jobs of a process."""
    engine = load(Path(directory), device, precision=precision, max_batch=max_batch)
    # How much memory is free at the moment may decide how many answers are under way, but not how long one may be.
    engine.cache_tokens = max(engine.cache_tokens, engine.config.max_positions)
    return engine


def _questions(job: AskJob, engine: Engine, log: DropLog, dropped: Counter[str]) -> tuple[list[_Asked], str]:
    """The lines that can be asked, with their tokens; the others go to `log`, and the first of them is told of."""
    asked, first = [], ""
    for line in _read(job):
        try:
            question = read_question(line.raw, job.config.sampling, number=line.number)
            ids = ids_of(question, engine.tokenizer, context=engine.config.max_positions)
        except (RowError, ConfigError) as error:
            reason = error.reason if isinstance(error, RowError) else "bad_sampling"
            detail = error.detail if isinstance(error, RowError) else str(error)
            first = first or f"{line.file}, line {line.line}: {detail}"
            dropped[reason] += 1
            where = {"source": "input", "file": line.file, "line": line.line, "rule": RULE}
            log.add(**where, reason=reason, detail=detail, text=shown(line.raw[: 1 << 16]))
        else:
            asked.append(_Asked(line, question, ids))
    return asked, first


def _read(job: AskJob) -> Iterator[_Line]:
    """The lines of a job; blank ones are no rows, but count as lines."""
    number = job.number
    with Path(job.lines).open("rb") as file:
        for name, first, begin, end in job.spans:
            file.seek(begin)
            lines = file.read(end - begin).removesuffix(b"\n").split(b"\n")
            for line, raw in enumerate(lines, first):
                if raw.strip():
                    yield _Line(name, line, number, raw.rstrip(b"\r"))
                number += 1


@contextmanager
def _one_thread(device: str) -> Iterator[None]:
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encoded(row: dict[str, Any]) -> bytes:
    try:
        return json.dumps(row, ensure_ascii=False).encode("utf-8") + b"\n"
    except UnicodeEncodeError:  # half a character in a key that is only copied: written as it was, as an escape
        return json.dumps(row).encode("ascii") + b"\n"


def _sample(question: Question, row: dict[str, Any]) -> str:
    asked = question.row["prompt"] if question.turns is None else question.turns[-1]["content"]
    return f"{str(asked)[:200]} → {row['generated']['text'][:200]}"
