"""`control`: characters that nobody sees and no text needs go, and every line end becomes \\n.

Out go C0 and C1 controls but for tab and newline, bidi overrides, byte order marks, zero-width spaces, soft
hyphens, tags and non-characters (`HIDDEN_RANGES`), and what a terminal would have obeyed: colours, cursor moves,
window titles, hyperlinks, letters struck twice. Joiners (Persian, emoji), direction marks (Hebrew, Arabic) and the
tags in the flags of regions stay: scripts need them.

Not here: C1 bytes that stand for the quotes of windows-1252; `mojibake` comes first and reads them.
"""

import re
from functools import cache

from minimind.data.rules.characters import HIDDEN_RANGES
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, CharClass, Outcomes, Texts


def strip_control(texts: Texts, settings: CleanRules) -> Outcomes:
    """The texts with a hidden character, without them."""
    found = texts.having(CharClass.HIDDEN)
    return {i: Changed(clean) for i in found if (clean := _stripped(texts.texts[i])) != texts.texts[i]}


def _stripped(text: str) -> str:
    if "\x1b" in text or "\x9b" in text:
        text = _ESCAPE.sub("", text)
    if "\x08" in text:
        text = _STRUCK.sub(_struck_once, text)
    parts = _FLAG.split(text.replace("\r\n", "\n"))  # every other one is a flag
    parts[::2] = [part.translate(_translation()) for part in parts[::2]]
    return "".join(parts)


@cache
def _translation() -> dict[int, str | None]:
    """What becomes of each hidden character: a line end, or nothing."""
    table: dict[int, str | None] = {code: None for low, high in HIDDEN_RANGES for code in range(low, high + 1)}
    return table | dict.fromkeys(_LINE_ENDS, "\n")


def _struck_once(struck: re.Match[str]) -> str:
    """`N\\bNA\\bA` is a bold NA and `_\\bN_\\bA` an underlined one; anything else is just backspaces."""
    pairs = [struck[0][at : at + 3] for at in range(0, len(struck[0]), 3)]
    if all(pair[0] in ("_", pair[2]) for pair in pairs):
        return "".join(pair[2] for pair in pairs)
    return struck[0]


_LINE_ENDS = (0x0D, 0x85, 0x2028, 0x2029)
_ESCAPE = re.compile(
    "(?:\x1b\\[|\x9b)(?:[0-9;:?]+[A-Za-z]|[mK])"  # colour, cursor, erase; `[H` alone may be a bracket in the text
    "|\x1b\\][0-9]+;[^\x07\x1b\n]{0,1000}(?:\x07|\x1b\\\\)"  # title, hyperlink
    "|\x1b[()][AB0]"  # character set
)
_STRUCK = re.compile("(?:[^\n\x08]\x08[^\n\x08]){2,}")
_FLAG = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f)")
