"""Foreign files: what is no data at all says so in one line; what only looks odd is read."""

import json

import pytest

from minimind.data.reading.foreign import guess_encoding, refuse_foreign
from minimind.errors import DataError

ROWS = [{"text": f"document number {number}"} for number in range(5)]
CHINESE = [{"text": "梯度累积是把多个小批次的梯度相加后再更新一次参数"} for _ in range(5)]
TAR = b"rows.jsonl".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 240


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def wide(encoding: str, rows: list[dict[str, str]] = ROWS) -> bytes:
    return lines(rows).decode().encode(encoding)


@pytest.mark.parametrize(
    ("start", "remedy"),
    [
        (json.dumps(ROWS).encode(), "one big JSON array.*jq"),
        (json.dumps(ROWS, indent=2).encode(), "one big JSON array.*jq"),
        (b"[" + b",\n".join(json.dumps(row).encode() for row in ROWS) + b"]", "one big JSON array"),
        (b"[\n" + b"\n,".join(json.dumps(row).encode() for row in ROWS) + b"\n]", "one big JSON array"),
        (json.dumps(ROWS * 5000).encode()[: 1 << 16], "one big JSON array.*jq"),
        (json.dumps(ROWS[0], indent=2).encode(), "JSON over several lines"),
        (b'{"data": [\n' + lines(ROWS).replace(b"}\n", b"},\n") + b"]}", "JSON over several lines"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html></html>", "a web page"),
        (b"<!-- saved from url -->\n<HTML lang='en'>", "a web page"),
        (b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>', "a server's error message"),
        (b"<Error><Code>NoSuchKey</Code></Error>", "a server's error message"),
        (b'<?xml version="1.0"?>\n<mediawiki>', "XML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (wide("utf-16"), "UTF-16.*iconv -f UTF-16 "),
        (b"\xfe\xff" + wide("utf-16-be"), "UTF-16.*iconv"),
        (wide("utf-32"), "UTF-32.*iconv"),
        (wide("utf-16-le"), "UTF-16LE without a mark.*iconv -f UTF-16LE"),
        (wide("utf-16-be"), "UTF-16BE without a mark"),
        (wide("utf-16-le", CHINESE), "UTF-16LE without a mark"),
        (wide("utf-32-le", CHINESE), "UTF-32LE without a mark"),
        (wide("utf-32-be"), "UTF-32BE without a mark"),
        (b"\0" * 5000, "zero bytes"),
        (b"PK\x03\x04 zip", "zip archive"),
        (b"BZh91AY", "bunzip2"),
        (b"\xfd7zXZ\0\0", "unxz"),
        (b"7z\xbc\xaf\x27\x1c\0", "7-Zip"),
        (TAR, "tar archive"),
        (b"%PDF-1.7", "PDF"),
        (b"SQLite format 3\0rest", "SQLite"),
        (b"PAR1 and so on", 'kind = "parquet"'),
        (b"ARROW1\0\0", 'kind = "arrow"'),
        (b"id,text,label\n1,hello,0\n", "looks like CSV"),
        (b'"id","text"\n"1","hello"\n', "looks like CSV"),
        (b"id;text\n1;hello\n", "looks like CSV"),
        (b"question\tanswer\nwhat\tthat\n", "looks like TSV"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_says_what_to_do(start: bytes, remedy: str):
    """A million bad rows would hide the one thing that is wrong; the message names the file and the way out."""
    with pytest.raises(DataError, match=remedy) as caught:
        refuse_foreign(start, "corpus/a.jsonl", json_lines=True)
    assert str(caught.value).startswith("corpus/a.jsonl: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"\n\n",
        lines(ROWS),
        lines(CHINESE),
        b"\xef\xbb\xbf" + lines(ROWS),
        b'{"text": "cut off\n' + lines(ROWS),
        b'{"text": "a",\n' + lines(ROWS),
        b"{\n" + lines(ROWS),
        b'["a list"]\n' + lines(ROWS),
        b"not json at all\n" + lines(ROWS),
        b"one, two, and three\n" + lines(ROWS),
        b'{"text": "nul \0 byte"}\n' + lines(ROWS),
        lines([{"text": "<html> is a tag, %PDF- a mark, PK a sign"}]),
        b'{"text": "\xff\xfe bad"}\n' + lines(ROWS),
        json.dumps(ROWS[0]).encode(),
    ],
)
def test_files_with_a_bad_row_or_two_are_read(start: bytes):
    """What is wrong with a row is for the row to say; the others are good."""
    assert refuse_foreign(start, "a.jsonl", json_lines=True) is None


@pytest.mark.parametrize("start", [b"[1]\nNotes, and more\n", b"name, place\nBonn, Rhein\n", b"<?xml is how it begins"])
def test_text_files_may_look_like_anything(start: bytes):
    """A book may begin with a bracket; only what is certainly no text is refused."""
    refuse_foreign(start, "a.txt", json_lines=False)
    with pytest.raises(DataError, match="web page"):
        refuse_foreign(b"<html>", "a.txt", json_lines=False)


def test_other_encodings_are_named_for_iconv():
    """The remedy is a command to copy; the two encodings that happen are told apart."""
    assert guess_encoding('{"text": "梯度累积，多个小批次。"}'.encode("gbk")) == "GB18030"
    assert guess_encoding('{"text": "café au lait, señor, naïve"}'.encode("latin-1")) == "WINDOWS-1252"
    assert guess_encoding('{"text": "Ünïcödé"}'.encode("cp1252")) == "WINDOWS-1252"
