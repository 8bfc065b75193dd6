"""The last stages as tasks: measure every model, write the report card, hand one model out."""

from collections.abc import Mapping

from minimind.artifact import Artifact
from minimind.evaluate.config import MODEL_NAMES
from minimind.evaluate.report import PUBLISH
from minimind.evaluate.stage import EVALUATE
from tasks.stage import Pipeline
from tasks.tracking import CANDIDATE


def evaluate(run: Pipeline, models: Mapping[str, Artifact], data: Mapping[str, Artifact]) -> Artifact:
    """Measure every model on what it has not seen, beside counting baselines."""
    return run.stage(EVALUATE, run.recipe.evaluate, {**models, **_known(EVALUATE, data)})


def publish(
    run: Pipeline, models: Mapping[str, Artifact], evaluation: Artifact, data: Mapping[str, Artifact]
) -> Artifact:
    """Write the report card and give the chosen model its name."""
    inputs = {**models, "evaluation": evaluation, **_known(PUBLISH, data)}
    return run.stage(PUBLISH, run.recipe.publish, inputs)


def name_inputs(
    *, corpus: Mapping[str, Artifact], tokens: Mapping[str, Artifact], tokenizer: Artifact
) -> dict[str, Artifact]:
    """The data artifacts under the names by which the finishing stages read them."""
    named = {"tokens": tokens["pretrain"], "corpus": corpus["pretrain"], "tokenizer": tokenizer}
    for kind in ("chat", "preference"):
        if kind in tokens:
            named |= {f"corpus_{kind}": corpus[kind], f"tokens_{kind}": tokens[kind]}
    if "preference" in tokens:
        named["preferences"] = tokens["preference"]
    return named


def newest_models(run: Pipeline) -> dict[str, Artifact]:
    """The candidates of every training stage the registry has."""
    return _newest(run, {name: f"minimind-{name}" for name in MODEL_NAMES})


def newest_data(run: Pipeline) -> dict[str, Artifact]:
    """The candidates of the data stages, by the names of `name_inputs`."""
    names = {"tokens": "minimind-tokens", "corpus": "minimind-corpus", "tokenizer": "minimind-tokenizer"}
    for kind in ("chat", "preference"):
        names |= {f"corpus_{kind}": f"minimind-corpus-{kind}", f"tokens_{kind}": f"minimind-tokens-{kind}"}
    return _newest(run, names | {"preferences": "minimind-tokens-preference"})


def _newest(run: Pipeline, names: Mapping[str, str]) -> dict[str, Artifact]:
    known = run.tracker.registered_names() if run.tracker else set()
    return {name: run.take(f"models:/{model}@{CANDIDATE}") for name, model in names.items() if model in known}


def _known(stage, data: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {name: artifact for name, artifact in data.items() if name in {*stage.inputs, *stage.optional_inputs}}
