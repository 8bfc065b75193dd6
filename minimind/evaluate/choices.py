"""Multiple choice and cloze: which of the ways to go on does a model find likeliest?

Three ways to ask, and each is a metric:

    accuracy             the choice itself behind the question, its log-probability summed
    accuracy_normalised  the same by the choice's characters (what lm-eval calls acc_norm)
    accuracy_letters     the choices listed behind letters, and the letter is scored

Log-probabilities are means over several wordings of the question, and for letters over several orders of the choices:
the list is turned round, so that every choice stands behind every letter. Orders start from the choices sorted by
their text, so that the order in which a file has them changes nothing. A tie shares the point.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from minimind.data.rules.evaluation_pieces import FIRST_CJK
from minimind.data.rules.evaluation_sets import Item
from minimind.errors import DataError
from minimind.evaluate.continuations import Question, choice_scores, encode_question
from minimind.evaluate.intervals import Values
from minimind.evaluate.material import Facts, Measured, Ngrams, Subject
from minimind.evaluate.results import Kind

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
WORDINGS: dict[str, tuple[str, ...]] = {
    "zh": ("问题：{question}\n答案：", "{question}\n"),
    "en": ("Question: {question}\nAnswer:", "{question}\n"),
}
"""By language of a question; what is not Chinese is asked in English."""
LETTER_WORDINGS = {"zh": "{question}\n{choices}\n答案：", "en": "{question}\n{choices}\nAnswer:"}


@dataclass(frozen=True)
class ChoiceItem:
    """A question and its choices; `answer` is the number of the right one."""

    question: str
    choices: tuple[str, ...]
    answer: int
    context: str = ""
    """A text that the question is about, which stands before it."""


@dataclass(frozen=True)
class Choices:
    """Questions to choose at (`choices`), or beginnings to go on from (`cloze`)."""

    name: str
    about: str
    facts: Sequence[Facts]
    items: Sequence[ChoiceItem]
    kind: Kind = "choices"
    wordings: Sequence[str] = ()
    """How questions are put, with {question}; without any as `WORDINGS` has it for their language."""
    orders: int = 4
    """Orders of the choices behind letters; 0 does not ask by letter."""
    skipped: Mapping[str, int] = field(default_factory=dict)

    def measure(self, subject: Subject) -> Measured:
        direct = self._direct()
        sums = _mean_log_probs(subject, direct, self.items)
        sizes = [np.array([max(1, len(choice)) for choice in item.choices]) for item in self.items]
        measured = {
            "accuracy": self._points(sums),
            "accuracy_normalised": self._points([a / b for a, b in zip(sums, sizes, strict=True)]),
        }
        if self.kind == "choices" and self.orders:
            measured["accuracy_letters"] = self._points(_mean_log_probs(subject, self._by_letter(), self.items))
        return measured

    def baseline(self, ngrams: Ngrams) -> Measured:
        """An n-gram knows nothing of letters."""
        if ngrams.text is None:
            return {}
        ngram, sums = ngrams.text, [np.zeros(len(item.choices)) for item in self.items]
        for asked in self._direct():
            pairs = [(asked.context.encode("utf-8"), one.encode("utf-8")) for one in asked.continuations]
            sums[asked.item][list(asked.choices)] -= ngram.bits_behind(pairs)
        sizes = [np.array([max(1, len(choice)) for choice in item.choices]) for item in self.items]
        return {
            "accuracy": self._points(sums),
            "accuracy_normalised": self._points([a / b for a, b in zip(sums, sizes, strict=True)]),
        }

    def chance(self) -> dict[str, float]:
        guessed = float(np.mean([1 / len(item.choices) for item in self.items]))
        names = ("accuracy", "accuracy_normalised", "accuracy_letters")
        return dict.fromkeys(names[: 3 if self.kind == "choices" and self.orders else 2], guessed)

    def questions(self) -> list[Item]:
        asks = self.kind == "choices"
        return [
            # which of two sentences is right: that one is the secret
            Item(facts.id, self.name, item.choices[item.answer], (), "", asks=False)
            if not item.question.strip()
            else Item(facts.id, self.name, item.question, item.choices, item.choices[item.answer], asks=asks)
            for facts, item in zip(self.facts, self.items, strict=True)
        ]

    def _points(self, scores: Sequence[np.ndarray]) -> Values:
        points = np.zeros(len(self.items))
        for number, (item, score) in enumerate(zip(self.items, scores, strict=True)):
            alike = np.array([[one == other for other in item.choices] for one in item.choices])
            told = (alike @ score) / alike.sum(1)  # of choices that read the same none is likelier
            best = told >= told.max() - TIE
            points[number] = best[item.answer] / best.sum()
        return Values.of(points)

    def _direct(self) -> list["_Asked"]:
        """Every question in each of its wordings, with the choices to go on with."""
        return [
            _Asked(number, context, tuple(_behind(context, choice) for choice in item.choices))
            for number, (facts, item) in enumerate(zip(self.facts, self.items, strict=True))
            for context in self._contexts(facts, item)
        ]

    def _contexts(self, facts: Facts, item: ChoiceItem) -> Iterator[str]:
        if self.kind == "cloze":
            yield item.question
            return
        for wording in self.wordings or WORDINGS[_asked_in(facts, item)]:
            yield _with_text(item, wording.format(question=item.question))

    def _by_letter(self) -> list["_Asked"]:
        """Every question with its choices listed, in several orders."""
        asked = []
        for number, (facts, item) in enumerate(zip(self.facts, self.items, strict=True)):
            wording = LETTER_WORDINGS[_asked_in(facts, item)]
            for order in _orders(item.choices, self.orders):
                listed = "\n".join(f"{LETTERS[at]}. {item.choices[choice]}" for at, choice in enumerate(order))
                context = _with_text(item, wording.format(question=item.question, choices=listed))
                letters = tuple(_behind(context, LETTERS[at]) for at in range(len(order)))
                asked.append(_Asked(number, context, letters, order))
        return asked


TIE = 1e-9
"""Nats that do not make one choice likelier than another: a mean of the same numbers in another order."""


@dataclass(frozen=True)
class _Asked:
    """One item, put in one way."""

    item: int
    context: str
    continuations: tuple[str, ...]
    order: tuple[int, ...] = ()
    """Which choice each continuation stands for; as they come where it is empty."""

    @property
    def choices(self) -> Sequence[int]:
        return self.order or range(len(self.continuations))


def check_item(question: str, choices: Sequence[str], answer: int, *, kind: Kind, where: str) -> None:
    """Raise DataError for an item that cannot be measured. A cloze may begin with its choices."""
    problem = ""
    if len(choices) < 2:
        problem = f"has {len(choices)} choices; two are needed"
    elif len(choices) > len(LETTERS):
        problem = f"has {len(choices)} choices; {len(LETTERS)} are allowed"
    elif not all(choice.strip() for choice in choices):
        problem = "has an empty choice"
    elif not 0 <= answer < len(choices):
        problem = f"says that choice {answer} is right, and has {len(choices)}, counted from 0"
    elif kind == "choices" and not question.strip():
        problem = "asks nothing"
    if problem:
        raise DataError(f"{where}: {problem}")


def _mean_log_probs(subject: Subject, asked: Sequence[_Asked], items: Sequence[ChoiceItem]) -> list[np.ndarray]:
    """By item: the log-probability of each of its choices, the mean over the ways in which it was asked."""
    questions: list[Question] = [
        encode_question(subject.tokenizer, one.context, one.continuations, max_tokens=subject.context)[0]
        for one in asked
    ]
    scores = choice_scores(subject.model, questions, batch_tokens=subject.batch_tokens)
    sums, counts = [np.zeros(len(item.choices)) for item in items], np.zeros(len(items))
    for one, score in zip(asked, scores, strict=True):
        sums[one.item][list(one.choices)] += score.log_probs
        counts[one.item] += 1
    return [total / max(count, 1) for total, count in zip(sums, counts, strict=True)]


def _orders(choices: Sequence[str], count: int) -> Iterator[tuple[int, ...]]:
    """So many turns of the choices, sorted by their text."""
    ordered = tuple(sorted(range(len(choices)), key=lambda number: choices[number]))
    for turn in range(min(count, len(choices))):
        yield ordered[turn:] + ordered[:turn]


def _behind(context: str, continuation: str) -> str:
    """A continuation with the blank that belongs before it: none in Chinese, and none where one is there."""
    if not context or context[-1].isspace() or _is_wide(context[-1]) or _is_wide(continuation[0]):
        return continuation
    return f" {continuation}"


def _is_wide(character: str) -> bool:
    return ord(character) >= FIRST_CJK


def _asked_in(facts: Facts, item: ChoiceItem) -> str:
    if facts.language:
        return "zh" if facts.language.startswith("zh") else "en"
    return "zh" if any(_is_wide(character) for character in item.question) else "en"


def _with_text(item: ChoiceItem, question: str) -> str:
    return f"{item.context}\n\n{question}" if item.context else question
