"""What the tags in a text are: the bones of a web page, crumbs of one, or what the text speaks about.

A page is unwrapped, a text about HTML must stay to the letter, and both are full of `<div>`. So tags count only
where they work as markup (`markup_tags`). Who the other lines belong to then decides: Markdown, program source, XML
data and templates keep their tags.

A whole .html file without a fence around it is taken for a page: nothing tells it from one, and its text is what is
worth reading. One that carries template syntax ({{ x }}, v-if, <?php) is source code and stays.

Not here: how a page becomes text (`page_text`), and what becomes of a row (`html`).
"""

import re
from enum import Enum

from minimind.data.rules.markup_tags import (
    BLOCKS,
    KNOWN_NAMES,
    KNOWN_TAG,
    OPEN_ENDED,
    TAG,
    Tag,
    code_masked,
    without_raw,
    working_tags,
)

_NOTATION = frozenset(("sub", "sup", "kbd", "var", "abbr", "mark"))
"""Elements that plain text and Markdown have no signs for."""
_MARKDOWN = re.compile(
    r"^(?:[ ]{0,3}\#{1,6} +\S|[ ]*(?:```|~~~|:::)|\|?[ ]*:?-{3,}:?[ ]*\||\.\. [\w-]+::|---\n\w+:)"
    r"|\]\((?:https?:|\.{0,2}/|\#)|\{\#[\w-]+\}|``[^`\n]+``|:\w+:`[^`\n]+`",
    re.M,
)
_MARKDOWN_SIGNS = ("# ", "`", "~~~", ":::", "](", "---", ".. ", "{#")
"""One of them is in whatever _MARKDOWN matches."""
_PLAINLY_MARKDOWN = re.compile(r"^(?:\#{1,6} +\S|```|:::)", re.M)
_BREAK_AT_END = re.compile(r"<br ?/?> {0,3}$", re.I | re.M)
_ESCAPED = re.compile(r"&(?:lt|gt|quot|amp|apos|#39|#x27);")
_PREFORMATTED = re.compile(r"<(?:pre|textarea)\b", re.I)
"""In these a line of a page may begin with anything."""
_LIGHT_MARKDOWN = re.compile(r"\*\*[^*\n]+\*\*|(?<!`)`[^`\n]+`(?!`)|^[ ]*[-*] \S|!\[[^\]\n]*\]\(", re.M)
_LIGHT_SIGNS = ("**", "`", "- ", "* ", "![")
_PLACEHOLDER = re.compile(r"\{\{.{0,200}?\}\}|\{%.{0,200}?%\}|<\?(?:php|=)|<%|%\(\w+\)s|\$\{\w")
_PLACEHOLDER_SIGNS = ("{{", "{%", "<?", "<%", "%(", "${")
_BOUND = re.compile(r"\s(?:v-[a-z]+|ng-[a-z]+|\*ng\w+|@[a-z]+|:[a-z-]+|#[a-z]\w*)=[\"']|\bclassName=|=\{[^}\n]+\}")
"""Attributes that a framework fills in; a browser knows none of them."""
_COMPONENT_SIGNS = ("<script setup", "import", "export", "<template")
_COMPONENT = re.compile(r"<script setup|^\s*export default\b|^\s*import .*\bfrom ['\"]|^\s*<template>", re.M)
"""What a component of a framework has and a script that a page loads has not."""
_CODE_END = ("{", "}", ";")
_CODE_LINE = re.compile(
    r"\s*(?:(?:def|class|import|from \w[\w.]* import|function|const|let|var|public|private|static|return|elif|else|try"
    r"|except|\#include|using|namespace|package|func|fn|echo|print)\b[^。，,.]*$|[\w.$\[\]]+ *[-+:|]?= *\S"
    r"|[\w.]+\(.*\)\s*$|[\])}]+[,;)]*$)"
)
_DIFF_SIGNS = ("@@ -", "diff --git ", "Index: ")
_DIFF = re.compile(r"^(?:@@ -\d|diff --git |Index: )", re.M)
_TALK = re.compile(
    r"\b(?:x?html5?|xml|css|jsx|dom|bbcode|markup|tags?|elements?|attributes?|entit(?:y|ies)|escap(?:e|ed|ing))\b"
    r"|标签|标籤|元素|标记|转义|实体|属性",
    re.I,
)
_TALK_STEMS = ("tag", "element", "attribute", "entit", "escap", "html", "xml", "css", "jsx", "dom", "bbcode", "markup")
_TALK_STEMS += ("标签", "标籤", "元素", "标记", "转义", "实体", "属性")
_ODD_LETTERS = ("\u017f", "\u0130", "\u0131")
"""ſ, İ and ı, which regular expressions take for s and i, and `lower` does not."""
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


def judge(text: str) -> Verdict:
    """What the tags of `text` are."""
    if not KNOWN_TAG.search(text):
        return Verdict.KEEP
    document = _DOCUMENT.match(text) is not None
    has_breaks = _has_line_breaks(text)
    if not document and not has_breaks and _is_plainly_markdown(text):
        return Verdict.EDGES
    plain = text if document or has_breaks else code_masked(text)
    tags = working_tags(plain)
    if not tags:
        return Verdict.LOOSE if _has_stray_comments(plain) else Verdict.KEEP
    if not document and (_is_diff(text) or all(tag.name in _NOTATION for tag in tags)):
        return Verdict.EDGES
    bodies = without_raw(plain)
    if _is_template(plain, bodies, tags):
        return Verdict.EDGES
    if document:
        return Verdict.PAGE
    if _DRAWING.match(text) or _is_data(bodies):
        return Verdict.EDGES
    shown = tags if bodies is plain else [tag for tag in tags if bodies[tag.start] == "<"]
    bare, tagged, inside = _shares(bodies, shown)
    free = "\n".join(bare)
    if is_markdown(free) or _is_code(bare):
        return Verdict.EDGES
    if tagged + inside >= sum(map(len, bare)):
        return Verdict.EDGES if _is_light(text, tags) else Verdict.PAGE
    return Verdict.EDGES if _has_markdown(text) or speaks_of_markup(free) else Verdict.LOOSE


def speaks_of_markup(text: str) -> bool:
    """Whether tags and entities are what `text` is about."""
    may = _has_any(_TALK_STEMS, text.lower()) or _has_any(_ODD_LETTERS, text)
    return may and _TALK.search(text) is not None


def is_markdown(text: str) -> bool:
    """Whether `text` is marked up as Markdown or reStructuredText."""
    return _has_markdown(text) or (_has_any(_LIGHT_SIGNS, text) and len(_LIGHT_MARKDOWN.findall(text)) > 1)


def is_source(text: str) -> bool:
    """Whether most lines of `text` are program code."""
    return _is_diff(text) or _is_code([line for line in text.split("\n") if line.strip()])


def _has_stray_comments(text: str) -> bool:
    """Whether lines of HTML comments are all the markup there is in plain prose."""
    if "<!--" not in text or not _STRAY_COMMENT.search(text):
        return False
    rest = _STRAY_COMMENT.sub("", text)
    return "<" not in rest and not (speaks_of_markup(rest) or is_markdown(rest) or is_source(rest))


def _shares(text: str, tags: list[Tag]) -> tuple[list[str], int, int]:
    """The lines without tags outside of paragraphs, and characters of text in lines with tags and in paragraphs."""
    bare, tagged, inside, at, depth = [], 0, 0, 0, 0
    start = 0
    for line in text.split("\n"):
        end = start + len(line)
        covered, was = 0, depth
        here = at
        while at < len(tags) and (tag := tags[at]).start <= end:
            covered += min(tag.end, end) - tag.start
            if tag.name in OPEN_ENDED or tag.name == "pre":
                depth = max(0, depth + (-1 if tag.closing else 1))
            at += 1
        filled = len(line.strip())
        visible = filled - covered
        if at > here:
            tagged += max(visible, 1)
        elif visible and was:
            inside += visible
        elif visible:
            bare.append(line)
        depth = depth if filled else 0  # an unclosed <p> does not own the rest of the text
        start = end + 1
    return bare, tagged, inside


def _is_plainly_markdown(text: str) -> bool:
    """Whether lines are marked up as Markdown, and not laid out in a <pre>; a quick look."""
    if not _has_any(("# ", "```", ":::"), text):
        return False
    return _PLAINLY_MARKDOWN.search(text) is not None and not _PREFORMATTED.search(text)


def _has_line_breaks(text: str) -> bool:
    """Whether most lines end with <br>: whatever else they look like, they are those of a page."""
    breaks = len(_BREAK_AT_END.findall(text)) if "<br" in text or "<BR" in text else 0
    return breaks > 2 and 2 * breaks > text.count("\n")


def _is_template(text: str, bodies: str, tags: list[Tag]) -> bool:
    """Whether the tags are the source code of pages, which something is yet to fill in."""
    bound = len(_BOUND.findall(" ".join(tag.attributes for tag in tags if tag.attributes)))
    if bound > 1 or _ESCAPED.search(bodies):
        return bound > 1  # who shows code in a page escapes it; who writes one does not
    if _has_any(_COMPONENT_SIGNS, text) and _COMPONENT.search(text):
        return True
    if not _has_any(_PLACEHOLDER_SIGNS, bodies):
        return False
    return bound + len(_PLACEHOLDER.findall(bodies)) >= max(2, len(tags) / 10)


def _is_light(text: str, tags: list[Tag]) -> bool:
    """Whether tags are few and inline in a text about markup, as in a short answer that shows one."""
    return not any(tag.name in BLOCKS for tag in tags) and speaks_of_markup(text)


def _is_code(lines: list[str]) -> bool:
    hits = sum(map(_is_code_line, lines))
    return hits >= 2 and 3 * hits >= len(lines)


def _is_code_line(line: str) -> bool:
    return line.rstrip().endswith(_CODE_END) or "=>" in line or _CODE_LINE.match(line) is not None


def _is_diff(text: str) -> bool:
    return _has_any(_DIFF_SIGNS, text) and _DIFF.search(text) is not None


def _has_markdown(text: str) -> bool:
    return _has_any(_MARKDOWN_SIGNS, text) and _MARKDOWN.search(text) is not None


def _has_any(signs: tuple[str, ...], text: str) -> bool:
    """A quick look before a regular expression: literals are found at the speed of memory."""
    return any(sign in text for sign in signs)


def _is_data(text: str) -> bool:
    """Whether most elements have names HTML does not know: XML, or components."""
    names = [name.lower() for _, name, _ in TAG.findall(text)]
    known = sum(map(KNOWN_NAMES.__contains__, names))
    return 2 * known < len(names) and "</" in text
