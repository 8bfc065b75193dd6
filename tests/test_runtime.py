"""What a machine lets this process have."""

import errno
import os
import re
from pathlib import Path
from typing import Any

import pytest

from minimind import runtime
from minimind.errors import ConfigError


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("what?", "ends at a `?`"),
        ("file", "file is no directory"),
        ("file/deep/deeper", "file is no directory"),
        ("circle", "Symlink loop"),
        ("long" * 100, "File name too long"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_home_that_cannot_be_is_refused_with_the_reason(
    place: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").touch()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path / place))
    with pytest.raises(ConfigError, match=re.escape(message)):
        runtime.home()


@pytest.mark.parametrize("place", ["new/deep", "a #1 100% ünï 'x' \"y\" 你好 🐱"])
def test_a_home_may_have_any_other_name(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path / place))
    assert runtime.home() == tmp_path / place


def in_group(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on 64 cores, in that control group."""
    read_text = Path.read_text

    def read(path: Path, *arguments: Any, **named: Any) -> str:
        return f"1:cpu:/\n0::{name}\n" if str(path) == "/proc/self/cgroup" else read_text(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "20000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 64),
        ({"cpu.max": "800000 100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64),
        ({}, 64),
    ],
)
def test_a_container_has_the_cores_of_its_quota(
    files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 threads on a quota of two run slower than two: the kernel stops all of them for most of every period."""
    in_group("/", monkeypatch)
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert runtime.cpu_count(tmp_path) == cores


def test_a_group_has_no_more_than_those_above_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm and systemd set the quota on a group above the process's own."""
    in_group("/job/step", monkeypatch)
    (tmp_path / "job" / "step").mkdir(parents=True)
    (tmp_path / "job" / "step" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "job" / "cpu.max").write_text("400000 100000\n")
    assert runtime.cpu_count(tmp_path) == 4


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A full disk, say: what is half written only takes the room that is missing."""

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "note.json"
    runtime.write_atomic(path, "old")
    monkeypatch.setattr(os, moment, fail)
    with pytest.raises(OSError, match="No space left"):
        runtime.write_atomic(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_what_write_atomic_has_under_way_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kill leaves is swept by that name, and nothing else is."""
    seen: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.extend(p for p in tmp_path.iterdir() if p.suffix == ".tmp"))
    runtime.write_atomic(tmp_path / "a.json", "{}")
    assert seen and all(map(runtime.is_unfinished, seen))
    for name in ("a.json", ".a.json", ".hidden.tmp", "a.12.tmp", ".a.json.12.tmp.gz"):
        assert not runtime.is_unfinished(Path(name))
