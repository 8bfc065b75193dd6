"""Training on packed and isolated documents, against padding every document to the longest, at 35 % fill.

The model is the project's own, small; a step is forward, backward and AdamW on 8 × 512 positions. `padded` is a
document to a row, with logits and loss at every position, as upstream's trainer does; `padded_own_loss` is the same
with this project's loss, which skips what has no label; `packed` is what `RowBatches` gives. What is compared are real
ids per CPU second, with one thread.

    python -m benchmarks.packed_training
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import main
from benchmarks.token_sets import CACHE, short_lengths, write_random_set
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE, Batch, RowBatches
from minimind.tokens.layout import Grid
from minimind.tokens.split_writer import Documents
from minimind.tokens.token_set import TokenSet
from minimind.train.objectives import Tensors, next_token

LENGTH, ROWS, STEPS, FILL, VOCABULARY, DOCUMENTS = 512, 8, 6, 0.35, 6400, 4000
MODEL = ModelConfig(
    vocab_size=VOCABULARY, hidden_size=384, num_layers=6, num_heads=6, num_kv_heads=2, head_size=64, ffn_size=1024
)


def short_documents() -> Path:
    """A set of random ids whose documents fill 35 % of a row on average and never more than one."""
    directory = CACHE / "short" / "train"
    if not (directory / "tokens.json").exists():
        lengths = short_lengths(DOCUMENTS, mean=FILL * LENGTH, longest=LENGTH)
        ids = np.random.default_rng(0).integers(1, VOCABULARY, int(lengths.sum()))
        documents = Documents(ids, lengths, None, np.arange(len(lengths)), 4 * lengths)
        write_random_set(directory, [documents], vocab_size=VOCABULARY, row_length=LENGTH)
    return directory / "tokens.json"


def packed(path: Path) -> dict[str, Any]:
    """Several documents to a row, which do not see each other."""
    batches = RowBatches(TokenSet.open(path.parent), row_length=LENGTH, batch_rows=ROWS, seed=0)
    return _trained(batches.batch, own_loss)


def padded(path: Path) -> dict[str, Any]:
    """A document to a row, logits everywhere."""
    return _trained(one_a_row(path.parent), plain_loss)


def padded_own_loss(path: Path) -> dict[str, Any]:
    """A document to a row, logits where there are labels."""
    return _trained(one_a_row(path.parent), own_loss)


def own_loss(model: Transformer, batch: Tensors) -> torch.Tensor:
    return next_token().loss(model, batch)[0]


def plain_loss(model: Transformer, batch: Tensors) -> torch.Tensor:
    logits = model(batch.tokens_BT)
    return F.cross_entropy(logits.flatten(0, 1), batch.labels_BT.flatten(), ignore_index=IGNORE, reduction="sum")


def one_a_row(directory: Path) -> Callable[[int], Batch]:
    """Batches by step of a document to a row, padded to `LENGTH`."""
    token_set = TokenSet.open(directory)

    def batch(step: int) -> Batch:
        documents = np.random.default_rng([0, step]).integers(0, token_set.num_documents, ROWS)
        starts, lengths = token_set.offsets[documents], np.diff(token_set.offsets)[documents]
        grid = Grid.of(np.arange(ROWS), lengths, num_rows=ROWS, width=LENGTH)
        ids_N, at_N = grid.take(token_set.tokens, starts)
        labels_N = token_set.tokens[1:].take(at_N, mode="clip")
        return grid.batch(ids_N, labels_N, numbers=np.zeros(ROWS), items_B=documents, padding=0)

    return batch


def _trained(
    batches: Callable[[int], Batch], loss_of: Callable[[Transformer, Tensors], torch.Tensor]
) -> dict[str, Any]:
    torch.set_num_threads(1)
    bf16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    model = Transformer(MODEL, compute_dtype=torch.bfloat16 if bf16 else torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    real, began = 0, 0.0
    for step in range(STEPS + 1):
        if step == 1:  # the first step allocates
            real, began = 0, time.process_time()
        batch = batches(step)
        real += int((batch.documents_BT >= 0).sum())
        loss_of(model, Tensors.of(batch, torch.device("cpu"))).backward()
        optimizer.step()
        optimizer.zero_grad()
    fill = real / (STEPS * ROWS * LENGTH)
    return {"cpu_seconds": time.process_time() - began, "million_ids": real / 1e6, "fill": fill}


VARIANTS = {"padded": padded, "padded_own_loss": padded_own_loss, "packed": packed}

if __name__ == "__main__":
    main(
        "benchmarks.packed_training",
        "Training on short documents, million real ids per CPU second",
        VARIANTS,
        baseline="padded",
        default_input=short_documents,
    )
