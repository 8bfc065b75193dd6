"""The jobs of a data stage as Prefect tasks, on whatever task runner the flow has.

With Prefect's own thread runner each task waits for one process of this machine; with Dask (or another runner
that ships tasks to other processes) the task is the job. Either way its run shows on the flow's page.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
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
        yield from _results([_job.submit(partial(function, job)) for job in jobs])
        return
    with process_pool(min(workers or runtime.cpu_count(), len(jobs))) as pool:

        @task(name="piece", task_run_name="piece {index}", persist_result=False)
        def in_process(index: int) -> Any:
            return pool.submit(function, jobs[index]).result()

        yield from _results([in_process.submit(index) for index in range(len(jobs))])


@task(name="piece", persist_result=False, cache_policy=NO_CACHE)
def _job(job: partial[Any]) -> Any:
    """Do one job. It comes as a `partial`, since Prefect and Dask look into containers and rebuild what is in them."""
    return job()


def _results(futures: Sequence[Any]) -> Iterator[Any]:
    try:
        for future in futures:
            yield future.result()
    finally:
        for future in futures:
            if not future.state.is_final() and hasattr(future, "cancel"):
                future.cancel()
