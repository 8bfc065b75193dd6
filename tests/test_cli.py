"""The command line: help for everything, one line for a user's mistake, exit codes that tell."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Command
from typer.main import get_command
from typer.testing import CliRunner

from minimind.artifact import Artifact
from minimind.cli import app
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.tokenizer import Tokenizer

COMMANDS = sorted(
    f"{name} {inner}".strip()
    for name, command in get_command(app).commands.items()
    for inner in getattr(command, "commands", [""])
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where every command of a test finds its artifacts."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    directory = tmp_path_factory.mktemp("model")
    config = ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=1, num_heads=2, max_positions=256)
    save_model(directory, Transformer(config, seed=0))
    tokenizer.copy_to(directory)
    return directory


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str):
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0
    assert f"minimind {command}" in result.output or command == "up"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-r", "quickstrat"], "did you mean `quickstart`"),
        (["run", "pretrian"], "did you mean `pretrain`"),
        (["run", "-o", "pretrain.lrr=1"], "did you mean `lr`"),
        (["run", "-o", "pretrain"], "write it as section.key=value"),
        (["run", "-d", "nowhere.toml"], "nowhere.toml"),
        (["run", "sft", "-p", "kind=chat"], "takes no `kind`"),
        (["run", "tokenizer", "--data", "pydocs"], "`minimind run shard --data …` makes its corpus the newest"),
        (["run", "ingest", "-p", "kind=talk"], "kind"),
        (["run", "clean", "-p", "kind"], "write it as name=value"),
        (["sweep", "sft", "-o", "sft.lr=1e-4"], "nothing to compare"),
        (["sweep", "tokens", "-o", "sft.lr=1,2"], "a training can, or full-pipeline"),
        (["chat", "dppo"], "did you mean `dpo`"),
        (["chat", "dpo"], "not in the registry"),
        (["chat", "--top-p", "7"], "top_p"),
        (["report"], "no report card yet"),
        (["node", "--rank", "0"], "node 0 is the one that runs the pipeline"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(minimind: Command, arguments: list[str], message: str):
    code, out, error = minimind(*arguments)
    assert code == 2, out + error
    assert message in error
    assert "Traceback" not in out + error


def test_an_exit_code_leaves_the_process():
    """The real command in a process of its own."""
    command = [sys.executable, "-m", "minimind.cli", "run", "-r", "quickstrat"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and "did you mean `quickstart`" in done.stderr


def test_plan_tells_of_every_stage_and_starts_nothing(home: Path, minimind: Command):
    _, out, _ = minimind("plan", "--json")
    steps = json.loads(out)
    assert [step["stage"] for step in steps][-1] == "publish"
    assert {step["reuse"] for step in steps} == {False}
    assert not (home / "artifacts").exists()


def test_generate_answers_and_the_same_seed_gives_the_same_text(model_dir: Path, minimind: Command):
    arguments = ("generate", "Hello", "-m", str(model_dir), "--seed", "3", "--max-tokens", "8", "--json")
    first, second = (json.loads(minimind(*arguments)[1]) for _ in range(2))
    assert first == second
    assert set(first) == {"text", "tokens", "finish_reason"}


def test_chat_can_be_piped(model_dir: Path, minimind: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hello\n/exit\n")))
    code, out, error = minimind("chat", str(model_dir), "--max-tokens", "4", "--seed", "1")
    assert code == 0, error
    assert out.strip()


def test_fsck_names_the_damaged_file_and_exits_with_1(
    tokenizer_artifact: Artifact, minimind: Command, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MINIMIND_HOME", str(tokenizer_artifact.dir.parents[2]))
    assert minimind("fsck")[0] == 0
    path = tokenizer_artifact.dir / "report.json"
    before = path.read_bytes()
    try:
        path.write_bytes(before.replace(b"{", b"[", 1))
        code, out, _ = minimind("fsck")
        assert code == 1
        assert "report.json" in out
    finally:
        path.write_bytes(before)
