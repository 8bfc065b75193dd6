"""An export is one folder, there whole or not at all, with a card that says what is known and a record of its bytes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from export_parts import DENSE, NARROW, SHAPES, model_directory, sealed_adapter, sealed_model
from safetensors.torch import load_file

from minimind.artifact import Artifact, Store
from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.export import exporting
from minimind.export.exporting import Record, export_model
from minimind.export.folder import RECORD_FILE, whole_folder
from minimind.export.settings import ExportConfig
from minimind.runtime import file_sha256
from minimind.tokens.tokenizer import Tokenizer

BOTH = ExportConfig(to=("hf", "gguf"), dtype="fp32", gguf_type="f32")


@pytest.fixture(scope="module")
def sealed(tokenizer_artifact: Artifact, store: Store) -> Artifact:
    return sealed_model(DENSE, tokenizer_artifact, store)


def test_the_record_has_the_checksum_of_every_file_and_where_it_comes_from(sealed: Artifact, tmp_path: Path) -> None:
    """Years later somebody asks whether this file is the one, and of which model."""
    record = export_model(sealed.dir, tmp_path / "out", config=BOTH)
    stored = Record.read_json(tmp_path / "out" / RECORD_FILE, remedy="export again")
    assert stored == record
    on_disk = {path.name for path in (tmp_path / "out").iterdir()} - {RECORD_FILE}
    assert {entry.path for entry in record.files} == on_disk
    assert all(entry.sha256 == file_sha256(tmp_path / "out" / entry.path) for entry in record.files)
    assert record.fingerprint == sealed.fingerprint and record.parents == sealed.manifest.parents
    assert f"pretrain-{sealed.fingerprint[:8]}-f32.gguf" in on_disk


def test_the_same_export_twice_has_the_same_payload(sealed: Artifact, tmp_path: Path) -> None:
    """Checksums can be compared between machines."""
    first, second = (export_model(sealed.dir, tmp_path / name, config=BOTH).files for name in ("a", "b"))
    assert first == second


def test_a_failure_half_way_leaves_nothing(sealed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with weights and no tokenizer looks like an export."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(exporting, "write_gguf", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        export_model(sealed.dir, tmp_path / "out", config=BOTH)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_kill_leaves_nothing_at_the_target_and_the_next_export_tidies_up(tmp_path: Path) -> None:
    """SIGKILL cannot be caught; what it leaves must not look like an export, nor stay for ever."""
    script = (
        "import time; from pathlib import Path; from minimind.export.folder import whole_folder\n"
        f"with whole_folder(Path({str(tmp_path / 'out')!r}), force=False) as folder:\n"
        "    (folder / 'model.safetensors').write_bytes(b'half'); print('written', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.*.scratch"))
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and list(tmp_path.glob(".out.*.scratch")):
        with whole_folder(tmp_path / "out", force=True) as folder:
            (folder / RECORD_FILE).write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path: Path) -> None:
    """The old export is aside and the new one is gone with its process: the old one counts."""
    aside = tmp_path / ".out.replaced"
    aside.mkdir()
    (aside / RECORD_FILE).write_text('"old"')
    with pytest.raises(ConfigError, match="--force"), whole_folder(tmp_path / "out", force=False):
        pass
    assert (tmp_path / "out" / RECORD_FILE).read_text() == '"old"'
    assert not aside.exists()


def test_what_is_there_is_replaced_only_when_asked_and_only_an_export(sealed: Artifact, tmp_path: Path) -> None:
    """`--out ~ --force` must not remove a home directory."""
    out = tmp_path / "out"
    config = ExportConfig(to=("hf",))
    export_model(sealed.dir, out, config=config)
    with pytest.raises(ConfigError, match="is there already.*--force"):
        export_model(sealed.dir, out, config=config)
    export_model(sealed.dir, out, config=BOTH, force=True)
    assert list(out.glob("*.gguf"))
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").touch()
    with pytest.raises(ConfigError, match="is no export"):
        export_model(sealed.dir, mine, config=config, force=True)
    assert (mine / "letter.txt").exists()


def test_a_changed_artifact_is_not_exported(tokenizer_artifact: Artifact, tmp_path: Path) -> None:
    """The card would give damaged weights the fingerprint of whole ones."""
    artifact = sealed_model(DENSE, tokenizer_artifact, Store(tmp_path / "home"), seed=5)
    with (artifact.dir / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x7f")
    with pytest.raises(ArtifactError, match="changed since it was sealed"):
        export_model(artifact.dir, tmp_path / "out", config=BOTH)


def test_a_model_nothing_computes_is_refused_before_anything_is_written(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Experts with qk-norm and shared ones."""
    shape = NARROW["minimind-3-moe"].replace(num_shared_experts=1)
    directory = model_directory(tmp_path / "model", shape, tokenizer)
    for kind in ("hf", "gguf"):
        with pytest.raises(ConfigError, match="num_shared_experts"):
            export_model(directory, tmp_path / "out", config=ExportConfig(to=(kind,)))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def card_of(directory: Path, out: Path, config: ExportConfig = BOTH) -> str:
    export_model(directory, out, config=config)
    return (out / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_is_known_and_what_is_not(sealed: Artifact, tmp_path: Path) -> None:
    """Figures with what they are, parents, how to load; no licence that nobody chose, no place of this machine."""
    card = card_of(sealed.dir, tmp_path / "out")
    front, body = re.match(r"---\n(.*?)\n---\n(.*)", card, flags=re.S).groups()  # type: ignore[union-attr]
    assert "library_name: transformers" in front and "pipeline_tag: text-generation" in front and "- en" in front
    assert "license" not in front
    assert "for its owner to choose" in body
    for known in ("validation loss | 3.25", sealed.fingerprint, sealed.manifest.parents["tokenizer"], "<|im_start|>"):
        assert known in body
    for command in ("AutoModelForCausalLM.from_pretrained", "llama-server -m", "minimind import", "minimind export"):
        assert command in body
    assert "What it was trained on is not recorded" in body
    assert str(tmp_path) not in card and str(sealed.dir) not in card
    assert "{{" not in card and "None" not in body


def test_the_card_of_a_plain_directory_claims_no_lineage(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Its weights' sha256 is all that is known of it."""
    directory = model_directory(tmp_path / "mine", SHAPES["minimind2-moe"], tokenizer)
    card = card_of(directory, tmp_path / "out")
    assert "fingerprint" not in card.split("## Where it comes from")[1]
    assert file_sha256(directory / "model.safetensors") in card
    assert "Figures\n\nNone are recorded." in card
    assert "1 shared" in card and "GraniteMoeSharedForCausalLM" in card


def test_the_adapter_is_pefts_and_says_of_what_it_is(sealed: Artifact, store: Store, tmp_path: Path) -> None:
    """The few matrices, the base by the name its user has for it, and a card."""
    tuned = sealed_adapter(sealed, store)
    export_model(tuned.dir, tmp_path / "out", config=ExportConfig(to=("adapter",), base="me/my-base"))
    folder = tmp_path / "out" / "adapter"
    assert {path.name for path in folder.iterdir()} == {
        "adapter_model.safetensors", "adapter_config.json", "README.md",
    }  # fmt: skip
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "me/my-base" and settings["r"] == 4
    stored, own = (load_file(d / "adapter_model.safetensors") for d in (folder, tuned.dir / "adapter"))
    assert own.keys() == stored.keys() and all(torch.equal(own[name], stored[name]) for name in own)
    card = (folder / "README.md").read_text()
    assert 'base_model: "me/my-base"' in card and sealed.fingerprint in card and "PeftModel" in card


def test_an_adapter_that_is_not_there_or_cannot_be_loaded_is_refused(
    sealed: Artifact, tokenizer_artifact: Artifact, store: Store, tmp_path: Path
) -> None:
    """peft would fail on experts' names, or worse, leave them out."""
    config = ExportConfig(to=("adapter",))
    with pytest.raises(MissingError, match="--to adapter.*the stage lora"):
        export_model(sealed.dir, tmp_path / "out", config=config)
    moe = sealed_model(NARROW["minimind-3-moe"], tokenizer_artifact, store)
    with pytest.raises(ConfigError, match="adapts experts"):
        export_model(sealed_adapter(moe, store, targets=("gate_proj",)).dir, tmp_path / "out", config=config)
    export_model(sealed_adapter(moe, store).dir, tmp_path / "out", config=config)
