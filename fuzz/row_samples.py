"""Rows to begin with: some of each kind and of each shape, and the names in them."""

from typing import Any

_CALL = {"name": "add", "arguments": {"a": 1, "b": 2.5}}
_TOOLS = [{"name": "add", "description": "sum", "parameters": {"type": "object"}}]
_HELLO = {"role": "user", "content": "Hello?"}
_ANSWER = {"role": "assistant", "content": "Hello, 你好 😀."}
_HI = {"from": "human", "value": "Hi"}
_CALLING = {"role": "assistant", "content": None, "tool_calls": [_CALL]}
_OPENAI_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

SAMPLES: dict[str, list[dict[str, Any]]] = {
    "pretrain": [
        {"text": "A line \"quoted\" \\ and\nmore."},
        {"id": 7, "text": "é 中文", "score": 0.5, "ok": True, "tags": ["a", None]},
        {"content": "elsewhere", "meta": {"body": "inside"}, "id": "g1", "text": "😀"},
    ],
    "chat": [
        {"conversations": [_HELLO, _ANSWER]},
        {"conversations": [{"role": "system", "content": "Be kind.", "tools": _TOOLS}, _HELLO, _ANSWER], "id": "g1"},
        {"conversations": [_HELLO, _CALLING, {"role": "tool", "content": "3"}, {**_ANSWER, "reasoning_content": "hm"}]},
        {"messages": [_HELLO, _ANSWER]},
    ],
    "preference": [
        {"chosen": [_HELLO, _ANSWER], "rejected": [_HELLO, {"role": "assistant", "content": "No."}]},
        {"prompt": "Why?", "chosen": "Because.", "rejected": "So."},
    ],
    "prompt": [{"prompt": "Why?"}, {"prompt": [_HELLO]}, {"conversations": [_HELLO, _ANSWER]}],
    "alpaca": [
        {"instruction": "Add.", "input": "1 2", "output": "3", "system": "s", "history": [["a", "b"]]},
        {"instruction": "Add.", "chosen": "3", "rejected": "4"},
        {"instruction": "Add.", "input": None, "output": ["3", "4"], "tools": "[]"},
        {"text": "plain"},
    ],
    "sharegpt": [
        {"conversations": [_HI, {"from": "gpt", "value": "Hello"}], "system": "s", "id": 1},
        {"conversations": [_HI, {"from": "function_call", "value": '{"name": "f", "arguments": {}}'},
                           {"from": "observation", "value": "3"}, {"from": "gpt", "value": "3"}],
         "tools": '[{"name": "f"}]'},
        {"conversations": [_HI], "chosen": {"from": "gpt", "value": "a"},
         "rejected": {"from": "gpt", "value": "b"}},
    ],
    "messages": [
        {"messages": [_HELLO, _ANSWER], "tools": [{"type": "function", "function": _TOOLS[0]}]},
        {"messages": [_HELLO, {"role": "assistant", "content": None, "tool_calls": [_OPENAI_CALL]},
                      {"role": "tool", "content": [{"type": "text", "text": "3"}], "tool_call_id": "c1"}, _ANSWER]},
        {"prompt": [_HELLO], "chosen": [_ANSWER], "rejected": "No."},
        {"input": {"messages": [_HELLO]}, "preferred_output": [_ANSWER],
         "non_preferred_output": [{**_ANSWER, "content": "b"}]},
    ],
}  # fmt: skip
SAMPLES["lora"] = SAMPLES["chat"]


def _names(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*map(_names, value.values()))
    return set().union(*map(_names, value)) if isinstance(value, list) else set()


WORDS: tuple[str, ...] = tuple(
    sorted(
        _names(list(SAMPLES.values())) | {"user", "assistant", "system", "tool", "human", "gpt", "functions", "refusal"}
    )
)
