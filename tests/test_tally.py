"""Tallies: every row and byte is counted once, however the work was cut."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from minimind.data.documents import RowKind
from minimind.data.reading.checking import Form, check_block
from minimind.data.reading.files import Block
from minimind.data.reading.tally import Tally, measure
from minimind.data.shards import content_bytes

USER = {"role": "user", "content": "问题 question"}
ANSWER = {"role": "assistant", "content": "答案", "reasoning_content": "因为", "tool_calls": '[{"name": "f"}]'}
CHAT = {"conversations": [{"role": "system", "content": "", "tools": '[{"name": "f"}]'}, USER, ANSWER]}
PAIR = {"prompt": "问题", "chosen": "good", "rejected": "bad"}


def tally_of(rows: list[Any], form: Form, tally: Tally | None = None, *, first_line: int = 1) -> Tally:
    tally = tally or Tally("mine")
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    tally.add(
        check_block(form, Block(b"".join(row + b"\n" for row in lines)), source="mine", first_line=first_line),
        form,
        file="a.jsonl",
    )
    return tally


@pytest.mark.parametrize(
    ("kind", "row", "characters"),
    [
        ("pretrain", {"text": "问题 question"}, 11),
        ("chat", CHAT, 15),
        ("preference", PAIR, 11),
        ("prompt", {"prompt": "问题"}, 2),
    ],
)
def test_a_row_measures_what_is_in_it(kind: RowKind, row: Any, characters: int):
    """Bytes are those that later stages count as coming in; characters are what was said."""
    lines = b"\n".join([json.dumps(row).encode()] * 3)
    rows = check_block(Form(rows=kind), Block(lines), source="s", first_line=1).rows
    sizes, lengths = measure(kind, rows)
    assert sizes.tolist() == [content_bytes(value) for value in rows.to_pylist()]
    assert lengths.tolist() == [characters] * 3
    sliced = measure(kind, rows.slice(1, 2))
    assert [part.tolist() for part in sliced] == [sizes[1:].tolist(), lengths[1:].tolist()]


def test_the_books_balance_and_do_not_depend_on_the_cut(tmp_path: Path):
    """The report is made from these figures alone; two workers must write what one would."""
    rng, form = random.Random(1), Form(rows="pretrain")
    makes = ({"text": "good 好"}, {"text": 7}, b"{", b"", b'{"text": "\xff"}', {"content": "x"})
    rows = [rng.choice(makes) for _ in range(300)]
    whole = tally_of(rows, form)
    parts = Tally("mine")
    for number, begin in enumerate(range(0, 300, 70)):
        part = tally_of(rows[begin : begin + 70], form, first_line=begin + 1)
        (tmp_path / str(number)).mkdir()
        part.write(tmp_path / str(number))
        parts.merge(Tally.read(tmp_path / str(number)))
    assert parts == whole
    assert whole.ledger.imbalance() == ""
    figures = whole.ledger.figures()
    assert figures["rows_in"] + whole.blank == 300 and figures["rows_kept"] == whole.kept > 0
    assert figures["bytes_out"] == whole.kept * len("good 好".encode())
    assert whole.ledger.lengths_kept == {("mine", 2): whole.kept}
    assert figures["dropped_missing_field"] == sum(row == {"content": "x"} for row in rows)


@pytest.mark.parametrize(
    ("rows", "form", "hint"),
    [
        ([CHAT] * 3, Form(rows="pretrain"), 'rows = "chat"'),
        ([{"instruction": "i", "output": "o"}] * 3, Form(rows="chat"), 'shape = "alpaca"'),
        ([{"content": "c"}] * 3, Form(rows="pretrain"), 'keys = { text = "content" }'),
        ([('{"text": "%s"}' % ("梯度累积" * 9)).encode("gbk")] * 3, Form(rows="pretrain"), "iconv -f GB18030 -t UTF-8"),
        ([b"Once upon a time"] * 3, Form(rows="pretrain"), 'kind = "text"'),
    ],
)
def test_a_complaint_says_what_the_file_seems_to_be(rows: list[Any], form: Form, hint: str):
    """The count and the reason alone leave the user guessing."""
    complaint = tally_of(rows, form).complaint()
    assert complaint.startswith("3 of 3 rows cannot be used; most often ") and hint in complaint
    assert "first in a.jsonl, line 1: " in complaint and "\n" not in complaint
    assert "3 of the first 3 rows" in tally_of(rows, form).complaint(gave_up=True)


def test_a_hint_from_one_odd_row_is_not_given_for_a_good_file():
    """One bad row in a thousand is an accident, not another kind of file."""
    complaint = tally_of([{"text": "good"}] * 5 + [CHAT], Form(rows="pretrain")).complaint()
    assert "1 of 6 rows" in complaint and "looks like" not in complaint
