"""Calls of tools as a model writes them.

Between its tags a model writes JSON: a call, a list of calls, or several of either one after another. What cannot be
read so is no call: a small model's slip must not become an error. Not here: the tags (`text`), the names that clients
give to calls (`minimind.serve`).
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

_DECODER = json.JSONDecoder()
_BLANKS = re.compile(r"\s*")


class Call(NamedTuple):
    """The name of a function and its arguments."""

    name: str
    arguments: dict[str, Any]


def read_calls(text: str) -> list[Call] | None:
    """The calls in what a model wrote; None where it is not that."""
    try:
        values = list(_values(text))
    except (ValueError, RecursionError):
        return None
    calls = [_call(one) for value in values for one in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call] if calls and all(calls) else None


def _values(text: str) -> Iterator[Any]:
    """The JSON values that stand one after another in a text."""
    at = 0
    while (at := _BLANKS.match(text, at).end()) < len(text):
        value, at = _DECODER.raw_decode(text, at)
        yield value


def _call(value: Any) -> Call | None:
    if not isinstance(value, dict) or not isinstance(name := value.get("name"), str) or not name:
        return None
    arguments = value.get("arguments", {})
    if isinstance(arguments, str):  # some rows of public data have them so
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return None
    return Call(name, arguments) if isinstance(arguments, dict) else None
