"""Bits per byte: −log₂ p of a text by its length in UTF-8 bytes.

Unlike a loss per token it can be compared between tokenizers, with a byte n-gram and with a
compressor. Special tokens are no text: the <|endoftext|> before a document is given, the one
behind it is not scored.
"""

import math
from collections.abc import Sequence

import numpy as np

from minimind.errors import DataError
from minimind.evaluate.results import Interval, Score
from minimind.evaluate.scoring import document_log_probs
from minimind.model.transformer import Transformer
from minimind.tokens.token_set import TokenSet


def bits_per_byte(
    model: Transformer,
    token_set: TokenSet,
    *,
    documents: Sequence[int] | None = None,
    context: int,
    batch_tokens: int = 2048,
    resamples: int = 1000,
    seed: int = 0,
) -> Score:
    """Score `documents` of a pretraining token set (all by default), at most `context` tokens being seen at once."""
    chosen = np.arange(token_set.num_documents) if documents is None else np.asarray(documents, np.int64)
    sizes = np.asarray(token_set.bytes)[chosen].astype(np.int64)
    if not sizes.sum():
        raise DataError(
            "bits per byte: the validation documents have no text; raise `validation_fraction` of the data spec"
        )
    scored = document_log_probs(model, token_set, documents=chosen.tolist(), context=context, batch_tokens=batch_tokens)
    bits = -scored.sums / math.log(2)
    return Score(
        bits_per_byte=float(bits.sum() / sizes.sum()),
        interval=bootstrap_ratio(bits, sizes, resamples=resamples, seed=seed),
        nats=float(-scored.sums.sum()),
        bytes=int(sizes.sum()),
        tokens=int(scored.counts.sum()),
        documents=len(chosen),
        context=context,
    )


def bootstrap_ratio(bits: np.ndarray, sizes: np.ndarray, *, resamples: int = 1000, seed: int = 0) -> Interval:
    """The middle 95 % of Σ bits / Σ bytes over documents drawn anew with replacement."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(bits), size=(resamples, len(bits)))
    low, high = np.quantile(bits[drawn].sum(axis=1) / np.maximum(sizes[drawn].sum(axis=1), 1), [0.025, 0.975])
    return Interval(low=float(low), high=float(high))
