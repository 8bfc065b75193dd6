"""Tags that work as markup of a page, told from those that a text only shows.

A tag counts if it has a name HTML knows, is closed or void or has attributes, and is not quoted or named as in "the
<b> tag". Tags in code do not count: in fences, backticks, comments, quotations and blocks indented below a line of
prose, every `<` and `&` is masked first, so that places stay the same.

Not here: what the tags make of a text (`markup`).
"""

import re
from itertools import groupby
from typing import NamedTuple

_BLOCK_NAMES = (
    "html head body title main article section nav header footer aside div p ul ol li dl dt dd table thead tbody"
    " tfoot tr td th caption h1 h2 h3 h4 h5 h6 blockquote pre form fieldset figure figcaption center address hr"
    " script style noscript template iframe details summary frameset frame noframes"
)
_INLINE_NAMES = (
    "a abbr acronym b bdi bdo big br button cite code del dfn em font i img input ins kbd label mark nobr object"
    " option picture q ruby rp rt s samp select small source span strike strong sub sup svg textarea time tt u var"
    " video audio wbr base link meta param embed map area path g amp"
)
BLOCKS = frozenset(_BLOCK_NAMES.split())
"""Elements that stand on lines of their own."""
INLINE = frozenset(_INLINE_NAMES.split())
"""The others; those of AMP as `amp`."""
KNOWN_NAMES = BLOCKS | INLINE
_VOID = frozenset(("br", "hr"))
OPEN_ENDED = frozenset(("p", "li", "td", "th", "tr", "dt", "dd"))
"""Elements whose end tag may be left out; they count without one at the beginning of a line."""
_BY_LETTER = "|".join(
    f"{letter}(?:{'|'.join(sorted((name[1:] for name in names), key=len, reverse=True))})"
    for letter, names in groupby(sorted(KNOWN_NAMES), key=lambda name: name[0])
)
"""The names as a pattern that tries one of two dozen letters before it tries names: twice as fast as a list."""
KNOWN_TAG = re.compile(rf"<(?:/?(?:amp-[a-z]|(?:{_BY_LETTER})[\s/>])|!doctype\s+html|!--)", re.I)
"""A quick look: without a hit there is no markup of a page."""
TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)((?:-[\w-]+)?(?:[\s/][^<>]{0,4000})?)>")
_ATTRIBUTE = re.compile(r"[\w-]\s*=\s*[^\s=>]")
_RAW = re.compile(r"<(script|style|template|noscript)\b[^<>]*>|<!--", re.I)
_CODE_MARK = "\x01"
_FENCE = re.compile(r"^[ \t]*(`{3,}|(?<![^\n]\n)~{3,}).*?^[ \t]*\1[`~]*[ \t]*$", re.M | re.S)
"""Not the tildes below a title."""
_FENCE_LINE = re.compile(r"^[ \t]*```", re.M)
_BACKTICKS = re.compile(r"(``?)(?!`)[^`\n]*(?:\n[^`\n]+)?\1(?!`)")
_QUOTED_LINE = re.compile(r"\n[ \t]*(?:>|\*(?!\*)|//|\#|--(?!>)|;|%|\$ |>>>|\.\.\. |\|)[^\n]*<[^\n]*")
"""With the line end before it: a literal, which is found at once, where `^` would be tried at every character."""
_INDENTED = re.compile(r"\n(?:[ ]{2}|\t)[^\n]*<")
_QUOTES = frozenset("'\"“‘「")
_SPOKEN_OF = re.compile(
    r">(?:['\"”’」`]\s{0,2}|[ \n]\s?)?(?:tags?|elements?|attributes?|标签|标籤|元素|标记|命令|节点)", re.I
)


class Tag(NamedTuple):
    """A tag that works as markup."""

    start: int
    end: int
    name: str
    closing: bool
    attributes: str


def code_masked(text: str) -> str:
    """`text` with every `<` and `&` in code replaced, so that places stay the same."""
    if ("```" in text or "~~~" in text) and len(_FENCE_LINE.findall(text)) % 2 == 0:
        text = _FENCE.sub(_masked, text)  # else a piece of a document, and no telling what is inside
    if "`" in text:
        text = _BACKTICKS.sub(_masked, text)
    text = _QUOTED_LINE.sub(_masked, f"\n{text}")
    return _mask_indented(text[1:]) if _INDENTED.search(text) else text[1:]


def working_tags(text: str) -> list[Tag]:
    """The tags in `text` that work as markup of a page, in their order."""
    found, opened, closed = [], set[str](), set[str]()
    for match in TAG.finditer(text):
        slash, written, attributes = match.groups()
        if (name := written.lower()) in KNOWN_NAMES:
            (closed if slash else opened).add(name)
            found.append((*match.span(), name, slash, attributes))
    spoken_of = {match.start() + 1 for match in _SPOKEN_OF.finditer(text)}
    tags: list[Tag] = []
    for start, end, name, slash, attributes in found:
        if end in spoken_of or (start and text[start - 1] in _QUOTES):
            continue
        if slash:
            works = name in opened or name in BLOCKS
        else:
            works = (name in closed and not attributes) or _opens(text, start, name, attributes, closed)
        if works:
            tags.append(Tag(start, end, name, slash == "/", attributes))
    return tags


def without_raw(text: str) -> str:
    """`text` with scripts, styles and comments blanked out: as long as before, and in as many lines."""
    parts: list[str] = []
    at, unclosed = 0, set[str]()
    for opening in _RAW.finditer(text):
        name = opening[1]
        close = f"</{name}" if name else "-->"
        if opening.start() < at or close in unclosed:
            continue
        end = text.find(close, opening.end())
        if end < 0:
            unclosed.add(close)  # looked for once, or a text full of openings would take quadratic time
            continue
        raw = text[opening.start() : end + len(close)]
        parts += (text[at : opening.start()], "\n".join(" " * len(line) for line in raw.split("\n")))
        at = end + len(close)
    return "".join((*parts, text[at:])) if parts else text


def _opens(text: str, start: int, name: str, attributes: str, closed: set[str]) -> bool:
    """Whether an opening tag is complete: with attributes, with an end tag, or where it needs none."""
    if attributes and not attributes.isspace() and attributes.strip() != "/":
        return _ATTRIBUTE.search(attributes) is not None  # not so: a<b and c>d
    if name in _VOID or name in closed:
        return True
    before = text[start - 1] if start else "\n"
    return name in OPEN_ENDED and (before in "\n>" or not text[text.rfind("\n", 0, start) + 1 : start].strip())


def _mask_indented(text: str) -> str:
    """Indented lines below a line of prose are an example; below a tag they are the page's own layout."""
    lines = text.split("\n")
    owner = -1  # the indentation of the prose that an example would belong to
    introduced = in_example = False
    for number, line in enumerate(lines):
        stripped = line.lstrip()
        if not stripped:
            introduced = True
            continue
        indent = len(line) - len(stripped)
        in_example = owner >= 0 and indent >= owner + 2 and (introduced or in_example)
        if in_example:
            lines[number] = line.replace("<", _CODE_MARK).replace("&", _CODE_MARK)
            continue
        owner = -1 if "<" in line else indent
        introduced = line.rstrip().endswith((":", "："))
    return "\n".join(lines)


def _masked(match: re.Match[str]) -> str:
    return match[0].replace("<", _CODE_MARK).replace("&", _CODE_MARK)
