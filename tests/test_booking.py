"""What is booked for a batch at once is what would be booked row by row."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

from minimind.data.booking import Book, Fates, source_names
from minimind.data.dropped import DROPPED_FILE, DropLog
from minimind.data.ledger import EXAMPLES_PER_RULE, Ledger, length_bucket

LENGTHS = [*range(40), *(2**bits + more for bits in range(6, 50) for more in (-1, 0, 1))]


def rows_of(seed: int) -> pa.RecordBatch:
    rng = np.random.default_rng(seed)
    count = len(LENGTHS)
    return pa.record_batch(
        {
            "source": rng.choice(["web", "web/a.jsonl", "web/b.jsonl", "books/c/d.jsonl"], count).tolist(),
            "line": list(range(1, count + 1)),
            "text": [f"text {number}" for number in range(count)],
            "language": rng.choice(["zh", "en", "und"], count).tolist(),
            "bytes_in": rng.integers(0, 1 << 40, count),
            "characters": rng.permutation(LENGTHS),
        }
    )


def test_kept_rows_are_counted_by_source_language_and_length(tmp_path: Path) -> None:
    """Sums of large files must be right to the byte, in whatever form the numbers are added up."""
    rows, expected = rows_of(0), Ledger()
    with DropLog(tmp_path) as log:
        book = Book("pretrain", Ledger(), log)
        book.came_in(rows, rows["bytes_in"].to_pylist())
        book.are_kept(rows, rows["bytes_in"].to_pylist())
    for source, row in zip(source_names(rows), rows.to_pylist(), strict=True):
        assert source == row["source"].partition("/")[0]
        for counter in (expected.rows_in, expected.rows_kept):
            counter[source] += 1
        for counter in (expected.bytes_in, expected.bytes_kept, expected.bytes_out):
            counter[source] += row["bytes_in"]
        expected.languages[source, row["language"]] += 1
        expected.lengths_kept[source, length_bucket(row["characters"])] += 1
    assert book.ledger == expected
    assert all(type(count) is int for count in book.ledger.bytes_in.values())


def test_dropped_rows_are_counted_by_reason_and_the_first_ones_are_shown(tmp_path: Path) -> None:
    rows = rows_of(1)
    texts, reasons = rows["text"].to_pylist(), [("short", "long")[number % 2] for number in range(rows.num_rows)]
    fates = Fates(["length"] * rows.num_rows, reasons, [f"why {number}" for number in range(rows.num_rows)])
    measures = {"sizes": rows["bytes_in"].to_pylist(), "characters": rows["characters"].to_pylist()}
    with DropLog(tmp_path) as log:
        book = Book("pretrain", Ledger(), log)
        book.are_dropped(rows, fates, **measures, texts=texts)
    keys = [(source, "length", reason) for source, reason in zip(source_names(rows), reasons, strict=True)]
    sizes: Counter[tuple[str, str, str]] = Counter()
    for key, size in zip(keys, measures["sizes"], strict=True):
        sizes[key] += size
    assert (book.ledger.rows_dropped, book.ledger.bytes_dropped) == (Counter(keys), sizes)
    assert book.ledger.lengths_dropped.total() == rows.num_rows == (tmp_path / DROPPED_FILE).read_bytes().count(b"\n")
    shown = [example["before"] for example in book.ledger.examples["length: long"]]
    assert shown == texts[1 : 2 * EXAMPLES_PER_RULE : 2]
