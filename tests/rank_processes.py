"""Ranks as real processes that start in a fraction of a second: forked from one process that has imported torch.

What they run must be a function of a module. Not here: torchrun and the tree it stands in (`test_launch.py`).
"""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from minimind.train.stage_configs import TrainRun

PRELOADED = ["minimind.train.job"]


def run_ranks(size: int, function: Callable[..., None], *arguments: Any, timeout: float = 120) -> list[int]:
    """Call `function(ranks, *arguments)` on `size` ranks over gloo; their exit codes, −9 for a SIGKILL.

    Once one has ended badly the others are killed, as torchrun does.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_rank, args=(rank, size, port, function, arguments)) for rank in range(size)]
    for process in processes:
        process.start()
    try:
        _wait(processes, timeout)
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                process.kill()
            process.join()
    return [int(process.exitcode or 0) for process in processes]


def _wait(processes: Sequence[Any], timeout: float) -> None:
    left = timeout
    while any(process.is_alive() for process in processes) and left > 0:
        if any(process.exitcode for process in processes):
            return
        processes[0].join(0.02)
        for process in processes[1:]:
            process.join(0)
        left -= 0.02


def _rank(rank: int, size: int, port: int, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    import torch

    from minimind.train.parallel import join

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}  # as torchrun does
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        with join("cpu") as ranks:
            function(ranks, *arguments)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # as ranks do


def train_rank(ranks: Any, run: TrainRun) -> None:
    """The rank's own function."""
    from minimind.train.job import run_rank

    run_rank(run, ranks)
