"""The drop log: every row that was left out, whole, with where it stood and why.

`dropped.jsonl`, one JSON object a line: `source, file, line, rule, reason, detail, text`. `rule` is
`check` for a row that cannot be used at all, else the cleaning rule that dropped it; `text` is the row
as it was read (bytes that are not UTF-8 as `\\xNN`). It grows on disk, not in memory.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Self

DROPPED_FILE = "dropped.jsonl"


class DropLog:
    """Appends to `<directory>/dropped.jsonl` and counts by rule and reason."""

    def __init__(self, directory: Path) -> None:
        self._file = (directory / DROPPED_FILE).open("ab")
        self.rows = 0
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, *, source: str, file: str, line: int, rule: str, reason: str, detail: str, text: str) -> None:
        """Write one row down. Half characters, which UTF-8 cannot hold, are written as `?`."""
        self.rows += 1
        self.counts[rule, reason] += 1
        record = {
            "source": source,
            "file": file,
            "line": line,
            "rule": rule,
            "reason": reason,
            "detail": detail,
            "text": text,
        }
        self._file.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
