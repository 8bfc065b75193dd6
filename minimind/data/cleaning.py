"""Cleaning: the stage that judges rows; each is kept, changed or dropped with a reason.

    part of the input ─► judge_part: rules, digests, signatures ─┐                   (a job for each part)
    part of the input ─► judge_part: rules, digests, signatures ─┼─► duplicates ─┐   (all parts together)
                                                                 │               ▼
                                                                 └───► select_part: rows/, dropped.jsonl

A part is one file of the stage before, about 64 MB of text. Finished jobs outlive a kill; the bytes that come
out depend on the input and the settings alone, not on the number of workers. The ledger holds for every source:
in = kept + dropped, in rows and in bytes. Not here: the rules (`rules`, `judgement`), what is a duplicate
(`duplicates`), which rows are forgotten (`forgetting`), the report (`report`).
"""

import json
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minimind.artifact import Inputs, Summary
from minimind.data.clean_jobs import (
    CLOCK_FILE,
    FORGOTTEN_FILE,
    KEYS_FILE,
    NAMED_FILE,
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
from minimind.data.forget_list import Named, Place
from minimind.data.forgetting import find_named, leave_out_examples, with_copies, write_changes, write_read_log
from minimind.data.ledger import MEMBERS_SHOWN, READ_LEDGER_FILE, Ledger
from minimind.data.pieces import build_pieces, enough_workers, join_files, taken_apart
from minimind.data.reports.report import write_report
from minimind.data.rules.contamination import evaluation_digests
from minimind.data.shards import ROWS_DIR, gather_parts
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

FORGET_SOURCE = "rows to forget"
"""What the digest of the named rows is called among the sources of a fingerprint."""
_JUDGED, _FOUND, _SELECTED = "judged", "found", "selected"


def clean(config: CleanConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Judge every row; kept rows to rows/, the others behind ingest's in dropped.jsonl, the report beside them."""
    source = inputs["rows"].dir
    read = Ledger.read(source)
    total = max(1, 2 * read.rows_kept.total())
    workers = enough_workers(config.workers, read.bytes_kept.total())
    parts = sorted((source / ROWS_DIR).glob("*.arrow"))
    named, rules = find_named(config.forget, parts, source / DROPPED_FILE), config.replace(forget=Named())
    shutil.rmtree(out_dir / ROWS_DIR, ignore_errors=True)
    with EventWriter(out_dir / EVENTS_FILE, keep_bytes=0) as events:

        def progress(done: int) -> None:
            events.progress(min(done, total - 1), total, "rows")

        jobs = [JudgeJob(rules=rules, path=str(part), forget=ids) for part, ids in zip(parts, named.ids, strict=True)]
        judged = build_pieces(judge_part, jobs, out_dir / _JUDGED, workers=workers, on_progress=progress)
        found, seconds = _find(config, judged, out_dir / _FOUND, workers)
        forgotten, copies = _mark_forgotten(found, judged, out_dir / _FOUND)
        selected = build_pieces(
            select_part,
            _select_jobs(rules, judged, out_dir / _FOUND),
            out_dir / _SELECTED,
            workers=workers,
            on_progress=lambda done: progress(total // 2 + done),
        )
        events.progress(total, total, "rows")
    ledger = _sum(Ledger.read(piece) for piece in [*judged, *selected])
    _add_clusters(ledger, config, found, judged, forgotten)
    leave_out_examples(ledger, copies.__contains__)
    leave_out_examples(read, config.forget.has_logged)
    clock = sum((_clock(piece) for piece in [*judged, *selected]), Counter({"duplicates": seconds}))
    with taken_apart(selected) as moved:
        _gather(source, judged, moved, out_dir, named=config.forget, copies=copies)
    for directory in (_JUDGED, _FOUND):
        shutil.rmtree(out_dir / directory)
    return _conclude(config, inputs, out_dir, ledger=ledger, read=read, clock=clock, unknown=named.unknown)


def clean_sources(config: CleanConfig) -> dict[str, str]:
    """What cleaning reads beside its input: the evaluation sets and the named rows that must not be in it."""
    return evaluation_digests(config) | ({FORGET_SOURCE: config.forget.digest()} if config.forget else {})


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


def _mark_forgotten(
    found: Duplicates, judged: Sequence[Path], directory: Path
) -> tuple[npt.NDArray[np.bool_], frozenset[Place]]:
    """Which judged rows are forgotten, left in `directory` for the jobs to come; and where those not named stand."""
    named = np.concatenate([np.zeros(0, np.bool_), *(np.load(piece / NAMED_FILE) for piece in judged)])
    forgotten = with_copies(found, named)
    np.save(directory / FORGOTTEN_FILE, forgotten)
    return forgotten, Origins(list(map(str, judged))).places(np.flatnonzero(forgotten & ~named))


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


def _add_clusters(
    ledger: Ledger,
    config: CleanConfig,
    found: Duplicates,
    judged: Sequence[Path],
    forgotten: npt.NDArray[np.bool_],
) -> None:
    """How large the groups of near duplicates are, and the largest of them with their texts."""
    sizes, largest = clusters(found)
    ledger.cluster_sizes.update(sizes)
    texts = TextStore([piece / ROWS_FILE for piece in judged], told_column(config))
    origins = Origins([str(piece) for piece in judged])
    for cluster in (cluster for cluster in largest if not forgotten[cluster.kept]):
        rows = [cluster.kept, *cluster.dropped[:MEMBERS_SHOWN]]
        members = [
            {"where": where, "text": text}
            for where, text in zip(origins.take(np.array(rows)), texts.take(np.array(rows)), strict=True)
        ]
        for member, likeness in zip(members[1:], cluster.jaccard, strict=False):
            member["jaccard"] = round(likeness, 3)
        ledger.add_cluster(1 + len(cluster.dropped), kept=members[0], dropped=members[1:])


def _gather(
    source: Path,
    judged: Sequence[Path],
    selected: Sequence[Path],
    out_dir: Path,
    *,
    named: Named,
    copies: frozenset[Place],
) -> None:
    """Put the pieces' files together: rows in order, the logs one behind the other without forgotten texts."""
    gather_parts(selected, out_dir / ROWS_DIR, ".", stem="part")
    pairs = zip(judged, selected, strict=True)
    read_log = source / DROPPED_FILE
    if named.places:
        read_log = write_read_log(read_log, out_dir / _FOUND, named)
    join_files([read_log, *(piece / DROPPED_FILE for pair in pairs for piece in pair)], out_dir / DROPPED_FILE)
    changed = [piece / CHANGED_FILE for piece in judged]
    if copies:
        write_changes(changed, out_dir, copies)
    else:
        join_files(changed, out_dir / CHANGED_FILE)


def _clock(piece: Path) -> Counter[str]:
    return Counter(json.loads((piece / CLOCK_FILE).read_text(encoding="utf-8")))


def _conclude(
    config: CleanConfig,
    inputs: Inputs,
    out_dir: Path,
    *,
    ledger: Ledger,
    read: Ledger,
    clock: Counter[str],
    unknown: int,
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
    return Summary(figures=figures, samples=samples, warnings=_warnings(ledger, config.forget, unknown))


def _warnings(ledger: Ledger, named: Named, unknown: int) -> list[str]:
    share, warnings = ledger.rows_dropped.total() / max(1, ledger.rows_in.total()), []
    if share > 0.5:
        warnings = [f"cleaning dropped {share:.0%} of the rows; report.html and {DROPPED_FILE} say which and why"]
    if unknown:
        names = len(named.ids) + len(named.places)
        warnings.append(f"`forget`: {unknown} of {names} names are of no row that was read")
    return warnings
