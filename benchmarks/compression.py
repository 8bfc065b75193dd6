"""Bytes per token at one size: our vocabulary against byte-level BPE, learnt from the same text.

    python -m benchmarks.compression [--train rows.jsonl.gz --input held_out.jsonl] [--size 6400]

`minimind` is what the stage tokenizer does: the coverage chosen by its sweep, then sentencepiece. `byte-level` is
`tokenizers`' BPE with its ByteLevel pre-tokenizer, the settings upstream MiniMind trains with. `gpt4 cuts` is the same
with GPT-4's pre-tokenizer, in which a punctuation mark may begin a word. Rows are {"text": …, "lang": …}; lang may be
missing. Without --train every twentieth row of the input is held out; without --input it is the documentation inside
this Python. The same rows give the same figures, so there is one repeat.
"""

import argparse
import gzip
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.harness import RESULTS
from minimind.tokens.tokenizer_sweep import byte_level_vocabulary, compression, own_vocabulary

GPT4_CUTS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
Count = Callable[[Sequence[str]], list[int]]
Rows = list[tuple[str, str]]


def gpt4_cuts(texts: Sequence[str], size: int) -> Count:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    cuts = pre_tokenizers.Split(Regex(GPT4_CUTS), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    )
    return lambda texts: [len(tokenizer.encode(text).ids) for text in texts]


VARIANTS: dict[str, Callable[[Sequence[str], int], Count]] = {
    "minimind": lambda texts, size: own_vocabulary(texts, size).count,
    "byte-level": lambda texts, size: byte_level_vocabulary(texts, size).count,
    "gpt4 cuts": gpt4_cuts,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Bytes per token at one vocabulary size")
    parser.add_argument("--train", type=Path, help="JSONL of {'text': …} rows to learn from")
    parser.add_argument("--input", type=Path, help="JSONL of {'text': …, 'lang': …} rows to measure on")
    parser.add_argument("--size", type=int, default=6400)
    given = parser.parse_args()
    learnt, held_out = _rows(given.train, given.input)
    results: dict[str, dict[str, Any]] = {}
    for name, learn in VARIANTS.items():
        began = time.process_time()
        count = learn([text for _, text in learnt], given.size)
        seconds = time.process_time() - began
        results[name] = {"bytes_per_token": compression(held_out, count), "cpu_seconds": round(seconds, 1)}
    _show(results, given.size, learnt, held_out)


def _rows(train: Path | None, path: Path | None) -> tuple[Rows, Rows]:
    rows = _read(path) if path else _documentation()
    if train:
        return _read(train), rows
    return [row for number, row in enumerate(rows) if number % 20], rows[::20]


def _read(path: Path) -> Rows:
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        values = [json.loads(line) for line in lines]
    return [(value.get("lang", "?"), value["text"].encode("utf-8", "ignore").decode()) for value in values]


def _documentation() -> Rows:
    from minimind.data.python_docs import pydocs

    return [("en", row["text"]) for row in pydocs.rows("pretrain", "stdlib")]


def _show(results: dict[str, dict[str, Any]], size: int, learnt: Rows, held_out: Rows) -> None:
    languages = list(results["minimind"]["bytes_per_token"])
    table = Table("vocabulary", *languages, "CPU s to learn", title=f"Bytes per token at {size:,} ids")
    for name, found in results.items():
        values = found["bytes_per_token"]
        table.add_row(name, *(f"{values[language]:.4f}" for language in languages), f"{found['cpu_seconds']:.1f}")
    Console(width=120).print(table)
    sizes = Counter({name: sum(len(t.encode()) for _, t in rows) for name, rows in _named(learnt, held_out)})
    base = results["byte-level"]["bytes_per_token"]
    for found in results.values():
        found["ratio"] = {name: round(found["bytes_per_token"][name] / base[name], 4) for name in languages}
    record = {"title": f"Bytes per token at {size} ids", **sizes, "baseline": "byte-level", "variants": results}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps(record, ensure_ascii=False, indent=2) + "\n"
    (RESULTS / "compression.json").write_text(text, encoding="utf-8")


def _named(learnt: Rows, held_out: Rows) -> list[tuple[str, Rows]]:
    return [("learnt_bytes", learnt), ("held_out_bytes", held_out)]


if __name__ == "__main__":
    main()
