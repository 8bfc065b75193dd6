"""Evaluation sets: files of questions that no training text may hold.

A file is JSONL (also .gz), one object a line; what a line asks is told by its keys:

    question, choices, answer[, context]    multiple choice; choices may be {"text": […], "label": […]}
    context, choices, answer                cloze: which choice goes on
    conversations or messages               the first user's turn is the question, the next turn its answer
    text                                    a document
    anything else                           all its strings together, but for names (id, source, subject, lang, …)

Not here: how they are looked for (`evaluation_index`) and when enough was found (`contamination`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.data.reading.json_objects import read_objects
from minimind.data.rules.evaluation_pieces import letters_of
from minimind.errors import DataError, MissingError
from minimind.runtime import file_sha256

NAMES = frozenset(
    ("id", "source", "subject", "lang", "language", "type", "category", "split", "license", "url", "role")
)
"""Keys whose strings say where a row is from, not what it asks."""


@dataclass(frozen=True)
class Item:
    """A question; in an index its strings are letters and digits only."""

    name: str
    """Its id, else `line N`."""
    file: str
    question: str
    choices: tuple[str, ...]
    answer: str
    """The right choice, or what follows the question; empty if nobody says."""
    asks: bool
    """Whether it was written for the set, as `question` is; a `context` or `text` is quoted from somewhere."""


def digest_of(name: str) -> str:
    """sha256 of a file's bytes."""
    return file_sha256(Path(state_of(name)[0]))


def state_of(name: str) -> tuple[str, int, int]:
    """Path, size and time of change of a file; MissingError or DataError if it cannot be one of questions."""
    path = Path(name)
    try:
        state = path.stat()
    except OSError:
        raise MissingError(f"{name}: no such file; `evaluation` lists JSONL files of questions") from None
    if not path.is_file():
        raise DataError(f"{name}: is not a file; `evaluation` lists JSONL files of questions, not folders")
    return str(path), state.st_size, state.st_mtime_ns


def read_items(path: Path) -> Iterator[Item]:
    """The questions of a file as they are written; DataError names the file, and the line if one is wrong."""
    for number, row in read_objects(path, of="questions"):
        yield _item(row, path, number)


def _item(row: Mapping[str, Any], path: Path, number: int) -> Item:
    name = str(row["id"]) if isinstance(row.get("id"), str | int) else f"line {number}"
    choices = _choices(row.get("choices", row.get("options")))
    answer = _answer(row.get("answer"), choices)
    question = next((row[key] for key in _QUESTIONS if isinstance(row.get(key), str) and row[key].strip()), "")
    said = _said(row.get("conversations", row.get("messages")))
    if choices and not letters_of(question):
        question, choices, answer = answer or " ".join(choices), (), ""  # which of two is right: that one is the secret
    elif not question and said:
        question, answer = said[0], " ".join(said[1:2])
    elif not question:
        question, answer = " ".join(_strings(row)), ""
    if not letters_of(question):
        raise DataError(f"{path}:{number}: has no question: give question and choices, context and choices, or text")
    asks = bool(choices) and question == row.get("question")
    return Item(name, path.name, question, choices, answer, asks)


_QUESTIONS = ("question", "context", "text")


def _answer(value: Any, choices: tuple[str, ...]) -> str:
    """The right choice, given by its number or letter or in words."""
    if isinstance(value, str) and len(value) == 1 and value in "ABCDEFGH"[: len(choices)]:
        return choices[ord(value) - ord("A")]
    if isinstance(value, int) and not isinstance(value, bool):
        return choices[value] if 0 <= value < len(choices) else str(value)
    return value if isinstance(value, str) else ""


def _said(turns: Any) -> list[str]:
    """What was said in a conversation, without the system's turns."""
    if not isinstance(turns, list):
        return []
    spoken = [turn for turn in turns if isinstance(turn, Mapping) and turn.get("role", turn.get("from")) != "system"]
    texts = [turn.get("content", turn.get("value")) for turn in spoken]
    return [text for text in texts if isinstance(text, str) and text.strip()]


def _choices(value: Any) -> tuple[str, ...]:
    if isinstance(value, Mapping):
        value = value.get("text", list(value.values()))
    if not isinstance(value, list):
        return ()
    texts = (entry.get("text") if isinstance(entry, Mapping) else entry for entry in value)
    return tuple(str(text) for text in texts if isinstance(text, str | int | float))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            if key not in NAMES:
                yield from _strings(entry)
