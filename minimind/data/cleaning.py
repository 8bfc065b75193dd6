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

import numpy as np

from minimind.artifact import Inputs, Summary
from minimind.data.clean_jobs import (
    CLOCK_FILE,
    KEYS_FILE,
    ROWS_FILE,
    SIGNATURES_FILE,
    CleanConfig,
    JudgeJob,
    Origins,
    SelectJob,
    judge_part,
    select_part,
    told_column,
    write_found,
)
from minimind.data.deduplication.duplicates import Duplicates, clusters, find_duplicates
from minimind.data.deduplication.similarity import TextStore
from minimind.data.dropped import CHANGED_FILE, DROPPED_FILE
from minimind.data.ledger import MEMBERS_SHOWN, READ_LEDGER_FILE, Ledger
from minimind.data.pieces import build_pieces, enough_workers, join_files, taken_apart
from minimind.data.reports.report import write_report
from minimind.data.rules.contamination import evaluation_digests
from minimind.data.shards import ROWS_DIR, gather_parts
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

_JUDGED, _FOUND, _SELECTED = "judged", "found", "selected"


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


def _find(config: CleanConfig, judged: Sequence[Path], directory: Path, workers: int) -> tuple[Duplicates, float]:
    """The duplicates among all judged rows, kept in `directory` for the jobs to come, and the CPU seconds it took."""
    began, near = time.process_time(), config.tells_near_duplicates()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    found = find_duplicates(
        [piece / KEYS_FILE for piece in judged],
        [piece / SIGNATURES_FILE for piece in judged] if near else [],
        TextStore([piece / ROWS_FILE for piece in judged], told_column(config)),
        exact=config.duplicates,
        threshold=config.near_threshold if near else None,
        work_dir=directory / "work",
        workers=workers,
    )
    write_found(found, directory)
    return found, time.process_time() - began


def _select_jobs(config: CleanConfig, judged: Sequence[Path], found: Path) -> list[SelectJob]:
    counts = [len(np.load(piece / KEYS_FILE, mmap_mode="r")) for piece in judged]
    starts = np.cumsum([0, *counts])[:-1].tolist()
    pieces = tuple(map(str, judged))
    return [
        SelectJob(rules=config, piece=piece, pieces=pieces, found=str(found), start=start)
        for piece, start in zip(pieces, starts, strict=True)
    ]


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
    texts = TextStore([piece / ROWS_FILE for piece in judged], told_column(config))
    origins = Origins([str(piece) for piece in judged])
    for cluster in largest:
        rows = [cluster.kept, *cluster.dropped[:MEMBERS_SHOWN]]
        members = [
            {"where": where, "text": text}
            for where, text in zip(origins.take(np.array(rows)), texts.take(np.array(rows)), strict=True)
        ]
        for member, likeness in zip(members[1:], cluster.jaccard, strict=False):
            member["jaccard"] = round(likeness, 3)
        ledger.add_cluster(1 + len(cluster.dropped), kept=members[0], dropped=members[1:])


def _gather(source: Path, judged: Sequence[Path], selected: Sequence[Path], out_dir: Path) -> None:
    """Put the pieces' files together: rows in order, the logs one behind the other."""
    gather_parts(selected, out_dir / ROWS_DIR, ".", stem="part")
    pairs = zip(judged, selected, strict=True)
    dropped = [source / DROPPED_FILE, *(piece / DROPPED_FILE for pair in pairs for piece in pair)]
    join_files(dropped, out_dir / DROPPED_FILE)
    join_files((piece / CHANGED_FILE for piece in judged), out_dir / CHANGED_FILE)


def _clock(piece: Path) -> Counter[str]:
    return Counter(json.loads((piece / CLOCK_FILE).read_text(encoding="utf-8")))


def _conclude(
    config: CleanConfig, inputs: Inputs, out_dir: Path, *, ledger: Ledger, read: Ledger, clock: Counter[str]
) -> Summary:
    """Write ledger and report, and say in figures what was done."""
    figures: dict[str, int | float | str | None] = {**ledger.figures()}
    if not figures["rows_kept"] and not config.may_be_empty:
        by_reason = Counter({name: count for name, count in ledger.figures().items() if name.startswith("dropped_")})
        most = ", ".join(f"{name.removeprefix('dropped_')} {count}" for name, count in by_reason.most_common(3))
        raise DataError(
            f"cleaning left none of {ledger.rows_in.total()} {config.rows} rows ({most}); "
            "look at [clean] in the data spec"
        )
    ledger.write(out_dir)
    read.write(out_dir, READ_LEDGER_FILE)
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
