"""The answers to one request on their way from an engine to whoever waits for them.

What goes wrong comes by the same queue as what goes right: the engine was lost, the client left, the time is over.
So there is one place to wait in, and it raises. Leaving the `with` cancels what nobody waits for any more.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from minimind.infer.protocol import Ask, Began, Ended, Piece, Refused

News = Began | Piece | Ended | Refused


class ClientLeft(Exception):
    """Nobody waits for the answer; there is nobody to tell."""


class Asking:
    """The choices of one request; a choice is the number of its ask."""

    def __init__(self, asks: Sequence[Ask], cancel: Callable[[Sequence[str]], None]) -> None:
        self._choices = {ask.id: number for number, ask in enumerate(asks)}
        self._cancel = cancel
        self._open = set(self._choices)
        self._queue: asyncio.Queue[tuple[int, News] | Exception] = asyncio.Queue()
        self._trouble: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cancel(sorted(self._open))
        self._open.clear()

    @property
    def done(self) -> bool:
        """Whether all choices have ended and all their news were taken."""
        return not self._open and self._queue.empty()

    def put(self, message: News) -> None:
        """News of a choice."""
        if isinstance(message, Ended | Refused):
            self._open.discard(message.id)
        self._queue.put_nowait((self._choices[message.id], message))

    def fail(self, error: Exception) -> None:
        """Have whoever waits get this error, behind the news that came before it."""
        self._queue.put_nowait(error)

    async def news(self) -> list[tuple[int, News]]:
        """All news there is, and at least one. Raises what `fail` was given."""
        if self._trouble is not None:
            raise self._trouble
        items = [await self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get_nowait())
        found: list[tuple[int, News]] = []
        for item in items:
            if isinstance(item, Exception):
                self._trouble = item
                break
            found.append(item)
        if not found and self._trouble is not None:
            raise self._trouble
        return found
