"""What the tags in a text are: the bones of a web page, crumbs of one, or what the text speaks about.

A page is unwrapped, a text about HTML must stay to the letter, and both are full of `<div>`. So tags count only
where they work as markup: a name HTML knows, closed or with attributes or void, outside of code (fences, backticks,
indented blocks below a line of prose, comments, quotations), not named as "the <b> tag". Who the other lines belong
to then decides: Markdown, program source, XML data and templates keep their tags.

A whole .html file without a fence around it is taken for a page: nothing tells it from one, and its text is what is
worth reading. One that carries template syntax ({{ x }}, v-if, <?php) is source code and stays.

Not here: how a page becomes text (`page_text`), and what becomes of a row (`html`).
"""

import re
from collections import Counter
from enum import Enum
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
_KNOWN = BLOCKS | INLINE
_VOID = frozenset(("br", "hr"))
_OPEN_ENDED = frozenset(("p", "li", "td", "th", "tr", "dt", "dd"))
"""Elements whose end tag may be left out; they count without one at the beginning of a line."""
_NOTATION = frozenset(("sub", "sup", "kbd", "var", "abbr", "mark"))
"""Elements that plain text and Markdown have no signs for."""
KNOWN_TAG = re.compile(
    rf"</?(?:amp-[a-z]|(?:{'|'.join(sorted(BLOCKS | INLINE, key=len, reverse=True))})[\s/>])|<!doctype\s+html|<!--",
    re.I,
)
"""A quick look: without a hit there is no markup of a page."""
_TAG = re.compile(r"<(/?)([A-Za-z][A-Za-z0-9]*)((?:-[\w-]+)?(?:[\s/][^<>]{0,4000})?)>")
_ATTRIBUTE = re.compile(r"[\w-]\s*=\s*[^\s=>]")
_RAW = re.compile(r"<(script|style|template|noscript)\b[^<>]*>|<!--", re.I)
_CODE_MARK = "\x01"
_FENCE = re.compile(r"^[ \t]*(`{3,}|(?<![^\n]\n)~{3,}).*?^[ \t]*\1[`~]*[ \t]*$", re.M | re.S)
"""Not the tildes below a title."""
_FENCE_LINE = re.compile(r"^[ \t]*```", re.M)
_BACKTICKS = re.compile(r"(`{1,2})(?!`)[^`\n]*(?:\n[^`\n]+)?\1(?!`)")
_QUOTED_LINE = re.compile(r"^[ \t]*(?:>|\*(?!\*)|//|\#|--(?!>)|;|%|\$ |>>>|\.\.\. |\|)[^\n]*<[^\n]*", re.M)
_INDENTED = re.compile(r"^(?:[ ]{2,}|\t)[^\n]*<[^\n]*", re.M)
_MARKDOWN = re.compile(
    r"^[ ]{0,3}\#{1,6} +\S|^[ ]*(?:```|~~~|:::)|\]\((?:https?:|\.{0,2}/|\#)|^\|?[ ]*:?-{3,}:?[ ]*\||^\.\. [\w-]+::"
    r"|\{\#[\w-]+\}|^---\n\w+:|``[^`\n]+``|:\w+:`[^`\n]+`",
    re.M,
)
_PLAINLY_MARKDOWN = re.compile(r"^(?:\#{1,6} +\S|```|:::)", re.M)
_BREAK_AT_END = re.compile(r"<br ?/?> {0,3}$", re.I | re.M)
_ESCAPED = re.compile(r"&(?:lt|gt|quot|amp|apos|#39|#x27);")
_PREFORMATTED = re.compile(r"<(?:pre|textarea)\b", re.I)
"""In these a line of a page may begin with anything."""
_LIGHT_MARKDOWN = re.compile(r"\*\*[^*\n]+\*\*|(?<!`)`[^`\n]+`(?!`)|^[ ]*[-*] \S|!\[[^\]\n]*\]\(", re.M)
_PLACEHOLDER = re.compile(r"\{\{.{0,200}?\}\}|\{%.{0,200}?%\}|<\?(?:php|=)|<%|%\(\w+\)s|\$\{\w")
_BOUND = re.compile(r"\s(?:v-[a-z]+|ng-[a-z]+|\*ng\w+|@[a-z]+|:[a-z-]+|#[a-z]\w*)=[\"']|\bclassName=|=\{[^}\n]+\}")
"""Attributes that a framework fills in; a browser knows none of them."""
_COMPONENT = re.compile(r"<script setup|^\s*export default\b|^\s*import .*\bfrom ['\"]|^\s*<template>", re.M)
"""What a component of a framework has and a script that a page loads has not."""
_CODE_LINE = re.compile(
    r"[{};]\s*$|^\s*(?:def|class|import|from \w[\w.]* import|function|const|let|var|public|private|static|return|elif"
    r"|else|try|except|\#include|using|namespace|package|func|fn|echo|print)\b[^。，,.]*$|^\s*[\w.$\[\]]+ *[-+:|]?= *\S"
    r"|=>|^\s*[\w.]+\(.*\)\s*$|^\s*[\])}]+[,;)]*$"
)
_DIFF = re.compile(r"^(?:@@ -\d|diff --git |Index: )", re.M)
_TALK = re.compile(
    r"\b(?:x?html5?|xml|css|jsx|dom|bbcode|markup|tags?|elements?|attributes?|entit(?:y|ies)|escap(?:e|ed|ing))\b"
    r"|标签|标籤|元素|标记|转义|实体|属性",
    re.I,
)
_QUOTES = frozenset("'\"“‘「")
_TALK_STARTS = frozenset(" '\"”’」`\ntTeEaA标元命节")
"""What _TALK_BEHIND can begin with."""
_TALK_BEHIND = re.compile(r"['\"”’」`]?\s{0,2}(?:tags?|elements?|attributes?|标签|标籤|元素|标记|命令|节点)", re.I)
_DRAWING = re.compile(r"\s*(?:(?><\?xml[^>]*>|<!--.*?-->|<!DOCTYPE svg[^>]*>)\s*)*<svg\b", re.S)
"""A file of SVG: what HTML knows of its elements is not markup of a page."""
_STRAY_COMMENT = re.compile(r"^[ \t]*<!--(?:(?!-->)[^\n]){0,200}-->[ \t]*$", re.M)
_DOCUMENT = re.compile(r"\s*(?:(?><\?xml[^>]*>|<!--.*?-->)\s*)*<(?:!doctype\s+html|html|head|body)\b", re.I | re.S)


class Verdict(Enum):
    """What is to be done with a text."""

    KEEP = "no markup of a page, or none that is not part of the text"
    EDGES = "text with tags of its own; only chrome at its beginning and end may go"
    LOOSE = "plain text with elements of a page in between"
    PAGE = "a page or a piece of one"


class Tag(NamedTuple):
    """A tag that works as markup."""

    start: int
    end: int
    name: str
    closing: bool
    attributes: str


def judge(text: str) -> Verdict:
    """What the tags of `text` are."""
    if not KNOWN_TAG.search(text):
        return Verdict.KEEP
    document = _DOCUMENT.match(text) is not None
    if not document and _is_plainly_markdown(text):
        return Verdict.EDGES
    plain = text if document or _has_line_breaks(text) else code_masked(text)
    tags = working_tags(plain)
    if not tags:
        return Verdict.LOOSE if _has_stray_comments(plain) else Verdict.KEEP
    if not document and (_DIFF.search(text) or all(tag.name in _NOTATION for tag in tags)):
        return Verdict.EDGES
    bodies = _without_raw(plain)
    if _is_template(plain, bodies, tags):
        return Verdict.EDGES
    if document:
        return Verdict.PAGE
    if _DRAWING.match(text) or _is_data(bodies):
        return Verdict.EDGES
    bare, tagged, inside = _shares(bodies, [tag for tag in tags if bodies[tag.start] == "<"])
    free = "\n".join(bare)
    if is_markdown(free) or _is_code(bare):
        return Verdict.EDGES
    if tagged + inside >= sum(map(len, bare)):
        return Verdict.EDGES if _is_light(text, tags) else Verdict.PAGE
    return Verdict.EDGES if _TALK.search(free) or _MARKDOWN.search(text) else Verdict.LOOSE


def code_masked(text: str) -> str:
    """`text` with every `<` and `&` in code replaced, so that places stay the same."""
    if "`" in text or "~~~" in text:
        if len(_FENCE_LINE.findall(text)) % 2 == 0:  # else a piece of a document, and no telling what is inside
            text = _FENCE.sub(_masked, text)
        text = _BACKTICKS.sub(_masked, text)
    text = _QUOTED_LINE.sub(_masked, text)
    return _mask_indented(text) if _INDENTED.search(text) else text


def working_tags(text: str) -> list[Tag]:
    """The tags in `text` that work as markup of a page, in their order."""
    found = [
        Tag(*match.span(), name, bool(match[1]), match[3])
        for match in _TAG.finditer(text)
        if (name := match[2].lower()) in _KNOWN
    ]
    closed = Counter(tag.name for tag in found if tag.closing)
    opened = Counter(tag.name for tag in found if not tag.closing)
    return [tag for tag in found if _works(text, tag, closed if not tag.closing else opened)]


def speaks_of_markup(text: str) -> bool:
    """Whether tags and entities are what `text` is about."""
    return bool(_TALK.search(text))


def is_markdown(text: str) -> bool:
    """Whether `text` is marked up as Markdown or reStructuredText."""
    return bool(_MARKDOWN.search(text)) or len(_LIGHT_MARKDOWN.findall(text)) > 1


def is_source(text: str) -> bool:
    """Whether most lines of `text` are program code."""
    return bool(_DIFF.search(text)) or _is_code([line for line in text.split("\n") if line.strip()])


def _works(text: str, tag: Tag, partners: Counter[str]) -> bool:
    """Whether a tag is markup: not quoted, not spoken of, and complete with its partner or its attributes."""
    before = text[tag.start - 1] if tag.start else "\n"
    if before in _QUOTES or (text[tag.end : tag.end + 1] in _TALK_STARTS and _TALK_BEHIND.match(text, tag.end)):
        return False
    if tag.closing:
        return bool(partners[tag.name]) or tag.name in BLOCKS
    if tag.attributes and not tag.attributes.isspace() and tag.attributes.strip() != "/":
        return _ATTRIBUTE.search(tag.attributes) is not None  # not so: a<b and c>d
    if tag.name in _VOID or partners[tag.name]:
        return True
    return tag.name in _OPEN_ENDED and (
        before in "\n>" or not text[text.rfind("\n", 0, tag.start) + 1 : tag.start].strip()
    )


def _has_stray_comments(text: str) -> bool:
    """Whether lines of HTML comments are all the markup there is in plain prose."""
    if "<!--" not in text or not _STRAY_COMMENT.search(text):
        return False
    rest = _STRAY_COMMENT.sub("", text)
    return "<" not in rest and not (_TALK.search(rest) or is_markdown(rest) or is_source(rest))


def _shares(text: str, tags: list[Tag]) -> tuple[list[str], int, int]:
    """The lines without tags outside of paragraphs, and characters of text in lines with tags and in paragraphs."""
    bare, tagged, inside, at, depth = [], 0, 0, 0, 0
    start = 0
    for line in text.split("\n"):
        end = start + len(line)
        covered, was = 0, depth
        here = at
        while at < len(tags) and tags[at].start <= end:
            covered += min(tags[at].end, end) - tags[at].start
            if tags[at].name in _OPEN_ENDED or tags[at].name == "pre":
                depth = max(0, depth + (-1 if tags[at].closing else 1))
            at += 1
        visible = len(line.strip()) - covered
        if at > here:
            tagged += max(visible, 1)
        elif visible and was:
            inside += visible
        elif visible:
            bare.append(line)
        depth = 0 if not line.strip() else depth  # an unclosed <p> does not own the rest of the text
        start = end + 1
    return bare, tagged, inside


def _is_plainly_markdown(text: str) -> bool:
    """Whether lines are marked up as Markdown, and not ended by <br> or laid out in a <pre>; a quick look."""
    return _PLAINLY_MARKDOWN.search(text) is not None and not _PREFORMATTED.search(text) and not _has_line_breaks(text)


def _has_line_breaks(text: str) -> bool:
    """Whether most lines end with <br>: whatever else they look like, they are those of a page."""
    breaks = len(_BREAK_AT_END.findall(text)) if "<br" in text or "<BR" in text else 0
    return breaks > 2 and 2 * breaks > text.count("\n")


def _is_template(text: str, bodies: str, tags: list[Tag]) -> bool:
    """Whether the tags are the source code of pages, which something is yet to fill in."""
    bound = len(_BOUND.findall(" ".join(tag.attributes for tag in tags if tag.attributes)))
    if bound > 1 or _ESCAPED.search(bodies):
        return bound > 1  # who shows code in a page escapes it; who writes one does not
    if any(sign in text for sign in ("<script setup", "import", "export", "<template")) and _COMPONENT.search(text):
        return True
    if not any(sign in bodies for sign in ("{{", "{%", "<?", "<%", "%(", "${")):
        return False
    return bound + len(_PLACEHOLDER.findall(bodies)) >= max(2, len(tags) / 10)


def _is_light(text: str, tags: list[Tag]) -> bool:
    """Whether tags are few and inline in a text about markup, as in a short answer that shows one."""
    return not any(tag.name in BLOCKS for tag in tags) and bool(_TALK.search(text))


def _is_code(lines: list[str]) -> bool:
    hits = sum(bool(_CODE_LINE.search(line)) for line in lines)
    return hits >= 2 and 3 * hits >= len(lines)


def _is_data(text: str) -> bool:
    """Whether most elements have names HTML does not know: XML, or components."""
    names = [match[2].lower() for match in _TAG.finditer(text)]
    unknown = sum(name not in _KNOWN for name in names)
    return 2 * unknown > len(names) and "</" in text


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


def _without_raw(text: str) -> str:
    """`text` with scripts, styles and comments blanked out: as long as before, and in as many lines."""
    parts: list[str] = []
    at, unclosed = 0, set()
    for opening in _RAW.finditer(text):
        name = opening[1]
        close = f"</{name}" if name else "-->"
        if opening.start() < at or close in unclosed:
            continue
        end = text.find(close, opening.end())
        if end < 0:
            unclosed.add(close)  # looked for once, or a text full of openings would take quadratic time
            continue
        parts += (text[at : opening.start()], re.sub(r"[^\n]", " ", text[opening.start() : end + len(close)]))
        at = end + len(close)
    return "".join((*parts, text[at:]))
