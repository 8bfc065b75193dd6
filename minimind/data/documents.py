"""Rows: the five kinds, their Arrow schemas, and the one check every row passes before it is believed.

    pretrain    {"text": "…"}
    chat        {"conversations": [{"role", "content", "reasoning_content"?, "tools"?, "tool_calls"?}, …]}
    lora        the same; conversations for LoRA alone
    preference  {"chosen": [message, …], "rejected": [message, …]}   or   {"prompt", "chosen", "rejected"} as strings
    prompt      {"prompt": "…"}   or   {"prompt": [message, …]}   or   {"conversations": [message, …]}

Beside its content a row has `id`, `source`, `line`, `group` (rows of one group are never split between
training and validation) and `language` (an ISO 639-1 code, null until the cleaning stage fills it).

`check_row` returns the row in one canonical shape or raises `RowError` with a reason out of a fixed
vocabulary, so that a drop can be counted and explained. What it decides where the formats leave room:

- A conversation is an optional system turn, then user, assistant, user, … and it ends with the assistant.
  Two users in a row, a system turn later on, or an unanswered last user turn are `bad_turn_order`: which
  turns to cut is for the owner of the data to say. Tool turns follow an assistant turn with `tool_calls`.
- A prompt is the same, but it ends where an answer is due: with a user or tool turn. Of `conversations` a last
  answer is left off, whatever it says: upstream's sets for reinforcement keep a placeholder there.
- null counts as a wrong type, except for the optional fields and for the content beside `tool_calls`.
- Special tokens spelled out in a text stay: the chat encoder never turns text into special tokens.
- An escaped NUL (`\\u0000`) stays for the cleaning rule `control` to take out; a raw NUL byte is a
  damaged file and its row is dropped.
- There is no limit on the length of a row here but the reader's; long texts are cut by the tokens stage.

Not here: reading JSON (`strict_json`) and files (`files`), the drop log (`dropped`), cleaning (`cleaning`).
"""

import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import Any

import msgspec
import pyarrow as pa
import xxhash

from minimind.data.kinds import CONVERSATIONS, RowKind
from minimind.data.reading.strict_json import RowError, read_json

Row = dict[str, Any]
Message = dict[str, str | None]

MESSAGE = pa.struct(
    [
        pa.field("role", pa.string(), nullable=False),
        pa.field("content", pa.string(), nullable=False),
        pa.field("reasoning_content", pa.string()),
        pa.field("tools", pa.string()),
        pa.field("tool_calls", pa.string()),
    ]
)
_ORIGIN = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("line", pa.int64(), nullable=False),
    pa.field("group", pa.string(), nullable=False),
    pa.field("language", pa.string()),
]
SCHEMAS: dict[RowKind, pa.Schema] = {
    "pretrain": pa.schema([*_ORIGIN, pa.field("text", pa.string(), nullable=False)]),
    **dict.fromkeys(CONVERSATIONS, pa.schema([*_ORIGIN, pa.field("conversations", pa.list_(MESSAGE), nullable=False)])),
    "preference": pa.schema(
        [
            *_ORIGIN,
            pa.field("chosen", pa.list_(MESSAGE), nullable=False),
            pa.field("rejected", pa.list_(MESSAGE), nullable=False),
        ]
    ),
    "prompt": pa.schema([*_ORIGIN, pa.field("prompt", pa.list_(MESSAGE), nullable=False)]),
}
CONTENT: dict[RowKind, tuple[str, ...]] = {
    "pretrain": ("text",),
    **dict.fromkeys(CONVERSATIONS, ("conversations",)),
    "preference": ("chosen", "rejected"),
    "prompt": ("prompt",),
}
"""The fields of each kind that are content; the other columns say where the row comes from."""
ROLES = ("system", "user", "assistant", "tool")


def check_row(kind: RowKind, value: Any) -> Row:
    """`id` and the content fields of `value` in canonical shape; fields not known are left out. Raises RowError."""
    if not isinstance(value, Mapping):
        raise RowError("not_object", f"a row is an object with {_listed(CONTENT[kind])}; this is {type_name(value)}")
    content = _CHECKS[kind](value)
    return {"id": row_id(kind, content), **content}


def row_id(kind: RowKind, content: Mapping[str, Any]) -> str:
    """16 hexadecimal digits that depend on nothing but the kind and the content."""
    if kind == "pretrain":
        return xxhash.xxh3_64_hexdigest(content["text"].encode("utf-8"), id_seed(kind))
    canonical = msgspec.json.encode([content[name] for name in CONTENT[kind]], order="sorted")
    return xxhash.xxh3_64_hexdigest(canonical, id_seed(kind))


@cache
def id_seed(kind: RowKind) -> int:
    """What the ids of one kind are hashed with: equal words of another kind are another row.

    A conversation has one id, whoever learns from it: so it is on one side of the split for all of them.
    """
    return xxhash.xxh3_64_intdigest(("chat" if kind in CONVERSATIONS else kind).encode())


def messages_of(kind: RowKind, row: Mapping[str, Any]) -> list[Message]:
    """All messages of a row, in order; none for a pretraining row."""
    return [] if kind == "pretrain" else [message for name in CONTENT[kind] for message in row[name]]


def _check_pretrain(value: Mapping[str, Any]) -> Row:
    text = _string(field(value, "text"), "text")
    if not text.strip("\0 \t\r\n\ufeff"):
        raise RowError("empty_text", "text is blank")
    return {"text": text}


def _check_conversations(value: Mapping[str, Any]) -> Row:
    return {"conversations": _conversation(field(value, "conversations"), "conversations")}


def _check_preference(value: Mapping[str, Any]) -> Row:
    sides = {name: field(value, name) for name in ("chosen", "rejected")}
    if isinstance(value.get("prompt"), str) and all(isinstance(side, str) for side in sides.values()):
        prompt = {"role": "user", "content": value["prompt"]}
        sides = {name: [prompt, {"role": "assistant", "content": answer}] for name, answer in sides.items()}
    chosen, rejected = (_conversation(side, name) for name, side in sides.items())
    for name, turns in (("chosen", chosen), ("rejected", rejected)):
        if not _is_target(turns[-1]):
            raise RowError("no_target", f"{name}: the last answer is blank")
    if chosen[:-1] != rejected[:-1]:
        raise RowError("prompt_mismatch", "chosen and rejected differ before their last turn")
    if _answer(chosen) == _answer(rejected):
        raise RowError("identical_pair", "chosen and rejected are the same")
    return {"chosen": chosen, "rejected": rejected}


def _check_prompt(value: Mapping[str, Any]) -> Row:
    name = "conversations" if "conversations" in value and "prompt" not in value else "prompt"
    prompt = field(value, name)
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    turns = _turns(prompt, name)
    if name == "conversations" and turns and turns[-1]["role"] == "assistant" and not turns[-1]["tool_calls"]:
        turns.pop()
    if not turns:
        raise RowError("empty_text", f"{name} has no turns")
    last = turns[-1]
    if last["role"] == "user" and not _is_said(last):
        raise RowError("empty_text", f"{name}: the last user turn is blank")
    _check_order(turns, name, ends=("user", "tool"))
    return {"prompt": turns}


_CHECKS: dict[RowKind, Callable[[Mapping[str, Any]], Row]] = {
    "pretrain": _check_pretrain,
    **dict.fromkeys(CONVERSATIONS, _check_conversations),
    "preference": _check_preference,
    "prompt": _check_prompt,
}


def _conversation(value: Any, name: str) -> list[Message]:
    turns = _turns(value, name)
    if not turns:
        raise RowError("no_target", f"{name} has no turns")
    if not any(_is_target(turn) for turn in turns):
        raise RowError("no_target", f"{name} has no assistant turn with content or tool_calls")
    _check_order(turns, name, ends=("assistant",))
    return turns


def _turns(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list | tuple):
        raise RowError("wrong_type", f"{name} is {type_name(value)}; a list of turns was expected")
    return [_message(turn, f"{name}, turn {number}") for number, turn in enumerate(value, 1)]


def _message(value: Any, where: str) -> Message:
    if not isinstance(value, Mapping):
        raise RowError("wrong_type", f"{where} is {type_name(value)}; an object with role and content was expected")
    role = _string(field(value, "role", where), f"{where}: role")
    if role not in ROLES:
        raise RowError("bad_role", f"{where}: role {role[:40]!r}; allowed: {', '.join(ROLES)}")
    tool_calls = _json_string(value.get("tool_calls"), f"{where}: tool_calls")
    if tool_calls and role != "assistant":
        raise RowError("bad_role", f"{where}: tool_calls in a {role} turn; only an assistant calls tools")
    content = field(value, "content", where) if not tool_calls else value.get("content")
    reasoning = value.get("reasoning_content")
    return {
        "role": role,
        "content": "" if content is None and tool_calls else _string(content, f"{where}: content"),
        "reasoning_content": _string(reasoning, f"{where}: reasoning_content") if reasoning else None,
        "tools": _json_string(value.get("tools"), f"{where}: tools"),
        "tool_calls": tool_calls,
    }


_AFTER: dict[str, tuple[str, ...]] = {
    "start": ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "calling": ("tool", "user"),
    "tool": ("tool", "assistant"),
}
"""Who may speak after whom; `calling` is an assistant turn with tool_calls."""


def _check_order(turns: list[Message], name: str, *, ends: tuple[str, ...]) -> None:
    state = "start"
    for number, turn in enumerate(turns, 1):
        role = str(turn["role"])
        if role not in _AFTER[state]:
            allowed = " or ".join(_AFTER[state])
            last = {"start": "the start", "calling": "a call of a tool"}.get(state, state)
            raise RowError("bad_turn_order", f"{name}, turn {number}: {role} after {last}; {allowed} was expected")
        state = "calling" if turn["tool_calls"] else role
    last = str(turns[-1]["role"])
    if last not in ends:
        article = "an" if last == "assistant" else "a"
        due = "an answer" if ends == ("assistant",) else "a user or tool turn"
        raise RowError("bad_turn_order", f"{name} ends with {article} {last} turn; it must end with {due}")


@lru_cache(maxsize=4096)
def is_plain_order(roles: tuple[str, ...]) -> bool:
    """Whether turns without tools or their calls may follow one another so in a conversation."""
    try:
        _check_order([{"role": role, "tool_calls": None} for role in roles], "", ends=("assistant",))
    except RowError:
        return False
    return True


def _is_target(turn: Message) -> bool:
    return turn["role"] == "assistant" and bool(_is_said(turn) or turn["tool_calls"])


def _is_said(turn: Message) -> bool:
    return bool((turn["content"] or "").strip())


def _answer(turns: list[Message]) -> Message:
    return {**turns[-1], "content": (turns[-1]["content"] or "").strip()}


def field(value: Mapping[str, Any], name: str, where: str = "") -> Any:
    """`value[name]`; where there is none, a RowError that says what there is."""
    if name in value:
        return value[name]
    found = _listed([str(key) for key in value][:6]) or "nothing"
    raise RowError("missing_field", f"{where + ': ' if where else ''}no `{name}`; found {found}")


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{where} is {type_name(value)}; a string was expected")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(value[error.start])
        raise RowError("lone_surrogate", f"{where}: half a character (U+{code:04X}) at {error.start + 1}") from None
    return value


def _json_string(value: Any, where: str) -> str | None:
    """A JSON string as it is, a list or object dumped to one, None for nothing at all."""
    if value is None or value == "" or value == [] or value == {}:
        return None
    if isinstance(value, list | dict):
        return _string(json_text(value, where), where)
    text = _string(value, where)
    try:
        inner = read_json(text.encode("utf-8"))
    except RowError as error:
        raise RowError(error.reason, f"{where} is not JSON: {error.detail}") from None
    if not isinstance(inner, list | dict):
        raise RowError("wrong_type", f"{where} is {type_name(inner)}; a JSON list or object was expected")
    return text if inner else None


def json_text(value: Any, where: str) -> str:
    """`value` as JSON. Tables may hold dates and bytes, which have none: a RowError."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except TypeError as error:
        raise RowError("wrong_type", f"{where}: {str(error)[:80]}") from None


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def type_name(value: Any) -> str:
    """What a JSON value is, in words."""
    if value is None:
        return "null"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")
