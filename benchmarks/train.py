"""The bars of training speed: this project's loop on minimind2-small against its peers as they ship, one thread.

Every variant runs in a fresh process, in turn with the others; what is compared are real ids per CPU second (or peak
memory). A ratio is the median over repeats of the ratio within one repeat, so that a busy minute, which slows both
sides of a ratio, stays out of it. The whole takes a quarter of an hour per repeat on two idle cores.

    python -m benchmarks.train --repeats 5
    python -m benchmarks.train --only "LoRA step, of a full step" "bf16, × upstream"

Not here: what the variants do (`benchmarks/train_variants.py`, `benchmarks/train_overhead.py`), assertions.
"""

import argparse
import json
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS, cpu_name, in_fresh_process, measured, medians_of
from benchmarks.packed_training import short_documents
from benchmarks.train_overhead import tracking
from benchmarks.train_variants import VARIANTS as TRAININGS

VARIANTS = {**TRAININGS, "tracking": tracking}


@dataclass(frozen=True)
class Bar:
    """One claim: a figure of `variant`, over the same of `baseline` where there is one."""

    name: str
    variant: str
    baseline: str | None
    wanted: float
    figure: str = "rate"
    at_least: bool = True

    def value(self, run: dict[str, dict[str, Any]]) -> float:
        """In one repeat."""
        value = run[self.variant][self.figure]
        return value / run[self.baseline][self.figure] if self.baseline else value

    def met(self, value: float) -> bool:
        return value >= self.wanted if self.at_least else value <= self.wanted


BARS = (
    Bar("fp32, × Hugging Face Llama in fp32", "ours_fp32", "llama_fp32", 0.97),
    Bar("bf16, × upstream", "ours", "upstream", 1.9),
    Bar("bf16 compiled, × upstream", "ours_compiled", "upstream", 2.1),
    Bar("bf16, × Hugging Face Llama under bf16 autocast", "ours", "llama_bf16", 1.25),
    Bar("bf16, share of a 1024³ product", "ours", None, 0.65, "mfu"),
    Bar("peak memory, of upstream's", "ours", "upstream", 0.75, "peak_mb", at_least=False),
    Bar("short documents, × upstream padded", "ours_short", "upstream_short", 5.0),
    Bar("LoRA step, of a full step", "ours_lora", "ours", 0.70, "cpu_seconds", at_least=False),
    Bar("DPO, × upstream", "ours_dpo", "upstream_dpo", 3.5),
    Bar("DPO with the reference's pass, × upstream", "ours_dpo_first_epoch", "upstream_dpo", 3.5),
    Bar("MoE layer in fp32, × upstream's", "ours_moe_fp32", "upstream_moe", 1.0),
    Bar("MoE layer in bf16, × upstream's", "ours_moe", "upstream_moe", 1.7),
    Bar("tracking, events, checkpoints, progress, of training", "tracking", None, 0.03, "share", at_least=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=[bar.name for bar in BARS], help="these bars only")
    parser.add_argument("--input", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--variant", choices=list(VARIANTS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    path = given.input or short_documents()
    if given.variant:
        print(json.dumps(measured(VARIANTS[given.variant], path)))
        return
    bars = [bar for bar in BARS if not given.only or bar.name in given.only]
    needed = {name for bar in bars for name in (bar.variant, bar.baseline)}
    runs: list[dict[str, dict[str, Any]]] = []
    for _ in range(given.repeats):
        load = os.getloadavg()[0]
        runs.append({})
        for name in (name for name in VARIANTS if name in needed):
            figures = in_fresh_process("benchmarks.train", name, path)
            figures |= {"rate": figures["million_ids"] * 1e6 / figures["cpu_seconds"], "load": load}
            runs[-1][name] = figures
            print(f"{name}: {json.dumps(figures)}", file=sys.stderr, flush=True)
    report(bars, runs)


def report(bars: list[Bar], runs: list[dict[str, dict[str, Any]]]) -> None:
    """Two tables, and `results/train.json`."""
    medians = {name: medians_of([run[name] for run in runs]) for name in runs[0]}
    variants = Table("variant", "ids per CPU s", "CPU s", "peak MB", title="Training, one thread")
    for name, figures in medians.items():
        rate = f"{figures['rate']:.0f}" if figures["rate"] else "–"
        variants.add_row(name, rate, f"{figures['cpu_seconds']:.1f}", f"{figures['peak_mb']:.0f}")
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
        "title": "Training speed: minimind2-small, one thread, real ids per CPU second",
        "machine": {**machine, "torch": torch.__version__},
        "repeats": len(runs),
        "bars": found,
        "variants": medians,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "train.json").write_text(json.dumps(result, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
