"""A campaign: runs of the fuzzer, one after the other, until its time is over; what they did, as figures.

A run ends after so many inputs, or where an input kills or stops it, which is a find; the next one goes on from the
corpus.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzz.session import load
from fuzz.target import Target

TESTS = Path(__file__).resolve().parents[1] / "tests"
INPUT_SECONDS = 20
"""An input that takes longer is a find. Nothing that is read here takes a hundredth of it."""
MEMORY_MIB = 2048
RUN_INPUTS = 50_000
"""Of one run: atheris itself keeps up to 28 KB of each input, as long as its process lives."""
_STATUS = re.compile(r"^#(\d+)\t\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)", re.MULTILINE)
_KILLERS = ("crash-", "timeout-", "oom-", "slow-unit-")


@dataclass
class Figures:
    """What came of a campaign."""

    target: str
    seconds: float = 0
    runs: int = 0
    executions: int = 0
    edges: int = 0
    """Of the instrumented code that were reached."""
    features: int = 0
    corpus: int = 0
    finds: list[str] = field(default_factory=list)
    """What broke, each with the file that breaks it."""


def run(name: str, *, seconds: int, corpus: Path, finds: Path) -> Figures:
    """Fuzz a target for so long, into and out of these directories."""
    target = load(name)
    for directory in (corpus, finds):
        directory.mkdir(parents=True, exist_ok=True)
    for label, data in _beginnings(target):
        (corpus / f"seed-{re.sub(r'[^A-Za-z0-9]+', '-', label)}").write_bytes(data)
    dictionary = finds / f"{name}.dict"
    dictionary.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words), encoding="ascii")
    figures = Figures(name)
    began = time.monotonic()
    while (left := int(seconds - (time.monotonic() - began))) > 0:
        arguments = [
            f"-max_total_time={left}",
            f"-runs={RUN_INPUTS}",
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={MEMORY_MIB}",
            f"-max_len={target.max_bytes}",
            f"-dict={dictionary}",
            f"-artifact_prefix={finds}/",
            str(corpus),
        ]
        _one_run([name, str(finds), *arguments], finds / f"{name}.log", figures)
    figures.seconds = round(time.monotonic() - began, 1)
    figures.finds = _named(finds)
    return figures


def _beginnings(target: Target) -> Iterator[tuple[str, bytes]]:
    """The seeds, what was ever found, and the bad files that are kept with the tests; those that are not too long."""
    yield from target.seeds.items()
    for path in sorted((TESTS / "fuzz_finds" / target.name).iterdir()):
        yield f"found {path.name}", path.read_bytes()
    for folder, before in target.folders.items():
        for path in sorted((TESTS / "bad_input" / folder).iterdir()):
            if path.is_file() and path.stat().st_size + len(before) <= target.max_bytes:
                yield f"{folder} {path.name}", before + path.read_bytes()


def shown(figures: Figures) -> dict[str, object]:
    """The figures, for JSON."""
    return asdict(figures)


def _one_run(arguments: list[str], log: Path, figures: Figures) -> None:
    command = [sys.executable, "-W", "ignore", "-m", "fuzz.session", *arguments]
    memory = Path("/dev/shm")  # noqa: S108  a directory of its own is made there
    with (
        log.open("ab") as file,
        tempfile.TemporaryDirectory(prefix="fuzz-", dir=memory if memory.is_dir() else None) as scratch,
    ):  # the fuzzer ends its process without a word, and leaves what that wrote
        start = file.tell()
        subprocess.run(command, stdout=file, stderr=file, check=False, env={**os.environ, "TMPDIR": scratch})
    with log.open("rb") as file:
        file.seek(start)
        said = _STATUS.findall(file.read().decode("utf-8", "replace"))
    if not said:
        raise SystemExit(f"the fuzzer did not start; {log} says why")
    executions, *state = map(int, said[-1])
    figures.runs, figures.executions = figures.runs + 1, figures.executions + executions
    figures.edges, figures.features, figures.corpus = (max(pair) for pair in zip(state, _state(figures), strict=True))


def _state(figures: Figures) -> tuple[int, int, int]:
    return figures.edges, figures.features, figures.corpus


def _named(finds: Path) -> list[str]:
    """The first line of each find that a session kept, and the files of what killed one."""
    kept = [f"{path.stem}.bin: {path.read_text(encoding='utf-8').splitlines()[0]}" for path in finds.glob("*.txt")]
    return sorted(kept) + sorted(path.name for path in finds.iterdir() if path.name.startswith(_KILLERS))


def _escaped(word: str) -> str:
    return "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in word.encode())
