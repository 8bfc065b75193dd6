"""The microscope shows what the batch holds, all of it and nothing else; as text, as a page, on the command line."""

import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import Tracked
from history_parts import seal_training
from rich.console import Console
from typer.testing import CliRunner

from minimind.artifact import Artifact, Store, open_artifact
from minimind.cli import app
from minimind.cli.inspect_views import Batching, view_of
from minimind.data.documents import RowKind
from minimind.errors import ConfigError
from minimind.tokens.batches import PairBatches, RowBatches
from minimind.tokens.layout import IGNORE, Batch
from minimind.tokens.microscope import RowView, Slide, View, view_document, view_item, view_step
from minimind.tokens.microscope_page import first_steps_page, page_of
from minimind.tokens.microscope_text import print_view
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.train.config import TrainConfig
from minimind.train.history import training_of, training_to_come
from minimind.train.stage_configs import DpoConfig, SftConfig
from minimind.train.stages import SFT
from tasks.display import Display
from tasks.recording import FIRST_STEPS_FILE, Recording

LENGTHS: dict[RowKind, int] = {"pretrain": 64, "chat": 512, "preference": 512}


def batches_of(artifact: Artifact, kind: RowKind, seed: int = 3) -> RowBatches | PairBatches:
    tokens = TokenSet.open(artifact.dir / "train")
    if kind == "preference":
        return PairBatches(tokens, batch_pairs=4, max_length=LENGTHS[kind], seed=seed)
    return RowBatches(tokens, row_length=LENGTHS[kind], batch_rows=6, seed=seed)


def check_row(view: RowView, batch: Batch) -> None:
    """The tokens, labels, documents and positions of a row of a view are those of the batch."""
    real = batch.documents_BT[view.row] >= 0
    shown = [token for segment in view.segments for token in segment.tokens]
    assert [token.id for token in shown] == batch.tokens_BT[view.row][real].tolist()
    assert view.padding == int((~real).sum())
    assert view.num_trained == int((batch.labels_BT[view.row] != IGNORE).sum())
    for segment in view.segments:
        at = slice(segment.column, segment.column + len(segment.tokens))
        assert len(set(batch.documents_BT[view.row, at].tolist())) == 1
        assert batch.positions_BT[view.row, at].tolist() == list(range(len(segment.tokens)))
        labels = batch.labels_BT[view.row, at].tolist()
        told = [token.id if token.trained else IGNORE for token in segment.tokens[1:]]
        assert labels == [*told, segment.then.id if segment.then else IGNORE]


@pytest.mark.parametrize("kind", LENGTHS)
def test_a_step_shows_the_batch_to_the_token(token_artifacts: dict[RowKind, Artifact], kind: RowKind) -> None:
    """What is looked at must be what is trained on, or looking is worse than not looking."""
    artifact = token_artifacts[kind]
    slide, batches = Slide.of(artifact, "train"), batches_of(artifact, kind)
    for step in (1, 2, 7):
        batch = batches.batch(step - 1)
        view = view_step([slide], batches, step, max_rows=len(batch))
        assert sorted(row.row for row in view.rows) == list(range(len(batch)))
        for row in view.rows:
            check_row(row, batch)
    assert view_step([slide], batches, 1, max_rows=2).rows_left_out == len(batches.batch(0)) - 2


@pytest.mark.parametrize("kind", LENGTHS)
def test_the_tokens_of_a_segment_are_its_documents(token_artifacts: dict[RowKind, Artifact], kind: RowKind) -> None:
    artifact = token_artifacts[kind]
    slide, batches = Slide.of(artifact, "train"), batches_of(artifact, kind)
    for row in view_step([slide], batches, 1, max_rows=99).rows:
        for segment in row.segments:
            ids = slide.tokens.document(segment.document)[segment.start :][: len(segment.tokens)]
            assert [token.id for token in segment.tokens] == ids.tolist()
            origin = slide.origins([segment.document])[segment.document]
            assert (segment.source, segment.row_id) == (f"{origin.source}:{origin.line}", origin.id)


def test_a_document_whole_has_the_labels_of_its_file(token_artifacts: dict[RowKind, Artifact]) -> None:
    slide = Slide.of(token_artifacts["chat"], "val")
    (row,) = view_document(slide, 2, facts={}).rows
    start, stop = slide.tokens.offsets[2:4]
    assert slide.tokens.trained is not None
    trained = [token.trained for segment in row.segments for token in segment.tokens]
    assert trained == slide.tokens.trained[start:stop].astype(bool).tolist()
    assert row.of == "document"


def test_a_pair_stands_together(token_artifacts: dict[RowKind, Artifact]) -> None:
    artifact = token_artifacts["preference"]
    view = view_item(Slide.of(artifact, "train"), batches_of(artifact, "preference"), 5, facts={})
    assert [(row.side, row.item, row.segments[0].document) for row in view.rows] == [
        ("chosen", 5, 10),
        ("rejected", 5, 11),
    ]


def test_bytes_are_shown_and_the_character_they_make(
    token_artifacts: dict[RowKind, Artifact], tokenizer: Tokenizer
) -> None:
    """A rare character is several tokens; without it nobody can read them."""
    slide = Slide.of(token_artifacts["chat"], "train")
    ids = np.array(tokenizer.encode("a鼹b"))
    batch = Batch(*(np.zeros((1, len(ids)), np.int64) for _ in range(4)), np.zeros(1, np.int64))
    batch.tokens_BT[0] = ids
    from minimind.tokens.microscope import _tokens

    shown = [token.text for token in _tokens(slide.tokenizer, batch, 0)[0]]
    assert shown == ["a", "‹E9›", "‹BC›", "‹B9›鼹", "b"]


@pytest.fixture(scope="module")
def sft(store: Store, token_artifacts: dict[RowKind, Artifact]) -> Artifact:
    config = SftConfig(epochs=2, length=512, batch_tokens=2048, seed=11, warmup_steps=0)
    return seal_training(store, "sft", config, {"tokens": token_artifacts["chat"]})


def view(artifact: Artifact, **asked: Any) -> View:
    wanted = {name: asked.pop(name, None) for name in ("step", "row", "document")}
    return view_of(artifact, Batching(**asked), **wanted, rows=99)[0]


def test_a_models_steps_need_no_settings(sft: Artifact, token_artifacts: dict[RowKind, Artifact]) -> None:
    """Length, batch size, seed and token set stand in its manifest."""
    tokens = TokenSet.open(token_artifacts["chat"].dir / "train")
    batch = RowBatches(tokens, row_length=512, batch_rows=4, seed=11).batch(1)
    shown = view(sft, step=2)
    assert len(shown.rows) == 4
    for row in shown.rows:
        check_row(row, batch)
    assert shown.facts["seed"] == "11"
    with pytest.raises(ConfigError, match="steps 1 to"):
        view(sft, step=10_000)
    with pytest.raises(ConfigError, match="tokens-chat"):
        view(sft, step=1, length=128)


def test_a_token_set_takes_the_settings_of_its_newest_training_or_those_given(
    sft: Artifact, token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    tokens, pairs = token_artifacts["chat"], token_artifacts["preference"]
    assert view(tokens, step=2).rows == view(sft, step=2).rows
    assert view(tokens, step=2, seed=12).rows != view(sft, step=2).rows
    recipe = view(tokens, step=1, recipe="quickstart", stage="sft", length=512)
    assert recipe.facts["batch"] == "8 rows"
    with pytest.raises(ConfigError, match="did you mean `sft`"):
        view(tokens, step=1, recipe="quickstart", stage="sftt")
    for one in (pairs, tokenizer_artifact):
        shutil.copytree(one.dir, Store(tmp_path).path(one.kind, one.fingerprint))
    untrained = open_artifact(Store(tmp_path).path(pairs.kind, pairs.fingerprint))
    with pytest.raises(ConfigError, match="give --length"):
        view(untrained, step=1)
    with pytest.raises(ConfigError, match="one of"):
        view(tokens, step=1, row=1)


def test_a_mixed_and_augmented_training_is_shown_as_it_is(
    store: Store, token_artifacts: dict[RowKind, Artifact]
) -> None:
    """Rows of another token set, a system prompt and an empty think that stand in no file."""
    config = SftConfig(
        epochs=1,
        length=512,
        batch_tokens=8192,
        mix={"pretrain": 0.4},
        system_prompts=("Be kind.",),
        system_share=0.9,
        empty_think_share=0.9,
    )
    inputs = {"tokens": token_artifacts["chat"], "tokens_pretrain": token_artifacts["pretrain"]}
    training = training_of(seal_training(store, "sft", config, inputs))
    slides = [Slide.of(artifact, "train") for artifact in training.token_sets]
    batches = training.open()
    shown = view_step(slides, batches, 1, max_rows=99)
    batch = batches.batch(0)
    segments = [segment for row in shown.rows for segment in row.segments]
    assert {segment.token_set for segment in segments} == {0, 1}
    put_in = ["".join(token.text for token in segment.tokens) for segment in segments if segment.document < 0]
    assert any("Be kind." in text for text in put_in) and any("</think>" in text for text in put_in)
    for row in shown.rows:
        ids = [token.id for segment in row.segments for token in segment.tokens]
        assert ids == batch.tokens_BT[row.row][batch.documents_BT[row.row] >= 0].tolist()
        assert row.num_trained == int((batch.labels_BT[row.row] != IGNORE).sum())
    with pytest.raises(ConfigError, match="mixes or augments"):
        view_item(slides[0], batches, 0, facts={})


def plain(shown: View, **options: Any) -> str:
    console = Console(record=True, width=200, color_system=None, file=io.StringIO())
    print_view(shown, console, **options)
    return console.export_text()


def test_the_terminal_marks_what_is_trained_where_there_is_no_colour(
    token_artifacts: dict[RowKind, Artifact],
) -> None:
    text = plain(view_document(Slide.of(token_artifacts["chat"], "train"), 1, facts={}))
    assert "positions 0–" in text and "given:" in text
    trained = text.split("«")[1].split("»")[0]
    assert trained.endswith("<|im_end|>|") and "<|im_start|>" not in trained
    assert "⟨2⟩" in plain(view_document(Slide.of(token_artifacts["chat"], "train"), 1, facts={}), ids=True)


def test_the_page_is_self_contained_and_escapes_texts(token_artifacts: dict[RowKind, Artifact], sft: Artifact) -> None:
    """It is logged with every training and opened from there; its texts are other people's."""
    shown = view(sft, step=1)
    shown.rows[0].segments[0].tokens[0] = shown.rows[0].segments[0].tokens[0].replace(text="<script>alert(1)</script>")
    page = page_of([shown], title="<b>", facts={"a": "<i>"})
    assert "<script" not in page and "&lt;script&gt;" in page and "&lt;b&gt;" in page
    assert "prefers-color-scheme: dark" in page and "default-src 'none'" in page
    assert not [word for word in ("http://", "https://", "src=", "@import") if word in page]


def test_the_page_of_first_steps_shows_the_first_steps(sft: Artifact, token_artifacts: dict[RowKind, Artifact]) -> None:
    """The same before the training and after it."""
    config = SftConfig(epochs=2, length=512, batch_tokens=2048, seed=11, warmup_steps=0)
    coming = training_to_come("sft", config, {"tokens": token_artifacts["chat"]}, sft.fingerprint)
    page = first_steps_page(coming)
    assert page == first_steps_page(training_of(sft))
    assert [f"<h2>step {number}</h2>" in page for number in (1, 2, 3, 4)] == [True, True, True, False]


def test_a_manifest_says_what_the_settings_say(store: Store, token_artifacts: dict[RowKind, Artifact]) -> None:
    """Pairs are counted as the trainer counts them."""
    config: TrainConfig = DpoConfig(epochs=1, length=256, batch_tokens=2048, warmup_steps=0)
    training = training_of(seal_training(store, "dpo", config, {"tokens": token_artifacts["preference"]}))
    assert (training.batch_items, training.length) == (4, 256)
    assert training.changed_code == ()


def test_code_that_chooses_rows_and_changed_since_is_named(sft: Artifact) -> None:
    """Steps of another version would be told wrongly, and nobody would know."""
    code = {**sft.manifest.parts.code, "minimind.tokens.batches": "0" * 16}
    parts = sft.manifest.parts.replace(code=code)
    old = Artifact(sft.dir, sft.manifest.replace(parts=parts))
    assert training_of(old).changed_code == ("minimind.tokens.batches",)


def test_the_command_prints_a_page_or_json(
    sft: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    monkeypatch.setenv("MINIMIND_HOME", str(store.root.parent))
    run = CliRunner()
    done = run.invoke(app, ["data", "show", str(sft.dir), "--step", "1", "--rows", "1"])
    assert done.exit_code == 0 and "«" in done.output
    done = run.invoke(app, ["data", "show", "tokens-chat", "--row", "0", "--length", "512", "--json"])
    assert json.loads(done.output)["rows"][0]["segments"]
    page = tmp_path / "step.html"
    assert run.invoke(app, ["data", "show", str(sft.dir), "--html", str(page)]).exit_code == 0
    assert "<h2>step 1</h2>" in page.read_text(encoding="utf-8")
    assert isinstance(run.invoke(app, ["data", "show", "tokens-chatt"]).exception, OSError)


def test_a_training_logs_the_page_before_its_first_step(
    sft: Artifact, token_artifacts: dict[RowKind, Artifact], store: Store, tmp_path: Path, tracked: Tracked
) -> None:
    """Who looks at a run sees what it learns from while there is time to stop it. Real MLflow on a file."""
    tracker = tracked(tmp_path / "home")
    pipeline: Any = SimpleNamespace(tracker=tracker, run_id=None, display=Display(Console(quiet=True)), store=store)
    config = SftConfig(epochs=1, length=512, batch_tokens=2048)
    context: dict[str, str] = {}
    inputs = {"tokens": token_artifacts["chat"], "model": sft}
    recording = Recording(pipeline, "sft", SFT, context, config=config, inputs=inputs)
    (tmp_path / "scratch").mkdir()
    with recording.following():
        recording.start(tmp_path / "scratch")
    run_id = context["mlflow_run_id"]
    assert FIRST_STEPS_FILE in [file.path for file in tracker.client.list_artifacts(run_id)]
    page = Path(tracker.client.download_artifacts(run_id, FIRST_STEPS_FILE, str(tmp_path))).read_text(encoding="utf-8")
    assert "<h2>step 1</h2>" in page and "given:" in page
    tracker.end(run_id, "FINISHED")
