"""The fault matrix, storage: damaged files, full disks, a store that cannot be written.

What is damaged is named and made again; what has no room says so, and goes on from there once there is some.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from faulted import (
    FAILED,
    Whole,
    assert_contained,
    assert_recovers,
    lesser,
    whole,  # noqa: F401  a fixture
)

pytestmark = pytest.mark.chaos


def flip(path: Path) -> None:
    """One bit, in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The tail is gone."""
    os.truncate(path, path.stat().st_size - 7)


SEALED = {
    "shards": ("shard-pretrain", "train/*.arrow"),
    "tokens": ("tokens-pretrain", "train/tokens.bin"),
    "offsets": ("tokens-chat", "train/docs.idx"),
    "tokenizer": ("tokenizer", "tokenizer.model"),
    "weights": ("sft", "model.safetensors"),
    "events": ("pretrain", "events.jsonl"),
    "manifest": ("clean-chat", "manifest.json"),
    "figures": ("evaluate", "evaluation.json"),
}
"""What is damaged → the artifact, and the file in it."""
REGISTERED = ("tokenizer", "pretrain", "sft")
"""The registry has these whole."""


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("what", SEALED)
def test_what_is_damaged_is_named_and_made_again(what: str, damage: Callable[[Path], None], whole: Whole):  # noqa: F811
    """Before it is used: nobody trains on a flipped bit."""
    label, pattern = SEALED[what]
    sandbox = whole.sandbox()
    path = next(sandbox.artifact(label).dir.glob(pattern))
    damage(path)
    again = assert_recovers(sandbox, whole)
    assert path.name in again.output
    origin = "fetched from the registry" if label in REGISTERED else "built"
    assert f"it is {origin} again now" in " ".join(again.output.split())


@pytest.mark.parametrize("damage", [flip, cut])
@pytest.mark.parametrize("file", ["checkpoint.json", "model.safetensors", "optimizer.safetensors", "rng.safetensors"])
def test_a_damaged_checkpoint_is_passed_over(file: str, damage: Callable[[Path], None], whole: Whole):  # noqa: F811
    """The one before it serves: time is lost, no bit is."""
    sandbox = whole.sandbox()
    sandbox.forget("pretrain")
    sandbox.pipeline(faults="train.step=kill@6/0")
    newest = sorted(sandbox.store.root.glob("pretrain/.*.scratch/checkpoints/step-*"))[-1]
    damage(newest / file)
    assert f"{newest.name} is passed over" in " ".join(assert_recovers(sandbox, whole).output.split())


@contextmanager
def small_disk(directory: Path, spare: int) -> Iterator[Callable[[], None]]:
    """Inside, a directory is on a disk of its own, with so many bytes free; the function given makes room on it.

    Skips the test where this process may not mount one: only root may, and not in every container.
    """
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", str(directory)]
    if os.geteuid() != 0 or subprocess.run(trial, check=False).returncode:
        pytest.skip("mounts no disks here")
    aside = directory.with_name(f"{directory.name}.aside")
    directory.rename(aside)
    directory.mkdir()
    _mount("-t", "tmpfs", "-o", "size=1g", "tmpfs", directory)
    shutil.copytree(aside, directory, symlinks=True, dirs_exist_ok=True)
    space = os.statvfs(directory)
    _mount("-o", f"remount,size={(space.f_blocks - space.f_bfree) * space.f_bsize + spare}", directory)
    shutil.rmtree(aside)
    try:
        yield lambda: _mount("-o", "remount,size=1g", directory)
    finally:
        shutil.copytree(directory, aside, symlinks=True)
        subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()
        aside.rename(directory)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


FULL = {
    "rows": ("ingest-pretrain", "artifacts/ingest", 4096),
    "shards": ("shard-pretrain", "artifacts/shard", 4096),
    "tokens": ("tokens-pretrain", "artifacts/tokens", 4096),
    "tokenizer": ("tokenizer", "artifacts/tokenizer", 4096),
    "checkpoints": ("pretrain", "artifacts/pretrain", 65536),
    "report": ("publish", "artifacts/publish", 65536),
}
"""What there is no room for → the stage that runs, the directory that is full, the bytes that are left."""


@pytest.mark.parametrize("what", FULL)
def test_a_full_disk_is_one_clear_error_and_no_loss(what: str, whole: Whole):  # noqa: F811
    """It says where there is no room; with room, the same command ends well."""
    stage, directory, spare = FULL[what]
    sandbox = whole.sandbox()
    sandbox.forget(stage)
    with small_disk(sandbox.home / directory, spare) as make_room:
        ended = sandbox.pipeline()
        assert_contained(sandbox, ended, code=FAILED, words="no space is left")
        assert "Traceback" not in ended.output and directory in ended.output
        make_room()
        assert_recovers(sandbox, whole)


def test_no_room_for_mlflow_stops_nothing(whole: Whole):  # noqa: F811
    """MLflow is a view: the pipeline goes on, says that it was not told, and `minimind sync` makes it good."""
    sandbox = whole.sandbox()
    sandbox.forget("sft")
    database = sandbox.home / "mlflow.db"
    small = sandbox.home / "small"
    small.mkdir()
    database.rename(small / database.name)
    database.symlink_to(small / database.name)
    with small_disk(small, 4096) as make_room:
        ended = sandbox.pipeline()
        assert_contained(sandbox, ended, code=0, words="minimind sync")
        assert sandbox.digests() == whole.digests
        make_room()
        assert_recovers(sandbox, whole)


def test_no_room_for_prefect_is_one_clear_error(whole: Whole):  # noqa: F811
    """Without its database nobody could say what ran."""
    sandbox = whole.sandbox()
    sandbox.forget("sft")
    with small_disk(sandbox.home / "prefect", 4096) as make_room:
        ended = sandbox.pipeline()
        assert_contained(sandbox, ended, code=2, words="prefect")
        make_room()
        assert_recovers(sandbox, whole)


@contextmanager
def read_only_disk(directory: Path) -> Iterator[None]:
    """Inside, a directory is on a disk that nothing can be written to."""
    with small_disk(directory, 1 << 30):
        _mount("-o", "remount,ro", directory)
        try:
            yield
        finally:
            _mount("-o", "remount,rw", directory)


@pytest.mark.parametrize("what", ["artifacts", "prefect", "."])
def test_a_disk_that_is_read_only_is_named(what: str, whole: Whole):  # noqa: F811
    """The store's, Prefect's, or all of it: an answer in words, and nothing is changed."""
    sandbox = whole.sandbox()
    sandbox.forget("sft")
    with read_only_disk(sandbox.home / what):
        ended = sandbox.pipeline()
        assert_contained(sandbox, ended, code=FAILED, words="Read-only file system")
        assert "Traceback" not in ended.output
        assert "set MINIMIND_HOME to another place" in " ".join(ended.output.split())
    assert_recovers(sandbox, whole)


@pytest.mark.parametrize("stage", ["shard-pretrain", "sft"])
def test_a_store_that_cannot_be_written_is_named(stage: str, whole: Whole):  # noqa: F811
    """With what to do about it, and no traceback."""
    if os.geteuid() == 0 and not lesser():
        pytest.skip("root may write everywhere here")
    sandbox = whole.sandbox()
    sandbox.forget(stage)
    directory = sandbox.store.root / stage.partition("-")[0]
    directory.chmod(0o555)
    try:
        ended = sandbox.pipeline()
    finally:
        directory.chmod(0o755)
    assert_contained(sandbox, ended, code=FAILED, words=str(directory))
    assert "Traceback" not in ended.output
    assert_recovers(sandbox, whole)
