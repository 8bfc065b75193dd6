"""The other nodes of a training that runs on several machines.

    node 0                     node 1, 2, …
    minimind run sft …         minimind node --rank 1
      stage, agent, ranks        agent, ranks        for every training that node 0 starts, one after the other

All see the same `MINIMIND_HOME` (a shared filesystem). Node 0 runs the pipeline: it holds the artifact's lock, writes
`run.json` into the directory it builds in, seals. The others look for that file, start the agent of their node, and
write nothing but their part of a checkpoint and the note of a failure. What their ranks print goes to their terminal.

A `run.json` that is left of a killed stage does no harm: an agent that waits for it is stopped as soon as there is a
newer one. Not here: starting something on another machine (ssh, Slurm, Kubernetes do), and copying data between them.
"""

import time
from collections.abc import Callable
from pathlib import Path

from minimind.errors import StageError
from minimind.train.launch import GRACE_SECONDS, RUN_FILE, start_agent, stop_tree
from minimind.train.stage_configs import TrainRun

POLL_SECONDS = 0.5


def serve(store: Path, *, node_rank: int, once: bool, tell: Callable[[str], None]) -> None:
    """Be node `node_rank` of every training below `store`, until interrupted; with `once` of one.

    `tell` is given a line for each. Raises StageError where that one failed.
    """
    tell(f"node {node_rank} looks for trainings in {store}")
    done: tuple[Path, int] | None = None
    while True:
        found = newest_run(store, node_rank=node_rank)
        if found is None or found == done:
            time.sleep(POLL_SECONDS)
            continue
        done, (path, _) = found, found
        run = TrainRun.read_json(path, remedy="start the training again")
        tell(f"{run.stage}: node {node_rank} of {run.config.nodes}, in {path.parent}")
        failure = _take_part(store, run, found, node_rank=node_rank)
        if once and failure:
            raise StageError(failure)
        tell(failure or f"{run.stage}: done")
        if once:
            return


def newest_run(store: Path, *, node_rank: int) -> tuple[Path, int] | None:
    """The newest `run.json` of a training that wants such a node, and when it was written in nanoseconds."""
    found = []
    for path in store.glob(f"*/.*/{RUN_FILE}"):
        try:
            if TrainRun.read_json(path, remedy="start the training again").config.nodes > node_rank:
                found.append((path.stat().st_mtime_ns, path))
        except OSError:  # it went, is damaged, or is of another version
            continue
    return max(found)[::-1] if found else None


def _take_part(store: Path, run: TrainRun, found: tuple[Path, int], *, node_rank: int) -> str | None:
    """Run this node's part to its end, or until there is a newer training. Why it failed, if it did."""
    process = start_agent(run, found[0], node_rank=node_rank, output=None)
    try:
        while process.poll() is None:
            if newest_run(store, node_rank=node_rank) not in (found, None):
                return f"{run.stage}: given up for a newer training"
            time.sleep(POLL_SECONDS)
    finally:
        stop_tree(process, grace_seconds=GRACE_SECONDS)
    return f"{run.stage}: node {node_rank} ended with exit code {process.returncode}" if process.returncode else None
