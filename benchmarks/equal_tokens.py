"""Quality at equal tokens: our recipe against upstream's, one shape, one tokenizer, the same documents.

    python -m benchmarks.equal_tokens --train rows.jsonl --input held_out.jsonl [--tokens 10_000_000] [--only ours]

Both models are minimind2-small's shape, narrower (`--width`), and see so many trained tokens of the same documents.

- `upstream` is MiniMind's pretraining as it ships: a stock Llama in fp32, a document to a row of 340 behind one special
  token, cut there and padded, AdamW with PyTorch's defaults, 5e-4 down to a tenth by a cosine without warm-up, batches
  of 32, eight of them to an update
- `upstream_accum1` is the same with an update after every batch, which suits a corpus this small better
- `ours` is the stage `pretrain`: packed rows of 512, Muon

What is compared are bits per byte of the held-out rows, each document scored from its own start in windows of 340. A
byte 6-gram fitted on the training rows stands beside them. One repeat: it takes hours, and the seeds are fixed.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.harness import RESULTS
from benchmarks.token_sets import CACHE, prepared
from minimind.artifact import Artifact, Store
from minimind.evaluate.baseline import fit_ngram
from minimind.evaluate.scoring import document_log_probs
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model
from minimind.stage import build
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.train.stage_configs import PretrainConfig
from minimind.train.stages import PRETRAIN

RESULT = RESULTS / "equal_tokens.json"
ROW, BATCH, ACCUMULATED = 340, 32, 8
"""Upstream's."""
IGNORE = -100


def shape(width: int) -> ModelConfig:
    """minimind2-small with a narrower stream: eight layers, eight query heads and two key heads, ffn 2.75 wide."""
    return ModelConfig(
        hidden_size=width,
        num_layers=8,
        num_heads=8,
        num_kv_heads=2,
        head_size=width // 8,
        ffn_size=width * 11 // 4,
        norm_eps=1e-5,
        qk_norm=False,
    )


def upstream(data: "Data", config: ModelConfig, tokens: int, *, accumulated: int = ACCUMULATED) -> Transformer:
    """Train a stock Llama as upstream does; its weights as a model of ours, which has the same names."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(42)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.ffn_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_size,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_positions,
            rope_theta=config.rope_theta,
            rms_norm_eps=config.norm_eps,
            tie_word_embeddings=True,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    batches = math.ceil(tokens / data.labels_in_a_batch())
    for step, ids_BT in enumerate(data.rows_on_the_fly(batches), 1):
        for group in optimizer.param_groups:
            group["lr"] = 5e-4 * (0.1 + 0.45 * (1 + math.cos(math.pi * step / batches)))
        labels_BT = ids_BT.masked_fill(ids_BT == data.info.end_of_text, IGNORE)
        loss = model(input_ids=ids_BT, labels=labels_BT).loss / accumulated
        loss.backward()
        if step % accumulated == 0 or step == batches:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 50 == 0:
            print(f"{step}/{batches} loss {float(loss) * accumulated:.3f}", flush=True)
    mine = Transformer(config)
    mine.load_state_dict({name: value for name, value in model.state_dict().items() if name != "lm_head.weight"})
    return mine


def upstream_accum1(data: "Data", config: ModelConfig, tokens: int) -> Transformer:
    return upstream(data, config, tokens, accumulated=1)


def ours(data: "Data", config: ModelConfig, tokens: int) -> Transformer:
    """The stage, with the settings that suit a shape and a corpus of this size."""
    settings = PretrainConfig(
        model=config,
        tokens=tokens,
        length=512,
        batch_tokens=4096,
        micro_tokens=4096,
        optimizer="muon",
        lr=4e-3,
        warmup_steps=100,
        validate_every=0,
        threads=torch.get_num_threads(),
    )
    inputs = {"tokens": data.tokens, "tokenizer": data.tokenizer}
    artifact, _ = build(PRETRAIN, settings, inputs, store=Store(CACHE / "store"))
    return load_model(artifact.dir)


VARIANTS: dict[str, Callable[["Data", ModelConfig, int], Transformer]] = {
    "upstream": upstream,
    "upstream_accum1": upstream_accum1,
    "ours": ours,
}


class Data:
    """The token set of the training rows, and that of the held-out rows by the same tokenizer."""

    def __init__(self, train: Path, held_out: Path) -> None:
        _, self.tokenizer, self.tokens = prepared(train)
        corpus, _, _ = prepared(held_out, vocab_size=6400)
        inputs = {"corpus": corpus, "tokenizer": self.tokenizer}
        self.held_out: Artifact = build(TOKENS, TokensConfig(rows="pretrain"), inputs, store=Store(CACHE / "store"))[0]
        self.split = TokenSet.open(self.tokens.dir / "train")
        self.info = self.split.info

    def labels_in_a_batch(self) -> float:
        """Trained tokens of a batch of upstream's, on average."""
        return BATCH * float(np.minimum(np.diff(self.split.offsets) + 1, ROW - 1).mean())

    def rows_on_the_fly(self, batches: int) -> Iterator[Tensor]:
        """Upstream's batches B×T: a document behind `<|im_start|>`, ended by `<|im_end|>`, cut at 340 and padded."""
        specials = Tokenizer.load(self.tokenizer.dir).specials
        made, epoch = 0, 0
        while made < batches:
            torch.manual_seed(42 + epoch)
            order = torch.randperm(self.split.num_documents).numpy()
            for first in range(0, len(order), BATCH):
                rows_BT = np.full((BATCH, ROW), self.info.end_of_text, np.int64)
                for row, document in enumerate(order[first : first + BATCH]):
                    ids = self.split.document(document)[1 : ROW - 1]  # without the END_OF_TEXT it begins with
                    rows_BT[row, 0], rows_BT[row, 1 : len(ids) + 1] = specials.im_start, ids
                    rows_BT[row, len(ids) + 1] = specials.im_end
                yield torch.from_numpy(rows_BT)
                made += 1
                if made == batches:
                    return
            epoch += 1

    def bits_per_byte(self, model: Transformer) -> float:
        """Of the held-out rows."""
        held_out = TokenSet.open(self.held_out.dir / "train")
        scores = document_log_probs(model, held_out, documents=range(held_out.num_documents), context=ROW)
        return float(-scores.sums.sum() / math.log(2) / held_out.bytes.sum())

    def ngram_bits_per_byte(self) -> float:
        """What a byte 6-gram of the training rows needs for the held-out rows."""
        tokenizer = Tokenizer.load(self.tokenizer.dir)
        held_out = TokenSet.open(self.held_out.dir / "train")
        train, val = (
            [tokenizer.decode(split.document(n)[1:].tolist()).encode() for n in range(split.num_documents)]
            for split in (self.split, held_out)
        )
        return float(fit_ngram(train).bits(val).sum() / sum(map(len, val)))


def read_result(key: dict[str, int]) -> dict[str, Any]:
    """What is written of runs with these settings; empty if it is of others."""
    result: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
    return result if all(result.get(name) == value for name, value in key.items()) else {}


def write_result(result: dict[str, Any]) -> None:
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Bits per byte after equal tokens")
    parser.add_argument("--train", type=Path, required=True, help="JSONL of {'text': …} rows, cleaned")
    parser.add_argument("--input", type=Path, required=True, help="held-out rows")
    parser.add_argument("--tokens", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", choices=list(VARIANTS))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data, config = Data(given.train.resolve(), given.input.resolve()), shape(given.width)
    key = {"tokens": given.tokens, "width": given.width, "held_out_bytes": given.input.stat().st_size}
    result = read_result(key)
    if not result:
        result = {**key, "byte_6_gram": data.ngram_bits_per_byte(), "variants": {}}
        write_result(result)
    for name in given.only or VARIANTS:
        began = time.monotonic()
        bits = data.bits_per_byte(VARIANTS[name](data, config, given.tokens))
        result = read_result(key) or result  # another process may have added a variant meanwhile
        result["variants"][name] = {"bits_per_byte": bits, "minutes": (time.monotonic() - began) / 60}
        write_result(result)
    table = Table("variant", "bits per byte", "minutes", title=f"{given.tokens:,} tokens, width {given.width}")
    table.add_row("byte 6-gram", f"{result['byte_6_gram']:.3f}", "")
    for name, figures in result["variants"].items():
        table.add_row(name, f"{figures['bits_per_byte']:.3f}", f"{figures['minutes']:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
