"""The card of a model with a lineage: the report's figures and warnings, data and licences, foreign names escaped."""

import shutil
from pathlib import Path

import pytest
from export_parts import DENSE, model_directory, sealed_model

from minimind import runtime
from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import Config
from minimind.export.exporting import export_model
from minimind.export.settings import ExportConfig
from minimind.stage import Stage, build
from minimind.tokens.tokenizer import Tokenizer

HF = ExportConfig(to=("hf",))


def card_of(artifact: Artifact, out: Path) -> str:
    export_model(artifact.dir, out, config=HF)
    return (out / "README.md").read_text(encoding="utf-8")


def test_a_report_of_another_version_costs_the_figures_and_not_the_export(
    tokenizer_artifact: Artifact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Cards outlive versions; the model is the same."""
    home = Store(tmp_path / "home")
    model = sealed_model(DENSE, tokenizer_artifact, home)
    build(Stage("publish", old_report, inputs=("pretrain",)), Config(), {"pretrain": model}, store=home)
    assert "Of the training itself" in card_of(model, tmp_path / "out")
    assert "the model card does without its figures" in caplog.text


def test_an_artifact_outside_a_store_is_exported_with_what_its_manifest_knows(
    tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Copied to another machine it still knows its fingerprint and parents, and no lineage."""
    model = sealed_model(DENSE, tokenizer_artifact, Store(tmp_path / "home"))
    copy = Artifact(shutil.copytree(model.dir, tmp_path / "copy"), model.manifest)
    shutil.rmtree(tmp_path / "home")
    card = card_of(copy, tmp_path / "out")
    assert model.fingerprint in card and tokenizer_artifact.fingerprint in card


def old_report(_: Config, __: Inputs, out_dir: Path) -> Summary:
    (out_dir / "report.json").write_text("{}")
    return Summary()


class IngestSettings(Config):
    """Sources as an ingest stage's manifest has them."""

    sources: list[dict[str, str | None]]


def ingest(_: IngestSettings, __: Inputs, ___: Path) -> Summary:
    return Summary()


def from_data(_: Config, inputs: Inputs, out_dir: Path) -> Summary:
    model_directory(out_dir, DENSE, Tokenizer.load(inputs["tokenizer"].dir))
    return Summary()


def test_data_and_licences_are_told_as_far_as_the_lineage_knows_them(
    tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Python's documentation and our samples are known; a hub's data set has a card; a user's file is not recorded."""
    samples = runtime.CHECKOUT / "data_specs" / "samples" / "chat.jsonl"
    sources: list[dict[str, str | None]] = [
        {"name": "docs", "rows": "pretrain", "kind": "pydocs", "packages": "stdlib"},
        {"name": "ours", "rows": "pretrain", "kind": "jsonl"},
        {"name": "hub | <b>", "rows": "pretrain", "kind": "hub", "dataset": "some/set", "revision": "main"},
        {"name": "mine", "rows": "pretrain", "kind": "jsonl"},
    ]
    digests = {"ours/chat.jsonl": runtime.file_sha256(samples), "mine/chat.jsonl": "0" * 64}
    home = Store(tmp_path / "home")
    read, _ = build(Stage("ingest", ingest, sources=lambda _: digests), IngestSettings(sources=sources), {}, store=home)
    inputs = {"tokens": read, "tokenizer": tokenizer_artifact}
    model, _ = build(Stage("pretrain", from_data, inputs=("tokens", "tokenizer")), Config(), inputs, store=home)
    card = card_of(model, tmp_path / "out")
    rows = [line for line in card.splitlines() if line.endswith(" |") and "| pretrain |" in line]
    assert len(rows) == 4
    assert "Python Software Foundation License" in rows[0]
    assert "CC0-1.0" in rows[1]
    assert "some/set" in rows[2] and "see the data set's own card" in rows[2] and "<b>" not in rows[2]
    assert "not recorded" in rows[3] and "CC0" not in rows[3]
