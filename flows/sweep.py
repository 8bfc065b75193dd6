"""One training, or the whole pipeline, with every combination of some settings, and which of them is best.

A point is a run of that flow as it is without a sweep: what points have in common is made once, since it is the same
artifact, and what is there already is reused. So a sweep that was stopped goes on with what is missing.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from prefect import flow
from prefect.runtime import flow_run

from flows.full_pipeline import full_pipeline
from flows.parameters import Data, Downstream, RecipeName, says
from flows.stages import ALL
from minimind.config import nearest
from minimind.errors import ConfigError
from minimind.sweep.grid import Point, read_grid
from tasks.pipeline import pipeline
from tasks.sweep import end, run_points
from tasks.sweep_plan import PIPELINE, SweepPlan, Walk, plan_sweep, swept_stage

Settings = Annotated[
    list[str], says('What is varied, such as ["sft.lr=1e-4,3e-4", "sft.epochs=2"]; one value alone holds for all.')
]
Stage = Annotated[
    Literal["pretrain", "sft", "dpo", "lora", "distill", "full-pipeline"] | None,
    says("What is run; else the training whose settings are varied."),
]
Inputs = Annotated[
    dict[str, str] | None,
    says('What all points read, such as {"init": "models:/minimind-sft/2"}: init, tokens, tokenizer, teacher.'),
]
Metric = Annotated[str | None, says("What decides: a figure of the training, or stage.figure; else the usual one.")]
Goal = Annotated[Literal["min", "max"] | None, says("Which way it is better, where that is not known.")]
ARTIFACTS = ("init", "tokens", "tokenizer", "teacher")
"""Parameters of a stage's flow that name artifacts."""


def _name() -> str:
    settings = flow_run.parameters.get("settings") or ()
    return "sweep " + " × ".join(setting.partition("=")[0] for setting in settings if "," in setting)


@flow(name="sweep", flow_run_name=_name, validate_parameters=True)
def sweep(
    settings: Settings,
    stage: Stage = None,
    recipe: RecipeName = "quickstart",
    data: Data = None,
    inputs: Inputs = None,
    metric: Metric = None,
    goal: Goal = None,
    downstream: Downstream = False,
) -> str:
    """Run a training with every combination of some settings, compare, and point @candidate at the best."""
    plan = prepare(settings, stage, recipe, data, inputs, metric, goal, downstream)
    with pipeline("sweep", recipe, data=data, overrides=plan.grid.fixed) as run:
        return end(run, run_points(run, plan, partial(_run, plan)))


def prepare(
    settings: Sequence[str],
    stage: str | None = None,
    recipe: str = "quickstart",
    data: str | None = None,
    inputs: Mapping[str, str] | None = None,
    metric: str | None = None,
    goal: str | None = None,
    downstream: bool = False,
) -> SweepPlan:
    """What a sweep would run. Raises ConfigError or MissingError where it is not possible."""
    grid = read_grid(settings)
    stage = swept_stage(stage, grid)
    given = {"data": data, "downstream": downstream or None}
    _refuse_unknown(stage, {name for name, value in given.items() if value} | {*(inputs or {})})
    defaults = inspect.signature(_flow(stage).fn).parameters
    return plan_sweep(
        grid,
        stage,
        recipe=recipe,
        parameters={"recipe": recipe, **{name: value for name, value in given.items() if value}},
        inputs={name: (inputs or {}).get(name, defaults[name].default) for name in ARTIFACTS if name in defaults},
        walk=lambda parameters: _walk(stage, parameters),
        metric=metric,
        goal=goal,
    )


def _run(plan: SweepPlan, point: Point, *, in_prefect: bool) -> None:
    """One point, as a flow run of its own below this one, or without one."""
    flow = _flow(plan.stage)
    call = flow.with_options(flow_run_name=lambda: point.name) if in_prefect else flow.fn
    call(**plan.parameters, overrides=list(point.overrides))


def _walk(stage: str, parameters: Mapping[str, Any]) -> Walk:
    return lambda overrides: _flow(stage).fn(**parameters, overrides=overrides)


def _flow(stage: str) -> Any:
    return next(one for one in (full_pipeline, *ALL) if one.name == stage)


def _refuse_unknown(stage: str, given: set[str]) -> None:
    taken = {"data", "downstream", *ARTIFACTS} & {*inspect.signature(_flow(stage).fn).parameters}
    for name in sorted(given - taken):
        hint = "; only the whole pipeline reads a data spec" if name == "data" and stage != PIPELINE else ""
        raise ConfigError(f"a sweep of {stage} takes no `{name}`{nearest(name, sorted(taken))}{hint}")
