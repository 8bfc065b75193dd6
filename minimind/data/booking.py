"""Booking: rows of a batch entered in the ledger, the drop log and the change log.

Not here: the ledger (`ledger`) and the logs (`dropped`) themselves, and who decides (`judgement`, `cleaning`).
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from minimind.data.documents import CONTENT, RowKind
from minimind.data.dropped import ChangeLog, DropLog
from minimind.data.ledger import Ledger, length_bucket
from minimind.data.rules.texts import Dropped


class Book:
    """The ledger and the logs of one job. Everything is entered in the order of the rows."""

    def __init__(self, kind: RowKind, ledger: Ledger, dropped: DropLog, changed: ChangeLog | None = None) -> None:
        self.kind, self.ledger = kind, ledger
        self._dropped, self._changed = dropped, changed

    def came_in(self, batch: pa.RecordBatch, sizes: Sequence[int]) -> None:
        """Count the rows of `batch`, with these bytes, as read."""
        sources = source_names(batch)
        self.ledger.rows_in.update(sources)
        self.ledger.bytes_in.update(_sums(sources, sizes))

    def is_kept(self, batch: pa.RecordBatch, sizes: Sequence[int], sizes_out: Sequence[int]) -> None:
        """Count the rows of `batch` as kept: `sizes` bytes and a column `characters` as they came in."""
        sources, ledger = source_names(batch), self.ledger
        ledger.rows_kept.update(sources)
        ledger.bytes_kept.update(_sums(sources, sizes))
        ledger.bytes_out.update(_sums(sources, sizes_out))
        ledger.languages.update(zip(sources, batch["language"].to_pylist(), strict=True))
        buckets = map(length_bucket, batch["characters"].to_pylist())
        ledger.lengths_kept.update(zip(sources, buckets, strict=True))

    def is_dropped(
        self, row: Mapping[str, Any], rule: str, outcome: Dropped, *, size: int, characters: int, text: str
    ) -> None:
        """Enter one row as dropped; `text` is what it was when it came in."""
        where = _place(row)
        key = (where["source"], rule, outcome.reason)
        self.ledger.rows_dropped[key] += 1
        self.ledger.bytes_dropped[key] += size
        self.ledger.lengths_dropped[where["source"], length_bucket(characters)] += 1
        self.ledger.add_example(f"{rule}: {outcome.reason}", {**where, "detail": outcome.detail, "before": text})
        self._dropped.add(**where, rule=rule, reason=outcome.reason, detail=outcome.detail, text=text)

    def is_changed(self, row: Mapping[str, Any], rules: Iterable[str], *, before: str, after: str) -> None:
        """Enter one row as changed by these rules."""
        assert self._changed is not None, "a book without a change log was told of a change"
        where, used = _place(row), list(rules)
        for rule in used:
            self.ledger.rows_changed[where["source"], rule] += 1
            self.ledger.add_example(f"{rule}: changed", {**where, "before": before, "after": after})
        self._changed.add(**where, rules=used, before=before, after=after)


def source_names(batch: pa.RecordBatch) -> list[str]:
    """The names of the sources of the rows; the `source` column has the file behind it where there are several."""
    encoded = batch["source"].dictionary_encode()
    names = np.array([name.partition("/")[0] for name in encoded.dictionary.to_pylist()], object)
    return names[encoded.indices.to_numpy(zero_copy_only=False)].tolist() if len(names) else []


def content_text(kind: RowKind, row: dict[str, Any]) -> str:
    """The content of a row as a text for people: the text itself, or the messages as JSON without empty fields."""
    if kind == "pretrain":
        return row["text"]
    bare = {
        name: [{key: value for key, value in turn.items() if value is not None} for turn in row[name]]
        for name in CONTENT[kind]
    }
    return json.dumps(bare, ensure_ascii=False)


def _place(row: Mapping[str, Any]) -> dict[str, Any]:
    source, _, file = row["source"].partition("/")
    return {"source": source, "file": file, "line": row["line"]}


def _sums(names: Sequence[str], values: Sequence[int]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for name, value in zip(names, values, strict=True):
        sums[name] += value
    return sums
