"""Benchmark sets by name: rows as the hub has them become ours, in a stable order; no network is one clear line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from minimind.errors import ConfigError, DataError, ServiceError
from minimind.evaluate import hub_suites
from minimind.evaluate.hub_suites import SUITES, fetch
from minimind.evaluate.rows import read_choices

EXAM = {"A": "一", "B": "二", "C": "三", "D": "四"}
ARC = {"text": ["gas", "rock", "rain"], "label": ["A", "B", "C"]}
ARC_NUMBERED = {"text": ["gas", "rock", "rain", "sun"], "label": ["1", "2", "3", "4"]}
HELLASWAG = {
    "ind": 7,
    "activity_label": "Roof repair",
    "ctx_a": "A man sits on a roof.",
    "ctx_b": "he",
    "ctx": "A man sits on a roof. he",
    "endings": ["lifts [step] a tile.", "is [title] The end", "sings.", "sleeps."],
    "source_id": "activitynet~v_1",
    "split": "val",
    "split_type": "indomain",
    "label": "3",
}
STAND_INS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "ceval": {
        "law/val": [{"id": 0, "question": " 哪一条？ ", **EXAM, "answer": "B", "explanation": ""}],
        "accountant/val": [{"id": 0, "question": "多少？", **EXAM, "answer": "D", "explanation": ""}],
        "accountant/dev": [{"id": 0, "question": "例题", **EXAM, "answer": "A", "explanation": "因为"}],
    },
    "cmmlu": {"agronomy/test": [{"Question": "何时播种？", **EXAM, "Answer": "A"}]},
    "mmlu": {"all/test": [{"question": "2 + 2?", "subject": "algebra", "choices": ["1", "2", "3", "4"], "answer": 3}]},
    "arc_easy": {
        "ARC-Easy/test": [
            {"id": "M_1", "question": "What is hard?", "choices": ARC, "answerKey": "B"},
            {"id": "M_2", "question": "What shines?", "choices": ARC_NUMBERED, "answerKey": "4"},
        ],
        "ARC-Challenge/test": [{"id": "M_3", "question": "What is wet?", "choices": ARC, "answerKey": "C"}],
    },
    "arc_challenge": {
        "ARC-Challenge/test": [{"id": "M_3", "question": "What is wet?", "choices": ARC, "answerKey": "C"}]
    },
    "hellaswag": {"default/validation": [HELLASWAG]},
    "piqa": {
        "default/validation": [{"goal": "Open a jar", "sol1": "Turn the lid.", "sol2": "Sing to it.", "label": 0}]
    },
    "openbookqa": {
        "main/test": [{"id": "8-3", "question_stem": "The sun is", "choices": ARC, "answerKey": "A "}],
        "additional/test": [{"id": "8-3", "question_stem": "The sun is", "choices": ARC, "answerKey": "A"}],
    },
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` keeps what it has read."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def stand_in(name: str, tables: dict[str, list[dict[str, Any]]], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a folder of the converted branch's layout in the place of a set."""
    for place, rows in tables.items():
        path = folder / name / place / "0000.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pa.Table.from_pylist(rows), path)
    monkeypatch.setitem(SUITES, name, replace(SUITES[name], dataset=str(folder / name)))


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_every_suite_becomes_our_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each set names its columns, splits and right answers in its own way; a slip here is a wrong accuracy."""
    found = {}
    for name, tables in STAND_INS.items():
        stand_in(name, tables, tmp_path, monkeypatch)
        found[name] = rows_of(fetch(name, tmp_path / "sets"))
    assert found.keys() == SUITES.keys()
    right: dict[str, list[tuple[str, str]]] = {}
    for name, rows in found.items():
        asked = "context" if SUITES[name].kind == "cloze" else "question"
        assert all(row.keys() == {"id", asked, "choices", "answer", "subject", "lang", "source"} for row in rows)
        right[name] = [(row[asked], row["choices"][row["answer"]]) for row in rows]
    assert right == {
        "ceval": [("多少？", "四"), ("哪一条？", "二")],
        "cmmlu": [("何时播种？", "一")],
        "mmlu": [("2 + 2?", "4")],
        "arc_easy": [("What is hard?", "rock"), ("What shines?", "sun")],
        "arc_challenge": [("What is wet?", "rain")],
        "hellaswag": [("Roof repair: A man sits on a roof. He", "sleeps.")],
        "piqa": [("Open a jar", "Turn the lid.")],
        "openbookqa": [("The sun is", "gas")],
    }
    assert found["hellaswag"][0]["choices"][:2] == ["lifts a tile.", "is. The end"]
    assert [(row["id"], row["subject"], row["lang"]) for row in found["ceval"]] == [
        ("accountant-0", "accountant", "zh"),
        ("law-0", "law", "zh"),
    ]
    assert found["mmlu"][0]["subject"] == "algebra" and found["arc_easy"][1]["id"] == "M_2"


@pytest.mark.parametrize("name", STAND_INS)
def test_the_rows_are_ones_that_can_be_measured(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same reader takes them that takes a user's file; what a suite says of itself must survive it."""
    stand_in(name, STAND_INS[name], tmp_path, monkeypatch)
    path = fetch(name, tmp_path / "sets")
    material = read_choices(path, SUITES[name].kind)
    assert [item.answer for item in material.items] == [row["answer"] for row in rows_of(path)]
    assert {facts.language for facts in material.facts} == {SUITES[name].language}


def test_the_order_is_stable_and_a_limit_is_spread_over_subjects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The first rows of an exam are all of its first subject, which would say little of the others."""
    subjects = ("virology", "arts", "logical")
    tables = {
        f"{subject}/test": [{"Question": f"{subject} {n}", **EXAM, "Answer": "C"} for n in range(4)]
        for subject in subjects
    }
    stand_in("cmmlu", tables, tmp_path, monkeypatch)
    whole = fetch("cmmlu", tmp_path / "sets")
    before = whole.read_bytes()
    assert [row["id"] for row in rows_of(whole)] == [f"{s}-{n}" for s in sorted(subjects) for n in range(4)]
    assert fetch("cmmlu", tmp_path / "sets", refresh=True).read_bytes() == before
    few = fetch("cmmlu", tmp_path / "sets", limit=3)
    assert [row["subject"] for row in rows_of(few)] == sorted(subjects)
    assert whole.read_bytes() == before and fetch("cmmlu", tmp_path / "sets", limit=99) == whole


def test_a_file_that_is_there_is_used_without_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Copied to a machine without a network it is all that is needed; only `refresh` asks the hub again."""
    stand_in("piqa", STAND_INS["piqa"], tmp_path, monkeypatch)
    path = fetch("piqa", tmp_path / "sets")
    later = [{"goal": "Close a jar", "sol1": "Wait.", "sol2": "Turn the lid.", "label": 1}]
    stand_in("piqa", {"default/validation": later}, tmp_path, monkeypatch)
    assert rows_of(fetch("piqa", tmp_path / "sets"))[0]["question"] == "Open a jar"
    assert rows_of(fetch("piqa", tmp_path / "sets", refresh=True))[0]["question"] == "Close a jar"
    monkeypatch.setattr(hub_suites, "hub_files", None)
    assert fetch("piqa", tmp_path / "sets") == path


def test_without_a_network_the_error_names_the_set_and_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Said at once where fetching is forbidden: asking again and again would take seconds, and leave nothing behind."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub_suites, "hub_files", None)
    with pytest.raises(ServiceError, match=r"mmlu: .*HF_HUB_OFFLINE.*all/test/.* of cais/mmlu .*mmlu.jsonl.*--choices"):
        fetch("mmlu", tmp_path / "sets")
    assert not (tmp_path / "sets").exists()


def test_a_hub_that_does_not_answer_is_an_error_of_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever the client's error is, the user reads the set, what was tried and what to do."""
    monkeypatch.setitem(SUITES, "piqa", replace(SUITES["piqa"], dataset=str(tmp_path)))
    with pytest.raises(ServiceError, match=r"piqa: .*validation.*cannot be fetched: .*no file matches.*--choices FILE"):
        fetch("piqa", tmp_path / "sets")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"goal": "Open a jar", "sol1": "Turn.", "label": 0}, "row 0 of .*no column `sol2`"),
        ({"goal": "Open a jar", "sol1": "Turn.", "sol2": "Sing.", "label": -1}, "answer -1 is none of its choices"),
    ],
)
def test_rows_of_another_form_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: dict[str, Any], message: str
):
    """Hidden answers are −1 on the hub, which Python would take for the last choice."""
    stand_in("piqa", {"default/validation": [row]}, tmp_path, monkeypatch)
    with pytest.raises(DataError, match=message):
        fetch("piqa", tmp_path / "sets")
    assert not (tmp_path / "sets" / "piqa.jsonl").exists()


def test_unknown_names_and_limits_are_explained(tmp_path: Path):
    """A slip of the finger gets the name that was meant."""
    with pytest.raises(ConfigError, match=r"no benchmark set `helaswag` \(did you mean `hellaswag`\?\)"):
        fetch("helaswag", tmp_path)
    with pytest.raises(ConfigError, match="`limit` is 0"):
        fetch("piqa", tmp_path, limit=0)
