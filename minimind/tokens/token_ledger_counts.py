"""Counting again, by source, what lies in the files of an artifact: rows, bytes, documents, tokens, labels.

None of it is taken from a summary. Rows are read with their texts, since bytes are what texts have; tokens and masks
are memory-mapped and summed. In memory: twelve bytes for every row of one directory.
"""

import mmap
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minimind.data.booking import source_names
from minimind.data.documents import RowKind
from minimind.data.reading.tally import measure
from minimind.data.shards import read_batches
from minimind.tokens.batches import PairBatches, RowBatches
from minimind.tokens.token_set import TokenSet
from minimind.tokens.trace_pieces import Labels, count_batches, in_an_epoch, in_steps
from minimind.tokens.trainings import Training

Counts = Counter[str]
"""By source."""
NO_ROW = "(no row of the corpus)"
_ORIGIN = re.compile(rb'"(source|file|rule)":\s*"((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True)
class Rows:
    """The rows of a directory: which source each is from, its bytes, and what tells it from the others."""

    names: list[str]
    source_R: np.ndarray
    """Index into `names`."""
    bytes_R: np.ndarray
    keys_R: np.ndarray
    """A digest of source, line and id, so that a repeated row is known; empty where none was asked for."""

    def counts(self) -> Counts:
        return _by_source(self.names, self.source_R, np.ones(len(self.source_R), np.int64))

    def bytes(self) -> Counts:
        return _by_source(self.names, self.source_R, self.bytes_R)

    def sums(self, rows: np.ndarray, values: np.ndarray) -> Counts:
        """Values that belong to rows, by the sources of those; rows that are not there have a source of their own."""
        there = (rows >= 0) & (rows < len(self.source_R))
        sums = _by_source(self.names, self.source_R[rows[there]], values[there])
        return sums + Counter({NO_ROW: int(values[~there].sum())})

    def only(self, rows: np.ndarray) -> "Rows":
        """The given rows."""
        return Rows(self.names, self.source_R[rows], self.bytes_R[rows], self.keys_R[rows])


def count_rows(directory: Path, kind: RowKind, *, keys: bool = False) -> Rows:
    """All rows of a directory of Arrow files; with `keys` each row's own, which is slow."""
    names: dict[str, int] = {}
    codes, sizes, digests = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for batch in read_batches(directory):
        sources = source_names(batch)
        codes.append(np.array([names.setdefault(name, len(names)) for name in sources], np.int32))
        sizes.append(measure(kind, batch)[0])
        if keys:
            rows = zip(*(batch[name].to_pylist() for name in ("source", "line", "id")), strict=True)
            digests.append(np.array([hash(row) for row in rows], np.int64))
    joined = np.concatenate(digests) if keys else np.zeros(sum(map(len, codes)), np.int64)
    return Rows(list(names), np.concatenate(codes), np.concatenate(sizes), joined)


def count_logged(path: Path) -> Counter[tuple[str, str, str]]:
    """The rows of a drop log by source, file and rule; only the beginning of each line is read."""
    counted: Counter[tuple[str, str, str]] = Counter()
    if not path.exists() or not path.stat().st_size:
        return counted
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for line in iter(data.readline, b""):
            told = {name: value.decode("utf-8", "replace") for name, value in _ORIGIN.findall(line[:4096])[:3]}
            counted[told.get(b"source", ""), told.get(b"file", ""), told.get(b"rule", "")] += 1
    return counted


@dataclass(frozen=True)
class SetCounts:
    """A split of a token set, by source."""

    rows: Counts
    """Rows of the corpus that have a document."""
    documents: Counts
    tokens: Counts
    trained: Counts


def count_tokens(tokens: TokenSet, rows: Rows) -> SetCounts:
    """Documents, tokens and labels of one epoch, by the sources of the corpus rows they were made from."""
    of_document = np.asarray(tokens.rows)
    lengths = np.diff(tokens.offsets)
    trained = lengths
    if tokens.trained is not None:
        trained = _sums_between(tokens.trained, np.asarray(tokens.offsets))
    return SetCounts(
        rows=rows.sums((unique := np.unique(of_document)), np.ones(len(unique), np.int64)),
        documents=rows.sums(of_document, np.ones(len(of_document), np.int64)),
        tokens=rows.sums(of_document, lengths),
        trained=rows.sums(of_document, trained),
    )


@dataclass(frozen=True)
class TrainingCounts:
    """What a training got."""

    is_plain: bool
    """Its epochs are the rows of its token set as they are: nothing is mixed in, read beside them or augmented."""
    items: int
    """Rows of the packing plan, or pairs."""
    epoch_tokens: int
    epoch_labels: int
    tokens: int
    """Over all steps; the same for labels."""
    labels: int


def count_training(training: Training) -> TrainingCounts:
    """Tokens and labels of an epoch and of all steps, added up from the pieces that its batches are made of."""
    batches = training.open()
    labels = Labels([TokenSet.open(artifact.dir / "train") for artifact in training.token_sets])
    is_plain = type(batches) in (RowBatches, PairBatches)
    epoch = [labels.count(pieces) for pieces in in_an_epoch(batches)] if is_plain else []
    taken = []
    for part in in_steps(batches, training.batch_items, training.steps):
        changed = (part.pieces.documents < 0).any()
        taken.append(count_batches(batches, part.first, part.stop) if changed else labels.count(part.pieces))
    items = batches.num_pairs if isinstance(batches, PairBatches) else batches.num_rows
    epoch_tokens, epoch_labels = (sum(column) for column in zip((0, 0), *epoch, strict=True))
    tokens, learnt = (sum(column) for column in zip((0, 0), *taken, strict=True))
    return TrainingCounts(is_plain, items, epoch_tokens, epoch_labels, tokens, learnt)


def _by_source(names: list[str], sources: np.ndarray, values: np.ndarray) -> Counts:
    sums = np.zeros(len(names), np.int64)
    np.add.at(sums, sources, values)
    return Counter({name: int(value) for name, value in zip(names, sums, strict=True) if value})


def _sums_between(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """The sum of values between neighbouring edges; a stretch at a time, since the values are a file."""
    totals = np.zeros(len(edges), np.int64)
    done = 0
    for first in range(0, len(edges) - 1, 1 << 16):
        own = edges[first : first + (1 << 16) + 1]
        running = np.concatenate([[0], np.cumsum(values[own[0] : own[-1]], dtype=np.int64)])
        totals[first : first + len(own)] = done + running[own - own[0]]
        done = int(totals[first + len(own) - 1])
    return np.diff(totals)
