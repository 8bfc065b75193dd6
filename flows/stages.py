"""One small flow per stage, so that each can be deployed, scheduled and run again alone.

A data stage takes what comes before it from the store (nothing that is already there runs again).
A training or finishing stage takes its inputs from the registry: the newest (`@candidate`) unless
it is given another version, alias or an artifact's directory. With `downstream` the pipeline goes on from there.
"""

from prefect import flow

from flows.full_pipeline import go_on
from flows.parameters import (
    Corpus,
    Data,
    Downstream,
    Epochs,
    Init,
    Kind,
    LoraTokens,
    Overrides,
    Rate,
    RecipeName,
    Refresh,
    Teacher,
    TokenizerUri,
    Tokens,
)
from flows.runner import task_runner
from minimind.artifact import Artifact
from minimind.train.config import StageName
from tasks import data as data_tasks
from tasks import finishing, training
from tasks.made import Made
from tasks.pipeline import pipeline
from tasks.stage import Pipeline


@flow(name="ingest", flow_run_name="ingest {kind}", task_runner=task_runner())
def ingest(
    kind: Kind = "pretrain",
    recipe: RecipeName = "quickstart",
    data: Data = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Read and validate the sources of one kind of rows."""
    with pipeline("ingest", recipe, data=data, refresh=refresh) as run:
        return _end(run, data_tasks.ingest(run, kind), downstream=downstream)


@flow(name="clean", flow_run_name="clean {kind}", task_runner=task_runner())
def clean(
    kind: Kind = "pretrain",
    recipe: RecipeName = "quickstart",
    data: Data = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Repair, filter and deduplicate the rows of one kind."""
    with pipeline("clean", recipe, data=data, refresh=refresh) as run:
        return _end(run, data_tasks.clean(run, data_tasks.ingest(run, kind)), downstream=downstream)


@flow(name="shard", flow_run_name="shard {kind}", task_runner=task_runner())
def shard(
    kind: Kind = "pretrain",
    recipe: RecipeName = "quickstart",
    data: Data = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Write the Arrow shards of one kind: the corpus."""
    with pipeline("shard", recipe, data=data, refresh=refresh) as run:
        cleaned = data_tasks.clean(run, data_tasks.ingest(run, kind))
        return _end(run, data_tasks.shard(run, cleaned), downstream=downstream)


@flow(name="tokenizer", flow_run_name="tokenizer {recipe}")
def tokenizer(
    recipe: RecipeName = "quickstart",
    corpus: Corpus = "models:/minimind-corpus@candidate",
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Learn a vocabulary from a corpus."""
    with pipeline("tokenizer", recipe, overrides=overrides, refresh=refresh) as run:
        return _end(run, data_tasks.train_tokenizer(run, run.take(corpus)), downstream=downstream)


@flow(name="tokens", flow_run_name="tokens {corpus}", task_runner=task_runner())
def tokens(
    recipe: RecipeName = "quickstart",
    corpus: Corpus = "models:/minimind-corpus@candidate",
    tokenizer: TokenizerUri = "models:/minimind-tokenizer@candidate",
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Turn a corpus into a memory-mapped token set."""
    with pipeline("tokens", recipe, overrides=overrides, refresh=refresh) as run:
        rows, vocabulary = run.take(corpus), run.take(tokenizer)
        kinds = Made(run, rows, newest=run.has_registry).kinds
        made = data_tasks.tokenize(run, rows, vocabulary, kinds=kinds)
        return _end(run, made, downstream=downstream)


@flow(name="pretrain", flow_run_name="pretrain {recipe}")
def pretrain(
    recipe: RecipeName = "quickstart",
    tokens: Tokens = "models:/minimind-tokens@candidate",
    tokenizer: TokenizerUri = "models:/minimind-tokenizer@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Learn to go on with text, from random weights."""
    changes = training.overrides_of("pretrain", overrides, lr=lr, epochs=epochs)
    with pipeline("pretrain", recipe, overrides=changes, refresh=refresh) as run:
        made = _train(run, "pretrain", tokens=tokens, start=tokenizer)
        return _end(run, made, downstream=downstream)


@flow(name="sft", flow_run_name="sft {init}")
def sft(
    recipe: RecipeName = "quickstart",
    init: Init = "models:/minimind-pretrain@candidate",
    tokens: Tokens = "models:/minimind-tokens-chat@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Learn to answer, from conversations."""
    changes = training.overrides_of("sft", overrides, lr=lr, epochs=epochs)
    with pipeline("sft", recipe, overrides=changes, refresh=refresh) as run:
        made = _train(run, "sft", tokens=tokens, start=init)
        return _end(run, made, downstream=downstream)


@flow(name="dpo", flow_run_name="dpo {init}")
def dpo(
    recipe: RecipeName = "quickstart",
    init: Init = "models:/minimind-sft@candidate",
    tokens: Tokens = "models:/minimind-tokens-preference@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Learn to prefer, from pairs of answers."""
    changes = training.overrides_of("dpo", overrides, lr=lr, epochs=epochs)
    with pipeline("dpo", recipe, overrides=changes, refresh=refresh) as run:
        made = _train(run, "dpo", tokens=tokens, start=init)
        return _end(run, made, downstream=downstream)


@flow(name="lora", flow_run_name="lora {init}")
def lora(
    recipe: RecipeName = "quickstart",
    init: Init = "models:/minimind-sft@candidate",
    tokens: LoraTokens = None,
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Learn a low-rank addition to a model that stays as it is."""
    changes = training.overrides_of("lora", overrides, lr=lr, epochs=epochs)
    with pipeline("lora", recipe, overrides=changes, refresh=refresh) as run:
        made = _train(run, "lora", tokens=tokens, start=init)
        return _end(run, made, downstream=downstream)


@flow(name="distill", flow_run_name="distill {init}")
def distill(
    recipe: RecipeName = "quickstart",
    init: Init = "models:/minimind-pretrain@candidate",
    teacher: Teacher = "models:/minimind-sft@candidate",
    tokens: Tokens = "models:/minimind-tokens-chat@candidate",
    lr: Rate = None,
    epochs: Epochs = None,
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Learn from the distribution of a teacher."""
    changes = training.overrides_of("distill", overrides, lr=lr, epochs=epochs, teacher=teacher)
    with pipeline("distill", recipe, overrides=changes, refresh=refresh) as run:
        made = _train(run, "distill", tokens=tokens, start=init, teacher=teacher)
        return _end(run, made, downstream=downstream)


@flow(name="evaluate", flow_run_name="evaluate {recipe}")
def evaluate(
    recipe: RecipeName = "quickstart",
    overrides: Overrides = None,
    downstream: Downstream = False,
    refresh: Refresh = False,
) -> str:
    """Measure the newest models on what they have not seen."""
    with pipeline("evaluate", recipe, overrides=overrides, refresh=refresh) as run:
        newest = Made(run, newest=True)
        made = finishing.evaluate(run, newest.models(), newest.data())
        return _end(run, made, downstream=downstream)


@flow(name="publish", flow_run_name="publish {recipe}")
def publish(recipe: RecipeName = "quickstart", overrides: Overrides = None, refresh: Refresh = False) -> str:
    """Write the report card of the newest models and hand one of them out."""
    with pipeline("publish", recipe, overrides=overrides, refresh=refresh) as run:
        newest = Made(run, newest=True)
        models, data = newest.models(), newest.data()
        return run.uri_of(finishing.publish(run, models, finishing.evaluate(run, models, data), data))


ALL = (ingest, clean, shard, tokenizer, tokens, pretrain, sft, dpo, lora, distill, evaluate, publish)


def _train(run: Pipeline, stage: StageName, *, tokens: str | None, start: str, teacher: str | None = None) -> Artifact:
    """One training of given inputs; tokens that are not given, and those beside them, are the newest there are."""
    newest, model, own_rows = Made(run, newest=True), run.take(start), training.settings(run, stage).own_rows
    own, *others = training.kinds_read(run, stage, () if tokens else newest.tokens_for(model, own_rows))
    read = {own: run.take(tokens) if tokens else newest[f"tokens-{own}"]} | newest.tokens(others)
    return training.train(run, stage, read, model, teacher=run.take(teacher) if teacher else None)


def _end(run: Pipeline, made: Artifact, *, downstream: bool) -> str:
    """The URI of what a flow made: its stage's, or with `downstream` the published model's."""
    return run.uri_of(go_on(run, Made(run, made, newest=True)) if downstream else made)
