"""Raw text to a chat model of your own: every stage, in order, on one page.

Each call gives a sealed artifact. It runs only if its inputs, its settings or its code changed;
`minimind plan` says which will run and why.
"""

from prefect import flow

from flows.runner import task_runner
from tasks.data import clean, ingest, shard, tokenize, train_tokenizer
from tasks.finishing import evaluate, name_inputs, publish
from tasks.pipeline import pipeline
from tasks.training import distill, dpo, lora, pretrain, sft


@flow(name="full-pipeline", flow_run_name="{recipe}", validate_parameters=True, task_runner=task_runner())
def full_pipeline(
    recipe: str = "quickstart", data: str | None = None, overrides: list[str] | None = None, refresh: bool = False
) -> str:
    """Run every stage of a recipe that is not there yet, from raw text to a published chat model.

    Args:
        recipe: A recipe's name (quickstart, minimind2_small, …) or the path of a TOML file.
        data: A data spec's name or path; by default the recipe's own.
        overrides: Settings to change, each as `section.key=value`, for example `pretrain.lr=3e-4`.
        refresh: Run every stage again, whatever is there.
    """
    with pipeline("full-pipeline", recipe, data=data, overrides=overrides, refresh=refresh) as run:
        # Data: each kind of rows goes its own way, so that new conversations do not retrain the base model.
        rows = {kind: ingest(run, kind) for kind in run.kinds}
        cleaned = {kind: clean(run, rows[kind]) for kind in run.kinds}
        corpus = {kind: shard(run, cleaned[kind]) for kind in run.kinds}
        tokenizer = train_tokenizer(run, corpus["pretrain"])
        tokens = {kind: tokenize(run, corpus[kind], tokenizer) for kind in run.kinds}

        # Training: the base model, the chat model, and what is made of it.
        models = {"pretrain": pretrain(run, tokens, tokenizer)}
        if run.trains("sft"):
            models["sft"] = sft(run, tokens, models["pretrain"])
        if run.trains("dpo"):
            models["dpo"] = dpo(run, tokens, models["sft"])
        if run.trains("lora"):
            models["lora"] = lora(run, tokens, models["sft"])
        if run.trains("distill"):
            models["distill"] = distill(run, tokens, models["pretrain"])

        # Finishing: figures for all of them, one report card, one model with a name.
        data_used = name_inputs(ingest=rows, clean=cleaned, corpus=corpus, tokens=tokens) | {"tokenizer": tokenizer}
        evaluation = evaluate(run, models, data_used)
        return run.uri_of(publish(run, models, evaluation, data_used))
