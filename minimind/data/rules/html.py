"""Rule `html`: a web page becomes its text, crumbs of markup in prose go, a text about HTML stays to the letter.

    a page, or a piece of one       its readable text (`page_text`); nothing left: dropped as `html_page`
    plain text between elements     lines with tags are read as a page, the others stay as they are
    text with tags of its own       (Markdown, code, XML, templates) only menus, footers and trackers around it go
    escaped markup, entities        decoded where prose has them; a page that was escaped is then unwrapped
    BBCode                          as forums leave it, unwrapped

Every step is repeated until nothing changes, so the rule finds nothing in its own output. What decides is `markup`.
"""

import html
import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from minimind.data.rules.boilerplate import is_chrome
from minimind.data.rules.characters import kind_table
from minimind.data.rules.markup import Verdict, is_markdown, is_source, judge, speaks_of_markup
from minimind.data.rules.markup_tags import KNOWN_TAG, Tag, code_masked, working_tags
from minimind.data.rules.page_chrome import is_chrome_block, may_be_chrome
from minimind.data.rules.page_text import page_text
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Changed, CharClass, Dropped, Outcomes, Texts

MAX_ROUNDS = 8
"""Pages escaped into pages: two levels are seen, more are a bomb."""
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_ESCAPED_TAG = re.compile(
    r"&(?:amp;)*(?:lt|#60|#x3c);\s*/?\s*(?:p|div|br|span|a|b|i|strong|li|ul|h[1-6]|td|tr|font)\b", re.I
)
_ENTITY_TALK = re.compile(r"\b(?:x?html5?|xml|sgml|markup|entit(?:y|ies)|escap(?:e|es|ed|ing))\b|转义|实体|源码", re.I)
_FIRST_TAG = re.compile(r"\s*<([A-Za-z][A-Za-z0-9]*)")
_LAST_TAG = re.compile(r"</([A-Za-z][A-Za-z0-9]*)[^<>]*>\s*\Z")
_OPENING_TAG = re.compile(r"<([A-Za-z]+)\b[^<>]*>")
_BBCODE_NAMES = (
    "b|i|u|s|url|img|quote|size|color|font|align|center|list|email|attach|attachimg|flash|media|audio|table|tr|td|code"
    "|indent|float|backcolor|hide|free"
)
_BBCODE = re.compile(rf"\[(/?)({_BBCODE_NAMES})(=[^\]\n]{{0,300}})?\]", re.I)
_BBCODE_END = re.compile(rf"\[/(?:{_BBCODE_NAMES})\]", re.I)
_BBCODE_UNSEEN = re.compile(
    r"\[(img|attach|attachimg|flash|media|audio)(?:=[^\]\n]*)?\][^\[]*\[/\1\]"
    r"|\[i=s\][^\[\n]*\[/i\]",
    re.I,
)
_BBCODE_CODE = re.compile(r"\[code\]((?:(?!\[code\]).)*?)\[/code\]", re.I | re.S)


def unwrap_html(texts: Texts, settings: CleanRules) -> Outcomes:
    """Texts that are pages, or have crumbs of markup, as the text a reader sees."""
    outcomes: dict[int, Changed | Dropped] = {}
    for index in _suspects(texts):
        if outcome := _outcome(texts.texts[index]):
            outcomes[index] = outcome
    return outcomes


def _suspects(texts: Texts) -> list[int]:
    """The texts with something like a tag, an entity or an end of BBCode; others are told by counts alone."""
    tagged = texts.count(CharClass.LESS_THAN) > 0
    with_entities = _having(texts, "&") & _having(texts, ";")
    with_bbcode = _having(texts, "[") & _having(texts, "/") & _having(texts, "]")
    return [
        index
        for index in np.flatnonzero(tagged | with_entities | with_bbcode).tolist()
        if (tagged[index] and KNOWN_TAG.search(texts.texts[index]))
        or (with_entities[index] and _ENTITY.search(texts.texts[index]))
        or (with_bbcode[index] and "[/" in texts.texts[index] and _BBCODE_END.search(texts.texts[index]))
    ]


def _having(texts: Texts, sign: str) -> npt.NDArray[np.bool_]:
    """Which texts have an ASCII character, which is a kind of its own."""
    return texts.histogram[:, kind_table()[ord(sign)]] > 0


def _outcome(text: str) -> Changed | Dropped | None:
    current = text
    for _ in range(MAX_ROUNDS):
        before = current
        current = _step(current)
        if current == before:
            break
    else:
        return Dropped("html_page", f"markup inside markup, more than {MAX_ROUNDS} levels deep")
    if current == text:
        return None
    lines = [line for line in current.split("\n") if line.strip()]
    if all(is_chrome(line) for line in lines):
        left = sum(map(len, lines))
        return Dropped("html_page", f"of {len(text)} characters {left} are text, all of them in menus and notices")
    return Changed(current)


def _step(text: str) -> str:
    """`text` after one round; the same when there is nothing to do."""
    verdict = judge(text)
    if verdict is Verdict.PAGE:
        return page_text(text)
    if verdict is Verdict.LOOSE:
        return _unwrap_lines(text)
    if verdict is Verdict.EDGES:
        return _without_edges(text)
    if "[/" in text and _BBCODE_END.search(text) and _is_bbcode(text):
        return _unwrap_bbcode(text)
    return _unescaped(text) if "&" in text else text


def _unwrap_lines(text: str) -> str:
    """Plain text with the lines that have tags, or lie inside an element, read as a page."""
    masked = code_masked(text)
    tags = working_tags(masked)
    groups = _line_groups(text, [*_elements(tags), *((tag.start, tag.end, tag) for tag in tags), *_comments(masked)])
    lines: list[str] = []
    for start, end, marked in groups:
        part = text[start:end]
        if not marked:
            lines.append(part)
        elif seen := page_text(part):
            indent = part[: len(part) - len(part.lstrip(" \u3000"))]
            lines.append(indent + seen.lstrip() if "\n" not in part else seen)
    return _page_decoded("\n".join(lines).strip("\n").rstrip())


def _without_edges(text: str) -> str:
    """`text` without the menus, footers and trackers that stand before its first and behind its last line."""
    ends = _FIRST_TAG.match(text), text.rstrip().endswith(">") and _LAST_TAG.match(text, text.rfind("<"))
    if not any(tag and may_be_chrome(tag[1].lower()) for tag in ends):
        return text
    if not any(name == "script" or is_chrome_block(name, tag) for name, tag in _tags_before_text(text)):
        return text  # a glance at opening tags, before every tag is looked at
    tags = working_tags(code_masked(text))
    chrome = [(start, end) for start, end, tag in _elements(tags) if is_chrome_block(tag.name, text[start:end])]
    first, last = 0, len(text)
    for start, end in chrome:
        if not text[first:start].strip() and _ends_line(text, end):
            first = end
    for start, end in reversed(chrome):
        if start >= first and not text[end:last].strip() and not text[:start].rpartition("\n")[2].strip():
            last = start
    if (first, last) == (0, len(text)):
        return text
    return _page_decoded(text[first:last].strip("\n").rstrip())


def _tags_before_text(text: str) -> Iterator[tuple[str, str]]:
    """The names and sources of the opening tags that nothing stands before on their lines, if they may be chrome."""
    for tag in _OPENING_TAG.finditer(text):
        if may_be_chrome(name := tag[1].lower()):
            start = tag.start()
            if not text[text.rfind("\n", 0, start) + 1 : start].strip(" \t"):
                yield name, tag[0]


def _page_decoded(text: str) -> str:
    """`text`, which was the inside of a page, with entities decoded if all of it is escaped as a page must be."""
    if "<" in text or text.count("&") != len(_ENTITY.findall(text)):
        return text
    return _ENTITY.sub(lambda match: _decoded(match[0]), text)


def _elements(tags: list[Tag]) -> list[tuple[int, int, Tag]]:
    """Where the outermost closed elements begin and end, in their order."""
    opened: list[Tag] = []
    closed: list[tuple[int, int, Tag]] = []
    names: dict[str, int] = {}
    for tag in tags:
        if not tag.closing:
            opened.append(tag)
            names[tag.name] = names.get(tag.name, 0) + 1
        elif names.get(tag.name):
            while (last := opened.pop()).name != tag.name:
                names[last.name] -= 1
            names[tag.name] -= 1
            while closed and closed[-1][0] > last.start:
                closed.pop()
            closed.append((last.start, tag.end, last))
    return closed


def _comments(text: str) -> list[tuple[int, int, Tag]]:
    comments: list[tuple[int, int, Tag]] = []
    start = text.find("<!--")
    while start >= 0 and (end := text.find("-->", start + 4)) >= 0:
        comments.append((start, end + 3, Tag(start, end + 3, "!", False, "")))
        start = text.find("<!--", end + 3)
    return comments


def _line_groups(text: str, spans: list[tuple[int, int, Tag]]) -> list[tuple[int, int, bool]]:
    """`text` cut at line ends into pieces: lines that a span touches stay together, and are marked."""
    groups: list[tuple[int, int, bool]] = []
    at = 0
    for start, end, _ in sorted(spans, key=lambda span: span[:2]):
        begin = text.rfind("\n", 0, start) + 1
        stop = text.find("\n", end)
        stop = len(text) if stop < 0 else stop
        if begin < at:
            if groups and stop > groups[-1][1]:
                groups[-1] = (groups[-1][0], stop, True)
                at = stop + 1
            continue
        if begin > at:
            groups.append((at, begin - 1, False))
        groups.append((begin, stop, True))
        at = stop + 1
    if at <= len(text):
        groups.append((at, len(text), False))
    return groups


def _ends_line(text: str, place: int) -> bool:
    return not text[place:].partition("\n")[0].strip()


def _unescaped(text: str) -> str:
    """`text` with entities decoded where they are leftovers of a page, not where they are spoken of."""
    if not _ENTITY.search(text):
        return text
    decoded = _ENTITY.sub(lambda match: _decoded(match[0]), text)
    if decoded == text:
        return text
    verdict = judge(decoded)
    whole = text.lstrip().startswith("&") and text.rstrip().endswith(";")
    if len(_ESCAPED_TAG.findall(text)) > (1 if whole else 2) and verdict in (Verdict.PAGE, Verdict.LOOSE):
        return decoded
    if verdict is not Verdict.KEEP or is_markdown(text) or is_source(decoded) or _ENTITY_TALK.search(text):
        return text
    return decoded


def _decoded(entity: str) -> str:
    """The character of one entity; what is none, or would be invisible, stays as it is written."""
    decoded = html.unescape(entity).replace("\xa0", " ")
    return decoded if len(decoded) <= 2 and (decoded.isprintable() or decoded == "\n") and decoded != entity else entity


def _is_bbcode(text: str) -> bool:
    tags = _BBCODE.findall(code_masked(text))
    closed = [name.lower() for slash, name, _ in tags if slash]
    opened = {name.lower() for slash, name, _ in tags if not slash}
    paired = [name for name in closed if name in opened]
    bare = _BBCODE.sub("", text)
    return len(paired) > 1 and not (is_markdown(bare) or is_source(bare) or speaks_of_markup(bare))


def _unwrap_bbcode(text: str) -> str:
    text = _BBCODE_CODE.sub(lambda match: f"\n```\n{match[1].strip()}\n```\n", _BBCODE_UNSEEN.sub("", text))
    text = re.sub(r"\[/td\]\s*\[td[^\]]*\]", " | ", text, flags=re.I)
    text = re.sub(r"\[/(?:tr|quote|table)\]\n?", "\n", text, flags=re.I)
    text = re.sub(r"^[ \t]*\[\*\][ \t]*", "- ", text, flags=re.M)
    text = _BBCODE.sub("", text)
    return re.sub(r"\n{4,}", "\n\n\n", re.sub(r"(?<![ \t])[ \t]+$", "", text, flags=re.M)).strip("\n").rstrip()
