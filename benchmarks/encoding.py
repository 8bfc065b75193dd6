"""Text to ids with one vocabulary: our encoder against the others that could have been it, and transformers' call.

    python -m benchmarks.encoding [--input rows.jsonl]

A vocabulary of 6,400 is learnt once from the even rows of the input (or as large a one as it gives), exported for
Hugging Face, and every variant encodes the odd rows. `minimind` is `Tokenizer.encode_batch`, `transformers` the call of
PreTrainedTokenizerFast on the list of texts, told like ours to take no special token from text. `ids` is a digest of
all ids: where it is the same, they are equal. `tiktoken` merges bytes by the same ranks, with the beginnings of
characters added, without which it could not build one; it is here for its speed, its ids are others.

CPU seconds are those of encoding alone, all threads together; loading is left out.
"""

import gzip
import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import main, sample_corpus

VOCAB_SIZE = 6400
LEARNT_BYTES = 16 << 20
MEASURED_BYTES = 12 << 20
Encode = Callable[[list[str]], list[list[int]]]


def minimind(directory: Path) -> Encode:
    from minimind.tokens.tokenizer import Tokenizer

    return Tokenizer.load(directory).encode_batch


def sentencepiece(directory: Path) -> Encode:
    import sentencepiece as library

    processor = library.SentencePieceProcessor(model_file=str(directory / "tokenizer.model"))
    return lambda texts: processor.encode(texts, num_threads=1)


def kitoken(directory: Path) -> Encode:
    import kitoken as library

    encoder = library.Kitoken.from_sentencepiece_file(str(directory / "tokenizer.model"))
    return lambda texts: encoder.encode_all(texts, False)


def tiktoken(directory: Path) -> Encode:
    import tiktoken as library

    from minimind.tokens.tokenizer import Tokenizer
    from minimind.tokens.vocabulary import FIRST_PIECE

    ranks = {bytes([byte]): byte for byte in range(256)}
    pieces = Tokenizer.load(directory).piece_bytes()[FIRST_PIECE:]
    characters = sorted({piece for piece in pieces if len(piece.decode()) == 1 and len(piece) > 1})
    beginnings = sorted({character[:end] for character in characters for end in range(2, len(character))})
    for piece in (*beginnings, *characters, *pieces):
        ranks.setdefault(piece, len(ranks))
    encoding = library.Encoding("same pieces", pat_str=r" *[^ ]+| +", mergeable_ranks=ranks, special_tokens={})
    return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=1)


def tokenizers(directory: Path) -> Encode:
    import tokenizers as library

    tokenizer = library.Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda texts: [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def transformers(directory: Path) -> Encode:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(directory / "tokenizer.json"))
    return lambda texts: tokenizer(texts, split_special_tokens=True).input_ids


def measure(make: Callable[[Path], Encode], path: Path) -> dict[str, Any]:
    texts, encode = _texts(path)[1], make(_tokenizer(path))
    encode(texts[:10])
    began = time.process_time()
    encoded = encode(texts)
    seconds = time.process_time() - began
    digest = hashlib.sha256()
    for ids in encoded:
        digest.update(np.array([len(ids), *ids], np.int32).tobytes())
    return {
        "cpu_seconds": seconds,
        "megabytes": sum(len(text.encode()) for text in texts) / 1e6,
        "tokens": sum(map(len, encoded)),
        "ids": digest.hexdigest()[:12],
    }


def _texts(path: Path) -> tuple[list[str], list[str]]:
    """What the vocabulary is learnt from, and what is measured."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        rows = [json.loads(line)["text"].encode("utf-8", "ignore").decode() for line in lines]
    return _first(rows[::2], LEARNT_BYTES), _first(rows[1::2], MEASURED_BYTES)


def _first(texts: list[str], size: int) -> list[str]:
    ends = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(ends, size)) + 1]


def _tokenizer(path: Path) -> Path:
    """A tokenizer's directory for the input, learnt once."""
    from minimind.tokens.coverage import choose_coverage
    from minimind.tokens.hf_tokenizer import write_hf_tokenizer
    from minimind.tokens.tokenizer import Tokenizer
    from minimind.tokens.vocabulary import train_pieces

    directory = Path(tempfile.gettempdir()) / "minimind-benchmarks" / f"tokenizer-{path.name}-{path.stat().st_size}"
    if not (directory / "tokenizer.json").exists():
        directory.mkdir(parents=True, exist_ok=True)
        learnt = _texts(path)[0]
        coverage, _ = choose_coverage(learnt[:: max(1, len(learnt) // 5000)], VOCAB_SIZE)
        model = train_pieces(learnt, vocab_size=VOCAB_SIZE, character_coverage=coverage)
        (directory / "tokenizer.model").write_bytes(model)
        write_hf_tokenizer(Tokenizer.of_model(model, directory).pieces(), directory)
    return directory


VARIANTS = {
    make.__name__: partial(measure, make)
    for make in (minimind, kitoken, sentencepiece, tiktoken, tokenizers, transformers)
}

if __name__ == "__main__":
    main(
        "benchmarks.encoding",
        "Text → ids with one vocabulary, MB per CPU second",
        VARIANTS,
        baseline="transformers",
        default_input=lambda: sample_corpus(Path(tempfile.gettempdir()) / "minimind-benchmarks"),
    )
