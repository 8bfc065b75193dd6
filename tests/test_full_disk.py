"""A real disk that is too small: the training goes on without the checkpoints it has no room for.

Not here: which write of a save fails (`test_checkpoint.py`).
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from resume_parts import COMMON, Tokens, assert_equal_results, run_of
from training_parts import ONE_RANK, TINY

from minimind.artifact import Artifact
from minimind.errors import StageError
from minimind.events import EVENTS_FILE, read_events
from minimind.train import job, launch
from minimind.train.stage_configs import PretrainConfig

ROOM = 1_300_000
"""Bytes: for two checkpoints of some 450,000 and the result, not for a third while it is written."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of `ROOM` bytes in memory; skipped where one may not be mounted."""
    directory = tmp_path / "disk"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "none", str(directory)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a small filesystem takes root on Linux")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)


def test_a_disk_that_is_full_loses_nothing(
    small_disk: Path, token_artifacts: Tokens, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """The third save fails, aloud; the weights and the log are those of a training with room."""
    config = PretrainConfig(model=TINY, **COMMON).replace(checkpoint_steps=3)
    paths = tmp_path / "whole", small_disk / "run"
    for path in paths:
        path.mkdir()
        job.run_rank(run_of("pretrain", config, path, token_artifacts, tokenizer_artifact, path), ONE_RANK)
    warnings = [event.message for event in read_events(paths[1] / EVENTS_FILE) if event.level == "warning"]
    assert len(warnings) == 1
    assert warnings[0].startswith("no checkpoint after step 9, the one before is kept: ")
    assert "No space left on device" in warnings[0]
    assert_equal_results(*paths)


def test_no_room_for_a_word_is_said_by_who_started_it(
    small_disk: Path, token_artifacts: Tokens, tokenizer_artifact: Artifact
) -> None:
    """Not one byte is left: the rank can neither log nor leave a note of what ended it."""
    config = PretrainConfig(model=TINY, **COMMON)
    run = run_of("pretrain", config, small_disk, token_artifacts, tokenizer_artifact, small_disk)
    (small_disk / launch.LOG_FILE).touch()
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))
    launch.record_failure(small_disk, 0, OSError(28, "No space left on device"))
    error = launch._error_of(run, 1)
    assert isinstance(error, StageError)
    assert str(error).startswith(f"pretrain: no space is left in {small_disk}; make room, and run it again")
