"""The points of a sweep one after the other, and what is to be said of them where people look.

Each point is a run of the flow that would be run without a sweep, under a run of its own in MLflow; trainings take
turns on a device anyway. A point that fails is noted, and the next one runs. After each point the `@candidate` of every
name that points differ in is the best so far, and not whichever was registered last.
"""

from typing import Protocol

import numpy as np
from prefect import get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.context import FlowRunContext

from minimind import runtime
from minimind.artifact import Artifact, open_artifact
from minimind.errors import MiniMindError, StageError
from minimind.events import EVENTS_FILE, read_events
from minimind.sweep.comparison import Comparison, Curve, Result
from minimind.sweep.grid import Point, bare
from minimind.sweep.page import render_markdown, sweep_dir, write, write_all
from tasks.patience import with_prefect
from tasks.pipeline import part_of
from tasks.plan import Step
from tasks.prefect_page import one_line, tell_prefect
from tasks.recording import telling_mlflow
from tasks.running import PREFECT_FAILURES, untold
from tasks.stage import Pipeline, prefect_link
from tasks.sweep_aliases import Aliases
from tasks.sweep_plan import SweepPlan

CURVE_POINTS = 200
"""What a picture of this width can show."""


class Call(Protocol):
    """Runs a point, as a flow of Prefect's or without it."""

    def __call__(self, point: Point, *, in_prefect: bool) -> None: ...


class PointsFailed(StageError):
    """A sweep came to its end, and some of its points had failed."""


def run_points(run: Pipeline, plan: SweepPlan, call: Call) -> Comparison:
    """Run every point; the comparison is written anew after each. Only what stops a sweep is raised."""
    comparison, aliases, made = _begin(run, plan), Aliases(run, plan.varying), dict[int, list[Step]]()
    for place, point in enumerate(plan.grid.points):
        run.display.heading(f"point {point.number} of {len(plan.grid.points)}  {point.name}")
        result, steps = _run_point(run, plan, point, call)
        made[point.number] = [step for label, step in steps.items() if label in plan.varying]
        results = [*comparison.results[:place], result, *comparison.results[place + 1 :]]
        comparison = comparison.replace(results=results)
        aliases.note(point.number, steps)
        best = comparison.best()
        comparison = comparison.replace(moved=aliases.settle(best.number if best else None))
        _tell(run, plan, comparison, result)
    if best := comparison.best():
        run.steps += made[best.number]  # what the sweep gave, for its run in MLflow
    return comparison


def end(run: Pipeline, comparison: Comparison) -> str:
    """The version of the best point. Raises PointsFailed."""
    if failed := comparison.failed:
        names = "; ".join(result.name for result in failed)
        raise PointsFailed(f"{len(failed)} of {len(comparison.results)} points failed: {names}")
    best = comparison.best()
    return (best and (best.version or best.fingerprint)) or ""


def _begin(run: Pipeline, plan: SweepPlan) -> Comparison:
    """No point has run yet."""
    seeds = [setting.key for setting in plan.grid.swept if setting.is_seed]
    points = plan.grid.points
    comparison = Comparison(
        id=plan.id,
        stage=plan.stage,
        compared=plan.compared,
        recipe=run.recipe.name,
        metric=plan.metric,
        names=plan.grid.names,
        seeds=seeds,
        fixed=list(plan.grid.fixed),
        inputs=plan.inputs,
        results=[Result(number=p.number, name=p.name, settings=p.settings, texts=_typed(p)) for p in points],
        created_at=runtime.now(),
        prefect=prefect_link() or None,
        mlflow=_page(run, run.run_id),
    )
    with telling_mlflow(run, "what is swept"):
        if run.tracker and run.run_id:
            swept = {setting.key: ", ".join(map(bare, setting.texts)) for setting in plan.grid.swept}
            run.tracker.log_params(run.run_id, {**swept, "metric": plan.metric.words, **plan.inputs})
            run.tracker.log_tags(run.run_id, {"sweep": plan.id})
    write(comparison, sweep_dir(plan.id))
    return comparison


def _run_point(run: Pipeline, plan: SweepPlan, point: Point, call: Call) -> tuple[Result, dict[str, Step]]:
    """What became of a point, and the stages of it that were made or reused, by label."""
    error = None
    with part_of(run, title=point.name, context={"sweep": plan.id}, params=_typed(point)) as parts:
        try:
            _call(run, point, call, parts)
        except MiniMindError as problem:
            error = one_line(problem)
            run.display.failed(point.name, error)
    part = next(iter(parts), None)
    steps = {step.label: step for step in part.steps} if part else {}
    fresh = any(label in steps and not steps[label].reused for label in plan.varying)
    result = Result(
        number=point.number,
        name=point.name,
        settings=point.settings,
        texts=_typed(point),
        state="failed" if error else "made" if fresh else "reused",
        error=error,
        page=_page(run, part.run_id if part else None),
    )
    result = _with_figures(run, plan, result, steps)
    with telling_mlflow(run, f"the figures of {point.name}"):
        if part and part.run_id and run.tracker:
            run.tracker.log_metrics(part.run_id, result.figures)
    return result, steps


def _call(run: Pipeline, point: Point, call: Call, parts: list[Pipeline]) -> None:
    """Run a point, without Prefect where that does not answer."""
    if with_prefect().seconds_left() == 0:
        try:
            return call(point, in_prefect=True)
        except PREFECT_FAILURES as error:
            with_prefect().lost()
            if before := untold(error):
                raise before from None
            if parts and parts[0].status == "FINISHED":
                return None
            if parts:  # it failed by itself
                raise
            run.display.warn(f"Prefect was not told of {point.name} ({one_line(error)})")
    return call(point, in_prefect=False)


def _with_figures(run: Pipeline, plan: SweepPlan, result: Result, steps: dict[str, Step]) -> Result:
    """With the figures and curves of the training that is compared, and with the metric."""
    metric, figures = plan.metric, dict[str, float]()
    if not metric.own and metric.stage in steps:
        value = _numbers(_artifact(run, steps[metric.stage])).get(metric.figure)
        figures |= {} if value is None else {metric.name: value}
    if (step := steps.get(plan.compared)) is None:
        return result.replace(figures=figures)
    artifact = _artifact(run, step)
    curves = _curves(artifact, {metric.figure, "validation_loss", "loss"})
    return result.replace(
        figures={**_numbers(artifact), **figures}, curves=curves, version=step.uri, fingerprint=artifact.fingerprint
    )


def _artifact(run: Pipeline, step: Step) -> Artifact:
    return open_artifact(run.store.path(step.parts.stage, step.parts.fingerprint()))


def _numbers(artifact: Artifact) -> dict[str, float]:
    figures = artifact.summary().figures
    return {name: float(value) for name, value in figures.items() if isinstance(value, int | float)}


def _curves(artifact: Artifact, wanted: set[str]) -> list[Curve]:
    """Figures over the tokens seen, thinned out."""
    events = read_events(artifact.dir / EVENTS_FILE)
    steps = [event for event in events if event.kind == "step"]
    known = {event.step: tokens for event in steps if (tokens := event.metrics.get("tokens")) is not None}
    curves = []
    for figure in sorted(wanted) if known else ():
        found = {event.step: value for event in steps if (value := event.metrics.get(figure)) is not None}
        if found:
            thin = np.linspace(0, len(found) - 1, min(len(found), CURVE_POINTS)).astype(int)
            at, values = np.array([*found])[thin], np.array([*found.values()])[thin]
            tokens = np.interp(at, [*known], [*known.values()])
            curves.append(Curve(figure=figure, tokens=tokens.tolist(), values=values.tolist()))
    return curves


def _tell(run: Pipeline, plan: SweepPlan, comparison: Comparison, result: Result) -> None:
    """Write the comparison and its page, and show it in MLflow and Prefect; of what was reused only at the end."""
    directory, best = sweep_dir(plan.id), comparison.best()
    if FlowRunContext.get():
        value = result.figures.get(plan.metric.name)
        get_run_logger().info("%s: %s, %s %s", result.name, result.state, plan.metric.name, value)
    if result.state == "reused" and not comparison.finished:
        write(comparison, directory)
        return
    write_all(comparison, directory)
    with telling_mlflow(run, "the comparison"):
        if run.tracker and run.run_id:
            run.tracker.log_files(run.run_id, directory)
            run.tracker.log_tags(run.run_id, {"best": best.name, "registered": best.version or ""} if best else {})
    page = render_markdown(comparison)
    tell_prefect(
        run,
        "the comparison",
        lambda: create_markdown_artifact(page, key="sweep", description="the points of the sweep"),
    )


def _typed(point: Point) -> dict[str, str]:
    return {key: bare(text) for key, text in point.texts.items()}


def _page(run: Pipeline, run_id: str | None) -> str | None:
    return run.tracker.links.run(run.tracker.experiment_id, run_id) if run.tracker and run_id else None
