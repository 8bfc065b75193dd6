"""Loading batches: memory-mapped, shuffled and packed, against tokenising on the fly with padding.

`upstream` is MiniMind's own dataset class, re-stated: rows by `datasets`, each encoded by transformers' call when it is
asked for, cut at the row length, padded to it, batched by PyTorch's loader. The others read the token set of the same
rows. All give ids and labels; ours also where documents begin and each id's position in its document.

What is compared are real ids per CPU second, padding left out; making the token set and opening either side is not
counted.

    python -m benchmarks.loader                      on Python's documentation
    python -m benchmarks.loader --input rows.jsonl   on {"text": …} rows of your own
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import main, sample_corpus
from benchmarks.token_sets import CACHE, prepared
from minimind.tokens.batches import RowBatches, RowSource
from minimind.tokens.mixture import MixtureBatches
from minimind.tokens.token_set import TokenSet

ROWS, LENGTH = 32, 512
STEPS, STEPS_ON_THE_FLY = 2000, 30


def upstream(path: Path) -> dict[str, Any]:
    """MiniMind's PretrainDataset."""
    import torch
    from datasets import disable_progress_bars, load_dataset
    from torch.utils.data import DataLoader, Dataset
    from transformers import AutoTokenizer

    disable_progress_bars()
    _, tokenizer_artifact, _ = prepared(path)
    tokenizer = AutoTokenizer.from_pretrained(str(tokenizer_artifact.dir))
    bos, eos, pad = (tokenizer.convert_tokens_to_ids(n) for n in ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))

    class PretrainDataset(Dataset):
        def __init__(self) -> None:
            self.samples = load_dataset("json", data_files=str(path), split="train", cache_dir=str(CACHE / "datasets"))

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            text = str(self.samples[index]["text"])
            ids = tokenizer(text, add_special_tokens=False, max_length=LENGTH - 2, truncation=True).input_ids
            ids = [bos, *ids, eos]
            inputs = torch.tensor(ids + [pad] * (LENGTH - len(ids)), dtype=torch.long)
            labels = inputs.clone()
            labels[inputs == pad] = -100
            return inputs, labels

    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(PretrainDataset(), batch_size=ROWS, shuffle=True, generator=generator)
    batches: Iterator[Any] = iter(loader)
    next(batches)  # what is made once: the order, the first use of the tokenizer
    began, real = time.process_time(), 0
    for _ in range(STEPS_ON_THE_FLY):
        _, labels = next(batches)
        real += int((labels != -100).sum())
    return _figures(real, began, STEPS_ON_THE_FLY)


def ours(path: Path) -> dict[str, Any]:
    """`RowBatches`."""
    return _measured(_rows(path, seed=0))


def ours_mixed(path: Path) -> dict[str, Any]:
    """A mixture, here of the set with itself: what `mix` costs."""
    sources = {"own": _rows(path, seed=0), "other": _rows(path, seed=1)}
    return _measured(MixtureBatches(sources, {"other": 0.1}, batch_rows=ROWS, seed=0))


def _rows(path: Path, *, seed: int) -> RowBatches:
    tokens = TokenSet.open(prepared(path)[2].dir / "train")
    return RowBatches(tokens, row_length=LENGTH, batch_rows=ROWS, seed=seed)


def _measured(batches: RowSource) -> dict[str, Any]:
    batches.batch(0)
    began, real = time.process_time(), 0
    for step in range(STEPS):
        real += np.count_nonzero(batches.batch(step).documents_BT >= 0)
    return _figures(real, began, STEPS)


def _figures(real: int, began: float, steps: int) -> dict[str, Any]:
    return {
        "cpu_seconds": time.process_time() - began,
        "million_ids": real / 1e6,
        "fill": real / (steps * ROWS * LENGTH),
    }


VARIANTS = {"upstream": upstream, "ours": ours, "ours_mixed": ours_mixed}

if __name__ == "__main__":
    main(
        "benchmarks.loader",
        "Batches of 32 × 512, million real ids per CPU second",
        VARIANTS,
        baseline="upstream",
        default_input=lambda: sample_corpus(CACHE, megabytes=10),
    )
