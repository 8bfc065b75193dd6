"""The tokenizer report's pictures, as inline SVG that takes its colours from the page.

Not here: the numbers (`tokenizer_report`).
"""

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

_WIDTH, _ROW, _LABEL, _VALUE = 720, 26, 190, 120
_HEIGHT, _LEFT, _BOTTOM = 220, 56, 34


def bars(rows: Sequence[tuple[str, float]], *, shown: str = "{:.3f}", highlight: str = "") -> Markup:
    """A horizontal bar for each (label, value), from 0; the one called `highlight` in the second colour."""
    top = max((value for _, value in rows), default=0) or 1
    lines = []
    for number, (label, value) in enumerate(rows):
        y, length = number * _ROW, (_WIDTH - _LABEL - _VALUE) * value / top
        kind = "d" if label == highlight else "k"
        lines.append(
            f'<text x="{_LABEL - 8}" y="{y + 17}" text-anchor="end">{escape(label)}</text>'
            f'<rect class="{kind}" x="{_LABEL}" y="{y + 5}" width="{max(length, 1):.1f}" height="16" rx="3"/>'
            f'<text x="{_LABEL + length + 8:.1f}" y="{y + 17}">{escape(shown.format(value))}</text>'
        )
    return _svg("".join(lines), height=_ROW * len(rows))


def curve(points: Sequence[tuple[float, float]], *, x_label: str, y_label: str) -> Markup:
    """A line through the points, both axes by powers of ten; points of 0 are left out."""
    logs = [(math.log10(x), math.log10(y)) for x, y in points if x > 0 and y > 0]
    if len(logs) < 2:
        return Markup()
    right, top = max(1.0, logs[-1][0]), max(1.0, max(y for _, y in logs))

    def place(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (_WIDTH - _LEFT - 10) * x / right, (_HEIGHT - _BOTTOM) * (1 - y / top) + 6

    drawn = " ".join(f"{a:.1f},{b:.1f}" for a, b in (place(*point) for point in logs))
    grid = []
    for power in range(math.floor(top) + 1):
        _, y = place(0, power)
        grid.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**power:,}</text>'
        )
    for power in range(math.floor(right) + 1):
        x, _ = place(power, 0)
        grid.append(f'<text x="{x:.1f}" y="{_HEIGHT - 14}" text-anchor="middle">{10**power:,}</text>')
    names = (
        f'<text x="{_WIDTH - 10}" y="{_HEIGHT - 1}" text-anchor="end">{escape(x_label)}</text>'
        f'<text x="{_WIDTH - 10}" y="14" text-anchor="end">{escape(y_label)}</text>'
    )
    return _svg("".join(grid) + f'<polyline points="{drawn}"/>' + names, height=_HEIGHT)


def columns(rows: Sequence[tuple[str, int]], *, x_label: str) -> Markup:
    """A column for each (label, count)."""
    top = max((count for _, count in rows), default=0) or 1
    step = _WIDTH / max(len(rows), 1)
    parts = []
    for number, (label, count) in enumerate(rows):
        height = (_HEIGHT - _BOTTOM - 20) * count / top
        x, y = number * step, _HEIGHT - _BOTTOM - height
        middle = x + step / 2
        parts.append(
            f'<rect class="k" x="{x + 2:.1f}" y="{y:.1f}" width="{step - 4:.1f}" height="{height:.1f}" rx="2"/>'
            f'<text x="{middle:.1f}" y="{y - 4:.1f}" text-anchor="middle">{count:,}</text>'
            f'<text x="{middle:.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{escape(label)}</text>'
        )
    parts.append(f'<text x="{_WIDTH}" y="{_HEIGHT - 2}" text-anchor="end">{escape(x_label)}</text>')
    return _svg("".join(parts), height=_HEIGHT)


def _svg(content: str, *, height: int) -> Markup:
    view = f'viewBox="0 0 {_WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg"'
    return Markup(f"<svg {view}>{content}</svg>")  # noqa: S704  what is in it is escaped above
