"""`contamination`: training texts that hold questions of the evaluation sets are left out.

Pieces of the questions are looked up for a whole batch (`evaluation_index`). A text with enough pieces of one
question is then read beside it: where the question stands, how much of it is there, and which choices follow. So
other text around, other letters before the choices, "Answer: C" and small edits hide nothing, while a question that
anybody may ask ("Which of the following is true?") is no leak without its choices.

Not found: translations and paraphrases. The passage a reading question is about (`context` beside `question`) may
stand in a text; only the question may not.
"""

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minimind.data.rules.evaluation_index import EvaluationIndex, load_index
from minimind.data.rules.evaluation_pieces import FIRST_CJK, letters_of, pieces_of
from minimind.data.rules.evaluation_sets import Item, digest_of
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts

CJK_WEIGHT = 3
LONG_QUESTION = 100
"""Latin letters (a CJK character is three) from which on a question alone is a leak: some 20 words."""
MIN_EVIDENCE = 24
"""Latin letters of question and choices together that must be found: less stands anywhere by chance."""
MIN_CHOICES = 12
"""Of a single choice behind its question: three words, or four Chinese characters."""
MIN_ANSWER = 8
"""Of the right choice behind its question, when no other is there."""
LOOKED_FOR = 0.5
"""Of `leak_share`: the share of the pieces for which a text is read; an edit takes several pieces at once."""
BETWEEN = 160
"""Letters that may stand between a question and its choices, or be put in among them."""


def find_leaks(texts: Texts, settings: CleanRules) -> dict[int, Dropped]:
    """The texts with a question of one of `settings.evaluation`."""
    if not settings.evaluation or not len(texts):
        return {}
    index = load_index(tuple(settings.evaluation))
    candidates = _candidates(texts, index, settings.leak_share * LOOKED_FOR)
    leaks: dict[int, tuple[Found, Item]] = {}
    for text, found_there in groupby(candidates, key=itemgetter(0)):
        letters = letters_of(texts.texts[text])
        compared = [(_compare(letters, index.items[item], place), index.items[item]) for _, item, place in found_there]
        known = [(found, item) for found, item in compared if found.is_leak(settings.leak_share)]
        if known:
            leaks[text] = max(known, key=lambda pair: pair[0].evidence)
    return {text: Dropped("evaluation_leak", _detail(*leak, settings.leak_share)) for text, leak in leaks.items()}


def evaluation_digests(settings: CleanRules) -> dict[str, str]:
    """sha256 of each evaluation file by its name: they decide what is dropped, so they belong to the fingerprint."""
    digests: dict[str, str] = {}
    for name in settings.evaluation if settings.contamination else ():
        key, count = Path(name).name, 1
        while key in digests:
            count += 1
            key = f"{Path(name).name} ({count})"
        digests[key] = digest_of(name)
    return digests


@dataclass(frozen=True)
class Found:
    """What of an item stands in a text, as shares of its letters; and how much that is, in Latin letters."""

    question: float
    question_weight: int
    choices: int
    num_choices: int
    choices_weight: int
    all_choices_weight: int
    has_answer: bool

    @property
    def evidence(self) -> float:
        """Latin letters that were found."""
        return self.question * self.question_weight + self.choices_weight

    def is_leak(self, share: float) -> bool:
        """A long question; a question with half its choices, or the right one; much of one with all its choices."""
        if self.evidence < MIN_EVIDENCE:
            return False
        if self.question >= share:
            half = self.choices >= (self.num_choices + 1) // 2 and self.choices_weight >= MIN_CHOICES
            several = 2 <= self.choices >= (self.num_choices + 1) // 2
            return self.question_weight >= LONG_QUESTION or half or several or self.has_answer
        whole = self.question_weight + self.all_choices_weight
        return 2 <= self.choices == self.num_choices and self.question >= share / 2 and self.evidence >= share * whole


def _detail(found: Found, item: Item, share: float) -> str:
    choices = f", {found.choices} of {found.num_choices} choices" if found.num_choices else ""
    return f"{item.name} of {item.file}: {found.question:.0%} of the question{choices}; leak_share is {share}"


def _candidates(texts: Texts, index: EvaluationIndex, share: float) -> list[tuple[int, int, int]]:
    """(text, item, where in the text's letters the item may begin), where a text has that share of its pieces,
    or of those of its question."""
    pieces = pieces_of(texts, index.may_be)
    if not len(index.hashes) or not len(pieces.hashes):
        return []
    at = np.minimum(np.searchsorted(index.hashes, pieces.hashes), len(index.hashes) - 1)
    found = np.flatnonzero(index.hashes[at] == pieces.hashes)
    at = at[found]
    counts = index.first[at + 1] - index.first[at]
    entry = np.repeat(index.first[at] - np.concatenate(([0], np.cumsum(counts)[:-1])), counts) + np.arange(counts.sum())
    items = index.owners[entry]
    begins = np.repeat(pieces.places[found], counts) - index.places[entry]
    pairs = np.repeat(pieces.owners[found], counts) * len(index.items) + items
    return _dense(pairs, entry, begins, index, share)


def _dense(
    pairs: npt.NDArray[np.int64],
    entries: npt.NDArray[np.int64],
    begins: npt.NDArray[np.int64],
    index: EvaluationIndex,
    share: float,
) -> list[tuple[int, int, int]]:
    order = np.lexsort((entries, pairs))
    pairs, entries, begins = pairs[order], entries[order], begins[order]
    is_new = np.ones(len(pairs), np.bool_)
    is_new[1:] = (pairs[1:] != pairs[:-1]) | (entries[1:] != entries[:-1])
    different, first, inverse = np.unique(pairs, return_index=True, return_inverse=True)
    counts = np.bincount(inverse, weights=is_new)
    of_questions = np.bincount(inverse, weights=is_new & index.is_question[entries])
    whole, questions = index.pieces[different % len(index.items)], index.question_pieces[different % len(index.items)]
    is_enough = (counts >= share * whole) | ((questions > 0) & (of_questions >= share * questions))
    enough = np.flatnonzero(is_enough)
    ends = np.append(first, len(pairs))
    return [
        (
            int(different[at]) // len(index.items),
            int(different[at]) % len(index.items),
            _usual(begins[first[at] : ends[at + 1]]),
        )
        for at in enough.tolist()
    ]


def _usual(begins: npt.NDArray[np.int64]) -> int:
    """Where most pieces say that the item begins, give or take what was edited."""
    begins = np.sort(begins)
    near = np.searchsorted(begins, begins + BETWEEN, side="right") - np.arange(len(begins))
    return int(begins[near.argmax()])


def _compare(text: str, item: Item, place: int) -> Found:
    """How much of an item stands in the letters of a text around `place`."""
    choices = [choice for choice in item.choices if choice]
    begin = max(0, place - BETWEEN)
    behind = place + len(item.question) - len(item.question) // 4
    reach = sum(map(len, choices)) + BETWEEN
    near = text[begin : place + len(item.question) + BETWEEN]
    tail = text[max(0, behind) : max(0, behind) + len(item.question) // 4 + reach]
    there = [choice for choice in choices if _share(choice, tail) >= 0.8]
    return Found(
        question=_share(item.question, near) if item.question else 1.0,
        question_weight=_weight(item.question),
        choices=len(there),
        num_choices=len(choices),
        choices_weight=sum(map(_weight, there)),
        all_choices_weight=sum(map(_weight, choices)),
        has_answer=bool(item.answer) and _share(item.answer, tail) >= 0.8 and _weight(item.answer) >= MIN_ANSWER,
    )


def _share(part: str, text: str) -> float:
    """The share of the short runs of `part` that stand in `text`; 1 or 0 if it is as short as a run itself."""
    size = 3 if 2 * sum(ord(char) >= FIRST_CJK for char in part) > len(part) else 6
    if len(part) <= size:
        return float(part in text)
    size = min(size, (len(part) + 1) // 3)
    runs = [part[at : at + size] for at in range(len(part) - size + 1)]
    there = {text[at : at + size] for at in range(len(text) - size + 1)}
    return sum(run in there for run in runs) / len(runs)


def _weight(text: str) -> int:
    return sum(CJK_WEIGHT if ord(char) >= FIRST_CJK else 1 for char in text)
