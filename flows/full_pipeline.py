"""Raw text to a chat model of your own: every stage, in order, on one page.

Each call gives a sealed artifact. It runs only if its inputs, its settings or its code changed;
`minimind plan` says which will run and why.
"""

from prefect import flow

from flows.parameters import Data, Overrides, RecipeName, Refresh
from flows.runner import task_runner
from minimind.artifact import Artifact
from tasks.data import clean, ingest, shard, tokenize, train_tokenizer
from tasks.finishing import evaluate, publish
from tasks.made import Made
from tasks.pipeline import pipeline
from tasks.stage import STARTS, Pipeline
from tasks.training import TRAININGS, kinds_read, train


@flow(name="full-pipeline", flow_run_name="{recipe}", validate_parameters=True, task_runner=task_runner())
def full_pipeline(
    recipe: RecipeName = "quickstart", data: Data = None, overrides: Overrides = None, refresh: Refresh = False
) -> str:
    """Run every stage of a recipe that is not there yet, from raw text to a published chat model."""
    with pipeline("full-pipeline", recipe, data=data, overrides=overrides, refresh=refresh) as run:
        rows = [ingest(run, kind) for kind in run.kinds]
        return run.uri_of(go_on(run, Made(run, *rows, newest=False)))


def go_on(run: Pipeline, made: Made) -> Artifact:
    """Run every stage that reads something of what was made, and what follows from that, to the published model.

    After the rows were read that is the whole pipeline; after one stage alone it is what lies downstream of it.
    """
    # Data: each kind of rows goes its own way, so that new conversations do not retrain the base model.
    for kind in made.kinds:
        if made.has(f"ingest-{kind}"):
            made.add(clean(run, made[f"ingest-{kind}"]))
    for kind in made.kinds:
        if made.has(f"clean-{kind}"):
            made.add(shard(run, made[f"clean-{kind}"]))
    if made.has("shard-pretrain"):
        made.add(train_tokenizer(run, made["shard-pretrain"]))
    for kind in made.kinds:
        if made.has(f"shard-{kind}", "tokenizer"):
            made.add(tokenize(run, made[f"shard-{kind}"], made["tokenizer"], kinds=made.kinds))

    # Training: the base model, the chat model, and what is made of it.
    trained = [stage for stage in TRAININGS if run.trains(stage, made.kinds)]
    for stage in trained:
        kinds, start = kinds_read(run, stage, made.kinds), STARTS.get(stage, "tokenizer")
        teacher = made.take(run.recipe.distill.teacher) if run.recipe.distill and stage == "distill" else None
        if made.has(start, *(f"tokens-{kind}" for kind in kinds)) or (teacher and made.has(teacher.label)):
            made.add(train(run, stage, made.tokens(kinds), made[start], teacher=teacher))

    # Finishing: figures for all of them, one report card, one model with a name.
    models, data = made.models(trained), made.data()
    if not made.has("evaluate"):
        made.add(evaluate(run, models, data))
    return publish(run, models, made["evaluate"], data)
