"""The jobs of a data stage as Prefect tasks, on whatever task runner the flow has.

With Prefect's own thread runner each task waits for one process of this machine; with Dask (or another runner
that ships tasks to other processes) the task is the job. Either way its run shows on the flow's page.
"""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prefect import task
from prefect.context import FlowRunContext
from prefect.task_runners import ThreadPoolTaskRunner

from minimind import runtime
from minimind.workers import process_pool


def on_task_runner(function: Callable[[Any], Any], jobs: Sequence[Any], *, workers: int) -> Iterator[Any]:
    """`minimind.workers.Mapper` over the task runner of the flow run this code is part of."""
    context = FlowRunContext.get()
    if context is None:
        raise RuntimeError("on_task_runner needs a flow run around it")
    if not isinstance(context.task_runner, ThreadPoolTaskRunner):
        yield from _results([_job.submit(pickle.dumps((function, job))) for job in jobs])
        return
    with process_pool(min(workers or runtime.cpu_count(), len(jobs))) as pool:

        @task(name="piece", task_run_name="piece {index}", persist_result=False)
        def in_process(index: int) -> Any:
            return pool.submit(function, jobs[index]).result()

        yield from _results([in_process.submit(index) for index in range(len(jobs))])


@task(name="piece", persist_result=False)
def _job(packed: bytes) -> Any:
    """Do one job. It comes packed, because Prefect and Dask look into what they pass on and rebuild it."""
    function, job = pickle.loads(packed)
    return function(job)


def _results(futures: Sequence[Any]) -> Iterator[Any]:
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            if not future.state.is_final() and hasattr(future, "cancel"):
                future.cancel()
