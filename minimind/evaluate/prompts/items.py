"""Prompts with checks on what is answered: rows of a file, sets that come with this project, and sums.

A file is JSONL, one object a line:

    {"prompt": "What is 6 times 7?", "checks": [{"kind": "number", "answer": 42}]}
    {"conversations": [{"role": "user", "content": "…"}, …], "tools": […], "checks": […]}

with `id`, `language` and `source` where wanted. A conversation ends where an answer is due; a last answer is left off.
A row that cannot be used is an error with its line: a set of questions is small, and every one of them counts. Not
here: the kinds of checks (`checks`), asking a model (`outcomes`).
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import add, floordiv, mul, sub
from pathlib import Path
from typing import Any

from pydantic import Field, StrictStr

from minimind.config import Config
from minimind.data.documents import check_row, json_text
from minimind.data.reading.json_objects import read_objects
from minimind.data.reading.turns import tool_list
from minimind.errors import ConfigError, DataError
from minimind.evaluate.config import BUILT_IN, BuiltIn
from minimind.evaluate.prompts.checks import Number, ToolCall, read_check
from minimind.evaluate.prompts.said import Check
from minimind.evaluate.prompts.tools import read_tools
from minimind.tokens.chat import Message

MAX_SUMS = 4000
"""Sums at most: of two numbers below 1000 there are some 6000 divisions that come out even."""


@dataclass(frozen=True)
class PromptItem:
    """A prompt, and what its answer must be like."""

    id: str
    suite: str
    conversation: tuple[Message, ...]
    """It ends where an answer is due."""
    tools: str | None
    """The tools there are, as the JSON list that the model is shown."""
    checks: tuple[Check, ...]
    language: str = ""
    source: str = ""

    @property
    def question(self) -> str:
        """What the user said last."""
        return next(turn["content"] or "" for turn in reversed(self.conversation) if turn["role"] == "user")


class _Row(Config):
    """The keys of a line. What stands in them is looked at one by one."""

    id: StrictStr | None = Field(None, min_length=1)
    prompt: StrictStr | None = None
    conversations: list[Any] | None = None
    tools: Any = None
    checks: list[Any] = Field(min_length=1)
    language: StrictStr = ""
    source: StrictStr = ""


def builtin(name: BuiltIn) -> list[PromptItem]:
    """A set that comes with this project, written for it; `arithmetic` is a hundred sums."""
    if name not in BUILT_IN:
        raise ConfigError(f"no built-in prompts `{name}`; there are: {', '.join(BUILT_IN)}")
    return arithmetic() if name == "arithmetic" else read_prompts(builtin_file(name))


def builtin_file(name: BuiltIn) -> Path:
    """Where a built-in set stands; `arithmetic` is made, and stands nowhere."""
    return Path(__file__).parent / "suites" / f"{name}.jsonl"


def read_prompts(path: Path) -> list[PromptItem]:
    """The items of a file; the suite is the file's name. Raises MissingError, or DataError with file and line."""
    items: list[PromptItem] = []
    lines: dict[str, int] = {}
    for number, row in read_objects(path, of="prompts with checks"):
        where = f"{path}:{number}"
        try:
            item = _item(row, f"line {number}", path.stem, where)
        except ConfigError as error:  # it says where itself
            raise DataError(str(error)) from None
        except DataError as error:
            raise DataError(f"{where}: {error}") from None
        if item.id in lines:
            raise DataError(f"{where}: the id {item.id!r} stands in line {lines[item.id]} too; ids are unique")
        lines[item.id] = number
        items.append(item)
    return items


def _item(value: Mapping[str, Any], name: str, suite: str, where: str) -> PromptItem:
    row = _Row.parse(value, origin=where)
    if (row.prompt is None) == (row.conversations is None):
        raise DataError("give either `prompt` or `conversations`")
    conversation, tools = _conversation(row)
    checks = tuple(read_check(check, origin=f"{where}: check {number}") for number, check in enumerate(row.checks, 1))
    known = read_tools(tools)
    for check in checks:
        if isinstance(check, ToolCall) and not known:
            raise DataError("the check tool_call needs `tools`; list those that can be called")
        if isinstance(check, ToolCall) and check.name is not None and check.name not in known:
            raise DataError(f"the check tool_call expects `{check.name}`; the tools are: {', '.join(known)}")
    return PromptItem(
        id=row.id or name,
        suite=suite,
        conversation=conversation,
        tools=tools,
        checks=checks,
        language=row.language,
        source=row.source,
    )


def _conversation(row: _Row) -> tuple[tuple[Message, ...], str | None]:
    """The turns without their tools, and the tools, which may stand in the row or in one turn."""
    given = {"prompt": row.prompt} if row.conversations is None else {"conversations": row.conversations}
    turns = check_row("prompt", given)["prompt"]
    listed = [tools for tools in (row.tools, *(turn["tools"] for turn in turns)) if tools]
    if len(listed) > 1:
        raise DataError("`tools` stands in more than one place; list all of them once")
    tools = json_text(tool_list(listed[0], "tools"), "tools") if listed else None
    return tuple({**turn, "tools": None} for turn in turns), tools


def arithmetic(count: int = 100, *, seed: int = 0) -> list[PromptItem]:
    """Sums of numbers of one to three digits, every other one in Chinese; the same for the same seed.

    The four operations take turns, differences are not negative, divisions come out even, and none is asked twice.
    """
    if not 1 <= count <= MAX_SUMS:
        raise ConfigError(f"{count} sums; 1 to {MAX_SUMS} are allowed")
    rng = random.Random(seed)
    items: list[PromptItem] = []
    seen: set[tuple[str, int, int]] = set()
    while len(items) < count:
        sign = tuple(_OPERATIONS)[len(items) // 2 % len(_OPERATIONS)]
        left, right = _operands(sign, rng)
        if (sign, left, right) in seen:
            continue
        seen.add((sign, left, right))
        language = ("en", "zh")[len(items) % 2]
        wording = _WORDINGS[language][rng.randrange(len(_WORDINGS[language]))]
        question = wording.format(a=left, b=right, sign=sign, word=_WORDS[language][sign])
        answer = Number(kind="number", answer=float(_OPERATIONS[sign](left, right)))
        turn = {"role": "user", "content": question}
        items.append(PromptItem(f"arithmetic-{len(items) + 1}", "arithmetic", (turn,), None, (answer,), language))
    return items


_OPERATIONS: Mapping[str, Callable[[int, int], int]] = {"+": add, "-": sub, "×": mul, "÷": floordiv}
_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {"+": "plus", "-": "minus", "×": "times", "÷": "divided by"},
    "zh": {"+": "加", "-": "减", "×": "乘", "÷": "除以"},
}
_WORDINGS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "What is {a} {sign} {b}?",
        "Calculate {a} {sign} {b}.",
        "What is {a} {word} {b}?",
        "How much is {a} {word} {b}?",
    ),
    "zh": ("{a}{sign}{b}等于多少？", "计算：{a} {sign} {b}", "{a}{word}{b}是多少？", "请问{a}{word}{b}等于几？"),
}


def _operands(sign: str, rng: random.Random) -> tuple[int, int]:
    left, right = _number(rng), _number(rng)
    if sign == "-":
        return max(left, right), min(left, right)
    if sign != "÷":
        return left, right
    while right < 2 or left * right > 999:
        left, right = _number(rng), _number(rng)
    return left * right, right


def _number(rng: random.Random) -> int:
    """One to three digits, each as often."""
    smallest = (1, 10, 100)[rng.randrange(3)]
    return rng.randrange(smallest, 10 * smallest)
