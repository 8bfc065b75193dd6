"""Work cut into pieces: the same bytes from any number of workers, and nothing finished is done twice."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from minimind.config import Config
from minimind.data.pieces import Advance, build_pieces, enough_workers
from minimind.workers import in_processes, map_jobs, mapping


class Job(Config):
    number: int
    log: str


def write_number(job: Job, out_dir: Path, advance: Advance) -> None:
    with Path(job.log).open("a", encoding="ascii") as log:
        log.write(f"{job.number}\n")
    (out_dir / "number").write_text(str(job.number**2), encoding="ascii")
    advance(1)


def fail_on_two(job: Job, out_dir: Path, advance: Advance) -> None:
    if job.number == 2:
        raise ValueError("number two is bad")
    write_number(job, out_dir, advance)


def square(number: int) -> int:
    return number * number


def jobs(tmp_path: Path, count: int = 5) -> list[Job]:
    return [Job(number=number, log=str(tmp_path / "log")) for number in range(count)]


def numbers(pieces: list[Path]) -> list[int]:
    return [int((piece / "number").read_text()) for piece in pieces]


def did(tmp_path: Path) -> list[int]:
    return [int(line) for line in (tmp_path / "log").read_text().split()]


@pytest.mark.parametrize("workers", [1, 3])
def test_pieces_come_in_the_order_of_the_jobs(tmp_path: Path, workers: int):
    """Whoever finishes first, the output is put together in the order of the input."""
    pieces = build_pieces(write_number, jobs(tmp_path), tmp_path / "pieces", workers=workers)
    assert numbers(pieces) == [0, 1, 4, 9, 16]
    assert sorted(did(tmp_path)) == [0, 1, 2, 3, 4]


def test_a_finished_piece_is_not_done_again(tmp_path: Path):
    """A killed stage goes on from what is there; the piece that failed leaves nothing behind."""
    with pytest.raises(ValueError, match="number two"):
        build_pieces(fail_on_two, jobs(tmp_path), tmp_path / "pieces", workers=1)
    assert did(tmp_path) == [0, 1]
    assert numbers(build_pieces(write_number, jobs(tmp_path), tmp_path / "pieces", workers=1)) == [0, 1, 4, 9, 16]
    assert did(tmp_path) == [0, 1, 2, 3, 4]


def test_pieces_of_other_jobs_are_not_taken_for_these(tmp_path: Path):
    """A stale piece would be wrong data without a word."""
    build_pieces(write_number, jobs(tmp_path, 3), tmp_path / "pieces", workers=1)
    build_pieces(write_number, jobs(tmp_path, 4), tmp_path / "pieces", workers=1)
    assert did(tmp_path) == [0, 1, 2, 0, 1, 2, 3]


def test_a_half_written_piece_is_begun_again(tmp_path: Path):
    """What a kill left in a .part directory must not end up in the piece."""
    build_pieces(write_number, jobs(tmp_path, 1), tmp_path / "pieces", workers=1)
    (tmp_path / "pieces" / "00000").rename(tmp_path / "pieces" / "00000.part")
    (tmp_path / "pieces" / "00000.part" / "rubbish").touch()
    (piece,) = build_pieces(write_number, jobs(tmp_path, 1), tmp_path / "pieces", workers=1)
    assert [path.name for path in piece.iterdir()] == ["number"]


@pytest.mark.parametrize("damage", ["", "changed", None])
def test_a_damaged_piece_is_made_again(tmp_path: Path, damage: str | None):
    """After a power cut a piece may have its name and not its bytes; half a piece must not pass for one."""
    (piece,) = build_pieces(write_number, jobs(tmp_path, 1), tmp_path / "pieces", workers=1)
    (piece / "number").unlink()
    if damage is not None:
        (piece / "number").write_text(damage)
    assert numbers(build_pieces(write_number, jobs(tmp_path, 1), tmp_path / "pieces", workers=1)) == [0]
    assert did(tmp_path) == [0, 0]


def test_little_work_starts_no_processes_unless_asked():
    """Starting a process takes longer than cleaning a small file."""
    assert enough_workers(0, 1000) == 1
    assert enough_workers(0, 1 << 30) == 0
    assert enough_workers(3, 1000) == 3


def test_another_mapper_gets_the_jobs():
    """An orchestrator runs the same jobs on its own workers."""
    seen = []

    def mapper(function, given, *, workers):
        seen.append((len(given), workers))
        return map(function, given)

    with mapping(mapper):
        assert list(map_jobs(square, [1, 2, 3])) == [1, 4, 9]
        assert list(map_jobs(square, [1, 2, 3], workers=1)) == [1, 4, 9]
    assert seen == [(3, 0)]
    assert list(in_processes(square, [1, 2, 3], workers=2)) == [1, 4, 9]


def test_workers_end_with_their_parent(tmp_path: Path):
    """A killed pipeline must not leave processes that go on writing."""
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from test_pieces import Sleeper, sleep_long
        from minimind.data.pieces import build_pieces
        if __name__ == "__main__":
            jobs = [Sleeper(pid_file=f"{tmp_path}/{{n}}.pid") for n in range(2)]
            build_pieces(sleep_long, jobs, Path({str(tmp_path / "pieces")!r}), workers=2)
    """)
    file = tmp_path / "script.py"
    file.write_text(script, encoding="utf-8")
    parent = subprocess.Popen([sys.executable, str(file)])
    pids = [tmp_path / f"{number}.pid" for number in range(2)]
    _wait_for(lambda: all(path.exists() and path.read_text() for path in pids))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _wait_for(lambda: not any(_alive(int(path.read_text())) for path in pids))


class Sleeper(Config):
    pid_file: str


def sleep_long(job: Sleeper, out_dir: Path, advance: Advance) -> None:
    Path(job.pid_file).write_text(str(os.getpid()), encoding="ascii")
    time.sleep(60)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def _wait_for(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
