"""A sweep without a deployment: what `minimind sweep` calls."""

from typing import Any

from rich.console import Console

from flows.local import to_the_end
from flows.sweep import prepare, sweep
from minimind.errors import StageError
from minimind.sweep.comparison import Comparison, read_comparison
from minimind.sweep.page import sweep_dir
from tasks.sweep import PointsFailed
from tasks.sweep_plan import SweepPlan


def plan(parameters: dict[str, Any]) -> SweepPlan:
    """What a sweep would run; nothing is started. Raises ConfigError or MissingError where it is not possible."""
    return prepare(**parameters)


def run(parameters: dict[str, Any], *, console: Console) -> tuple[Comparison, PointsFailed | None]:
    """Run a sweep to its end: the comparison, and what to raise where points failed. Raises like `plan`, before."""
    planned, failed = plan(parameters), None  # what is impossible is said before a server is started
    try:
        to_the_end(sweep, parameters, console=console)
    except PointsFailed as error:
        failed = error
    comparison = read_comparison(sweep_dir(planned.id))
    if not comparison.finished:
        raise StageError("the sweep did not come to its end; the same command goes on with what is missing")
    return comparison, failed
