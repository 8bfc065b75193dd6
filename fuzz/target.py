"""What is fuzzed: a claim about any bytes, bytes to begin with, and how to make others of them."""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

Mutate = Callable[[bytes, random.Random], bytes]


class Broken(AssertionError):
    """A claim does not hold. `claim` is the same words every time, so that finds can be told apart by it."""

    def __init__(self, claim: str, detail: object = "") -> None:
        super().__init__(f"{claim}: {detail!r:.400}" if detail != "" else claim)
        self.claim = claim


@dataclass(frozen=True)
class Target:
    """One thing that is fuzzed."""

    name: str
    check: Callable[[bytes], None]
    """Raises Broken, or whatever should never be raised."""
    seeds: Mapping[str, bytes]
    words: Sequence[str]
    """Names that mean something in the input: the fuzzer's dictionary."""
    mutate: Mutate
    """Other bytes, with the structure of the given ones in mind."""
    max_bytes: int = 4096
    folders: Mapping[str, bytes] = field(default_factory=dict)
    """Folders of `tests/bad_input` whose files are inputs once these bytes stand before them."""


def claim(holds: object, words: str, detail: object = "") -> None:
    """Raise Broken where it does not hold."""
    if not holds:
        raise Broken(words, detail)


def scratch() -> Path:
    """A directory of this process; gone when the process ends, or with the campaign that started it."""
    return Path(_directory().name).resolve()


@cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="fuzz-")
