"""Opening a token set of a thousand million ids, its first batch, and a jump to any step.

The set is synthetic: about two million documents of random ids, 2 GB, made once by the library's own writer with the
packing plan of its recipe. `cpu_ms` and `rss_mb` are what opening and the first batch take beyond the imports;
`jump_ms` is the slowest of 40 steps anywhere in ten epochs, each from a fresh start and in CPU time; `same` says that
the steps after a restart are, by hash, those of a walk. `without_plan` is the same where the plan of that length is not
stored.

    python -m benchmarks.opening
"""

import hashlib
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import main
from benchmarks.token_sets import CACHE, short_lengths, write_random_set
from minimind.tokens.batches import Batch, RowBatches
from minimind.tokens.split_writer import Documents
from minimind.tokens.token_set import TokenSet

DOCUMENTS, MEAN, LENGTH, ROWS, VOCABULARY = 2_000_000, 510, 512, 32, 6400
_PART = 20_000


def synthetic() -> Path:
    """The directory of the set; the path of its `tokens.json`."""
    directory = CACHE / "billion" / "train"
    if not (directory / "tokens.json").exists():
        rng = np.random.default_rng(0)
        lengths = short_lengths(DOCUMENTS, mean=MEAN, longest=8 * LENGTH)
        ids = rng.integers(1, VOCABULARY, int(lengths[:_PART].sum()) * 2, dtype=np.uint16)
        starts = range(0, DOCUMENTS, _PART)
        parts = (_documents(ids, first, lengths[first : first + _PART]) for first in starts)
        write_random_set(directory, parts, vocab_size=VOCABULARY, row_length=LENGTH)
    return directory / "tokens.json"


def _documents(ids: np.ndarray, first: int, lengths: np.ndarray) -> Documents:
    """Documents of these lengths, the first with this number, of `ids` again and again."""
    rows = np.arange(first, first + len(lengths))
    return Documents(np.resize(ids, int(lengths.sum())), lengths, None, rows, 4 * lengths)


def stored_plan(path: Path) -> dict[str, Any]:
    """At the row length whose plan the set has."""
    return _opened(path.parent, LENGTH)


def without_plan(path: Path) -> dict[str, Any]:
    """At another row length."""
    return _opened(path.parent, LENGTH + 16)


def _opened(directory: Path, row_length: int) -> dict[str, Any]:
    before, began = _rss_mb(), time.process_time()
    token_set = TokenSet.open(directory)
    batches = RowBatches(token_set, row_length=row_length, batch_rows=ROWS, seed=0)
    batches.batch(0)
    first, grown = time.process_time() - began, _rss_mb() - before
    steps = np.random.default_rng(1).integers(0, 10 * batches.steps_per_epoch, 40).tolist()
    jumps = []
    for step in steps:
        fresh = (
            RowBatches(token_set, row_length=row_length, batch_rows=ROWS, seed=0) if row_length == LENGTH else batches
        )
        began = time.process_time()
        fresh.batch(step)
        jumps.append(time.process_time() - began)
    walk = [_digest(batches.batch(steps[0] + number)) for number in range(20)]
    restarted = RowBatches(token_set, row_length=row_length, batch_rows=ROWS, seed=0)
    again = [_digest(restarted.batch(steps[0] + number)) for number in range(10, 20)]
    return {
        "cpu_seconds": first,
        "million_ids": token_set.num_tokens / 1e6,
        "cpu_ms": 1000 * first,
        "rss_mb": grown,
        "jump_ms": 1000 * max(jumps),
        "same": str(walk[10:] == again),
    }


def _rss_mb() -> float:
    return psutil.Process().memory_info().rss / (1 << 20)


def _digest(batch: Batch) -> str:
    return hashlib.sha256(b"".join(getattr(batch, field.name).tobytes() for field in fields(batch))).hexdigest()


VARIANTS = {"stored_plan": stored_plan, "without_plan": without_plan}

if __name__ == "__main__":
    main(
        "benchmarks.opening",
        "Opening a set of a thousand million ids, first batch of 32 × 512",
        VARIANTS,
        baseline="without_plan",
        default_input=synthetic,
    )
