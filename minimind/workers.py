"""Where jobs run: in this process, in processes of this machine, or wherever an orchestrator puts them.

A job is a function of a module and one argument that can be pickled. Data travels by path, never in the job,
so the same jobs run in processes here and on a cluster that sees the same files. Results do not depend on
where a job ran or which finished first: they come in the order of the jobs.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from minimind import runtime

if TYPE_CHECKING:
    from concurrent.futures import Future, ProcessPoolExecutor

Job = TypeVar("Job")
Result = TypeVar("Result")


class Mapper(Protocol):
    """Runs `function` on every job, `workers` at a time, and yields the results in the order of the jobs."""

    def __call__(
        self, function: Callable[[Any], Any], jobs: Sequence[Any], *, workers: int
    ) -> Iterator[Any]: ...  # pragma: no cover


def map_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int = 0) -> Iterator[Result]:
    """The results of `function` on each of `jobs`, in their order; 0 workers leaves the number to the mapper.

    One job, or one worker, needs no other process. The first error ends the others and is raised.
    """
    if len(jobs) <= 1 or workers == 1:
        return map(function, jobs)
    return _mapper.get()(function, jobs, workers=workers)


@contextmanager
def mapping(mapper: Mapper) -> Iterator[None]:
    """Inside, `map_jobs` hands its jobs to `mapper`: an orchestrator's way to run them elsewhere."""
    token = _mapper.set(mapper)
    try:
        yield
    finally:
        _mapper.reset(token)


def in_processes(function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int) -> Iterator[Result]:
    """`Mapper` for this machine: a process for each worker, by default one for each core."""
    with process_pool(min(workers or runtime.cpu_count(), len(jobs))) as pool:
        futures: list[Future[Result]] = [pool.submit(function, job) for job in jobs]
        try:
            for future in futures:
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def process_pool(workers: int) -> "ProcessPoolExecutor":
    """Fresh processes (no forked locks or threads) that end with this one, each using one thread."""
    import multiprocessing  # not at the top: a seventieth of a second that one worker can do without
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_begin_worker)


_mapper: ContextVar[Mapper] = ContextVar("mapper", default=in_processes)


def _begin_worker() -> None:
    runtime.end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    import pyarrow as pa

    os.environ["OMP_NUM_THREADS"] = "1"
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
