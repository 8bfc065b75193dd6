"""The report's pictures, as PNG files: a loss curve per training, bits per byte, preference accuracy.

Each is drawn twice, for a light page (`NAME.png`, also what a printer gets) and for a dark one
(`NAME.dark.png`). Figures are made without pyplot, so nothing global changes; the same report
gives the same bytes with the same matplotlib. All labels are ASCII or Latin, which matplotlib's own font has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from minimind.evaluate.card import Report, Training
from minimind.evaluate.results import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES_DIR = "figures"
DPI = 150
CHANCE = 0.5


@dataclass(frozen=True)
class Theme:
    """Colours of one of the two pages."""

    suffix: str
    background: str
    text: str
    grid: str
    first: str
    second: str


LIGHT = Theme("", "#ffffff", "#3c4149", "#e4e7eb", "#2563b0", "#c2571a")
DARK = Theme(".dark", "#1b1e24", "#c3c8d0", "#343942", "#6fa8ef", "#f0975a")


@dataclass(frozen=True)
class Dot:
    """A value with its interval, as one line of a dot plot."""

    label: str
    value: float
    interval: Interval | None


def draw_all(report: Report, directory: Path) -> list[str]:
    """Draw every picture the report has numbers for into `directory`; their names without ending, in page order."""
    directory.mkdir(parents=True, exist_ok=True)
    names = [_bits(report, directory)]
    if any(result.preference for result in report.evaluation.models.values()):
        names.append(_preference(report, directory))
    return names + [draw_loss(training, directory) for training in report.trainings if training.curves]


def loss_picture(stage: str) -> str:
    """The name of the picture of a training's loss."""
    return f"{stage}_loss"


BITS_PICTURE = "bits_per_byte"
PREFERENCE_PICTURE = "preference_accuracy"


def _bits(report: Report, directory: Path) -> str:
    baselines = report.evaluation.baselines
    dots = [Dot(name, m.score.bits_per_byte, m.score.interval) for name, m in report.evaluation.models.items()]
    dots += [
        Dot(f"byte {baselines.ngram_order}-gram", baselines.ngram, baselines.ngram_interval),
        Dot("xz after train", baselines.xz_after_train, None),
    ]
    models = len(report.evaluation.models)
    save_picture(
        directory, BITS_PICTURE, _height(dots), lambda axes, theme: _dot_plot(axes, theme, dots, models=models)
    )
    return BITS_PICTURE


def _preference(report: Report, directory: Path) -> str:
    scored = {name: m.preference for name, m in report.evaluation.models.items() if m.preference}
    dots = [Dot(name, score.accuracy, score.interval) for name, score in scored.items()]

    def draw(axes: "Axes", theme: Theme) -> None:
        _dot_plot(axes, theme, dots, models=len(dots), percent=True)
        axes.axvline(CHANCE, color=theme.second, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate("chance", (CHANCE, 1), xycoords=("data", "axes fraction"), xytext=(0, 3),
                      textcoords="offset points", ha="center", color=theme.second, fontsize=8)  # fmt: skip

    save_picture(directory, PREFERENCE_PICTURE, _height(dots), draw)
    return PREFERENCE_PICTURE


def draw_loss(training: Training, directory: Path) -> str:
    """Draw a training's losses by step; the name of the picture."""

    def draw(axes: "Axes", theme: Theme) -> None:
        for curve, colour in zip(training.curves, (theme.first, theme.second), strict=False):
            style = "-" if len(curve.steps) > 1 else "o"
            axes.plot(curve.steps, curve.values, style, color=colour, linewidth=1.6, markersize=4, label=curve.metric)
        axes.set_title(training.stage, loc="left", fontsize=10, color=theme.text, fontweight="bold")
        axes.set_xlabel("step", color=theme.text, fontsize=8)
        axes.grid(color=theme.grid, linewidth=0.8)
        if len(training.curves) > 1:
            axes.legend(frameon=False, fontsize=8, labelcolor=theme.text)

    name = loss_picture(training.stage)
    save_picture(directory, name, 2.7, draw, width=4.6)
    return name


def _dot_plot(axes: "Axes", theme: Theme, dots: Sequence[Dot], *, models: int, percent: bool = False) -> None:
    """One line per dot, the first on top; the first `models` in the first colour, the rest in the second."""
    for line, dot in enumerate(dots):
        colour = theme.first if line < models else theme.second
        if dot.interval:
            axes.plot([dot.interval.low, dot.interval.high], [line, line], color=colour, linewidth=3, alpha=0.35,
                      solid_capstyle="round")  # fmt: skip
        axes.plot([dot.value], [line], "o", color=colour, markersize=6)
        shown = f"{dot.value:.1%}" if percent else f"{dot.value:.3f}"
        axes.annotate(shown, (dot.value, line), xytext=(0, 6), textcoords="offset points", ha="center",
                      color=theme.text, fontsize=8)  # fmt: skip
    axes.set_yticks(range(len(dots)), [dot.label for dot in dots])
    axes.set_ylim(len(dots) - 0.5, -0.7)
    axes.grid(axis="x", color=theme.grid, linewidth=0.8)
    axes.margins(x=0.08)
    if percent:
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")


def _height(dots: Sequence[Dot]) -> float:
    return 0.7 + 0.42 * len(dots)


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
