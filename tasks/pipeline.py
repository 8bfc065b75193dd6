"""What surrounds the stages of a flow: recipe and data loaded, a parent run in MLflow, an honest end."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from prefect.context import FlowRunContext

from minimind import runtime
from minimind.artifact import Store
from minimind.data.spec import load_spec
from minimind.errors import ServiceError
from minimind.recipe import load_recipe
from tasks.display import Display
from tasks.stage import Pipeline, Step, prefect_link
from tasks.tracking import Tracker

logger = logging.getLogger(__name__)

_planned: ContextVar[list[Step] | None] = ContextVar("planned", default=None)
_display: ContextVar[Display | None] = ContextVar("display", default=None)


@contextmanager
def pipeline(
    name: str,
    recipe: str,
    *,
    data: str | None = None,
    overrides: Sequence[str] | None = None,
    refresh: bool = False,
) -> Iterator[Pipeline]:
    """One run of a flow. Its MLflow run ends as the flow does: FINISHED, FAILED, or KILLED when it is stopped."""
    settings = load_recipe(recipe, overrides=overrides or (), data=data)
    spec = load_spec(settings.data.spec)
    home = runtime.home()
    planned = _planned.get()
    run = Pipeline(
        name=name,
        recipe=settings,
        spec=spec,
        store=Store(home),
        tracker=None,
        display=_display.get() or Display(quiet=True),
        refresh=refresh,
        planning=planned is not None,
    )
    if planned is not None:
        run.steps = planned
        yield run
        return
    with run.store.in_use():
        run.tracker = _connect(run)
        run.context = _context(run)
        _open(run)
        status = "KILLED"
        try:
            yield run
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            _close(run, status)


@contextmanager
def planning() -> Iterator[list[Step]]:
    """Inside, a flow's function walks through its stages and runs none; the list tells what it would do."""
    steps: list[Step] = []
    token = _planned.set(steps)
    try:
        yield steps
    finally:
        _planned.reset(token)


@contextmanager
def showing(display: Display) -> Iterator[Display]:
    """Inside, pipelines show their progress on `display`."""
    token = _display.set(display)
    try:
        with display:
            yield display
    finally:
        _display.reset(token)


def _connect(run: Pipeline) -> Tracker | None:
    try:
        tracker = Tracker(run.store.root.parent)
        if reaped := tracker.reap():
            run.display.warn(f"{reaped} MLflow run(s) of a killed process were still RUNNING; they are KILLED now")
    except ServiceError as error:
        run.display.warn(f"{error}. Training goes on; `minimind sync` delivers what it misses")
        return None
    return tracker


def _context(run: Pipeline) -> dict[str, str]:
    facts = {
        "recipe": run.recipe.name,
        "data": run.spec.name,
        "pipeline": run.name,
        "git_commit": runtime.git_commit() or "",
        "prefect_run": prefect_link(),
        "mlflow_url": run.tracker.links.mlflow if run.tracker else "",
    }
    return {name: value for name, value in facts.items() if value}


def _open(run: Pipeline) -> None:
    if not run.tracker:
        return
    title = f"{run.name} {run.recipe.name}"
    if context := FlowRunContext.get():
        title = f"{title} {context.flow_run.name}" if context.flow_run else title
    try:
        run.run_id = run.tracker.begin(title, tags=run.context)
    except run.tracker.failures as error:
        logger.warning("no parent run in MLflow: %s", error)


def _close(run: Pipeline, status: str) -> None:
    """Say in the parent run which version every stage gave, and end it."""
    if not (run.tracker and run.run_id):
        return
    try:
        for step in run.steps:
            words = f"{step.uri or step.parts.fingerprint()}{' (reused)' if step.reused else ''}"
            run.tracker.client.log_param(run.run_id, f"stage.{step.label}", words)
        run.tracker.end(run.run_id, status)
    except run.tracker.failures as error:
        logger.warning("the parent run in MLflow was not closed: %s", error)
