"""Pipelines one after the other, with kills at random moments: what a store looks like after a year of bad luck.

One store, one MLflow and one Prefect database for all runs. Each run begins without artifacts, is killed up to three
times (any of its processes, by a signal drawn by chance) and then ends well. After each: the same digests as the
undisturbed run, nothing left running, nothing half there, and a line of figures in `soak.jsonl`. It goes on where it
was ended. `make soak` starts it; `python tests/soak.py --help` tells of its options.
"""

import argparse
import json
import random
import shutil
import signal
import statistics
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from faulted import END_SECONDS, Sandbox

KILLS = (signal.SIGKILL, signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST_KILLS = 3


class Failed(Exception):
    """A promise that was not kept."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=Path(".soak"), help="Where all of it lives; not below a store.")
    parser.add_argument("--runs", type=int, default=200, help="How many there are to be in the end.")
    parser.add_argument("--minutes", type=float, default=1e9, help="Stop after the run that ends after so long.")
    parser.add_argument("--seed", type=int, default=0, help="Of whom is killed when.")
    options = parser.parse_args()
    root = options.dir.resolve()
    book, began = root / "soak.jsonl", time.monotonic()
    sandbox = Sandbox(root / "here")
    if not (root / "whole.json").exists():
        root.mkdir(parents=True, exist_ok=True)
        (root / "whole.json").write_text(json.dumps(undisturbed(sandbox)))
    whole = json.loads((root / "whole.json").read_text())
    done = book.read_text().splitlines() if book.exists() else []
    for number in range(len(done), options.runs):
        try:
            figures = run(sandbox, whole, random.Random(f"{options.seed} {number}"))
        except Failed as error:
            sys.exit(f"run {number}: {error}")
        with book.open("a") as file:
            file.write(json.dumps({"run": number, **figures}) + "\n")
        print(f"{number + 1}/{options.runs} {figures}", flush=True)
        if time.monotonic() - began > 60 * options.minutes:
            break
    print(json.dumps(told(book), indent=2))


def undisturbed(sandbox: Sandbox) -> dict[str, Any]:
    """The digests that every run has to come to, and the seconds it took."""
    ended = sandbox.pipeline()
    _want(ended.code == 0, ended.output)
    return {"digests": sandbox.digests(), "seconds": ended.seconds}


def run(sandbox: Sandbox, whole: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """A pipeline from nothing, killed a few times, and what it leaves."""
    shutil.rmtree(sandbox.store.root)
    for note in (sandbox.home / "registry").glob("*.json"):
        note.unlink()
    kills = []
    for _ in range(chance.randint(1, MOST_KILLS)):
        killed, output, code = disturbed(sandbox, chance, within=whole["seconds"])
        kills += [f"{killed} → {code}"] if killed else []
        _want(sandbox.orphans(within=60) == [], f"{killed}: still running\n{output}")
        _want(sandbox.half_artifacts() == [], f"{killed}: half an artifact\n{output}")
        if code == 0:
            break
    last = sandbox.pipeline()
    _want(last.code == 0, f"after {kills}\n{last.output}")
    _want(sandbox.digests() == whole["digests"], f"after {kills}: other bytes")
    for what, left in (
        ("processes", sandbox.orphans(within=60)),
        ("runs under way", sandbox.open_runs()),
        ("leftovers", sandbox.leftovers()),
    ):
        _want(left == [], f"after {kills}: {what}: {left}")
    return {"kills": kills, "seconds": round(last.seconds, 1), **grown(sandbox)}


def disturbed(sandbox: Sandbox, chance: random.Random, *, within: float) -> tuple[str, str, int]:
    """A pipeline of which one process is killed at some moment: which and by what, its output, its exit code."""
    log = sandbox.root / "disturbed.log"
    with log.open("w") as file:
        process = psutil.Popen(
            sandbox.command(*sandbox.pipeline_words()), env=sandbox.environment(), stdout=file, stderr=file
        )
        moment = time.monotonic() + chance.uniform(0, within)
        while process.poll() is None and time.monotonic() < moment:
            time.sleep(0.01)
        killed = ""
        if process.poll() is None:
            victim, number = chance.choice(sandbox.processes() or [process]), chance.choice(KILLS)
            killed = f"{signal.Signals(number).name} to {_name(victim)}"
            try:
                victim.send_signal(number)
            except psutil.NoSuchProcess:
                killed = ""
        try:
            code = process.wait(END_SECONDS)
        except psutil.TimeoutExpired:
            for left in sandbox.processes():
                left.kill()
            raise Failed(f"{killed}: does not end\n{log.read_text()}") from None
    return killed, log.read_text(), code


def grown(sandbox: Sandbox) -> dict[str, int]:
    """What could grow from run to run: files of the store, and both databases."""
    files = sum(1 for path in sandbox.store.root.rglob("*") if path.is_file())
    notes = sum(1 for name in ("registry", "running") for _ in (sandbox.home / name).glob("*"))
    sizes = {
        name: sum(path.stat().st_size for path in sandbox.home.glob(pattern))
        for name, pattern in (("mlflow_bytes", "mlflow.db*"), ("prefect_bytes", "prefect/prefect.db*"))
    }
    return {"files": files, "notes": notes, **sizes}


def told(book: Path) -> dict[str, Any]:
    """The soak so far: runs, kills, and how each figure went from the first tenth to the last.

    Of a database, which keeps every run, that is by how much it grew in one.
    """
    rows = [json.loads(line) for line in book.read_text().splitlines()]
    kills = [kill for row in rows for kill in row["kills"]]
    series = {name: [row[name] for row in rows] for name in ("seconds", "files", "notes")}
    for name in ("mlflow_bytes", "prefect_bytes"):
        series[f"{name}_a_run"] = [after[name] - before[name] for before, after in pairwise(rows)] or [0]
    tenth = max(1, len(rows) // 10)
    figures = {
        name: {"first": statistics.median(values[:tenth]), "last": statistics.median(values[-tenth:])}
        for name, values in series.items()
    }
    return {"runs": len(rows), "kills": len(kills), "figures": figures}


def _name(process: psutil.Process) -> str:
    try:
        words = process.cmdline()
    except psutil.Error:
        return "a process that ended"
    known = ("prefect server", "minimind.train", "minimind.cli", "torch.distributed.run", "multiprocessing", "mlflow")
    return next((name for name in known if name in " ".join(words)), " ".join(words[:4]))


def _want(kept: bool, words: str) -> None:
    if not kept:
        raise Failed(words)


if __name__ == "__main__":
    main()
