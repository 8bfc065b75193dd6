"""A training as an owned tree of processes: stage → torchrun agent → ranks.

    stage process ──starts──► python -m minimind.train.launch …   the torchrun agent
                              └─starts──► python -m minimind.train run.json   once per rank

Nobody outlives the one who started it. The agent gets SIGTERM when its parent dies and passes it
on, so the ranks save a checkpoint and go; a rank is killed at once when the agent dies. Linux
does both in the kernel (PR_SET_PDEATHSIG); elsewhere a thread watches the parent's pid. When the
stage is interrupted it sends SIGTERM to the agent, waits, then kills what is left of the tree
(torchrun gives each rank a session of its own, so no process group holds them all).

Ranks are told one thing, `run.json`. What they print goes to `ranks.log`; what ended one of them
goes to `failure-<rank>.json`, and comes out here as the error of the stage.

With several `nodes` the stage runs on node 0, which owns the directory, and waits for the agents of the others
(`nodes.py`); all see that directory. Ranks count from node 0, so rank 0 writes where the stage is.
"""

import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil

from minimind import errors, runtime
from minimind.artifact import Summary
from minimind.errors import LostProcessError, MiniMindError, StageError
from minimind.proven import Proven
from minimind.train.config import TrainConfig
from minimind.train.stage_configs import TrainRun

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"
TRAINING_FILE = "training.json"
"""The summary that the first rank leaves."""
CHECKPOINTS_DIR = "checkpoints"
LOG_FILE = "ranks.log"
PULSES_DIR = "pulses"
"""A file for each rank, touched as it goes on."""
PARENT_VARIABLE = "MINIMIND_PARENT_PID"
GRACE_SECONDS = 7
"""From SIGTERM to SIGKILL: time for a step and a checkpoint of a small model, and all is over within 10 s."""
MEETING_SECONDS = 600
"""How long node 0 waits for the others, and they for it."""
POLL_SECONDS = 0.5
ROOM_BYTES = 64 << 10
"""Less than this and a rank may not have been able to say why it ended."""
TAIL_LINES = 40
STACKS_SIGNAL = signal.SIGUSR1
"""Has a rank print the stacks of its threads."""
LOST_RANK = re.compile(r"rank +: (\d+) [^\n]*\n +exitcode +: -(\d+) \(pid: (\d+)\)")
CLOSED_RANK = re.compile(r"Sending process (\d+) closing signal")
"""What torchrun prints of each rank that a signal ended, and of those that it ended itself because one was gone."""
STOPPED_AGENT = re.compile(r"Received (\d+) death signal")
STOPPED_BY_SIGNAL = 128 + signal.SIGTERM
"""Exit code of a rank that stopped because it was asked to."""


class Trained(Summary, Proven):
    """`training.json`: what the first rank says of the training, for the stage to seal."""

    @classmethod
    def read(cls, out_dir: Path) -> Summary:
        """What a training that ended well left."""
        found = cls.read_json(out_dir / TRAINING_FILE, remedy="run the training again: it goes on at its last step")
        return Summary.model_validate(found.model_dump(exclude={"own_digest"}))


class Failure(Proven):
    """`failure-<rank>.json`: what ended a rank."""

    rank: int
    time: float
    kind: str
    message: str
    lines: list[str]


def launch(run: TrainRun) -> None:
    """Train as `run` says, in processes that end with this one.

    Raises the error that ended the first failing rank: a MiniMindError as it was, anything else
    as a StageError with the last lines of its traceback.
    """
    for old in run.out_dir.glob("failure-*.json"):
        old.unlink()
    pulses = run.out_dir / PULSES_DIR
    shutil.rmtree(pulses, ignore_errors=True)
    run_path = run.out_dir / RUN_FILE
    run.write(run_path)
    if run.config.nodes > 1:  # somebody may have to do something
        logger.warning(
            "%s: meets %d more nodes at %s (`minimind node --rank N` there)",
            *(run.stage, run.config.nodes - 1, run.config.rendezvous),
        )
    with (run.out_dir / LOG_FILE).open("wb") as log:
        process = start_agent(run, run_path, node_rank=0, output=log)
        try:
            code = _wait(process, run)
        except BaseException:
            stop_tree(process, grace_seconds=GRACE_SECONDS)
            raise
    shutil.rmtree(pulses, ignore_errors=True)
    if code:
        raise _error_of(run, code)


def start_agent(run: TrainRun, run_path: Path, *, node_rank: int, output: BinaryIO | None) -> subprocess.Popen[bytes]:
    """Start the agent of one node. What it and its ranks print goes to `output`, or where this process's does."""
    return subprocess.Popen(
        _command(run.config, run_path, node_rank=node_rank),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT if output else None,
        env=_environment(run),
        start_new_session=True,  # a terminal's Ctrl-C is this process's to handle
    )


def stop_tree(process: subprocess.Popen[bytes], *, grace_seconds: float) -> None:
    """SIGTERM to the agent, which tells the ranks; after the grace, SIGKILL to all of the tree that is left."""
    try:
        agent = psutil.Process(process.pid)
        tree = [agent, *agent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    try:
        process.terminate()
        psutil.wait_procs(tree, timeout=grace_seconds)
    finally:  # a second Ctrl-C cuts the grace short, not the killing
        if agent.is_running():
            tree = list({*tree, *agent.children(recursive=True)})
        for member in (p for p in tree if p.is_running()):
            member.kill()
        process.wait()


def end_with_parent(signal_number: signal.Signals) -> None:
    """Have this process sent `signal_number` when the one that started it dies. For agents and ranks."""
    expected = os.environ.get(PARENT_VARIABLE)
    if expected is None:  # started by hand
        return
    parent = int(expected)
    if not runtime.end_with_parent(signal_number):
        threading.Thread(target=_watch, args=(parent, signal_number), daemon=True).start()
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signal_number)


def record_failure(out_dir: Path, rank: int, error: BaseException) -> None:
    """Leave a note of what ended this rank, for `launch` to raise."""
    lines = "".join(traceback.format_exception(error)).splitlines()[-TAIL_LINES:]
    known = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    kind = next(known, type(error).__name__)
    failure = Failure(rank=rank, time=time.time(), kind=kind, message=str(error), lines=lines)
    with suppress(OSError):  # a disk that is full has no room for the note either; `launch` looks
        failure.write(out_dir / f"failure-{rank}.json")


def _command(config: TrainConfig, run_path: Path, *, node_rank: int) -> list[str]:
    return [
        *(sys.executable, "-m", "minimind.train.launch"),
        *_meeting(config, run_path, node_rank=node_rank),
        *("--nproc-per-node", str(config.processes), "--max-restarts", "0"),
        *("--shutdown-timeout", str(GRACE_SECONDS)),
        *("--log-dir", os.devnull),  # ranks note their failures themselves; by default a folder stays in /tmp each time
        *("-m", "minimind.train", str(run_path)),
    ]


def _meeting(config: TrainConfig, run_path: Path, *, node_rank: int) -> list[str]:
    """How agents find each other: not at all, or over a store on node 0.

    The rendezvous is torchrun's static one: its dynamic one (c10d) numbers nodes as they come, and rank 0 would be
    somewhere. Its id is the time at which `run.json` was written, so that an agent with an older file meets nobody.
    """
    if config.nodes == 1:
        return ["--standalone", "--local-addr", "127.0.0.1"]
    assert config.rendezvous is not None
    host, _, port = config.rendezvous.rpartition(":")
    return [
        *("--nnodes", str(config.nodes), "--node-rank", str(node_rank)),
        *("--master-addr", host, "--master-port", port),
        *("--rdzv-id", str(run_path.stat().st_mtime_ns), "--rdzv-conf", f"timeout={MEETING_SECONDS}"),
    ]


def _environment(run: TrainRun) -> dict[str, str]:
    # sums over a large tensor are cut by threads, so `exact` has one number of them for all layouts
    threads = run.config.threads or (1 if run.config.exact else max(1, runtime.cpu_count() // run.config.processes))
    path = [str(runtime.CHECKOUT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **os.environ,
        PARENT_VARIABLE: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        # libgomp's default spins for long: 5 % faster alone, 40 % slower beside one busy process (docs/log.md).
        "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }


def _wait(process: subprocess.Popen[bytes], run: TrainRun) -> int:
    """The exit code. Wakes up often, so that an exception sent to this thread (a cancelled task) gets in.

    Raises StageError where no rank goes on any more.
    """
    newest, quiet = 0.0, 0.0
    while True:
        began = time.monotonic()
        try:
            return process.wait(timeout=POLL_SECONDS)
        except subprocess.TimeoutExpired:
            beaten = max([0.0, *(pulse.stat().st_mtime for pulse in (run.out_dir / PULSES_DIR).glob("*"))])
            # What this process saw of it: a machine that slept, or whose clock was set, has not stalled.
            quiet = 0.0 if beaten != newest else quiet + min(time.monotonic() - began, 2 * POLL_SECONDS)
            newest = beaten
            if quiet > run.config.stall_seconds:
                raise _stalled(process, run) from None


def _stalled(process: subprocess.Popen[bytes], run: TrainRun) -> StageError:
    """What the ranks of a training that does not go on are at; their stacks are printed to the log."""
    states = []
    for rank in psutil.Process(process.pid).children():  # of the agent
        with suppress(psutil.NoSuchProcess):
            states.append(f"process {rank.pid} is {rank.status()}")
            rank.send_signal(STACKS_SIGNAL)
    time.sleep(1)  # they print
    return StageError(
        f"{run.stage}: no rank went on for {run.config.stall_seconds:.0f} s (`stall_seconds`), so it was ended: "
        f"{', '.join(states) or 'no process is there'}; the stacks of those that could print them are in "
        f"{run.out_dir / LOG_FILE}. Run it again: it goes on from its last checkpoint"
    )


def _error_of(run: TrainRun, code: int) -> MiniMindError:
    """The failure that came first; the others are only what it did to the other ranks."""
    instead = f"{LOG_FILE} says what its rank printed"
    notes = (Failure.read_or_set_aside(path, instead=instead) for path in run.out_dir.glob("failure-*.json"))
    failures = sorted(filter(None, notes), key=lambda failure: failure.time)
    no_room = [failure for failure in failures if os.strerror(errno.ENOSPC) in failure.message]
    if no_room or (not failures and shutil.disk_usage(run.out_dir).free < ROOM_BYTES):
        return StageError(
            f"{run.stage}: no space is left in {run.out_dir}; make room, and run it again: it goes on from the last "
            "checkpoint that could be written"
        )
    log_path = run.out_dir / LOG_FILE
    log = log_path.read_text(encoding="utf-8", errors="replace") if log_path.exists() else ""
    lost = _lost_rank(log, failures)
    if failures and not lost:
        first = failures[0]
        known = getattr(errors, first.kind, None)
        if isinstance(known, type) and issubclass(known, MiniMindError):
            return known(first.message)
        what = f"{run.stage}: rank {first.rank} failed with {first.kind}: {first.message}"
        return StageError("\n".join([what, *first.lines]))
    lines = log.splitlines()[-TAIL_LINES:]
    if run.config.nodes > 1 and any("DistStoreError" in line or "DistNetworkError" in line for line in lines):
        return StageError(
            f"{run.stage}: `nodes` {run.config.nodes} did not meet at {run.config.rendezvous} within "
            f"{MEETING_SECONDS // 60} minutes; start `minimind node --rank N` on the others, and look at {LOG_FILE}"
        )
    if stopped := STOPPED_AGENT.search(log):
        number = int(stopped[1])
        return LostProcessError(
            f"{run.stage}: torchrun was stopped by signal {number} ({signal.strsignal(number)}); run it again: it goes "
            "on from its last checkpoint"
        )
    if lost:
        return LostProcessError("\n".join([f"{run.stage}: {lost}; the last lines of all ranks:", *lines]))
    kind = LostProcessError if code < 0 else StageError
    return kind("\n".join([f"{run.stage}: training ended with exit code {code}; its last lines:", *lines]))


def _lost_rank(log: str, failures: Sequence[Failure]) -> str:
    """Which rank was lost to a signal, in words; empty where none was, or only because another one had failed."""
    closed, noted = set(CLOSED_RANK.findall(log)), {failure.rank for failure in failures}
    for rank, number, pid in LOST_RANK.findall(log):
        if pid not in closed and int(rank) not in noted and int(number) != signal.SIGABRT:
            return f"rank {rank} was lost to signal {number} ({signal.strsignal(int(number))})"
    return ""


def _watch(parent: int, signal_number: signal.Signals) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal_number)


def run_agent(arguments: Sequence[str]) -> None:
    """Be torchrun, but end with the process that started it, and be the ranks' parent by name.

    Does not return: a signal that comes while torchrun starts the ranks leaves threads of its that never end, and
    Python would wait for them.
    """
    end_with_parent(signal.SIGTERM)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    from torch.distributed import run as torchrun  # seconds to import; the stage process never needs it

    try:
        torchrun.main(list(arguments))
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    os._exit(code)  # the kernel ends the ranks that are left


if __name__ == "__main__":
    run_agent(sys.argv[1:])
