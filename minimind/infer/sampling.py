"""From logits to the next token: repetition penalty, temperature, top-k, top-p, one draw.

The order is Hugging Face's: penalty, temperature, top-k, top-p over what top-k left. Equal logits
are ranked by token id, which matters in bf16, where ties are common: without a fixed order the
same seed would not give the same text.

Everything is computed in float64 on the CPU, whatever the model runs on. A row of logits is small,
the token has to come to the host anyway, and a draw from the CPU's generator is the same on every
device. Not here: beams, log-probabilities, logit bias, grammars.

Axes: V vocabulary, K kept tokens.
"""

from collections.abc import Iterable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from minimind.config import Config
from minimind.errors import DataError

StopString = Annotated[str, Field(min_length=1, max_length=256)]


class Sampling(Config):
    """How an answer is drawn and where it ends.

    The bounds on `stop` keep the search for stop strings cheap for every token, whoever sends them.
    """

    temperature: float = Field(0.7, ge=0, le=100, allow_inf_nan=False)
    """0 takes the likeliest token every time; below 1 sharpens, above 1 flattens."""
    top_k: int = Field(0, ge=0)
    """Draw from the k likeliest tokens only; 0 is off."""
    top_p: float = Field(0.9, gt=0, le=1)
    """Draw from the smallest set of likeliest tokens that holds this much probability; 1 is off."""
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    """Makes tokens of the prompt and the answer so far less likely where above 1 (CTRL, 1909.05858, section 4.1)."""
    max_tokens: int = Field(256, ge=1)
    stop: tuple[StopString, ...] = Field((), max_length=16)
    """The answer ends before the first of these strings."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """The same seed gives the same text; None takes one from the operating system."""


class Sampler:
    """Draws the tokens of one answer; holds its random generator and the tokens seen so far.

    The process's global random state is neither read nor changed.
    """

    def __init__(self, sampling: Sampling, *, vocab_size: int, seen: Iterable[int] = ()) -> None:
        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)
        self._seen_V = torch.zeros(vocab_size, dtype=torch.bool)
        self._seen_V[list(seen)] = True

    def next(self, logits_V: Tensor) -> int:
        """The next token, which then counts as seen. Raises DataError where the logits are not numbers."""
        logits_V = logits_V.detach().to("cpu", torch.float64)
        if not torch.isfinite(logits_V.max()):  # max passes NaN on
            raise DataError(
                "the model's scores for the next token are not finite: its training diverged or its weights "
                "are damaged; take another model, or train it again with a lower lr"
            )
        logits_V = penalise(logits_V, self._seen_V, penalty=self._sampling.repetition_penalty)
        token = int(logits_V.argmax()) if self._sampling.temperature == 0 else self._draw(logits_V)
        self._seen_V[token] = True
        return token

    def _draw(self, logits_V: Tensor) -> int:
        probs_K, tokens_K = candidates(logits_V, self._sampling)
        level = torch.rand((), dtype=torch.float64, generator=self._generator)
        index = int(torch.searchsorted(probs_K.cumsum(0), level, right=True))
        return int(tokens_K[min(index, len(tokens_K) - 1)])  # the sum may end a rounding error below 1


def penalise(logits_V: Tensor, seen_V: Tensor, *, penalty: float) -> Tensor:
    """The logits with seen tokens divided by `penalty` where positive and multiplied by it where negative."""
    if penalty == 1:
        return logits_V
    penalised_V = torch.where(logits_V > 0, logits_V / penalty, logits_V * penalty)
    return torch.where(seen_V, penalised_V, logits_V)


def candidates(logits_V: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The probabilities a token is drawn with and the tokens they belong to, likeliest first; they sum to 1.

    Tokens left out by top-k, top-p or a score of minus infinity are not among them. The
    temperature must be above 0.
    """
    scores_K, tokens_K = (logits_V - logits_V.max()).sort(descending=True, stable=True)
    if sampling.top_k:
        scores_K, tokens_K = scores_K[: sampling.top_k], tokens_K[: sampling.top_k]
    probs_K = torch.softmax(scores_K / sampling.temperature, dim=0)
    if sampling.top_p < 1:
        before_K = functional.pad(probs_K.cumsum(0)[:-1], (1, 0))
        probs_K = probs_K[before_K < sampling.top_p]
    probs_K = probs_K[probs_K > 0]
    return probs_K / probs_K.sum(), tokens_K[: len(probs_K)]
