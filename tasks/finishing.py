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


def newest_models(run: Pipeline) -> dict[str, Artifact]:
    """The candidates of every training stage the registry has, of the newest tokenizer: others are left out, aloud."""
    models = _newest(run, {name: f"minimind-{name}" for name in MODEL_NAMES})
    (tokenizer,) = _newest(run, {"tokenizer": "minimind-tokenizer"}).values()
    fitting = {}
    for name, model in models.items():
        if model.summary().figures.get("tokenizer") == tokenizer.fingerprint:
            fitting[name] = model
        else:
            run.display.warn(f"the newest {name} model is left out: it is of another tokenizer than the newest")
    return fitting


def newest_data(run: Pipeline) -> dict[str, Artifact]:
    """The candidates of the data stages, by the names of `name_inputs`, and what they were made from."""
    suffixes = {"pretrain": "", "chat": "-chat", "preference": "-preference"}
    corpus = _newest(run, {kind: f"minimind-corpus{suffix}" for kind, suffix in suffixes.items()})
    tokens = _newest(run, {kind: f"minimind-tokens{suffix}" for kind, suffix in suffixes.items()})
    cleaned = {kind: run.parent(artifact, "clean", "rows") for kind, artifact in corpus.items()}
    rows = {kind: run.parent(artifact, "ingest", "rows") for kind, artifact in cleaned.items()}
    named = name_inputs(ingest=rows, clean=cleaned, corpus=corpus, tokens=tokens)
    return named | _newest(run, {"tokenizer": "minimind-tokenizer"})


def _newest(run: Pipeline, names: Mapping[str, str]) -> dict[str, Artifact]:
    known = run.tracker.registered_names() if run.tracker else set()
    return {name: run.take(f"models:/{model}@{CANDIDATE}") for name, model in names.items() if model in known}


def _known(stage, data: Mapping[str, Artifact]) -> dict[str, Artifact]:
    return {name: artifact for name, artifact in data.items() if name in {*stage.inputs, *stage.optional_inputs}}
