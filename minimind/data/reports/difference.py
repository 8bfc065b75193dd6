"""Where two short texts differ, for people: both in pieces, with the pieces marked that the other lacks.

Words are compared, not characters, and a few equal characters between two differences count as different:
confetti is no explanation. Quadratic in the number of words; meant for excerpts.
"""

import difflib
import re
from dataclasses import dataclass

_TOKEN = re.compile(r"[A-Za-z0-9\u00c0-\u024f]+|[^\S\n]+|.", re.S)
"""A word, a run of blanks, or one character: Chinese has no gaps to cut at."""
ISLAND_CHARACTERS = 3
"""Equal text between two differences, shorter than this, is marked with them."""
MAX_CHARACTERS = 2000
"""Of each text; beyond, the rest is shown unmarked."""


@dataclass(frozen=True)
class Piece:
    """Some characters of a text, and whether they are part of the difference."""

    text: str
    marked: bool


def difference(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Both texts in pieces; joined, the pieces of each are the text again."""
    one, other = _TOKEN.findall(before[:MAX_CHARACTERS]), _TOKEN.findall(after[:MAX_CHARACTERS])
    blocks = difflib.SequenceMatcher(None, one, other, autojunk=False).get_opcodes()
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    for number, (tag, start, stop, other_start, other_stop) in enumerate(blocks):
        texts = "".join(one[start:stop]), "".join(other[other_start:other_stop])
        island = 0 < number < len(blocks) - 1 and len(texts[0]) < ISLAND_CHARACTERS
        for side, text in zip(sides, texts, strict=True):
            _append(side, text, marked=tag != "equal" or island)
    for side, text in zip(sides, (before, after), strict=True):
        _append(side, text[MAX_CHARACTERS:], marked=False)
    return sides


def _append(pieces: list[Piece], text: str, *, marked: bool) -> None:
    """Add `text`, to the last piece if that is of the same sort."""
    if not text:
        return
    if pieces and pieces[-1].marked == marked:
        text = pieces.pop().text + text
    pieces.append(Piece(text, marked))
