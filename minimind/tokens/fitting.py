"""What becomes of a conversation that is longer than a training's rows: dropped, cut from the left, or split.

    drop      it is left out whole
    cut_left  whole turns are taken out behind the system turn, oldest first, until it fits; the last user turn
              and what follows it always stay, and where even that does not fit the conversation is dropped
    split     it becomes several conversations, each beginning at a user turn behind a copy of the system turn;
              a user turn that does not fit with its own answer is left out

A turn is never cut in two. Of a pair both sides lose the same turns. Everything is done on ids: a turn begins
where IM_START stands, which no text can spell.

Axes: S sides (1, or 2 of a pair), T turns. Not here: rendering (`minimind.tokens.chat`), the logs of what was
dropped and cut (`minimind.tokens.tokenizing`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from minimind.tokens.chat import Message

TooLong = Literal["drop", "cut_left", "split"]
LEAST_TOKENS = 8
"""Of a conversation: the marks of its turns alone take as many."""
Ranges = list[tuple[int, int]]
"""First turn and the one behind the last, of each document that a conversation becomes."""


@dataclass(frozen=True)
class Side:
    """A rendered conversation; `trained` as in `chat.Rendered`."""

    ids: np.ndarray
    trained: np.ndarray


@dataclass(frozen=True)
class Fitted:
    """The documents of a conversation (for a pair: chosen, rejected) and the messages that are in none of them."""

    documents: list[Side]
    lost: list[Message]


@dataclass(frozen=True)
class _Turns:
    """Where the turns of a conversation begin, and what stays together."""

    starts: list[np.ndarray]
    """Of each side: the offset of every turn's first id, and the number of ids."""
    head: int
    """1 where the first turn is the system's, else 0."""
    groups: list[int]
    """Turns at which a cut may be made: a user's turns, and the end."""
    made: int
    """1 where the system turn is not in the row but was made to list the tools."""

    def size(self, start: int, stop: int) -> int:
        """Ids of the longer side with only the turns from `start` to before `stop`, and the system turn."""
        return max(int(at[self.head] + at[stop] - at[start]) for at in self.starts)


def fit(
    sides: Sequence[Side], messages: Sequence[Message], policy: TooLong, *, max_tokens: int, im_start: int
) -> Fitted:
    """The conversation made to fit `max_tokens`; no documents where it cannot be.

    `messages` are those of the first side; a prompt's `sides` end with the header of the answer that is due.
    """
    if policy == "drop":
        return Fitted([], [])
    turns = _turns(sides, messages, im_start)
    ranges = (_cut_left if policy == "cut_left" else _split)(turns.groups, lambda a, b: turns.size(a, b) <= max_tokens)
    if not ranges:
        return Fitted([], [])
    kept = {turn for start, stop in ranges for turn in range(start, stop)} | set(range(turns.head))
    lost = [message for number, message in enumerate(messages) if number + turns.made not in kept]
    documents = [
        _only(side, at, turns.head, start, stop)
        for start, stop in ranges
        for side, at in zip(sides, turns.starts, strict=True)
    ]
    return Fitted(documents, lost)


def _turns(sides: Sequence[Side], messages: Sequence[Message], im_start: int) -> _Turns:
    starts = [np.append(np.flatnonzero(side.ids == im_start), len(side.ids)) for side in sides]
    made = int(messages[0]["role"] != "system" and any(message.get("tools") for message in messages))
    users = [number + made for number, message in enumerate(messages) if message["role"] == "user"]
    head = int(made or messages[0]["role"] == "system")
    return _Turns(starts, head, [*users, len(starts[0]) - 1], made)


def _cut_left(groups: Sequence[int], fits: Callable[[int, int], bool]) -> Ranges:
    return next(([(start, groups[-1])] for start in groups[:-1] if fits(start, groups[-1])), [])


def _split(groups: Sequence[int], fits: Callable[[int, int], bool]) -> Ranges:
    """As many neighbouring groups together as fit, from the left."""
    ranges: Ranges = []
    for start, stop in zip(groups, groups[1:], strict=False):
        if ranges and ranges[-1][1] == start and fits(ranges[-1][0], stop):
            ranges[-1] = (ranges[-1][0], stop)
        elif fits(start, stop):
            ranges.append((start, stop))
    return ranges


def _only(side: Side, at: np.ndarray, head: int, start: int, stop: int) -> Side:
    parts = (slice(0, at[head]), slice(at[start], at[stop]))
    return Side(
        np.concatenate([side.ids[part] for part in parts]), np.concatenate([side.trained[part] for part in parts])
    )
