"""From a conversation to the requests it wants answered: one, or two side by side.

Not here: sending them (`client`), keeping what comes (`answers`).
"""

import json
import secrets
from collections.abc import Sequence
from typing import Any

from minimind.serve.webui.chats import Chat, Message, Settings
from minimind.serve.webui.client import Request, ServedModel
from minimind.serve.webui.rows import api_messages


def fitted(settings: Settings, models: Sequence[ServedModel]) -> Settings:
    """The settings with models the server has: where one is not served, the first that is; for the second, another."""
    if not models:
        return settings
    known = {model.id: model for model in models}
    changes: dict[str, Any] = {}
    if settings.model not in known:
        changes |= {"model": models[0].id, "continue_text": models[0].only_continues}
    if settings.second_model not in known:
        first = changes.get("model", settings.model)
        second = next((model for model in models if model.id != first), models[0])
        changes |= {"second_model": second.id, "second_continue_text": second.only_continues}
    return settings.replace(**changes) if changes else settings


def read_tools(text: str) -> list[dict[str, Any]]:
    """The functions in `text` in OpenAI's shape; bare ones, as in training rows, are wrapped. Raises ValueError."""
    if not text.strip():
        return []
    tools = json.loads(text)
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise ValueError("[{…}, …]")
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools]


def requests(chat: Chat) -> list[tuple[Request, Message]]:
    """What to ask for the end of the path: each request with the message its answer becomes, as yet without words."""
    settings = chat.settings
    sides = [(settings.model, settings.continue_text)]
    if settings.compare:
        sides.append((settings.second_model, settings.second_continue_text))
    pair = secrets.token_hex(4) if settings.compare else ""
    wanted = []
    for (model, continues_text), side in zip(sides, ("left", "right"), strict=False):
        request = Request(
            model=model,
            settings=settings,
            messages=() if continues_text else api_messages(chat),
            prompt=_text_of(chat) if continues_text else None,
            tools=() if continues_text else _usable_tools(settings),
        )
        blank = Message(
            parent=chat.head,
            role="assistant",
            continues_text=continues_text,
            model=model,
            pair=pair,
            side=side if pair else "",
        )
        wanted.append((request, blank))
    return wanted


def open_calls(chat: Chat) -> list[str]:
    """Names of the functions whose results the model waits for at the end of the path, in their order."""
    for results, number in enumerate(reversed(chat.path())):
        message = chat.messages[number]
        if message.role != "tool":
            return [call.name for call in message.tool_calls][results:]
    return []


def _text_of(chat: Chat) -> str:
    """The text to go on with: the last question alone, so that a chat before it does not count as its beginning."""
    return chat.messages[chat.path()[-1]].content


def _usable_tools(settings: Settings) -> Sequence[dict[str, Any]]:
    try:
        return read_tools(settings.tools)
    except ValueError:  # the sidebar says so beside the field
        return ()
