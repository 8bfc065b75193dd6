"""Reference log-probabilities are computed once for a token set and a model, and are the same whoever computes them."""

import multiprocessing
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact
from minimind.data.documents import RowKind
from minimind.events import EVENTS_FILE, Event, read_events
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.batches import PairBatches
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.train import job, reference
from minimind.train.objectives import Tensors, pair_log_probs, take_pairs
from minimind.train.parallel import Ranks
from minimind.train.reference import Wanted, directory_of, find_references
from minimind.train.stage_configs import DpoConfig, TrainRun

COMMON = {"length": 400, "batch_tokens": 2400, "log_every": 1, "warmup_steps": 1, "validate_every": 0, "threads": 1}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Small batches: a second thread costs more than it gives."""
    torch.set_num_threads(1)


@pytest.fixture
def pairs(token_artifacts: dict[RowKind, Artifact]) -> PairBatches:
    token_set = TokenSet.open(token_artifacts["preference"].dir / "train")
    return PairBatches(token_set, batch_pairs=4, max_length=400, seed=0)


@pytest.fixture(scope="module")
def base(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory to start from."""
    directory = tmp_path_factory.mktemp("base")
    save_model(directory, Transformer(TINY, seed=5))
    tokenizer.copy_to(directory)
    return directory


def run_of(token_set: Path, base: Path, out_dir: Path, **settings: object) -> TrainRun:
    config = DpoConfig(**{**COMMON, "tokens": 2400, "precision": "fp32", "device": "cpu", **settings})
    out_dir.mkdir(exist_ok=True)
    inputs = {"tokens": token_set, "model": base}
    return TrainRun(stage="dpo", config=config, inputs=inputs, fingerprints=dict.fromkeys(inputs, "x"), out_dir=out_dir)


def tokens_copy(artifact: Artifact, place: Path) -> Path:
    """The token set at a place where no reference is known yet."""
    place.mkdir()
    (place / "set").symlink_to(artifact.dir)
    return place / "set"


def trained(run: TrainRun) -> list[Event]:
    job.run_rank(run, ONE_RANK)
    return read_events(run.out_dir / EVENTS_FILE)


def note(events: list[Event]) -> str:
    return next(e.message for e in events if e.message.startswith("reference log-probabilities"))


def test_a_second_training_with_other_settings_computes_nothing(
    token_artifacts: dict[RowKind, Artifact], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another learning rate, β, loss, seed or LoRA starts from the same model; a pass over all pairs is saved."""
    tokens = tokens_copy(token_artifacts["preference"], tmp_path / "store")
    first = trained(run_of(tokens, base, tmp_path / "first", epochs=1, tokens=None))
    (path,) = directory_of(tokens).glob("*.safetensors")
    written = path.read_bytes()
    assert int(note(first).split()[2]) > 30 and path.name.startswith("x-")
    monkeypatch.setattr(reference, "pair_log_probs", None)  # what computes them
    others = [{"lr": 1e-3, "beta": 0.5, "seed": 3}, {"loss": "ipo", "length": 300}, {"lora": {"rank": 2}}]
    for number, settings in enumerate(others):
        again = trained(run_of(tokens, base, tmp_path / f"again{number}", **settings))
        assert note(again).split()[2] == "0"
    assert path.read_bytes() == written


def test_the_first_step_costs_ln_2_and_moves_nothing_before_it(
    token_artifacts: dict[RowKind, Artifact], base: Path, tmp_path: Path
) -> None:
    """DPO stuck at, or starting away from, 0.693 is what users ask about; here it is exact to rounding."""
    tokens = tokens_copy(token_artifacts["preference"], tmp_path / "store")
    for dtype, tolerance in (("fp32", 1e-4), ("bf16", 2e-2)):  # nats, times a β of 1
        events = trained(run_of(tokens, base, tmp_path / dtype, precision=dtype, beta=1.0))
        figures = next(e.metrics for e in events if "loss" in e.metrics)
        assert figures["loss"] == pytest.approx(np.log(2), abs=tolerance)
        assert max(abs(figures[name]) for name in ("kl", "reward_margin", "drift_bits_per_byte")) < tolerance
    assert len(list(directory_of(tokens).glob("*.safetensors"))) == 2  # one for each arithmetic


def test_a_damaged_file_is_computed_again_and_said_so(
    token_artifacts: dict[RowKind, Artifact], base: Path, tmp_path: Path
) -> None:
    """A flipped bit would be a reference that is wrong for one pair, for ever."""
    tokens = tokens_copy(token_artifacts["preference"], tmp_path / "store")
    trained(run_of(tokens, base, tmp_path / "first"))
    (path,) = directory_of(tokens).glob("*.safetensors")
    whole = path.read_bytes()
    for number, damaged in enumerate((whole[:-1] + bytes([whole[-1] ^ 1]), whole[:50], b"")):
        path.write_bytes(damaged)
        events = trained(run_of(tokens, base, tmp_path / f"again{number}"))
        assert [e.level for e in events if "is damaged; the reference" in e.message] == ["warning"]
        assert path.read_bytes() == whole


def test_a_place_that_cannot_be_written_stops_no_training(
    token_artifacts: dict[RowKind, Artifact], base: Path, tmp_path: Path
) -> None:
    """A store may be shared and read-only."""
    tokens = tokens_copy(token_artifacts["preference"], tmp_path / "store")
    directory_of(tokens).write_text("in the way")
    events = trained(run_of(tokens, base, tmp_path / "out"))
    assert any("cannot be written" in e.message and e.level == "warning" for e in events)


def test_values_do_not_depend_on_the_ranks_or_on_what_was_asked_for_before(pairs: PairBatches, tmp_path: Path) -> None:
    """A training's result must not depend on which one came before it; so groups follow from the token set alone."""
    model = Transformer(TINY, seed=5)
    all_at_once = find_references(tmp_path / "all", model, {"train": Wanted(pairs)}, ONE_RANK)
    path = tmp_path / "parts"
    some = find_references(path, model, {"train": Wanted(pairs, np.array([7, 2, 7]))}, ONE_RANK)
    assert 2 <= some.computed < pairs.num_pairs
    assert some.references["train"].chosen_P[[2, 7]].isfinite().all()
    rest = find_references(path, model, {"train": Wanted(pairs)}, ONE_RANK)
    assert some.computed + rest.computed == all_at_once.computed == pairs.num_pairs
    assert torch.equal(rest.references["train"].chosen_P, all_at_once.references["train"].chosen_P)
    assert torch.equal(rest.references["train"].rejected_P, all_at_once.references["train"].rejected_P)
    assert load_file(path)["train"].shape == (2, pairs.num_pairs)


def test_ranks_share_the_groups_and_every_one_gets_all(pairs: PairBatches, tmp_path: Path) -> None:
    """Each pair is one rank's, whatever their number; and each rank makes as many passes, as sharded models need."""
    model, shares, passes = Transformer(TINY, seed=5), [], []
    alone = find_references(tmp_path / "alone", model, {"train": Wanted(pairs)}, ONE_RANK).references["train"]
    for rank in range(3):

        class Recorder(Ranks):
            def sum(self, tensor: torch.Tensor) -> torch.Tensor:
                return tensor  # what the others computed is missing, and zero

        ranks, counted = Recorder(rank, 3, torch.device("cpu")), CountingModel(model)
        start = torch.full((2, pairs.num_pairs), torch.nan)
        table, _ = reference._complete(start, counted, Wanted(pairs), ranks)
        shares.append(table)
        passes.append(counted.passes)
    assert torch.equal(sum(shares), torch.stack([alone.chosen_P, alone.rejected_P]))
    assert len(set(passes)) == 1


class CountingModel:
    """A model that counts its forward passes."""

    def __init__(self, model: Transformer) -> None:
        self._model, self.passes = model, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def hidden(self, *args: object, **kwargs: object) -> object:
        self.passes += 1
        return self._model.hidden(*args, **kwargs)


def test_values_are_those_of_the_pairs(pairs: PairBatches, tmp_path: Path) -> None:
    """Against each pair alone, in whatever group and order it was computed."""
    model = Transformer(TINY, seed=5)
    found = find_references(tmp_path / "file", model, {"train": Wanted(pairs)}, ONE_RANK).references["train"]
    with torch.no_grad():
        for pair in (0, 3, 11):
            batch = Tensors.of(take_pairs(pairs.gather(np.array([pair])), 0, 1), torch.device("cpu"))
            chosen_P, rejected_P, _ = pair_log_probs(model, batch)
            torch.testing.assert_close(found.chosen_P[[pair]], chosen_P, rtol=1e-5, atol=1e-3)
            torch.testing.assert_close(found.rejected_P[[pair]], rejected_P, rtol=1e-5, atol=1e-3)


def compute(path: Path, tokens: Path) -> None:
    """One of two processes at once."""
    torch.set_num_threads(1)
    batches = PairBatches(TokenSet.open(tokens / "train"), batch_pairs=4, max_length=400, seed=0)
    for wanted in (np.arange(5), None):
        find_references(path, Transformer(TINY, seed=5), {"train": Wanted(batches, wanted)}, ONE_RANK)


@pytest.mark.slow
def test_two_processes_at_once_leave_a_whole_file(
    token_artifacts: dict[RowKind, Artifact], pairs: PairBatches, tmp_path: Path
) -> None:
    """Two trainings of a sweep start together."""
    context = multiprocessing.get_context("spawn")
    path, tokens = tmp_path / "file", token_artifacts["preference"].dir
    processes = [context.Process(target=compute, args=(path, tokens)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0, 0]
    again = find_references(path, Transformer(TINY, seed=5), {"train": Wanted(pairs)}, ONE_RANK)
    assert (again.computed, again.problem) == (0, "")
