"""Which peak of the learning rate DPO wants: held-out accuracy against how far the policy drifts.

    python -m benchmarks.preference_peaks --model DIRECTORY --train rows.jsonl --chats chats.jsonl --pairs pairs.jsonl

`--model` is a pretrained model of ours with the tokenizer that `benchmarks.equal_tokens` learns from `--train`. It is
taught the chats once, and then from there the pairs, a fifth of which are held out, at every one of `--peaks`. Told are
the share of held-out pairs whose chosen answer has the higher reward, and what the policy needs more than the reference
for a byte of the chosen answers, in bits. One seed; the standard error of the accuracy is beside it.
"""

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS
from benchmarks.token_sets import CACHE, corpus_of, prepared
from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.data.documents import RowKind
from minimind.stage import Stage, build
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.train.stage_configs import DpoConfig, SftConfig
from minimind.train.stages import DPO, SFT

LENGTH = 512


class GivenModel(Config):
    """A model from elsewhere."""

    path: str
    changed: float


def _copy_model(config: GivenModel, _: Inputs, out_dir: Path) -> Summary:
    shutil.copytree(config.path, out_dir, dirs_exist_ok=True)
    return Summary(figures={})


MODEL = Stage("pretrain", _copy_model)


def main() -> None:
    parser = argparse.ArgumentParser(description="DPO's accuracy and drift by learning rate")
    parser.add_argument("--model", type=Path, required=True, help="directory of a pretrained model")
    parser.add_argument("--train", type=Path, required=True, help="rows that its tokenizer was learnt from")
    parser.add_argument("--chats", type=Path, required=True)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--peaks", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3])
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    store = Store(CACHE / "store")
    _, tokenizer, _ = prepared(given.train.resolve())
    chats = _tokens(given.chats, "chat", tokenizer, store)
    pairs = _tokens(given.pairs, "preference", tokenizer, store)
    weights = given.model / "model.safetensors"
    base, _ = build(MODEL, GivenModel(path=str(given.model), changed=weights.stat().st_mtime), {}, store=store)
    common: dict[str, Any] = {"length": LENGTH, "threads": given.threads, "validate_every": 0}
    sft = SftConfig(
        epochs=1, batch_tokens=8192, micro_tokens=4096, optimizer="muon", lr=2e-3, warmup_steps=20, **common
    )
    chatty, _ = build(SFT, sft, {"tokens": chats, "model": base}, store=store)
    held_out = TokenSet.open(pairs.dir / "val").num_documents // 2
    result: dict[str, Any] = {"held_out_pairs": held_out, "epochs": given.epochs, "peaks": {}}
    inputs = {"tokens": pairs, "model": chatty}
    for peak in given.peaks:
        config = DpoConfig(
            epochs=given.epochs, batch_tokens=16384, micro_tokens=8192, lr=peak, warmup_steps=5, **common
        )
        figures = build(DPO, config, inputs, store=store)[0].summary().figures
        print(peak, figures, flush=True)
        result["peaks"][str(peak)] = {k: v for k, v in figures.items() if k.startswith("validation_") or k == "steps"}
    (RESULTS / "preference_peaks.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    Console().print(_table(result))


def _tokens(path: Path, rows: RowKind, tokenizer: Artifact, store: Store) -> Artifact:
    corpus = corpus_of(path.resolve(), rows, store, validation_fraction=0.2)
    config = TokensConfig(rows=rows, row_lengths=(LENGTH,), max_tokens=LENGTH)
    return build(TOKENS, config, {"corpus": corpus, "tokenizer": tokenizer}, store=store)[0]


def _table(result: dict[str, Any]) -> Table:
    table = Table("peak", "accuracy", "loss", "drift, bits per byte", "kl", title="DPO, held-out pairs")
    for peak, figures in result["peaks"].items():
        share = figures["validation_accuracy"]
        error = math.sqrt(share * (1 - share) / result["held_out_pairs"])
        rest = (figures[f"validation_{name}"] for name in ("loss", "drift_bits_per_byte", "kl"))
        table.add_row(peak, f"{share:.1%} ± {error:.1%}", *(f"{value:.4f}" for value in rest))
    return table


if __name__ == "__main__":
    main()
