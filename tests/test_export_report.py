"""The card of a model that a report card measured: its own figures, with what they were measured on."""

from pathlib import Path

import pytest
from test_export_card import card_of
from test_report import artifacts, evaluation, published, report, store  # noqa: F401  fixtures

from minimind.artifact import Artifact
from minimind.evaluate.card.card import Report
from minimind.export.source import open_source


@pytest.mark.slow
def test_figures_are_the_report_cards_and_say_on_what_they_were_measured(
    published: Artifact,  # noqa: F811
    report: Report,  # noqa: F811
    tmp_path: Path,
) -> None:
    """A number without its text and its baseline says nothing."""
    card = card_of(published, tmp_path / "out")
    bits, pairs = (report.evaluation.models[report.published].tasks[name] for name in ("text", "preference"))
    row = next(line for line in card.splitlines() if line.startswith("| text | bits per byte |"))
    assert f"| {bits.figures['bits_per_byte'].value:.3f} |" in row and f"| {bits.n} |" in row
    ngram = report.evaluation.tasks["text"].ngram["bits_per_byte"].value
    assert f"a byte 6-gram: {ngram:.3f}" in row
    row = next(line for line in card.splitlines() if line.startswith("| preference | accuracy per token |"))
    assert f"| {pairs.n} |" in row and "chance: 50.0 %" in row
    assert "Of the training itself" not in card
    assert published.fingerprint in card
    assert all(fingerprint in card for fingerprint in published.manifest.parents.values())
    assert all(command in card for command in report.commands)


@pytest.mark.slow
def test_a_model_that_a_report_measured_has_its_own_figures(
    artifacts: dict[str, Artifact],  # noqa: F811
    published: Artifact,  # noqa: F811
    report: Report,  # noqa: F811
    tmp_path: Path,
) -> None:
    """The sft model beside the published one: not the published one's figures."""
    other = next(name for name in report.evaluation.models if name != report.published)
    source = open_source(artifacts[other].dir)
    assert source.report is not None and source.result == report.evaluation.models[other]
    assert source.result.bits_per_byte is not None
    assert f"{source.result.bits_per_byte.value:.3f} |" in card_of(artifacts[other], tmp_path / "out")
