"""Cleaning: the stage that judges rows; each is kept, changed or dropped with a reason.

    part of the input ─► judge_part: rules, digests, signatures ─┐                   (a job for each part)
    part of the input ─► judge_part: rules, digests, signatures ─┼─► duplicates ─┐   (all parts together)
                                                                 │               ▼
                                                                 └───► select_part: rows/, dropped.jsonl

A part is one file of the stage before, about 64 MB of text. Finished jobs outlive a kill; the bytes that come
out depend on the input and the settings alone, not on the number of workers. The ledger holds for every source:
in = kept + dropped, in rows and in bytes. Not here: the rules (`rules`, `judgement`), what is a duplicate
(`duplicates`), the report (`report`).
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa

from minimind.artifact import Inputs, Summary
from minimind.config import WHERE, Config
from minimind.data.booking import Book, content_text
from minimind.data.documents import CONTENT, SCHEMAS, RowKind
from minimind.data.dropped import CHANGED_FILE, DROPPED_FILE, ChangeLog, DropLog
from minimind.data.duplicates import Duplicates, clusters, find_duplicates
from minimind.data.folding import content_keys, fold
from minimind.data.judgement import Verdicts, judge
from minimind.data.ledger import MEMBERS_SHOWN, READ_LEDGER_FILE, Ledger
from minimind.data.pieces import Advance, build_pieces, enough_workers, taken_apart
from minimind.data.report import write_report
from minimind.data.rules.contamination import evaluation_digests
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts
from minimind.data.shards import ROWS_DIR, RowWriter, bytes_of_rows, gather_parts, read_file
from minimind.data.signatures import signatures
from minimind.data.similarity import TextStore
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

_JUDGED, _FOUND, _SELECTED = "judged", "found", "selected"
_ROWS, _KEYS, _SIGNATURES, _CLOCK = "rows.arrow", "keys.npy", "signatures.npy", "clock.json"
_FOUND_ARRAYS, _DONE = ("exact_of", "near_of", "jaccard"), "done"


class CleanConfig(CleanRules):
    """The rules, and the kind of rows they are applied to."""

    rows: RowKind
    workers: Annotated[int, WHERE] = 0
    """Processes; 0 takes one for each core."""

    def tells_near_duplicates(self) -> bool:
        """Whether near duplicates are looked for: conversations repeat each other on purpose, texts do not."""
        return self.near_duplicates and (self.rows == "pretrain" or self.filter_chat)


def clean(config: CleanConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Judge every row; kept rows to rows/, the others behind ingest's in dropped.jsonl, the report beside them."""
    source = inputs["rows"].dir
    read = Ledger.read(source)
    total = max(1, 2 * read.rows_kept.total())
    workers = enough_workers(config.workers, read.bytes_kept.total())
    parts = sorted((source / ROWS_DIR).glob("*.arrow"))
    shutil.rmtree(out_dir / ROWS_DIR, ignore_errors=True)
    with EventWriter(out_dir / EVENTS_FILE, keep_bytes=0) as events:

        def progress(done: int) -> None:
            events.progress(min(done, total - 1), total, "rows")

        jobs = [JudgeJob(rules=config, path=str(part)) for part in parts]
        judged = build_pieces(judge_part, jobs, out_dir / _JUDGED, workers=workers, on_progress=progress)
        found, seconds = _find(config, judged, out_dir / _FOUND, workers)
        selected = build_pieces(
            select_part,
            _select_jobs(config, judged, out_dir / _FOUND),
            out_dir / _SELECTED,
            workers=workers,
            on_progress=lambda done: progress(total // 2 + done),
        )
        events.progress(total, total, "rows")
    ledger = _sum(Ledger.read(piece) for piece in [*judged, *selected])
    _add_clusters(ledger, config, found, judged)
    clock = sum((_clock(piece) for piece in [*judged, *selected]), Counter({"duplicates": seconds}))
    with taken_apart(selected) as moved:
        _gather(source, judged, moved, out_dir)
    for directory in (_JUDGED, _FOUND):
        shutil.rmtree(out_dir / directory)
    return _conclude(config, inputs, out_dir, ledger=ledger, read=read, clock=clock)


def clean_sources(config: CleanConfig) -> dict[str, str]:
    """What cleaning reads beside its input: the evaluation sets that must not be in it."""
    return evaluation_digests(config)


CLEAN = Stage("clean", clean, inputs=("rows",), sources=clean_sources, format_version=2, resumable=True)


class JudgeJob(Config):
    """The rules, and the part of the input they are applied to."""

    rules: CleanConfig
    path: str


class SelectJob(Config):
    """One judged piece, where its rows begin among all that were judged, and what was found of those."""

    rules: CleanConfig
    piece: str
    pieces: tuple[str, ...]
    found: str
    start: int


def judge_part(job: JudgeJob, out_dir: Path, advance: Advance) -> None:
    """Apply the rules to a part: what is left goes to rows.arrow, with digests and signatures beside it."""
    config, clock = job.rules, Counter[str]()
    keys, marks = [], []
    with (
        _scratch_file(out_dir / _ROWS, _scratch_schema(config)) as rows,
        DropLog(out_dir) as dropped,
        ChangeLog(out_dir) as changed,
    ):
        book = Book(config.rows, Ledger(), dropped, changed)
        for batch in read_file(Path(job.path)):
            verdicts = judge(config.rows, batch, config, clock=clock)
            sizes = bytes_of_rows(config.rows, batch)
            _enter(book, batch, verdicts, sizes)
            kept = [place for place in range(batch.num_rows) if place not in verdicts.dropped]
            told = [verdicts.texts[place] for place in kept]
            began = time.process_time()
            folded = fold(Texts(told))
            keys.append(content_keys(folded))
            if config.tells_near_duplicates():
                marks.append(signatures(folded))
            clock["signatures"] += time.process_time() - began  # type: ignore[assignment]
            rows.write_batch(_with_measures(verdicts, sizes, told, kept, _scratch_schema(config)))
            advance(batch.num_rows)
    np.save(out_dir / _KEYS, np.concatenate(keys) if keys else content_keys(fold(Texts([]))))
    if config.tells_near_duplicates():
        np.save(out_dir / _SIGNATURES, np.concatenate(marks) if marks else signatures(fold(Texts([]))))
    book.ledger.write(out_dir)
    (out_dir / _CLOCK).write_text(json.dumps(clock), encoding="utf-8")


def select_part(job: SelectJob, out_dir: Path, advance: Advance) -> None:
    """Write the rows of a judged piece that are no duplicates; the others go to a drop log."""
    began, kind = time.process_time(), job.rules.rows
    found, at = _read_found(Path(job.found)), job.start
    origins = _Origins(job.pieces)
    with RowWriter(out_dir, kind) as writer, DropLog(out_dir) as dropped:
        book = Book(kind, Ledger(), dropped)
        for batch in read_file(Path(job.piece) / _ROWS):
            span = slice(at, at + batch.num_rows)
            kept = found.kept[span]
            for place in np.flatnonzero(~kept).tolist():
                row = batch.slice(place, 1)
                rule, outcome = _outcome(found, at + place, origins)
                text = content_text(kind, row.select(list(CONTENT[kind])).to_pylist()[0])
                size, characters = (row[name][0].as_py() for name in ("bytes_in", "characters"))
                book.is_dropped(row, rule, outcome, size=size, characters=characters, text=text)
            rows = batch.filter(pa.array(kept))
            book.is_kept(rows, rows["bytes_in"].to_pylist(), bytes_of_rows(kind, rows))
            writer.write_batch(rows.select(SCHEMAS[kind].names))
            at += batch.num_rows
            advance(batch.num_rows)
    book.ledger.write(out_dir)
    (out_dir / _CLOCK).write_text(json.dumps({"select": time.process_time() - began}), encoding="utf-8")


def _enter(book: Book, batch: pa.RecordBatch, verdicts: Verdicts, sizes: Sequence[int]) -> None:
    """Book the rows of a batch as they came in, and what the rules dropped and changed of them."""
    book.came_in(batch, sizes)
    for place in sorted({*verdicts.dropped, *verdicts.changed}):
        row = batch.slice(place, 1)
        before = content_text(book.kind, row.to_pylist()[0])
        if place in verdicts.dropped:
            rule, outcome = verdicts.dropped[place]
            characters = verdicts.lengths[place]
            book.is_dropped(row, rule, outcome, size=sizes[place], characters=characters, text=before)
        else:
            after = content_text(book.kind, verdicts.rows.slice(place, 1).to_pylist()[0])
            book.is_changed(row, verdicts.changed[place], before=before, after=after)


def _find(config: CleanConfig, judged: Sequence[Path], directory: Path, workers: int) -> tuple[Duplicates, float]:
    """The duplicates among all judged rows, kept in `directory` for the jobs to come, and the CPU seconds it took."""
    began = time.process_time()
    if not (directory / _DONE).exists():
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        near = config.tells_near_duplicates()
        found = find_duplicates(
            [piece / _KEYS for piece in judged],
            [piece / _SIGNATURES for piece in judged] if near else [],
            TextStore([piece / _ROWS for piece in judged], _told_column(config)),
            exact=config.duplicates,
            threshold=config.near_threshold if near else None,
            work_dir=directory / "work",
            workers=workers,
        )
        for name in _FOUND_ARRAYS:
            np.save(directory / f"{name}.npy", getattr(found, name))
        (directory / _DONE).touch()
    return _read_found(directory), time.process_time() - began


def _read_found(directory: Path) -> Duplicates:
    """The duplicates that were found, their arrays where they lie on the disk."""
    return Duplicates(*(np.load(directory / f"{name}.npy", mmap_mode="r") for name in _FOUND_ARRAYS))


def _select_jobs(config: CleanConfig, judged: Sequence[Path], found: Path) -> list[SelectJob]:
    counts = [len(np.load(piece / _KEYS, mmap_mode="r")) for piece in judged]
    starts = np.cumsum([0, *counts])[:-1].tolist()
    pieces = tuple(map(str, judged))
    return [
        SelectJob(rules=config, piece=piece, pieces=pieces, found=str(found), start=start)
        for piece, start in zip(pieces, starts, strict=True)
    ]


class _Origins:
    """Source and line of any judged row, by its place among all of them."""

    def __init__(self, pieces: Sequence[str]) -> None:
        files = [pa.ipc.open_file(pa.memory_map(str(Path(piece) / _ROWS))) for piece in pieces]
        self._batches = [file.get_batch(number) for file in files for number in range(file.num_record_batches)]
        self._ends = np.cumsum([batch.num_rows for batch in self._batches], dtype=np.int64)

    def __getitem__(self, index: int) -> str:
        number = int(np.searchsorted(self._ends, index, "right"))
        batch = self._batches[number]
        place = index - int(self._ends[number]) + batch.num_rows
        return f"{batch['source'][place]}, line {batch['line'][place]}"


def _outcome(found: Duplicates, index: int, origins: _Origins) -> tuple[str, Dropped]:
    if (first := int(found.exact_of[index])) >= 0:
        return "duplicates", Dropped("exact_duplicate", f"the same as {origins[first]}")
    first, likeness = int(found.near_of[index]), float(found.jaccard[index])
    return "near_duplicates", Dropped("near_duplicate", f"Jaccard similarity {likeness:.3f} with {origins[first]}")


def _scratch_schema(config: CleanConfig) -> pa.Schema:
    measures = [pa.field("bytes_in", pa.int64()), pa.field("characters", pa.int64())]
    told = [] if _told_column(config) == "text" else [pa.field("told", pa.string())]
    return pa.schema([*SCHEMAS[config.rows], *measures, *told])


def _told_column(config: CleanConfig) -> str:
    """The column of the scratch file whose texts are compared."""
    return "text" if config.rows == "pretrain" else "told"


def _scratch_file(path: Path, schema: pa.Schema) -> pa.ipc.RecordBatchFileWriter:
    """Not compressed, so that any row of it can be read where it lies."""
    return pa.ipc.new_file(str(path), schema)


def _with_measures(
    verdicts: Verdicts, sizes: Sequence[int], told: Sequence[str], kept: Sequence[int], schema: pa.Schema
) -> pa.RecordBatch:
    rows = verdicts.rows.take(pa.array(kept, pa.int64()))
    columns = [*rows.columns]
    columns.append(pa.array([sizes[place] for place in kept], pa.int64()))
    columns.append(pa.array([verdicts.lengths[place] for place in kept], pa.int64()))
    if "told" in schema.names:
        columns.append(pa.array(told, pa.string()))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _sum(ledgers: Iterable[Ledger]) -> Ledger:
    total = Ledger()
    for ledger in ledgers:
        total.add(ledger)
    if problem := total.imbalance():
        raise AssertionError(f"the ledger does not balance: {problem}")
    return total


def _add_clusters(ledger: Ledger, config: CleanConfig, found: Duplicates, judged: Sequence[Path]) -> None:
    """How large the groups of near duplicates are, and the largest of them with their texts."""
    sizes, largest = clusters(found)
    ledger.cluster_sizes.update(sizes)
    texts = TextStore([piece / _ROWS for piece in judged], _told_column(config))
    origins = _Origins([str(piece) for piece in judged])
    for cluster in largest:
        shown = zip(cluster.dropped[:MEMBERS_SHOWN], cluster.jaccard, strict=False)
        ledger.add_cluster(
            1 + len(cluster.dropped),
            kept={"where": origins[cluster.kept], "text": texts(cluster.kept)},
            dropped=[
                {"where": origins[index], "text": texts(index), "jaccard": round(likeness, 3)}
                for index, likeness in shown
            ],
        )


def _gather(source: Path, judged: Sequence[Path], selected: Sequence[Path], out_dir: Path) -> None:
    """Put the pieces' files together: rows in order, the logs one behind the other."""
    gather_parts(selected, out_dir / ROWS_DIR, ".", stem="part")
    pairs = zip(judged, selected, strict=True)
    dropped = [source / DROPPED_FILE, *(piece / DROPPED_FILE for pair in pairs for piece in pair)]
    for target, parts in ((DROPPED_FILE, dropped), (CHANGED_FILE, [piece / CHANGED_FILE for piece in judged])):
        with (out_dir / target).open("wb") as whole:
            for part in parts:
                with part.open("rb") as file:
                    shutil.copyfileobj(file, whole, 1 << 20)


def _clock(piece: Path) -> Counter[str]:
    return Counter(json.loads((piece / _CLOCK).read_text(encoding="utf-8")))


def _conclude(
    config: CleanConfig, inputs: Inputs, out_dir: Path, *, ledger: Ledger, read: Ledger, clock: Counter[str]
) -> Summary:
    """Write ledger and report, and say in figures what was done."""
    figures: dict[str, int | float | str | None] = {**ledger.figures()}
    if not figures["rows_kept"]:
        by_reason = Counter({name: count for name, count in ledger.figures().items() if name.startswith("dropped_")})
        most = ", ".join(f"{name.removeprefix('dropped_')} {count}" for name, count in by_reason.most_common(3))
        raise DataError(
            f"cleaning left none of {ledger.rows_in.total()} {config.rows} rows ({most}); "
            "look at [clean] in the data spec"
        )
    ledger.write(out_dir)
    shutil.copyfile(inputs["rows"].dir / "ledger.json", out_dir / READ_LEDGER_FILE)
    facts = {"rows": config.rows, "read by": f"ingest {inputs['rows'].fingerprint}"}
    write_report(out_dir, title=f"Cleaning {config.rows} rows", read=read, cleaned=ledger, facts=facts)
    seconds = sum(clock.values())
    figures |= {f"cpu_seconds_{name}": round(value, 3) for name, value in sorted(clock.items())}
    figures["megabytes_per_cpu_second"] = round(ledger.bytes_in.total() / 1e6 / max(1e-9, seconds), 2)
    samples = [
        f"{key}: {example.get('before', '')[:100]!r}" + (f" → {example['after'][:100]!r}" if "after" in example else "")
        for key, examples in ledger.examples.items()
        for example in examples[:1]
    ]
    return Summary(figures=figures, samples=samples, warnings=_warnings(ledger))


def _warnings(ledger: Ledger) -> list[str]:
    share = ledger.rows_dropped.total() / max(1, ledger.rows_in.total())
    if share <= 0.5:
        return []
    return [f"cleaning dropped {share:.0%} of the rows; report.html and {DROPPED_FILE} say which and why"]
