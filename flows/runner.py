"""Where the pieces of the data stages run: MINIMIND_TASK_RUNNER, read when the flows are loaded.

(unset)                     processes of this machine, one for each core
dask                        a Dask cluster on this machine, for as long as a flow runs
dask:tcp://scheduler:8786   a Dask cluster that is there; it must see the same files
"""

import os

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from minimind import runtime
from minimind.errors import ConfigError, MissingError

VARIABLE = "MINIMIND_TASK_RUNNER"


def task_runner() -> TaskRunner:
    """The runner that MINIMIND_TASK_RUNNER names. Raises ConfigError or MissingError."""
    wanted = os.environ.get(VARIABLE, "")
    if not wanted:
        return ThreadPoolTaskRunner()
    name, _, address = wanted.partition(":")
    if name != "dask":
        raise ConfigError(
            f"{VARIABLE}={wanted}: known are `dask` and `dask:tcp://host:port`; unset it for this machine"
        )
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")  # its workers announce every step they take
    try:
        from prefect_dask import DaskTaskRunner
    except ModuleNotFoundError:
        raise MissingError(f"{VARIABLE}={wanted} needs Dask: pip install 'minimind-pipeline[dask]'") from None
    if address:
        return DaskTaskRunner(address=address)
    workers = {"n_workers": max(2, runtime.cpu_count()), "threads_per_worker": 1, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs=workers)
