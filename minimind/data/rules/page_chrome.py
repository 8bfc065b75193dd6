"""Which elements of a page are not its text: by name, by class or role, or hidden.

Not here: menus that only their links give away (`page_text`).
"""

import re

from minimind.data.rules.markup_tags import BLOCKS

_UNSEEN_NAMES = (
    "head title script style noscript template nav footer aside button iframe select option textarea input svg canvas"
    " object embed video audio img picture map datalist dialog rp noframes"
)
UNSEEN = frozenset(_UNSEEN_NAMES.split())
"""Elements that are never text."""
FRAME = frozenset(("html", "body", "main", "article"))
"""Elements whose class says how the page is laid out rather than what they are."""
_CHROME_NAMES = frozenset(("nav", "footer", "iframe", "noscript"))
_CHROME_CLASS = re.compile(
    r"(?:(?:main|site|top|bottom|page|global|primary|header|footer|left|right|user|mobile|social|tag|post|blog)[-_]?)?"
    r"(?:nav|navbar|navi|navigation|menu|breadcrumbs?|crumbs?|footer|foot|sidebar|share|sharing|social|cookies?|consent|"
    r"gdpr|copyright|advert|advertisement|ads?|adsbygoogle|popup|pager|pagination|paging|related|recommend|toolbar|"
    r"topbar|bottombar|tags?-?cloud|skip-?(?:link|nav|to-content)|newsletter|login|sr-only|site-?header|page-?header)"
    r"(?:[-_]?(?:bar|lists?|links?|wrap|wrapper|container|box|area|inner|menu|items?|content|top|main|notice|banner))?\d*",
    re.I,
)
_BANDS = frozenset(("header", "head", "masthead", "top", "topbar", "bottom"))
"""Classes of what stands around a text that is no page; inside of one they may hold its title."""
_ROLES = frozenset(("navigation", "banner", "contentinfo", "complementary", "search", "menu", "menubar", "dialog"))
_HIDDEN_STYLE = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden", re.I)
_CLASSES = re.compile(r"""\s(?:class|id)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"']+))""", re.I)
_TRACKER = re.compile(
    r"<script\b[^>]*\bsrc\s*=|document\.(?:createElement|write|cookie|getElementsByTagName)|_hmt\b|gtag\(|dataLayer"
    r"|adsbygoogle|_gaq\b|google-analytics|\(function\s*\(\)",
    re.I,
)


def may_be_chrome(name: str) -> bool:
    """Whether an element of that name can be a menu, a footer or a tracker."""
    return name in BLOCKS and name not in FRAME


def is_chrome_block(name: str, source: str) -> bool:
    """Whether the element `source`, of that name, is a menu, a footer or a tracker by name, class or script."""
    if name == "script":
        return bool(_TRACKER.search(source))
    if name in _CHROME_NAMES or not may_be_chrome(name):
        return name in _CHROME_NAMES
    opening = source[: source.find(">") + 1]
    classes = [name for groups in _CLASSES.findall(opening) for name in "".join(groups).split()]
    return any(_CHROME_CLASS.fullmatch(name) or name.lower() in _BANDS for name in classes)


def is_chrome_element(name: str, attributes: dict[str, str | None]) -> bool:
    """Whether an element of that name is chrome by class, id or role."""
    if not attributes or not may_be_chrome(name):
        return False
    names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}".split()
    return attributes.get("role") in _ROLES or any(_CHROME_CLASS.fullmatch(name) for name in names)


def is_hidden(attributes: dict[str, str | None]) -> bool:
    """Whether a browser would not show the element."""
    style = attributes.get("style")
    return "hidden" in attributes or (style is not None and _HIDDEN_STYLE.search(style) is not None)
