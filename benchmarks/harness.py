"""How a claim of speed is measured: every variant in a fresh process, interleaved, medians, one table.

A benchmark is a module with `VARIANTS`, a dict of name → function `(input: Path) -> figures`, and
`if __name__ == "__main__": main(__name__ …)`. Each repeat runs every variant once, in turn, so that a noisy
minute touches all of them. CPU seconds (user + system, children included) are what is compared: they hold on
a busy machine. A variant may return `cpu_seconds` itself, to leave its preparation out.

Not here: assertions. A time is never a test.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

Variant = Callable[[Path], dict[str, Any]]
"""Does the work on the input once; returns figures, among them the `megabytes`, `documents` or `million_ids` it did."""
RESULTS = Path(__file__).parent / "results"


def main(
    module: str, title: str, variants: Mapping[str, Variant], *, baseline: str, default_input: Callable[[], Path]
) -> None:
    """Command line of a benchmark: run one variant in this process (`--variant`), or compare all of them.

    `baseline` is the variant the others are a ratio of. `module` is the benchmark's dotted name.
    """
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument(
        "--input", type=Path, help="JSONL of {'text': …} rows; by default made from Python's documentation"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(variants), help="compare these variants only")
    parser.add_argument("--variant", choices=list(variants), help=argparse.SUPPRESS)
    given = parser.parse_args()
    path = (given.input or default_input()).resolve()
    if given.variant:
        print(json.dumps(measured(variants[given.variant], path)))
        return
    names = given.only or list(variants)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(given.repeats):
        for name in names:
            runs[name].append(in_fresh_process(module, name, path))
    _report(module, title, runs, baseline, path)


def sample_corpus(directory: Path, *, megabytes: int = 40) -> Path:
    """Documentation of this Python as JSONL, told again in other orders until it is large enough."""
    from minimind.data.python_docs import pydocs

    path = directory / f"pydocs-{megabytes}mb.jsonl"
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    texts = [row["text"] for row in pydocs.rows("pretrain", "stdlib")]
    write_rounds(texts, path, rounds=1 + megabytes * 1_000_000 // sum(len(text.encode()) for text in texts))
    return path


def write_rounds(texts: Sequence[str], path: Path, *, rounds: int) -> None:
    """`texts` as JSONL, and again with their pieces of 12 characters in other orders: no near duplicates."""
    rng = random.Random(0)
    with path.open("w", encoding="utf-8") as file:
        for round_ in range(rounds):
            for text in texts:
                pieces = [text[at : at + 12] for at in range(0, len(text), 12)]
                if round_:
                    rng.shuffle(pieces)
                file.write(json.dumps({"text": "".join(pieces)}, ensure_ascii=False) + "\n")


def measured(work: Variant, path: Path) -> dict[str, Any]:
    began, wall = _cpu_seconds(), time.monotonic()
    figures = work(path)
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "cpu_seconds": _cpu_seconds() - began,
        "wall_seconds": time.monotonic() - wall,
        "peak_mb": max(peaks) / (1024 if sys.platform == "linux" else 1 << 20),
        **figures,
    }


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def in_fresh_process(module: str, variant: str, path: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", module, "--variant", variant, "--input", str(path)]
    # Modules compiled once, as they are for everybody who does not forbid it.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    env["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise RuntimeError(f"{variant} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _report(module: str, title: str, runs: Mapping[str, list[dict[str, Any]]], baseline: str, path: Path) -> None:
    medians = {name: medians_of(found) for name, found in runs.items()}
    rates = {name: _rate(figures) for name, figures in medians.items()}
    base = rates.get(baseline)
    table = Table("variant", "CPU s", "per CPU s", f"× {baseline}", "peak MB", "figures", title=title)
    for name, figures in medians.items():
        others = {k: v for k, v in figures.items() if k not in ("cpu_seconds", "wall_seconds", "peak_mb")}
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in others.items())
        ratio = f"{rates[name] / base:.2f}" if base else "–"
        table.add_row(
            name, f"{figures['cpu_seconds']:.2f}", f"{rates[name]:.1f}", ratio, f"{figures['peak_mb']:.0f}", shown
        )
    Console(width=160).print(table)
    RESULTS.mkdir(exist_ok=True)
    result = {
        "title": title,
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "input_bytes": path.stat().st_size,
        "repeats": len(next(iter(runs.values()))),
        "baseline": baseline,
        "variants": {name: {**medians[name], "ratio": rates[name] / base if base else None} for name in runs},
    }
    text = json.dumps(result, ensure_ascii=False, indent=2) + "\n"
    (RESULTS / f"{module.rpartition('.')[2]}.json").write_text(text, encoding="utf-8")


def medians_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def middle(name: str) -> Any:
        values = [run[name] for run in runs]
        return median(values) if isinstance(values[0], int | float) else values[0]

    return {name: middle(name) for name in runs[0]}


def _rate(figures: Mapping[str, Any]) -> float:
    """Megabytes, else documents, else million ids, per CPU second."""
    done = next((figures[unit] for unit in ("megabytes", "documents", "million_ids") if unit in figures), 0)
    return done / max(1e-9, figures["cpu_seconds"])


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
