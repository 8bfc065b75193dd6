"""`minimind eval`: one model on files and suites, and what it says of what it cannot do."""

import json
import shutil
from pathlib import Path

import pytest
from engine_parts import tiny_model
from typer.testing import CliRunner

from minimind.cli import app
from minimind.errors import ConfigError, DataError, MissingError
from minimind.evaluate.alone import examine_alone
from minimind.evaluate.config import EvaluateConfig
from minimind.evaluate.results import METRICS, read_evaluation
from minimind.evaluate.table import ANSWERS_FILE, paired, read_items
from minimind.model.weights import save_model
from minimind.recipe import load_recipe
from minimind.tokens.tokenizer import Tokenizer

CHAT = [{"role": "user", "content": "Who reads?"}, {"role": "assistant", "content": "She reads one page."}]
WRONG = [CHAT[0], {"role": "assistant", "content": "No one."}]
ROWS = {
    "texts": [{"text": "the small boat sails over a quiet river"}, {"text": "今天天气很好，我们去公园散步。"}],
    "chats": [{"conversations": CHAT}, {"conversations": WRONG}],
    "pairs": [{"chosen": CHAT, "rejected": WRONG}, {"chosen": WRONG, "rejected": CHAT}],
    "choices": [
        {"question": "What sails?", "choices": ["a boat", "a stone"], "answer": 0, "subject": "boats"},
        {"question": "谁在窗边睡觉？", "choices": ["小猫", "老师", "水"], "answer": "A", "subject": "cats"},
    ],
    "cloze": [{"context": "She opens her", "choices": ["window", "river"], "answer": 0}],
    "checked_prompts": [{"prompt": "1 + 1?", "checks": [{"kind": "number", "answer": 2}]}],
}
QUICK = EvaluateConfig(prompts=("Who are you?",), answer_tokens=4, resamples=100, precision="fp32")


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A model that nobody knows the origin of."""
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, tiny_model(tokenizer.vocab_size))
    tokenizer.copy_to(directory)
    return directory


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("files")
    for name, rows in ROWS.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (directory / f"my_{name}.jsonl").write_text(lines, encoding="utf-8")
    return {name: str(directory / f"my_{name}.jsonl") for name in ROWS}


def test_files_of_every_kind_are_measured(model_dir: Path, files: dict[str, str], tmp_path: Path):
    """Each has its metrics, every metric an interval that holds it, and the same is on disk item by item."""
    config = QUICK.replace(**{name: (path,) for name, path in files.items()})
    found = examine_alone(model_dir, config)
    result = found.evaluation.models[found.name]
    assert {name: list(task.figures) for name, task in result.tasks.items()} == {
        "my_texts": ["bits_per_byte"],
        "my_chats": ["nats_per_token", "bits_per_byte"],
        "my_pairs": ["accuracy_per_token", "accuracy", "margin_per_token", "margin"],
        "my_choices": ["accuracy", "accuracy_normalised", "accuracy_letters"],
        "my_cloze": ["accuracy", "accuracy_normalised"],
        "my_checked_prompts": ["passed", "repetition", "ended", "tokens"],
    }
    for name, task in result.tasks.items():
        assert task.leaked is None and not task.clean
        for metric, figure in task.figures.items():
            assert figure.n == len(ROWS[name.removeprefix("my_")]) and metric in METRICS
            assert figure.interval.low - 1e-9 <= figure.value <= figure.interval.high + 1e-9
    assert result.tasks["my_pairs"].figures["accuracy"].value == 0.5, "a pair and its mirror image"
    assert found.evaluation.tasks["my_choices"].chance["accuracy"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert set(result.tasks["my_choices"].groups["subject"]) == {"boats", "cats"}
    assert result.unchecked == ["it is no artifact of this store, so nobody knows what it was trained on"]
    found.write(tmp_path / "out")
    assert read_evaluation(tmp_path / "out") == found.evaluation
    items = read_items(tmp_path / "out", model=found.name, task="my_texts", metric="bits_per_byte")
    assert sum(bits for bits, _ in items.values()) / sum(size for _, size in items.values()) == pytest.approx(
        result.tasks["my_texts"].figures["bits_per_byte"].value
    )
    after, before = paired(items, items) or pytest.fail("the same items")
    assert after.mean == before.mean
    answer = json.loads((tmp_path / "out" / ANSWERS_FILE).read_text(encoding="utf-8"))
    assert answer["prompt"] == "1 + 1?" and answer["failures"]


def test_a_suite_by_name_and_nothing_else(model_dir: Path):
    """What is asked for is measured, and no more."""
    found = examine_alone(model_dir, QUICK, ["arithmetic"])
    assert list(found.evaluation.tasks) == ["arithmetic"] and found.evaluation.baselines is None
    assert found.evaluation.models[found.name].tasks["arithmetic"].figures["passed"].n == 100


def test_what_cannot_be_measured_is_an_error_with_its_remedy(model_dir: Path, files: dict[str, str], tmp_path: Path):
    """Names, files and rows: each with what to do, before anything was computed."""
    with pytest.raises(ConfigError, match="no suite `mmul` — did you mean `mmlu`|no suite `mmul`.*mmlu"):
        examine_alone(model_dir, QUICK, ["mmul"])
    with pytest.raises(ConfigError, match="no held-out rows for text.*--text"):
        examine_alone(model_dir, QUICK, ["text"])
    with pytest.raises(MissingError, match="no file .*exam.jsonl; sets by name: .*hellaswag"):
        examine_alone(model_dir, QUICK.replace(choices=("exam.jsonl",)))
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"text": "good"}) + '\n{"text": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match="bad.jsonl:2: "):
        examine_alone(model_dir, QUICK.replace(texts=(str(bad),)))
    again = tmp_path / "elsewhere" / Path(files["texts"]).name
    again.parent.mkdir()
    shutil.copy(files["texts"], again)
    with pytest.raises(ConfigError, match="two tasks are called my_texts"):
        examine_alone(model_dir, QUICK.replace(texts=(files["texts"], str(again))))


def test_the_command_prints_a_table_and_json(model_dir: Path, files: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """For people: value, interval, n and chance. For programs: the same as evaluation.json."""
    monkeypatch.setenv("COLUMNS", "160")
    arguments = ["eval", str(model_dir), "--choices", files["choices"], "--text", files["texts"], "--precision", "fp32"]
    shown = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert shown.exit_code == 0
    for words in ("my_choices", "accuracy by letter", "41.7%", "bits per byte", "8.000", "not looked for in training"):
        assert words in shown.output
    printed = CliRunner().invoke(app, [*arguments, "--json", "--limit", "1"], catch_exceptions=False)
    assert json.loads(printed.output)["tasks"]["my_texts"]["items"] == 1


def test_files_of_a_recipe_lie_beside_it_and_those_of_an_override_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A recipe must mean the same from wherever it is run."""
    recipe = tmp_path / "mine" / "small.toml"
    recipe.parent.mkdir()
    recipe.write_text(
        '[model]\npreset = "minimind-nano"\n[pretrain]\ntokens = 1000\nlength = 8\nbatch_tokens = 64\n'
        '[evaluate]\nchoices = ["exam.jsonl", "mmlu"]\n'
    )
    monkeypatch.chdir(tmp_path)
    assert load_recipe(str(recipe)).evaluate.choices == (str(tmp_path / "mine" / "exam.jsonl"), "mmlu")
    changed = load_recipe(str(recipe), overrides=['evaluate.choices=["exam.jsonl"]'])
    assert changed.evaluate.choices == (str(tmp_path / "exam.jsonl"),)
    with pytest.raises(ConfigError, match="question"):
        load_recipe(str(recipe), overrides=['evaluate.wordings=["What?"]'])
