"""Claims with a wanted figure: every variant in a fresh process, in turn with the others, and a table of what was met.

A ratio is the median over repeats of the ratio within one repeat, so that a busy minute, which slows both sides of a
ratio, stays out of it. Not here: what is measured (the benchmark's own module), assertions.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS, Variant, cpu_name, in_fresh_process, measured, medians_of

Run = dict[str, dict[str, Any]]
"""Variant → its figures, in one repeat."""


@dataclass(frozen=True)
class Bar:
    """One claim: a figure of `variant`, over the same of the best of `baselines` where there are any."""

    name: str
    variant: str
    baselines: tuple[str, ...]
    wanted: float
    figure: str = "rate"
    at_least: bool = True

    def value(self, run: Run) -> float:
        """In one repeat."""
        value = run[self.variant][self.figure]
        return value / max(run[name][self.figure] for name in self.baselines) if self.baselines else value

    def met(self, value: float) -> bool:
        return value >= self.wanted if self.at_least else value <= self.wanted


def main(
    module: str,
    title: str,
    bars: Sequence[Bar],
    variants: Mapping[str, Variant],
    *,
    shown: Sequence[str],
    prepare: Callable[[], Path],
) -> None:
    """Command line of a benchmark with bars. `shown` are figures of the variants' table; `prepare` makes the input."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[bar.name for bar in bars], help="these bars only")
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=list(variants), help=argparse.SUPPRESS)
    given = parser.parse_args()
    path = given.input or prepare()
    if given.variant:
        print(json.dumps(measured(variants[given.variant], path)))
        return
    bars = [bar for bar in bars if not given.only or bar.name in given.only]
    needed = {name for bar in bars for name in (bar.variant, *bar.baselines)}
    runs: list[Run] = []
    for _ in range(given.repeats):
        load = os.getloadavg()[0]
        runs.append({})
        for name in (name for name in variants if name in needed):
            runs[-1][name] = in_fresh_process(module, name, path) | {"load": load}
            print(f"{name}: {json.dumps(runs[-1][name])}", file=sys.stderr, flush=True)
    report(module, title, bars, runs, shown)


def report(module: str, title: str, bars: Sequence[Bar], runs: list[Run], shown: Sequence[str]) -> None:
    """Two tables, and `results/<benchmark>.json`."""
    medians = {name: medians_of([run[name] for run in runs]) for name in runs[0]}
    variants = Table("variant", *shown, "peak MB", title=title)
    for name, figures in medians.items():
        cells = (
            f"{figures[s]:.1f}" if isinstance(figures.get(s), float) else str(figures.get(s) or "–") for s in shown
        )
        variants.add_row(name, *cells, f"{figures['peak_mb']:.0f}")
    table = Table("bar", "wanted", "median", "from … to", "met", title="Bars")
    found = {}
    for bar in bars:
        values = sorted(bar.value(run) for run in runs)
        value = median(values)
        found[bar.name] = {"wanted": bar.wanted, "at_least": bar.at_least, "median": value, "all": values}
        sign = "≥" if bar.at_least else "≤"
        span = f"{values[0]:.3g} … {values[-1]:.3g}"
        table.add_row(bar.name, f"{sign} {bar.wanted:g}", f"{value:.3g}", span, "yes" if bar.met(value) else "no")
    console = Console(width=130)
    console.print(variants)
    console.print(table)
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()}
    result = {
        "title": title,
        "machine": {**machine, "torch": torch.__version__},
        "repeats": len(runs),
        "bars": found,
        "variants": medians,
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(result, ensure_ascii=False, indent=2) + "\n"
    (RESULTS / f"{module.rpartition('.')[2]}.json").write_text(text, encoding="utf-8")
