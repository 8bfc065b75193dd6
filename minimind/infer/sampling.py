"""From scores to the next token: bias and penalties, temperature, top-k, top-p, min-p, one draw.

The order is Hugging Face's. Equal scores are ranked by token id, which matters in bf16, where ties are common: without
a fixed order the same seed would not give the same text. A draw is a hash of the seed and of how many were drawn
before, so it depends on no generator and on no other answer.

Computed in float64 with numpy on the host, whatever the model runs on: a row of scores is small, and the token has to
come to the host anyway. Only as many scores are sorted as top-p turns out to need. Not here: beams; what makes a token
impossible (`json_object`).

Axes: V vocabulary, K kept tokens, best first.
"""

import math
import secrets
from collections.abc import Callable, Iterable
from typing import Annotated, NamedTuple

import numpy as np
import xxhash
from pydantic import Field

from minimind.config import Config
from minimind.errors import DataError

StopString = Annotated[str, Field(min_length=1, max_length=256)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Allowed = Callable[[int], bool]
_SORTED_FIRST = 64
"""Tokens that are sorted at first; a nucleus is seldom larger."""
_TRIES = 32
"""Impossible tokens that are drawn and thrown away before all of them are looked for."""


class Sampling(Config):
    """How an answer is drawn and where it ends.

    The bounds on `stop` and `logit_bias` keep what is done for every token cheap, whoever sends them.
    """

    temperature: float = Field(0.7, ge=0, le=100, allow_inf_nan=False)
    """0 takes the likeliest token every time; below 1 sharpens, above 1 flattens."""
    top_k: int = Field(0, ge=0)
    """Draw from the k likeliest tokens only; 0 is off."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Draw from the smallest set of likeliest tokens that holds this much probability; 1 is off."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Draw from tokens at least so many times as likely as the likeliest; 0 is off (2407.01082)."""
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    """Makes tokens of the prompt and the answer so far less likely where above 1 (CTRL, 1909.05858, section 4.1)."""
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    """Taken from the score of every token of the answer so far, as OpenAI does."""
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    """The same, times how often the answer has the token."""
    logit_bias: dict[Annotated[int, Field(ge=0)], Bias] = Field({}, max_length=1024)
    """Added to the scores of tokens, by id; −100 bans one, 100 forces it."""
    max_tokens: int = Field(256, ge=1)
    stop: tuple[StopString, ...] = Field((), max_length=16)
    """The answer ends before the first of these strings."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed gives the same text; None takes one from the operating system."""
    logprobs: int | None = Field(None, ge=0, le=20)
    """Tell the probability of every token, and of so many of the likeliest in its place."""
    json_object: bool = False
    """Only tokens that continue a JSON object; the answer ends with it."""


class Drawn(NamedTuple):
    """The next token, and what was asked for besides: natural logarithms of probabilities under the model itself."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """Draws the tokens of one answer; `prompt` counts for the repetition penalty. `allowed` says what is possible."""

    def __init__(self, sampling: Sampling, *, prompt: Iterable[int] = (), allowed: Allowed | None = None) -> None:
        self._sampling, self._allowed = sampling, allowed
        self._seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._draws = 0
        self._seen = dict.fromkeys(prompt) if sampling.repetition_penalty != 1 else {}
        self._counts: dict[int, int] = {}

    def next(self, logits_V: np.ndarray) -> Drawn:
        """The next token, which then counts as said. Raises DataError where the scores are not numbers."""
        if not np.isfinite(logits_V[logits_V.argmax()]):  # argmax finds NaN
            raise DataError(
                "the model's scores for the next token are not finite: its training diverged or its weights "
                "are damaged; take another model, or train it again with a lower lr"
            )
        token = self._pick(self._changed(logits_V))
        self._counts[token] = self._counts.get(token, 0) + 1
        if self._sampling.repetition_penalty != 1:
            self._seen[token] = None
        if self._sampling.logprobs is None:
            return Drawn(token)
        scores_V = logits_V.astype(np.float64)
        total = _log_sum_exp(scores_V)
        best = _best(scores_V, self._sampling.logprobs) if self._sampling.logprobs else ()
        return Drawn(token, float(scores_V[token] - total), tuple((int(t), float(scores_V[t] - total)) for t in best))

    def _changed(self, logits_V: np.ndarray) -> np.ndarray:
        """The scores in float64 with bias and penalties."""
        sampling, scores_V = self._sampling, logits_V.astype(np.float64)
        for token, bias in sampling.logit_bias.items():
            if token < len(scores_V):
                scores_V[token] = scores_V[token] + bias if bias > -100 else -math.inf
        if self._seen:
            seen = np.fromiter(self._seen, np.int64, len(self._seen))
            scores_V[seen] = penalised(scores_V[seen], penalty=sampling.repetition_penalty)
        if self._counts and (sampling.presence_penalty or sampling.frequency_penalty):
            said = np.fromiter(self._counts, np.int64, len(self._counts))
            times = np.fromiter(self._counts.values(), np.float64, len(self._counts))
            scores_V[said] -= sampling.presence_penalty + sampling.frequency_penalty * times
        return scores_V

    def _pick(self, scores_V: np.ndarray) -> int:
        """A possible token. One that is not is drawn again without it: the same as if it had been left out before."""
        allowed = self._allowed
        if allowed is None:
            return self._draw(scores_V)
        for _ in range(_TRIES):
            token = self._draw(scores_V)
            if allowed(token):
                return token
            scores_V[token] = -math.inf
        scores_V[[token for token in range(len(scores_V)) if not allowed(token)]] = -math.inf
        return self._draw(scores_V)

    def _draw(self, scores_V: np.ndarray) -> int:
        if not np.isfinite(scores_V.max()):
            raise DataError("none of the model's tokens can continue the answer as it was asked for")
        if self._sampling.temperature == 0:
            return int(scores_V.argmax())
        probs_K, tokens_K = candidates(scores_V, self._sampling)
        self._draws += 1
        place = np.searchsorted(probs_K.cumsum(), uniform(self._seed, self._draws), side="right")
        return int(tokens_K[min(int(place), len(tokens_K) - 1)])  # the sum may end a rounding error below 1


def uniform(seed: int, number: int) -> float:
    """The so-manyth number of a seed, from 0 up to but without 1."""
    return (xxhash.xxh3_64_intdigest(number.to_bytes(8, "little"), seed=seed) >> 11) * 2.0**-53


def penalised(scores: np.ndarray, *, penalty: float) -> np.ndarray:
    """Scores divided by `penalty` where positive and multiplied by it where negative."""
    return np.where(scores > 0, scores / penalty, scores * penalty)


def candidates(scores_V: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities a token is drawn with and the tokens they belong to; they sum to 1.

    The likeliest first, or in the order of their ids where nothing is left out by top-k, top-p or min-p. Tokens with a
    score of minus infinity are never among them. The temperature must be above 0.
    """
    with np.errstate(over="ignore", under="ignore"):  # a temperature near 0 makes infinities, whose exponential is 0
        scaled_V = (scores_V - scores_V.max()) / sampling.temperature
    if not sampling.top_k and sampling.top_p == 1 and not sampling.min_p:
        tokens_K = np.flatnonzero(scaled_V > -math.inf)
        probs_K = np.exp(scaled_V[tokens_K])
        return probs_K / probs_K.sum(), tokens_K
    tokens_K, probs_K = _nucleus(scaled_V, sampling)
    if sampling.min_p:
        probs_K = probs_K[probs_K >= sampling.min_p * probs_K[0]]
    probs_K = probs_K[probs_K > 0]
    return probs_K / probs_K.sum(), tokens_K[: len(probs_K)]


def _nucleus(scaled_V: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """The tokens that top-k and then top-p leave, and their shares."""
    if sampling.top_k:
        tokens_K = _best(scaled_V, sampling.top_k)
        weights_K = np.exp(scaled_V[tokens_K])
        return _reaching(tokens_K, weights_K / weights_K.sum(), sampling.top_p)
    total, count = np.exp(scaled_V).sum(), _SORTED_FIRST
    while True:
        tokens_K = _best(scaled_V, count)
        shares_K = np.exp(scaled_V[tokens_K]) / total
        # The rest may hold less than rounding, so a sum that misses top-p by no more has everything.
        if count >= len(scaled_V) or (sampling.top_p < 1 and shares_K.sum() >= sampling.top_p):
            return _reaching(tokens_K, shares_K, sampling.top_p)
        count *= 8


def _reaching(tokens_K: np.ndarray, shares_K: np.ndarray, top_p: float) -> tuple[np.ndarray, np.ndarray]:
    """The first tokens that hold `top_p` together."""
    if top_p == 1:
        return tokens_K, shares_K
    kept = 1 + int(np.searchsorted(shares_K.cumsum()[:-1], top_p))
    return tokens_K[:kept], shares_K[:kept]


def _best(scores_V: np.ndarray, count: int) -> np.ndarray:
    """The tokens with the highest scores, best first, equal ones by id."""
    if count >= len(scores_V):
        return np.argsort(-scores_V, kind="stable")
    least = np.partition(scores_V, -count)[-count]
    pool = np.flatnonzero(scores_V >= least)
    return pool[np.argsort(-scores_V[pool], kind="stable")[:count]]


def _log_sum_exp(scores_V: np.ndarray) -> float:
    highest = scores_V.max()
    return float(highest + np.log(np.exp(scores_V - highest).sum()))
