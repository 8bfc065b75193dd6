"""What a check is, and what it sees of an answer."""

from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, StrictInt, StrictStr

from minimind.config import Config
from minimind.evaluate.prompts.tools import Tools

Text = Annotated[StrictStr, Field(min_length=1)]
SomeTexts = Annotated[tuple[Text, ...], Field(min_length=1)]
Count = Annotated[StrictInt, Field(ge=1)]


@dataclass(frozen=True)
class Said:
    """An answer as a check sees it."""

    content: str
    """What is shown to a user, trimmed."""
    calls: str = ""
    """What stood between the tags of tool calls."""
    ended: bool = True
    """Whether it stopped by itself."""
    repetition: float = 0.0
    tools: Tools = field(default_factory=dict)
    """Those it could have called."""


class Check(Config):
    """Base of all kinds."""

    kind: str

    def fault(self, said: Said) -> str | None:
        """What is wrong, in plain words; None for an answer that passes."""
        raise NotImplementedError


def quoted(text: str) -> str:
    return f'"{text}"'


def either(texts: tuple[str, ...]) -> str:
    return " or ".join(map(quoted, texts))
