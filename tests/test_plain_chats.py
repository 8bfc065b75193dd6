"""Plain conversations: the quick way takes no row that the general way would not, and makes the same of it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.kinds import RowKind
from minimind.data.reading.checking import Form, check_block
from minimind.data.reading.files import Block
from minimind.data.reading.json_rows import LineIndex
from minimind.data.reading.plain_chats import plain_chats

SETTLED = settings(deadline=None, derandomize=True, max_examples=300)
CONTENT = st.sampled_from(["", " ", "a", "字", '"', "\\", "\n", "\0", "\ud83d", "x"]) | st.none() | st.integers()
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool", "gpt"]), "content": CONTENT},
    optional={
        "tools": st.sampled_from([None, "", "[]", '[{"name": "f"}]', []]),
        "tool_calls": st.sampled_from([None, '[{"name": "f"}]', 7]),
        "reasoning_content": st.sampled_from([None, "hm"]),
        "weight": st.just(1),
    },
)
PAIR = st.tuples(CONTENT, CONTENT).map(
    lambda said: [{"role": "user", "content": said[0]}, {"role": "assistant", "content": said[1]}]
)
TURNS = PAIR | st.tuples(PAIR, PAIR).map(lambda pairs: [*pairs[0], *pairs[1]]) | st.lists(TURN, max_size=4)
ROW = st.fixed_dictionaries({"conversations": TURNS}, optional={"id": st.integers(), "group": st.text(max_size=2)})
GOOD = '{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


def same_either_way(data: bytes, patch: pytest.MonkeyPatch, rows: RowKind = "chat") -> None:
    form = Form(rows=rows)
    quick = check_block(form, Block(data), source="s", first_line=1)
    with patch.context() as general:
        general.setattr(Form, "is_of_plain_chats", lambda _: False)
        slow = check_block(form, Block(data), source="s", first_line=1)
    quick.rows.validate(full=True)
    assert quick.rows.equals(slow.rows)
    assert quick.bad == slow.bad and quick.begins.tolist() == slow.begins.tolist()


def test_any_rows_become_the_same_either_way():
    """The gate must not hide an outcome: a bad turn, a doubled key, half a character, tools among plain rows."""

    @SETTLED
    @given(st.lists(ROW, max_size=4), st.booleans())
    def check(rows: list[dict], ascii_only: bool) -> None:
        lines = [json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for row in rows]
        same_either_way(b"\n".join(lines), patch)

    with pytest.MonkeyPatch.context() as patch:
        check()


@pytest.mark.parametrize(
    "line",
    [
        '{"conversations": [], "conversations": [{"role": "user", "content": "a"}]}',
        GOOD.replace('"content": "b"', '"content": "c", "content": "b"'),
        GOOD.replace('"role": "user"', '"role": "user", "role": "user"'),
        GOOD.replace("]}", '], "conversations": []}'),
        GOOD.replace("]}", '], "n": NaN}'),
        GOOD.replace('"b"', '" "'),
        GOOD.replace('"b"', '"\\ud83d"'),
        GOOD + " {}",
        "\ufeff" + GOOD,
        GOOD[:-1],
    ],
)
def test_what_is_not_certain_is_left_for_the_general_way(line: str, monkeypatch: pytest.MonkeyPatch):
    """A row that is not taken here costs a little time; one taken wrongly is wrong for good."""
    data = f"{GOOD}\n{line}\n{GOOD}\n".encode()
    assert plain_chats(LineIndex(data)).lines.tolist() == [0, 2]
    same_either_way(data, monkeypatch)


def test_conversations_for_lora_are_taken_the_same_way(monkeypatch: pytest.MonkeyPatch):
    same_either_way(f'{GOOD}\n{{"conversations": []}}\n{GOOD}\n'.encode(), monkeypatch, "lora")


def test_plain_conversations_are_taken_at_once():
    """System turns, escapes and other spaces are nothing special."""
    said = [
        {"role": role, "content": f"{role} \n\\ 字"} for role in ("system", "user", "assistant", "user", "assistant")
    ]
    data = b"".join(
        json.dumps({"conversations": turns}, ensure_ascii=dense, separators=(",", ":") if dense else None).encode()
        + b"\r\n"
        for turns in (said, said[1:], said[:3])
        for dense in (True, False)
    )
    chats = plain_chats(LineIndex(data))
    assert len(chats) == 6 and len(set(chats.ids)) == 3
    assert chats.conversations[0].as_py()[0] == {
        **said[0],
        "reasoning_content": None,
        "tools": None,
        "tool_calls": None,
    }
