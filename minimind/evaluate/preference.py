"""Preference accuracy: does a model find the chosen answer of a pair likelier than the rejected one?

A whole conversation is read, and the log-probabilities of the assistant's tokens are summed, as
DPO does in training. Sums favour short answers, so the accuracy per token is kept beside them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from minimind.errors import DataError
from minimind.evaluate.results import Interval, PreferenceScore, RewardScore
from minimind.evaluate.scoring import LogProbs, document_log_probs
from minimind.model.transformer import Transformer
from minimind.tokens.token_set import TokenSet


@dataclass(frozen=True)
class PairLogProbs:
    """What a model thinks of both sides of the same pairs."""

    chosen: LogProbs
    rejected: LogProbs

    @property
    def margins(self) -> np.ndarray:
        return self.chosen.sums - self.rejected.sums


def usable_pairs(token_set: TokenSet, *, max_tokens: int) -> np.ndarray:
    """The numbers of the pairs of a preference set of which neither side is longer than `max_tokens`."""
    lengths = np.diff(np.asarray(token_set.offsets))
    longest = lengths.reshape(-1, 2).max(axis=1) if len(lengths) else np.zeros(0, np.int64)
    return np.flatnonzero(longest <= max_tokens)


def pair_log_probs(
    model: Transformer, token_set: TokenSet, *, pairs: Sequence[int], batch_tokens: int = 2048
) -> PairLogProbs:
    """Score pairs of a preference token set; pair p is its documents 2p (chosen) and 2p + 1 (rejected)."""
    documents = [document for pair in pairs for document in (2 * pair, 2 * pair + 1)]
    longest = int(np.diff(np.asarray(token_set.offsets)).max(initial=1))  # whole conversations, no windows
    scored = document_log_probs(model, token_set, documents=documents, context=longest, batch_tokens=batch_tokens)
    return PairLogProbs(
        LogProbs(scored.sums[0::2], scored.counts[0::2]),
        LogProbs(scored.sums[1::2], scored.counts[1::2]),
    )


def preference_score(scored: PairLogProbs, *, skipped: int = 0) -> PreferenceScore:
    """The accuracy over scored pairs; a tie is no preference and counts as wrong. Raises DataError without pairs."""
    pairs = len(scored.margins)
    if not pairs:
        raise DataError(
            "preference accuracy: no pair to score; raise `validation_fraction` of the data spec or max_pair_tokens"
        )
    means = [side.sums / np.maximum(side.counts, 1) for side in (scored.chosen, scored.rejected)]
    right = int((scored.margins > 0).sum())
    return PreferenceScore(
        pairs=pairs,
        skipped=skipped,
        accuracy=right / pairs,
        interval=wilson(right, pairs),
        normalised_accuracy=float((means[0] > means[1]).mean()),
        margin=float(scored.margins.mean()),
    )


def reward_score(policy: PairLogProbs, reference: PairLogProbs, *, name: str) -> RewardScore:
    """DPO's implicit reward (Rafailov et al. 2023, equation 7, without β) of a policy over reference model `name`."""
    gains = policy.margins - reference.margins
    right = int((gains > 0).sum())
    return RewardScore(
        reference=name, accuracy=right / len(gains), interval=wilson(right, len(gains)), margin=float(gains.mean())
    )


def wilson(right: int, total: int, *, z: float = 1.959964) -> Interval:
    """The 95 % interval of a share (Wilson 1927): sensible at 0, at 1 and for few trials."""
    share, shrink = right / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / shrink
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half))
