"""How many characters get a piece of their own: measured on the corpus at hand.

A character that has no piece is spelt in bytes, three tokens for a Chinese one; one that has a piece takes the place of
a merge. sentencepiece asks for this as the *coverage*, the share of all characters that have pieces, and its default of
0.9995 fails on Chinese at 6,400 ids: there are more characters than ids.

So vocabularies are trained on a part of the sample at the coverages that follow from how frequent a character must be,
compared with the rarest merge (`MERGES_PER_CHARACTER`), and measured on text they were not trained on; the best within
`TOLERANCE` is taken. English has one candidate and costs nothing; six megabytes of English and Chinese take about
10 CPU seconds. On 17 MB at 6,400 (bytes per token, English and Chinese): .980 3.21 and 3.03, .986 3.15 and 3.11,
.989 3.10 and 3.14, .992 3.04 and 3.15; byte-level BPE has 3.07 and 3.12.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minimind.errors import ConfigError
from minimind.tokens.vocabulary import train_pieces, training_blocks

MIN_COVERAGE, MAX_COVERAGE = 0.98, 0.9999
"""sentencepiece takes no coverage below .98; the last ten-thousandth of the characters are typing errors."""
MERGES_PER_CHARACTER = (10, 14, 18, 22, 32)
"""A character is worth a piece where it is as frequent as 1 / (this · vocabulary) of all characters."""
TOLERANCE = 0.003
"""Of the candidates within this share of the fewest tokens the one that spells the fewest characters is taken: three
bytes take more positions than a character, and the scripts of the corpus are served more evenly. This and the list
above were settled on one English and Chinese corpus, looking at the very rows `benchmarks/compression.py` measures:
with (6, 10, 16, 25, 40) and 0.25 % Chinese came out 0.4 % behind byte-level BPE there, with these 0.3 % ahead."""
SWEEP_BYTES = 6 << 20
"""Text the candidates are compared on; more changes the choice by less than 0.1 % of the tokens."""
_HELD_OUT = 8
"""One text in so many is measured, the others are learnt from."""


@dataclass(frozen=True)
class Trial:
    """A coverage and how it did; `bytes_per_token` is None where no vocabulary of that size has room for it."""

    coverage: float
    bytes_per_token: float | None


def candidates(characters: Counter[str], vocab_size: int) -> list[float]:
    """The coverages worth a trial, ascending and without doubles."""
    total = characters.total()
    shares = []
    for merges in MERGES_PER_CHARACTER:
        common = sum(count for count in characters.values() if count * vocab_size * merges >= total)
        shares.append(round(min(max(common / total, MIN_COVERAGE), MAX_COVERAGE), 6))
    return sorted(set(shares))


def choose_coverage(texts: Sequence[str], vocab_size: int) -> tuple[float, list[Trial]]:
    """The best coverage for the texts, and the trials; none where there is nothing to choose or to compare on."""
    found = candidates(count_characters(texts), vocab_size)
    learnt = [text for number, text in enumerate(texts) if number % _HELD_OUT]
    held_out = [text for number, text in enumerate(texts) if not number % _HELD_OUT]
    if len(found) == 1 or len(learnt) < _HELD_OUT:
        return found[len(found) // 2], []
    trials = [Trial(share, _compression(learnt, held_out, vocab_size, share)) for share in found]
    best = max(trial.bytes_per_token or 0 for trial in trials)
    good = [trial.coverage for trial in trials if (trial.bytes_per_token or 0) >= best * (1 - TOLERANCE)]
    return (max(good) if best else found[len(found) // 2]), trials


def count_characters(texts: Iterable[str]) -> Counter[str]:
    """How often each character is in what sentencepiece would be fed."""
    characters: Counter[str] = Counter()
    for block in training_blocks(texts):
        characters.update(block)
    return characters


def _compression(learnt: Sequence[str], held_out: Sequence[str], vocab_size: int, coverage: float) -> float | None:
    import kitoken

    try:
        model = train_pieces(learnt, vocab_size=vocab_size, character_coverage=coverage)
    except ConfigError:  # too many characters for the size, or a part too small for it; the real training says so
        return None
    encoder = kitoken.Kitoken.from_sentencepiece(model)
    tokens = sum(len(ids) for ids in encoder.encode_all(held_out, False))
    return round(sum(len(text.encode("utf-8")) for text in held_out) / max(tokens, 1), 4)
