"""Bits per byte: the headline figure of every model."""

import math

import numpy as np
import pytest
import torch

from minimind.errors import DataError
from minimind.evaluate.perplexity import bits_per_byte, bootstrap_ratio
from minimind.evaluate.scoring import _windows, choose, document_log_probs
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.token_set import TokenSet, TokensInfo

VOCABULARY = 97
CONFIG = ModelConfig(vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=2, ffn_size=48, max_positions=64)


def token_set(lengths: list[int], *, seed: int = 0) -> TokenSet:
    """A pretraining token set of random documents; each begins with END_OF_TEXT (0) and has two bytes a token."""
    rng = np.random.default_rng(seed)
    documents = [np.append(0, rng.integers(3, VOCABULARY, length - 1)) for length in lengths]
    info = TokensInfo(
        rows="pretrain",
        dtype="<u2",
        vocab_size=VOCABULARY,
        documents=len(lengths),
        tokens=sum(lengths),
        trained_tokens=sum(lengths),
        bytes=2 * sum(lengths),
        tokenizer="",
    )
    return TokenSet(
        kind="pretrain",
        tokens=np.concatenate([*documents, [0]]).astype("<u2"),
        offsets=np.cumsum([0, *lengths]),
        rows=np.arange(len(lengths)),
        bytes=2 * (np.array(lengths) - 1),
        trained=None,
        info=info,
    )


@pytest.fixture(scope="module")
def model() -> Transformer:
    """A tiny model with weights large enough that its predictions are far from uniform."""
    model = Transformer(CONFIG, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


def slow_nats(model: Transformer, ids: np.ndarray, context: int) -> float:
    """−Σ log p of a document in float64, one token at a time, by the documented rule for windows."""
    exact = Transformer(CONFIG, compute_dtype=torch.float64).double()
    exact.load_state_dict(model.double().state_dict())
    model.float()
    total, stop = 0.0, context
    for target in range(1, len(ids)):
        if target > stop:  # not in the windows so far: the next ends half a context further on
            stop = min(stop + context // 2, len(ids) - 1)
        start = max(0, stop - context)
        logits_V = exact(torch.tensor(ids[start:target].astype(np.int64))[None])[0, -1]
        total -= float(torch.log_softmax(logits_V.double(), -1)[int(ids[target])])
    return total


def test_equals_a_slow_float64_reference(model: Transformer):
    """Windows, batching, padding and chunks are for speed: the number must be that of the plain definition."""
    tokens = token_set([2, 9, 16, 17, 18, 40, 5])
    score = bits_per_byte(model, tokens, context=16, batch_tokens=64)
    with torch.inference_mode():
        nats = sum(slow_nats(model, tokens.document(d), 16) for d in range(tokens.num_documents))
    assert score.nats == pytest.approx(nats, abs=1e-4 * score.tokens)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / tokens.bytes.sum(), abs=1e-4)
    assert score.tokens == 107 - 7 and score.bytes == 200 and score.documents == 7


@pytest.mark.parametrize("context", [2, 7, 16])
def test_every_token_is_scored_once_with_enough_before_it(context: int):
    """Overlap must neither leave out nor count twice, and half a context is promised where there is as much."""
    for length in range(1, 60):
        windows = list(_windows(0, 100, 100 + length, context))
        scored = [position for window in windows for position in range(window.score_from, window.stop)]
        assert scored == list(range(100, 100 + length - 1))
        for window in windows:
            assert window.stop - window.start <= context
            assert window.score_from + 1 - window.start >= min(context - context // 2, window.score_from + 1 - 100)


def test_a_document_is_scored_alone(model: Transformer):
    """Neighbours in the file, the order of scoring and the size of batches must not matter."""
    tokens = token_set([12, 30, 7, 21])
    alone = [document_log_probs(model, tokens, documents=[d], context=16).sums[0] for d in range(4)]
    together = document_log_probs(model, tokens, documents=[3, 1, 0, 2], context=16, batch_tokens=50).sums
    assert together.tolist() == pytest.approx([alone[d] for d in (3, 1, 0, 2)], abs=1e-4)


def test_a_uniform_model_needs_log_vocabulary_bits_per_token():
    """The one case that can be done by hand; the END_OF_TEXT behind a document is not among the tokens."""
    model = Transformer(CONFIG)
    torch.nn.init.zeros_(model.output_weight)
    score = bits_per_byte(model, token_set([11, 6]), context=64)
    assert score.bits_per_byte == pytest.approx(math.log2(VOCABULARY) / 2, rel=1e-6)
    assert score.interval.low == pytest.approx(score.interval.high)


def test_interval_holds_the_score_and_narrows_with_documents():
    """The bootstrap is seeded, and more documents must mean more certainty."""
    rng = np.random.default_rng(0)
    bits, sizes = rng.gamma(9.0, 20.0, 900), np.full(900, 100)
    few, many = (bootstrap_ratio(bits[:n], sizes[:n], seed=1) for n in (30, 900))
    assert few.low < bits[:30].sum() / 3000 < few.high
    assert many.high - many.low < 0.3 * (few.high - few.low)
    assert few == bootstrap_ratio(bits[:30], sizes[:30], seed=1)


def test_choice_of_documents_is_seeded_and_sorted():
    """All models must be scored on the same documents, in every run."""
    assert choose(5, limit=9, seed=0).tolist() == [0, 1, 2, 3, 4]
    chosen = choose(1000, limit=50, seed=3)
    assert chosen.tolist() == sorted(set(chosen.tolist())) == choose(1000, limit=50, seed=3).tolist()
    assert len(chosen) == 50 and chosen.tolist() != choose(1000, limit=50, seed=4).tolist()


def test_a_model_that_diverged_is_named_as_such(model: Transformer):
    """NaN must not become a figure."""
    broken = Transformer(CONFIG)
    torch.nn.init.constant_(broken.output_weight, math.nan)
    with pytest.raises(DataError, match="diverged"):
        bits_per_byte(broken, token_set([8]), context=16)
    with pytest.raises(DataError, match="no text"):
        bits_per_byte(model, token_set([1]), context=16)
