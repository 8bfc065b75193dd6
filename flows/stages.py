"""One small flow per stage, so that each can be deployed, scheduled and run again alone.

A data stage takes what comes before it from the store (nothing that is already there runs again).
A training or finishing stage takes its inputs from the registry: the newest (`@candidate`) unless
it is given another version, alias or an artifact's directory.
"""

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from flows.runner import task_runner
from tasks import data as data_tasks
from tasks import finishing, training
from tasks.pipeline import pipeline

RowKind = Literal["pretrain", "chat", "preference", "prompt"]
Rate = Annotated[float, Field(gt=0, description="Peak learning rate; by default the recipe's")] | None
Epochs = Annotated[float, Field(gt=0, description="Passes over the data; by default the recipe's")] | None
Overrides = Annotated[list[str], Field(description="More settings, each as section.key=value")] | None
Data = Annotated[str, Field(description="A data spec's name or path; by default the recipe's")] | None
Refresh = Annotated[bool, Field(description="Run again even if the same artifact is there")]


@flow(name="ingest", flow_run_name="ingest {kind}", task_runner=task_runner())
def ingest(kind: RowKind = "pretrain", recipe: str = "quickstart", data: Data = None, refresh: Refresh = False) -> str:
    """Read and validate the sources of one kind of rows."""
    with pipeline("ingest", recipe, data=data, refresh=refresh) as run:
        return run.uri_of(data_tasks.ingest(run, kind))


@flow(name="clean", flow_run_name="clean {kind}", task_runner=task_runner())
def clean(kind: RowKind = "pretrain", recipe: str = "quickstart", data: Data = None, refresh: Refresh = False) -> str:
    """Repair, filter and deduplicate the rows of one kind."""
    with pipeline("clean", recipe, data=data, refresh=refresh) as run:
        return run.uri_of(data_tasks.clean(run, data_tasks.ingest(run, kind)))


@flow(name="shard", flow_run_name="shard {kind}", task_runner=task_runner())
def shard(kind: RowKind = "pretrain", recipe: str = "quickstart", data: Data = None, refresh: Refresh = False) -> str:
    """Write the Arrow shards of one kind: the corpus."""
    with pipeline("shard", recipe, data=data, refresh=refresh) as run:
        return run.uri_of(data_tasks.shard(run, data_tasks.clean(run, data_tasks.ingest(run, kind))))


@flow(name="tokenizer", flow_run_name="tokenizer {recipe}")
def tokenizer(
    recipe: str = "quickstart",
    corpus: str = "models:/minimind-corpus@candidate",
    overrides: Overrides = None,
    refresh: Refresh = False,
) -> str:
    """Learn a vocabulary from a corpus."""
    with pipeline("tokenizer", recipe, overrides=overrides, refresh=refresh) as run:
        return run.uri_of(data_tasks.train_tokenizer(run, run.take(corpus)))


@flow(name="tokens", flow_run_name="tokens {corpus}", task_runner=task_runner())
def tokens(
    recipe: str = "quickstart",
    corpus: str = "models:/minimind-corpus@candidate",
    tokenizer: str = "models:/minimind-tokenizer@candidate",
    overrides: Overrides = None,
    refresh: Refresh = False,
) -> str:
    """Turn a corpus into a memory-mapped token set."""
    with pipeline("tokens", recipe, overrides=overrides, refresh=refresh) as run:
        return run.uri_of(data_tasks.tokenize(run, run.take(corpus), run.take(tokenizer)))


@flow(name="pretrain", flow_run_name="pretrain {recipe}")
def pretrain(
    recipe: str = "quickstart",
    tokens: str = "models:/minimind-tokens@candidate",
    tokenizer: str = "models:/minimind-tokenizer@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    refresh: Refresh = False,
) -> str:
    """Learn to go on with text, from random weights."""
    changes = training.overrides_of("pretrain", overrides, lr=lr, epochs=epochs)
    with pipeline("pretrain", recipe, overrides=changes, refresh=refresh) as run:
        return run.uri_of(
            training.pretrain(run, training.tokens_of(run, "pretrain", run.take(tokens)), run.take(tokenizer))
        )


@flow(name="sft", flow_run_name="sft {init}")
def sft(
    recipe: str = "quickstart",
    init: str = "models:/minimind-pretrain@candidate",
    tokens: str = "models:/minimind-tokens-chat@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    refresh: Refresh = False,
) -> str:
    """Learn to answer, from conversations."""
    changes = training.overrides_of("sft", overrides, lr=lr, epochs=epochs)
    with pipeline("sft", recipe, overrides=changes, refresh=refresh) as run:
        return run.uri_of(training.sft(run, training.tokens_of(run, "sft", run.take(tokens)), run.take(init)))


@flow(name="dpo", flow_run_name="dpo {init}")
def dpo(
    recipe: str = "quickstart",
    init: str = "models:/minimind-sft@candidate",
    tokens: str = "models:/minimind-tokens-preference@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    refresh: Refresh = False,
) -> str:
    """Learn to prefer, from pairs of answers."""
    changes = training.overrides_of("dpo", overrides, lr=lr, epochs=epochs)
    with pipeline("dpo", recipe, overrides=changes, refresh=refresh) as run:
        return run.uri_of(training.dpo(run, training.tokens_of(run, "dpo", run.take(tokens)), run.take(init)))


@flow(name="lora", flow_run_name="lora {init}")
def lora(
    recipe: str = "quickstart",
    init: str = "models:/minimind-sft@candidate",
    tokens: str = "models:/minimind-tokens-chat@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    refresh: Refresh = False,
) -> str:
    """Learn a low-rank addition to a model that stays as it is."""
    changes = training.overrides_of("lora", overrides, lr=lr, epochs=epochs)
    with pipeline("lora", recipe, overrides=changes, refresh=refresh) as run:
        return run.uri_of(training.lora(run, training.tokens_of(run, "lora", run.take(tokens)), run.take(init)))


@flow(name="distill", flow_run_name="distill {init}")
def distill(
    recipe: str = "quickstart",
    init: str = "models:/minimind-pretrain@candidate",
    teacher: str = "models:/minimind-sft@candidate",
    tokens: str = "models:/minimind-tokens-chat@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    refresh: Refresh = False,
) -> str:
    """Learn from the distribution of a teacher."""
    changes = training.overrides_of("distill", overrides, lr=lr, epochs=epochs, teacher=teacher)
    with pipeline("distill", recipe, overrides=changes, refresh=refresh) as run:
        return run.uri_of(training.distill(run, training.tokens_of(run, "distill", run.take(tokens)), run.take(init)))


@flow(name="evaluate", flow_run_name="evaluate {recipe}")
def evaluate(recipe: str = "quickstart", overrides: Overrides = None, refresh: Refresh = False) -> str:
    """Measure the newest models on what they have not seen."""
    with pipeline("evaluate", recipe, overrides=overrides, refresh=refresh) as run:
        return run.uri_of(finishing.evaluate(run, finishing.newest_models(run), finishing.newest_data(run)))


@flow(name="publish", flow_run_name="publish {recipe}")
def publish(recipe: str = "quickstart", overrides: Overrides = None, refresh: Refresh = False) -> str:
    """Write the report card of the newest models and hand one of them out."""
    with pipeline("publish", recipe, overrides=overrides, refresh=refresh) as run:
        models, used = finishing.newest_models(run), finishing.newest_data(run)
        return run.uri_of(finishing.publish(run, models, finishing.evaluate(run, models, used), used))


ALL = (ingest, clean, shard, tokenizer, tokens, pretrain, sft, dpo, lora, distill, evaluate, publish)
