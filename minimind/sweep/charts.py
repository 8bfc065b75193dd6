"""The pictures of a sweep: the metric over what was varied, and the curves of all points in one.

The first is a line over a setting that is a number, one for each choice of the others; where those are too many, a
heat map of two settings, else a dot for each point. Drawn as those of the report card are
(`minimind.evaluate.card.charts`).
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.evaluate.card.charts import Theme, save_picture
from minimind.sweep.comparison import Comparison, Curve, Group, Result
from minimind.sweep.table import shown_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FIGURES_DIR = "figures"
METRIC_PICTURE, CURVES_PICTURE = "metric", "curves"
CAPTIONS = {
    METRIC_PICTURE: "The metric over the settings; a ring is the best point, a cross one that failed",
    CURVES_PICTURE: "The course of all points; a look on the way takes a sample of the held-out rows, the last one all",
}
MOST_LINES = 6
MOST_NAMES = 12
LONGEST_NAME = 48
DECADE = 10.0
"""Values that span so much are shown on a logarithmic axis."""

Draw = Callable[["Axes", Theme], None]


def draw_all(comparison: Comparison, directory: Path) -> list[str]:
    """Draw every picture there are numbers for into `directory`; their names without ending, in page order."""
    directory.mkdir(parents=True, exist_ok=True)
    names = []
    if comparison.best():
        height, draw = _metric(comparison)
        save_picture(directory, METRIC_PICTURE, height, draw)
        names.append(METRIC_PICTURE)
    if curves := curves_to_draw(comparison):
        save_picture(directory, CURVES_PICTURE, 3.6, partial(_draw_curves, comparison=comparison, curves=curves))
        names.append(CURVES_PICTURE)
    return names


def curves_to_draw(comparison: Comparison) -> dict[int, Curve]:
    """Number of a point → its curve: of the metric, else of the loss on held-out rows, else of the loss."""
    for figure in (comparison.metric.figure, "validation_loss", "loss"):
        found = {r.number: curve for r in comparison.results for curve in r.curves if curve.figure == figure}
        if any(len(curve.values) > 1 for curve in found.values()):
            return found
    return {}


def _metric(comparison: Comparison) -> tuple[float, Draw]:
    """The picture that suits what was swept, and its height."""
    keys = [key for key in comparison.names if key not in comparison.seeds] or list(comparison.names)
    groups = comparison.groups()
    for x in keys:
        others = [key for key in keys if key != x]
        lines = _lines_of(groups, others)
        if _is_number(comparison, x) and len(lines) <= MOST_LINES:
            return 3.6, partial(_draw_lines, comparison=comparison, x=x, lines=lines)
    if len(keys) == 2:
        rows = len(_values(comparison, keys[0]))
        return 1.2 + 0.4 * rows, partial(_draw_heat, comparison=comparison, keys=keys, groups=groups)
    return 0.8 + 0.3 * len(comparison.results), partial(_draw_dots, comparison=comparison)


def _is_number(comparison: Comparison, key: str) -> bool:
    values = _values(comparison, key)
    return len(values) > 1 and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def _values(comparison: Comparison, key: str) -> list[Any]:
    """The values of a setting, numbers in their order, others as they were given."""
    values: list[Any] = []
    for result in comparison.results:
        if result.settings[key] not in values:
            values.append(result.settings[key])
    return sorted(values) if all(isinstance(v, int | float) for v in values) else values


def _lines_of(groups: Sequence[Group], others: Sequence[str]) -> dict[str, list[Group]]:
    """Choice of the other settings → its groups."""
    lines: dict[str, list[Group]] = {}
    for group in groups:
        lines.setdefault(" ".join(_drawn(group.texts[key]) for key in others), []).append(group)
    return dict(sorted(lines.items()))


def _draw_lines(axes: "Axes", theme: Theme, *, comparison: Comparison, x: str, lines: dict[str, list[Group]]) -> None:
    """Means over seeds as a line, single seeds as pale dots."""
    from matplotlib.ticker import NullLocator

    values = _values(comparison, x)
    for (name, groups), colour in zip(lines.items(), _colours(len(lines), theme), strict=True):
        results = [result for group in groups for result in group.results]
        shown = [(r.settings[x], value) for r in results if (value := comparison.value(r)) is not None]
        means = sorted((group.results[0].settings[x], group.mean) for group in groups if group.mean is not None)
        if x in comparison.seeds:
            means = []
        axes.plot(*_axes_of(shown), "o", color=colour, markersize=5, alpha=0.45 if comparison.seeds else 1.0)
        axes.plot(*_axes_of(means), "-", color=colour, linewidth=1.6, label=name)
        lost = [r.settings[x] for r in results if r.state == "failed"]
        axes.plot(lost, [0.97] * len(lost), "x", color=colour, markersize=7, transform=axes.get_xaxis_transform())
    if best := comparison.best():
        ring = (best.settings[x], comparison.value(best))
        axes.plot(*_axes_of([ring]), "o", color=theme.second, markersize=12, fillstyle="none", markeredgewidth=1.8)
    if min(values) > 0 and max(values) / min(values) >= DECADE:
        axes.set_xscale("log")
    if len(values) <= MOST_NAMES:
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(values, _texts(comparison, x))
    _label(axes, theme, x=comparison.names[x], y=comparison.metric.name)
    others = [name for key, name in comparison.names.items() if key != x and key not in comparison.seeds]
    if others:
        _legend(axes, theme, title=" ".join(others))


def _draw_heat(
    axes: "Axes", theme: Theme, *, comparison: Comparison, keys: Sequence[str], groups: Sequence[Group]
) -> None:
    """Two settings, the mean of the metric as colour and number; the best is framed, what failed is crossed."""
    import numpy as np
    from matplotlib.patches import Rectangle

    down, across = (_values(comparison, key) for key in keys)
    means = np.full((len(down), len(across)), np.nan)
    for group in groups:
        place = down.index(group.settings[keys[0]]), across.index(group.settings[keys[1]])
        if group.mean is not None:
            means[place] = group.mean
    ranks = means if comparison.metric.goal == "max" else -means  # the best is the brightest
    axes.imshow(ranks, aspect="auto", cmap="viridis")
    middle = (np.nanmin(ranks) + np.nanmax(ranks)) / 2
    for (row, column), mean in np.ndenumerate(means):
        shown = "✗" if np.isnan(mean) else shown_figure(comparison.metric.name, float(mean))
        colour = theme.text if np.isnan(mean) else "#111111" if ranks[row, column] > middle else "#ffffff"
        axes.annotate(shown, (column, row), ha="center", va="center", color=colour, fontsize=8)
    if groups and groups[0].mean is not None:
        best = groups[0].settings
        corner = across.index(best[keys[1]]) - 0.5, down.index(best[keys[0]]) - 0.5
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor=theme.second, linewidth=2))
    axes.set_yticks(range(len(down)), _texts(comparison, keys[0]))
    axes.set_xticks(range(len(across)), _texts(comparison, keys[1]))
    axes.set_title(comparison.metric.name, loc="left", fontsize=9, color=theme.text)
    _label(axes, theme, x=comparison.names[keys[1]], y=comparison.names[keys[0]], grid=False)


def _draw_dots(axes: "Axes", theme: Theme, *, comparison: Comparison) -> None:
    """A line for each point, the best on top."""
    results, best = comparison.ranked(), comparison.best()
    for line, result in enumerate(results):
        value = comparison.value(result)
        if value is not None:
            axes.plot([value], [line], "o", color=theme.second if result is best else theme.first, markersize=6)
        else:
            axes.plot([0.02], [line], "x", color=theme.second, transform=axes.get_yaxis_transform())
    axes.set_yticks(range(len(results)), [_drawn(result.name) for result in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    _label(axes, theme, x=comparison.metric.name, y="")


def _draw_curves(axes: "Axes", theme: Theme, *, comparison: Comparison, curves: dict[int, Curve]) -> None:
    """All points in the colours of their order, the best drawn over the others."""
    from matplotlib.ticker import EngFormatter

    best = comparison.best()
    drawn = sorted((r for r in comparison.results if r.number in curves), key=lambda r: (r is best, r.number))
    colours = dict(zip(sorted(curves), _colours(len(curves), theme), strict=True))
    for result in drawn:
        curve, strong = curves[result.number], result is best
        colour = theme.second if strong else colours[result.number]
        axes.plot(curve.tokens, curve.values, "-" if len(curve.values) > 1 else "o", color=colour, markersize=4,
                  linewidth=2.2 if strong else 1.2, label=_legend_name(result, strong))  # fmt: skip
    _label(axes, theme, x="tokens seen", y=next(iter(curves.values())).figure)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if len(drawn) <= MOST_NAMES:
        _legend(axes, theme)


def _legend_name(result: Result, strong: bool) -> str:
    ends = " (best)" if strong else " (failed)" if result.state == "failed" else ""
    return _drawn(result.name) + ends


def _texts(comparison: Comparison, key: str) -> list[str]:
    """The values of a setting in the order of `_values`, as they were typed."""
    typed = {json.dumps(r.settings[key]): r.texts[key] for r in comparison.results}
    return [_drawn(typed[json.dumps(value)]) for value in _values(comparison, key)]


def _drawn(text: str) -> str:
    """A setting's value, or a point's name, in letters that matplotlib's own font has; not as a formula."""
    text = "".join(sign if sign.isprintable() and ord(sign) < 0x250 else "?" for sign in text)
    return (text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…").replace("$", r"\$")


def _colours(count: int, theme: Theme) -> list[Any]:
    """So many colours in an order the eye sees; the first of the page where there is one."""
    from matplotlib import colormaps

    if count == 1:
        return [theme.first]
    # neither end: the one is hard to see on a dark page, the other on a light one
    return [colormaps["viridis"](0.2 + 0.6 * place / (count - 1)) for place in range(count)]


def _axes_of(points: Sequence[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [x for x, _ in points], [y for _, y in points]


def _label(axes: "Axes", theme: Theme, *, x: str, y: str, grid: bool = True) -> None:
    axes.set_xlabel(x, color=theme.text, fontsize=9)
    axes.set_ylabel(y, color=theme.text, fontsize=9)
    if grid:
        axes.grid(color=theme.grid, linewidth=0.8)


def _legend(axes: "Axes", theme: Theme, *, title: str | None = None) -> None:
    legend = axes.legend(frameon=False, fontsize=8, labelcolor=theme.text, title=title)
    legend.get_title().set_color(theme.text)
    legend.get_title().set_fontsize(8)
