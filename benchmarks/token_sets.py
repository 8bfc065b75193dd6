"""What the benchmarks of loaders read: a tokenizer and token sets of a file of rows, made once and kept.

Not here: what is measured (`loader`, `packing`, `opening`, `packed_training`).
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.data.documents import RowKind, check_row
from minimind.data.dropped import DROPPED_FILE
from minimind.data.reading.strict_json import RowError
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import ROWS_DIR, write_rows
from minimind.stage import Stage, build
from minimind.tokens.split_writer import Documents, SplitWriter, close_split
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from minimind.tokens.tokenizing import TOKENS, TokensConfig

CACHE = Path(tempfile.gettempdir()) / "minimind-benchmarks"


class FileRows(Config):
    """Rows of one JSONL file, as cleaning would have left them."""

    rows: RowKind
    path: str
    size: int


def _rows_of_file(config: FileRows, _: Inputs, out_dir: Path) -> Summary:
    write_rows(out_dir / ROWS_DIR, config.rows, _checked(config))
    (out_dir / DROPPED_FILE).touch()
    return Summary(figures={})


def _checked(config: FileRows) -> Iterator[dict[str, Any]]:
    with Path(config.path).open(encoding="utf-8") as file:
        for line, text in enumerate(file, 1):
            try:
                value = json.loads(text)
                if config.rows == "pretrain" and "conversations" in value:
                    value = {"text": "\n".join(turn["content"] for turn in value["conversations"])}
                row = check_row(config.rows, value)
            except (RowError, ValueError):
                continue
            yield {**row, "source": "file", "line": line, "group": row["id"], "language": "und"}


ROWS = Stage("clean", _rows_of_file)


def prepared(
    path: Path,
    *,
    rows: RowKind = "pretrain",
    vocab_size: int = 6400,
    row_lengths: tuple[int, ...] = (512,),
    **limits: Any,
) -> tuple[Artifact, Artifact, Artifact]:
    """Corpus, tokenizer and token set of a file, from the stages themselves; all rows are for training.

    The tokenizer is learnt from the file, of conversations from what is said in them.
    """
    store = Store(CACHE / "store")
    corpus = corpus_of(path, rows, store)
    learnt_from = corpus if rows == "pretrain" else corpus_of(path, "pretrain", store)
    tokenizer, _ = build(TOKENIZER, TokenizerConfig(vocab_size=vocab_size), {"corpus": learnt_from}, store=store)
    config = TokensConfig(rows=rows, row_lengths=row_lengths, **limits)
    tokens, _ = build(TOKENS, config, {"corpus": corpus, "tokenizer": tokenizer}, store=store)
    return corpus, tokenizer, tokens


def tokenizer_of(path: Path, *, vocab_size: int) -> Path:
    """The directory of a tokenizer learnt from a file of texts."""
    store = Store(CACHE / "store")
    corpus = corpus_of(path, "pretrain", store)
    return build(TOKENIZER, TokenizerConfig(vocab_size=vocab_size), {"corpus": corpus}, store=store)[0].dir


def corpus_of(path: Path, rows: RowKind, store: Store, *, validation_fraction: float = 0) -> Artifact:
    """The rows of a file as a corpus."""
    given, _ = build(ROWS, FileRows(rows=rows, path=str(path), size=path.stat().st_size), {}, store=store)
    config = ShardConfig(rows=rows, validation_fraction=validation_fraction)
    return build(SHARD, config, {"rows": given}, store=store)[0]


def write_random_set(directory: Path, parts: Iterable[Documents], *, vocab_size: int, row_length: int) -> Path:
    """A pretraining split of documents made by hand, with its packing plan; the path of its `tokens.json`."""
    with SplitWriter(directory, "pretrain", vocab_size=vocab_size) as writer:
        for part in parts:
            writer.write(part)
    close_split(directory, writer.info(), (row_length,))
    return directory / "tokens.json"


def short_lengths(count: int, *, mean: float, longest: int) -> np.ndarray:
    """Lengths like those of real text (log-normal), about `mean`, none above `longest`."""
    drawn = np.random.default_rng(0).lognormal(0.0, 0.8, count)
    low, high = 1.0, 10.0 * longest
    for _ in range(60):  # cutting at the longest lowers the mean, so the scale is found by halving
        scale = (low + high) / 2
        low, high = (scale, high) if np.clip(drawn * scale, 2, longest).mean() < mean else (low, scale)
    return np.clip(drawn * low, 2, longest).astype(np.int64)
