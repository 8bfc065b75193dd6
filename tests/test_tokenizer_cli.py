"""`minimind tokenizer …`: the stored report, other sizes beside it, a text in pieces."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from minimind.artifact import Artifact, Store
from minimind.cli import app
from minimind.errors import ConfigError, MissingError
from minimind.tokens.tokenizer import Tokenizer


def run(*arguments: str) -> str:
    """What a command prints; its errors are raised."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return done.output


def test_a_text_is_shown_in_pieces(tokenizer_artifact: Artifact) -> None:
    """The pieces together are the text, blanks and line feeds made visible; the ids are those of the tokenizer."""
    text = "def f(x):\n    return 1984 中 <|im_end|>"
    shown = json.loads(run("tokenizer", "encode", text, "-t", str(tokenizer_artifact.dir), "--json"))
    tokenizer = Tokenizer.load(tokenizer_artifact.dir)
    assert shown["ids"] == tokenizer.encode(text)
    assert shown["bytes"] == len(text.encode())
    whole = "".join(shown["pieces"])
    assert whole.replace("␣", " ").replace("⏎", "\n").startswith("def f(x):\n    return 1984 ")
    printed = run("tokenizer", "encode", text, "-t", str(tokenizer_artifact.dir))
    assert f"{len(shown['ids'])} tokens, {len(text.encode())} bytes" in printed
    as_file = str(tokenizer_artifact.dir / "tokenizer.json")
    assert json.loads(run("tokenizer", "encode", text, "-t", as_file, "--json"))["ids"] == shown["ids"]


def test_the_report_of_the_newest_tokenizer_is_printed(
    tokenizer_artifact: Artifact, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a name it is the last one that was made."""
    monkeypatch.setenv("MINIMIND_HOME", str(store.root.parent))
    figures = json.loads(run("tokenizer", "report", str(tokenizer_artifact.dir), "--json"))
    assert figures["round_trip_failures"] == 0
    assert figures["splits"]["val"]["total"]["documents"] > 0
    printed = run("tokenizer", "report")
    assert "bytes per token" in printed
    assert "report.html" in printed


def test_a_sweep_writes_a_report_with_other_sizes(tokenizer_artifact: Artifact, tmp_path: Path) -> None:
    """Sizes learnt from the tokenizer's own corpus, upstream's settings, and what they cost the recipe's model."""
    out = tmp_path / "sizes"
    arguments = ("tokenizer", "report", str(tokenizer_artifact.dir), "--sweep", "450,600", "--out", str(out))
    lines = json.loads(run(*arguments, "--json"))["sweep"]
    assert [line["name"] for line in lines] == ["450", "600", "byte-level BPE 6,400"]
    assert lines[0]["bytes_per_token"]["all"] < lines[1]["bytes_per_token"]["all"]
    assert lines[1]["embedding_parameters"] == 600 * 256  # the width of the quickstart's model
    assert lines[1]["logits_flops_per_token"] == 2 * 600 * 256
    assert "Other vocabularies" in (out / "report.html").read_text()
    assert json.loads((out / "report.json").read_text())["sweep"] == lines


def test_mistakes_say_what_to_do(tokenizer_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    with pytest.raises(MissingError, match="minimind run tokenizer"):
        run("tokenizer", "report")
    with pytest.raises(ConfigError, match="--sweep many: write sizes"):
        run("tokenizer", "report", str(tokenizer_artifact.dir), "--sweep", "many")
    with pytest.raises(MissingError, match="no artifact here"):
        run("tokenizer", "report", str(tmp_path))
    assert isinstance(typer.main.get_command(app).commands["tokenizer"], typer.core.TyperGroup)
