"""The report's pictures, as PNG files: the leading figure of each task, and the curves of each training.

Each is drawn twice, for a light page (`NAME.png`, also what a printer gets) and for a dark one
(`NAME.dark.png`). Figures are made without pyplot, so nothing global changes; the same report
gives the same bytes with the same matplotlib. All labels are ASCII or Latin, which matplotlib's own font has.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minimind.evaluate.card.card import Curve, Report, Training
from minimind.evaluate.card.tables import leading_metric
from minimind.evaluate.card.trainings import is_share
from minimind.evaluate.card.wording import shown_figure
from minimind.evaluate.results import METRICS, Evaluation, Interval, flat_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES_DIR = "figures"
DPI = 150
MOST_TASKS = 8
"""Tasks with a picture: more than that nobody looks at; the tables have them all."""
NARROW = 0.06
"""Shares so close together that ticks are less than a hundredth apart."""


@dataclass(frozen=True)
class Theme:
    """Colours of one of the two pages."""

    suffix: str
    background: str
    text: str
    grid: str
    first: str
    second: str
    others: tuple[str, ...]

    @property
    def colours(self) -> tuple[str, ...]:
        """For several curves; told apart by those who see no red or no green too."""
        return (self.first, self.second, *self.others)


LIGHT = Theme("", "#ffffff", "#3c4149", "#e4e7eb", "#2563b0", "#c2571a", ("#2f8f6b", "#8a4fb5", "#7a6a00"))
DARK = Theme(".dark", "#1b1e24", "#c3c8d0", "#343942", "#6fa8ef", "#f0975a", ("#58c39a", "#c193ea", "#d3c04c"))


@dataclass(frozen=True)
class Dot:
    """A value with its interval, as one line of a dot plot."""

    label: str
    value: float
    interval: Interval | None


def draw_all(report: Report, directory: Path) -> list[str]:
    """Draw every picture the report has numbers for into `directory`; their names without ending, in page order."""
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    for task, name in task_pictures(report.evaluation).items():
        _draw_task(report.evaluation, task, name, directory)
        names.append(name)
    for training in report.trainings:
        names += [draw_loss(training, directory)] if training.curves else []
        names += [draw_looks(training, directory)] if training.looks else []
    return names


def task_pictures(evaluation: Evaluation) -> dict[str, str]:
    """Task → the name of the picture of its leading figure, of the first tasks with two dots or more."""
    names: dict[str, str] = {}
    for number, task in enumerate(evaluation.tasks, 1):
        metric = leading_metric(evaluation, task)
        if metric and len(names) < MOST_TASKS and len(_dots(evaluation, task, metric)[0]) > 1:
            name = flat_name(task, metric)
            names[task] = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f"task_{number}"
    return names


def loss_picture(stage: str) -> str:
    """The name of the picture of a training's loss."""
    return f"{stage}_loss"


def looks_picture(stage: str) -> str:
    """The name of the picture of what a training was asked on the way."""
    return f"{stage}_looks"


def _draw_task(evaluation: Evaluation, task: str, name: str, directory: Path) -> None:
    """Every model's leading figure of a task, the n-gram's below; chance, where that is a share, as a line."""
    metric = leading_metric(evaluation, task)
    assert metric is not None
    dots, models = _dots(evaluation, task, metric)
    chance = evaluation.tasks[task].chance.get(metric) if METRICS[metric].is_share else None

    def draw(axes: "Axes", theme: Theme) -> None:
        _dot_plot(axes, theme, dots, models=models, metric=metric)
        if chance:
            axes.axvline(chance, color=theme.second, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate("chance", (chance, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                          textcoords="offset points", ha="center", color=theme.second, fontsize=8)  # fmt: skip

    save_picture(directory, name, 0.7 + 0.42 * len(dots), draw, width=5.6)


def _dots(evaluation: Evaluation, task: str, metric: str) -> tuple[list[Dot], int]:
    """The models and what they are compared with, and how many of the dots are models."""
    figures = {model: result.figure(task, metric) for model, result in evaluation.models.items()}
    dots = [Dot(model, found.value, found.interval) for model, found in figures.items() if found]
    models, ngram, baselines = len(dots), evaluation.tasks[task].ngram.get(metric), evaluation.baselines
    if ngram and baselines:
        dots.append(Dot(f"byte {baselines.ngram_order}-gram", ngram.value, ngram.interval))
    if task == "text" and baselines and baselines.xz_after_train is not None:
        dots.append(Dot("xz after train", baselines.xz_after_train, None))
    return dots, models


def draw_loss(training: Training, directory: Path) -> str:
    """Draw a training's losses by step; the name of the picture."""

    def draw(axes: "Axes", theme: Theme) -> None:
        for curve, colour in zip(training.curves, (theme.first, theme.second), strict=False):
            style = "-" if len(curve.steps) > 1 else "o"
            axes.plot(curve.steps, curve.values, style, color=colour, linewidth=1.6, markersize=4, label=curve.metric)
        _over_steps(axes, theme, title=training.stage)
        if len(training.curves) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=theme.text)

    name = loss_picture(training.stage)
    save_picture(directory, name, 2.7, draw, width=4.6)
    return name


def draw_looks(training: Training, directory: Path) -> str:
    """Draw what a training was asked on the way, by step: shares on the left, bits per byte on the right."""
    from matplotlib.ticker import PercentFormatter

    shares = [curve for curve in training.looks if is_share(curve.metric)]
    others = [curve for curve in training.looks if not is_share(curve.metric)]

    def draw(axes: "Axes", theme: Theme) -> None:
        colours = iter(theme.colours)
        _plot(axes, shares, colours)
        _over_steps(axes, theme, title=f"{training.stage}: looks at held-out rows")
        right = axes.twinx() if shares and others else axes
        _plot(right, others, colours, where=" (right)" if right is not axes else "")
        if shares:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
        if right is not axes:
            right.tick_params(colors=theme.text, labelsize=8, length=0)
            right.spines[:].set_visible(False)
            right.set_ylabel("bits per byte", color=theme.text, fontsize=8)
        axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, labelcolor=theme.text)

    name = looks_picture(training.stage)
    save_picture(directory, name, 2.7, draw, width=4.6)
    return name


def _over_steps(axes: "Axes", theme: Theme, *, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_title(title, loc="left", fontsize=10, color=theme.text, fontweight="bold")
    axes.set_xlabel("step", color=theme.text, fontsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=theme.grid, linewidth=0.8)


def _plot(axes: "Axes", curves: Sequence[Curve], colours: Iterator[str], *, where: str = "") -> None:
    for curve, colour in zip(curves, colours, strict=False):
        style = "-" if len(curve.steps) > 1 else "o"
        label = curve.metric.removeprefix("validation_").replace("_", " ") + where
        axes.plot(curve.steps, curve.values, style, color=colour, linewidth=1.6, markersize=4, label=label)


def _dot_plot(axes: "Axes", theme: Theme, dots: Sequence[Dot], *, models: int, metric: str) -> None:
    """One line per dot, the first on top; the first `models` in the first colour, the rest in the second."""
    from matplotlib.ticker import PercentFormatter

    for line, dot in enumerate(dots):
        colour = theme.first if line < models else theme.second
        if dot.interval:
            axes.plot([dot.interval.low, dot.interval.high], [line, line], color=colour, linewidth=3, alpha=0.35,
                      solid_capstyle="round")  # fmt: skip
        axes.plot([dot.value], [line], "o", color=colour, markersize=6)
        axes.annotate(shown_figure(metric, dot.value), (dot.value, line), xytext=(0, 6), textcoords="offset points",
                      ha="center", color=theme.text, fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
    axes.set_ylim(len(dots) - 0.5, -0.7)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.margins(x=0.08)
    if METRICS[metric].is_share:
        low, high = axes.get_xlim()
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0 if high - low > NARROW else 1))


def save_picture(
    directory: Path, name: str, height: float, draw: Callable[["Axes", Theme], None], *, width: float = 7.2
) -> None:
    """Have `draw` fill the axes of `NAME.png` and of `NAME.dark.png`; sizes are in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for theme in (LIGHT, DARK):
        figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.background, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot(facecolor=theme.background)
        axes.set_axisbelow(True)
        axes.tick_params(colors=theme.text, labelsize=8, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
        draw(axes, theme)
        figure.savefig(directory / f"{name}{theme.suffix}.png", metadata={"Software": None})
