"""Checkpoints: whole or not there, proven before use, and exact."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training_parts import ONE_RANK, TINY, Pattern, make_training

from minimind import runtime
from minimind.errors import ArtifactError
from minimind.model.lora import apply_lora
from minimind.model.transformer import Transformer
from minimind.train import checkpoint
from minimind.train.checkpoint import Stored, find_checkpoint, load_checkpoint, save_checkpoint
from minimind.train.loop import Progress, Training, train
from minimind.train.objectives import next_token
from minimind.train.optimizer import LossScale
from minimind.train.sharding import Layout
from minimind.train.stage_configs import SftConfig

CONFIG = SftConfig(tokens=1, length=24, batch_tokens=8 * 24, optimizer="muon", warmup_steps=0, log_every=3)


def started(*, steps: int = 2) -> tuple[Training, Progress]:
    """A training that has taken some steps and stands before the next line of its log."""
    training = make_training(CONFIG, Transformer(TINY), next_token(), Pattern(), total_steps=steps)
    progress = Progress(loss_scale=LossScale(1.0, 5))
    train(training, progress)
    progress.since_log = {"loss": 1 / 3, "tokens": 7.0, "seconds": 0.1}
    return training, progress


def save(directory: Path, training: Training, progress: Progress, *, run: str = "this") -> str | None:
    return save_checkpoint(
        directory,
        progress,
        run=run,
        model=training.model,
        optimizers=training.optimizers,
        ranks=ONE_RANK,
        events_offset=123,
    )


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    """Weights, optimizer, generator and the sums of an unfinished log line."""
    training, progress = started()
    torch.manual_seed(5)
    save(tmp_path, training, progress)
    following = torch.rand(3)
    fresh = make_training(CONFIG, Transformer(TINY, seed=9), next_token(), Pattern(), total_steps=2)
    found, passed_over = find_checkpoint(tmp_path, run="this")
    assert found is not None
    assert passed_over == []
    assert found.header.events_offset == 123
    assert load_checkpoint(found, model=fresh.model, optimizers=fresh.optimizers, ranks=ONE_RANK) == progress
    assert torch.equal(torch.rand(3), following)
    for one, other in zip(training.model.parameters(), fresh.model.parameters(), strict=True):
        assert torch.equal(one, other)
    states = [Layout.whole(t.model).state_tensors(t.optimizers) for t in (training, fresh)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_two_newest_are_kept(tmp_path: Path) -> None:
    """One may be damaged by the crash that one wants to recover from; more would fill the disk."""
    training, progress = started()
    for step in (5, 10, 100_000_000):
        progress.step = step
        save(tmp_path, training, progress)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000010", "step-100000000"]
    found, _ = find_checkpoint(tmp_path, run="this")
    assert found is not None
    assert found.progress().step == 100_000_000


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "rng.safetensors", "checkpoint.json"])
def test_a_flipped_bit_costs_a_checkpoint_and_not_the_training(name: str, tmp_path: Path) -> None:
    """safetensors itself notices 1 flip in 200; the sums notice all, and the older one is used, aloud."""
    training, progress = started()
    save(tmp_path, training, progress)
    progress.step = 3
    save(tmp_path, training, progress)
    path = tmp_path / "step-00000003" / name
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(data)
    found, passed_over = find_checkpoint(tmp_path, run="this")
    assert found is not None
    assert found.path.name == "step-00000002"
    assert passed_over[0].startswith("step-00000003 is passed over: ")


@pytest.mark.parametrize("failing", range(1, 9))
def test_a_disk_that_fills_during_a_save_costs_that_checkpoint_only(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At whichever write it happens: the one before is whole, nothing half is left, and the next save works."""
    training, progress = started()
    save(tmp_path, training, progress)
    progress.step = 3
    calls = 0

    def filling(function: Callable[..., object]) -> Callable[..., object]:
        def write(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*arguments)

        return write

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", filling(checkpoint.save_file))
        for name in ("fsync_path", "write_atomic"):
            patch.setattr(runtime, name, filling(getattr(runtime, name)))
        problem = save(tmp_path, training, progress)
    assert problem == "no checkpoint after step 3, the one before is kept: [Errno 28] No space left on device"
    found, passed_over = find_checkpoint(tmp_path, run="this")
    assert found is not None and found.path.name == "step-00000002"
    assert passed_over == []
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]
    assert save(tmp_path, training, progress) is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


WITHOUT_ROOM = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_checkpoint
training, progress = test_checkpoint.started()
assert test_checkpoint.save(Path(sys.argv[2]), training, progress) is None
progress.step = 3
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
print(test_checkpoint.save(Path(sys.argv[2]), training, progress))
"""


def test_a_real_limit_of_the_system_is_met_in_the_same_way(tmp_path: Path) -> None:
    """safetensors writes in Rust: the error is its own, and must not be a signal."""
    command = [sys.executable, "-c", WITHOUT_ROOM, str(Path(__file__).parent), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "no checkpoint after step 3, the one before is kept: " in done.stdout and "File too large" in done.stdout
    found, _ = find_checkpoint(tmp_path, run="this")
    assert found is not None and found.path.name == "step-00000002"
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


def test_what_killed_saves_have_left_is_removed(tmp_path: Path) -> None:
    """A directory for each kill would fill the disk."""
    training, progress = started()
    (tmp_path / ".step-00000001").mkdir()
    save(tmp_path, training, progress)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000002"]


@pytest.mark.parametrize("old", ["model", "optimizer"])
def test_shards_are_read_by_rows(old: str, tmp_path: Path) -> None:
    """Two files of three and five rows give any run of rows; a hole between them is an error."""
    rows = torch.arange(16.0).view(8, 2)
    what = "|exp_avg" if old == "optimizer" else ""
    files = [(0, 3), (3, 8)]
    for number, (start, stop) in enumerate(files):
        save_file(
            {f"a.weight[{start}:{stop}]{what}": rows[start:stop].clone()}, tmp_path / f"{old}-{number}.safetensors"
        )
    stored = Stored(tmp_path, old)
    for start, stop in ((0, 8), (2, 4), (3, 8), (5, 6)):
        assert torch.equal(stored.read("a.weight", what[1:], start, stop), rows[start:stop])
    (tmp_path / f"{old}-0.safetensors").unlink()
    with pytest.raises(ArtifactError, match=r"lacks rows of a\.weight"):
        Stored(tmp_path, old).read("a.weight", what[1:], 2, 5)


def test_half_a_checkpoint_is_none(tmp_path: Path) -> None:
    """A kill while one is written leaves a hidden directory, or a file short; both are passed by."""
    training, progress = started()
    save(tmp_path, training, progress)
    (tmp_path / "step-00000002" / "optimizer.safetensors").unlink()
    (tmp_path / ".step-00000009").mkdir()
    found, passed_over = find_checkpoint(tmp_path, run="this")
    assert found is None
    assert passed_over == ["step-00000002 is passed over: optimizer.safetensors is missing or damaged"]
    assert find_checkpoint(tmp_path / "nowhere", run="this") == (None, [])


def test_a_checkpoint_of_another_training_is_not_used(tmp_path: Path) -> None:
    """Other settings or inputs make another model, whatever lies in the directory."""
    training, progress = started()
    save(tmp_path, training, progress, run="other")
    found, passed_over = find_checkpoint(tmp_path, run="this")
    assert found is None
    assert "of another training" in passed_over[0]


def test_only_what_is_trained_is_saved(tmp_path: Path) -> None:
    """Adapters are a thousandth of the model; the frozen rest comes from the input."""
    model = Transformer(TINY)
    apply_lora(model, rank=2, alpha=4, targets=("q_proj",), seed=0)
    training = make_training(CONFIG.replace(optimizer="adamw"), model, next_token(), Pattern(), total_steps=1)
    train(training, Progress())
    save(tmp_path, training, Progress(step=1))
    found, _ = find_checkpoint(tmp_path, run="this")
    assert found is not None
    assert (found.path / "model.safetensors").stat().st_size < 8000
    with pytest.raises(ArtifactError, match="another model"):
        load_checkpoint(found, model=Transformer(TINY), optimizers=training.optimizers, ranks=ONE_RANK)


def test_there_is_no_pickle_in_it(tmp_path: Path) -> None:
    """A checkpoint is data: loading one from somebody else runs no code."""
    training, progress = started()
    save(tmp_path, training, progress)
    files = sorted(p.name for p in (tmp_path / "step-00000002").iterdir())
    assert files == ["checkpoint.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors"]
    json.loads((tmp_path / "step-00000002" / "checkpoint.json").read_text())
