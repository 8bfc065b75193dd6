"""How much of an answer repeats itself.

Not here: repetition in the corpus, whose rules count characters, lines and words (`minimind.data.rules.repetition`).
"""

from collections.abc import Sequence

GRAM = 4


def repetition_rate(tokens: Sequence[int]) -> float:
    """The share of 4-grams that occurred before in the same answer; 0 for fewer than four tokens."""
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
