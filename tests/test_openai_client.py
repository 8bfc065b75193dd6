"""The official client of OpenAI's API against our server: what it reads is what it would read from OpenAI."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from server_process import ServerProcess, serving

ADD = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = ':call={"name":_"add",_"arguments":_{"a":_1,_"b":_"二"}}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    models = {name: tmp_path_factory.mktemp(name) for name in ("echo", "other")}
    (models["other"] / "says.txt").write_text("other")
    with serving(models, keys=["secret"]) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:
        yield client


def ask(client: OpenAI, text: str, **options: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    return client.chat.completions.create(**{"model": "echo", "messages": messages, **options})


def test_a_chat_is_answered_and_counted(client: OpenAI) -> None:
    """The plainest use there is; a wrong count is a wrong bill."""
    done = ask(client, "hello 世界 again")
    assert done.object == "chat.completion" and done.id.startswith("chatcmpl-") and done.model == "echo"
    assert done.system_fingerprint and done.created > 1_700_000_000
    choice = done.choices[0]
    assert (choice.message.role, choice.message.content) == ("assistant", "hello 世界 again")
    assert choice.finish_reason == "stop" and choice.message.tool_calls is None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (3, 3, 6)
    assert done.usage.prompt_tokens_details.cached_tokens == 2


def test_a_stream_begins_with_the_role_and_ends_with_usage(client: OpenAI) -> None:
    """Clients build their message from exactly this order of chunks."""
    chunks = list(ask(client, "a b c", stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "a b c"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None and "usage" in chunk.model_fields_set for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    assert all(chunk.usage is None and "usage" not in chunk.model_fields_set for chunk in ask(client, "a", stream=True))


def test_choices_are_as_many_as_were_asked_for(client: OpenAI) -> None:
    """Upstream ignored `n`."""
    done = ask(client, "a b", n=3)
    assert [choice.index for choice in done.choices] == [0, 1, 2]
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (2, 6)
    texts = ["", "", ""]
    for chunk in ask(client, "a b", n=3, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["a b"] * 3


def test_an_answer_ends_where_it_was_told_to(client: OpenAI) -> None:
    """Two different ends, two different words."""
    assert ask(client, "a b END c", stop="END").choices[0].message.content == "a b"
    assert ask(client, "a b END c", stop=["x", "END"]).choices[0].finish_reason == "stop"
    short = ask(client, "a b c d", max_tokens=2).choices[0]
    assert (short.message.content, short.finish_reason) == ("a b", "length")
    assert ask(client, "a b c", max_completion_tokens=1, max_tokens=3).choices[0].message.content == "a"


def test_reasoning_has_a_field_of_its_own(client: OpenAI) -> None:
    """It is no part of what is said, and its tokens are told apart."""
    done = ask(client, ":think=hm yes")
    message = done.choices[0].message
    assert (message.reasoning_content, message.content) == ("hm", " yes")
    assert done.usage.completion_tokens_details.reasoning_tokens == 1
    deltas = [chunk.choices[0].delta for chunk in ask(client, ":think=hm yes", stream=True)]
    assert [delta.reasoning_content for delta in deltas if getattr(delta, "reasoning_content", None)] == ["hm"]


def test_a_tool_is_called_answered_and_talked_about(client: OpenAI) -> None:
    """The whole round: the call out, its result in, an answer."""
    first = ask(client, CALL, tools=[ADD])
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls" and message.content is None
    (call,) = message.tool_calls
    assert call.type == "function" and call.function.name == "add"
    assert json.loads(call.function.arguments) == {"a": 1, "b": "二"}
    turns = [
        {"role": "user", "content": "add"},
        message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "it is 3"},
    ]
    done = client.chat.completions.create(model="echo", messages=turns, tools=[ADD])
    assert done.choices[0].message.content == "it is 3"


def test_a_streamed_call_is_the_same_call(client: OpenAI) -> None:
    """Id, type and name first, then the arguments, in pieces that join to JSON."""
    with client.chat.completions.stream(
        model="echo", messages=[{"role": "user", "content": CALL}], tools=[ADD]
    ) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert call.id.startswith("call_") and json.loads(call.function.arguments) == {"a": 1, "b": "二"}
    chunks = [c.choices[0] for c in ask(client, CALL, tools=[ADD], stream=True)]
    first = next(choice.delta.tool_calls[0] for choice in chunks if choice.delta.tool_calls)
    assert (first.index, first.type, first.function.name, first.function.arguments) == (0, "function", "add", "")
    assert chunks[-1].finish_reason == "tool_calls"


@pytest.mark.parametrize("options", [{"tools": [ADD], "tool_choice": "none"}, {}])
def test_nobody_gets_a_call_who_did_not_ask(client: OpenAI, options: dict[str, Any]) -> None:
    """A client without tools would wait for ever for something it can show."""
    choice = ask(client, CALL, **options).choices[0]
    assert choice.finish_reason == "stop" and choice.message.tool_calls is None and '"add"' in choice.message.content


def test_a_call_that_is_no_json_is_text(client: OpenAI) -> None:
    """Small models slip; that is no reason for an error."""
    choice = ask(client, ':call={"name":', tools=[ADD]).choices[0]
    assert (choice.message.content, choice.finish_reason) == ('{"name":', "stop")


def test_one_call_at_a_time_where_that_is_asked_for(client: OpenAI) -> None:
    """`parallel_tool_calls: false` is a promise to clients that can run one tool only."""
    two = ':call=[{"name":_"add"},{"name":_"add"}]'
    assert len(ask(client, two, tools=[ADD]).choices[0].message.tool_calls) == 2
    assert len(ask(client, two, tools=[ADD], parallel_tool_calls=False).choices[0].message.tool_calls) == 1


def test_likelihoods_come_with_every_token(client: OpenAI) -> None:
    """Infinity is no JSON, and half a character no text: both have OpenAI's substitutes."""
    tokens = ask(client, "a b", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert [(token.token, token.bytes, token.logprob) for token in tokens] == [("a", [97], -0.5), ("b", [98], -0.5)]
    assert tokens[0].top_logprobs[1].bytes == [0xE4] and tokens[0].top_logprobs[1].logprob == -9999
    streamed = [c.choices[0].logprobs for c in ask(client, "a b", logprobs=True, stream=True)]
    assert [entry.content[0].token for entry in streamed if entry] == ["a", "b"]
    assert ask(client, "a").choices[0].logprobs is None


def test_completions_continue_texts_and_ids(client: OpenAI) -> None:
    """The older API: many prompts in one request, four lists of likelihoods."""
    done = client.completions.create(model="echo", prompt=["a b", "c"], n=2, logprobs=2)
    assert done.object == "text_completion" and [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in done.choices] == ["a b", "a b", "c", "c"]
    assert done.usage.prompt_tokens == 3
    assert done.choices[0].logprobs.tokens == ["a", "b"] and done.choices[0].logprobs.text_offset == [0, 1]
    assert done.choices[0].logprobs.top_logprobs[0] == {"a": -0.5, "bytes:\\xe4": -9999}
    assert client.completions.create(model="echo", prompt=[7, 8]).choices[0].text == "7 8"
    pieces = list(client.completions.create(model="echo", prompt="a b", stream=True))
    assert "".join(piece.choices[0].text for piece in pieces) == "a b" and pieces[-1].choices[0].finish_reason == "stop"


def test_models_are_listed_and_chosen_by_name(client: OpenAI) -> None:
    """The name in an answer is the model that gave it."""
    assert [model.id for model in client.models.list()] == ["echo", "other"]
    card = client.models.retrieve("other")
    assert card.object == "model" and card.max_model_len == 512 and card.parameters == 1234
    done = ask(client, "x", model="other")
    assert (done.model, done.choices[0].message.content) == ("other", "other x")


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (openai.NotFoundError, {"model": "nobody"}),
        (openai.BadRequestError, {"temperature": 3}),
        (openai.BadRequestError, {"messages": []}),
        (openai.BadRequestError, {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}),
        (openai.BadRequestError, {"messages": [{"role": "user", "content": "word " * 600}]}),
        (openai.RateLimitError, {"messages": [{"role": "user", "content": ":refuse=overloaded"}]}),
        (openai.InternalServerError, {"messages": [{"role": "user", "content": ":refuse=model_failure"}]}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_the_clients_own(
    client: OpenAI, error: type[Exception], options: dict[str, Any], stream: bool
) -> None:
    """Programs catch classes; a stream that cannot begin is a status, too."""
    with pytest.raises(error) as caught:
        ask(client, "x", **options, stream=stream)
    assert caught.value.body["message"] and caught.value.request_id


def test_a_wrong_key_is_told_so(server: ServerProcess) -> None:
    """And the key is in no log."""
    stranger = OpenAI(base_url=f"{server.url}/v1", api_key="wr0ng", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    assert "wr0ng" not in server.log_text() and "secret" not in server.log_text()


def test_messages_come_in_every_form_that_clients_send(client: OpenAI) -> None:
    """Parts of text, developer turns, reasoning given back, fields of next year."""
    turns = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}], "name": "eve"},
        {"role": "assistant", "content": "b", "reasoning_content": "hm", "refusal": None},
        {"role": "user", "content": [{"type": "text", "text": "c "}, {"type": "text", "text": "d"}]},
    ]
    done = client.chat.completions.create(
        model="echo", messages=turns, user="eve", extra_body={"min_p": 0.1, "top_k": 5, "of_next_year": {"x": 1}}
    )
    assert done.choices[0].message.content == "c d"


def test_many_ask_at_once_and_each_gets_its_own(server: ServerProcess) -> None:
    """Answers that swap their readers are the worst a server can do."""

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="secret", max_retries=0) as client:

            async def one(number: int) -> str:
                messages = [{"role": "user", "content": f":wait=0.01 n{number} 好{number} end"}]
                stream = await client.chat.completions.create(model="echo", messages=messages, stream=True)
                return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

            return await asyncio.gather(*map(one, range(40)))

    assert asyncio.run(all_of_them()) == [f"n{number} 好{number} end" for number in range(40)]
