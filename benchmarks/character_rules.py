"""The five rules that look at characters, against versions of themselves without tables over whole batches.

- `tables`: the rules as they ship. Batches of 2,048 texts, characters counted by look-up tables in numpy.
- `regex`: the same limits, but every text is counted by itself with one compiled regular expression a class
  (those of ASCII alone for texts of ASCII) and Counter, and repetition is looked for in every text that zlib can halve.
- `counter`: as `regex`, but counted by `collections.Counter`, the fastest way without numpy.

All must come to the same verdicts on the input: each of the others is compared with `tables` after it was timed.
The time of `tables` is given by rule, too. Reading the file is not measured.

    python -m benchmarks.character_rules [--input rows.jsonl] [--repeats 5]
"""

import gzip
import json
import re
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import main, sample_corpus
from minimind.data.rules.characters import CharClass, class_table, kind_table
from minimind.data.rules.control import strip_control
from minimind.data.rules.gibberish import find_gibberish
from minimind.data.rules.length import limit_length
from minimind.data.rules.mojibake import repair_unicode
from minimind.data.rules.repetition import find_repetition, verdict
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import KINDS, Changed, Dropped, Outcomes, Rule, Texts

BATCH = 2048
RULES: dict[str, Rule] = {
    "unicode": repair_unicode,
    "control": strip_control,
    "length": limit_length,
    "gibberish": find_gibberish,
    "repetition": find_repetition,
}
Found = list[tuple[int, str, Changed | Dropped]]


class PlainTexts(Texts):
    """Texts that are counted one by one."""

    def __init__(self, texts: Sequence[str], counted: Callable[[str], Iterator[tuple[str, int]]]) -> None:
        super().__init__(texts)
        self.counted = counted

    @cached_property
    def histogram(self) -> Any:
        found = np.zeros((len(self), KINDS), np.int32)
        kinds = kind_table()
        for row, text in enumerate(self.texts):
            for character, count in self.counted(text):
                found[row, kinds[ord(character)]] += count
        return found


def by_regex(text: str) -> Iterator[tuple[str, int]]:
    """Each character and how often it occurs, by one expression a class that finds its runs."""
    for expression in class_expressions(ascii_only=text.isascii()):
        yield from Counter("".join(expression.findall(text))).items()


def by_counter(text: str) -> Iterator[tuple[str, int]]:
    """Each character and how often it occurs."""
    yield from Counter(text).items()


@cache
def class_expressions(*, ascii_only: bool) -> list[re.Pattern[str]]:
    """A compiled expression for each class of characters."""
    classes = class_table()[: 128 if ascii_only else None]
    expressions = []
    for kind in CharClass:
        borders = np.flatnonzero(np.diff(classes == kind, prepend=False, append=False))
        spans = zip(borders[::2].tolist(), borders[1::2].tolist(), strict=True)
        members = "".join(f"\\U{first:08x}-\\U{stop - 1:08x}" for first, stop in spans)
        expressions += [re.compile(f"[{members}]+")] if members else []
    return expressions


def repetition_by_zlib(texts: Texts, settings: CleanRules) -> Outcomes:
    """Repetition without bounds: exact for every text that zlib makes half as long, or that has a line twice."""
    found = {}
    for i, text in enumerate(texts.texts):
        packed = _SPACE.sub("", text)
        most = Counter(packed).most_common(1)
        raw = packed.encode()
        lines = [line for line in _LINE.findall(text) if _LETTER.search(line)]
        is_suspect = most and most[0][1] > settings.max_character_share * len(packed)
        is_suspect = is_suspect or len(set(lines)) < len(lines)
        if is_suspect or len(raw) > _ZLIB_WINDOW or len(zlib.compress(raw, 1)) < 0.5 * len(raw):
            found[i] = verdict(texts, i, settings)
    return {i: dropped for i, dropped in found.items() if dropped is not None}


_SPACE = re.compile(r"\s+")
_LINE = re.compile(r"[^\s][^\n]*")
_LETTER = re.compile(r"[^\W\d_]")
_ZLIB_WINDOW = 1 << 15
"""zlib sees no repetition from farther away."""


def tables(path: Path) -> dict[str, Any]:
    """The rules as they ship, and milliseconds a megabyte of each."""
    texts, megabytes = _read(path)
    _apply(Texts(texts[:1]), RULES, Counter())  # tables are made once a process
    clock: Counter[str] = Counter()
    found = _judged(texts, Texts, RULES, clock)
    times = {f"{name}_ms_per_mb": 1000 * seconds / megabytes for name, seconds in clock.items()}
    return {"megabytes": megabytes, "cpu_seconds": clock.total(), "verdicts": len(found), **times}


def regex(path: Path) -> dict[str, Any]:
    """The same, every text by itself, counted by compiled expressions."""
    return _compared(path, by_regex)


def counter(path: Path) -> dict[str, Any]:
    """The same, every text by itself, counted by Counter."""
    return _compared(path, by_counter)


def _compared(path: Path, counted: Callable[[str], Iterator[tuple[str, int]]]) -> dict[str, Any]:
    texts, megabytes = _read(path)
    rules = {**RULES, "repetition": repetition_by_zlib}
    _apply(PlainTexts(texts[:1], counted), rules, Counter())
    clock: Counter[str] = Counter()
    found = _judged(texts, lambda some: PlainTexts(some, counted), rules, clock)
    shipped = _judged(texts, Texts, RULES, Counter())
    if found != shipped:
        first = next((pair for pair in zip(found, shipped, strict=False) if pair[0] != pair[1]), None)
        raise RuntimeError(f"{len(found)} verdicts, {len(shipped)} of the rules as they ship; the first other: {first}")
    return {"megabytes": megabytes, "cpu_seconds": clock.total(), "verdicts": len(found)}


def _judged(
    texts: list[str], batch: Callable[[list[str]], Texts], rules: dict[str, Rule], clock: Counter[str]
) -> Found:
    found: Found = []
    for first in range(0, len(texts), BATCH):
        outcomes = _apply(batch(texts[first : first + BATCH]), rules, clock)
        found += [(first + i, name, outcome) for i, name, outcome in outcomes]
    return found


def _apply(batch: Texts, rules: dict[str, Rule], clock: Counter[str]) -> Found:
    """What each rule says of each text, whatever the others said."""
    found: Found = []
    began = time.process_time()
    batch.counts  # noqa: B018
    clock["characters"] += time.process_time() - began
    for name, rule in rules.items():
        began = time.process_time()
        outcomes = rule(batch, CleanRules())
        clock[name] += time.process_time() - began
        found += [(i, name, outcome) for i, outcome in sorted(outcomes.items())]
    return found


def _read(path: Path) -> tuple[list[str], float]:
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    texts = [json.loads(line)["text"] for line in data.splitlines()]
    return texts, sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / 1e6


if __name__ == "__main__":
    main(
        "benchmarks.character_rules",
        "Character-level rules, MB of UTF-8 text per CPU second",
        {"tables": tables, "regex": regex, "counter": counter},
        baseline="regex",
        default_input=lambda: sample_corpus(Path(tempfile.gettempdir()) / "minimind-benchmarks", megabytes=10),
    )
