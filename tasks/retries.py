"""Which failures of a stage are tried again, how often, and after how long.

A stage is the unit of a retry, never a flow: what a flow's earlier stages made is reused by itself. Most failures say
what to change, and would come again. Those that may not: a process that was lost to a signal (memory was short for a
moment, somebody killed it) and a server that did not answer.
"""

import os
from typing import Any

from prefect.client.schemas.objects import State
from prefect.context import TaskRunContext

from minimind.errors import ConfigError, LostProcessError

VARIABLE = "MINIMIND_RETRIES"
PAUSES_SECONDS = (5.0, 30.0, 120.0)
"""Before the first retry, the second, and each one after that."""
MAY_PASS = (LostProcessError, ConnectionError, TimeoutError)
"""ServiceError is a ConnectionError."""


def retries() -> int:
    """How often a stage is tried again: MINIMIND_RETRIES. Nobody waits for a person at a terminal, so 0 by default."""
    value = os.environ.get(VARIABLE, "0")
    if not value.isdecimal():
        raise ConfigError(f"{VARIABLE}={value}: a number of retries was expected, such as 1; 0 is none")
    return int(value)


def may_pass(_task: Any, _task_run: Any, state: State[Any]) -> bool:
    """Whether what ended a stage may be over when it is tried again. Prefect asks this before each retry."""
    return isinstance(state.data, MAY_PASS)


def pause_before_retry(error: BaseException) -> float | None:
    """For how many seconds Prefect waits before it tries the task around this code again; None where it does not."""
    context = TaskRunContext.get()
    if context is None or not isinstance(error, MAY_PASS):
        return None
    tried = context.task_run.run_count
    return PAUSES_SECONDS[min(tried, len(PAUSES_SECONDS)) - 1] if tried <= context.task.retries else None
