"""The messages of OpenAI's API as the turns our chat format has (`minimind.tokens.chat`), checked on the way.

Tools and calls become the JSON strings that rows of chats carry; `developer` is another word for `system`. A tool's
answer must follow the call it answers, because the model has never seen anything else.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from minimind.serve.errors import ApiError
from minimind.serve.limits import Limits
from minimind.serve.questions import ChatMessage, ChatQuestion, Tool, ToolCall

Turn = dict[str, Any]


def turns_of(question: ChatQuestion, limits: Limits) -> list[Turn]:
    """The conversation, the tools on its first turn. Raises ApiError with the message at fault."""
    if len(question.messages) > limits.messages:
        said = f"{len(question.messages)} messages; this server takes {limits.messages}"
        raise ApiError(400, said, code="too_many_messages", param="messages")
    turns: list[Turn] = []
    open_calls: set[str] = set()
    for number, message in enumerate(question.messages):
        where = f"messages[{number}]"
        turns.append(_turn(message, where, limits))
        if message.role == "tool":
            _check_answer(message, where, open_calls)
        else:
            open_calls = {call.id for call in message.tool_calls or ()}
    if question.tools and question.wants_calls:
        turns[0]["tools"] = _listed(question.tools)
    return turns


def _turn(message: ChatMessage, where: str, limits: Limits) -> Turn:
    content = _text(message, where)
    if len(content or "") > limits.content_chars:
        said = f"{where}.content has {len(content or '')} characters; this server takes {limits.content_chars}"
        raise ApiError(400, said, code="string_above_max_length", param=f"{where}.content")
    turn: Turn = {"role": "system" if message.role == "developer" else message.role, "content": content or ""}
    if message.role != "assistant":
        if content is None:
            raise ApiError(400, f"{where}.content is missing", param=f"{where}.content")
        if message.tool_calls:
            raise ApiError(400, f"{where}: only an assistant calls tools", param=f"{where}.tool_calls")
        return turn
    if content is None and not message.tool_calls and not message.reasoning_content:
        raise ApiError(400, f"{where}: neither content nor tool_calls", param=f"{where}.content")
    if message.reasoning_content:
        turn["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        turn["tool_calls"] = _calls(message.tool_calls, where)
    return turn


def _text(message: ChatMessage, where: str) -> str | None:
    """The text of a content, its parts joined."""
    if message.content is None or isinstance(message.content, str):
        return message.content
    for number, part in enumerate(message.content):
        if part.type != "text" or part.text is None:
            param = f"{where}.content[{number}]"
            raise ApiError(400, f"{param}: only parts of type text are understood, not {part.type[:40]}", param=param)
    return "".join(part.text or "" for part in message.content)


def _calls(calls: Sequence[ToolCall], where: str) -> str:
    """Calls as an assistant writes them: a JSON list of names and arguments."""
    written = []
    for number, call in enumerate(calls):
        try:
            arguments = json.loads(call.function.arguments or "{}")
        except (ValueError, RecursionError):
            param = f"{where}.tool_calls[{number}].function.arguments"
            raise ApiError(400, f"{param} is not JSON", param=param) from None
        written.append({"name": call.function.name, "arguments": arguments})
    return json.dumps(written, ensure_ascii=False)


def _check_answer(message: ChatMessage, where: str, open_calls: Iterable[str]) -> None:
    if message.tool_call_id is None:
        raise ApiError(400, f"{where}.tool_call_id is missing", param=f"{where}.tool_call_id")
    if message.tool_call_id not in open_calls:
        said = f"{where}.tool_call_id {message.tool_call_id[:40]!r} is of no call in the assistant's turn before it"
        raise ApiError(400, said, param=f"{where}.tool_call_id")


def _listed(tools: Sequence[Tool]) -> str:
    return json.dumps([tool.model_dump(mode="json", exclude_unset=True) for tool in tools], ensure_ascii=False)
