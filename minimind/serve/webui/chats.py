"""Conversations of the web page, one JSON file each, so that they outlive the page and the machine's restarts.

The messages of a conversation are a tree that only grows: a message says by `parent` what it follows, and `head` is
the end of the path that is shown. So a question that is edited and an answer that is asked for again are new versions
beside the old ones, and nothing that was said is lost. A message's number is its place in `messages`.

Not here: asking (`client`), drawing (`frame`), files for other programs (`rows`).
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from filelock import FileLock
from pydantic import Field

from minimind import runtime
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError
from minimind.proven import Proven, set_aside, write_note

TITLE_CHARACTERS = 48  # about what a row of the sidebar shows


class Settings(Config):
    """What is asked, and how answers are drawn."""

    model: str = ""
    continue_text: bool = False
    """The model goes on from the text itself, as a pretrained one does, in the place of chatting."""
    compare: bool = False
    second_model: str = ""
    second_continue_text: bool = False
    system: str = ""
    tools: str = ""
    """A JSON list of functions in OpenAI's shape; empty for none."""
    temperature: float = Field(0.7, ge=0, le=2)
    top_p: float = Field(0.9, ge=0, le=1)
    top_k: int = Field(0, ge=0)
    min_p: float = Field(0.0, ge=0, le=1)
    repetition_penalty: float = Field(1.0, ge=0.1, le=2)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    max_tokens: int = Field(512, ge=1)
    seed: int | None = None


class ToolCall(Config):
    """A function the model wants called; its arguments are JSON as the model wrote it."""

    id: str = ""
    name: str = ""
    arguments: str = ""


class Problem(Config):
    """Why an answer did not come, or not to its end: a kind that has words of the page, and the server's own."""

    kind: str
    message: str = ""
    retry_after: str = ""


class Figures(Config):
    """How long an answer took; tokens as the server counted them, None where it does not say."""

    seconds: float = 0.0
    first_token_seconds: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    pieces: int = 0
    """Pieces the answer came in: about its tokens, for servers that count none."""

    @property
    def tokens_per_second(self) -> float | None:
        """The rate after the first token; None for an answer too short to tell."""
        tokens = self.completion_tokens if self.completion_tokens is not None else self.pieces
        writing = self.seconds - (self.first_token_seconds or 0.0)
        return (tokens - 1) / writing if tokens > 1 and writing > 0 else None


class Message(Config):
    """One turn. `pair` is common to two answers that were asked for side by side."""

    parent: int | None
    role: Literal["user", "assistant", "tool"]
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    continues_text: bool = False
    model: str = ""
    pair: str = ""
    side: Literal["", "left", "right"] = ""
    state: Literal["done", "stopped", "failed"] = "done"
    finish_reason: str = ""
    problem: Problem | None = None
    figures: Figures | None = None

    @property
    def is_empty(self) -> bool:
        return not (self.content or self.reasoning or self.tool_calls)


class Chat(Proven):
    """A conversation. Every change is a new value."""

    version: Literal[1] = 1
    id: str
    title: str = ""
    created_at: str
    updated_at: str
    settings: Settings = Settings()
    messages: tuple[Message, ...] = ()
    head: int | None = None

    def path(self) -> list[int]:
        """The numbers of the messages that are shown, first to last."""
        numbers: list[int] = []
        number = self.head
        while number is not None and 0 <= number < len(self.messages) and number not in numbers:
            numbers.append(number)
            number = self.messages[number].parent
        return numbers[::-1]

    def versions(self, number: int) -> list[int]:
        """The message and those in its place, oldest first; two that were asked for side by side count once."""
        message = self.messages[number]
        beside = [
            other
            for other, one in enumerate(self.messages)
            if one.parent == message.parent and (other == number or not one.pair or one.pair != message.pair)
        ]
        shown: dict[str, int] = {}
        for other in beside:
            shown.setdefault(self.messages[other].pair or str(other), other)
        return sorted(number if self.messages[number].pair == pair else other for pair, other in shown.items())

    def pair_of(self, number: int) -> list[int]:
        """The answers that were asked for together with this one, itself included, left one first."""
        message = self.messages[number]
        together = [n for n, one in enumerate(self.messages) if one.pair and one.pair == message.pair]
        return sorted(together, key=lambda n: self.messages[n].side) or [number]

    def shown_at(self, number: int) -> "Chat":
        """The path leads through `number`, on to the newest message below it."""
        newest = number
        for other, message in enumerate(self.messages):
            if message.parent == newest:
                newest = other
        return self.replace(head=newest)

    def cut_before(self, number: int) -> "Chat":
        """The path ends before `number`; what follows next becomes a version beside it."""
        return self.replace(head=self.messages[number].parent)

    def with_message(self, message: Message) -> "Chat":
        """`message` added, and shown; of two side by side the left one is on the path."""
        messages = (*self.messages, message)
        partner_shown = self.head is not None and message.pair and self.messages[self.head].pair == message.pair
        head = self.head if partner_shown and message.side == "right" else len(self.messages)
        title = self.title or (title_of(message.content) if message.role == "user" else "")
        return self.replace(messages=messages, head=head, title=title)


def new_chat(settings: Settings) -> Chat:
    """An empty conversation; it has no file until it is saved."""
    now = runtime.now()
    stamp = now[:19].translate({ord("-"): None, ord(":"): None})
    return Chat(id=f"{stamp}-{secrets.token_hex(3)}", created_at=now, updated_at=now, settings=settings)


def title_of(question: str) -> str:
    """The beginning of a question, on one line."""
    line = " ".join(question.split())
    return line if len(line) <= TITLE_CHARACTERS else line[: TITLE_CHARACTERS - 1].rstrip() + "…"


@dataclass(frozen=True)
class ChatHead:
    """What a list of conversations shows of one."""

    id: str
    title: str
    updated_at: str
    modified_ns: int


@dataclass
class ChatStore:
    """The conversations in a directory. Several pages and processes may use it at once."""

    directory: Path
    damaged: list[str] = field(default_factory=list)
    """Files that could not be read and were set aside, by their new names."""
    _heads: dict[str, ChatHead] = field(default_factory=dict)

    def list(self) -> list[ChatHead]:
        """All conversations, the one last changed first. Damaged files are set aside and noted in `damaged`."""
        found = {}
        for path in self.directory.glob("*.json"):
            try:
                modified = path.stat().st_mtime_ns
                known = self._heads.get(path.stem)
                found[path.stem] = known if known and known.modified_ns == modified else self._read_head(path)
            except FileNotFoundError:  # deleted, or set aside, since the directory was listed
                continue
        self._heads = found
        return sorted(found.values(), key=lambda head: (head.updated_at, head.modified_ns), reverse=True)

    def load(self, chat_id: str) -> Chat | None:
        """The conversation, or None where there is no such file, or it is damaged."""
        path = self._path(chat_id)
        try:
            chat = Chat.read_json(path, remedy="it is set aside")
        except MissingError:
            return None
        except ArtifactError:
            self._set_aside(path)
            return None
        return chat if chat.id == path.stem else chat.replace(id=path.stem)  # a file that somebody copied

    def save(self, chat: Chat) -> Chat:
        """Write a conversation; it becomes the newest."""
        self.directory.mkdir(parents=True, exist_ok=True)
        saved = chat.replace(updated_at=runtime.now())
        write_note(self._path(chat.id), saved.model_dump(exclude_defaults=True) | {"version": 1})
        return saved

    def change(self, chat_id: str, change: Callable[[Chat], Chat]) -> Chat:
        """Apply a change to the file as it is now. Raises MissingError where the conversation is gone."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / ".lock"):
            chat = self.load(chat_id)
            if chat is None:
                raise MissingError(f"the conversation {chat_id} is not there any more; start a new one")
            changed = change(chat)
            return chat if changed == chat else self.save(changed)

    def delete(self, chat_id: str) -> None:
        """Remove a conversation's file, if it is there."""
        with FileLock(self.directory / ".lock"):
            self._path(chat_id).unlink(missing_ok=True)

    def _path(self, chat_id: str) -> Path:
        """The file of a conversation; an id comes from an address a user may edit, so it must be a plain name."""
        return self.directory / f"{Path(chat_id).name.lstrip('.') or 'none'}.json"

    def _read_head(self, path: Path) -> ChatHead:
        modified = path.stat().st_mtime_ns
        chat = self.load(path.stem)
        if chat is None:
            raise FileNotFoundError(path)
        return ChatHead(chat.id, chat.title, chat.updated_at, modified)

    def _set_aside(self, path: Path) -> None:
        if aside := set_aside(path):
            self.damaged.append(aside.name)
