"""Turns of other projects' conversations, rewritten as ours: who speaks, what is said, which tools are called.

A turn comes out with `role`, `content`, and where there are any `reasoning_content`, `tools`, `tool_calls`, the
last two as lists. Calls become `{"name", "arguments": {…}}` and tools `{"name", "description", "parameters"}`:
OpenAI's envelope `{"type": "function", "function": …}` goes, and JSON packed in strings is unpacked. Ids of
calls go too, so the answers of tools are put in the order of the calls they answer.

Not here: whether the turns make a conversation (`documents`), and rows as a whole (`shapes`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from minimind.data.documents import field, json_text, type_name
from minimind.data.reading.strict_json import RowError, read_json

Turn = dict[str, Any]

SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "system": "system",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
}
_CALLING = ("function_call", "tool_call")
"""ShareGPT speakers whose whole turn is the JSON of a call."""
_OPENAI_ROLES = {"developer": "system", "function": "tool"}
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Kinds of content parts that are words → the field they stand in."""


def raw_turns(value: Any, name: str, *, speaker: str = "assistant") -> list[Any]:
    """`value` as a list of turns not yet read: it may be a list, one turn alone, or the words of `speaker`."""
    if isinstance(value, str):
        return [{"role": speaker, "content": value}]
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list | tuple):
        raise RowError("wrong_type", f"{name} is {type_name(value)}; a list of turns was expected")
    return list(value)


def begins_with_answer(turns: Sequence[Any]) -> bool:
    """Whether the first of `turns` follows something that is not among them."""
    return bool(turns) and SHAREGPT_ROLES.get(_speaker(turns[0]), "") in ("assistant", "tool")


def sharegpt_turns(turns: Sequence[Any], name: str) -> list[Turn]:
    """`turns` with `from` and `value`, as ours. Raises RowError."""
    return [_sharegpt_turn(turn, where) for turn, where in _numbered(turns, name)]


def openai_turns(turns: Sequence[Any], name: str) -> list[Turn]:
    """`turns` with `role` and `content`, as ours, the answers of tools in the order of their calls. Raises RowError."""
    numbered = _numbered(turns, name)
    return [_openai_turn(turn, where) for turn, where in _in_call_order(numbered)]


def with_head(turns: list[Turn], row: Mapping[str, Any]) -> list[Turn]:
    """`turns` with the row's own `system` and `tools` in the system turn; what a system turn says comes first."""
    system = row.get("system")
    if system is not None and not isinstance(system, str):
        raise RowError("wrong_type", f"system is {type_name(system)}; a string was expected")
    tools = tool_list(row.get("tools") or row.get("functions"), "tools")
    if not turns or turns[0]["role"] != "system":
        if not tools and not (system or "").strip():
            return turns
        turns = [{"role": "system", "content": system or ""}, *turns]
    return [{"tools": tools, **turns[0]}, *turns[1:]] if tools else turns


def tool_list(value: Any, where: str) -> list[Any]:
    """Descriptions of tools without OpenAI's envelope; none for nothing."""
    tools = [_unpacked(tool, where) for tool in _listed(value, where)]
    for tool in tools:
        if not isinstance(tool, Mapping):
            raise RowError("wrong_type", f"{where}: {type_name(tool)}; an object that describes a tool was expected")
    return [tool["function"] if isinstance(tool.get("function"), Mapping) else tool for tool in tools]


def _numbered(turns: Sequence[Any], name: str) -> list[tuple[Mapping[str, Any], str]]:
    """Each turn, and what it is called in an error."""
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, Mapping):
            raise RowError("wrong_type", f"{name}, turn {number} is {type_name(turn)}; an object was expected")
    return [(turn, f"{name}, turn {number}") for number, turn in enumerate(turns, 1)]


def _speaker(turn: Any) -> str:
    name = turn.get("from", turn.get("role")) if isinstance(turn, Mapping) else None
    return name if isinstance(name, str) else ""


def _sharegpt_turn(turn: Mapping[str, Any], where: str) -> Turn:
    speaker = turn["role"] if "from" not in turn and "role" in turn else field(turn, "from", where)
    role = SHAREGPT_ROLES.get(speaker) if isinstance(speaker, str) else None
    if role is None:
        raise RowError("bad_role", f"{where}: from {str(speaker)[:40]!r}; allowed: {', '.join(SHAREGPT_ROLES)}")
    said = turn["content"] if "value" not in turn and "content" in turn else field(turn, "value", where)
    if speaker in _CALLING:
        return {"role": role, "content": "", "tool_calls": _calls(said, f"{where}: value"), **_reasoning(turn)}
    return {"role": role, "content": _words(said, where, role), **_reasoning(turn), **_tooling(turn, where)}


def _openai_turn(turn: Mapping[str, Any], where: str) -> Turn:
    role = field(turn, "role", where)
    if isinstance(role, str):
        role = _OPENAI_ROLES.get(role, role)
    tooling = _tooling(turn, where)
    said = turn.get("content") or turn.get("refusal") or turn.get("content")
    if said is None and "tool_calls" not in tooling:
        said = field(turn, "content", where)
    return {"role": role, "content": _words(said, where, role), **_reasoning(turn), **tooling}


def _reasoning(turn: Mapping[str, Any]) -> Turn:
    reasoning = turn.get("reasoning_content")
    return {"reasoning_content": reasoning} if reasoning else {}


def _tooling(turn: Mapping[str, Any], where: str) -> Turn:
    """The turn's `tools` and `tool_calls`, where it has any."""
    tools = tool_list(turn.get("tools") or turn.get("functions"), f"{where}: tools")
    calls = _calls(turn.get("tool_calls") or turn.get("function_call"), f"{where}: tool_calls")
    return ({"tools": tools} if tools else {}) | ({"tool_calls": calls} if calls else {})


def _calls(value: Any, where: str) -> list[Turn]:
    calls = []
    for call in _listed(value, where):
        if not isinstance(call, Mapping):
            raise RowError("wrong_type", f"{where}: a call is {type_name(call)}; an object was expected")
        inner = call["function"] if isinstance(call.get("function"), Mapping) else call
        arguments = _unpacked(inner.get("arguments") or {}, f"{where}: arguments")
        if not isinstance(name := field(inner, "name", where), str) or not isinstance(arguments, Mapping):
            raise RowError("wrong_type", f"{where}: a name and an object of arguments were expected")
        calls.append({"name": name, "arguments": arguments})
    return calls


def _listed(value: Any, where: str) -> list[Any]:
    """A list as it is or out of a JSON string; one object as a list of it; none for nothing."""
    if value is None or value == "":
        return []
    value = _unpacked(value, where)
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list | tuple):
        raise RowError("wrong_type", f"{where} is {type_name(value)}; a list was expected")
    return list(value)


def _unpacked(value: Any, where: str) -> Any:
    """What a JSON string says, read as strictly as the row itself; other values as they are."""
    if not isinstance(value, str):
        return value
    try:
        return read_json(value.encode("utf-8"))
    except UnicodeEncodeError:
        raise RowError("lone_surrogate", f"{where}: half a character") from None
    except RowError as error:
        raise RowError(error.reason, f"{where}: {error.detail}") from None


def _words(value: Any, where: str, role: Any) -> Any:
    """Text parts joined by line feeds; what a tool answers as JSON where it is no text; else `value` as it is."""
    if (
        isinstance(value, list | tuple)
        and value
        and all(isinstance(part, Mapping) and "type" in part for part in value)
    ):
        return "\n".join(_part(part, f"{where}: content") for part in value)
    if role == "tool" and isinstance(value, list | dict):
        return json_text(value, f"{where}: content")
    return value


def _part(part: Mapping[str, Any], where: str) -> str:
    text = part.get(_TEXT_PARTS.get(part["type"], "")) if isinstance(part["type"], str) else None
    if not isinstance(text, str):
        raise RowError("wrong_type", f"{where} has a part of type {str(part['type'])[:40]!r}; only text can be learnt")
    return text


def _in_call_order(turns: list[tuple[Mapping[str, Any], str]]) -> list[tuple[Mapping[str, Any], str]]:
    """Answers of tools behind one calling turn sorted as the calls are, where each says which it answers."""
    ordered: list[tuple[Mapping[str, Any], str]] = []
    ids: list[Any] = []
    answers: list[tuple[Mapping[str, Any], str]] = []
    for turn in [*turns, ({}, "the end")]:
        if turn[0].get("role") == "tool":
            answers.append(turn)
            continue
        known = all(answer.get("tool_call_id") in ids for answer, _ in answers)
        ordered += sorted(answers, key=lambda answer: ids.index(answer[0].get("tool_call_id"))) if known else answers
        ordered.append(turn)
        calls = turn[0].get("tool_calls")
        ids = [call.get("id") for call in calls if isinstance(call, Mapping)] if isinstance(calls, list) else []
        answers = []
    return ordered[:-1]
