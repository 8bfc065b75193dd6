"""Bits per byte and the scoring of documents: the headline figure of every model."""

import math

import numpy as np
import pytest
import torch

from minimind.errors import DataError
from minimind.evaluate.material import Facts, Subject
from minimind.evaluate.perplexity import Texts
from minimind.evaluate.scoring import Documents, _windows, choose, document_log_probs, token_log_probs
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.tokenizer import END_OF_TEXT, Tokenizer

VOCABULARY = 97
CONFIG = ModelConfig(vocab_size=VOCABULARY, hidden_size=32, num_layers=2, num_heads=2, ffn_size=48, max_positions=64)
TEXTS = ("The boat sails over a quiet river, and two old friends talk.", "今天天气很好，我们去公园散步。", "x")


def documents(lengths: list[int], *, seed: int = 0) -> list[list[int]]:
    """Random documents; each begins with END_OF_TEXT (0)."""
    rng = np.random.default_rng(seed)
    return [[0, *rng.integers(3, VOCABULARY, length - 1).tolist()] for length in lengths]


def clear(config: ModelConfig) -> Transformer:
    """A tiny model with weights large enough that its predictions are far from uniform."""
    model = Transformer(config, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Transformer:
    return clear(CONFIG)


def texts(*given: str) -> Texts:
    return Texts("text", "made up", [Facts(str(n)) for n in range(len(given))], given)


def slow_log_probs(model: Transformer, ids: list[int], context: int) -> list[float]:
    """log p of every token but the first in float64, one at a time, by the documented rule for windows."""
    exact = Transformer(model.config, compute_dtype=torch.float64).double()
    exact.load_state_dict(model.state_dict())
    found, stop = [], context
    for target in range(1, len(ids)):
        if target > stop:  # not in the windows so far: the next ends half a context further on
            stop = min(stop + context // 2, len(ids) - 1)
        start = max(0, stop - context)
        with torch.inference_mode():
            logits_V = exact(torch.tensor(ids[start:target])[None])[0, -1]
        found.append(float(torch.log_softmax(logits_V.double(), -1)[ids[target]]))
    return found


def test_every_token_equals_a_slow_float64_reference(model: Transformer):
    """Windows, batching, padding and chunks are for speed: the numbers must be those of the plain definition."""
    ids = documents([2, 9, 16, 17, 18, 40, 5])
    found = token_log_probs(model, Documents.of(ids), context=16, batch_tokens=64)
    wanted = [value for one in ids for value in [0.0, *slow_log_probs(model, one, 16)]]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_bits_per_byte_equal_a_slow_float64_reference(tokenizer: Tokenizer):
    """The figure itself: all tokens of a text but END_OF_TEXT, over its UTF-8 bytes."""
    model = clear(CONFIG.replace(vocab_size=tokenizer.vocab_size))
    measured = texts(*TEXTS).measure(Subject(model, tokenizer, context=8, batch_tokens=32))["bits_per_byte"]
    nats = sum(-sum(slow_log_probs(model, [END_OF_TEXT, *tokenizer.encode(text)], 8)) for text in TEXTS)
    size = sum(len(text.encode("utf-8")) for text in TEXTS)
    assert measured.mean == pytest.approx(nats / math.log(2) / size, abs=1e-4)
    assert measured.weights.tolist() == [len(text.encode("utf-8")) for text in TEXTS]


@pytest.mark.parametrize("context", [2, 7, 16])
def test_every_token_is_scored_once_with_enough_before_it(context: int):
    """Overlap must neither leave out nor count twice, and half a context is promised where there is as much."""
    for length in range(1, 60):
        windows = list(_windows(100, 100 + length, context))
        scored = [position for window in windows for position in range(window.score_from, window.stop)]
        assert scored == list(range(100, 100 + length - 1))
        for window in windows:
            assert window.stop - window.start <= context
            assert window.score_from + 1 - window.start >= min(context - context // 2, window.score_from + 1 - 100)


def test_a_document_is_scored_alone(model: Transformer):
    """Neighbours in the file, the order of scoring and the size of batches must not matter."""
    ids = documents([12, 30, 7, 21])
    alone = [document_log_probs(model, Documents.of([one]), context=16).sums[0] for one in ids]
    turned = Documents.of([ids[number] for number in (3, 1, 0, 2)])
    together = document_log_probs(model, turned, context=16, batch_tokens=50)
    assert together.sums.tolist() == pytest.approx([alone[d] for d in (3, 1, 0, 2)], abs=1e-4)
    assert together.counts.tolist() == [20, 29, 11, 6]


def test_only_what_is_asked_for_is_scored(model: Transformer):
    """A mask takes tokens out of the sum and leaves them in the context."""
    ids = documents([9, 20])
    flags = [[place % 3 == 0 for place in range(len(one))] for one in ids]
    found = document_log_probs(model, Documents.of(ids, flags), context=16)
    for number, one in enumerate(ids):
        wanted = [value for place, value in enumerate(slow_log_probs(model, one, 16), 1) if place % 3 == 0]
        assert found.sums[number] == pytest.approx(sum(wanted), abs=1e-4) and found.counts[number] == len(wanted)


def test_a_uniform_model_needs_log_vocabulary_bits_per_token(tokenizer: Tokenizer):
    """The one case that can be done by hand; special tokens are no text."""
    model = Transformer(CONFIG.replace(vocab_size=tokenizer.vocab_size))
    torch.nn.init.zeros_(model.output_weight)
    measured = texts(TEXTS[0]).measure(Subject(model, tokenizer, context=64, batch_tokens=64))["bits_per_byte"]
    bits = len(tokenizer.encode(TEXTS[0])) * math.log2(tokenizer.vocab_size)
    assert measured.values[0] == pytest.approx(bits, rel=1e-6)


def test_choice_of_documents_is_seeded_and_sorted():
    """All models must be scored on the same documents, in every run."""
    assert choose(5, limit=9, seed=0).tolist() == [0, 1, 2, 3, 4]
    chosen = choose(1000, limit=50, seed=3)
    assert chosen.tolist() == sorted(set(chosen.tolist())) == choose(1000, limit=50, seed=3).tolist()
    assert len(chosen) == 50 and chosen.tolist() != choose(1000, limit=50, seed=4).tolist()


def test_a_model_that_diverged_is_named_as_such():
    """NaN must not become a figure."""
    broken = Transformer(CONFIG)
    torch.nn.init.constant_(broken.output_weight, math.nan)
    with pytest.raises(DataError, match="diverged"):
        document_log_probs(broken, Documents.of(documents([8])), context=16)
    with pytest.raises(DataError, match="no text"):
        texts("", "")
