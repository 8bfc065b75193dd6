"""`--verify` loads what was written with the stock libraries, passes what is right, and finds what is wrong."""

from importlib import metadata
from pathlib import Path

import pytest
import torch
from export_parts import DENSE, NARROW, lively, sealed_adapter, sealed_model
from safetensors.torch import load_file, save_file

from minimind.artifact import Artifact, Store
from minimind.errors import MissingError, StageError
from minimind.export import exporting, verify
from minimind.export.exporting import Record, export_model
from minimind.export.gguf_model import GgufType
from minimind.export.hf_model import write_hf_folder
from minimind.export.probes import Probe, parts_without_reason, probes
from minimind.export.settings import Check, ExportConfig, Format, HfType
from minimind.export.verify import TOLERANCE, require_passed
from minimind.tokens.tokenizer import Tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft on transformers 5


@pytest.fixture(scope="module")
def sealed(tokenizer_artifact: Artifact, store: Store) -> Artifact:
    return sealed_model(DENSE, tokenizer_artifact, store)


def verified(artifact: Artifact, out: Path, to: tuple[Format, ...], dtype: HfType, gguf_type: GgufType) -> Record:
    config = ExportConfig(to=to, dtype=dtype, gguf_type=gguf_type)
    return export_model(artifact.dir, out, config=config, verify=True)


@pytest.mark.parametrize(("dtype", "gguf_type"), [("fp32", "f32"), ("bf16", "q8_0")])
def test_a_good_export_passes_and_its_figures_stand_in_the_card(
    dtype: HfType, gguf_type: GgufType, sealed: Artifact, tmp_path: Path
) -> None:
    """Rounding is told apart from faults: against the numbers that are stored, transformers is exact in bf16 too."""
    record = verified(sealed, tmp_path / "out", ("hf", "gguf"), dtype, gguf_type)
    hf, gguf = record.checks
    assert hf.passed and gguf.passed and hf.tolerance == TOLERANCE
    assert hf.positions > 700 and hf.texts == gguf.texts == 9 and hf.greedy == 7
    assert (hf.rounding > 1e-3 * hf.scale) == (dtype == "bf16")
    assert "## Verified" in (tmp_path / "out" / "README.md").read_text()
    assert hf.library == f"transformers {metadata.version('transformers')}"


def test_experts_are_judged_at_the_middle_position(tokenizer_artifact: Artifact, store: Store, tmp_path: Path) -> None:
    """A rounding that sends one token to another expert is no fault of the file."""
    artifact = sealed_model(NARROW["minimind2-moe"], tokenizer_artifact, store)
    for check in verified(artifact, tmp_path / "out", ("hf", "gguf"), "bf16", "bf16").checks:
        assert check.judged == "typical" and check.passed
        assert check.typical <= check.difference


def test_an_adapter_on_the_exported_base_answers_as_the_merged_model(
    sealed: Artifact, store: Store, tmp_path: Path
) -> None:
    """peft adds at every step what merging added once."""
    record = verified(sealed_adapter(sealed, store), tmp_path / "out", ("adapter",), "fp32", "f32")
    assert record.checks[0].passed and record.checks[0].library.startswith("peft ")
    assert "Verified" in (tmp_path / "out" / "adapter" / "README.md").read_text()


@pytest.mark.parametrize("fault", ["permuted", "scaled", "tokenizer"])
def test_a_fault_is_found_and_nothing_is_left(
    fault: str, sealed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of q in another order, one norm 1 % off, another tokenizer: each is an exit code of 1 and one line."""

    def faulty(folder: Path, *arguments: object, **settings: object) -> None:
        write_hf_folder(folder, *arguments, **settings)  # type: ignore[arg-type]
        path = folder / "model.safetensors"
        state = load_file(path)
        name = "model.layers.0.self_attn.q_proj.weight"
        if fault == "permuted":
            state[name] = state[name].flip(0).contiguous()
        elif fault == "scaled":
            state["model.norm.weight"] *= 1.01
        else:
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
            (folder / "tokenizer.json").write_text(
                text.replace('"normalizer":null', '"normalizer":{"type":"Lowercase"}'), encoding="utf-8"
            )
        save_file(state, path, metadata={"format": "pt"})

    monkeypatch.setattr(exporting, "write_hf_folder", faulty)
    what = "texts have other ids" if fault == "tokenizer" else "logits differ"
    with pytest.raises(StageError, match=f"--verify: hf.*{what}") as raised:
        verified(sealed, tmp_path / "out", ("hf",), "fp32", "f32")
    assert raised.value.exit_code == 1
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_one_line_with_the_extra(
    sealed: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever exports in production has none of them."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(verify.metadata, "version", missing)
    for kind, package in (("hf", "transformers"), ("gguf", "xllamacpp")):
        with pytest.raises(MissingError, match=rf'{package}.*pip install "minimind-pipeline\[verify\]"'):
            verified(sealed, tmp_path / "out", (kind,), "fp32", "f32")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_only_a_near_tie_excuses_another_greedy_answer(tokenizer: Tokenizer) -> None:
    """Else a model that answers something else would pass with a shrug."""
    model = lively(DENSE)
    prompt = probes(model, tokenizer)[0]
    with torch.no_grad():
        order = model(torch.tensor([prompt.ids]))[0, -1].sort(descending=True)
    gap = float(order.values[0] - order.values[1])
    other = [int(order.indices[1]), *prompt.answer[1:]]
    assert int(order.indices[0]) == prompt.answer[0]
    assert parts_without_reason(model, prompt, other, difference=gap / 2 * 0.9)
    assert not parts_without_reason(model, prompt, other, difference=gap / 2 * 1.1)
    assert parts_without_reason(model, prompt, prompt.answer[:-1], difference=1.0)


def test_a_short_context_sees_the_beginning_of_the_long_text(tokenizer: Tokenizer) -> None:
    """Prompt and answer must fit, whatever the model."""
    read: list[Probe] = probes(lively(DENSE.replace(max_positions=64)), tokenizer)
    assert max(len(probe.ids) for probe in read) == 64 - 25


def test_a_nan_is_a_failure() -> None:
    """NaN compares as false with everything, a tolerance too."""
    values = {"format": "hf", "stored": "fp32", "library": "x", "positions": 1, "typical": 0.0, "judged": "difference"}
    values |= {"scale": 1.0, "tolerance": 1e-4, "rounding": 0.0, "texts": 1, "unequal_ids": 0, "greedy": 1}
    check = Check(**values, difference=float("nan"), near_ties=0, rerouted=0, unequal_greedy=0)
    with pytest.raises(StageError, match="logits differ"):
        require_passed([check])
