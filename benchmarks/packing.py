"""Packing: how much of the rows is padding, how many documents are cut, how many ids are lost.

`best_fit` is the library's plan. `one_a_row` is a document to a row, cut at its end and padded, as upstream does;
`concatenated` is the stream of all documents cut at every row's end, as pretraining loaders do. Text is packed into
rows of 512, conversations into rows of 1024. `cut_that_fit` counts documents that would have fitted into a row.

    python -m benchmarks.packing                     Python's documentation
    python -m benchmarks.packing --input sft.jsonl   {"conversations": …} or {"text": …} rows of your own
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import main, sample_corpus
from benchmarks.token_sets import CACHE, prepared
from minimind.tokens.packing import plan_rows
from minimind.tokens.token_set import TokenSet


def best_fit(path: Path) -> dict[str, Any]:
    lengths, row_length = _lengths(path)
    began = time.process_time()
    plan = plan_rows(lengths, row_length=row_length)
    seconds = time.process_time() - began
    pieces = np.bincount(plan.documents, minlength=len(lengths))
    return _figures(
        lengths, row_length, plan.num_rows, lost=int(lengths.sum()) - plan.num_tokens, cut=pieces > 1, seconds=seconds
    )


def one_a_row(path: Path) -> dict[str, Any]:
    lengths, row_length = _lengths(path)
    kept = np.minimum(lengths, row_length)
    lost = int((lengths - kept).sum())
    return _figures(lengths, row_length, len(lengths), lost=lost, cut=lengths > row_length, seconds=0.0)


def concatenated(path: Path) -> dict[str, Any]:
    lengths, row_length = _lengths(path)
    ends = np.cumsum(lengths)
    rows = int(ends[-1]) // row_length
    cut = (ends - 1) // row_length > (ends - lengths) // row_length
    return _figures(lengths, row_length, rows, lost=int(ends[-1]) - rows * row_length, cut=cut, seconds=0.0)


def _lengths(path: Path) -> tuple[np.ndarray, int]:
    with path.open(encoding="utf-8") as file:
        chats = "conversations" in json.loads(file.readline())
    rows, row_length = ("chat", 1024) if chats else ("pretrain", 512)
    limits = {"max_tokens": row_length} if chats else {}
    tokens = prepared(path, rows=rows, row_lengths=(row_length,), **limits)[2]
    return np.diff(TokenSet.open(tokens.dir / "train").offsets), row_length


def _figures(
    lengths: np.ndarray, row_length: int, rows: int, *, lost: int, cut: np.ndarray, seconds: float
) -> dict[str, Any]:
    return {
        "cpu_seconds": seconds,
        "num_documents": len(lengths),
        "padding_percent": 100 * (1 - (int(lengths.sum()) - lost) / (rows * row_length)),
        "ids_lost": lost,
        "cut_percent": 100 * float(cut.mean()),
        "cut_that_fit": int((cut & (lengths <= row_length)).sum()),
    }


VARIANTS = {"one_a_row": one_a_row, "concatenated": concatenated, "best_fit": best_fit}

if __name__ == "__main__":
    main(
        "benchmarks.packing",
        "Documents in rows",
        VARIANTS,
        baseline="best_fit",
        default_input=lambda: sample_corpus(CACHE, megabytes=10),
    )
