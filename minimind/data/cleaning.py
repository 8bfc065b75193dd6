"""Cleaning: the stage that applies the rules to rows; each row is kept, changed or dropped with a reason.

Repairs, a second check of what they changed, filters, exact duplicates, in this order. Filters are for
pretraining texts, and for conversations only with `filter_chat`. Changes are counted by rule and the first
few shown; dropped rows are written down whole. The ledger holds: in = kept + dropped, in rows and in bytes.
The digests of all rows seen are in memory, about 100 bytes a row. Not here: the rules themselves (`rules`).
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from minimind.artifact import Inputs, Summary
from minimind.data.documents import CONTENT, Message, Row, RowError, RowKind, check_row, messages_of
from minimind.data.dropped import DROPPED_FILE, DropLog
from minimind.data.rules import FILTERS, REPAIRS, CleanRules, content_key
from minimind.data.shards import ROWS_DIR, RowWriter, content_bytes, count_rows, read_rows
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

SAMPLES_PER_RULE = 3
MAX_PASSES = 8
"""Real texts need two; the bound is for texts made to need more."""


class CleanConfig(CleanRules):
    """The rules, and the kind of rows they are applied to."""

    rows: RowKind


def clean(config: CleanConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Apply the rules to every row; kept rows to rows/, the others behind ingest's in dropped.jsonl."""
    source = inputs["rows"].dir
    shutil.copyfile(source / DROPPED_FILE, out_dir / DROPPED_FILE)
    total = count_rows(source / ROWS_DIR)
    cleaner = Cleaner(config)
    figures = Counter({"rows_in": total, "bytes_in": 0, "bytes_kept": 0, "bytes_dropped": 0, "bytes_out": 0})
    with (
        RowWriter(out_dir / ROWS_DIR, config.rows) as writer,
        DropLog(out_dir) as dropped,
        EventWriter(out_dir / EVENTS_FILE) as events,
    ):
        for row in events.track(read_rows(source / ROWS_DIR), total, "rows"):
            size = content_bytes(row)
            figures["bytes_in"] += size
            try:
                kept = cleaner.clean(row)
            except Dropped as drop:
                figures["bytes_dropped"] += size
                _log(dropped, drop, row, config.rows)
            else:
                figures["bytes_kept"] += size
                after = content_bytes(kept)
                figures["bytes_out"] += after
                writer.write(kept, after)
        figures.update({f"dropped_{reason}": count for (_, reason), count in sorted(dropped.counts.items())})
    figures.update({"rows_kept": writer.rows, "rows_dropped": dropped.rows})
    figures.update({f"changed_{rule}": cleaner.changed[rule] for rule in REPAIRS})
    if not writer.rows:
        most = ", ".join(f"{reason} {count}" for (_, reason), count in dropped.counts.most_common(3))
        raise DataError(f"cleaning left none of {total} {config.rows} rows ({most}); look at [clean] in the data spec")
    return Summary(figures=dict(figures), samples=cleaner.samples, warnings=_warnings(figures))


CLEAN = Stage("clean", clean, inputs=("rows",))


class Dropped(Exception):
    """Not an error but an outcome: a row is left out, by which rule, why, and the details."""

    def __init__(self, rule: str, reason: str, detail: str) -> None:
        super().__init__(f"{rule}: {reason}: {detail}")
        self.rule, self.reason, self.detail = rule, reason, detail


class Cleaner:
    """Applies the rules to one row after the other; remembers what it has seen and what it changed."""

    def __init__(self, config: CleanConfig) -> None:
        self.config = config
        self.changed: Counter[str] = Counter()
        """Rule → rows it changed."""
        self.samples: list[str] = []
        self._repairs = {rule: repair for rule, repair in REPAIRS.items() if getattr(config, rule)}
        filtered = config.rows == "pretrain" or config.filter_chat
        self._filters = {rule: test for rule, test in FILTERS.items() if filtered and getattr(config, rule)}
        self._seen: dict[bytes, int] = {}
        self._rows = 0

    def clean(self, row: Row) -> Row:
        """The row, repaired where need be. Raises Dropped."""
        self._rows += 1
        kind = self.config.rows
        repaired = self._repair_row(row)
        for rule, test in self._filters.items():
            text = repaired["text"] if kind == "pretrain" else "\n".join(_contents(messages_of(kind, repaired)))
            if found := test(text, self.config):
                raise Dropped(rule, *found)
        if self.config.duplicates:
            key = content_key(kind, repaired)
            first = self._seen.setdefault(key, self._rows)
            if first != self._rows:
                raise Dropped("duplicates", "exact_duplicate", f"the same as row {first} of this stage's input")
        return repaired

    def _repair_row(self, row: Row) -> Row:
        """The row with its texts repaired and, where one changed, checked again: a text may be blank now."""
        used: set[str] = set()
        if self.config.rows == "pretrain":
            content: Row = {"text": self._repair(row["text"], used)}
        else:
            content = {
                name: [self._repair_turn(turn, used) for turn in row[name]] for name in CONTENT[self.config.rows]
            }
        if not used:
            return row
        self.changed.update(used)
        try:
            checked = check_row(self.config.rows, content)
        except RowError as error:
            raise Dropped("check", error.reason, f"after {', '.join(sorted(used))}: {error.detail}") from None
        return {**row, **{name: checked[name] for name in CONTENT[self.config.rows]}}

    def _repair_turn(self, turn: Message, used: set[str]) -> Message:
        texts = {name: turn[name] for name in ("content", "reasoning_content")}
        return {**turn, **{name: None if text is None else self._repair(text, used) for name, text in texts.items()}}

    def _repair(self, text: str, used: set[str]) -> str:
        """All repairs, again until nothing changes: one may uncover work for another."""
        for _ in range(MAX_PASSES):
            before = text
            for rule, repair in self._repairs.items():
                after = repair(text)
                if after != text:
                    self._sample(rule, text, after, used)
                    used.add(rule)
                text = after
            if text == before:
                break
        return text

    def _sample(self, rule: str, before: str, after: str, used: set[str]) -> None:
        if rule not in used and self.changed[rule] < SAMPLES_PER_RULE:
            self.samples.append(f"{rule}: {_around_change(before, after)}")


def _contents(turns: list[Message]) -> list[str]:
    return [turn["content"] or "" for turn in turns]


def _around_change(before: str, after: str) -> str:
    """The two texts around the first place where they differ."""
    at = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    start = max(0, at - 20)
    return f"{before[start : at + 40]!r} → {after[start : at + 40]!r}"


def _log(dropped: DropLog, drop: Dropped, row: Row, kind: RowKind) -> None:
    source, _, file = row["source"].partition("/")
    content = json.dumps({name: row[name] for name in CONTENT[kind]}, ensure_ascii=False)
    where = {"source": source, "file": file, "line": row["line"]}
    dropped.add(**where, rule=drop.rule, reason=drop.reason, detail=drop.detail, text=content)


def _warnings(figures: Mapping[str, int]) -> list[str]:
    share = figures["rows_dropped"] / max(1, figures["rows_in"])
    if share <= 0.5:
        return []
    return [f"cleaning dropped {share:.0%} of the rows; see the dropped_* figures and {DROPPED_FILE}"]
