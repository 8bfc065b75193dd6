"""Tallies: what became of the rows of one source, and what to tell the owner of a bad one.

A tally is kept by each job and the jobs' are added up in their order, so that it does not depend on how the
work was cut. Rows and bytes are those of the `ledger`; a row's bytes are those it had in its file.
"""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import msgspec
import numpy as np
import pyarrow as pa

from minimind.data.arrays import Ints
from minimind.data.columns import text_bytes, text_characters
from minimind.data.documents import RowKind
from minimind.data.ledger import Ledger, length_bucket
from minimind.data.reading.checking import BadRow, Checked, Form
from minimind.data.reading.foreign import guess_encoding
from minimind.data.reading.shapes import recognise
from minimind.data.reading.strict_json import RowError, read_json

CHECK = "check"
"""The rule that a row which cannot be used has met."""
FEW_ROWS = 20
"""Fewer rows than this are judged by what most of them have wrong, not by how many are bad."""
_FILE = "tally.json"
_SAMPLES = 2
_SAMPLE_CHARACTERS = 400


@dataclass
class Tally:
    """Counts of one source."""

    source: str
    ledger: Ledger = field(default_factory=Ledger)
    blank: int = 0
    """Blank lines, which are no rows."""
    hints: dict[str, str] = field(default_factory=dict)
    """Reason → what the first row that has it looks like."""
    samples: list[str] = field(default_factory=list)

    @property
    def kept(self) -> int:
        return self.ledger.rows_kept[self.source]

    @property
    def dropped(self) -> int:
        return self.ledger.rows_dropped.total()

    def add(self, checked: Checked, form: Form, *, file: str) -> None:
        """Count what became of some rows of `file`."""
        ledger, source = self.ledger, self.source
        sizes = int(checked.sizes().sum())
        bytes_out, characters = measure(form.rows, checked.rows)
        self.blank += len(checked.blank)
        ledger.rows_in[source] += checked.rows.num_rows + len(checked.bad)
        ledger.bytes_in[source] += sizes + sum(row.size for row in checked.bad)
        ledger.rows_kept[source] += checked.rows.num_rows
        ledger.bytes_kept[source] += sizes
        ledger.bytes_out[source] += int(bytes_out.sum())
        buckets, counts = np.unique(np.frexp(np.maximum(characters, 1))[1] - 1, return_counts=True)
        for bucket, count in zip(buckets.tolist(), counts.tolist(), strict=True):
            ledger.lengths_kept[source, bucket] += count
        for row in checked.bad:
            self._drop(row, form, file)
        if len(self.samples) < _SAMPLES:
            first = checked.rows.slice(0, _SAMPLES - len(self.samples)).to_pylist()
            self.samples += [json.dumps(row, ensure_ascii=False)[:_SAMPLE_CHARACTERS] for row in first]

    def merge(self, other: Self) -> None:
        """Count what a later job counted."""
        self.ledger.add(other.ledger)
        self.blank += other.blank
        self.hints = {**other.hints, **self.hints}
        self.samples = [*self.samples, *other.samples][:_SAMPLES]

    def reasons(self) -> Counter[str]:
        """Bad rows by reason."""
        counts: Counter[str] = Counter()
        for (_, _, reason), count in self.ledger.rows_dropped.items():
            counts[reason] += count
        return counts

    def bad_fraction(self) -> float:
        return self.dropped / max(1, self.kept + self.dropped)

    def is_wrong(self, allowed: float) -> bool:
        """Whether the source as a whole is wrong: no good row, or a larger share of bad ones than `allowed`.

        Of a few rows with all kinds of faults a share says nothing; one fault that most of them have does.
        """
        rows = self.kept + self.dropped
        if self.bad_fraction() <= allowed:
            return False
        commonest = max(self.reasons().values())
        return not self.kept or rows >= FEW_ROWS or commonest > allowed * rows

    def complaint(self, *, gave_up: bool = False) -> str:
        """How many rows are bad, the most frequent reason, its first place, and what the file seems to be.

        `gave_up`: not all rows were read.
        """
        reason, count = self.reasons().most_common(1)[0]
        first = self.ledger.examples[f"{CHECK}: {reason}"][0]
        hint = self.hints.get(reason, "") if count > self.kept else ""
        return (
            f"{self.dropped:,} of {'the first ' if gave_up else ''}{self.kept + self.dropped:,} rows "
            f"cannot be used; most often {reason} ({count:,}), "
            f"first in {first['file']}, line {first['line']}: {first['detail']}" + (f"; {hint}" if hint else "")
        )

    def write(self, directory: Path) -> None:
        """Write the ledger and what belongs to it, as part of a piece."""
        self.ledger.write(directory)
        others = {"source": self.source, "blank": self.blank, "hints": self.hints, "samples": self.samples}
        (directory / _FILE).write_bytes(msgspec.json.encode(others))

    @classmethod
    def read(cls, directory: Path) -> Self:
        return cls(ledger=Ledger.read(directory), **msgspec.json.decode((directory / _FILE).read_bytes()))

    def _drop(self, row: BadRow, form: Form, file: str) -> None:
        key = (self.source, CHECK, row.reason)
        text = shown(row.raw)
        self.ledger.rows_dropped[key] += 1
        self.ledger.bytes_dropped[key] += row.size
        self.ledger.lengths_dropped[self.source, length_bucket(len(text))] += 1
        where = {"source": self.source, "file": file, "line": row.line}
        self.ledger.add_example(f"{CHECK}: {row.reason}", {**where, "detail": row.detail, "before": text})
        if row.reason not in self.hints:
            self.hints[row.reason] = _hint(row, form)


def shown(raw: bytes) -> str:
    """A row as it was read, for people; bytes that are not UTF-8 as `\\xNN`."""
    return raw.decode("utf-8", "backslashreplace")


def measure(kind: RowKind, rows: pa.RecordBatch) -> tuple[Ints, Ints]:
    """UTF-8 bytes of each row's texts, and characters of what is said in them: see `columns`."""
    return text_bytes(kind, rows), text_characters(kind, rows)


def _hint(row: BadRow, form: Form) -> str:
    if row.reason == "bad_utf8":
        encoding = guess_encoding(row.raw)
        return f"the file is not UTF-8 and looks like {encoding}; convert it (iconv -f {encoding} -t UTF-8)"
    if row.reason == "bad_json":
        return (
            ""
            if row.raw.lstrip()[:1] in (b"{", b"[")
            else 'this is no JSON Lines; for plain text there is kind = "text"'
        )
    try:
        value = read_json(row.raw)
    except RowError:
        return ""
    return recognise(value, kind="chat" if form.as_text else form.rows, shape=form.shape)
