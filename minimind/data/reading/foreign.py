"""What is wrong with a whole file, told by its first bytes: another format, another encoding, no data at all.

A million bad rows would hide the one thing that is wrong. Each finding is a DataError with the remedy. What
only the rows can tell (the wrong kind of rows, most of them in another encoding) is `tally`'s.
"""

import json
import re

from minimind.errors import DataError

HEAD_BYTES = 1 << 16
"""So much of a file is looked at."""
_UTF16 = "is UTF-16; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
_UTF32 = "is UTF-32; save it as UTF-8 (iconv -f UTF-32 -t UTF-8)"
_MAGIC = {
    b"PK\x03\x04": "is a zip archive; unpack it",
    b"PK\x05\x06": "is an empty zip archive; fetch it again",
    b"BZh": "is packed with bzip2; unpack it with bunzip2",
    b"\xfd7zXZ\0": "is packed with xz; unpack it with unxz",
    b"7z\xbc\xaf\x27\x1c": "is a 7-Zip archive; unpack it",
    b"Rar!\x1a\x07": "is a RAR archive; unpack it",
    b"\x04\x22\x4d\x18": "is packed with lz4; unpack it with unlz4",
    b"\x1f\x9d": "is packed with compress; unpack it with uncompress",
    b"PAR1": 'is a Parquet file; give its source kind = "parquet", or name it *.parquet',
    b"ARROW1": 'is an Arrow file; give its source kind = "arrow", or name it *.arrow',
    b"%PDF-": "is a PDF; take the text out of it first",
    b"SQLite format 3\0": "is an SQLite database; write its rows as one JSON object a line",
    b"\xff\xfe\0\0": _UTF32,
    b"\0\0\xfe\xff": _UTF32,
    b"\xff\xfe": _UTF16,
    b"\xfe\xff": _UTF16,
    b"version https://git-lfs": "is a Git LFS pointer, not the data; fetch it with `git lfs pull`",
}
"""First bytes → what that means; the longer of two beginnings comes first."""
_TAR_AT, _TAR = 257, b"ustar"
_LONE_ZERO = re.compile(rb"(?<!\0)\0(?!\0)")
_ZEROS = 64
"""So many zero bytes at the start are no text in any encoding."""
_ONE_A_LINE = "write one object a line (jq -c '.[]' FILE turns an array into that)"
_CELL = re.compile(r"[\"']?[A-Za-z_][\w .\-/()]{0,40}[\"']?")
"""A column name: a header is made of nothing else."""


def refuse_foreign(start: bytes, name: str, *, json_lines: bool) -> None:
    """Raise a DataError where `start`, the first bytes, is of no text file, or with `json_lines` not of JSON Lines."""
    for magic, remedy in _MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"{name}: {remedy}")
    if start[_TAR_AT : _TAR_AT + len(_TAR)] == _TAR:
        raise DataError(f"{name}: is a tar archive; unpack it")
    if start and not start[:_ZEROS].strip(b"\0"):
        raise DataError(f"{name}: begins with zero bytes, it was never written to its end; fetch it again")
    if encoding := _wide_encoding(start):
        raise DataError(
            f"{name}: looks like {encoding} without a mark; save it as UTF-8 (iconv -f {encoding} -t UTF-8)"
        )
    head = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    _refuse_line_ends(head, name, json_lines=json_lines)
    lower = head[:512].lower()
    if re.match(rb"(<!--.*?-->\s*)?<(!doctype html|html|head|body)\b", lower, re.DOTALL):
        raise DataError(f"{name}: is a web page, not data; download the file itself (the raw or resolve link)")
    if lower.startswith((b"<?xml", b"<error>")) and (json_lines or b"<error>" in lower):
        what = "a server's error message" if b"<error>" in lower else "XML"
        raise DataError(f"{name}: is {what}, not data; look into it, then fetch the file again or convert it")
    if json_lines:
        _refuse_document(head, name)
        _refuse_table(head, name)


def guess_encoding(raw: bytes) -> str:
    """What iconv calls the encoding of bytes that are not UTF-8, as far as they tell: GB18030, else windows-1252."""
    try:
        text = raw.decode("gb18030")
    except UnicodeDecodeError:
        return "WINDOWS-1252"
    wide = [char for char in text if ord(char) > 0x7F]
    han = sum("\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u301f" or char > "\uff00" for char in wide)
    return "GB18030" if 2 * han > len(wide) else "WINDOWS-1252"


def _wide_encoding(start: bytes) -> str:
    """UTF-16 or UTF-32 where every second byte, or three of four, of the first characters is zero."""
    head = start[:8]
    for zeros, encoding in (
        ((1, 2, 3, 5, 6, 7), "UTF-32LE"),
        ((0, 1, 2, 4, 5, 6), "UTF-32BE"),
        ((1, 3), "UTF-16LE"),
        ((0, 2), "UTF-16BE"),
    ):
        if len(head) == 8 and {place for place in range(8) if not head[place]} >= set(zeros):
            return encoding
    if len(start) > 3:
        # One zero byte a character: a run of them is a hole in a file, or its end that was never written.
        zeros = [found.start() for found in _LONE_ZERO.finditer(start)]
        odd = sum(place & 1 for place in zeros)
        even = len(zeros) - odd
        if max(even, odd) > len(start) // 5:
            return "UTF-16LE" if odd > even else "UTF-16BE"
    return ""


def _refuse_line_ends(head: bytes, name: str, *, json_lines: bool) -> None:
    """Tell lines that end as on an old Mac, which would all be one."""
    first, _, rest = head.rstrip().partition(b"\r")
    if rest and b"\n" not in head and (not json_lines or _is_json(first)):
        raise DataError(f"{name}: its lines end in carriage returns alone; convert it (tr '\\r' '\\n' < FILE > OTHER)")


def _refuse_document(head: bytes, name: str) -> None:
    """Tell one JSON document over the whole file from one value a line, by its first line."""
    if head[:1] not in (b"[", b"{"):
        return
    first, _, rest = head.partition(b"\n")
    second = rest.partition(b"\n")[0].strip()
    stripped = first.rstrip()
    if _is_json(first):
        if head[:1] == b"[" and not rest.strip() and b"{" in first:
            raise DataError(f"{name}: is one big JSON array; {_ONE_A_LINE}")
        return
    # A value that goes on: its first line ends in the middle, and the second line is none by itself.
    goes_on = second and not _is_json(second)
    opens = stripped == b"[" or (stripped.endswith((b"[", b"{", b",")) and goes_on)
    if head[:1] == b"[" and (opens or not rest):
        raise DataError(f"{name}: is one big JSON array; {_ONE_A_LINE}")
    if opens:
        raise DataError(f"{name}: is JSON over several lines; {_ONE_A_LINE}")


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse_table(head: bytes, name: str) -> None:
    """Tell CSV and TSV by a first line of column names and a second line that is no JSON either."""
    lines = [line.decode("utf-8", "replace") for line in head.split(b"\n", 2)[:2]]
    if any(line.lstrip()[:1] in ("{", "[") for line in lines) or len(lines) < 2:
        return
    for mark, called in (("\t", "TSV"), (",", "CSV"), (";", "CSV")):
        cells = lines[0].strip().split(mark)
        if len(cells) > 1 and all(_CELL.fullmatch(cell.strip()) for cell in cells) and mark in lines[1]:
            raise DataError(f"{name}: looks like {called}; write one JSON object a line, or save it as Parquet")
