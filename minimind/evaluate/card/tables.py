"""The figures of an evaluation as tables: models side by side, chance and an n-gram beside them.

What a page shows of a task is decided here once, for HTML and Markdown alike. Not here: how a cell looks (templates).
"""

from collections.abc import Callable
from dataclasses import dataclass

from minimind.evaluate.card.wording import interval_of, shown_figure
from minimind.evaluate.results import METRICS, SAID, Evaluation, Figure, Leak, TaskResult

NO_BEST = ("tokens",)
"""Metrics of which neither much nor little is good."""
MOST_LEAKS = 20
"""Items of a task that are named; the counts are of all."""


@dataclass(frozen=True)
class Cell:
    """A figure as it is shown."""

    value: str
    interval: str
    n: int
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A metric, or a group of items, of all models; cells in their order, None where one was not measured."""

    title: str
    cells: list[Cell | None]
    chance: str = ""
    ngram: Cell | None = None

    @property
    def n(self) -> str:
        """The items behind the figures, where that is the same number for all models."""
        counts = {cell.n for cell in self.cells if cell}
        return f"{counts.pop():,}" if len(counts) == 1 else ""


@dataclass(frozen=True)
class TaskTable:
    """All that is shown of a task."""

    name: str
    kind: str
    about: str
    skipped: dict[str, int]
    leading: Row
    rows: list[Row]
    seen: list[str]
    """For each model how many of the items its trainings had seen."""
    groups: dict[str, list[Row]]


@dataclass(frozen=True)
class Leaked:
    """An item and the models whose trainings had it."""

    leak: Leak
    models: list[str]


def task_tables(evaluation: Evaluation) -> list[TaskTable]:
    """The tasks that any model was measured in."""
    return [_table(evaluation, name) for name in evaluation.tasks if leading_metric(evaluation, name)]


def leading_metric(evaluation: Evaluation, task: str) -> str | None:
    """The metric that leads, where any model was measured."""
    found = (result.tasks[task] for result in evaluation.models.values() if task in result.tasks)
    return next((one.leading for one in found), None)


def leaked_items(evaluation: Evaluation) -> list[Leaked]:
    """The items that were seen, each once, the first of every task."""
    found: dict[tuple[str, str], Leaked] = {}
    for name, result in evaluation.models.items():
        for leak in result.leaks:
            known = found.setdefault((leak.task, leak.item), Leaked(leak, []))
            known.models.append(name)
    order = [one for task in evaluation.tasks for one in found.values() if one.leak.task == task]
    counts: dict[str, int] = {}
    shown = []
    for one in order:
        counts[one.leak.task] = counts.get(one.leak.task, 0) + 1
        if counts[one.leak.task] <= MOST_LEAKS:
            shown.append(one)
    return shown


def unchecked_trainings(evaluation: Evaluation) -> dict[str, list[str]]:
    """What could not be looked into → the models that it matters for."""
    found: dict[str, list[str]] = {}
    for name, result in evaluation.models.items():
        for reason in result.unchecked:
            found.setdefault(reason, []).append(name)
    return found


def said_cells(evaluation: Evaluation) -> dict[str, list[Cell]]:
    """Model → how much it repeats, how long it talks and whether it ends, over all its answers."""
    return {
        name: [_cell(metric, result.said[metric]) for metric in SAID]
        for name, result in evaluation.models.items()
        if result.said
    }


def _table(evaluation: Evaluation, name: str) -> TaskTable:
    task = evaluation.tasks[name]
    results = [result.tasks.get(name) for result in evaluation.models.values()]
    rows = []
    for metric in dict.fromkeys(metric for one in results if one for metric in one.figures):
        row = _row(METRICS[metric].title, metric, results, lambda one, metric=metric: one.figures.get(metric))
        chance, ngram = task.chance.get(metric), task.ngram.get(metric)
        shown = "" if chance is None else shown_figure(metric, chance)
        rows.append(Row(row.title, row.cells, shown, _cell(metric, ngram) if ngram else None))
        if any(one and metric in one.clean for one in results):
            title = f"{METRICS[metric].title}, of unseen items"
            rows.append(_row(title, metric, results, lambda one, metric=metric: one.clean.get(metric)))
    return TaskTable(
        name=name,
        kind=task.kind,
        about=task.about,
        skipped=task.skipped,
        leading=rows[0],
        rows=rows,
        seen=[_seen(one) for one in results],
        groups={group: found for group in ("source", "language", "subject") if (found := _group(results, group))},
    )


def _group(results: list[TaskResult | None], group: str) -> list[Row]:
    """The leading metric by the names of a group."""
    names = dict.fromkeys(name for one in results if one for name in one.groups.get(group, {}))
    metric = next(one.leading for one in results if one)
    return [_row(name, metric, results, lambda one, name=name: one.groups.get(group, {}).get(name)) for name in names]


def _row(
    title: str, metric: str, results: list[TaskResult | None], figure: Callable[[TaskResult], Figure | None]
) -> Row:
    figures = [figure(one) if one else None for one in results]
    values = [found.value for found in figures if found]
    best = _best(metric, values)
    return Row(title, [_cell(metric, found, best=found.value == best) if found else None for found in figures])


def _best(metric: str, values: list[float]) -> float | None:
    """The best value; None where there is nothing to choose from."""
    if len(set(values)) < 2 or metric in NO_BEST:
        return None
    return min(values) if METRICS[metric].lower_is_better else max(values)


def _cell(metric: str, found: Figure, *, best: bool = False) -> Cell:
    single = found.n == 1 and not METRICS[metric].is_share  # nothing to draw an interval from
    interval = "one item" if single else interval_of(metric, found.interval)
    return Cell(shown_figure(metric, found.value), interval, found.n, best)


def _seen(found: TaskResult | None) -> str:
    if found is None or found.leaked is None:
        return "not looked for" if found else ""
    return f"{found.leaked:,} of {found.n:,}"
