"""What an estimate trains on: small token sets like the real ones, and what takes the place of what is not there yet.

A step costs what its documents' lengths say, not what is written in them. So a few thousand real documents, drawn at
random, stand for a token set of any size; where there is none yet, random ids in documents of usual lengths do. A model
of random weights is as fast as a trained one. Not here: what is measured with them (`estimate.py`).
"""

import random
from pathlib import Path

import numpy as np

from minimind.data.documents import RowKind
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.hf_tokenizer import write_hf_tokenizer
from minimind.tokens.split_writer import Documents, SplitWriter, close_split
from minimind.tokens.token_set import SPLITS, TokenSet
from minimind.tokens.tokenizer import MODEL_FILE, Tokenizer
from minimind.tokens.vocabulary import train_pieces

BYTES_PER_TOKEN: dict[RowKind, float] = {"pretrain": 3.0, "chat": 2.2, "preference": 2.2, "lora": 2.2, "prompt": 2.2}
"""Of text without a tokenizer yet: English and Chinese have 2.6 to 3.1 at the vocabularies of the recipes. Fewer of
turns, whose marks are tokens too: some 20 in a short conversation."""
USUAL_TOKENS: dict[RowKind, float] = {"pretrain": 300, "chat": 130, "preference": 70, "lora": 130, "prompt": 60}
"""Mean length of a document, of preference rows that of one side; those of the embedded default and of upstream's."""
SPREAD = 0.8
"""Standard deviation of the logarithms of those lengths, as in text."""


def sample_tokens(real: Path, out_dir: Path, *, tokens: int, val_tokens: int, seed: int = 0) -> Path:
    """A token set of random documents of the one in `real`, at least so many ids in each split where it has them."""
    for split, wanted in zip(SPLITS, (tokens, val_tokens), strict=True):
        whole = TokenSet.open(real / split)
        mean = whole.num_tokens / max(whole.num_documents, 1)
        count = min(whole.num_documents, int(1.2 * wanted / max(mean, 1.0)) + 16)
        together = 2 if whole.kind == "preference" else 1  # the two sides of a pair
        rng = np.random.default_rng(seed)
        groups = np.sort(rng.choice(whole.num_documents // together, count // together, replace=False))
        numbers = (groups[:, None] * together + np.arange(together)).ravel()
        lengths = whole.offsets[numbers + 1] - whole.offsets[numbers]
        places = np.concatenate([np.arange(*whole.offsets[[n, n + 1]]) for n in numbers] or [np.zeros(0, np.int64)])
        trained = None if whole.trained is None else whole.trained[places]
        some = Documents(whole.tokens[places], lengths, trained, numbers, whole.bytes[numbers])
        _write(out_dir / split, whole.kind, some, vocab_size=whole.info.vocab_size, end_of_text=whole.info.end_of_text)
    return out_dir


def random_tokens(
    kind: RowKind, out_dir: Path, *, vocab_size: int, longest: int, tokens: int, val_tokens: int, seed: int = 0
) -> Path:
    """A token set of random ids, with documents of usual lengths that `longest` allows (pretraining: any)."""
    rng = np.random.default_rng(seed)
    for split, wanted in zip(SPLITS, (tokens, val_tokens), strict=True):
        drawn = np.exp(rng.normal(np.log(USUAL_TOKENS[kind]) - SPREAD**2 / 2, SPREAD, 64 + wanted // 8))
        lengths = np.clip(drawn, 8, None if kind == "pretrain" else longest).astype(np.int64)
        count = 2 * (int(np.searchsorted(lengths.cumsum(), wanted)) // 2 + 8)  # pairs have two sides
        lengths = lengths[:count]
        ids = rng.integers(1, vocab_size, lengths.sum())
        trained = None if kind == "pretrain" else (rng.random(len(ids)) < 0.5).astype(np.uint8)
        some = Documents(
            ids, lengths, trained, np.arange(len(lengths)), (lengths * BYTES_PER_TOKEN[kind]).astype(np.int64)
        )
        _write(out_dir / split, kind, some, vocab_size=vocab_size, end_of_text=0)
    return out_dir


def random_model(out_dir: Path, shape: ModelConfig, tokenizer: Path) -> Path:
    """A model directory of that shape, untrained."""
    out_dir.mkdir(parents=True)
    save_model(out_dir, Transformer(shape))
    Tokenizer.load(tokenizer).copy_to(out_dir)
    return out_dir


def random_tokenizer(out_dir: Path, *, vocab_size: int) -> Path:
    """A tokenizer of that many ids, learnt from made-up words."""
    out_dir.mkdir(parents=True)
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(2 * vocab_size)]
    texts = [" ".join(rng.choices(words, k=200)) for _ in range(max(64, vocab_size // 16))]
    (out_dir / MODEL_FILE).write_bytes(train_pieces(texts, vocab_size=vocab_size, character_coverage=1.0))
    write_hf_tokenizer(Tokenizer.of_model((out_dir / MODEL_FILE).read_bytes(), out_dir).pieces(), out_dir)
    return out_dir


def _write(directory: Path, kind: RowKind, some: Documents, *, vocab_size: int, end_of_text: int) -> None:
    with SplitWriter(directory, kind, vocab_size=vocab_size) as writer:
        writer.write(some)
    close_split(directory, writer.info(end_of_text=end_of_text), ())
