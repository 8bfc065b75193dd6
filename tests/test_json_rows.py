"""Blocks of JSON lines: lines, strings and escapes are where a careful reader finds them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.reading.json_rows import LineIndex, flat_texts, is_utf8

SETTLED = settings(deadline=None, derandomize=True, max_examples=300)
PIECES = (b'"', b"\\", b"\n", b"\r", b"{", b"a", b" ", "字".encode(), b"\xff", b"\0", b"\t", b"u")


def texts_of(data: bytes, key: str = "text") -> dict[int, str]:
    """Line → text of what is taken without a look at each line."""
    found = flat_texts(LineIndex(data), key)
    return dict(zip(found.lines.tolist(), found.texts.to_pylist(), strict=True))


@SETTLED
@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
def test_lines_are_those_of_a_plain_split(data: bytes):
    """A line number in the drop log must be the one an editor shows, whatever the bytes are."""
    lines = data.split(b"\n")
    lines = lines[:-1] if lines[-1] == b"" else lines
    index = LineIndex(data)
    assert [index.line(number) for number in range(len(index))] == [line.rstrip(b"\r\n") for line in lines]
    assert index.blank.tolist() == [not line.strip() for line in lines]
    for line, doubtful in zip(lines, index.doubtful.tolist(), strict=True):
        inside = line.removesuffix(b"\r")
        assert doubtful == (not _is_text(inside) or any(code < 32 for code in inside))


@SETTLED
@given(st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
def test_quotes_behind_an_escape_do_not_count(data: bytes):
    """Backslashes in a row are pairs from the left; a quote counts unless a lone one stands before it."""
    index = LineIndex(data)
    counts = []
    for number in range(len(index)):
        line, count, place = data[index.starts[number] : index.ends[number]], 0, 0
        while place < len(line):
            place += 2 if line[place] == ord("\\") else 1
            count += (
                place < len(line) + 1 and line[place - 1 : place] == b'"' and (place < 2 or _starts(line, place - 1))
            )
        counts.append(count)
    assert index.num_quotes.tolist() == counts


def _starts(line: bytes, place: int) -> bool:
    """Whether the byte at `place` is not escaped."""
    before = line[:place]
    return (len(before) - len(before.rstrip(b"\\"))) % 2 == 0


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@SETTLED
@given(st.binary(max_size=12))
def test_utf8_is_judged_as_python_does(data: bytes):
    """Overlong forms, surrogates and cut-off characters are told apart in many ways; here in one."""
    assert is_utf8(data) == _is_text(data)


@SETTLED
@given(st.lists(st.text(min_size=1), min_size=1, max_size=5), st.booleans(), st.sampled_from([": ", ":"]))
def test_texts_are_those_of_the_standard_parser(texts: list[str], ascii_only: bool, colon: str):
    """Escapes are undone by arithmetic on whole blocks: every one must come out as json.loads has it."""
    rows = [json.dumps({"text": text}, ensure_ascii=ascii_only, separators=(", ", colon)) for text in texts]
    data = "\n".join(rows).encode("utf-8", "surrogatepass") + b"\n"
    wanted = {
        line: text
        for line, text in enumerate(texts)
        if text.strip("\0 \t\r\n\ufeff") and _is_text(text.encode("utf-8", "surrogatepass"))
    }
    assert texts_of(data) == wanted


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "a", "text": "b"}',
        b'{"text": "a", "n": 1, "n": 2}',
        b'{"text": "a", "n": NaN}',
        b'{"text": "a", "n": 99999999999999999999}',
        b'{"text": "a\\x"}',
        b'{"text": "a\\ud83d"}',
        b'{"text": "a"} {}',
        b'{"text": "a"',
        b'["text": "a"]',
        b'{"meta": {"text": "a"}}',
        b'{"meta": {"text": "inner"}, "text": ""}',
        b'{"text": "a", "meta": []}',
        b'{"text": 7, "k": "text", "b": "c"}',
        b'{"text": " \\n\\t"}',
        b'{"text": "\xef\xbb\xbf "}',
        b'{"text": "\\u0000\\ufeff"}',
        b'{"text": ""}',
        b'{"text": "a\tb"}',
        b'{"text": "\xff"}',
        b'\\{"text": "a"}',
    ],
)
def test_what_is_not_certain_is_left_for_the_slow_way(line: bytes):
    """A row that is not taken here costs a little time; one taken wrongly is wrong for good."""
    good = b'{"text": "good"}\n'
    assert texts_of(good + line + b"\n" + good) == {0: "good", 2: "good"}
    assert 0 not in texts_of(line)


def test_other_fields_do_not_slow_a_file_down():
    """Web corpora carry an address, a date and a score with every text; these too are taken in one go."""
    rows = [
        {"id": n, "url": f"https://example.org/{n}?a=\\", "score": n / 7, "text": f"text {n} \n 字"} for n in range(50)
    ]
    data = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows).encode()
    assert texts_of(data) == {n: row["text"] for n, row in enumerate(rows)}
    assert [other["id"] for other in flat_texts(LineIndex(data), "text").others] == list(range(50))


def test_an_odd_first_line_does_not_hide_the_others():
    """Where the text stands is learnt from the first few lines; one of them may be damaged."""
    data = b'{"k": "v", "k": "w"}\n' + b'{"text": "a"}\n' * 3
    assert len(texts_of(data)) == 3


def test_a_block_may_be_empty():
    """The last block of a file often is."""
    assert len(LineIndex(b"")) == 0 and texts_of(b"") == {}
