"""What the data report shows, worked out of the ledgers of reading and cleaning: sums, shares, orders.

Nothing is measured here, so equal ledgers give an equal report. Not here: how it looks (`report`, templates).
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from minimind.data.ledger import Ledger
from minimind.data.reports.report_examples import Cluster, Example, clusters_of, examples_of
from minimind.data.reports.report_rules import cleaning_order, rule_order

SOURCES_SHOWN = 40
LANGUAGES_SHOWN = 8
"""The others are added up in one line."""


@dataclass(frozen=True)
class Account:
    """One equation: what came in is what was kept and what was dropped."""

    stage: str
    unit: str
    come_in: int
    kept: int
    dropped: int

    @property
    def balances(self) -> bool:
        return self.come_in == self.kept + self.dropped


@dataclass
class Step:
    """One rule on the way of the rows."""

    stage: str
    rule: str
    left: int = 0
    """Rows left behind this rule."""
    rows: int = 0
    bytes: int = 0
    changed: int = 0
    reasons: list[tuple[str, int, int]] = field(default_factory=list)
    """Reason, rows, bytes; the most frequent first."""


@dataclass(frozen=True)
class SourceLine:
    name: str
    rows_in: int
    rows_kept: int
    bytes_in: int
    bytes_kept: int
    bytes_out: int


@dataclass(frozen=True)
class Matrix:
    """Counts by source and something else."""

    columns: list[str]
    lines: list[tuple[str, int, list[int]]]
    """Source, the rows that the shares are of, and a count for each column."""


@dataclass(frozen=True)
class Bucket:
    label: str
    kept: int
    dropped: int


@dataclass(frozen=True)
class Figures:
    """All that the pages show, in the order in which they show it."""

    accounts: list[Account]
    faults: list[str]
    """What does not add up, in words."""
    rows_in: int
    rows_kept: int
    bytes_kept: int
    bytes_out: int
    steps: list[Step]
    sources: list[SourceLine]
    dropped: Matrix
    changed: Matrix
    languages: Matrix
    lengths: list[Bucket]
    cluster_sizes: list[Bucket]
    examples: dict[str, list[Example]]
    """By rule."""
    clusters: list[Cluster]


def figures_of(read: Ledger | None, cleaned: Ledger) -> Figures:
    """The report's figures of a cleaning and, if it is known, of the reading before it."""
    ledgers = [*([read] if read else []), cleaned]
    rows_in = Counter((read or cleaned).rows_in)
    fold = _folded(_all_sources(ledgers, rows_in), SOURCES_SHOWN)
    faults = [f"{stage}: {fault}" for stage, ledger in _stages(read, cleaned) if (fault := ledger.imbalance())]
    if read and read.rows_kept != cleaned.rows_in:
        faults.append(f"cleaning got {cleaned.rows_in.total()} rows, reading kept {read.rows_kept.total()}")
    per_source = _sum_by(fold, rows_in)
    return Figures(
        accounts=[account for stage, ledger in _stages(read, cleaned) for account in _accounts(stage, ledger)],
        faults=faults,
        rows_in=rows_in.total(),
        rows_kept=cleaned.rows_kept.total(),
        bytes_kept=cleaned.bytes_kept.total(),
        bytes_out=cleaned.bytes_out.total(),
        steps=_steps(read, cleaned),
        sources=_source_lines(rows_in, cleaned, fold),
        dropped=_matrix(
            (((fold[s], rule), n) for ledger in ledgers for (s, rule, _), n in ledger.rows_dropped.items()), per_source
        ),
        changed=_matrix((((fold[s], rule), n) for (s, rule), n in cleaned.rows_changed.items()), per_source),
        languages=_languages(cleaned, fold),
        lengths=_lengths(cleaned),
        cluster_sizes=_cluster_sizes(cleaned),
        examples=examples_of(ledgers),
        clusters=clusters_of(cleaned),
    )


def _all_sources(ledgers: Sequence[Ledger], rows_in: Counter[str]) -> Counter[str]:
    """Every source with its rows; also one that only the faulty side of an account knows."""
    counters = [counts for ledger in ledgers for counts in vars(ledger).values() if isinstance(counts, Counter)]
    keys = {key for counts in counters for key, count in counts.items() if count and not isinstance(key, int)}
    sources = Counter({key if isinstance(key, str) else key[0]: 0 for key in keys})
    sources.update(rows_in)
    return sources


def _stages(read: Ledger | None, cleaned: Ledger) -> list[tuple[str, Ledger]]:
    return [*([("reading", read)] if read else []), ("cleaning", cleaned)]


def _accounts(stage: str, ledger: Ledger) -> list[Account]:
    sums = ledger.figures()
    return [
        Account(stage, unit, sums[f"{unit}_in"], sums[f"{unit}_kept"], sums[f"{unit}_dropped"])
        for unit in ("rows", "bytes")
    ]


def _steps(read: Ledger | None, cleaned: Ledger) -> list[Step]:
    """The rules that dropped or changed a row, each with the rows left behind it."""
    steps: list[Step] = []
    left = (read or cleaned).rows_in.total()
    for stage, ledger in _stages(read, cleaned):
        rules = {rule for _, rule, _ in ledger.rows_dropped} | {rule for _, rule in ledger.rows_changed}
        found = [_step(stage, rule, ledger) for rule in sorted(rules, key=cleaning_order)]
        for step in [step for step in found if step.rows or step.changed]:
            left -= step.rows
            step.left = left
            steps.append(step)
    return steps


def _step(stage: str, rule: str, ledger: Ledger) -> Step:
    rows: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for (source, of, reason), count in ledger.rows_dropped.items():
        if of == rule:
            rows[reason] += count
            sizes[reason] += ledger.bytes_dropped[source, of, reason]
    changed = sum(count for (_, of), count in ledger.rows_changed.items() if of == rule)
    reasons = [(reason, rows[reason], sizes[reason]) for reason in sorted(+rows, key=lambda r: (-rows[r], r))]
    return Step(stage, rule, rows=rows.total(), bytes=sizes.total(), changed=changed, reasons=reasons)


def _folded(counts: Counter[str], shown: int) -> dict[str, str]:
    """Name → name, or one name for all beyond the `shown` most frequent; most frequent first."""
    ranked = sorted(counts, key=lambda name: (-counts[name], name))
    if len(ranked) <= shown + 1:
        return {name: name for name in ranked}
    others = f"{len(ranked) - shown:,} others"
    return {name: name if rank < shown else others for rank, name in enumerate(ranked)}


def _sum_by(fold: dict[str, str], counts: Counter[str]) -> Counter[str]:
    result = Counter(dict.fromkeys(fold.values(), 0))
    for name, count in counts.items():
        result[fold[name]] += count
    return result


def _source_lines(rows_in: Counter[str], cleaned: Ledger, fold: dict[str, str]) -> list[SourceLine]:
    columns = [rows_in, cleaned.rows_kept, cleaned.bytes_in, cleaned.bytes_kept, cleaned.bytes_out]
    sums = [_sum_by(fold, column) for column in columns]
    lines = [SourceLine(name, *(column[name] for column in sums)) for name in sums[0]]
    return [line for line in lines if line.rows_in or line.rows_kept or line.bytes_in]


def _matrix(items: Iterable[tuple[tuple[str, str], int]], totals: Counter[str]) -> Matrix:
    """Counts by source and rule; only rules and sources that have some."""
    counts: Counter[tuple[str, str]] = Counter()
    for key, count in items:
        counts[key] += count
    columns = sorted({rule for (_, rule), count in counts.items() if count}, key=rule_order)
    lines = [(source, totals[source], [counts[source, rule] for rule in columns]) for source in totals]
    return Matrix(columns, [line for line in lines if any(line[2])])


def _languages(cleaned: Ledger, fold: dict[str, str]) -> Matrix:
    spoken: Counter[str] = Counter()
    for (_, language), count in cleaned.languages.items():
        spoken[language] += count
    names = _folded(+spoken, LANGUAGES_SHOWN)
    counts: Counter[tuple[str, str]] = Counter()
    for (source, language), count in cleaned.languages.items():
        counts[fold[source], names.get(language, "")] += count
    columns = list(dict.fromkeys(names.values()))
    totals = _sum_by(fold, cleaned.rows_kept)
    return Matrix(columns, [(s, totals[s], [counts[s, name] for name in columns]) for s in totals if totals[s]])


def _lengths(cleaned: Ledger) -> list[Bucket]:
    kept, dropped = (_by_bucket(counts) for counts in (cleaned.lengths_kept, cleaned.lengths_dropped))
    used = [number for number in (kept | dropped) if kept[number] or dropped[number]]
    numbers = range(min(used), max(used) + 1) if used else ()
    return [Bucket(_power(number), kept[number], dropped[number]) for number in numbers]


def _by_bucket(counts: Counter[tuple[str, int]]) -> Counter[int]:
    result: Counter[int] = Counter()
    for (_, bucket), count in counts.items():
        result[bucket] += count
    return result


def _power(number: int) -> str:
    """The shortest length of a bucket: `64`, `4k`, `2M`; below a thousand to the unit."""
    value, unit = (0 if number == 0 else 1 << number), ""
    for larger in "kMG":
        if value < 1024:
            break
        value, unit = value // 1024, larger
    return f"{value}{unit}"


def _cluster_sizes(cleaned: Ledger) -> list[Bucket]:
    """Clusters of 2, 3, 4, then of 5–8, 9–16, …; `dropped` are the texts they cost."""
    clusters: Counter[tuple[int, int]] = Counter()
    dropped: Counter[tuple[int, int]] = Counter()
    for size, count in cleaned.cluster_sizes.items():
        top = size if size <= 4 else 1 << (size - 1).bit_length()
        bounds = (size, size) if size <= 4 else (top // 2 + 1, top)
        clusters[bounds] += count
        dropped[bounds] += count * (size - 1)
    return [
        Bucket(f"{low}" if low == high else f"{low}–{high}", clusters[low, high], dropped[low, high])
        for low, high in sorted(clusters)
    ]
