"""`contamination`: training texts that hold questions of the evaluation sets are left out.

Pieces of the questions are looked up for a whole batch (`evaluation_index`). A text with enough pieces of one
question is then read beside it: where the question stands, how much of it is there, and which choices follow. So
other text around, other letters before the choices, "Answer: C" and small edits hide nothing, while a question that
anybody may ask ("Which of the following is true?") is no leak without its choices.

Not found: translations and paraphrases. The passage a reading question is about (`context` beside `question`) may
stand in a text; only the question may not.
"""

import re
from collections.abc import Container, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import kind_table
from minimind.data.rules.evaluation_index import EvaluationIndex, load_index, without_common
from minimind.data.rules.evaluation_pieces import FIRST_CJK, letters_of, pieces_of
from minimind.data.rules.evaluation_sets import Item, digest_of
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Texts

CJK_WEIGHT = 3
LONG_QUESTION = 100
"""Latin letters (a CJK character is three) from which on a question alone is a leak: some 20 words."""
QUOTED_QUESTION = 48
"""From which on a question is a leak that was written for the set and stands there to the letter: ten words."""
ANSWERED_QUESTION = 36
"""The same where its right answer follows at once, however short."""
ANSWER_REACH = 20
"""Letters that may stand between a question and such an answer: "Answer:", "The right one is"."""
MIN_EVIDENCE = 24
"""Latin letters of question and choices together that must be found: less stands anywhere by chance."""
MIN_CHOICES = 12
"""Of a single choice behind its question: three words, or four Chinese characters."""
MIN_ANSWER = 8
"""Of the right choice behind its question, when no other is there."""
LOOKED_FOR = 0.5
"""Of `leak_share`: the share of the pieces for which a text is read; an edit takes several pieces at once."""
FOUND = 0.8
"""The share of a choice that must be there: one slip in a short one."""
MIN_ESCAPES = 8
"""Characters written as JSON escapes them, from which on a text is read once more without: Chinese questions are."""
EDITED = 0.4
"""The share of runs from which on a short part may be there with slips: each slip takes 3 or 6 of them."""
ALIGNED = 120
"""Letters of parts that are compared letter by letter; in longer ones slips matter less, and the time grows."""
FEW_RUNS = 150
"""Up to so many runs are looked for in the text itself, more in the set of its runs: that is when it pays."""
BETWEEN = 160
"""Letters that may stand between a question and its choices, or be put in among them."""


def find_leaks(texts: Texts, settings: CleanRules) -> dict[int, Dropped]:
    """The texts with a question of one of `settings.evaluation`."""
    if not settings.evaluation or not len(texts):
        return {}
    index = load_index(tuple(settings.evaluation))
    leaks = _leaks(texts, index, settings.leak_share)
    escaped, read = without_escapes(texts, but=leaks)
    leaks |= {escaped[i]: leak for i, leak in _leaks(read, index, settings.leak_share).items()}
    return {i: Dropped("evaluation_leak", _detail(*leaks[i], settings.leak_share)) for i in sorted(leaks)}


def find_items(
    texts: Texts, index: EvaluationIndex, share: float, *, most: int | None = None
) -> Iterator[tuple[int, int, "Found"]]:
    """(text, number of the item in `index`, what of it stands there) for all that come near a leak at that share.

    With `most`, items are looked for by pieces that stand in the texts no more often than that, if they have some:
    a thousand times faster where items and texts follow the same templates, for which texts must be many.
    """
    if not len(texts):
        return
    for text, near in groupby(_candidates(texts, index, share * LOOKED_FOR, most), key=itemgetter(0)):
        letters = letters_of(texts.texts[text])
        for _, item, place in near:
            found = _compare(letters, index.items[item], place, least=share / 2)
            if found is not None:
                yield text, item, found


def without_escapes(texts: Texts, *, but: Container[int] = ()) -> tuple[list[int], Texts]:
    """The numbers of the texts with characters as JSON escapes them, but for some, and what they are without."""
    slashes = texts.histogram[:, kind_table()[ord("\\")]]
    several = np.flatnonzero(slashes >= MIN_ESCAPES).tolist()
    escaped = [i for i in several if i not in but and _ESCAPE.search(texts.texts[i])]
    return escaped, Texts([_ESCAPE.sub(lambda match: chr(int(match[1], 16)), texts.texts[i]) for i in escaped])


_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
"""A character as JSON within a text may write it: `\\u4e2d`."""


def _leaks(texts: Texts, index: EvaluationIndex, share: float) -> dict[int, tuple["Found", Item]]:
    """The texts with a question of `index`: the one of which most was found, and how much."""
    leaks: dict[int, tuple[Found, Item]] = {}
    for text, item, found in find_items(texts, index, share):
        if found.is_leak(share) and (text not in leaks or found.evidence > leaks[text][0].evidence):
            leaks[text] = (found, index.items[item])
    return leaks


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
    is_quoted: bool
    """Whether the question stands there whole, and is enough of one."""

    @property
    def evidence(self) -> float:
        """Latin letters that were found."""
        return self.question * self.question_weight + self.choices_weight

    @property
    def share(self) -> float:
        """The share of the letters of question and choices that was found; a choice counts whole or not at all."""
        return self.evidence / max(1, self.question_weight + self.all_choices_weight)

    def is_leak(self, share: float) -> bool:
        """A long question; a question with half its choices, or the right one; much of one with all its choices."""
        if self.evidence < MIN_EVIDENCE:
            return False
        if self.question >= share:
            half = self.choices >= (self.num_choices + 1) // 2 and self.choices_weight >= MIN_CHOICES
            several = 2 <= self.choices >= (self.num_choices + 1) // 2
            return self.question_weight >= LONG_QUESTION or half or several or self.has_answer or self.is_quoted
        whole = self.question_weight + self.all_choices_weight
        return 2 <= self.choices == self.num_choices and self.question >= share / 2 and self.evidence >= share * whole


def _detail(found: Found, item: Item, share: float) -> str:
    choices = f", {found.choices} of {found.num_choices} choices" if found.num_choices else ""
    return f"{item.name} of {item.file}: {found.question:.0%} of the question{choices}; leak_share is {share}"


def _candidates(texts: Texts, index: EvaluationIndex, share: float, most: int | None) -> list[tuple[int, int, int]]:
    """(text, item, where in the text's letters the item may begin), where a text has that share of its pieces,
    or of those of its question."""
    pieces = pieces_of(texts, index.may_be)
    if most is not None:
        index, pieces = without_common(index, pieces, most)
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


def _compare(text: str, item: Item, place: int, *, least: float) -> Found | None:
    """How much of an item stands in the letters of a text around `place`; None if less than `least` of its question."""
    choices = [choice for choice in item.choices if choice]
    begin = max(0, place - BETWEEN)
    near = text[begin : place + len(item.question) + BETWEEN]
    question = _share(item.question, near) if item.question else 1.0
    if question < min(EDITED, least):
        return None
    behind = place + len(item.question) - len(item.question) // 4
    reach = sum(map(len, choices)) + BETWEEN
    tail = text[max(0, behind) : max(0, behind) + len(item.question) // 4 + reach]
    head = text[max(0, place - reach) : max(0, place)]
    there = [choice for choice in choices if _share(choice, tail) >= FOUND or _share(choice, head) >= FOUND]
    if EDITED <= question < FOUND and len(item.question) <= ALIGNED and there:
        question = max(question, _aligned(item.question, near))
    return Found(
        question=question,
        question_weight=_weight(item.question),
        choices=len(there),
        num_choices=len(choices),
        choices_weight=sum(map(_weight, there)),
        all_choices_weight=sum(map(_weight, choices)),
        has_answer=bool(item.answer) and _share(item.answer, tail) >= FOUND and _weight(item.answer) >= MIN_ANSWER,
        is_quoted=_is_quoted(near, item),
    )


def _is_quoted(near: str, item: Item) -> bool:
    at = near.find(item.question) if item.asks else -1
    if at < 0:
        return False
    behind = near[at + len(item.question) :]
    is_answered = bool(item.answer) and 0 <= behind.find(item.answer) <= ANSWER_REACH
    return _weight(item.question) >= (ANSWERED_QUESTION if is_answered else QUOTED_QUESTION)


def _share(part: str, text: str) -> float:
    """The share of the short runs of `part` that stand in `text`; 1 or 0 if it is as short as a run itself."""
    if part in text:
        return 1.0
    size = 3 if 2 * _count_cjk(part) > len(part) else 6
    if len(part) <= size:
        return 0.0
    size = min(size, (len(part) + 1) // 3)
    runs = [part[at : at + size] for at in range(len(part) - size + 1)]
    is_long = len(runs) > FEW_RUNS
    there = {text[at : at + size] for at in range(len(text) - size + 1)} if is_long else text
    return sum(run in there for run in runs) / len(runs)


def _aligned(part: str, text: str) -> float:
    """The share of the letters of `part` that stand in `text` one after the other in pieces: two slips in a line
    take most runs away, but few letters."""
    blocks = SequenceMatcher(None, text, part, autojunk=False).get_matching_blocks()
    ends = [(block.a, block.a + block.size) for block in blocks if block.size > 1]
    if not ends or ends[-1][1] - ends[0][0] > len(part) + len(part) // 4:
        return 0.0
    return sum(end - start for start, end in ends) / len(part)


def _weight(text: str) -> int:
    return len(text) + (CJK_WEIGHT - 1) * _count_cjk(text)


def _count_cjk(text: str) -> int:
    return 0 if text.isascii() else sum(ord(char) >= FIRST_CJK for char in text)
