"""`control`: characters that nobody sees and no text needs go, and every line end becomes \\n.

Out go C0 and C1 controls but for tab and newline, bidi overrides, byte order marks, zero-width spaces, soft
hyphens, tags and non-characters (`HIDDEN_RANGES`), and what a terminal would have obeyed: colours, cursor moves,
window titles, hyperlinks, letters struck twice. Joiners (Persian, emoji), direction marks (Hebrew, Arabic) and the
tags in the flags of regions stay: scripts need them.

Not here: C1 bytes that stand for the quotes of windows-1252; `mojibake` comes first and reads them.
"""

import re

import numpy as np

from minimind.data.rules.characters import class_table
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
    for end in _LINE_ENDS:
        text = text.replace(end, "\n")
    parts = _FLAG.split(text)  # every other one is a flag
    parts[::2] = map(_visible, parts[::2])
    return "".join(parts)


def _visible(text: str) -> str:
    """`text` without its hidden characters."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_seen = class_table()[codes] != CharClass.HIDDEN
    return codes[is_seen].tobytes().decode("utf-32-le", "surrogatepass")


def _struck_once(struck: re.Match[str]) -> str:
    """`N\\bNA\\bA` is a bold NA and `_\\bN_\\bA` an underlined one; anything else is just backspaces."""
    pairs = [struck[0][at : at + 3] for at in range(0, len(struck[0]), 3)]
    if all(pair[0] in ("_", pair[2]) for pair in pairs):
        return "".join(pair[2] for pair in pairs)
    return struck[0]


_LINE_ENDS = ("\r\n", "\r", "\x85", "\u2028", "\u2029")
_ESCAPE = re.compile(
    # colour, cursor, erase; `[H` alone may be a bracket in the text
    "\x1b\\[(?:[0-9;:?]+[A-Za-z]|[mK])|\x9b(?:[0-9;:?]+[A-Za-z]|[mK])"
    "|\x1b\\][0-9]+;[^\x07\x1b\n]{0,1000}(?:\x07|\x1b\\\\)"  # title, hyperlink
    "|\x1b[()][AB0]"  # character set
)
_STRUCK = re.compile("(?:[^\n\x08]\x08[^\n\x08]){2,}")
_FLAG = re.compile("(\U0001f3f4[\U000e0020-\U000e007e]{2,6}\U000e007f)")
