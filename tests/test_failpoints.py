"""Faults that happen where and when they are planned, and nowhere else."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from minimind import failpoints
from minimind.errors import ConfigError
from minimind.failpoints import VARIABLE, reach


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    failpoints.plan("")


def run(planned: str, code: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A process that starts with faults in its environment."""
    return subprocess.run(
        [sys.executable, "-c", f"from minimind.failpoints import reach; {code}"],
        env={**os.environ, VARIABLE: planned, **more},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # a shell's `&` has it ignored
    )


def test_nothing_happens_where_nothing_is_planned():
    assert reach("seal.rename") is False
    failpoints.plan("seal.rename=ENOSPC")
    assert reach("seal.manifest") is False


def test_a_fault_comes_once_and_at_its_count():
    """A retry in the same process must find the place harmless."""
    failpoints.plan("a=ENOSPC@2, b=EACCES")
    reach("a")
    with pytest.raises(OSError, match="No space left on device: 'a'") as caught:
        reach("a")
    assert caught.value.errno == errno.ENOSPC
    assert reach("a") is False
    with pytest.raises(PermissionError):
        reach("b")


def test_a_place_that_spoils_is_told_so():
    failpoints.plan("train.loss=spoil@2")
    assert [reach("train.loss") for _ in range(3)] == [False, True, False]


def test_a_fault_of_a_rank_leaves_the_others_alone(monkeypatch: pytest.MonkeyPatch):
    failpoints.plan("a=ENOSPC/1")
    reach("a")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(OSError):
        reach("a")


@pytest.mark.parametrize("name", ["kill", "term", "int"])
def test_a_signal_ends_the_process_that_reaches_the_place(name: str):
    done = run(f"a={name}@3", "[(print(i, flush=True), reach('a')) for i in range(1, 9)]")
    assert done.stdout.split() == ["1", "2", "3"]
    assert done.returncode == -getattr(signal, f"SIG{name.upper()}")


@pytest.mark.parametrize(("process", "ended"), [("parent", "child"), ("grandparent", "parent child")])
def test_a_signal_can_go_to_the_process_above(process: str, ended: str):
    """What is left of the tree prints its name once the killed one is gone."""
    child = "from minimind.failpoints import reach; import time; reach('a'); time.sleep(1); print('child')"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); print('parent')"
    done = run(
        f"a=kill:{process}",
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {parent!r}]); print('grandparent')",
    )
    assert done.returncode in (0, -signal.SIGKILL)
    assert {*done.stdout.split()} == {*ended.split(), *(["grandparent"] if process == "parent" else [])}


def test_memory_that_is_used_up_stays_used_up():
    """A real limit: the next large allocation fails, in Python as in torch."""
    done = run("a=memory", "reach('a'); bytearray(1 << 30)")
    assert done.returncode == 1 and "MemoryError" in done.stderr


@pytest.mark.parametrize("text", ["a", "a=", "=kill", "a=explode", "a=kill@x", "a=kill:child", "a=path"])
def test_what_cannot_happen_is_refused(text: str):
    with pytest.raises(ConfigError, match=VARIABLE):
        failpoints.plan(text)
