"""The table of a sweep: the same rows for the terminal, Markdown, a page, and as raw numbers in CSV."""

import csv
import io
from dataclasses import dataclass

from minimind.sweep.comparison import Comparison, Result

FIGURES = (
    "validation_bits_per_byte",
    "validation_loss",
    "validation_cross_entropy",
    "loss",
    "validation_accuracy",
    "validation_reward_margin",
    "tokens_per_second",
    "seconds",
)
"""Those of a training that stand in the table, as far as it has them."""
SHORT = {"tokens_per_second": "tokens/s"}


@dataclass(frozen=True)
class Row:
    """A point as it is shown."""

    cells: tuple[str, ...]
    best: bool = False
    failed: bool = False


@dataclass(frozen=True)
class Table:
    """Titles, the number of columns at the left that are words, and rows."""

    titles: tuple[str, ...]
    words: int
    rows: tuple[Row, ...]


def points_table(comparison: Comparison) -> Table:
    """A row for each point, the best first."""
    figures, best = _figures(comparison), comparison.best()
    keys = list(comparison.names)
    titles = ("", *(comparison.names[key] for key in keys), *(_title(name) for name in figures), "version")
    rows = []
    for result in comparison.ranked():
        settings = (result.texts[key] for key in keys)
        values = (shown_figure(name, result.figures.get(name)) for name in figures)
        mark = "★" if result is best else "✗" if result.state == "failed" else ""
        rows.append(
            Row((mark, *settings, *values, _outcome(result)), best=result is best, failed=result.state == "failed")
        )
    return Table(titles, 1 + len(keys), tuple(rows))


def seeds_table(comparison: Comparison) -> Table | None:
    """A row for each setting with the mean over its seeds; None where no seed was swept."""
    if not comparison.seeds:
        return None
    keys, name = [key for key in comparison.names if key not in comparison.seeds], comparison.metric.name
    rows = []
    for place, group in enumerate(comparison.groups()):
        figures = (group.mean, group.spread, *((min(group.values), max(group.values)) if group.values else (None,) * 2))
        counted = f"{len(group.values)}" + ("" if group.whole else f" of {len(group.results)}")
        cells = (*(group.texts[key] for key in keys), counted)
        best = place == 0 and bool(group.values)
        rows.append(Row(("★" if best else "", *cells, *(shown_figure(name, value) for value in figures)), best=best))
    titles = ("", *(comparison.names[key] for key in keys), "seeds", _title(name), "± (sd)", "lowest", "highest")
    return Table(titles, 2 + len(keys), tuple(rows))


def render_csv(comparison: Comparison) -> str:
    """Every point with all its figures, unrounded, in the order of the table."""
    figures = list(dict.fromkeys([*_figures(comparison), *sorted({n for r in comparison.results for n in r.figures})]))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*comparison.names, "state", *figures, "version", "fingerprint", "error"])
    for result in comparison.ranked():
        settings = (result.texts[key] for key in comparison.names)
        values = (result.figures.get(name, "") for name in figures)
        ends = (result.version or "", result.fingerprint or "", result.error or "")
        writer.writerow([*settings, result.state, *values, *ends])
    return file.getvalue()


def shown_figure(name: str, value: float | None) -> str:
    """A figure for people; settings that differ little must not look the same."""
    if value is None:
        return "–"
    if name.endswith("seconds"):
        return f"{value:,.1f}"
    return f"{value:,.0f}" if abs(value) >= 1000 or name.endswith("per_second") else f"{value:.4f}"


def _figures(comparison: Comparison) -> list[str]:
    """The metric first, then what the table always has."""
    present = {name for result in comparison.results for name in result.figures}
    wanted = dict.fromkeys([comparison.metric.name, *FIGURES])
    return [name for name in wanted if name in present]


def _title(name: str) -> str:
    return SHORT.get(name, name.replace("_", " "))


def _outcome(result: Result) -> str:
    if result.state in ("failed", "waiting"):
        return result.state
    version = (result.version or result.fingerprint or "").removeprefix("models:/minimind-")
    return version + (" (reused)" if result.state == "reused" else "")
