"""E-mail addresses in a text, and which of them are public and stay.

An address is somebody's, and is masked, unless the text itself shows that it was published or is nobody's:

- attributions: `Author: Name <address>`, Maintainer, Sponsor, …-Delegate, Signed-off-by, Copyright, and the lines
  such a header goes on in; who wrote a work is part of the work. `Contact:` and the heads of letters are none.
- roles and lists: security@, docs@, python-list@: an office or an archive answers, not a person.
- examples: the domains of RFC 2606 (example.com, .net, .org), but where one is given as a contact.
- what is not an address: ssh and git remotes, the paths of web pages, packages (`rand@0.10.1`, `logo@2x.png`).

`bylines=True` masks the first two kinds as well. Not here: addresses in quoted or domain-literal form.
"""

import re

LONGEST = 254
"""Characters of an address (RFC 5321), local part at most 64."""


def mail_at(text: str, at: int, *, bylines: bool) -> tuple[int, int] | None:
    """The address around the @ (or `(at)`) that begins at `at`, if there is one and it is to be masked."""
    after = _AT.match(text, at)
    if after and len(after[0]) > 1 and text[at - 1 : at] == " ":
        at -= 1  # name (at) domain
    if after is None or at == 0 or not _LOCAL_END.match(text, at - 1):
        return None
    domain = _DOMAIN.match(text, after.end(), after.end() + LONGEST)
    local = _LOCAL.search(text[max(0, at - 65) : at]) if domain else None
    if domain is None or local is None:
        return None
    start, end, name = at - len(local[0]), domain.end(), local["name"]
    is_file = _NOT_DOMAINS.fullmatch(domain["top"]) or _RETINA.match(domain[0])
    is_placeholder = (not name.strip("xX*.") and len(name) > 1) or _PLACEHOLDER.fullmatch(f"{name}@{domain[0]}")
    if is_file or is_placeholder or _is_expression(name, domain[0], text[end : end + 1]):
        return None
    if _is_remote(text, start, end) or _is_example(text, start, domain[0].lower()):
        return None
    if not bylines and (_ROLES.fullmatch(name) or _is_attribution(text, start, end)):
        return None
    return start, end


_AT = re.compile(r"[@＠]|[\[(（]\s?at\s?[\])）]\s?", re.IGNORECASE)
_LOCAL = re.compile(r"(?P<name>[A-Za-z0-9À-ɏ_](?:[A-Za-z0-9À-ɏ_.%+'-]{0,62}[A-Za-z0-9À-ɏ_+-])?)\Z")
_LOCAL_END = re.compile(r"[A-Za-z0-9À-ɏ_+-]")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9À-ɏ](?:[A-Za-z0-9À-ɏ-]{0,61}[A-Za-z0-9À-ɏ])?(?:[.．。]|\s?[\[(（]\s?dot\s?[\])）]\s?|\sdot\s))+"
    r"(?P<top>[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{1,59})(?![A-Za-z_]|[0-9]{1,6}(?![0-9]))"
)
_NOT_DOMAINS = re.compile(
    "png|jpe?g|gif|svg|webp|ico|s?css|m?js|jsx|tsx?|vue|json|html?|xml|txt|pdf|ya?ml|toml|exe|dll|so|lock|git|"
    "service|socket|timer|target|mount",
    re.IGNORECASE,
)
"""Suffixes of files and of systemd's units: `icon@2x.png`, `getty@tty1.service`."""
_RETINA = re.compile(r"[1-9]x\.", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"(?:your|my|some|test|foo|bar|user|name|email|e-?mail|someone|somebody|username|abc|me|you)[\w.-]{0,12}@"
    r"(?:(?:your|my|some|test|foo|bar|the|a)?[\w-]{0,3}(?:domain|company|host|hostname|server|site|website|organi[sz]ation|"
    r"provider|somewhere|foo|bar|baz|abc|xyz|mysite|address|email)\d?)\.[a-z.]{2,8}",
    re.IGNORECASE,
)
"""`yourname@yourdomain.com`: words that stand for a name at words that stand for a host."""
_RESERVED = re.compile(r"(?:.+\.)?example\.(?:com|net|org)")
_ROLES = re.compile(
    "abuse|accounts?|admin|administrator|admissions?|announce|billing|bots?|bugs|business|careers?|committers|community|"
    "contact(?:us)?|customer-?service|dev|devel|discuss|docs|editors?|enquiries|events|feedback|ftp|hello|help(?:desk)?|"
    "hostmaster|hr|ideas|info|inquiries|jobs|legal|lists?|mailer-daemon|marketing|media|news(?:letter)?|no-?reply|office|"
    "ops|orders|postmaster|press|pr|privacy|root|sales|security|services?|sig|sponsors?|staff|subscribe|support|team|"
    "unsubscribe|usenet|users|webmaster|www|.+-(?:sig|dev|devel|list|ideas|users|announce|committers|discuss|help)",
    re.IGNORECASE,
)
"""RFC 2142's mailboxes, what firms commonly add to them, and how the names of mailing lists end."""
_HEADER = re.compile(
    r"""(?:=head[1-6]\s+|\.SH\s+|dnl\s+)?[\s#*/;"'.:|<!\\-]*(?:
        \(c\)(?=\s)|(?:
        (?:original[\s-])?authors?|author[_-]email|maintainers?|maintainer[_-]email|editors?|sponsors?|contributors?|
        translators?|discussions-to|[\w-]*-?delegate|(?:signed-off|co-authored|reviewed|reported|acked|tested)-by|
        committer|copyright|written\s+by|by|作者|编者|译者|维护者
    )\b)[\s"'*:：=>\[({©]*(?P<rest>.*)""",
    re.IGNORECASE | re.VERBOSE,
)
_SET_OFF = ("()", '""', "''")
_NOTICE = re.compile(
    r"""[\s#*/;"'.:|<!\\-]*(?:dnl\s+)?(?:(?:(?:original[\s-])?authors?|maintainers?|copyright|written\s+by|作者|译者)\b|\(c\))"""
    r"[^\n]{0,80}\Z",
    re.IGNORECASE,
)
"""A notice of who made it, all in a line: `authors = [{email = "…"}]`, `Copyright 1993 by Name (address)`."""
_YEAR_BEHIND = re.compile(r",? ?(?:\(c\) ?)?(?:19|20)[0-9]{2}\b")
"""`Name <address>, 1996`: when somebody wrote it."""
_BARE_HEADER = re.compile(r"[\s#*/\"']*(?:discussions-to|author[_-]email|maintainer[_-]email)\b", re.IGNORECASE)
_HEADER_LINES = 40
"""How far above an address its header may be; PEP 1 has some ten authors, one to a line."""
_GIVEN = re.compile(
    r"(?:[(（]|(?:\b(?:contact|reach|write to|mail)(?:\s(?:me|us))?(?:\sat)?|"
    r"联系(?:方式|人|邮箱)?|[账帐]号)[\s:：]*)\Z",
    re.IGNORECASE,
)
"""What gives the address behind it as somebody's."""
_REMOTE = re.compile(r"(?:\b(?:ssh|scp|rsync|sftp|mosh|git clone|git remote)\b[^\n]{0,80}|://\S{0,250})\Z")


def _is_expression(name: str, domain: str, after: str) -> bool:
    """`a@b.mT`, `A@B.dot(c)`: a product of matrices."""
    return after == "(" or (len(name) == 1 and domain[1:2] == ".")


def _is_remote(text: str, start: int, end: int) -> bool:
    """`git@host:path`, `ssh user@host`, and what stands in the path of a URL, but not in its query."""
    if end + 1 < len(text) and text[end] == ":" and (text[end + 1].isascii() and text[end + 1] in "~/." + _LETTERS):
        return True
    before = _REMOTE.search(text[max(0, start - 260) : start])
    return bool(before) and not ("://" in before[0] and re.search(r"[?&][^/]*=", before[0]))


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _is_example(text: str, start: int, domain: str) -> bool:
    """A reserved domain, unless the text gives the address as somebody's: then it is treated as such."""
    return bool(_RESERVED.fullmatch(domain)) and not _GIVEN.search(text[max(0, start - 24) : start])


def _is_attribution(text: str, start: int, end: int) -> bool:
    """`Name <address>` in a header of authors, or in a line such a header goes on in."""
    line = text.rfind("\n", 0, start) + 1
    head = text[line:start]
    if _BARE_HEADER.match(head):
        return True
    signs = text[start - 1 : start] + text[end : end + 1]
    if signs in _SET_OFF:
        return bool(_NOTICE.match(head)) or (signs == "()" and bool(_YEAR_BEHIND.match(text, end + 1)))
    if signs != "<>":
        return False
    if _YEAR_BEHIND.match(text, end + 1) or head.startswith(" -- "):  # how changelogs of Debian sign
        return True
    blank = 0
    for _ in range(_HEADER_LINES):
        if match := _HEADER.match(head):
            return blank == 0 or not match["rest"].strip()
        if line == 0:
            return False
        above = text.rfind("\n", 0, line - 1) + 1
        line, head = above, text[above : line - 1]
        if not head.strip():
            blank += 1
        elif not head.rstrip().endswith((">,", ">", ",")) and not _HEADER.match(head):
            return False
    return False
