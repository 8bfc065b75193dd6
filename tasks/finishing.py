"""The last stages as tasks: measure every model, write the report card, hand one model out."""

from collections.abc import Mapping

from minimind.artifact import Artifact
from minimind.evaluate.report import PUBLISH
from minimind.evaluate.stage import EVALUATE
from tasks.stage import Pipeline


def evaluate(run: Pipeline, models: Mapping[str, Artifact], data: Mapping[str, Artifact]) -> Artifact:
    """Measure every model on what it has not seen, beside counting baselines."""
    return run.stage(EVALUATE, run.recipe.evaluate, {**models, **_known(EVALUATE, data)})


def publish(
    run: Pipeline, models: Mapping[str, Artifact], evaluation: Artifact, data: Mapping[str, Artifact]
) -> Artifact:
    """Write the report card and give the chosen model its name."""
    inputs = {**models, "evaluation": evaluation, **_known(PUBLISH, data)}
    published = run.stage(PUBLISH, run.recipe.publish, inputs)
    run.name_champions([published, *models.values()])
    return published


def name_inputs(**stages: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """Data artifacts by stage and kind of rows, under the names by which the finishing stages read them."""
    named = {
        stage if kind == "pretrain" else f"{stage}_{kind}": artifact
        for stage, kinds in stages.items()
        for kind, artifact in kinds.items()
    }
    return named | ({"preferences": named["tokens_preference"]} if "tokens_preference" in named else {})


def _known(stage, data: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {name: artifact for name, artifact in data.items() if name in {*stage.inputs, *stage.optional_inputs}}
