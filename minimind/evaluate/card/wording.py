"""Figures, intervals and amounts as the card and its pages write them."""

from minimind.data.wording import percent
from minimind.evaluate.results import METRICS, Interval


def shown_figure(metric: str, value: float) -> str:
    """`1.234`, `56.7 %`, `+0.81` nats of margin, `41.5` tokens."""
    how = METRICS[metric]
    if how.is_share:
        return percent(value)
    if metric.startswith("margin"):
        return f"{value:+.2f}"
    return f"{value:.1f}" if how.unit == "tokens" else f"{value:.3f}"


def interval_of(metric: str, interval: Interval) -> str:
    """`1.201 – 1.267`, `51 – 62 %`."""
    if METRICS[metric].is_share:
        return f"{100 * interval.low:.0f} – {100 * interval.high:.0f} %"
    return f"{shown_figure(metric, interval.low)} – {shown_figure(metric, interval.high)}"


def amount(value: float) -> str:
    """A number of hours for people: two significant digits below ten, whole ones above a hundred."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def in_short(seconds: float) -> str:
    """A duration in its largest unit: `42 s`, `17 min`, `3.2 h`, `2.1 days`."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
