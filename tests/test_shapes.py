"""Rows of other projects: the published examples of each come out as the conversations they are."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.documents import RowKind, check_row
from minimind.data.reading.shapes import FIELDS, Shape, convert, recognise
from minimind.data.reading.strict_json import Reason, RowError

SETTLED = settings(deadline=None, derandomize=True)
CALL = {"name": "get_weather", "arguments": {"city": "济南"}}
TOOL = {"name": "get_weather", "description": "今天的天气", "parameters": {"type": "object", "properties": {}}}


def checked(shape: Shape, kind: RowKind, value: Any) -> dict[str, Any]:
    return check_row(kind, convert(shape, kind, value))


def spoken(turns: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(turn["role"], turn["content"]) for turn in turns]


def reason_of(shape: Shape, kind: RowKind, value: Any) -> str:
    with pytest.raises(RowError) as caught:
        checked(shape, kind, value)
    return caught.value.reason


def test_alpaca_rows_become_conversations():
    """Instruction and input are one question; system and history stand before it, in their order."""
    row = {
        "instruction": "把下面的句子译成英文。",
        "input": "你好，世界。",
        "output": "Hello, world.",
        "system": "You translate.",
        "history": [["Are you there?", "Yes."], ["Ready?", "Ready."]],
    }
    assert spoken(checked("alpaca", "chat", row)["conversations"]) == [
        ("system", "You translate."),
        ("user", "Are you there?"),
        ("assistant", "Yes."),
        ("user", "Ready?"),
        ("assistant", "Ready."),
        ("user", "把下面的句子译成英文。\n你好，世界。"),
        ("assistant", "Hello, world."),
    ]


@pytest.mark.parametrize("extra", [{}, {"input": ""}, {"input": None, "history": None, "system": ""}, {"history": []}])
def test_what_alpaca_leaves_empty_is_left_out(extra: dict[str, Any]):
    """Most Alpaca rows have an empty input; it must not leave a line feed behind."""
    row = {"instruction": "Say hi.", "output": "Hi.", **extra}
    assert spoken(checked("alpaca", "chat", row)["conversations"]) == [("user", "Say hi."), ("assistant", "Hi.")]


@pytest.mark.parametrize("answers", [{"chosen": "four", "rejected": "five"}, {"output": ["four", "five"]}])
def test_alpaca_pairs(answers: dict[str, Any]):
    """Both layouts that LLaMA-Factory has used for pairs."""
    row = checked("alpaca", "preference", {"instruction": "2 + 2?", "input": "", **answers})
    assert spoken(row["chosen"]) == [("user", "2 + 2?"), ("assistant", "four")]
    assert spoken(row["rejected"]) == [("user", "2 + 2?"), ("assistant", "five")]


def test_sharegpt_rows_with_tools():
    """LLaMA-Factory's example: a call and what came of it are turns of their own; tools stand beside the turns."""
    row = {
        "conversations": [
            {"from": "human", "value": "济南今天天气如何？"},
            {"from": "function_call", "value": json.dumps(CALL, ensure_ascii=False)},
            {"from": "observation", "value": {"temperature": 20}},
            {"from": "gpt", "value": "二十度。"},
        ],
        "system": "你会查天气。",
        "tools": json.dumps([TOOL], ensure_ascii=False),
    }
    turns = checked("sharegpt", "chat", row)["conversations"]
    assert spoken(turns) == [
        ("system", "你会查天气。"),
        ("user", "济南今天天气如何？"),
        ("assistant", ""),
        ("tool", '{"temperature": 20}'),
        ("assistant", "二十度。"),
    ]
    assert json.loads(turns[0]["tools"]) == [TOOL] and json.loads(turns[2]["tool_calls"]) == [CALL]


def test_a_system_turn_wins_over_the_field():
    """As in LLaMA-Factory; two system turns would be no conversation."""
    turns = [{"from": "system", "value": "A"}, {"from": "human", "value": "Q"}, {"from": "gpt", "value": "R"}]
    row = checked("sharegpt", "chat", {"conversations": turns, "system": "B", "tools": [TOOL]})
    assert spoken(row["conversations"])[0] == ("system", "A")
    assert json.loads(row["conversations"][0]["tools"]) == [TOOL]


def test_sharegpt_pairs():
    """The answers are turns beside the conversation they end; whole conversations are taken too."""
    asked, good, bad = ({"from": name, "value": name} for name in ("human", "gpt", "chatgpt"))
    row = {"conversations": [asked], "chosen": good, "rejected": bad}
    whole = {"chosen": [asked, good], "rejected": [asked, bad]}
    assert checked("sharegpt", "preference", row) == checked("sharegpt", "preference", whole)
    assert spoken(checked("sharegpt", "preference", row)["rejected"]) == [("user", "human"), ("assistant", "chatgpt")]


def test_openai_rows_with_parallel_calls():
    """The fine-tuning format: packed arguments, an envelope round tools, parts of text, answers out of order."""
    function = {"name": "f", "parameters": {}}
    calls = [
        {"id": f"call_{city}", "type": "function", "function": {"name": "f", "arguments": json.dumps({"city": city})}}
        for city in ("Paris", "Rome")
    ]
    row = {
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "Weather in"}, {"type": "text", "text": "Paris, Rome?"}],
            },
            {"role": "assistant", "content": None, "tool_calls": calls, "reasoning_content": "Two cities."},
            {"role": "tool", "tool_call_id": "call_Rome", "content": "sun"},
            {"role": "tool", "tool_call_id": "call_Paris", "content": [{"type": "text", "text": "rain"}]},
            {"role": "assistant", "content": "Rain, sun.", "weight": 1},
        ],
        "tools": [{"type": "function", "function": function}],
    }
    turns = checked("messages", "chat", row)["conversations"]
    assert spoken(turns) == [
        ("system", "Be brief."),
        ("user", "Weather in\nParis, Rome?"),
        ("assistant", ""),
        ("tool", "rain"),
        ("tool", "sun"),
        ("assistant", "Rain, sun."),
    ]
    assert turns[2]["reasoning_content"] == "Two cities."
    assert json.loads(turns[2]["tool_calls"]) == [
        {"name": "f", "arguments": {"city": "Paris"}},
        {"name": "f", "arguments": {"city": "Rome"}},
    ]
    assert json.loads(turns[0]["tools"]) == [function]


def test_old_openai_names_are_read():
    """`functions`, `function_call` and the role `function` are deprecated, not gone: published sets have them."""
    row = {
        "messages": [
            {"role": "user", "content": "Go."},
            {"role": "assistant", "function_call": {"name": "go", "arguments": ""}},
            {"role": "function", "name": "go", "content": "gone"},
            {"role": "assistant", "content": None, "refusal": "No more."},
        ],
        "functions": [TOOL],
    }
    turns = checked("messages", "chat", row)["conversations"]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "tool", "assistant"]
    assert json.loads(turns[2]["tool_calls"]) == [{"name": "go", "arguments": {}}] and turns[4]["content"] == "No more."


ASKED, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "Q"), ("assistant", "A"), ("assistant", "B"))
)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "Q", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "messages": [ASKED, GOOD]},
        {"prompt": "Q", "chosen": "A", "rejected": "B"},
        {"messages": [ASKED], "chosen": GOOD, "rejected": BAD},
        {"input": {"messages": [ASKED]}, "preferred_output": [GOOD], "non_preferred_output": [BAD]},
    ],
)
def test_pairs_of_messages_in_every_layout(row: dict[str, Any]):
    """TRL with and without its own prompt, UltraFeedback's columns, OpenAI's names: one and the same pair."""
    assert checked("messages", "preference", row) == check_row(
        "preference", {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}
    )


@pytest.mark.parametrize(
    ("shape", "row"),
    [
        ("alpaca", {"instruction": "Q", "output": "A"}),
        ("alpaca", {"instruction": "Q"}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}]}),
        ("messages", {"messages": [ASKED, GOOD]}),
        ("messages", {"prompt": "Q"}),
        ("messages", {"prompt": [ASKED]}),
    ],
)
def test_prompts_end_before_the_answer(shape: Shape, row: dict[str, Any]):
    """Any set of conversations can be asked again; its own answers are left off."""
    assert spoken(checked(shape, "prompt", row)["prompt"]) == [("user", "Q")]


@pytest.mark.parametrize(
    ("shape", "row", "text"),
    [
        ("alpaca", {"instruction": "Q", "input": "", "output": "A", "text": "Below is an instruction …"}, "Q\nA"),
        ("alpaca", {"text": "a document"}, "a document"),
        ("sharegpt", {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, "Q\nA"),
        ("messages", {"messages": [ASKED, {"role": "assistant", "tool_calls": [CALL]}]}, "Q"),
    ],
)
def test_conversations_as_text(shape: Shape, row: dict[str, Any], text: str):
    """What pretraining reads of a conversation is its words, without a template around them."""
    assert checked(shape, "pretrain", row)["text"] == text


@pytest.mark.parametrize(
    ("shape", "kind", "row", "reason"),
    [
        ("alpaca", "chat", [], "not_object"),
        ("alpaca", "chat", {"output": "A"}, "missing_field"),
        ("alpaca", "chat", {"instruction": "Q"}, "missing_field"),
        ("alpaca", "chat", {"instruction": " ", "input": "", "output": "A"}, "empty_text"),
        ("alpaca", "chat", {"instruction": "Q", "output": ""}, "no_target"),
        ("alpaca", "chat", {"instruction": "Q", "output": None}, "wrong_type"),
        ("alpaca", "chat", {"instruction": "Q", "input": 0, "output": "A"}, "wrong_type"),
        ("alpaca", "chat", {"instruction": "Q", "output": "A", "history": [["only"]]}, "wrong_type"),
        ("alpaca", "preference", {"instruction": "Q", "chosen": "A", "rejected": "A"}, "identical_pair"),
        ("sharegpt", "chat", {"conversations": [{"from": "narrator", "value": "x"}]}, "bad_role"),
        ("sharegpt", "chat", {"conversations": [{"from": "human"}]}, "missing_field"),
        ("sharegpt", "chat", {"conversations": [{"value": "x"}]}, "missing_field"),
        ("sharegpt", "chat", {"conversations": ["x"]}, "wrong_type"),
        ("sharegpt", "chat", {"conversations": [{"from": "gpt", "value": "x"}]}, "bad_turn_order"),
        ("sharegpt", "chat", {"conversations": [{"from": "function_call", "value": "{bad"}]}, "bad_json"),
        ("sharegpt", "chat", {"conversations": [], "tools": "not JSON"}, "bad_json"),
        ("sharegpt", "chat", {"conversations": [], "system": 1}, "wrong_type"),
        ("messages", "chat", {"messages": [{"role": "critic", "content": "x"}]}, "bad_role"),
        ("messages", "chat", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, GOOD]}, "wrong_type"),
        ("messages", "chat", {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"id": 1}]}]}, "missing_field"),
        (
            "messages",
            "chat",
            {"messages": [ASKED, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": '{"a":1,"a":2}'}]}]},
            "duplicate_key",
        ),
        ("messages", "pretrain", {"messages": [{"role": "user", "content": 1}]}, "wrong_type"),
    ],
)
def test_rows_that_are_wrong_say_why(shape: Shape, kind: RowKind, row: Any, reason: str):
    """The same reasons as for our own rows: a count of them can be compared over sources."""
    assert reason_of(shape, kind, row) == reason


def test_our_own_rows_pass_untouched():
    """The usual case costs nothing and changes nothing, not even what it does not know."""
    row = {"text": "a", "url": "x"}
    assert convert("minimind", "pretrain", row) is row


@pytest.mark.parametrize(
    ("row", "clause"),
    [
        ({"instruction": "Q", "output": "A"}, 'it looks like an Alpaca row; set shape = "alpaca"'),
        (
            {"conversations": [{"from": "human", "value": "Q"}]},
            'it looks like a ShareGPT row; set shape = "sharegpt"',
        ),
        ({"messages": [ASKED, GOOD]}, 'it looks like a row of OpenAI messages; set shape = "messages"'),
        ({"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}, "OpenAI messages"),
        ({"conversations": [ASKED, GOOD]}, 'it looks like a chat row; use rows = "chat" (--kind chat)'),
        ({"chosen": "A", "rejected": "B", "prompt": "Q"}, 'rows = "preference" (--kind preference)'),
        ({"prompt": "Q"}, 'rows = "prompt" (--kind prompt)'),
        ({"title": "t", "content": "words"}, 'set keys = { text = "content" }'),
        ({"a": 1}, ""),
        (["text"], ""),
        (None, ""),
    ],
)
def test_a_row_that_failed_is_recognised(row: Any, clause: str):
    """Nearly all files that fail as a whole are good files of another shape or kind: say which."""
    found = recognise(row, kind="pretrain")
    assert clause in found and bool(clause) == bool(found)


def test_what_was_asked_for_is_not_recommended():
    """A chat row that failed as a chat row has another fault; advice to do what was done is none."""
    assert recognise({"conversations": [ASKED]}, kind="chat") == ""
    assert recognise({"conversations": [ASKED]}, kind="lora") == ""
    assert recognise({"conversations": [ASKED]}, kind="prompt") == ""
    assert recognise({"instruction": "Q", "output": ""}, kind="chat", shape="alpaca") == ""
    assert (
        recognise({"text": "a"}, kind="chat") == 'it looks like a pretrain row; use rows = "pretrain" (--kind pretrain)'
    )


words = st.sampled_from(
    ["user", "human", "gpt", "tool", "assistant", "function_call", "x", "", "{}", '[{"name": 1}]', "\ud83d"]
)
leaves = st.none() | st.booleans() | st.integers() | words
turns = st.dictionaries(
    st.sampled_from(
        ["from", "value", "role", "content", "tool_calls", "tool_call_id", "function_call", "tools", "type"]
    ),
    leaves | st.lists(leaves | st.dictionaries(words, leaves, max_size=2), max_size=2) | st.dictionaries(words, leaves),
)
fields = st.sampled_from(sorted({name for names in FIELDS.values() for name in names}))


@SETTLED
@given(
    st.sampled_from(get_args(Shape)),
    st.sampled_from(get_args(RowKind)),
    st.dictionaries(fields, leaves | turns | st.lists(leaves | turns, max_size=4)) | leaves,
)
def test_any_value_gives_a_row_or_a_row_error(shape: Shape, kind: RowKind, value: Any):
    """A parsed row of any shape is judged, never crashed on, and so is the advice about it."""
    assert isinstance(recognise(value, kind=kind, shape=shape), str)
    try:
        checked(shape, kind, value)
    except RowError as error:
        assert error.reason in get_args(Reason)
