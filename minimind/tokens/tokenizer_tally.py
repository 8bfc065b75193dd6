"""What a tokenizer does to every row of a corpus: tokens, characters spelt in bytes, texts that do not come back.

A job takes one shard file, so a large corpus is counted on all cores (`minimind.workers`); a job costs about what
tokenising the file costs. Counts of jobs add up, so the result does not depend on how the corpus is cut.
Not here: shares, rankings and pages (`tokenizer_report`).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from minimind.data.shards import SIDES, read_file
from minimind.tokens.tokenizer import Tokenizer
from minimind.workers import map_jobs

FAILURES_SHOWN = 20
UNKNOWN_LANGUAGE = "unknown"


@dataclass
class Amount:
    """Of some texts: how many, how long, and in how many tokens, of which `spelt` are bytes of characters."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    spelt: int = 0

    @property
    def bytes_per_token(self) -> float:
        return round(self.bytes / max(self.tokens, 1), 4)

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.documents + other.documents,
            self.bytes + other.bytes,
            self.tokens + other.tokens,
            self.spelt + other.spelt,
        )


@dataclass
class Tally:
    """Counts of a part of a corpus."""

    counts_V: np.ndarray
    """int64, how often each id came out in the training rows."""
    amounts: dict[tuple[str, str, str], Amount] = field(default_factory=dict)
    """By split, source and language."""
    spelt: Counter[str] = field(default_factory=Counter)
    """Characters that were written in bytes, of the training rows."""
    failures: int = 0
    """Documents that did not come back unchanged, or gave a special token."""
    failed: list[str] = field(default_factory=list)
    """The first of them: split, source, line, and how the text begins."""

    @classmethod
    def of(cls, vocab_size: int) -> "Tally":
        """Nothing counted yet."""
        return cls(np.zeros(vocab_size, np.int64))

    def add(self, other: "Tally") -> None:
        self.counts_V += other.counts_V
        for key, amount in other.amounts.items():
            self.amounts[key] = self.amounts.get(key, Amount()) + amount
        self.spelt.update(other.spelt)
        self.failures += other.failures
        self.failed = (self.failed + other.failed)[:FAILURES_SHOWN]


@dataclass(frozen=True)
class TallyJob:
    """One shard file of a split, and where the tokenizer's files are."""

    tokenizer: str
    path: str
    split: str


def tally_jobs(tokenizer_dir: Path, corpus_dir: Path) -> list[TallyJob]:
    """A job for every shard file of a corpus."""
    paths = [(split, path) for split in SIDES for path in sorted((corpus_dir / split).glob("*.arrow"))]
    return [TallyJob(str(tokenizer_dir), str(path), split) for split, path in paths]


def tally_corpus(jobs: Sequence[TallyJob], vocab_size: int, *, workers: int) -> Iterator[Tally]:
    """The sum of all jobs so far, after each of them; the last one is the whole corpus."""
    total = Tally.of(vocab_size)
    for tally in map_jobs(tally_file, jobs, workers=workers):
        total.add(tally)
        yield total


def tally_file(job: TallyJob) -> Tally:
    """Count one shard file."""
    tokenizer = Tokenizer.load(Path(job.tokenizer))
    total = Tally.of(tokenizer.vocab_size)
    for batch in read_file(Path(job.path), ["source", "line", "language", "text"]):
        sources, lines, languages, texts = (batch[name].to_pylist() for name in ("source", "line", "language", "text"))
        origins = [f"{job.split} {source}:{line}" for source, line in zip(sources, lines, strict=True)]
        groups = [
            (job.split, source.partition("/")[0], language or UNKNOWN_LANGUAGE)
            for source, language in zip(sources, languages, strict=True)
        ]
        total.add(tally_texts(tokenizer, texts, groups=groups, origins=origins, learnt=job.split == "train"))
    return total


def tally_texts(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    groups: Sequence[tuple[str, str, str]],
    origins: Sequence[str],
    learnt: bool = True,
) -> Tally:
    """Count texts. Of those that are not `learnt` from, ids and characters are not counted one by one."""
    encoded = tokenizer.encode_batch(texts)
    lengths = [len(ids) for ids in encoded]
    flat = np.fromiter(chain.from_iterable(encoded), np.int64, count=sum(lengths))
    is_spelt = np.zeros(tokenizer.vocab_size, bool)
    is_spelt[list(tokenizer.spelt)] = True
    special = list(tokenizer.specials.named())
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    spelt = np.diff(np.concatenate([[0], np.cumsum(is_spelt[flat])])[offsets])
    counts = np.bincount(flat, minlength=tokenizer.vocab_size)
    tally, table = Tally(counts if learnt else np.zeros_like(counts)), tokenizer.piece_bytes()
    for text, ids, group, origin, in_bytes in zip(texts, encoded, groups, origins, spelt.tolist(), strict=True):
        raw = text.encode("utf-8")
        amount = tally.amounts.setdefault(group, Amount())
        tally.amounts[group] = amount + Amount(1, len(raw), len(ids), in_bytes)
        if b"".join([table[index] for index in ids]) != raw and tokenizer.decode(ids) != text:
            tally.failures += 1
            tally.failed.append(f"{origin}: {text[:60]!r}")
        if in_bytes and learnt:
            tally.spelt.update(_spelt_characters(ids, tokenizer.spelt, table))
    tally.failed = tally.failed[:FAILURES_SHOWN]
    if counts[special].any():
        raise AssertionError("a special token came out of a text")
    return tally


def _spelt_characters(ids: Iterable[int], spelt: frozenset[int], table: list[bytes]) -> str:
    """The characters that stand in runs of single bytes; parts that are no UTF-8 alone are left out."""
    runs = b"".join(table[index] if index in spelt else b" " for index in ids)
    return "".join(runs.decode("utf-8", "ignore").split(" "))
