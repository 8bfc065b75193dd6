"""Booking: rows of a batch entered in the ledger, the drop log and the change log.

Rows are counted a batch at a time, by numbers that stand for their sources, languages and lengths; Python looks
at single rows only where they are written to a log. Not here: the ledger (`ledger`) and the logs (`dropped`)
themselves, and who decides (`judgement`, `cleaning`).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from minimind.data.arrays import numbers, strings
from minimind.data.documents import CONTENT, RowKind
from minimind.data.dropped import ChangeLog, DropLog
from minimind.data.ledger import Ledger

FORGET, FORGOTTEN = "forget", "forgotten"
"""Rule and reason of a row that is left out because somebody asked for it: nothing keeps its text."""
_BUCKETS = 53
"""Of lengths: as many as there are bits in a float's mantissa."""


@dataclass(frozen=True)
class Fates:
    """Why rows are dropped, one entry a row."""

    rules: Sequence[str]
    reasons: Sequence[str]
    details: Sequence[str]


class Book:
    """The ledger and the logs of one job. Everything is entered in the order of the rows."""

    def __init__(self, kind: RowKind, ledger: Ledger, dropped: DropLog, changed: ChangeLog | None = None) -> None:
        self.kind, self.ledger = kind, ledger
        self._dropped, self._changed = dropped, changed

    def came_in(self, rows: pa.RecordBatch, sizes: Sequence[int]) -> None:
        """Count `rows`, of these bytes, as read."""
        sources = _sources(rows)
        _count(self.ledger.rows_in, sources)
        _count(self.ledger.bytes_in, sources, weights=sizes)

    def are_kept(self, rows: pa.RecordBatch, sizes_out: Sequence[int]) -> None:
        """Count `rows` as kept; they have columns `bytes_in` and `characters` of what they were as they came in."""
        sources, ledger = _sources(rows), self.ledger
        _count(ledger.rows_kept, sources)
        _count(ledger.bytes_kept, sources, weights=numbers(rows["bytes_in"]))
        _count(ledger.bytes_out, sources, weights=sizes_out)
        _count(ledger.languages, sources, _labels(rows["language"]))
        _count(ledger.lengths_kept, sources, _buckets(numbers(rows["characters"])))

    def are_dropped(
        self,
        rows: pa.RecordBatch,
        fates: Fates,
        *,
        sizes: Sequence[int],
        characters: Sequence[int],
        texts: Sequence[str],
    ) -> None:
        """Enter `rows` as dropped; sizes, characters and texts are those they came in with.

        Of one that is forgotten the text goes nowhere.
        """
        texts = ["" if rule == FORGET else text for rule, text in zip(fates.rules, texts, strict=True)]
        ledger, sources = self.ledger, _sources(rows)
        labels = (sources, _labels(strings(fates.rules)), _labels(strings(fates.reasons)))
        _count(ledger.rows_dropped, *labels)
        _count(ledger.bytes_dropped, *labels, weights=sizes)
        _count(ledger.lengths_dropped, sources, _buckets(characters))
        names, files, lines = _places(rows)
        reasons = set(zip(fates.rules, fates.reasons, strict=True)) - {(FORGET, FORGOTTEN)}
        if any(ledger.wants_example(f"{rule}: {reason}") for rule, reason in reasons):
            entries = zip(names, files, lines, fates.rules, fates.reasons, fates.details, texts, strict=True)
            for source, file, line, rule, reason, detail, text in entries:
                if rule != FORGET:
                    example = {"source": source, "file": file, "line": line, "detail": detail, "before": text}
                    ledger.add_example(f"{rule}: {reason}", example)
        self._dropped.add_all(names, files, lines, fates.rules, fates.reasons, fates.details, texts)

    def are_changed(
        self, rows: pa.RecordBatch, rules: Sequence[Sequence[str]], *, before: Sequence[str], after: Sequence[str]
    ) -> None:
        """Enter `rows` as changed, each by its rules."""
        assert self._changed is not None, "a book without a change log was told of a change"
        names, files, lines = _places(rows)
        for source, file, line, used, one, other in zip(names, files, lines, rules, before, after, strict=True):
            for rule in used:
                self.ledger.rows_changed[source, rule] += 1
                example = {"source": source, "file": file, "line": line, "before": one, "after": other}
                self.ledger.add_example(f"{rule}: changed", example)
        self._changed.add_all(names, files, lines, rules, before, after)


def source_names(rows: pa.RecordBatch) -> list[str]:
    """The names of the sources of the rows."""
    sources = _sources(rows)
    return [sources.names[number] for number in sources.numbers.tolist()]


def content_texts(kind: RowKind, rows: pa.RecordBatch) -> list[str]:
    """The content of each row as a text for people: see `content_text`."""
    if kind == "pretrain":
        return rows["text"].to_pylist()
    return [content_text(kind, row) for row in rows.select(list(CONTENT[kind])).to_pylist()]


def content_text(kind: RowKind, row: Mapping[str, Any]) -> str:
    """The content of a row as a text for people: the text itself, or the messages as JSON without empty fields."""
    if kind == "pretrain":
        return row["text"]
    bare = {
        name: [{key: value for key, value in turn.items() if value is not None} for turn in row[name]]
        for name in CONTENT[kind]
    }
    return json.dumps(bare, ensure_ascii=False)


@dataclass(frozen=True)
class _Labels:
    """What each row is called, as the number of a name."""

    names: Sequence[Any]
    numbers: npt.NDArray[np.integer]


def _labels(column: pa.Array) -> _Labels:
    encoded = column.dictionary_encode()
    return _Labels(encoded.dictionary.to_pylist(), numbers(encoded.indices))


def _sources(rows: pa.RecordBatch) -> _Labels:
    """The sources of the rows; the column has the file behind the name where a source has several."""
    labels = _labels(rows["source"])
    return _Labels([name.partition("/")[0] for name in labels.names], labels.numbers)


def _buckets(characters: Sequence[int] | npt.NDArray[np.int64]) -> _Labels:
    """The buckets of lengths: see `ledger.length_bucket`."""
    exponents = np.frexp(np.asarray(characters, np.float64))[1]  # the bit length of a number below 2**53
    return _Labels(range(_BUCKETS), np.maximum(exponents - 1, 0))


def _count(counter: Counter[Any], *labels: _Labels, weights: Sequence[int] | None = None) -> None:
    """Add the rows, or their weights, to `counter`, by their label or the tuple of their labels."""
    shape = [len(label.names) for label in labels]
    if not len(labels[0].numbers):
        return
    numbers = np.ravel_multi_index([label.numbers for label in labels], shape)
    sums = np.bincount(numbers, weights)  # weights as floats of 53 bits: a batch has fewer bytes
    found = np.flatnonzero(sums)
    keys = [
        [label.names[at] for at in places] for label, places in zip(labels, np.unravel_index(found, shape), strict=True)
    ]
    for key, total in zip(zip(*keys, strict=True), sums[found].tolist(), strict=True):
        counter[key if len(key) > 1 else key[0]] += int(total)


def _places(rows: pa.RecordBatch) -> tuple[list[str], list[str], list[int]]:
    """Sources, files and lines of the rows."""
    encoded = rows["source"].dictionary_encode()
    parts = [name.partition("/") for name in encoded.dictionary.to_pylist()]
    numbers = encoded.indices.to_pylist()
    return [parts[at][0] for at in numbers], [parts[at][2] for at in numbers], rows["line"].to_pylist()
