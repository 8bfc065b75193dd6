"""Figures and foreign texts as they are shown in reports and on the terminal.

A text that was dropped is somebody else's, and often it was dropped because of what cannot be seen in it. So
control and format characters are spelled out, and nothing in a text can start markup in Markdown. Escaping for
HTML is the template's work. Not here: the pages (`report`).
"""

import re
import unicodedata

_CONTROLS = (
    "NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS"
    " US"
)
"""By their code. Unicode has pictures of them (␀, ␛), but few fonts do."""
_SHOWN = "\n\t\u200c\u200d"
"""Line ends and tabs do in a preformatted text; joiners belong to scripts and emoji."""


def thousands(value: int) -> str:
    return f"{value:,}"


def percent(share: float) -> str:
    """`12.3 %`; what is not nothing is never shown as `0.0 %`, what is not all never as `100.0 %`."""
    if 0 < share < 0.0005:
        return "< 0.1 %"
    if 0.9995 <= share < 1:
        return "> 99.9 %"
    return f"{share:.1%}".replace("%", " %")


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: int) -> str:
    """Bytes with three significant digits: `33.7 MB` (of 10⁶ bytes)."""
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{count} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"


def words(name: str) -> str:
    """`near_duplicates` → `near duplicates`."""
    return name.replace("_", " ")


def visible(text: str, *, marked: bool = False) -> str:
    """`text` with control, format and private characters spelled out; in a `marked` part line ends and blanks too."""
    # What Python calls printable has none of them, and of all blanks the plain one only.
    return text if text.isprintable() else "".join(c if c.isprintable() else _visible(c, marked) for c in text)


def cell(text: str) -> str:
    """Text on one line that cannot end a Markdown table's cell, start markup or open a tag."""
    line = " ".join(visible(text).split())
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", line)


def code(text: str) -> str:
    """A name as Markdown code, which is easier to read than `cell` where it has underlines; `cell` if it is odd."""
    return f"`{text}`" if re.fullmatch(r"[\w.,/ +-]+", text) else cell(text)


def _visible(char: str, marked: bool) -> str:
    if char in _SHOWN:
        return {"\n": "⏎\n", "\t": "⇥\t"}.get(char, char) if marked else char
    kind = unicodedata.category(char)
    if kind in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") or ord(char) & 0xFFFE == 0xFFFE or "\ufdd0" <= char <= "\ufdef":
        return _spelled(char)
    return _spelled(char) if marked and kind == "Zs" else char


def _spelled(char: str) -> str:
    code = ord(char)
    return f"‹{_CONTROLS.split()[code]}›" if code < 32 else f"‹U+{code:04X}›"
