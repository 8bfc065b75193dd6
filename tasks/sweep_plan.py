"""What a sweep would do: its points, the stages of each, what they share. Nothing is run.

Every point is walked through as `minimind plan` walks through a flow, so that whatever is impossible is said before
anything starts, and what two points have in common is known by its fingerprint.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from minimind.config import nearest
from minimind.errors import ConfigError
from minimind.fingerprint import digest
from minimind.recipe import load_recipe
from minimind.sweep.grid import Grid, Point
from minimind.sweep.metric import TRAININGS, Metric, choose_metric, compared_stage
from tasks.pipeline import pipeline, planning
from tasks.plan import Step

PIPELINE = "full-pipeline"
SWEPT = (*TRAININGS, PIPELINE)
"""What can be swept: flows that end in a model."""
Walk = Callable[[Sequence[str]], object]
"""Calls a flow's function with overrides."""


@dataclass(frozen=True)
class SweepPlan:
    """A sweep that is possible."""

    stage: str
    compared: str
    """The training whose figures tell points apart."""
    recipe: str
    parameters: dict[str, Any]
    """Of the flow, for every point; the registry's URIs in it are exact versions."""
    inputs: dict[str, str]
    """Those of the parameters that are artifacts."""
    metric: Metric
    grid: Grid
    steps: tuple[tuple[Step, ...], ...]
    """Of each point, in the order of the points."""

    @property
    def id(self) -> str:
        """The same for the same points of the same inputs, settings and code."""
        return digest([[step.parts.fingerprint() for step in steps] for steps in self.steps])

    @property
    def varying(self) -> set[str]:
        """Labels of the stages that not all points share."""
        made: dict[str, set[str]] = {}
        for steps in self.steps:
            for step in steps:
                made.setdefault(step.parts.label, set()).add(step.parts.fingerprint())
        return {label for label, fingerprints in made.items() if len(fingerprints) > 1}

    @property
    def waiting(self) -> list[Step]:
        """What would run, each once."""
        steps = (step for steps in self.steps for step in steps if not step.reused)
        return list({step.parts.fingerprint(): step for step in steps}.values())


def plan_sweep(
    grid: Grid,
    stage: str,
    *,
    recipe: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    walk: Callable[[Mapping[str, Any]], Walk],
    metric: str | None = None,
    goal: str | None = None,
) -> SweepPlan:
    """The plan of every point. Raises ConfigError or MissingError where one is not possible, or two are the same.

    `inputs` are those of `parameters` that name artifacts; `walk` takes parameters and gives what calls the flow.
    """
    for point in grid.points:
        load_recipe(recipe, overrides=point.overrides, data=parameters.get("data"))
    exact = _exact_versions(recipe, grid.fixed, inputs)
    parameters = {**parameters, **exact}
    call, steps = walk(parameters), []
    for point in grid.points:
        with planning() as found:
            call(list(point.overrides))
        steps.append(tuple(found))
    _refuse_same_points(grid.points, steps)
    compared = compared_stage(stage, grid.sections)
    labels = [step.label for step in steps[0]]
    chosen = choose_metric(metric, goal, compared=compared, stages=labels)
    return SweepPlan(stage, compared, recipe, dict(parameters), exact, chosen, grid, tuple(steps))


def swept_stage(stage: str | None, grid: Grid) -> str:
    """The flow to sweep: by default the training whose section it is, else the whole pipeline. Raises ConfigError."""
    if stage is None:
        return grid.sections[0] if len(grid.sections) == 1 and grid.sections[0] in TRAININGS else PIPELINE
    if stage not in SWEPT:
        raise ConfigError(f"`{stage}` cannot be swept; a training can, or {PIPELINE}{nearest(stage, SWEPT)}")
    return stage


def _exact_versions(recipe: str, fixed: Sequence[str], inputs: Mapping[str, str]) -> dict[str, str]:
    """Input → the version its URI names now, so that all points read the same whatever else is registered."""
    with planning(), pipeline("sweep", recipe, overrides=fixed) as run:
        return {name: run.uri_of(run.take(uri)) for name, uri in inputs.items()}


def _refuse_same_points(points: Sequence[Point], steps: Sequence[Sequence[Step]]) -> None:
    seen: dict[tuple[str, ...], Point] = {}
    for point, found in zip(points, steps, strict=True):
        made = tuple(step.parts.fingerprint() for step in found)
        if (other := seen.setdefault(made, point)) is not point:
            differing = [key for key in point.settings if point.texts[key] != other.texts[key]]
            raise ConfigError(
                f"the points {other.name} and {point.name} would make the same: {', '.join(differing)} is not read by "
                "what runs here, or only says where and how fast"
            )
