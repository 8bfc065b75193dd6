"""The last stages as tasks: measure every model, write the report card, hand one model out."""

from collections.abc import Mapping

from minimind.artifact import Artifact
from minimind.evaluate.card.report import PUBLISH
from minimind.evaluate.stage import EVALUATE
from tasks.gate import pass_gate, refusal
from tasks.stage import Pipeline


def evaluate(run: Pipeline, models: Mapping[str, Artifact], data: Mapping[str, Artifact]) -> Artifact:
    """Measure every model on what it has not seen, beside counting baselines."""
    return run.stage(EVALUATE, run.recipe.evaluate, {**models, **_known(EVALUATE, data)})


def publish(
    run: Pipeline, models: Mapping[str, Artifact], evaluation: Artifact, data: Mapping[str, Artifact]
) -> Artifact:
    """Write the report card, and make the chosen model the champion if the gate lets it past.

    Raises GateError where it does not; `@candidate` and the card are there then too. A point of a sweep is not handed
    out, and is often worse than one before it: there a refusal is only said.
    """
    inputs = {**models, "evaluation": evaluation, **_known(PUBLISH, data)}
    published = run.stage(PUBLISH, run.recipe.publish_config(), inputs)
    if run.planning:
        return published
    verdict = pass_gate(run, published)
    if verdict.passed:
        run.name_champions([published, *models.values()])
    elif "sweep" in run.context:
        run.display.warn(f"the gate: {verdict.reason}")
    else:
        raise refusal(verdict, published, run.tracker)
    return published


def name_inputs(**stages: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Data artifacts by stage and kind of rows, under the names by which the finishing stages read them."""
    return {
        stage if kind == "pretrain" else f"{stage}_{kind}": artifact
        for stage, kinds in stages.items()
        for kind, artifact in kinds.items()
    }


def _known(stage, data: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {name: artifact for name, artifact in data.items() if name in {*stage.inputs, *stage.optional_inputs}}
