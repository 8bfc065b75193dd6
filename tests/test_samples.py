"""The conversations written for this project are what they say: valid, bilingual, true in their sums."""

import operator
import re
from pathlib import Path
from typing import Any

import pytest

from minimind.data.documents import check_row
from minimind.data.reading.strict_json import read_json
from minimind.data.spec import load_spec

SAMPLES = Path(__file__).resolve().parents[1] / "data_specs" / "samples" / "chat.jsonl"
OPERATORS = {"+": operator.add, "-": operator.sub, "×": operator.mul, "÷": operator.truediv}
CHINESE = re.compile("[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return [check_row("chat", read_json(line)) for line in SAMPLES.read_bytes().splitlines()]


def answers(rows: list[dict[str, Any]]) -> list[str]:
    return [turn["content"] for row in rows for turn in row["conversations"] if turn["role"] == "assistant"]


def test_every_line_is_a_valid_conversation_and_stands_once(rows: list[dict[str, Any]]):
    """The default must not begin with dropped rows."""
    assert 300 <= len(rows) <= 600
    assert len({row["id"] for row in rows}) == len(rows)
    assert SAMPLES.read_bytes().endswith(b"\n")


def test_every_equation_is_true(rows: list[dict[str, Any]]):
    """A model that learns these by heart must not learn a wrong sum."""
    found = [e for text in answers(rows) for e in re.findall(r"(\d+) ([-+×÷]) (\d+) = (\d+)", text)]
    assert len(found) > 60
    wrong = [e for e in found if OPERATORS[e[1]](int(e[0]), int(e[2])) != int(e[3])]
    assert wrong == []


def test_every_question_for_a_sum_is_answered_with_that_sum(rows: list[dict[str, Any]]):
    """A true equation can still be the answer to another question."""
    for row in rows:
        turns = row["conversations"]
        for question, answer in zip(turns, turns[1:], strict=False):
            asked = re.search(r"\d+ [-+×÷] \d+", question["content"])
            if asked and question["role"] == "user":
                assert f"{asked[0]} = " in answer["content"]


def test_both_languages_are_well_represented(rows: list[dict[str, Any]]):
    """Half of the users will type the other language."""
    chinese = sum(bool(CHINESE.search(row["conversations"][-1]["content"])) for row in rows)
    assert 0.4 < chinese / len(rows) < 0.6


def test_identity_is_asked_in_many_ways_and_answered_in_one(rows: list[dict[str, Any]]):
    """The name is the one thing a quickstart model is sure to be asked for."""
    for sentence, least in (
        ("我是 MiniMind，一个从零训练的小语言模型", 25),
        ("I am MiniMind, a small language model", 25),
    ):
        assert sum(sentence in row["conversations"][-1]["content"] for row in rows) >= least
    assert sum("MiniMind" in text for text in answers(rows)) >= 80


def test_some_have_several_turns_and_some_a_system_turn(rows: list[dict[str, Any]]):
    lengths = [len(row["conversations"]) for row in rows]
    assert sum(length >= 4 for length in lengths) >= 20
    assert sum(row["conversations"][0]["role"] == "system" for row in rows) >= 10


@pytest.mark.parametrize("name", ["pydocs", "pydocs_installed"])
def test_the_specs_that_use_them_load_and_find_them(name: str):
    """A spec that ships must not fail on its first line."""
    spec = load_spec(name)
    assert {source.rows for source in spec.source} == {"pretrain", "chat", "preference"}
    assert all(Path(source.path).is_file() for source in spec.source if source.path)
    packages = {source.packages for source in spec.source if source.kind == "pydocs"}
    assert packages == {"installed" if name.endswith("installed") else "stdlib"}
