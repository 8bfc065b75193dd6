"""`minimind export` and `minimind import` as they are typed: files, tables, JSON, and one line for a mistake."""

import json
from pathlib import Path

import pytest
import torch
import typer
from export_parts import DENSE, lively, model_directory
from typer.testing import CliRunner, Result

from minimind.cli.export import export, import_
from minimind.errors import ConfigError, DataError, MiniMindError, MissingError
from minimind.tokens.tokenizer import Tokenizer

app = typer.Typer()
app.command()(export)
app.command("import")(import_)


@pytest.fixture
def model(tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return model_directory(tmp_path / "model", DENSE, tokenizer)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_a_model_goes_out_verified_and_comes_back(model: Path, tmp_path: Path) -> None:
    """The two commands on one page of docs/export.md."""
    done = run("export", model, "--to", "hf,gguf", "--dtype", "fp32", "--gguf-type", "f32", "--verify")
    assert done.exit_code == 0, done.output
    assert "model.safetensors" in done.output and "hf fp32" in done.output and "9 of 9" in done.output
    out = tmp_path / "exports" / "model"
    assert (out / "model-f32.gguf").is_file()
    back = run("import", out, "--json")
    directory = Path(json.loads(back.output)["directory"])
    assert (directory / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "minimind chat" in run("import", out).output


def test_json_has_what_the_record_has(model: Path, tmp_path: Path) -> None:
    """Programs read the place, the files and the figures of the verification."""
    done = run("export", model, "--to", "hf", "--out", tmp_path / "x", "--json", "--verify")
    found = json.loads(done.output[done.output.index("{") :])
    assert found["folder"] == str(tmp_path / "x")
    assert {entry["path"] for entry in found["files"]} >= {"config.json", "README.md", "tokenizer.json"}
    assert found["checks"][0]["format"] == "hf" and found["checks"][0]["difference"] < 1e-3


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ["export", "model", "--to", "onnx"],
            ConfigError,
            "onnx is no format; give one or several of hf, gguf, adapter",
        ),
        (["export", "model", "--to", ","], ConfigError, "nothing is no format"),
        (["export", "nowhere"], MissingError, "no model `nowhere`"),
        (["export", "model", "--to", "adapter"], MissingError, "the stage lora"),
        (["export", "model", "--to", "hf", "--out", "model"], ConfigError, "is there already"),
        (["export", "model", "--to", "hf", "--out", "model", "--force"], ConfigError, "is no export"),
        (
            ["export", "model", "--to", "hf", "--out", "model/config.json/x"],
            ConfigError,
            "cannot be made (",
        ),
        (["import", "nowhere"], MissingError, "no such file or folder"),
        (["import", "model"], ConfigError, "is a model directory of ours"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    arguments: list[str], error: type[MiniMindError], message: str, model: Path
) -> None:
    """The command line makes one line of these errors."""
    failed = run(*arguments)
    assert isinstance(failed.exception, error), failed.output
    assert message in str(failed.exception) and "\n" not in str(failed.exception)
    assert failed.exception.exit_code == 2


def test_a_state_dict_takes_its_tokenizer_and_shape_by_option(model: Path, tmp_path: Path) -> None:
    """Upstream's .pth lies beside nothing."""
    (tmp_path / "pth").mkdir()
    path = tmp_path / "pth" / "model.pth"
    torch.save({name: tensor.half() for name, tensor in lively(DENSE).state_dict().items()}, path)
    assert isinstance(run("import", path).exception, MissingError)
    assert isinstance(run("import", path, "--tokenizer", model, "--preset", "minimind-3").exception, DataError)
    taken = run("import", path, "--tokenizer", model)
    assert taken.exit_code == 0 and "assumed" in taken.output and "float16" in taken.output
