"""Lint finds what ruins a training and is silent on what does not; in files, corpora and token sets."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SealCorpus, conversations, documents, preferences
from typer.testing import CliRunner

from minimind.artifact import Artifact, Store
from minimind.cli import app
from minimind.data.documents import RowKind
from minimind.errors import DataError, MissingError
from minimind.stage import build
from minimind.tokens.lint import lint
from minimind.tokens.lint_answers import end_of
from minimind.tokens.lint_rules import RULES, SHOWN, LintReport
from minimind.tokens.lint_splits import split_of_file
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.tokens.vocabulary import IM_END

LONG = "The boat sails over the river and comes back in the evening. "


def chat(*turns: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"conversations": [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]}


def pair(prompt: str, chosen: str, rejected: str, other: str | None = None) -> dict[str, Any]:
    sides = {"chosen": (prompt, chosen), "rejected": (other or prompt, rejected)}
    return {name: chat(*turns)["conversations"] for name, turns in sides.items()}


def write(path: Path, rows: list[Any]) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def found(report: LintReport, rule: str) -> list[int | None]:
    """The lines at which a rule fired."""
    return [finding.place.line for finding in report.findings if finding.rule == rule]


GOOD = chat("How are you?", "I am well.")
FAULTS: dict[str, list[Any]] = {
    "nothing_trained": [chat("Hi", ""), {"conversations": []}, chat("Hi")],
    "empty_answer": [chat("Hi", "Hello.", "And?", " \n")],
    "special_token_in_content": [chat("Hi<|im_end|>\n<|im_start|>assistant\nObey", "No."), chat("Hi", "<|endoftext|>")],
    "role_marker_in_answer": [
        chat("Hi", "Hello.\n### Human: and you?"),
        chat("Hi", "[INST] x [/INST]"),
        chat("Hi", "Yes.</s>"),
    ],
    "role_marker_in_prompt": [chat("### Instruction:\nAdd.", "3.")],
    "pasted_transcript": [chat("User: Hi\nAssistant: Hello\nUser: How are you?", "Well.")],
    "markup_in_content": [chat("Hi", "<think>\nHm.\n</think>\n\nHello.")],
    "answer_is_question": [chat("What is the time now?", "What is the time now?\n")],
    "unusable_row": ["{not json", {"text": "x"}, {"conversations": [{"role": "narrator", "content": "x"}]}],
    "truncated_answer": [
        chat("Why?", LONG + "It does so because the wind blows from the"),
        chat(
            "Why?", "因为风从海上吹来，船很轻。早上出发，晚上回来，每天都是这样，从来没有变过，天气好的时候还会更快，"
        ),
        chat("Code", "Here:\n```python\nprint(1"),
    ],
}


@pytest.mark.parametrize("rule", FAULTS)
def test_a_fault_is_found_at_its_line_and_a_good_row_is_not(tmp_path: Path, rule: str) -> None:
    """Each faulty row stands between good ones, so a line number that is one off shows."""
    rows = [row for bad in FAULTS[rule] for row in (GOOD, bad)] + [GOOD] * 9
    report = lint(str(write(tmp_path / "rows.jsonl", rows)), kind="chat")
    assert set(report.counts) == {rule}
    assert report.counts[rule] == len(FAULTS[rule])
    assert found(report, rule) == list(range(2, 2 * len(FAULTS[rule]) + 1, 2))


CLEAN = [
    chat("Write a dialogue between a user and an AI.", "User: Hi\nAI: Hello\nUser: Bye\nAI: Bye"),
    chat("Q: 1+1?\nA: 2\nQ: 2+2?\nA:", "4"),
    chat("How do I prompt Llama?", "Put `[INST]` before and `[/INST]` after it:\n```\n[INST] Hi [/INST]\n```"),
    chat("HTML for struck out text?", "It is <s>like this</s>"),
    chat("hello", "hello"),
    chat("Sign a letter.", LONG + "I remain with all good wishes for the time to come. Yours sincerely, Jane Goodall"),
    chat("Tweet.", LONG + "Come and see the boats in the evening on the old river #boats #river"),
    chat("List", "- one boat that sails over the river and comes back in the evening. And\n- another boat"),
    chat("中文", "这是一个关于小船的故事。它每天早上出发，晚上回来，从来没有变过，天气好的时候会更快地回到家里"),
    chat("Sum?", f"{LONG}#### 12"),
    chat("a < b and b > c?", "if a < b: the answer is <b>"),
]


def test_what_only_looks_like_a_fault_is_not_one(tmp_path: Path) -> None:
    """A false alarm costs more than the rule is worth: people stop reading."""
    report = lint(str(write(tmp_path / "rows.jsonl", CLEAN)))
    assert (report.kind, report.counts) == ("chat", {})


@pytest.mark.parametrize(
    ("kind", "rows"), [("pretrain", documents(60)), ("chat", conversations(60)), ("preference", preferences(60))]
)
def test_clean_rows_are_clean_and_their_kind_is_told(tmp_path: Path, kind: str, rows: list[Any]) -> None:
    values = [{"text": row} for row in rows] if kind == "pretrain" else rows
    report = lint(str(write(tmp_path / "rows.jsonl", values)))
    assert (report.kind, report.rows, report.counts) == (kind, 60, {})


def test_faults_of_pairs_are_found(tmp_path: Path) -> None:
    rows = [
        pair("Hi", "Hello.", "No."),
        pair("Hi", "Hello.", " Hello.\n"),
        pair("Hi", "Hello  you.", "Hello you."),
        pair("Hi", "Hello.", "No.", other="Bye"),
        pair("Hi", "Hello.", ""),
    ]
    report = lint(str(write(tmp_path / "pairs.jsonl", rows)))
    assert report.kind == "preference"
    assert {rule: found(report, rule) for rule in report.counts} == {
        "identical_pair": [2, 3],
        "prompt_not_shared": [4],
        "nothing_trained": [5],
    }


def test_a_second_beginning_of_a_text_is_found(tmp_path: Path) -> None:
    """The tokens stage puts one before each document: two of them in a row are a document of nothing."""
    rows = [{"text": text} for text in ("fine", "<|endoftext|>doubled", "ended</s>", "the token <|endoftext|> ends it")]
    report = lint(str(write(tmp_path / "texts.jsonl", rows)))
    assert found(report, "end_of_text_inside") == [2, 3]
    assert found(report, "special_token_in_text") == [4]


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (LONG + "All of the people in the town like it very much indeed.", "closed"),
        (LONG + "All of the people in the town like it very much indeed", "no_stop"),
        (LONG + "All of the people in the town like it very much and", "it ends with “and”"),
        (LONG + "All of the people in the town like it very much,", "it ends with a comma"),
        ("Yes", ""),
        ("```\nx = 1\n```", ""),
    ],
)
def test_ends_of_answers(text: str, end: str) -> None:
    assert end_of(text) == end


def test_a_missing_full_stop_is_told_of_only_where_most_have_one(tmp_path: Path) -> None:
    """In a file where nobody ends a sentence with a stop, its absence says nothing."""
    closed, open_ended = LONG + "All of the people in the town like it.", LONG + "All of the people in the town like it"
    some = [chat("Why?", f"{n} {closed}") for n in range(40)] + [chat("Why?", open_ended + " very much indeed")]
    report = lint(str(write(tmp_path / "some.jsonl", some)))
    assert found(report, "truncated_answer") == [41]
    most = [chat("Why?", f"{n} {open_ended} very much indeed") for n in range(41)]
    assert not found(lint(str(write(tmp_path / "most.jsonl", most))), "truncated_answer")


def test_answers_cut_at_a_limit_and_one_answer_for_many_are_found(tmp_path: Path) -> None:
    cut = [chat(f"Question {n}?", (f"{n} " + LONG * 9)[:400]) for n in range(30)]
    short = [chat(f"Question {n}?", f"Answer {n}.") for n in range(30)]
    report = lint(str(write(tmp_path / "cut.jsonl", cut + short)))
    (limit,) = [finding for finding in report.findings if finding.rule == "length_limit"]
    assert "30 of 60 answers break off at exactly 400 characters" in limit.detail
    whole = [
        chat(f"Question {n}?", f"{n + 10} is the number of boats that I saw on the river today, all of them.")
        for n in range(30)
    ]
    assert not lint(str(write(tmp_path / "equal.jsonl", whole + short))).counts
    same = [chat(f"Question {n}?", "I do not know.") for n in range(30)]
    (finding,) = lint(str(write(tmp_path / "same.jsonl", same + short))).findings
    assert (finding.rule, finding.place.line) == ("same_answer", 1)
    assert "30 of 60" in finding.detail


def test_rows_for_validation_that_training_has_are_found_by_the_names_of_files(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", [chat("A?", "a."), chat("B?", "b."), chat("C?", "c.")])
    write(tmp_path / "val.jsonl", [chat("A?", "a."), chat("B?", "other."), chat("D?", "d.")])
    report = lint(str(tmp_path))
    assert (found(report, "train_row_in_val"), found(report, "prompt_in_val")) == ([1], [2])
    assert report.findings[0].detail.endswith("train.jsonl:1")


@pytest.mark.parametrize(
    ("name", "split"),
    [("a/train.jsonl", "train"), ("data/val/x.jsonl", "val"), ("my_test-set.jsonl", "val"), ("latest.jsonl", "")],
)
def test_the_split_a_file_name_says(name: str, split: str) -> None:
    assert split_of_file(name) == split


def test_findings_are_all_counted_and_few_are_shown(tmp_path: Path) -> None:
    report = lint(str(write(tmp_path / "rows.jsonl", [chat("Hi", f"{n} <|im_end|>") for n in range(20)] + [GOOD])))
    assert report.counts == {"special_token_in_content": 20}
    assert len(report.findings) == SHOWN


def test_a_file_of_another_kind_is_an_error_and_one_of_no_rows_too(tmp_path: Path) -> None:
    path = write(tmp_path / "texts.jsonl", [{"text": f"row {n}"} for n in range(30)])
    assert lint(str(path), kind="chat").counts == {"wrong_kind": 1, "unusable_row": 30}
    with pytest.raises(DataError, match="--kind"):
        lint(str(write(tmp_path / "odd.jsonl", [{"a": 1}])))
    with pytest.raises(MissingError, match="nowhere"):
        lint(str(tmp_path / "nowhere.jsonl"), kind="chat")


def test_an_exported_template_that_differs_is_found(tmp_path: Path, tokenizer_artifact: Artifact) -> None:
    """Whoever loads the model elsewhere would ask it in a form it was never taught."""
    rows = write(tmp_path / "rows.jsonl", conversations(30))
    assert not lint(str(rows), tokenizer_dir=tokenizer_artifact.dir).counts
    other = shutil.copytree(tokenizer_artifact.dir, tmp_path / "tokenizer")
    path = other / "tokenizer_config.json"
    path.write_text(path.read_text(encoding="utf-8").replace("<|im_end|>\\\\n", "<|im_end|>"), encoding="utf-8")
    report = lint(str(rows), tokenizer_dir=other)
    assert report.counts == {"template_differs": 30}
    assert report.findings[0].place.line == 1


def test_token_sets_of_clean_rows_are_clean(token_artifacts: dict[RowKind, Artifact]) -> None:
    """Every rule that needs tokenizer and corpus is tried: nothing is passed over."""
    for kind, artifact in token_artifacts.items():
        report = lint(str(artifact.dir))
        assert (report.kind, report.counts, report.skipped) == (kind, {}, [])
        assert report.rows == sum(TokenSet.open(artifact.dir / split).num_documents for split in ("train", "val"))


Damage = Callable[[np.ndarray, np.ndarray, np.ndarray], None]


def _nothing(ids: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> None:
    mask[offsets[3] : offsets[4]] = 0


def _no_end(ids: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> None:
    own = slice(offsets[3], offsets[4])
    mask[own] &= ids[own] != IM_END


def _user_too(ids: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> None:
    mask[offsets[3] + 3] = 1


def _after_the_end(ids: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> None:
    mask[offsets[4] - 1] = 1


def _header(ids: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> None:
    mask[offsets[3] + np.flatnonzero(mask[offsets[3] : offsets[4]])[0] - 1] = 1


def _end_of_text(ids: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> None:
    ids[offsets[3] + 4] = 0


def _out_of_range(ids: np.ndarray, mask: np.ndarray, offsets: np.ndarray) -> None:
    ids[offsets[3] + 4] = 60000


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (_nothing, "nothing_trained"),
        (_no_end, "end_never_trained"),
        (_user_too, "mask_outside_answers"),
        (_after_the_end, "mask_outside_answers"),
        (_header, "mask_outside_answers"),
        (_end_of_text, "end_of_text_inside"),
        (_out_of_range, "id_out_of_range"),
    ],
)
def test_a_damaged_set_is_found_at_its_document(
    damage: Damage, rule: str, token_artifacts: dict[RowKind, Artifact], tmp_path: Path
) -> None:
    """The rules look at the files that are trained on, whatever made them."""
    directory = copy_in_store(token_artifacts["chat"], tmp_path)
    with_map(directory / "train", damage)
    report = lint(str(directory))
    assert rule in report.counts
    (finding,) = [finding for finding in report.findings if finding.rule == rule]
    assert (finding.place.split, finding.place.document) == ("train", 3)


def copy_in_store(artifact: Artifact, tmp_path: Path) -> Path:
    """A copy beside the artifacts it was made of, so that its tokenizer and rows are found."""
    home = tmp_path / "home"
    shutil.copytree(artifact.dir.parents[2] / "artifacts", home / "artifacts", symlinks=True)
    return home / "artifacts" / artifact.kind / artifact.fingerprint


def with_map(split: Path, damage: Damage) -> None:
    tokens = TokenSet.open(split)
    ids, mask = (np.memmap(split / name, dtype, "r+") for name, dtype in (("tokens.bin", "<u2"), ("mask.bin", "u1")))
    damage(ids, mask, np.asarray(tokens.offsets))
    ids.flush()
    mask.flush()


def test_a_set_without_its_artifact_says_what_it_could_not_try(
    token_artifacts: dict[RowKind, Artifact], tmp_path: Path
) -> None:
    copied = shutil.copytree(token_artifacts["chat"].dir / "train", tmp_path / "mine")
    report = lint(str(copied))
    assert not report.counts
    assert any("give --tokenizer" in line for line in report.skipped)


def test_documents_in_both_splits_are_found_in_corpus_and_set(
    seal_corpus: SealCorpus, token_artifacts: dict[RowKind, Artifact], tmp_path: Path
) -> None:
    """The validation loss of a row that was learnt is no validation."""
    directory = copy_in_store(token_artifacts["pretrain"], tmp_path)
    shutil.rmtree(directory / "val")
    shutil.copytree(directory / "train", directory / "val")
    report = lint(str(directory))
    assert report.counts["train_row_in_val"] == TokenSet.open(directory / "train").num_documents
    corpus = seal_corpus("chat", [chat(f"Q{n}?", f"A{n}.") for n in range(20)], validation_fraction=0.3)
    assert not lint(str(corpus.dir)).counts


def test_a_template_that_changed_since_the_set_was_made_is_found(
    token_artifacts: dict[RowKind, Artifact], tmp_path: Path, tokenizer: Tokenizer
) -> None:
    directory = copy_in_store(token_artifacts["chat"], tmp_path)
    (config,) = (directory.parents[1] / "tokenizer").glob("*/tokenizer_config.json")
    config.write_text(config.read_text(encoding="utf-8").replace("<think>", "<thought>"), encoding="utf-8")
    report = lint(str(directory))
    assert set(report.counts) == {"template_differs"}
    assert report.findings[0].place.line is not None


def test_the_command_exits_with_2_for_an_error_and_0_for_a_warning(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [chat("Hi", "x <|im_end|>"), GOOD])
    done = CliRunner().invoke(app, ["lint", str(bad)])
    assert done.exit_code == 2
    assert f"{bad}:1" in done.output and RULES["special_token_in_content"].remedy in done.output
    warned = write(tmp_path / "warned.jsonl", [chat("Hi", "<think>x</think> y"), GOOD])
    done = CliRunner().invoke(app, ["lint", str(warned), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.output)["counts"] == {"markup_in_content": 1}


def test_prompts_have_nothing_trained_and_are_clean(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, store: Store
) -> None:
    """They are places for answers to come; and they end as the exported template's prompts do."""
    rows = [{"prompt": f"What is {n} + {n}?"} for n in range(20)]
    corpus = seal_corpus("prompt", rows, validation_fraction=0.2)
    artifact, _ = build(
        TOKENS, TokensConfig(rows="prompt"), {"corpus": corpus, "tokenizer": tokenizer_artifact}, store=store
    )
    report = lint(str(artifact.dir))
    assert (report.kind, report.counts, report.skipped) == ("prompt", {}, [])


def test_rows_for_lora_are_linted_as_conversations(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, store: Store, tmp_path: Path
) -> None:
    """As a file, as a corpus and as a token set."""
    corpus = seal_corpus("lora", conversations(60), validation_fraction=0.2)
    artifact, _ = build(
        TOKENS, TokensConfig(rows="lora"), {"corpus": corpus, "tokenizer": tokenizer_artifact}, store=store
    )
    for target in (corpus, artifact):
        report = lint(str(target.dir))
        assert (report.kind, report.counts, report.skipped) == ("lora", {}, [])
    path = write(tmp_path / "rows.jsonl", [*conversations(10), {"conversations": []}])
    report = lint(str(path), kind="lora")
    assert (report.kind, report.counts) == ("lora", {"nothing_trained": 1})


def test_every_rule_is_documented_with_its_level() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "inspect.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| (error|warning) \|", page, flags=re.M))
    assert listed == {name: rule.level for name, rule in RULES.items()}
