"""Mutations that keep the structure: a value of JSON or TOML with one or some places changed.

A fuzzer that flips bytes breaks the first bracket and gets no further. What is made here is mostly well-formed and
wrong inside: keys that are missing, doubled or of another object, values of other types, numbers at their bounds.
"""

import copy
import json
import math
import random
from collections.abc import Sequence
from typing import Any

NUMBERS = (0, 1, -1, 2, 1.5, -0.0, 1e-9, 2**31, 2**63 - 1, 2**63, -(2**63) - 1, 10**25, 1e308, math.inf, math.nan)
STRINGS = (
    "",
    " ",
    "\0",
    "\ufeff",
    "\ud83d",
    "\udc00x",
    "é😀",
    "a\nb",
    "\\",
    '"',
    "{}",
    "[]",
    "null",
    "..",
    "/",
    "~x/y",
)
LONG = ("x" * 300, "{" * 70, "[" * 70, "9" * 5000)
_KINDS_OF_CHANGE = 8


def changed(value: Any, rng: random.Random, words: Sequence[str], *, times: int = 1) -> Any:
    """A copy of `value` with some places changed; keys are taken from `words`."""
    holder = [copy.deepcopy(value)]
    for _ in range(times):
        _change(rng.choice(_places(holder)), holder, rng, words)
    return holder[0]


def json_line(value: Any, rng: random.Random) -> bytes:
    """`value` as JSON of one line, the way one writer or another has it; now and then with a key that stands twice."""
    separators = rng.choice([(", ", ": "), (",", ":"), (" ,", " : ")])
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, separators=separators)
    if text.startswith('{"') and rng.random() < 0.05:
        text = text[:-1] + "," + text[1:]
    return text.encode("utf-8", "surrogatepass")


def toml_text(values: dict[str, Any]) -> bytes:
    """Tables as TOML: one line for each key, everything below it inline."""
    lines = [f"{_toml_string(key)} = {_toml(value)}\n" for key, value in values.items()]
    return "".join(lines).encode("utf-8", "replace")


def anything(rng: random.Random, words: Sequence[str]) -> Any:
    """A value of any type."""
    plain: list[Any] = [None, True, False, [], {}, rng.choice(NUMBERS), rng.choice(STRINGS), rng.choice(words)]
    return rng.choice([*plain, rng.choice(LONG), [rng.choice(STRINGS)], {rng.choice(words): rng.choice(NUMBERS)}])


Place = tuple[Any, Any]
"""A list or object, and the index or key in it."""


def _places(value: Any) -> list[Place]:
    found: list[Place] = []
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys if isinstance(holder[key], list | dict)]
    return found


def _change(place: Place, root: list[Any], rng: random.Random, words: Sequence[str]) -> None:
    holder, key = place
    value = holder[key]
    how = rng.randrange(_KINDS_OF_CHANGE)
    if how == 0 and holder is not root:
        del holder[key]
    elif how == 1 and isinstance(value, dict):
        value[rng.choice(words)] = anything(rng, words)
    elif how == 1 and isinstance(value, list):
        value.insert(
            rng.randint(0, len(value)), rng.choice(value) if value and rng.random() < 0.5 else anything(rng, words)
        )
    elif how == 2 and isinstance(value, str):
        at = rng.randint(0, len(value))
        holder[key] = value[:at] + rng.choice([*STRINGS, *words]) + value[at + rng.randint(0, 3) :]
    elif how == 3:
        holder[key] = rng.choice([[value], {rng.choice(words): value}, json.dumps(value), str(value)[:300]])
    elif how == 4 and isinstance(holder, dict):
        holder[rng.choice(words)] = holder.pop(key)
    elif how == 5:
        other, other_key = rng.choice(_places(root))
        holder[key] = copy.deepcopy(other[other_key])
    elif how == 6 and isinstance(value, int | float):
        holder[key] = rng.choice([-value, value + 1, value * 2, str(value), value / 2 if abs(value) < 1e300 else 0])
    else:
        holder[key] = anything(rng, words)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _toml_string(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_string(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
    return '""' if value is None else str(value)


def _toml_string(text: str) -> str:
    quoted = json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False)
    return quoted.replace("\x7f", "\\u007f")  # which JSON lets stand
