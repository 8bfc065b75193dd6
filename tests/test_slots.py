"""Slots: trainings take turns on a device, a killed holder frees its own, and several GPUs are held by all or none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from minimind.train import slots
from minimind.train.slots import slot
from minimind.train.stage_configs import SftConfig

HOLD = """
import sys, time
from pathlib import Path
from minimind.train.slots import slot
from minimind.train.stage_configs import SftConfig
config = SftConfig(epochs=1, device="cpu")
with slot(config, Path(sys.argv[1]), waiting=print):
    print("held", flush=True)
    time.sleep(99)
"""


class HadToWait(Exception):
    pass


def refuse(words: str) -> None:
    raise HadToWait(words)


def config(**changes: object) -> SftConfig:
    return SftConfig(**{"epochs": 1, "batch_tokens": 1 << 16, **changes})


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with three of them."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))


def test_two_trainings_never_share_the_processors_and_a_killed_one_frees_them(tmp_path: Path) -> None:
    """The kernel lets go of a file lock; a lease on a server stays taken (Prefect's do)."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(HadToWait, match=r"waiting for the processors.*MINIMIND_SHARE_DEVICES"),
            slot(config(device="cpu"), tmp_path, waiting=refuse),
        ):
            raise AssertionError
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with slot(config(device="cpu"), tmp_path, waiting=refuse):
            pass


def test_a_user_may_share_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIMIND_SHARE_DEVICES", "1")
    with slot(config(), tmp_path, waiting=refuse), slot(config(), tmp_path, waiting=refuse):
        assert not list(tmp_path.iterdir()), "nothing is locked"


def test_each_training_sees_the_gpus_it_holds_and_no_others(gpus: None, tmp_path: Path) -> None:
    """Two stores on one machine would else both take the first GPU."""
    with slot(config(), tmp_path / "one", waiting=refuse):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
        os.environ["CUDA_VISIBLE_DEVICES"] = "0,1,2"  # another process
        with slot(config(processes=2), tmp_path / "two", waiting=refuse):
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,2"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2"
        with pytest.raises(HadToWait, match="3 of 3 GPUs"), slot(config(processes=3), tmp_path, waiting=refuse):
            raise AssertionError
        with slot(config(processes=2), tmp_path, waiting=refuse):  # the one that could not have three holds none
            pass
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2"


def test_a_training_on_the_cpu_takes_no_gpu(gpus: None, tmp_path: Path) -> None:
    with slot(config(processes=3), tmp_path, waiting=refuse), slot(config(device="cpu"), tmp_path, waiting=refuse):
        assert (tmp_path / ".processors.slot").exists()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2"


def test_gpus_that_are_hidden_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CUDA_VISIBLE_DEVICES=""` and `-1` are how people hide them."""
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert slots.visible_gpus() == []


def test_who_waits_is_told_once_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that waits for hours must not fill the terminal."""
    told: list[str] = []
    with slot(config(device="cpu"), tmp_path, waiting=refuse) as _:
        rounds = iter(range(3))

        def sleep(_seconds: float) -> None:
            if next(rounds, None) is None:
                raise TimeoutError

        monkeypatch.setattr("minimind.train.slots.time.sleep", sleep)
        with pytest.raises(TimeoutError), slot(config(device="cpu"), tmp_path, waiting=told.append):
            raise AssertionError
    assert len(told) == 1
