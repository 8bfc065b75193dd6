"""Public Internet addresses in a text: what may be the line of a household or somebody's server.

Networks in which no host is anybody's (private, loopback, documentation, multicast, masks) stay, and so do networks
as a whole (`14.0.0.0/8`), name servers for everybody, and four numbers that are a version or a section.
Not here: MAC addresses, host names, IPv4 written inside IPv6.
"""

import ipaddress
import re

from minimind.data.rules.personal_numbers import LABEL_END, Span, called, free_after, free_before

MASK = "[IP]"


def ipv4_at(text: str, start: int) -> Span | None:
    """A public IPv4 address that begins at `start`; a port or a path may follow."""
    match = _IPV4.match(text, start)
    if match is None or not (free_after(text, match.end()) or text[match.end()] in ":-/"):
        return None
    octets = [int(part) for part in match[0].split(".")]
    if max(octets) > 255 or match[0] in _PUBLISHED or not _is_public(octets):
        return None
    before = text[max(0, start - _VERSION_REACH) : start]
    if not before.endswith(("://", "=", "@")) and not free_before(text, start, "."):
        return None
    is_network = octets[3] == 0 and text[match.end() : match.end() + 1] == "/"
    is_version = max(octets) <= _LARGEST_SECTION or _VERSION.search(before)
    if is_network or (is_version and not called(_LABEL, text, start)):
        return None
    return start, match.end(), MASK


def ipv6_at(text: str, start: int) -> Span | None:
    """A public IPv6 address that begins at `start`."""
    match = _IPV6.match(text, start)
    if match is None or not (free_before(text, start, ":") or text[start - 1] == "="):
        return None
    written = match[0].rstrip(":")
    if match[0].endswith("::") or text[match.end() : match.end() + 1] == "/" and written.endswith("::0"):
        return None  # a network
    try:
        address = int(ipaddress.IPv6Address(written))
    except ValueError:
        return None
    is_special = any(address >> 128 - bits == net for net, bits in _SPECIAL_V6)
    return None if is_special else (start, start + len(written), MASK)


_IPV4 = re.compile(r"(?:0|[1-9][0-9]{0,2})(?:\.(?:0|[1-9][0-9]{0,2})){3}(?![0-9]|\.[a-z])")
_IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{2,36}(?![0-9A-Za-z:])")
_LABEL = re.compile(
    r"(?:\b(?:ip|ipv4|ip address|address|addr|host|server|dns|ping|from|contact|login)|地址|主机|服务器|联系方式|登录)"
    + LABEL_END,
    re.IGNORECASE,
)
_VERSION = re.compile(
    r"(?:\b(?:versions?|ver|releases?|rev|sections?|chapter|build|since|v)\.?|版本|版|第|[§≥≤><~^]|[A-Za-z]\w*[-/]|"
    r"[=<>~^!]=)\s?[\"'`]?\Z",
    re.IGNORECASE,
)
_VERSION_REACH = 24
_LARGEST_SECTION = 20
"""Four numbers, none larger, are a section or a version unless the text says address: one address in 20,000."""
_PUBLISHED = frozenset(
    ("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "114.114.114.114", "223.5.5.5", "223.6.6.6", "119.29.29.29")
    + ("12.34.56.78", "123.45.67.89", "11.22.33.44", "123.123.123.123")
)
"""Name servers that everybody may use, and digits in a row."""
_SPECIAL_V4 = (
    (0x0A, 8),  # 10: private
    (0x7F, 8),  # 127: loopback
    (0xA9FE, 16),  # 169.254: link-local
    (0xAC1, 12),  # 172.16: private
    (0xC00000, 24),  # 192.0.0: protocols
    (0xC00002, 24),  # 192.0.2, 198.51.100, 203.0.113: documentation
    (0xC0A8, 16),  # 192.168: private
    (0xC612 >> 1, 15),  # 198.18: benchmarks
    (0xC63364, 24),
    (0xCB0071, 24),
)
"""Networks of RFC 6890 in which no host is anybody's. 100.64 (behind a carrier's NAT) is a household's."""
_SPECIAL_V6 = ((0x20010DB8, 32), (0x3FFF0, 20), (0x200100 >> 1, 23))
"""Documentation (two) and protocol assignments."""


def _is_public(octets: list[int]) -> bool:
    value = int.from_bytes(bytes(octets))
    return 1 << 24 <= value < 0xE000_0000 and not any(value >> 32 - bits == net for net, bits in _SPECIAL_V4)
