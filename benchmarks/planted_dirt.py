"""Recall and false hits of `minimind data clean` on rows whose dirt is known.

    python -m benchmarks.planted_dirt rows.jsonl.gz labels.jsonl.gz --evaluation exam.jsonl

`labels` has one JSON object for each line of `rows`: `line` (0-based), and for rows somebody dirtied `kind`,
`variant`, and what is needed to judge: `dup_of_line`, `jaccard5`, `clean` (the text before), `spans` (personal
data). Kinds `clean_control` and `hard_negative` must come out as they went in; a row dropped or changed is a hit.
"""

import argparse
import gzip
import json
import re
import tempfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from minimind.data.rules.settings import CleanRules
from minimind.data.standalone import clean_files

_TAG = re.compile(r"</?(?:p|div|nav|ul|li|footer|script|span|a)\b[^>]*>", re.IGNORECASE)
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060-\u2069\ufeff]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--evaluation", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path, help="keep the cleaned rows and the report here")
    parser.add_argument("--misses", type=int, default=0, help="print so many misses of each kind")
    given = parser.parse_args()
    rules = CleanRules(evaluation=tuple(str(path.resolve()) for path in given.evaluation))
    with tempfile.TemporaryDirectory() as scratch:
        out = given.out or Path(scratch) / "cleaned"
        clean_files([str(given.rows)], "pretrain", out, rules=rules)
        before = [row["text"] for row in _lines(given.rows)]
        kept = {row["line"] - 1: row["text"] for row in _lines(out / "kept.jsonl")}
        dropped = {row["line"] - 1: row for row in _lines(out / "dropped.jsonl")}
    labels = {label["line"]: label for label in _lines(given.labels)}
    assert len(kept) + len(dropped) == len(before), "the ledger does not balance"
    _print(labels, before, kept, dropped, given.misses)


def is_right(label: dict[str, Any], before: str, kept: dict[int, str]) -> bool:
    """Whether a labelled row was treated as it should be."""
    text, kind = kept.get(label["line"]), label["kind"]
    if kind in ("clean_control", "hard_negative"):
        return text == before
    if text is None:
        return True
    if kind in ("exact_dup", "norm_dup", "near_dup"):
        return label["dup_of_line"] not in kept
    if kind == "html_wrapped":
        return not _TAG.search(text)
    if kind == "control_chars":
        return not _HIDDEN.search(text)
    if kind == "mojibake":
        return "".join(text.split()) == "".join(label["clean"].split())
    if kind == "pii":
        return not any(span["value"] in text for span in label["spans"])
    return False


def _print(
    labels: dict[int, dict[str, Any]], before: list[str], kept: dict[int, str], dropped: dict[int, Any], misses: int
) -> None:
    right: Counter[tuple[str, str]] = Counter()
    total: Counter[tuple[str, str]] = Counter()
    why: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for line, label in labels.items():
        if "kind" not in label:
            key = ("natural", "")
            right[key] += kept.get(line) == before[line]
        else:
            variant = "J ≥ 0.8" if label.get("jaccard5", 0) >= 0.8 else "J < 0.8"
            key = (label["kind"], variant if label["kind"] == "near_dup" else label["variant"])
            right[key] += is_right(label, before[line], kept)
            if misses and not is_right(label, before[line], kept) and total[key] - right[key] < misses:
                print(
                    key,
                    line,
                    dropped.get(line, {}).get("reason"),
                    repr(before[line][:200]),
                    repr(kept.get(line, "")[:200]),
                )
        total[key] += 1
        why[key][
            dropped[line]["reason"] if line in dropped else "changed" if kept[line] != before[line] else "as is"
        ] += 1
    table = Table("kind", "variant", "rows", "right", "share", "what was done")
    for key in sorted(total):
        done = ", ".join(f"{reason} {count}" for reason, count in why[key].most_common(6))
        table.add_row(*key, str(total[key]), str(right[key]), f"{right[key] / total[key]:.4f}", done)
    Console(width=170).print(table)


def _lines(path: Path) -> list[dict[str, Any]]:
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return [json.loads(line) for line in file if line.strip()]


if __name__ == "__main__":
    main()
