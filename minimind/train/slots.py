"""The devices that trainings take turns on: one slot for each GPU of this machine, one for the processors of a store.

A slot is a file lock, because the kernel frees that of a killed holder. Slots of GPUs are shared by all stores of a
user on a machine, and a training sees only the GPUs it holds. MINIMIND_SHARE_DEVICES=1 does without.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from minimind.train.config import TrainConfig

SHARE = "MINIMIND_SHARE_DEVICES"
VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_SECONDS = 0.5
PROCESSORS = "processors"


@contextmanager
def slot(config: TrainConfig, directory: Path, *, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold what a training computes on; `directory` is the store's. `waiting` is told once if it has to wait."""
    if os.environ.get(SHARE) == "1":
        yield
        return
    gpus = [] if config.device in ("cpu", "mps") else visible_gpus()
    if not gpus:
        with _some_of([PROCESSORS], 1, directory, waiting):
            yield
        return
    machine = Path(tempfile.gettempdir()) / f"minimind-slots-{os.getuid()}"
    with _some_of(gpus, min(config.processes, len(gpus)), machine, waiting) as held, _visible(held):
        yield


def visible_gpus() -> list[str]:
    """The GPUs this process may use: as CUDA_VISIBLE_DEVICES names them, else their UUIDs; torch is not imported."""
    if (named := os.environ.get(VISIBLE)) is not None:
        return [name.strip() for name in named.split(",") if name.strip() not in ("", "-1")]
    if (query := shutil.which("nvidia-smi")) is None:
        return []
    command = [query, "--query-gpu=uuid", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.stdout.split() if done.returncode == 0 else []


@contextmanager
def _some_of(names: Sequence[str], count: int, directory: Path, waiting: Callable[[str], None]) -> Iterator[list[str]]:
    """Hold `count` of the slots, all or none, so that two who wait for several do not wait for each other."""
    directory.mkdir(parents=True, exist_ok=True)
    told = False
    while True:
        with ExitStack() as locks:
            held = _take(names, count, directory, locks)
            if len(held) == count:
                yield held
                return
        if not told:
            what = "the processors" if [*names] == [PROCESSORS] else f"{count} of {len(names)} GPUs"
            waiting(f"waiting for {what}, which another training holds ({SHARE}=1 shares)")
            told = True
        time.sleep(POLL_SECONDS)


def _take(names: Sequence[str], count: int, directory: Path, locks: ExitStack) -> list[str]:
    """Lock as many as `count` of the slots that are free; `locks` lets go of them."""
    held: list[str] = []
    for name in names:
        if len(held) == count:
            break
        try:
            locks.enter_context(FileLock(directory / f".{name}.slot").acquire(blocking=False))
        except Timeout:
            continue
        held.append(name)
    return held


@contextmanager
def _visible(gpus: Sequence[str]) -> Iterator[None]:
    """Inside, processes that are started see these GPUs alone."""
    before = os.environ.get(VISIBLE)
    os.environ[VISIBLE] = ",".join(gpus)
    try:
        yield
    finally:
        if before is None:
            del os.environ[VISIBLE]
        else:
            os.environ[VISIBLE] = before
