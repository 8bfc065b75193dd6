"""The data stages as tasks: rows in, memory-mapped tokens out."""

from collections.abc import Collection

from minimind.artifact import Artifact
from minimind.data.cleaning import CLEAN
from minimind.data.kinds import RowKind
from minimind.data.reading.ingest import INGEST
from minimind.data.sharding import SHARD
from minimind.data.spec import clean_config, ingest_config, shard_config
from minimind.tokens.tokenizer_training import TOKENIZER
from minimind.tokens.tokenizing import TOKENS
from tasks.stage import Pipeline


def ingest(run: Pipeline, kind: RowKind) -> Artifact:
    """Read and validate the sources of one kind of rows."""
    return run.stage(INGEST, ingest_config(run.spec, kind), {})


def clean(run: Pipeline, rows: Artifact) -> Artifact:
    """Repair, filter and deduplicate; every dropped row is kept aside with its reason."""
    return run.stage(CLEAN, clean_config(run.spec, _kind(rows)), {"rows": rows})


def shard(run: Pipeline, rows: Artifact) -> Artifact:
    """Split into training and validation and write Arrow shards: the corpus."""
    return run.stage(SHARD, shard_config(run.spec, _kind(rows)), {"rows": rows})


def train_tokenizer(run: Pipeline, corpus: Artifact) -> Artifact:
    """Learn the vocabulary from the text of a corpus."""
    return run.stage(TOKENIZER, run.recipe.tokenizer, {"corpus": corpus})


def tokenize(run: Pipeline, corpus: Artifact, tokenizer: Artifact, *, kinds: Collection[RowKind]) -> Artifact:
    """Turn a corpus into a memory-mapped token set; `kinds` are all that there are rows of."""
    config = run.recipe.tokens_config(_kind(corpus), kinds)
    return run.stage(TOKENS, config, {"corpus": corpus, "tokenizer": tokenizer})


def _kind(artifact: Artifact) -> RowKind:
    return artifact.manifest.parts.config["rows"]
