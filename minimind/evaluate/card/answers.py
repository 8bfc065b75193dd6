"""What the card shows of the answers that were checked: a few that fault was found with, of each model and set."""

from collections import Counter
from pathlib import Path

import msgspec

from minimind.errors import ArtifactError, MissingError
from minimind.evaluate.card.card import FailedAnswer
from minimind.evaluate.table import ANSWERS_FILE

MOST_FAILED = 5
"""Of a model and a set: enough to see what goes wrong; `answers.jsonl` has all."""
MOST_LETTERS = 600
"""Of a prompt and of an answer: one that never ended says the same again behind them."""


class _Answered(msgspec.Struct):
    """A line of `answers.jsonl`, as far as it is needed."""

    model: str
    task: str
    item: str
    prompt: str
    answer: str
    failures: list[str]


def failed_answers_of(directory: Path) -> list[FailedAnswer]:
    """The first that failed, in the order of the file. Raises MissingError, or ArtifactError with the bad line."""
    path, found = directory / ANSWERS_FILE, list[FailedAnswer]()
    counts: Counter[tuple[str, str]] = Counter()
    decoder = msgspec.json.Decoder(_Answered)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; run the stage evaluate again") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                one = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise ArtifactError(f"{path}:{number}: is no answer ({error}); run the stage evaluate again") from None
            if one.failures and counts[one.task, one.model] < MOST_FAILED:
                counts[one.task, one.model] += 1
                found.append(
                    FailedAnswer(
                        task=one.task,
                        model=one.model,
                        item=one.item,
                        prompt=_cut(one.prompt),
                        answer=_cut(one.answer),
                        failures=one.failures,
                    )
                )
    return found


def _cut(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[:MOST_LETTERS]} […]"
