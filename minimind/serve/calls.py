"""Calls of tools as OpenAI's clients read them: with an id, and arguments as JSON in a string.

Not here: reading what a model wrote (`minimind.infer.calls`).
"""

import json
import secrets
from collections.abc import Iterator
from typing import NamedTuple

from minimind.infer import calls
from minimind.serve.answers import CallDelta, FunctionDelta

ARGUMENTS_CHARS = 256
"""Of arguments in one chunk: clients that show a call while it is made have something to show."""


class Call(NamedTuple):
    """A name and its arguments, as a JSON object in a string."""

    id: str
    name: str
    arguments: str


def read_calls(text: str) -> list[Call] | None:
    """The calls in what a model wrote; None where it is not that. Clients then get it as text."""
    found = calls.read_calls(text)
    return None if found is None else [_named(call) for call in found]


def call_deltas(call: Call, index: int) -> Iterator[CallDelta]:
    """A call in the pieces of a stream: what it is first, then its arguments."""
    yield CallDelta(index=index, id=call.id, type="function", function=FunctionDelta(name=call.name, arguments=""))
    for start in range(0, len(call.arguments), ARGUMENTS_CHARS):
        piece = call.arguments[start : start + ARGUMENTS_CHARS]
        yield CallDelta(index=index, function=FunctionDelta(arguments=piece))


def _named(call: calls.Call) -> Call:
    return Call(f"call_{secrets.token_hex(12)}", call.name, json.dumps(call.arguments, ensure_ascii=False))
