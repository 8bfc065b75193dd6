"""What surrounds the stages of a flow: recipe and data loaded, a parent run in MLflow, an honest end."""

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from prefect.context import FlowRunContext

from minimind import runtime
from minimind.artifact import Store
from minimind.data.spec import load_spec
from minimind.errors import MiniMindError, ServiceError
from minimind.recipe import load_recipe
from tasks.display import Display
from tasks.patience import ask_again, bound_prefect
from tasks.plan import Step
from tasks.prefect_page import one_line, show_stages, tell_prefect
from tasks.recording import forget_sealed
from tasks.redaction import without_secrets
from tasks.running import Note, Status, note_end, note_run, settle
from tasks.stage import Pipeline, prefect_link
from tasks.tracking import Tracker

logger = logging.getLogger(__name__)

RUNNER_VARIABLE = "PREFECT__FLOW_RUN_ID"
"""Set in a process that a runner or a worker started for a flow run."""
REUSED = " (reused)"
"""After the version of a stage that a run did not make."""
LATER = "The run goes on; MLflow is told at the end, at the next start, or by `minimind sync`"

_planned: ContextVar[list[Step] | None] = ContextVar("planned", default=None)
_display: ContextVar[Display | None] = ContextVar("display", default=None)
_part: ContextVar["_Part | None"] = ContextVar("part", default=None)


@dataclass(frozen=True)
class _Part:
    """What the runs of flows belong to that are called inside `part_of`."""

    whole: Pipeline
    title: str
    context: Mapping[str, str]
    params: Mapping[str, str]
    runs: list[Pipeline] = field(default_factory=list)


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
    bound_prefect()
    if RUNNER_VARIABLE in os.environ:
        runtime.end_with_parent()  # a runner or worker that is killed takes its flow runs with it
    with run.store.in_use():
        run.tracker = _connect(run)
        run.context = _context(run, _options(recipe, data, overrides or ()))
        if part := _part.get():
            part.runs.append(run)
            run.context |= part.context
        _open(run, part)
        note = note_run(home, tracking_uri=run.tracker and run.tracker.uri, mlflow_run=run.run_id)
        try:
            yield run
            run.status = "FINISHED"
        except Exception:
            run.status = "FAILED"
            raise
        finally:
            _end(run, note, run.status or "KILLED")


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


@contextmanager
def part_of(
    whole: Pipeline, *, title: str, context: Mapping[str, str], params: Mapping[str, str]
) -> Iterator[list[Pipeline]]:
    """Inside, a flow's run is a part of `whole`: below its run in MLflow, named `title`. The list gets the runs."""
    part = _Part(whole, title, context, params)
    token = _part.set(part)
    try:
        yield part.runs
    finally:
        _part.reset(token)


def end_lost_runs(home: Path) -> int:
    """End, in Prefect and in MLflow, what killed processes of this machine left open; says how many runs."""
    try:
        return _end_lost(home, Tracker(home))
    except ServiceError:
        return settle(home, None)


def _end_lost(home: Path, tracker: Tracker) -> int:
    forget_sealed(Store(home))
    return settle(home, tracker) + tracker.reap()


def _connect(run: Pipeline) -> Tracker | None:
    home = run.store.root.parent
    try:
        tracker = Tracker(home)
    except ServiceError as error:
        run.display.warn(f"{error}. {LATER}")
        return None
    try:
        if ended := _end_lost(home, tracker):
            run.display.warn(f"{ended} run(s) of a killed process said that they were still running; not any more")
    except tracker.failures as error:
        run.display.warn(f"runs of killed processes may say that they are still running ({one_line(error)})")
    _deliver(run, tracker)
    return tracker


def _deliver(run: Pipeline, tracker: Tracker) -> None:
    """Tell MLflow what it missed, in this run or before it."""
    try:
        if missed := tracker.sync(run.store, noted_only=True):
            run.display.warn(f"MLflow was told of {len(missed)} artifact(s) that it had missed")
    except (MiniMindError, *tracker.failures) as error:
        run.display.warn(f"{one_line(error)}. {LATER}")


def _end(run: Pipeline, note: Note, status: Status) -> None:
    """Tell both servers how a flow ended. Each is asked once more, also one that has just given no answer."""
    home = run.store.root.parent
    ask_again()
    note_end(home, note, status, _versions(run), run.tracker)
    if status != "KILLED":  # who stops a flow waits for its end
        with suppress(ServiceError):  # said at the start
            _deliver(run, run.tracker or Tracker(home))
    tell_prefect(run, "its stages", lambda: show_stages(run, status))


def _options(recipe: str, data: str | None, overrides: Sequence[str]) -> str:
    """What was asked for, as it would be typed."""
    words = ["--recipe", recipe, *(["--data", data] if data else [])]
    return shlex.join([*words, *(word for override in overrides for word in ("-o", override))])


def _context(run: Pipeline, options: str) -> dict[str, str]:
    facts = {
        "recipe": run.recipe.name,
        "data": run.spec.name,
        "options": options,
        "pipeline": run.name,
        "git_commit": runtime.git_commit() or "",
        "prefect_run": prefect_link(),
        "mlflow_url": run.tracker.links.mlflow if run.tracker else "",
    }
    return {name: value for name, value in facts.items() if value}


def _open(run: Pipeline, part: _Part | None) -> None:
    if not run.tracker:
        return
    title = f"{run.name} {run.recipe.name}"
    if context := FlowRunContext.get():
        title = f"{title} {context.flow_run.name}" if context.flow_run else title
    try:
        run.run_id = run.tracker.begin(
            part.title if part else title, tags=run.context, parent=part.whole.run_id if part else None
        )
        run.tracker.log_params(run.run_id, part.params if part else {})
    except run.tracker.failures as error:
        logger.warning("no parent run in MLflow: %s", without_secrets(str(error)))


def _versions(run: Pipeline) -> dict[str, str]:
    """Stage → the version that it gave."""
    return {step.label: f"{step.uri or step.parts.fingerprint()}{REUSED if step.reused else ''}" for step in run.steps}
