"""Sampling: the mathematics against plain Python references, reproducibility, and refused settings."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from minimind.errors import ConfigError, DataError
from minimind.infer.sampling import Sampler, Sampling, candidates, penalised, uniform


def reference(
    logits: list[float], *, temperature: float, top_k: int, top_p: float, min_p: float = 0.0
) -> dict[int, float]:
    """Token → probability by the definitions, in plain Python floats."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[:top_k] if top_k else order
    weights = [math.exp((logits[token] - logits[order[0]]) / temperature) for token in order]
    probs = [weight / math.fsum(weights) for weight in weights]
    enough = (n for n in range(1, len(probs)) if top_p < 1 and math.fsum(probs[:n]) >= top_p)
    size = next(enough, len(probs))
    size = sum(prob >= min_p * probs[0] for prob in probs[:size])
    kept = math.fsum(probs[:size])
    return {token: prob / kept for token, prob in zip(order[:size], probs[:size], strict=True)}


def given_logits(vocab_size: int, seed: int) -> np.ndarray:
    return 3 * np.random.default_rng(seed).standard_normal(vocab_size)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.02, 1.0])
def test_candidates_are_those_of_the_definitions(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    """Temperature, top-k, top-p and min-p in this order are what users of other servers know the knobs to mean."""
    logits_V = given_logits(197, seed=int(10 * temperature) + top_k)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    probs_K, tokens_K = candidates(logits_V, sampling)
    expected = reference(logits_V.tolist(), temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert dict(zip(tokens_K.tolist(), probs_K.tolist(), strict=True)) == pytest.approx(expected, rel=1e-12)
    assert probs_K.sum() == pytest.approx(1, rel=1e-12)


def test_candidates_are_those_of_transformers() -> None:
    """The oracle most people come from: the same tokens are left, with the same probabilities."""
    from transformers.generation import logits_process as stock

    logits_V = given_logits(500, seed=3)
    sampling = Sampling(temperature=0.8, top_k=50, top_p=0.8, min_p=0.05)
    scores = torch.tensor(logits_V)[None]
    warpers = (
        stock.TemperatureLogitsWarper(0.8), stock.TopKLogitsWarper(50), stock.TopPLogitsWarper(0.8),
        stock.MinPLogitsWarper(0.05),
    )  # fmt: skip
    for warper in warpers:
        scores = warper(None, scores)
    probs_K, tokens_K = candidates(logits_V, sampling)
    wanted_V = scores[0].softmax(-1).numpy()
    assert sorted(tokens_K.tolist()) == np.flatnonzero(wanted_V).tolist()
    assert probs_K == pytest.approx(wanted_V[tokens_K], rel=1e-9)


@pytest.mark.parametrize(("top_p", "kept"), [(0.49, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (1e-9, 1)])
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: int) -> None:
    """Off by one token here, top_p = 0.5 would let an unlikely token in, or leave none at all."""
    logits_V = np.log(np.array([0.125, 0.5, 0.25, 0.125]))
    _, tokens_K = candidates(logits_V, Sampling(temperature=1, top_p=top_p))
    assert tokens_K.tolist() == [1, 2, 0, 3][:kept]


def test_equal_scores_are_ranked_by_token_id() -> None:
    """In bf16 many logits are equal; an arbitrary order among them would break reproducibility."""
    logits_V = np.zeros(5000, np.float32)
    assert candidates(logits_V, Sampling(top_k=3, top_p=1))[1].tolist() == [0, 1, 2]
    assert candidates(logits_V, Sampling(top_p=0.5))[1].tolist() == list(range(2500))
    assert Sampler(Sampling(temperature=0)).next(logits_V).token == 0


def test_a_wide_nucleus_is_found_whole() -> None:
    """Only a few tokens are sorted at first; flat scores need thousands of them."""
    logits_V = given_logits(6400, seed=0) / 100
    probs_K, tokens_K = candidates(logits_V, Sampling(temperature=1, top_p=0.9))
    wanted = reference(logits_V.tolist(), temperature=1, top_k=0, top_p=0.9)
    assert tokens_K.tolist() == list(wanted)
    assert len(tokens_K) > 5000


def test_a_token_with_a_score_of_minus_infinity_is_never_a_candidate() -> None:
    """Masked tokens must stay impossible when top-p and top-k are off."""
    probs_K, tokens_K = candidates(np.array([0.0, -math.inf, 0.0]), Sampling(top_p=1))
    assert tokens_K.tolist() == [0, 2]
    assert probs_K.tolist() == [0.5, 0.5]


def test_the_penalty_lowers_seen_tokens_whatever_their_sign() -> None:
    """Dividing a negative score would make the token likelier: the well known slip."""
    assert penalised(np.array([2.0, -2.0, 0.0]), penalty=4.0).tolist() == [0.5, -8.0, 0.0]


def test_the_penalty_counts_the_prompt_and_the_answer_so_far() -> None:
    """Greedy decoding with a strong penalty walks through the tokens in order of score, each once."""
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=100), prompt=[0])
    logits_V = np.array([5.0, 4.0, 3.0, 2.0])
    assert [sampler.next(logits_V).token for _ in range(3)] == [1, 2, 3]


def test_presence_and_frequency_count_the_answer_and_not_the_prompt() -> None:
    """OpenAI's definition: score − presence·[said] − frequency·times, over what was said so far."""
    logits_V = np.array([5.0, 4.4, 0.0])
    present = Sampler(Sampling(temperature=0, presence_penalty=1), prompt=[0, 0, 0])
    assert [present.next(logits_V).token for _ in range(4)] == [0, 1, 0, 0]
    frequent = Sampler(Sampling(temperature=0, frequency_penalty=1), prompt=[0, 0, 0])
    assert [frequent.next(logits_V).token for _ in range(5)] == [0, 1, 0, 1, 0]


def test_a_bias_moves_forces_and_bans_tokens() -> None:
    """−100 and 100 are how clients of OpenAI's API forbid and force; a bias beyond the vocabulary says nothing."""
    logits_V = np.array([3.0, 2.0, 1.0], np.float32)

    def first(bias: dict[int, float]) -> int:
        return Sampler(Sampling(temperature=0, logit_bias=bias)).next(logits_V).token

    assert [first({}), first({0: -1.5}), first({0: -100}), first({2: 100}), first({999: 100})] == [0, 1, 1, 2, 0]
    banned = Sampler(Sampling(temperature=5, top_p=1, logit_bias={0: -100, 1: -100}, seed=1))
    assert {banned.next(logits_V).token for _ in range(200)} == {2}


def test_logprobs_are_the_models_own() -> None:
    """What a client is told is the model's belief, not what temperature, penalties and bias made of it."""
    logits_V = given_logits(50, seed=2)
    wanted_V = logits_V - np.log(np.exp(logits_V).sum())
    sampler = Sampler(Sampling(temperature=0, logit_bias={7: 100}, logprobs=3))
    drawn = sampler.next(logits_V)
    assert drawn.token == 7
    assert drawn.logprob == pytest.approx(wanted_V[7])
    best = np.argsort(-wanted_V)[:3]
    assert [token for token, _ in drawn.top] == best.tolist()
    assert [value for _, value in drawn.top] == pytest.approx(wanted_V[best].tolist())
    assert Sampler(Sampling(logprobs=0)).next(logits_V).top == ()
    assert Sampler(Sampling()).next(logits_V).logprob is None


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_not_allowed_is_drawn_again_as_if_it_were_not_there(temperature: float) -> None:
    """Constrained decoding: shares among the allowed stay what they are; also where only an unlikely token is left."""
    logits_V = np.log(np.array([0.5, 0.2, 0.2, 0.1]))
    sampler = Sampler(Sampling(temperature=temperature, top_p=1, seed=4), allowed=lambda token: token != 0)
    draws = np.bincount([sampler.next(logits_V).token for _ in range(3000)], minlength=4) / 3000
    wanted = [0, 0.4, 0.4, 0.2] if temperature else [0, 1, 0, 0]
    assert draws == pytest.approx(wanted, abs=0.04)
    last = Sampler(Sampling(temperature=temperature), allowed=lambda token: token == 299)
    assert last.next(np.linspace(9, 0, 300)).token == 299
    with pytest.raises(DataError, match="none of the model's tokens"):
        Sampler(Sampling(temperature=temperature), allowed=lambda _: False).next(logits_V)
    everything = dict.fromkeys(range(4), -100.0)
    with pytest.raises(DataError, match="none of the model's tokens"):
        Sampler(Sampling(temperature=temperature, logit_bias=everything)).next(logits_V)


def test_draws_follow_the_probabilities() -> None:
    """An error in the draw itself would go unseen by tests of the candidates."""
    probs_V = np.array([0.1, 0.2, 0.3, 0.4])
    sampler = Sampler(Sampling(temperature=1, top_p=1, seed=3))
    draws = [sampler.next(np.log(probs_V)).token for _ in range(4000)]
    assert np.bincount(draws, minlength=4) / 4000 == pytest.approx(probs_V, abs=0.03)  # four standard deviations: 0.031


def test_numbers_of_a_seed_are_spread_evenly() -> None:
    """They come from a hash: neither along one answer nor across the seeds of many may they lean."""
    for numbers in ([uniform(5, n) for n in range(20_000)], [uniform(seed, 1) for seed in range(20_000)]):
        counts, _ = np.histogram(numbers, bins=20, range=(0, 1))
        assert abs(counts - 1000).max() < 160  # five standard deviations
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.04


def test_a_seed_decides_the_draws_and_the_global_generator_plays_no_part() -> None:
    """Other code that draws numbers in the same process must not change an answer, nor the reverse."""

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1, top_p=1, seed=seed))
        return [sampler.next(np.zeros(1000)).token for _ in range(20)]

    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state()
    first = draws(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    np.random.seed(2)
    assert draws(seed=7) == first
    assert draws(seed=8) != first
    assert draws(seed=None) != draws(seed=None)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_an_error(temperature: float, bad: float) -> None:
    """A diverged model must say so instead of answering with token 0 for ever."""
    sampler = Sampler(Sampling(temperature=temperature))
    with pytest.raises(DataError, match="not finite"):
        sampler.next(np.array([0.0, bad, -math.inf]))


def test_a_temperature_near_zero_is_greedy_without_overflow() -> None:
    """Dividing by a denormal gives infinities that must not become NaN."""
    sampler = Sampler(Sampling(temperature=5e-324, top_p=1))
    assert sampler.next(np.array([1.0, 1.0001, -50.0])).token == 1


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("temperature", -0.1, "greater than or equal to 0"),
        ("temperature", math.inf, "finite"),
        ("top_k", -1, "greater than or equal to 0"),
        ("top_p", 0.0, "greater than 0"),
        ("top_p", 1.01, "less than or equal to 1"),
        ("repetition_penalty", 0.0, "greater than or equal to 0.01"),
        ("max_tokens", 0, "greater than or equal to 1"),
        ("stop", [""], "at least 1 character"),
        ("stop", "END", "a list was expected"),
        ("seed", -1, "greater than or equal to 0"),
        ("min_p", 1.5, "less than or equal to 1"),
        ("presence_penalty", -2.5, "greater than or equal to -2"),
        ("frequency_penalty", math.nan, "less than or equal to 2|greater than or equal to -2"),
        ("logprobs", 21, "less than or equal to 20"),
    ],
)
def test_impossible_settings_are_refused_by_name(key: str, value: object, reason: str) -> None:
    """The message names the knob, the limit and what was given."""
    with pytest.raises(ConfigError, match=rf"\[chat\]: `{key}.*{reason}.*given"):
        Sampling.parse({key: value}, origin="[chat]")
    with pytest.raises(ValidationError):
        Sampling(**{key: value})
