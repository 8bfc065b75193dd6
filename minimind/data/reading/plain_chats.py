"""Plain conversations, of roles and contents alone, as most are: read by a parser that knows their shape.

It makes no dict of a turn and looks at nothing twice, which takes less than half the time of the general way. A line
with anything else in it (other fields, tools, reasoning, an answer that is blank, a turn out of order) is left for
`checking`, which says what is wrong with it, if anything is. Not here: what makes a conversation (`documents`).
"""

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
import pyarrow as pa

from minimind.data.arrays import Ints
from minimind.data.columns import message_lists
from minimind.data.documents import is_plain_order, row_id
from minimind.data.reading.json_rows import LineIndex

_TURN_QUOTES, _ROW_QUOTES = 8, 2
"""Of two keys and two strings; of the key of the list. A field more, or one that stands twice, makes more of them."""


class _Turn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A message; what no plain one has is there for the id, which is made of all fields."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    reasoning_content: None = None
    tools: None = None
    tool_calls: None = None


class _Row(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    conversations: list[_Turn]


@dataclass(frozen=True)
class PlainChats:
    """The lines that are certainly good conversations of plain turns, and these."""

    lines: Ints
    """Their numbers in the block, from 0."""
    ids: list[str]
    conversations: pa.ListArray

    def __len__(self) -> int:
        return len(self.lines)


def plain_chats(index: LineIndex) -> PlainChats:
    """Conversations that need no second look."""
    num_turns, rest = np.divmod(index.num_quotes - _ROW_QUOTES, _TURN_QUOTES)
    maybe = np.flatnonzero((rest == 0) & (num_turns > 0) & ~index.doubtful)
    lines, ids, turns, lengths = [], [], [], []
    spans = zip(index.starts[maybe].tolist(), index.ends[maybe].tolist(), strict=True)
    for line, count, (begin, end) in zip(maybe.tolist(), num_turns[maybe].tolist(), spans, strict=True):
        try:
            said = _decode(index.data[begin:end]).conversations
            if len(said) == count and is_plain_order(tuple([turn.role for turn in said])) and said[-1].content.strip():
                ids.append(row_id("chat", {"conversations": said}))
                lines.append(line)
                turns += said
                lengths.append(count)
        except (msgspec.DecodeError, UnicodeError):
            continue
    fields = {"role": [turn.role for turn in turns], "content": [turn.content for turn in turns]}
    return PlainChats(np.array(lines, np.int64), ids, message_lists(fields, lengths))


_decode = msgspec.json.Decoder(_Row).decode
