"""Shapes: rows as other projects write them, turned into ours before they are checked.

    alpaca     {"instruction", "input"?, "output", "system"?, "history"?: [[question, answer], …], "tools"?}
               pairs: "chosen" and "rejected", or both as the list "output"
    sharegpt   {"conversations": [{"from": "human" | "gpt" | …, "value"}, …], "system"?, "tools"?}
               pairs: "chosen" and "rejected", a turn or several each
    messages   {"messages": [{"role", "content", "tool_calls"?, …}, …], "tools"?}, as OpenAI and TRL have it
               pairs: "chosen" and "rejected" after "prompt" or "messages", or OpenAI's "input",
               "preferred_output" and "non_preferred_output"

`convert` rearranges and `documents.check_row` judges, so a row is held to the same rules whatever its shape.
What is decided here:

- Instruction and input are joined by a line feed, as LLaMA-Factory does.
- A side of a pair that begins with an answer gets the prompt before it; any other is the whole conversation.
- Rows for pretraining are the contents of the turns joined by line feeds, or a `text` as it is.
- `recognise` names the shape or kind that a row which failed seems to have, since that is the commonest mistake.

Not taken over: loss weights (`weight`, `train`), pictures and sound, tool calls written out in an answer.
"""

from collections.abc import Mapping
from typing import Any, Literal

from minimind.data.documents import RowKind, field, type_name
from minimind.data.kinds import CONVERSATIONS
from minimind.data.reading.strict_json import RowError
from minimind.data.reading.turns import Turn, begins_with_answer, openai_turns, raw_turns, sharegpt_turns, with_head

Shape = Literal["minimind", "alpaca", "sharegpt", "messages"]

FIELDS: dict[Shape, tuple[str, ...]] = {
    "minimind": ("text", "conversations", "chosen", "rejected", "prompt"),
    "alpaca": ("instruction", "input", "output", "system", "history", "tools", "chosen", "rejected", "text"),
    "sharegpt": ("conversations", "system", "tools", "chosen", "rejected", "text"),
    "messages": ("messages", "prompt", "system", "tools", "chosen", "rejected", "text")
    + ("input", "preferred_output", "non_preferred_output"),
}
"""The fields that `convert` reads of a row of each shape."""
_LOOKS = {"alpaca": "an Alpaca row", "sharegpt": "a ShareGPT row", "messages": "a row of OpenAI messages"}
_OTHER_TEXTS = ("content", "contents", "raw_content", "body", "document", "passage", "article")
"""What other corpora call their text."""


def convert(shape: Shape, kind: RowKind, value: Any) -> Any:
    """The fields of a `kind` row out of a parsed row of `shape`, for `check_row`. Raises RowError."""
    if shape == "minimind":
        return value
    if not isinstance(value, Mapping):
        raise RowError("not_object", f"a row is an object; this is {type_name(value)}")
    if kind == "preference":
        chosen, rejected = _alpaca_pair(value) if shape == "alpaca" else _pair(shape, value)
        return {"chosen": chosen, "rejected": rejected}
    if kind == "pretrain" and "text" in value and not set(value) & {"instruction", "conversations", "messages"}:
        return {"text": value["text"]}
    if shape == "alpaca":
        turns = _alpaca_prompt(value)
        if kind != "prompt":
            turns.append({"role": "assistant", "content": field(value, "output")})
    else:
        turns = _conversation(shape, value, or_prompt=kind == "prompt")
    return {"text": _joined(turns)} if kind == "pretrain" else {"conversations": turns}


def recognise(value: Any, *, kind: RowKind | None = None, shape: Shape = "minimind") -> str:
    """What a row that failed as `kind` and `shape` looks like, and the setting for it, as a clause; "" if unknown."""
    if not isinstance(value, Mapping):
        return ""
    seen = _seen_shape(value)
    if seen and seen != shape:
        return f'it looks like {_LOOKS[seen]}; set shape = "{seen}"'
    if shape != "minimind":
        return ""
    looks = _seen_kind(value)
    if looks and looks != kind and not (looks == "chat" and kind in (*CONVERSATIONS, "prompt")):
        return f'it looks like a {looks} row; use rows = "{looks}" (--kind {looks})'
    names = [name for name in _OTHER_TEXTS if isinstance(value.get(name), str)]
    if not looks and kind in (None, "pretrain") and names:
        return f'its text seems to be `{names[0]}`; set keys = {{ text = "{names[0]}" }}'
    return ""


def _conversation(shape: Shape, value: Mapping[str, Any], *, or_prompt: bool) -> list[Turn]:
    if shape == "sharegpt":
        turns = raw_turns(field(value, "conversations"), "conversations")
        return with_head(sharegpt_turns(turns, "conversations"), value)
    name = "prompt" if or_prompt and "messages" not in value else "messages"
    turns = raw_turns(field(value, name), name, speaker="user")
    return with_head(openai_turns(turns, name), value)


def _pair(shape: Shape, value: Mapping[str, Any]) -> list[list[Turn]]:
    """Chosen and rejected with their prompts, of ShareGPT or OpenAI rows."""
    names, before, read = ("chosen", "rejected"), ("conversations",), sharegpt_turns
    if shape == "messages":
        before, read = ("prompt", "messages"), openai_turns
        if "preferred_output" in value and isinstance(value.get("input"), Mapping):
            names, value = ("preferred_output", "non_preferred_output"), {**value, **value["input"]}
    asked = next((name for name in before if name in value), None)
    prompt = [] if asked is None else raw_turns(value[asked], asked, speaker="user")
    sides = []
    for name in names:
        side = raw_turns(field(value, name), name)
        turns = [*prompt, *side] if begins_with_answer(side) else side
        sides.append(with_head(read(turns, name), value))
    return sides


def _alpaca_pair(value: Mapping[str, Any]) -> list[list[Turn]]:
    output = value.get("output")
    if "chosen" not in value and isinstance(output, list) and len(output) == 2:
        answers = output
    else:
        answers = [field(value, "chosen"), field(value, "rejected")]
    return [[*_alpaca_prompt(value), {"role": "assistant", "content": answer}] for answer in answers]


def _alpaca_prompt(value: Mapping[str, Any]) -> list[Turn]:
    turns: list[Turn] = []
    history = [] if value.get("history") is None else value["history"]
    if not isinstance(history, list | tuple):
        raise RowError("wrong_type", f"history is {type_name(history)}; a list was expected")
    for number, pair in enumerate(history, 1):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise RowError("wrong_type", f"history, entry {number}: a question and its answer were expected")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    asked = {"instruction": field(value, "instruction"), "input": value.get("input")}
    if asked["input"] is None:
        asked["input"] = ""
    for name, text in asked.items():
        if not isinstance(text, str):
            raise RowError("wrong_type", f"{name} is {type_name(text)}; a string was expected")
    said = [text for text in asked.values() if text.strip()]
    if not said:
        raise RowError("empty_text", "instruction and input are blank")
    return with_head([*turns, {"role": "user", "content": "\n".join(said)}], value)


def _joined(turns: list[Turn]) -> str:
    contents = [turn["content"] for turn in turns if turn["content"] is not None]
    for number, content in enumerate(contents, 1):
        if not isinstance(content, str):
            raise RowError("wrong_type", f"text {number} is {type_name(content)}; a string was expected")
    return "\n".join(content for content in contents if content.strip())


def _seen_shape(value: Mapping[str, Any]) -> Shape | None:
    """The shape of another project that `value` has the marks of."""
    if any({"from", "value"} <= _first_keys(value.get(name)) for name in ("conversations", "chosen", "rejected")):
        return "sharegpt"
    if "instruction" in value and value.keys() & {"input", "output", "chosen"}:
        return "alpaca"
    answer_alone = "role" in _first_keys(value.get("chosen")) and begins_with_answer(raw_turns(value["chosen"], ""))
    if "role" in _first_keys(value.get("messages")) or "preferred_output" in value or answer_alone:
        return "messages"
    return None


def _seen_kind(value: Mapping[str, Any]) -> RowKind | None:
    if "chosen" in value and "rejected" in value:
        return "preference"
    if isinstance(value.get("conversations"), list):
        return "chat"
    if isinstance(value.get("text"), str):
        return "pretrain"
    return "prompt" if isinstance(value.get("prompt"), str | list) else None


def _first_keys(turns: Any) -> set[Any]:
    """The keys of the first turn, or of the only one."""
    first = turns[0] if isinstance(turns, list | tuple) and turns else turns
    return set(first) if isinstance(first, Mapping) else set()
