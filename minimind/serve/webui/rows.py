"""Conversations for other programs: Markdown for people, and rows of chat training data, out and in.

A row is what is shown of a conversation, in the format that `docs/formats.md` gives for chats; a question without an
answer is no training data and is left out, as is text a model was asked to continue. Not here: conversations' own
files (`chats`).
"""

import json
from collections.abc import Iterator
from typing import Any

from minimind.data.documents import check_row
from minimind.data.reading.strict_json import RowError, read_json
from minimind.errors import DataError
from minimind.serve.webui.chats import Chat, Message, Settings, ToolCall, new_chat

MOST_ROWS = 500  # of an imported file: each becomes a conversation in the sidebar


def answered(chat: Chat) -> list[Message]:
    """The messages shown, without those of turns that got no answer, and without continued text."""
    turns: list[list[Message]] = []
    for number in chat.path():
        message = chat.messages[number]
        if message.role == "user":
            turns.append([])
        turns[-1:] or turns.append([])
        turns[-1].append(message)
    return [message for turn in turns if _is_answered(turn) for message in turn if not message.is_empty]


def api_messages(chat: Chat) -> list[dict[str, Any]]:
    """The conversation so far, the open question included, as the chat API takes it."""
    shown = [chat.messages[number] for number in chat.path()]
    last_question = max((n for n, one in enumerate(shown) if one.role == "user"), default=0)
    messages = answered(chat.replace(head=shown[last_question].parent)) + shown[last_question:] if shown else []
    system = [{"role": "system", "content": chat.settings.system}] if chat.settings.system else []
    return system + list(_as_api(messages))


def row(chat: Chat) -> dict[str, Any]:
    """The conversation as a row of chat training data. Raises DataError where it has no answer yet."""
    turns: list[dict[str, str]] = []
    if chat.settings.system:
        turns.append({"role": "system", "content": chat.settings.system})
    for message in answered(chat):
        turn = {"role": message.role, "content": message.content}
        if message.reasoning:
            turn["reasoning_content"] = message.reasoning
        if message.tool_calls:
            calls = [{"name": call.name, "arguments": _loaded(call.arguments)} for call in message.tool_calls]
            turn["tool_calls"] = json.dumps(calls, ensure_ascii=False)
        turns.append(turn)
    if chat.settings.tools and turns:
        turns[0]["tools"] = chat.settings.tools
    try:
        check_row("chat", {"conversations": turns})
    except RowError as error:
        raise DataError(f"this conversation makes no row of training data: {error}") from None
    return {"conversations": turns}


def row_line(chat: Chat) -> str:
    """The row as a line of a JSONL file. Raises DataError as `row` does."""
    return json.dumps(row(chat), ensure_ascii=False) + "\n"


def markdown(chat: Chat, *, question: str, answer: str) -> str:
    """The conversation to read; `question` and `answer` are the headings of turns, in the page's language."""
    parts = [f"# {chat.title}"]
    if chat.settings.system:
        parts.append(f"> {chat.settings.system}".replace("\n", "\n> "))
    for number in chat.path():
        message = chat.messages[number]
        heading = answer if message.role == "assistant" else question if message.role == "user" else message.role
        parts.append(f"## {heading}" + (f" · {message.model}" if message.model else ""))
        if message.reasoning:
            parts.append(f"> {message.reasoning}".replace("\n", "\n> "))
        if message.content:
            parts.append(message.content)
        parts += [f"```json\n{call.name}({call.arguments})\n```" for call in message.tool_calls]
    return "\n\n".join(parts) + "\n"


def read_rows(content: bytes, settings: Settings) -> list[Chat]:
    """A new conversation for every row of a JSONL file. Raises DataError with the line that is wrong."""
    lines = [(n, line) for n, line in enumerate(content.split(b"\n"), 1) if line.strip(b" \t\r\xef\xbb\xbf")]
    if not lines:
        raise DataError('the file is empty; each line of it should be a row like {"conversations": […]}')
    if len(lines) > MOST_ROWS:
        raise DataError(f"the file has {len(lines)} rows; at most {MOST_ROWS} are taken at once, cut it")
    return [_chat_of(line, number, settings) for number, line in lines]


def _chat_of(line: bytes, number: int, settings: Settings) -> Chat:
    try:
        turns = check_row("chat", read_json(line))["conversations"]
    except RowError as error:
        raise DataError(f"line {number}: {error}") from None
    tools = next((turn["tools"] for turn in turns if turn["tools"]), "")
    system = turns[0]["content"] if turns[0]["role"] == "system" else ""
    chat = new_chat(settings.replace(system=system, tools=tools, compare=False))
    for turn in turns[1 if turns[0]["role"] == "system" else 0 :]:
        message = Message(
            parent=chat.head,
            role=turn["role"],
            content=turn["content"],
            reasoning=turn["reasoning_content"] or "",
            tool_calls=_calls(turn["tool_calls"]),
        )
        chat = chat.with_message(message)
    return chat


def _is_answered(turn: list[Message]) -> bool:
    last = turn[-1]
    return last.role == "assistant" and bool(last.content or last.tool_calls) and not last.continues_text


def _as_api(messages: list[Message]) -> Iterator[dict[str, Any]]:
    """Messages with the ids that tie a tool's results to its calls; results answer calls in their order."""
    open_calls: list[str] = []
    for number, message in enumerate(messages):
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.reasoning:
            turn["reasoning_content"] = message.reasoning
        if message.tool_calls:
            ids = [call.id or f"call_{number}_{place}" for place, call in enumerate(message.tool_calls)]
            open_calls = list(ids)
            turn["tool_calls"] = [
                {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call_id, call in zip(ids, message.tool_calls, strict=True)
            ]
        if message.role == "tool":
            turn["tool_call_id"] = open_calls.pop(0) if open_calls else "call_0"
        yield turn


def _calls(text: str | None) -> tuple[ToolCall, ...]:
    """The calls in a row's JSON string; what is in no known shape is kept as the arguments of one."""
    if not text:
        return ()
    calls = _loaded(text)
    calls = calls if isinstance(calls, list) else [calls]
    bodies = [call.get("function", call) if isinstance(call, dict) else {"arguments": call} for call in calls]
    return tuple(ToolCall(name=str(body.get("name", "")), arguments=_dumped(body.get("arguments"))) for body in bodies)


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _dumped(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)
