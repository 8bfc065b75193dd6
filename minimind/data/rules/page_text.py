"""The readable text of a web page: what a person would copy from it, one block a line.

The parser is Lexbor's (selectolax): it builds the tree browsers build, from any string whatever, so unclosed,
misnested and half pages need no care here. The walk goes over the tree once; a block that turns out to be a menu
when it ends (most of its characters are short links, or its class says so) is taken back from the output.

Not here: whether a text is a page (`markup`). Text in pictures, and what scripts would have written, is lost.
"""

import re
from textwrap import dedent

from selectolax.lexbor import LexborHTMLParser, LexborNode

from minimind.data.rules.markup_tags import BLOCKS
from minimind.data.rules.page_chrome import FRAME, UNSEEN, is_chrome_element, is_hidden

_PARAGRAPHS = frozenset(
    ("p", "li", "td", "th", "dt", "dd", "h1", "h2", "h3", "h4", "h5", "h6", "caption", "figcaption", "summary")
)
"""In these a line end of the source is a blank; elsewhere it is taken as the author's, as of plain text in a page."""
_MAX_CHROME = 800
"""Letters; a block of more, not made of links, is text whatever its class says."""
_LINK_SHARE = 0.6
_LINK_LETTERS = 60
"""A menu's links are short: longer ones on average are sentences."""
_EDGE, _BREAK, _CELL, _ITEM, _VERBATIM = "\x02", "\x03", "\x04", "\x05", "\x06"
_Mark = tuple[int, int, int, int]
"""A place in the output, and the letters, letters in links and links that had been counted by then."""
_EDGES = frozenset((_EDGE, _BREAK, _ITEM, _CELL))
_MARKS = re.compile("[\x00-\x06]")
_TAG_REST = re.compile(r"\A(?:[^<>\n]{0,300}[\"'])?\s*/?>")
"""Where a text begins inside a tag."""
_TABLE_TAG = re.compile(r"</?(table|t[drh]|tbody)\b", re.I)
_SHORTCODE = re.compile(r"\[/?(?:caption|gallery|embed|playlist|vc_\w+|et_pb_\w+)\b[^\]\n]{0,500}\]")
"""What WordPress would have filled in."""
_GAP = re.compile("[ \t\n\x02\x03](?<![ \t\n\x02\x03]{2})(?:[ \t\n\x02\x03]*[\x02\x03]|(?<=[\x02\x03]))")
"""The first of some blanks and marks, then all up to the last mark."""
_ITEM_GAP = re.compile("\x05(- |[0-9]+\\. )[ \t\n\x02\x03]*")
_LINE_END = re.compile(r"(?<![ \t\r])[ \t\r]*\n\s*")
_HAN_GAP = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef])[ \t]{0,80}\n\s{0,200}(?=[\u3000-\u9fff\uff00-\uffef])")
_BLANK_LINES = re.compile(r"\n{4,}")
_SUPERSCRIPTS = str.maketrans("0123456789+-n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ")
_SUBSCRIPTS = str.maketrans("0123456789+-n", "₀₁₂₃₄₅₆₇₈₉₊₋ₙ")


def page_text(page: str) -> str:
    """The readable text of `page`, or "" where there is none."""
    page = _SHORTCODE.sub("", _TAG_REST.sub("", _MARKS.sub("", page)))
    if (first := _TABLE_TAG.search(page)) and first[1].lower() != "table":
        page = f"<table><tr>{page}"  # a page that begins inside a table: cells without one would run together
    return _Walk(LexborHTMLParser(page.encode("utf-8", "replace").decode("utf-8"))).text()


class _Open:
    """An element that was entered."""

    __slots__ = ("chrome", "mark", "number", "tag")

    def __init__(self, tag: str, mark: _Mark, *, chrome: bool) -> None:
        self.tag, self.mark, self.chrome = tag, mark, chrome
        self.number = 0
        """Items or cells in it so far."""


class _Walk:
    """One walk over a tree: `out` grows, and shrinks again when a block turns out to be chrome."""

    def __init__(self, parser: LexborHTMLParser) -> None:
        self.out: list[str] = []
        self.verbatim: list[str] = []
        self.open: list[_Open] = []
        self.letters = self.link_letters = self.links = 0
        self.in_link = self.in_paragraph = 0
        self.run: _Mark = (0, 0, 0, 0)
        if parser.root is not None:
            self._walk(parser.root)

    def text(self) -> str:
        """The output with marks turned into line ends, and blanks tidied."""
        self._end_run()
        text = _ITEM_GAP.sub(r"\1", "".join(self.out).replace("\xa0", " "))
        text = _GAP.sub(_line_ends, text).replace(_CELL, " | ")
        text = "\n".join(line.rstrip(" \t") for line in text.split("\n"))
        text = _BLANK_LINES.sub("\n\n\n", text).strip("\n").rstrip()
        parts = text.split(_VERBATIM)
        whole = [part if place % 2 == 0 else self.verbatim[int(part)] for place, part in enumerate(parts)]
        return "".join(whole)

    def _walk(self, root: LexborNode) -> None:
        """Depth first without recursion: a broken page may be nested thousands deep."""
        node: LexborNode | None = root
        while node is not None:
            child = self._enter(node)
            if child is not None:
                node = child
                continue
            while node is not None and node.next is None:
                node = node.parent
                if node is None or node.mem_id == root.mem_id or not self.open:
                    return
                self._leave()
            node = node.next if node is not None else None

    def _enter(self, node: LexborNode) -> LexborNode | None:
        """Writes what comes before the children of `node`, and gives the first of them that is to be walked."""
        if node.is_text_node:
            self._write((node.text_content or "").replace(_VERBATIM, ""))  # `&#6;` makes one
            return None
        tag = node.tag or ""
        if tag in UNSEEN or not node.is_element_node or tag.startswith("amp-"):
            return None
        if tag == "br":
            self.out.append(_BREAK)
        if tag in ("pre", "code", "sup", "sub") and self._write_whole(node, tag):
            return None
        attributes = node.attributes
        if attributes and is_hidden(attributes):
            return None
        if tag in BLOCKS:
            self._edge()
        child = node.first_child
        if child is not None:
            self.open.append(_Open(tag, self._mark(), chrome=self._is_chrome(tag, attributes)))
            self._open_marks(tag)
        return child

    def _open_marks(self, tag: str) -> None:
        if tag == "a":
            self.in_link += 1
            self.links += 1
        elif tag in _PARAGRAPHS:
            self.in_paragraph += 1
        parent = self.open[-2] if len(self.open) > 1 else None
        if tag == "li" and parent is not None:
            parent.number += 1
            self.out.append(f"{_ITEM}{parent.number}. " if parent.tag == "ol" else f"{_ITEM}- ")
        elif tag in ("td", "th") and parent is not None:
            parent.number += 1
            if parent.number > 1:
                while self.out and self.out[-1] == _EDGE:
                    self.out.pop()
                self.out.append(_CELL)
                self.run = self.open[-1].mark = self._mark()

    def _leave(self) -> None:
        """Writes what comes behind the children of the innermost open element, or takes it all back."""
        element = self.open.pop()
        tag = element.tag
        self.in_link -= tag == "a"
        self.in_paragraph -= tag in _PARAGRAPHS
        if tag not in BLOCKS:
            return
        self._end_run()
        start, letters_before, _, _ = element.mark
        letters = self.letters - letters_before
        is_chrome = (element.chrome and letters <= _MAX_CHROME) or (tag not in FRAME and self._is_menu(element.mark))
        if is_chrome or (tag == "li" and not letters):
            self._take_back(element.mark)
        elif tag == "tr":
            self._close_row(start)
        if tag not in ("td", "th"):
            self._edge()
        self.run = self._mark()

    def _close_row(self, start: int) -> None:
        """Cells that hold blocks are a layout, not a table: each on lines of its own."""
        row = self.out[start:]
        inner = "".join(row).strip("\x02\x03\x04 \n\t")
        if _EDGE in inner or _BREAK in inner:
            self.out[start:] = [_EDGE if piece == _CELL else piece for piece in row]

    def _is_menu(self, since: _Mark) -> bool:
        _, letters, link_letters, links = since
        links = self.links - links
        if links < 3:
            return False
        linked = self.link_letters - link_letters
        return linked > _LINK_SHARE * (self.letters - letters) and linked <= _LINK_LETTERS * links

    def _is_chrome(self, tag: str, attributes: dict[str, str | None]) -> bool:
        if tag == "header":
            return not any(element.tag in ("article", "main", "section") for element in self.open)
        return is_chrome_element(tag, attributes)

    def _write(self, text: str) -> None:
        at_edge = not self.out or self.out[-1][:1] in _EDGES
        if at_edge and not text.strip():
            return
        if "\n" in text:
            text = _joined(text, at_edge=at_edge) if self.in_paragraph else _loose(text, at_edge=at_edge)
        letters = len(text.strip())
        self.letters += letters
        self.link_letters += letters if self.in_link else 0
        self.out.append(text)

    def _write_whole(self, node: LexborNode, tag: str) -> bool:
        """Code keeps its blanks, in the signs of Markdown, so that tags in it stay what they are: text."""
        text = _MARKS.sub("", node.text())
        if tag in ("sup", "sub"):
            small = text.translate(_SUPERSCRIPTS if tag == "sup" else _SUBSCRIPTS)
            self._write(small if text and len(text) < 4 and not set(small) & set(text) else text)
            return True
        if not text.strip():
            return True
        if tag == "code" and "\n" not in text:
            text = f"`{text.strip()}`" if "`" not in text else text
        elif tag == "code" or _looks_like_code(node, text):
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            text = f"{fence}\n{text.strip(chr(10)).rstrip()}\n{fence}"
        block = tag == "pre" or "\n" in text
        if block:
            self._edge()
        self.letters += len(text)
        self.link_letters += len(text) if self.in_link else 0
        self.out.append(f"{_VERBATIM}{len(self.verbatim)}{_VERBATIM}")
        self.verbatim.append(text.strip("\n").rstrip())
        if block:
            self._edge()
        return True

    def _edge(self) -> None:
        self._end_run()
        self.out.append(_EDGE)
        self.run = self._mark()

    def _end_run(self) -> None:
        """Links side by side with hardly a word between them are a menu even without a block around."""
        if self._is_menu(self.run):
            self._take_back(self.run)

    def _mark(self) -> _Mark:
        return len(self.out), self.letters, self.link_letters, self.links

    def _take_back(self, since: _Mark) -> None:
        start, self.letters, self.link_letters, self.links = since
        del self.out[start:]


def _looks_like_code(node: LexborNode, text: str) -> bool:
    """A <pre> may hold a poem; it is fenced when it says that it is code, or would read as markup."""
    child = node.first_child
    names = " ".join(filter(None, (node.attributes.get("class"), node.attributes.get("lang"))))
    inner = child is not None and child.tag in ("code", "span")
    return inner or "<" in text or "&" in text or bool(re.search(r"lang|code|highlight|brush|prettyprint|src", names))


def _blanks_before(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def _joined(text: str, *, at_edge: bool) -> str:
    """Text of a paragraph: its line ends are blanks, and between Han characters nothing."""
    text = text.lstrip() if at_edge and "\n" in _blanks_before(text) else text
    return _LINE_END.sub(" ", _HAN_GAP.sub("", text))


def _loose(text: str, *, at_edge: bool) -> str:
    """Plain text between tags: its line ends stay, the indentation of the page's source goes."""
    head = _blanks_before(text)
    if "\n" not in head:
        first, _, rest = text.partition("\n")
        return f"{first}\n{dedent(rest)}"
    body = dedent(text[head.rindex("\n") + 1 :])
    if at_edge:
        return body
    return ("\n" if head.endswith("\n") else " ") + body.lstrip()


def _line_ends(match: re.Match[str]) -> str:
    """How many line ends a run of marks is: one for an edge, one for each <br> but a last one in its block."""
    marks = match[0].translate({32: None, 9: None, 10: None})
    breaks = marks.count(_BREAK)
    if _EDGE in marks:
        breaks += 0 if marks.startswith(_BREAK) else 1
        breaks = max(breaks, 1)
    return "\n" * breaks
