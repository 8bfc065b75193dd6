"""The fault matrix: what goes wrong × where, and the end that each has.

After every fault: the exit code and the words it should end with, no process left, no half artifact. Then the same
command once more: it ends well, what it makes is what the undisturbed run made, byte for byte, and neither MLflow nor
Prefect says that anything is still running. `make chaos` runs it.

Not here: kills at every change to a file (`test_file_events.py`), every moment of every kind of training
(`test_kills.py`), disks and damage (`test_faults_storage.py`), servers (`test_faults_servers.py`).
"""

import time
from pathlib import Path

import pytest
from faulted import (
    END_SECONDS,
    FAILED,
    KILLED,
    STOPPED,
    Ended,
    Whole,
    assert_contained,
    assert_recovers,
    stopped,
    whole,  # noqa: F401  a fixture
    write_row,
)

pytestmark = pytest.mark.chaos

KILLS = {
    # of a training, wherever it is; pretrain has two ranks
    "rank 0 killed at its start": ("pretrain", "train.start=kill/0", FAILED, "rank 0 was lost to signal 9"),
    "rank 1 killed at its start": ("pretrain", "train.start=kill/1", FAILED, "rank 1 was lost to signal 9"),
    "rank 0 killed in a step": ("pretrain", "train.step=kill@5/0", FAILED, "rank 0 was lost to signal 9"),
    "rank 1 killed in a step": ("pretrain", "train.step=kill@5/1", FAILED, "rank 1 was lost to signal 9"),
    "rank 1 killed between two updates": ("pretrain", "train.update=kill@5/1", FAILED, "rank 1 was lost to signal 9"),
    "rank 0 killed in a save": ("pretrain", "checkpoint.write=kill@5/0", FAILED, "rank 0 was lost to signal 9"),
    "rank 0 killed before the rename of a save": (
        "pretrain",
        "checkpoint.rename=kill@2/0",
        FAILED,
        "rank 0 was lost to signal 9",
    ),
    "rank 0 killed after the rename of a save": (
        "pretrain",
        "checkpoint.renamed=kill@2/0",
        FAILED,
        "rank 0 was lost to signal 9",
    ),
    "rank 0 killed at its end": ("pretrain", "train.end=kill/0", FAILED, "rank 0 was lost to signal 9"),
    "rank 0 terminated in a step": ("pretrain", "train.step=term@3/0", FAILED, "stopped by a signal after step 4"),
    "rank 1 interrupted in a step": ("pretrain", "train.step=int@3/1", FAILED, "stopped by a signal after step 4"),
    "agent killed in a step": ("pretrain", "train.step=kill:parent@5/0", FAILED, "exit code -9"),
    "agent terminated in a step": ("pretrain", "train.step=term:parent@3/0", FAILED, "stopped by"),
    "agent interrupted in a step": ("pretrain", "train.step=int:parent@3/0", FAILED, "stopped by"),
    "agent killed in a save": ("pretrain", "checkpoint.write=kill:parent@5/0", FAILED, "exit code -9"),
    "flow killed in a step": ("pretrain", "train.step=kill:grandparent@5/0", KILLED, ""),
    "flow terminated in a step": ("pretrain", "train.step=term:grandparent@5/0", STOPPED, "goes on from where it was"),
    "flow interrupted in a step": ("pretrain", "train.step=int:grandparent@5/0", STOPPED, "goes on from where it was"),
    "flow killed in a save": ("pretrain", "checkpoint.write=kill:grandparent@5/0", KILLED, ""),
    "flow killed before the rename of a save": ("pretrain", "checkpoint.rename=kill:grandparent@2/0", KILLED, ""),
    "rank of dpo killed in a step": ("dpo", "train.step=kill@2", FAILED, "rank 0 was lost to signal 9"),
    "flow of dpo terminated in a step": ("dpo", "train.step=term:grandparent@2", STOPPED, "goes on from where it was"),
    "agent of lora killed in a step": ("lora", "train.step=kill:parent@2", FAILED, "exit code -9"),
    "flow of lora killed in a step": ("lora", "train.step=kill:grandparent@2", KILLED, ""),
    # of the flow around a stage
    "flow killed as a training begins": ("sft", "stage.start=kill", KILLED, ""),
    "flow killed after a training": ("sft", "stage.end=kill", KILLED, ""),
    "flow killed before a manifest": ("sft", "seal.manifest=kill", KILLED, ""),
    "flow killed before the rename of a seal": ("sft", "seal.rename=kill", KILLED, ""),
    "flow killed after the rename of a seal": ("sft", "seal.renamed=kill", KILLED, ""),
    "flow killed while it copies a model to the registry": ("sft", "register.files=kill", KILLED, ""),
    "flow killed before an alias": ("sft", "register.alias=kill", KILLED, ""),
    "flow killed before it notes a registration": ("sft", "register.note=kill", KILLED, ""),
    "flow killed with a piece read": ("ingest-pretrain", "piece.rename=kill", KILLED, ""),
    "flow terminated with a piece read": ("ingest-chat", "piece.rename=term", STOPPED, "goes on from where it was"),
    "flow killed with a piece cleaned": ("clean-pretrain", "piece.rename=kill", KILLED, ""),
    "flow interrupted after cleaning": ("clean-chat", "stage.end=int", STOPPED, "goes on from where it was"),
    "flow killed with a piece sharded": ("shard-preference", "piece.rename=kill", KILLED, ""),
    "flow killed before the rename of shards": ("shard-pretrain", "seal.rename=kill", KILLED, ""),
    "flow killed after a tokenizer is trained": ("tokenizer", "stage.end=kill", KILLED, ""),
    "flow killed while it copies a tokenizer": ("tokenizer", "register.files=kill", KILLED, ""),
    "flow killed with a piece tokenized": ("tokens-pretrain", "piece.rename=kill", KILLED, ""),
    "flow killed before the manifest of tokens": ("tokens-chat", "seal.manifest=kill", KILLED, ""),
    "flow terminated as an evaluation begins": ("evaluate", "stage.start=term", STOPPED, "goes on from where it was"),
    "flow killed after an evaluation": ("evaluate", "stage.end=kill", KILLED, ""),
    "flow killed before a report is there": ("publish", "seal.rename=kill", KILLED, ""),
    "flow killed while it hands a model out": ("publish", "register.alias=kill", KILLED, ""),
}
"""Fault → the stage that runs, the failpoint, how the flow ends, and what it says."""


@pytest.mark.parametrize("fault", KILLS)
def test_what_is_killed_goes_on_to_the_same_bytes(fault: str, whole: Whole):  # noqa: F811
    """A run that was disturbed and a run that was not cannot be told apart afterwards."""
    stage, faults, code, words = KILLS[fault]
    sandbox = whole.sandbox()
    sandbox.forget(stage)
    assert_contained(sandbox, sandbox.pipeline(faults=faults), code=code, words=words)
    assert_recovers(sandbox, whole)


def test_a_rank_that_hangs_is_ended_and_named(whole: Whole):  # noqa: F811
    """A collective whose other end never comes waits for ever otherwise."""
    sandbox = whole.sandbox()
    sandbox.forget("pretrain")
    ended = sandbox.pipeline(faults="train.step=hang@5/1", options=("pretrain.stall_seconds=15",))
    assert_contained(sandbox, ended, code=FAILED, words="no rank went on for 15 s (`stall_seconds`)")
    assert_recovers(sandbox, whole)


def test_a_rank_without_memory_says_so(whole: Whole):  # noqa: F811
    """A real limit: the allocation after it fails."""
    sandbox = whole.sandbox()
    sandbox.forget("pretrain")
    ended = sandbox.pipeline(faults="train.step=memory@5/1")
    assert_contained(sandbox, ended, code=FAILED, words="rank 1")
    assert "memory" in ended.output
    assert_recovers(sandbox, whole)


def test_a_batch_without_a_finite_loss_is_left_out_and_named(whole: Whole):  # noqa: F811
    """One bad step is no reason to lose a training; nobody may take it for a good one either."""
    sandbox = whole.sandbox()
    sandbox.forget("pretrain")
    ended = sandbox.pipeline(faults="train.loss=spoil@5")
    assert_contained(sandbox, ended, code=0, words="1 steps were skipped")
    assert sandbox.artifact("pretrain").summary().figures["skipped_steps"] == 1
    write_row("pretrain", "goes on: 1 steps were skipped", "")


def test_two_pipelines_at_once_make_one_of_everything(whole: Whole):  # noqa: F811
    """The second waits for the first and takes what it made."""
    sandbox = whole.sandbox()
    for label in ("shard-chat", "sft"):
        sandbox.forget(label)
    both = [sandbox.start(*sandbox.pipeline_words()) for _ in range(2)]
    outputs = [process.communicate(timeout=END_SECONDS)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sandbox.half_artifacts() == []
    assert_recovers(sandbox, whole)


def test_a_machine_that_sleeps_goes_on_when_it_wakes(whole: Whole):  # noqa: F811
    """A closed lid, a paused container: every process stands still, longer than torchrun believes a node alive."""
    sandbox = whole.sandbox()
    sandbox.forget("pretrain")
    running = sandbox.start(*sandbox.pipeline_words(), MINIMIND_FAILPOINTS="train.step=stop@5/0")
    stopped(sandbox)
    everybody = sandbox.processes()
    for process in everybody:
        process.suspend()
    time.sleep(40)
    for process in everybody:
        process.resume()
    output = running.communicate(timeout=END_SECONDS)[0]
    assert_contained(sandbox, Ended(running.returncode, output, 0), code=0)
    assert_recovers(sandbox, whole)


CLOCK = """
import time
started, true = time.time(), time.time
time.time = lambda: true() + ({seconds} if true() - started > 8 else 0)
"""


@pytest.mark.parametrize("seconds", [-7200, 7200], ids=["back", "forward"])
def test_a_clock_that_is_set_changes_nothing(seconds: int, whole: Whole, tmp_path: Path):  # noqa: F811
    """By two hours, eight seconds into every process."""
    sandbox = whole.sandbox()
    for label in ("shard-chat", "pretrain", "sft"):
        sandbox.forget(label)
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(seconds=seconds))
    assert_contained(sandbox, sandbox.pipeline(PYTHONPATH=str(tmp_path)), code=0)
    assert_recovers(sandbox, whole)
