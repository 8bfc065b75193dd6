"""Checking: which way a row is read makes no difference to what becomes of it."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.documents import CONTENT
from minimind.data.reading import checking
from minimind.data.reading.checking import Checked, Form, RawRow, check_block, check_rows, checked_row
from minimind.data.reading.files import Block
from minimind.data.reading.strict_json import RowError, read_json

SETTLED = settings(deadline=None, derandomize=True, max_examples=200)
FORMS = (
    Form(rows="pretrain"),
    Form(rows="pretrain", keys={"text": "k"}),
    Form(rows="pretrain", keys={"text": "meta.x"}),
    Form(rows="pretrain", keys={"group": "id"}, has_groups=True),
    Form(rows="pretrain", keys={"group": "meta.x"}, has_groups=True),
    Form(rows="pretrain", keys={"text": "k", "group": "text"}, has_groups=True),
    Form(rows="pretrain", as_text=True),
    Form(rows="chat"),
    Form(rows="preference"),
    Form(rows="prompt"),
    Form(rows="chat", shape="alpaca"),
    Form(rows="pretrain", shape="messages"),
)
CHARACTERS = (
    "a",
    "b c",
    '"',
    "\\",
    "\n",
    "\t",
    "/",
    "é",
    "中文",
    "，",
    "😀",
    "\0",
    "\x7f",
    "\u2028",
    "\ufeff",
    "\ud83d",
)
DAMAGES = (b'"', b"\\", b"\n", b"\r", b"\0", b"{", b"}", b"[", b":", b",", b" ", b"\t", b"\xff", b"\xef\xbb\xbf")
DAMAGES += (
    b"\xed\xa0\x80",
    b"\\u0041",
    b"\\ud83d",
    b"\\u0000",
    b"NaN",
    b"-0",
    b"1.",
    b"01",
    b"1e999",
    b"\xe4\xb8",
    b"[" * 70,
)


def text(rng: random.Random) -> str:
    return "".join(rng.choice(CHARACTERS) for _ in range(rng.randrange(8)))


def value(rng: random.Random, depth: int = 0) -> Any:
    plain = [text(rng), rng.choice([0, -1, 2**63 - 1, 2**63, True, None]), rng.choice([0.5, -0.0, 1e19, float("nan")])]
    if depth < 2:
        plain.append({text(rng): value(rng, depth + 1) for _ in range(rng.randrange(3))})
        plain.append([value(rng, depth + 1) for _ in range(rng.randrange(3))])
    return rng.choice(plain)


def turns(rng: random.Random) -> list[Any]:
    made = []
    for number in range(rng.choice([1, 2, 2, 4])):
        turn: dict[str, Any] = {"role": ("user", "assistant")[number % 2], "content": "c" + text(rng)}
        if rng.random() < 0.2:
            turn |= {rng.choice(["role", "content", "tool_calls", "reasoning_content", "tools"]): value(rng)}
        made.append(turn)
    return made


def line(rng: random.Random, form: Form) -> bytes:
    """A row that is often good, written in one of many ways."""
    conversation = turns(rng)
    good: dict[str, Any] = {
        "pretrain": {rng.choice(["text", *form.keys.values()]).partition(".")[0]: "x" + text(rng)},
        "chat": {"conversations": conversation},
        "preference": {"prompt": "p" + text(rng), "chosen": "a" + text(rng), "rejected": "b" + text(rng)},
        "prompt": {rng.choice(["prompt", "conversations"]): rng.choice([text(rng), conversation[:1]])},
        "alpaca": {"instruction": "i" + text(rng), "output": "o" + text(rng)},
        "messages": {"messages": conversation},
    }
    fields = list(good["chat" if form.as_text else form.rows if form.shape == "minimind" else form.shape].items())
    names = ["id", "meta", "k", "text", "input", "system", "output"]
    fields += [(rng.choice(names), value(rng)) for _ in range(rng.choice([0, 0, 1, 2]))]
    rng.shuffle(fields)
    comma, colon = rng.choice([(", ", ": "), (",", ":"), (" , ", " : ")])
    ascii_only = rng.random() < 0.4
    pairs = (json.dumps(k) + colon + json.dumps(v, ensure_ascii=ascii_only) for k, v in fields)
    return ("{" + comma.join(pairs) + "}").encode("utf-8", "surrogatepass")


def damaged(rng: random.Random, raw: bytes) -> bytes:
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        place, size = rng.randrange(len(raw) + 1), rng.choice([0, 1, 3])
        raw = raw[:place] + rng.choice([b"", *DAMAGES, rng.randbytes(1)]) + raw[place + size :]
    return raw


def slowly(form: Form, data: bytes, first_line: int) -> tuple[list[Any], list[Any], list[int]]:
    """Good rows, bad rows and blank lines by the plain way: one line after the other, by the strict parser."""
    good, bad, blank = [], [], []
    lines = data.split(b"\n")
    for number, raw in enumerate(lines[:-1] if lines[-1] == b"" else lines, first_line):
        raw = raw.rstrip(b"\r\n")
        if not raw.strip():
            blank.append(number)
            continue
        try:
            row, group = checked_row(form, read_json(raw))
        except RowError as error:
            bad.append((number, error.reason, error.detail.encode("utf-8", "backslashreplace").decode(), raw, len(raw)))
        else:
            good.append((number, row["id"], group, [row[name] for name in CONTENT[form.rows]]))
    return good, bad, blank


def told(form: Form, checked: Checked) -> tuple[list[Any], list[Any], list[int]]:
    rows = checked.rows.to_pylist()
    good = [(row["line"], row["id"], row["group"], [row[name] for name in CONTENT[form.rows]]) for row in rows]
    bad = [(row.line, row.reason, row.detail, row.raw, row.size) for row in checked.bad]
    return good, bad, checked.blank.tolist()


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.model_dump_json(exclude_defaults=True))
def test_a_block_is_checked_as_its_lines_one_by_one(form: Form):
    """The quick ways are only quick: rows, ids, groups, reasons and details are those of the strict parser."""
    rng = random.Random(form.model_dump_json())
    kept = 0
    for _ in range(150):
        end = rng.choice([b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\n"])
        data = b"".join(damaged(rng, line(rng, form)) + end for _ in range(rng.randrange(1, 8)))
        data = data.rstrip(b"\n") if rng.random() < 0.3 else data
        checked = check_block(form, Block(data), source="s", first_line=5)
        assert told(form, checked) == slowly(form, data, 5)
        kept += checked.rows.num_rows
    assert kept > 20  # or nothing was compared


@SETTLED
@given(st.binary(max_size=200))
def test_any_bytes_are_accounted_for(data: bytes):
    """Rows + bad + blank = lines, whatever is read; nothing crashes."""
    checked = check_block(Form(rows="pretrain"), Block(data), source="s", first_line=1)
    lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    assert checked.rows.num_rows + len(checked.bad) + len(checked.blank) == lines == checked.last_line


def test_rows_keep_their_order_and_place():
    """Rows that took the quick way and rows that did not stand in the order of the file."""
    rows = [{"text": f"text {n}", **({"meta": {}} if n % 3 else {})} for n in range(9)]
    data = b"\n".join(json.dumps(row).encode() for row in rows)
    checked = check_block(Form(rows="pretrain"), Block(data), source="wiki/a.jsonl", first_line=7)
    assert checked.rows["text"].to_pylist() == [row["text"] for row in rows]
    assert checked.rows["line"].to_pylist() == list(range(7, 16))
    assert set(checked.rows["source"].to_pylist()) == {"wiki/a.jsonl"} and checked.rows["language"].null_count == 9
    assert [checked.raw(place) for place in range(9)] == data.split(b"\n")


def test_the_first_rows_are_what_had_been_read_until_then():
    """A limit counts good rows; what stands behind the last of them was never looked at."""
    data = b'{\n{"text": "a"}\n\n{"text": "b"}\n{\n\n{"text": "c"}\n{\n'
    checked = check_block(Form(rows="pretrain"), Block(data), source="s", first_line=1)
    two = checked.first(2)
    assert two.rows["text"].to_pylist() == ["a", "b"] and two.sizes().tolist() == [13, 13]
    assert ([row.line for row in two.bad], two.blank.tolist(), two.last_line) == ([1], [3], 4)
    assert [row.line for row in checked.first(3).bad] == [1, 5]
    assert checked.first(4) is checked


def test_a_row_that_is_too_long_is_bad_and_cut(monkeypatch: pytest.MonkeyPatch):
    """Its beginning tells what it is; all of it would swell the drop log."""
    monkeypatch.setattr(checking, "MAX_ROW_BYTES", 50)
    monkeypatch.setattr(checking, "LONG_ROW_KEPT", 10)
    data = b'{"text": "short"}\n{"text": "' + b"x" * 60 + b'"}\n'
    checked = check_block(Form(rows="pretrain"), Block(data, left_out=7), source="s", first_line=1)
    (bad,) = checked.bad
    assert (bad.reason, bad.raw, bad.size) == ("too_long", b'{"text": "', 72 + 7)
    rows = check_rows(Form(rows="pretrain"), [RawRow(1, {"text": "x"}, b"y" * 60)], source="s")
    assert [row.reason for row in rows.bad] == ["too_long"]


def test_dotted_keys_reach_into_a_field():
    """Corpora hide their text in an inner object; a field of the whole dotted name comes first."""
    form = Form(rows="pretrain", keys={"text": "meta.body", "group": "meta.site"}, has_groups=True)
    row, group = checked_row(form, {"meta": {"body": "inner", "site": 7}})
    assert (row["text"], group) == ("inner", "7")
    assert checked_row(form, {"meta.body": "outer", "meta": {"body": "inner"}})[0]["text"] == "outer"
    with pytest.raises(RowError, match="missing_field"):
        checked_row(form, {"meta": "body"})


def test_half_a_character_in_a_group_or_a_key_does_no_harm():
    """What no file of ours could hold must not stop a run at the end of a night."""
    form = Form(rows="pretrain", keys={"group": "g"}, has_groups=True)
    data = b'{"text": "a", "g": "\\ud83d"}\n{"\\ud83d": 1}\n'
    checked = check_block(form, Block(data), source="s", first_line=1)
    assert [row.reason for row in checked.bad] == ["lone_surrogate", "missing_field"]
    assert "\\ud83d" in checked.bad[1].detail


def test_tables_and_lines_give_the_same_rows():
    """A row's id and content do not depend on the file it came in."""
    form, row = Form(rows="pretrain"), {"text": "the same"}
    lines = check_block(form, Block(json.dumps(row).encode()), source="s", first_line=1)
    table = check_rows(form, [RawRow(1, row, b"raw")], source="s")
    assert lines.rows.equals(table.rows) and table.raw(0) == b"raw"
