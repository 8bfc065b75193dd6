"""What a rule can tell of an answer: the right number, the asked-for form, a call that fits, an end.

A check is `{"kind": …}` and its settings, as a row of prompts has it; `fault` says in plain words what is wrong with an
answer, None where nothing is. Checks see what a client would be shown, without reasoning, trimmed. They judge form and
facts that can be written down, nothing else: not whether an answer is true, kind or well said.

No answer, however odd or long, makes a check raise or wait: patterns are RE2's, which reads a text once (so it has no
look-around and no back-references). Not here: what asks only for a form (`forms`), which arguments a tool takes
(`tools`).
"""

import re
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, StrictFloat, StrictStr, field_validator, model_validator

from minimind.config import nearest
from minimind.data.documents import type_name
from minimind.data.reading.strict_json import RowError, read_json
from minimind.errors import ConfigError
from minimind.evaluate.prompts.forms import (
    Bullets,
    EndsWith,
    Language,
    Lowercase,
    MaxWords,
    MinWords,
    NoComma,
    Quoted,
    Sentences,
    StartsWith,
    Uppercase,
)
from minimind.evaluate.prompts.said import Check, Count, Said, SomeTexts, Text, either, quoted
from minimind.evaluate.prompts.tools import call_fault
from minimind.infer.calls import Call, read_calls

TOLERANCE = 1e-6
MAX_PATTERN = 200
"""Characters of a pattern: a longer one is not for reading."""
MAX_REPETITION = 0.3
"""Of an answer's 4-grams that were in it before: lists and tables repeat some, loops most of theirs."""

_NUMBER = re.compile(r"(?:(?<![0-9A-Za-z)\]])[-−－])?(?:\d{1,3}(?:[,\u2009\u202f\xa0]\d{3})+(?!\d)|\d+)(?:\.\d+)?")
_FENCE = "```"
_FENCE_NAME = re.compile(r"\A[A-Za-z0-9]*[ \t]*\n")


class Number(Check):
    """The last number of the answer is `answer`. Of thousands separators the comma and thin blanks are known."""

    kind: Literal["number"]
    answer: Annotated[StrictFloat, Field(allow_inf_nan=False)]

    def fault(self, said: Said) -> str | None:
        numbers = _NUMBER.findall(said.content)
        if not numbers:
            return "no number"
        value = float(re.sub(r"[,\s]", "", numbers[-1]).replace("−", "-").replace("－", "-"))
        return None if abs(value - self.answer) <= TOLERANCE else f"{value:.15g} is not {self.answer:.15g}"


class Exact(Check):
    """The whole answer is one of these."""

    kind: Literal["exact"]
    any_of: SomeTexts

    def fault(self, said: Said) -> str | None:
        return None if said.content in {text.strip() for text in self.any_of} else f"is not {either(self.any_of)}"


class Contains(Check):
    """The answer has one of `any_of` and each of `all_of`, in capitals or not."""

    kind: Literal["contains"]
    any_of: tuple[Text, ...] = ()
    all_of: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not self.any_of and not self.all_of:
            raise ValueError("contains needs any_of or all_of")
        return self

    def fault(self, said: Said) -> str | None:
        content = said.content.casefold()
        if missing := [text for text in self.all_of if text.casefold() not in content]:
            return f"{quoted(missing[0])} is missing"
        if self.any_of and not any(text.casefold() in content for text in self.any_of):
            return f"{either(self.any_of)} is missing"
        return None


class NotContains(Check):
    """The answer has none of these, in capitals or not."""

    kind: Literal["not_contains"]
    any_of: SomeTexts

    def fault(self, said: Said) -> str | None:
        content = said.content.casefold()
        found = next((text for text in self.any_of if text.casefold() in content), None)
        return None if found is None else f"{quoted(found)} is in it"


class Regex(Check):
    """The pattern, as RE2 reads it, is found somewhere in the answer."""

    kind: Literal["regex"]
    pattern: Annotated[StrictStr, Field(min_length=1, max_length=MAX_PATTERN)]

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            _matches("", pattern)
        except (pa.ArrowInvalid, UnicodeEncodeError) as error:
            raise ValueError(f"{error}; patterns are RE2's, without look-around and back-references") from None
        return pattern

    def fault(self, said: Said) -> str | None:
        return None if _matches(said.content, self.pattern) else f"nothing matches {self.pattern}"


class Json(Check):
    """The answer, or the one fenced block in it, is a JSON object or list; an object with these keys."""

    kind: Literal["json"]
    keys: tuple[Text, ...] = ()

    def fault(self, said: Said) -> str | None:
        parts = said.content.split(_FENCE)
        text = _FENCE_NAME.sub("", parts[1]) if len(parts) == 3 else said.content
        try:
            value = read_json(text.strip().encode("utf-8", "replace"))
        except RowError as error:
            return f"no JSON: {error.detail}"
        if not isinstance(value, dict if self.keys else dict | list):
            return f"the JSON is {type_name(value)}, not an object"
        missing = [key for key in self.keys if key not in value]
        return f"the JSON has no key {quoted(missing[0])}" if missing else None


class ToolCall(Check):
    """So many calls, all of known tools with arguments that fit; one of them is of `name` with `arguments`.

    A list in `arguments` has the values that are right, of which any one will do; texts are compared without capitals.
    Arguments that are not named here may have any value the tool allows.
    """

    kind: Literal["tool_call"]
    name: Text | None = None
    arguments: dict[str, Any] = {}
    calls: Count = 1

    def fault(self, said: Said) -> str | None:
        if not said.calls.strip():
            return "no tool call"
        calls = read_calls(said.calls)
        if calls is None:
            return "the tool call is no JSON object with a name and arguments"
        if len(calls) != self.calls:
            return f"{len(calls)} tool calls, not {self.calls}"
        if fault := next(filter(None, (call_fault(call, said.tools) for call in calls)), None):
            return fault
        named = [call for call in calls if self.name in (None, call.name)]
        if not named:
            return f"called `{calls[0].name}`, not `{self.name}`"
        return min((self._arguments_fault(call) or "" for call in named), key=len) or None

    def _arguments_fault(self, call: Call) -> str | None:
        for key, value in self.arguments.items():
            expected = value if isinstance(value, list) else [value]
            if key not in call.arguments:
                return f"`{call.name}` without the argument {quoted(key)}"
            given = call.arguments[key]
            if not any(_same(given, one) for one in expected):
                return f"`{call.name}`: {key} is {reprlib.repr(given)}"
        return None


class NoToolCall(Check):
    """No tool is called."""

    kind: Literal["no_tool_call"]

    def fault(self, said: Said) -> str | None:
        return "called a tool" if said.calls.strip() else None


class Ended(Check):
    """The answer stopped by itself."""

    kind: Literal["ended"]

    def fault(self, said: Said) -> str | None:
        return None if said.ended else "cut off at the limit of tokens"


class NotRepetitive(Check):
    """Little of it was said before in it."""

    kind: Literal["not_repetitive"]

    def fault(self, said: Said) -> str | None:
        return None if said.repetition < MAX_REPETITION else f"{said.repetition:.0%} of it was said before"


_CLASSES: tuple[type[Check], ...] = (
    Number, Exact, Contains, NotContains, Regex, Json, MaxWords, MinWords, StartsWith, EndsWith, Lowercase, Uppercase,
    Language, Bullets, Sentences, NoComma, Quoted, ToolCall, NoToolCall, Ended, NotRepetitive,
)  # fmt: skip
KINDS: Mapping[str, type[Check]] = {get_args(one.model_fields["kind"].annotation)[0]: one for one in _CLASSES}


def read_check(value: Any, *, origin: str) -> Check:
    """The check that a row describes. Raises ConfigError with `origin`, the key, and the nearest known word."""
    if not isinstance(value, dict) or not isinstance(kind := value.get("kind"), str):
        raise ConfigError(f"{origin}: a check is an object with a `kind`; known: {', '.join(KINDS)}")
    if kind not in KINDS:
        raise ConfigError(f"{origin}: unknown kind `{kind[:40]}`{nearest(kind, list(KINDS))}")
    return KINDS[kind].parse(value, origin=f"{origin} ({kind})")


def _matches(text: str, pattern: str) -> bool:
    whole = text.encode("utf-8", "replace").decode("utf-8")  # Arrow takes no half of a surrogate pair
    return bool(pc.match_substring_regex(pa.array([whole]), pattern)[0].as_py())


def _same(given: Any, expected: Any) -> bool:
    """Whether both say the same: capitals do not matter, and 1 is 1.0 but not true."""
    if isinstance(expected, list):
        return isinstance(given, list) and len(given) == len(expected) and all(map(_same, given, expected))
    if isinstance(expected, dict):
        fits = isinstance(given, dict) and given.keys() == expected.keys()
        return fits and all(_same(given[key], value) for key, value in expected.items())
    if isinstance(expected, str):
        return isinstance(given, str) and given.strip().casefold() == expected.strip().casefold()
    return isinstance(given, bool) == isinstance(expected, bool) and given == expected
