"""Sampling: the mathematics against plain Python references, reproducibility, and refused settings."""

import math

import pytest
import torch
from pydantic import ValidationError

from minimind.errors import ConfigError, DataError
from minimind.infer.sampling import Sampler, Sampling, candidates, penalise


def reference(logits: list[float], *, temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Token → probability by the definitions, in plain Python floats."""
    order = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    order = order[:top_k] if top_k else order
    weights = [math.exp((logits[token] - logits[order[0]]) / temperature) for token in order]
    probs = [weight / math.fsum(weights) for weight in weights]
    enough = (n for n in range(1, len(probs)) if top_p < 1 and math.fsum(probs[:n]) >= top_p)
    size = next(enough, len(probs))
    kept = math.fsum(probs[:size])
    return {token: prob / kept for token, prob in zip(order[:size], probs[:size], strict=True)}


def given_logits(vocab_size: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 7, 500])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 1.0])
def test_candidates_are_those_of_the_definitions(temperature: float, top_k: int, top_p: float) -> None:
    """Temperature, top-k and top-p applied in this order are what users of other servers know the knobs to mean."""
    logits_V = given_logits(97, seed=int(10 * temperature) + top_k)
    probs_K, tokens_K = candidates(logits_V, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    expected = reference(logits_V.tolist(), temperature=temperature, top_k=top_k, top_p=top_p)
    assert tokens_K.tolist() == list(expected)
    assert probs_K.tolist() == pytest.approx(list(expected.values()), rel=1e-12)


@pytest.mark.parametrize(("top_p", "kept"), [(0.49, 1), (0.5, 1), (0.51, 2), (0.75, 2), (0.76, 3), (1e-9, 1)])
def test_top_p_keeps_the_smallest_set_that_reaches_p(top_p: float, kept: int) -> None:
    """Off by one token here, top_p = 0.5 would let an unlikely token in, or leave none at all."""
    logits_V = torch.tensor([0.125, 0.5, 0.25, 0.125], dtype=torch.float64).log()
    _, tokens_K = candidates(logits_V, Sampling(temperature=1, top_p=top_p))
    assert tokens_K.tolist() == [1, 2, 0, 3][:kept]


def test_equal_scores_are_ranked_by_token_id() -> None:
    """In bf16 many logits are equal; an arbitrary order among them would break reproducibility."""
    logits_V = torch.zeros(5000)
    assert candidates(logits_V, Sampling(top_k=3, top_p=1))[1].tolist() == [0, 1, 2]
    assert Sampler(Sampling(temperature=0), vocab_size=5000).next(logits_V) == 0


def test_a_token_with_a_score_of_minus_infinity_is_never_a_candidate() -> None:
    """Masked tokens must stay impossible when top-p and top-k are off."""
    probs_K, tokens_K = candidates(torch.tensor([0.0, -math.inf, 0.0]), Sampling(top_p=1))
    assert tokens_K.tolist() == [0, 2]
    assert probs_K.tolist() == [0.5, 0.5]


def test_the_penalty_lowers_seen_tokens_whatever_their_sign() -> None:
    """Dividing a negative score would make the token likelier: the well known slip."""
    logits_V = torch.tensor([2.0, -2.0, 0.0, 2.0, -2.0], dtype=torch.float64)
    seen_V = torch.tensor([True, True, True, False, False])
    assert penalise(logits_V, seen_V, penalty=4.0).tolist() == [0.5, -8.0, 0.0, 2.0, -2.0]


def test_the_penalty_counts_the_prompt_and_the_answer_so_far() -> None:
    """Greedy decoding with a strong penalty walks through the tokens in order of score, each once."""
    sampler = Sampler(Sampling(temperature=0, repetition_penalty=100), vocab_size=4, seen=[0])
    logits_V = torch.tensor([5.0, 4.0, 3.0, 2.0])
    assert [sampler.next(logits_V) for _ in range(3)] == [1, 2, 3]


def test_draws_follow_the_probabilities() -> None:
    """An error in the draw itself would go unseen by tests of the candidates."""
    probs_V = torch.tensor([0.1, 0.2, 0.3, 0.4])
    sampler = Sampler(Sampling(temperature=1, top_p=1, seed=3), vocab_size=4)
    draws = torch.tensor([sampler.next(probs_V.log()) for _ in range(4000)])
    shares_V = torch.bincount(draws, minlength=4) / 4000
    assert torch.allclose(shares_V, probs_V, atol=0.03)  # four standard deviations are 0.031


def test_a_seed_decides_the_draws_and_the_global_generator_plays_no_part() -> None:
    """Other code that draws numbers in the same process must not change an answer, nor the reverse."""

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(Sampling(temperature=1, top_p=1, seed=seed), vocab_size=1000)
        return [sampler.next(torch.zeros(1000)) for _ in range(20)]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = draws(seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert draws(seed=7) == first
    assert draws(seed=8) != first
    assert draws(seed=None) != draws(seed=None)


@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_no_numbers_are_an_error(temperature: float, bad: float) -> None:
    """A diverged model must say so instead of answering with token 0 for ever."""
    sampler = Sampler(Sampling(temperature=temperature), vocab_size=3)
    with pytest.raises(DataError, match="not finite"):
        sampler.next(torch.tensor([0.0, bad, -math.inf]))


def test_a_temperature_near_zero_is_greedy_without_overflow() -> None:
    """Dividing by a denormal gives infinities that must not become NaN."""
    sampler = Sampler(Sampling(temperature=5e-324, top_p=1), vocab_size=3)
    assert sampler.next(torch.tensor([1.0, 1.0001, -50.0])) == 1


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("temperature", -0.1, "greater than or equal to 0"),
        ("temperature", math.inf, "finite"),
        ("top_k", -1, "greater than or equal to 0"),
        ("top_p", 0.0, "greater than 0"),
        ("top_p", 1.01, "less than or equal to 1"),
        ("repetition_penalty", 0.0, "greater than 0"),
        ("max_tokens", 0, "greater than or equal to 1"),
        ("stop", [""], "at least 1 character"),
        ("stop", "END", "tuple"),
        ("seed", -1, "greater than or equal to 0"),
    ],
)
def test_impossible_settings_are_refused_by_name(key: str, value: object, reason: str) -> None:
    """The message names the knob, the limit and what was given."""
    with pytest.raises(ConfigError, match=rf"\[chat\]: `{key}.*{reason}.*given"):
        Sampling.parse({key: value}, origin="[chat]")
    with pytest.raises(ValidationError):
        Sampling(**{key: value})
