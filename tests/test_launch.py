"""Processes: nobody outlives who started it, and what ended a rank reaches the one who asked."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from training_parts import TINY

from minimind.artifact import Artifact, Store
from minimind.data.documents import RowKind
from minimind.errors import ConfigError, DataError, LostProcessError, StageError
from minimind.runtime import cpu_count
from minimind.stage import build
from minimind.train import launch
from minimind.train.loop import Stopped
from minimind.train.stage_configs import PretrainConfig, SftConfig, TrainRun
from minimind.train.stages import PRETRAIN, SFT

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(99)"


def run_in(directory: Path, **settings: object) -> TrainRun:
    config = SftConfig(**{"epochs": 1, "device": "cpu", **settings})
    return TrainRun(stage="sft", config=config, inputs={}, fingerprints={}, out_dir=directory)


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """SIGKILL leaves the parent no chance to clean up; the kernel must."""
    child = (
        "import signal, time\nfrom minimind.train.launch import end_with_parent\n"
        "end_with_parent(signal.SIGTERM)\nprint('up', flush=True)\ntime.sleep(99)"
    )
    parent = (
        "import os, subprocess, sys\nos.environ['MINIMIND_PARENT_PID'] = str(os.getpid())\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True)\n"
        "print(child.pid, flush=True)\nchild.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None
        orphan = psutil.Process(int(started.stdout.readline()))
        assert started.stdout.readline() == "up\n"
        started.kill()
        assert psutil.wait_procs([orphan], timeout=5)[1] == []


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    """Between fork and the call the parent may have died: then no signal would ever come."""
    child = "import signal; from minimind.train.launch import end_with_parent; end_with_parent(signal.SIGTERM)"
    environment = {**os.environ, launch.PARENT_VARIABLE: "1"}
    done = subprocess.run([sys.executable, "-c", child], env=environment, check=False)
    assert done.returncode == -signal.SIGTERM


@pytest.mark.parametrize(("how", "code"), [("pass", 0), ("raise SystemExit(3)", 3), ("raise KeyError('asked')", 1)])
def test_an_agent_waits_for_no_thread_of_torchruns(how: str, code: int) -> None:
    """torchrun leaves some behind where a signal comes while it starts the ranks."""
    script = (
        "import threading, time\nfrom torch.distributed import run\nfrom minimind.train.launch import run_agent\n"
        "def main(arguments):\n"
        f"    threading.Thread(target=time.sleep, args=(999,)).start()\n    {how}\n"
        "run.main = main\nrun_agent([])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code
    assert ("asked" in done.stderr) == ("asked" in how)


def test_a_tree_is_killed_though_it_ignores_sigterm_and_sits_in_other_sessions() -> None:
    """torchrun's workers are in sessions of their own: a process group does not reach them."""
    middle = (
        "import subprocess, sys, signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', {STUBBORN!r}], start_new_session=True).wait()"
    )
    with subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        assert len(tree) == 2
        launch.stop_tree(process, grace_seconds=0.3)
        assert psutil.wait_procs(tree, timeout=3)[1] == []


def test_stopping_what_has_ended_is_no_error() -> None:
    """The interrupt may come just as the training ends."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        launch.stop_tree(process, grace_seconds=0.1)
        assert process.returncode == 0


def failed(directory: Path, rank: int, error: Exception) -> None:
    try:
        raise error
    except Exception as raised:
        launch.record_failure(directory, rank, raised)
    time.sleep(0.01)


def test_the_first_failure_is_the_one_that_is_raised(tmp_path: Path) -> None:
    """When one rank fails the others fail too, of a broken connection, which nobody should be told."""
    failed(tmp_path, 1, IndexError("index 9 is out of range"))
    failed(tmp_path, 0, RuntimeError("connection closed by peer"))
    error = launch._error_of(run_in(tmp_path), 1)
    assert isinstance(error, StageError)
    assert str(error).startswith("sft: rank 1 failed with IndexError: index 9 is out of range\nTraceback")
    assert len(str(error).splitlines()) <= 41


@pytest.mark.parametrize("error", [ConfigError("no such width"), DataError("no rows"), Stopped("stopped at step 4")])
def test_a_users_mistake_keeps_its_kind_and_has_no_traceback(error: Exception, tmp_path: Path) -> None:
    """Exit code 2 and one line, whichever process finds the mistake."""
    failed(tmp_path, 0, error)
    raised = launch._error_of(run_in(tmp_path), 1)
    assert isinstance(error, type(raised))
    assert str(raised) == str(error)


def test_a_rank_that_left_no_note_is_explained_by_the_log(tmp_path: Path) -> None:
    """Killed for memory, or a fault in native code: the last forty lines are all there is."""
    (tmp_path / launch.LOG_FILE).write_text("\n".join(f"line {n}" for n in range(100)))
    error = launch._error_of(run_in(tmp_path), -9)
    assert type(error) is LostProcessError
    assert type(launch._error_of(run_in(tmp_path), 1)) is StageError
    message = str(error)
    assert message.startswith("sft: training ended with exit code -9; its last lines:\nline 60\n")
    assert message.endswith("line 99")


TORCHRUN_SAYS = """
W1122 14:24:41.671000 23564 torch/distributed/elastic/api.py:1028] Sending process 84 closing signal SIGTERM
E1122 14:24:41.704000 23564 torch/distributed/elastic/api.py:1002] failed (exitcode: -9) local_rank: 0
Failures:
[1]:
  time      : 2026-11-22_14:24:41
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : -15 (pid: 84)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 84
-------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_14:24:41
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -9 (pid: 83)  (SIGKILL)
  error_file: <N/A>
  traceback : Signal 9 (SIGKILL) received by PID 83
"""


def test_a_lost_rank_is_told_from_those_that_it_took_along(tmp_path: Path) -> None:
    """Another try may do better; the other rank's word, a broken connection or a stop, says nothing."""
    (tmp_path / launch.LOG_FILE).write_text(TORCHRUN_SAYS)
    for note in (RuntimeError("connection closed by peer"), Stopped("stopped at step 4")):
        failed(tmp_path, 1, note)
        error = launch._error_of(run_in(tmp_path), 1)
        assert isinstance(error, LostProcessError)
        assert str(error).startswith("sft: rank 0 was lost to signal 9 (Killed); the last lines of all ranks:\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("exitcode  : -9 (pid: 83)  (SIGKILL)", "exitcode  : 1 (pid: 83)"),  # it failed, and its note is rank 0's
        ("Sending process 84 closing", "Sending process 83 closing"),  # torchrun ended it
        ("exitcode  : -9 (pid: 83)  (SIGKILL)", "exitcode  : -6 (pid: 83)  (SIGABRT)"),  # gloo's end
    ],
)
def test_a_rank_that_failed_by_itself_is_not_lost(before: str, after: str, tmp_path: Path) -> None:
    """It would fail again."""
    log = TORCHRUN_SAYS.replace(before, after)
    (tmp_path / launch.LOG_FILE).write_text(log.replace("-15 (pid: 84)", "1 (pid: 84)"))
    failed(tmp_path, 1, IndexError("index 9 is out of range"))
    error = launch._error_of(run_in(tmp_path), 1)
    assert type(error) is StageError
    assert "IndexError" in str(error)


class Sleeping:
    """An agent on a machine that sleeps an hour in the midst of its training."""

    pid = -1

    def __init__(self, polls: int) -> None:
        self.polls, self.now = polls, 0.0

    def wait(self, timeout: float) -> int:
        self.now += 3600 if self.polls == 2 else timeout
        self.polls -= 1
        if self.polls:
            raise subprocess.TimeoutExpired("agent", timeout)
        return 0


def test_a_machine_that_slept_has_not_stalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Sleeping(4)
    monkeypatch.setattr(launch.time, "monotonic", lambda: agent.now)
    assert launch._wait(agent, run_in(tmp_path)) == 0


def test_threads_are_shared_out(tmp_path: Path) -> None:
    """Two ranks of as many threads as cores each would be several times slower than one."""
    threads = int(launch._environment(run_in(tmp_path, processes=2))["OMP_NUM_THREADS"])
    assert threads == max(1, cpu_count() // 2)
    assert launch._environment(run_in(tmp_path, threads=3))["OMP_NUM_THREADS"] == "3"


def test_launching_needs_no_torch() -> None:
    """The stage process waits; a second torch in memory is 200 MB for nothing. Nor do ranks know mlflow or prefect."""
    script = (
        "import sys, minimind.train.stages\nassert 'torch' not in sys.modules\n"
        "import minimind.train.job\nassert not {'mlflow', 'prefect'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_a_failing_ranks_message_comes_out_of_the_stage(
    token_artifacts: dict[RowKind, Artifact],
    tokenizer_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of two real ranks meets an id above the vocabulary; the other is stopped; no process and no file is left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    damaged = tmp_path / "tokens"
    shutil.copytree(token_artifacts["pretrain"].dir, damaged)
    path = damaged / "train" / "tokens.bin"
    tokens = np.fromfile(path, "<u2")
    tokens[len(tokens) // 2] = 60_000
    tokens.tofile(path)
    inputs = {"tokens": Artifact(damaged, token_artifacts["pretrain"].manifest), "tokenizer": tokenizer_artifact}
    config = PretrainConfig(
        model=TINY, epochs=1, length=256, batch_tokens=1024, processes=2, threads=1, device="cpu", precision="fp32"
    )
    before = psutil.Process().children()
    started = time.monotonic()
    with pytest.raises(StageError, match=r"pretrain: rank [01] failed with IndexError: index out of range") as error:
        build(PRETRAIN, config, inputs, store=Store(tmp_path))
    assert "embedding" in str(error.value)
    assert time.monotonic() - started < 100  # not gloo's five minutes
    assert psutil.Process().children() == before
    assert not list(temporary.glob("torchelastic_*"))


@pytest.mark.slow
def test_mistakes_that_only_a_rank_can_see_are_named(
    token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """A vocabulary that does not fit, rows of another kind: a ConfigError with the key, from the rank."""
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    config = PretrainConfig(model=TINY.replace(vocab_size=500), epochs=1, device="cpu", threads=1)
    with pytest.raises(ConfigError, match=r"`tokenizer.vocab_size`\) is 500, the tokens were made with 600"):
        build(PRETRAIN, config, inputs, store=Store(tmp_path))
    wrong = {"tokens": token_artifacts["preference"], "model": tokenizer_artifact}
    with pytest.raises(ConfigError, match="sft trains on chat or pretrain rows; its token set has preference rows"):
        build(SFT, SftConfig(epochs=1, device="cpu", threads=1), wrong, store=Store(tmp_path))


def test_tokens_of_another_tokenizer_are_refused_before_anything_starts(
    token_artifacts: dict[RowKind, Artifact], corpus: Artifact, tmp_path: Path
) -> None:
    """The ids would all be valid and all mean something else."""
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": corpus}
    with pytest.raises(ConfigError, match="tokens were made by tokenizer .* make the tokens again"):
        build(PRETRAIN, PretrainConfig(model=TINY, epochs=1), inputs, store=Store(tmp_path))


@pytest.mark.slow
def test_a_training_whose_rank_hangs_is_ended_and_says_which(
    token_artifacts: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """A rank that stands still holds all others up in a collective, with no error and no end."""
    inputs = {"tokens": token_artifacts["pretrain"], "tokenizer": tokenizer_artifact}
    config = PretrainConfig(
        model=TINY,
        epochs=500,
        length=256,
        batch_tokens=1024,
        processes=2,
        threads=1,
        device="cpu",
        precision="fp32",
        stall_seconds=20,
    )
    stopped: list[int] = []

    def stop_one() -> None:
        """Once both go on."""
        while not any('"step"' in line for line in steps(tmp_path)):
            if over.wait(0.1):
                return
        (agent,) = [p for p in psutil.Process().children() if "minimind.train.launch" in p.cmdline()]
        rank = agent.children()[-1]
        stopped.append(rank.pid)
        rank.suspend()

    over = threading.Event()
    thread = threading.Thread(target=stop_one)
    thread.start()
    with pytest.raises(StageError, match=r"no rank went on for 20 s \(`stall_seconds`\)") as raised:
        build(PRETRAIN, config, inputs, store=Store(tmp_path))
    over.set()
    thread.join()
    assert f"process {stopped[0]} is stopped" in str(raised.value)
    (log,) = tmp_path.glob("artifacts/pretrain/.*.scratch/ranks.log")
    assert "Current thread" in log.read_text(), "the stack of the one that waits"
    assert not [p for p in psutil.Process().children(recursive=True) if "minimind.train" in p.cmdline()]


def steps(home: Path) -> list[str]:
    """The lines of the training's events, as far as there are any."""
    paths = home.glob("artifacts/pretrain/.*.scratch/events.jsonl")
    return [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
