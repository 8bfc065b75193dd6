"""Preference accuracy and DPO's implicit reward."""

import numpy as np
import pytest
import torch

from minimind.errors import DataError
from minimind.evaluate.preference import (
    PairLogProbs,
    pair_log_probs,
    preference_score,
    reward_score,
    usable_pairs,
    wilson,
)
from minimind.evaluate.scoring import LogProbs
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.token_set import TokenSet, TokensInfo

VOCABULARY = 61
CONFIG = ModelConfig(vocab_size=VOCABULARY, hidden_size=32, num_layers=1, num_heads=2, ffn_size=48, max_positions=64)
LENGTHS = [12, 9, 20, 31, 7, 8]


@pytest.fixture(scope="module")
def pairs() -> TokenSet:
    """Three pairs of random conversations; the tokens from the fifth on are trained."""
    rng = np.random.default_rng(0)
    tokens = np.append(rng.integers(0, VOCABULARY, sum(LENGTHS)), 0).astype("<u2")
    trained = np.concatenate([np.arange(length) >= 5 for length in LENGTHS] + [[False]]).astype("u1")
    info = TokensInfo(
        rows="preference",
        dtype="<u2",
        vocab_size=VOCABULARY,
        documents=6,
        tokens=sum(LENGTHS),
        trained_tokens=int(trained.sum()),
        bytes=100,
        tokenizer="",
    )
    rows, offsets = np.arange(6) // 2, np.cumsum([0, *LENGTHS])
    return TokenSet("preference", tokens, offsets, rows, np.full(6, 9), trained, info)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(CONFIG, seed=2)


def made_up(chosen: list[float], rejected: list[float], *, counts: int = 1) -> PairLogProbs:
    sides = (LogProbs(np.array(sums), np.full(len(sums), counts)) for sums in (chosen, rejected))
    return PairLogProbs(*sides)


def test_only_trained_tokens_of_whole_conversations_count(model: Transformer, pairs: TokenSet):
    """The question is the same on both sides and must not add noise; the answer is read after all of it."""
    scored = pair_log_probs(model, pairs, pairs=[0, 1, 2], batch_tokens=32)
    for pair in range(3):
        for side, document in ((scored.chosen, 2 * pair), (scored.rejected, 2 * pair + 1)):
            ids = torch.tensor(pairs.document(document).astype(np.int64))
            with torch.inference_mode():
                log_probs_TV = torch.log_softmax(model(ids[None])[0].double(), -1)
            wanted = sum(float(log_probs_TV[t - 1, ids[t]]) for t in range(5, len(ids)))
            assert side.sums[pair] == pytest.approx(wanted, abs=1e-4)
            assert side.counts[pair] == len(ids) - 5


def test_accuracy_counts_margins_above_zero():
    """Sums decide; the accuracy per token is told apart from it; a tie is no preference."""
    scored = PairLogProbs(
        LogProbs(np.array([-10.0, -6.0, -3.0, -5.0]), np.array([10, 2, 1, 5])),
        LogProbs(np.array([-8.0, -9.0, -4.0, -5.0]), np.array([2, 9, 1, 5])),
    )
    score = preference_score(scored, skipped=3)
    assert (score.pairs, score.skipped, score.accuracy, score.normalised_accuracy) == (4, 3, 0.5, 0.5)
    assert score.margin == pytest.approx((-2 + 3 + 1 + 0) / 4)
    assert score.interval == wilson(2, 4) and 0.5 in score.interval


def test_reward_is_the_margin_gained_over_the_reference():
    """A policy equal to its reference has learnt nothing: no pair counts, whatever its own accuracy."""
    reference = made_up([-1.0, -1.0, -5.0], [-2.0, -2.0, -4.0])
    assert reward_score(reference, reference, name="sft").accuracy == 0
    policy = made_up([-1.0, -3.0, -4.0], [-3.0, -2.0, -4.0])
    reward = reward_score(policy, reference, name="sft")
    assert reward.accuracy == pytest.approx(2 / 3) and reward.margin == pytest.approx((1 - 2 + 1) / 3)
    assert reward.reference == "sft"


def test_wilson_interval_has_the_published_values():
    """Textbook values, and no interval outside 0 … 1 at the edges."""
    assert (wilson(5, 10).low, wilson(5, 10).high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert (wilson(0, 10).low, wilson(0, 10).high) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10).high == pytest.approx(1.0) and wilson(90, 100).low == pytest.approx(0.8256, abs=1e-4)


def test_pairs_with_a_side_too_long_are_left_out(pairs: TokenSet):
    """A cut answer is another answer, so such a pair is skipped whole."""
    assert usable_pairs(pairs, max_tokens=20).tolist() == [0, 2]
    assert usable_pairs(pairs, max_tokens=31).tolist() == [0, 1, 2]


def test_no_pairs_is_an_error_not_a_zero():
    """0 of 0 must not look like a bad model."""
    with pytest.raises(DataError, match="no pair"):
        preference_score(made_up([], []))
