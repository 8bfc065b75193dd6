"""Engines' messages as OpenAI's objects: a stream and a whole answer say the same, whatever the pieces."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.infer.protocol import Began, Ended, Piece
from minimind.serve.calls import read_calls
from minimind.serve.chat_answer import ChatAnswer, Heading
from minimind.serve.questions import ChatQuestion
from minimind.serve.usage import Tally

TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALLS = ['{"name": "f"}', '[{"name": "f", "arguments": {"x": "早"}}]', '{"name":', '{"name": 1}', " \n"]
PIECES = st.one_of(
    st.tuples(st.sampled_from(["content", "reasoning"]), st.text(max_size=4)),
    st.tuples(st.just("tool_call"), st.sampled_from(CALLS)),
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(pieces=st.lists(PIECES, max_size=8), with_tools=st.booleans(), end=st.sampled_from(["stop", "length"]))
def test_a_stream_adds_up_to_the_whole_answer(pieces: list[tuple[str, str]], with_tools: bool, end: str) -> None:
    """Clients that stream and clients that wait must not see two answers; and nothing a model says is lost."""
    fields = {"messages": [{"role": "user", "content": "x"}], **({"tools": TOOLS} if with_tools else {})}
    answer = ChatAnswer(Heading("id", 0, "m", "fp"), ChatQuestion.model_validate(fields))
    chunks = answer.begin(0)
    for channel, text in pieces:
        chunks += answer.add(0, Piece("a", channel, text, 1))  # type: ignore[arg-type]
    chunks += answer.end(0, Ended("a", end, len(pieces)))  # type: ignore[arg-type]
    choice = answer.whole(Tally().usage()).choices[0]
    deltas = [chunk.delta for chunk in chunks]
    content = "".join(delta.content or "" for delta in deltas)
    assert (choice.message.content or "") == (content if content.strip() or not choice.message.tool_calls else "")
    assert (choice.message.reasoning_content or "") == "".join(delta.reasoning_content or "" for delta in deltas)
    streamed: dict[int, str] = {}
    for call in (call for delta in deltas for call in delta.tool_calls or ()):
        streamed[call.index] = streamed.get(call.index, "") + call.function.arguments
    called = [call.function.arguments for call in choice.message.tool_calls or ()]
    assert called == [streamed[index] for index in range(len(called))] and all(
        isinstance(json.loads(text), dict) for text in called
    )
    assert chunks[-1].finish_reason == choice.finish_reason
    assert (choice.finish_reason == "tool_calls") == (bool(called) and end == "stop")


def test_calls_are_read_however_models_write_them() -> None:
    """One, a list, several in a row; arguments as an object or as a string of one."""
    for text in ('{"name": "f", "arguments": {"a": 1}}', '[{"name": "f", "arguments": "{\\"a\\": 1}"}]'):
        (call,) = read_calls(text) or ()
        assert (call.name, json.loads(call.arguments)) == ("f", {"a": 1})
    assert [call.name for call in read_calls('{"name": "f"}\n{"name": "g"}\n') or ()] == ["f", "g"]
    assert (read_calls('{"name": "f"}') or [])[0].arguments == "{}"


def test_what_is_no_call_is_none() -> None:
    """Half a JSON, no name, arguments that are a list, a tower of brackets, nothing."""
    texts = (
        "",
        "[]",
        '{"name": "f"',
        '{"arguments": {}}',
        '{"name": "f", "arguments": [1]}',
        "[" * 5000,
        '{"name": "f"} x',
    )
    assert [read_calls(text) for text in texts] == [None] * len(texts)


def test_a_prompt_with_several_answers_counts_once() -> None:
    """As OpenAI bills it; two prompts count twice."""
    tally = Tally(choices_per_prompt=2)
    for choice, tokens in enumerate((7, 7, 3, 3)):
        tally.began(choice, Began("a", tokens, 2))
        tally.ended(Ended("a", "stop", 5, 1))
    usage = tally.usage()
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (10, 20, 30)
    assert (usage.prompt_tokens_details.cached_tokens, usage.completion_tokens_details.reasoning_tokens) == (4, 4)
