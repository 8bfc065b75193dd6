"""Judgement: the rules applied to a batch of rows until nothing changes any more.

A pretraining row is one text. In a conversation or pair every content is a text of its own for the rules of
`ANY_ROW`; one that is dropped takes its row with it. With `filter_chat` the rules that only keep or drop see
the contents joined. A row that a rule changed starts again at the first rule, because one repair uncovers work
for another: what comes out would be left alone if it came in again.

Not here: the rules (`rules`), duplicates (`duplicates`), files and the ledger (`cleaning`).
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from minimind.data.arrays import booleans, strings
from minimind.data.documents import CONTENT, Row, RowError, RowKind, check_row, messages_of
from minimind.data.rules.catalog import ANY_ROW, JUDGES, RULES
from minimind.data.rules.language import languages
from minimind.data.rules.settings import CleanRules
from minimind.data.rules.texts import Dropped, Rule, Texts

MAX_PASSES = 12
"""A pass for each rule that changed something; real texts need three."""


@dataclass
class Settled:
    """What became of some texts, by their place."""

    texts: list[str]
    dropped: dict[int, tuple[str, Dropped]]
    """Place → the rule that dropped the text, and why."""
    changed: dict[int, list[str]]
    """Place → the rules that changed the text, in their order; a text dropped later may be here too."""
    languages: list[str]


@dataclass
class Verdicts:
    """What became of the rows of a batch, by their place in it."""

    rows: pa.RecordBatch
    """All rows, with their texts as changed and their languages; the dropped ones too."""
    dropped: dict[int, tuple[str, Dropped]]
    changed: dict[int, list[str]]
    texts: list[str]
    """What duplicates are told by: the text, or speakers and contents joined."""
    lengths: list[int]
    """Characters of each row as it came in."""


def judge(kind: RowKind, batch: pa.RecordBatch, settings: CleanRules, *, clock: Counter[str]) -> Verdicts:
    """Apply the rules to every row of `batch`; CPU seconds are added to `clock` by rule."""
    return (_judge_texts if kind == "pretrain" else _judge_turns)(kind, batch, settings, clock)


def settle(texts: Sequence[str], rules: Mapping[str, Rule], settings: CleanRules, clock: Counter[str]) -> Settled:
    """`rules` applied to `texts`, each until it changes no more."""
    settled = Settled(list(texts), {}, {}, [""] * len(texts))
    waiting = list(range(len(texts)))
    for _ in range(MAX_PASSES):
        batch = Texts([settled.texts[place] for place in waiting])
        _count(batch, clock)
        again = _one_pass(batch, waiting, rules, settings, settled, clock)
        for place, language in zip(waiting, _timed("language", clock, languages, batch), strict=True):
            settled.languages[place] = language
        waiting = sorted(again)
        if not waiting:
            break
    return settled


def _one_pass(
    batch: Texts,
    places: list[int],
    rules: Mapping[str, Rule],
    settings: CleanRules,
    settled: Settled,
    clock: Counter[str],
) -> set[int]:
    """Note what the rules say of `batch`, whose texts have these places; those that changed must be seen again."""
    again: set[int] = set()
    for name, rule in rules.items():
        for index, outcome in sorted(_timed(name, clock, rule, batch, settings).items()):
            place = places[index]
            if place in again or place in settled.dropped:
                continue  # an earlier rule has it; what this one says of the old text does not count
            if isinstance(outcome, Dropped):
                settled.dropped[place] = (name, outcome)
            else:
                settled.texts[place] = outcome.text
                used = settled.changed.setdefault(place, [])
                used += [] if name in used else [name]
                again.add(place)
    return again


def _judge_texts(kind: RowKind, batch: pa.RecordBatch, settings: CleanRules, clock: Counter[str]) -> Verdicts:
    before = batch["text"].to_pylist()
    settled = settle(before, _switched_on(settings, RULES), settings, clock)
    for place, used in settled.changed.items():
        if place not in settled.dropped and not settled.texts[place].strip():
            settled.dropped[place] = ("check", Dropped("empty_text", f"blank after {', '.join(used)}"))
    rows = _with_column(batch, "language", strings(settled.languages))
    if settled.changed:
        rows = _with_column(rows, "text", _replaced(batch["text"], settled))
    return Verdicts(rows, settled.dropped, settled.changed, settled.texts, [len(text) for text in before])


def _judge_turns(kind: RowKind, batch: pa.RecordBatch, settings: CleanRules, clock: Counter[str]) -> Verdicts:
    rows = batch.to_pylist()
    slots = [(place, turn, name) for place, row in enumerate(rows) for turn, name in _texts_of(kind, row)]
    lengths = [0] * len(rows)
    for place, turn, name in slots:
        lengths[place] += len(turn[name])
    settled = settle([turn[name] for _, turn, name in slots], _switched_on(settings, ANY_ROW), settings, clock)
    dropped: dict[int, tuple[str, Dropped]] = {}
    changed: dict[int, list[str]] = {}
    for index, (place, turn, name) in enumerate(slots):
        if index in settled.dropped:
            dropped.setdefault(place, settled.dropped[index])
        if index in settled.changed:
            turn[name] = settled.texts[index]
            used = changed.setdefault(place, [])
            used += [rule for rule in settled.changed[index] if rule not in used]
    for place, used in changed.items():
        if place not in dropped and (verdict := _recheck(kind, rows[place], used)):
            dropped[place] = verdict
    joined = Texts(["\n".join(turn[name] for turn, name in _texts_of(kind, row)) for row in rows])
    if settings.filter_chat:
        told = settle(joined.texts, _switched_on(settings, JUDGES), settings, clock)
        dropped = {**told.dropped, **dropped}
    for row, language in zip(rows, languages(joined), strict=True):
        row["language"] = language
    made = pa.RecordBatch.from_pylist(rows, schema=batch.schema)
    return Verdicts(made, dropped, changed, [_told(kind, row) for row in rows], lengths)


def _recheck(kind: RowKind, row: Row, used: list[str]) -> tuple[str, Dropped] | None:
    """Why a row that rules changed is none any more: a content may be blank now, two answers equal."""
    try:
        check_row(kind, {name: row[name] for name in CONTENT[kind]})
    except RowError as error:
        return "check", Dropped(error.reason, f"after {', '.join(used)}: {error.detail}")
    return None


def _texts_of(kind: RowKind, row: Row) -> list[tuple[dict[str, Any], str]]:
    """The places of a row's texts: message and field. Definitions and calls of tools are code and stay."""
    return [(turn, name) for turn in messages_of(kind, row) for name in ("content", "reasoning_content") if turn[name]]


def _told(kind: RowKind, row: Row) -> str:
    """The row as one text, in which other speakers or another number of turns make another text."""
    sides = [
        "".join(
            f"\n␞{turn['role']}" + "".join(f"␟{(turn[field] or '').strip()}" for field in _FIELDS) for turn in row[name]
        )
        for name in CONTENT[kind]
    ]
    return "\n␝".join(sides)


_FIELDS = ("content", "reasoning_content", "tools", "tool_calls")


def _switched_on(settings: CleanRules, names: Sequence[str] | Mapping[str, Rule]) -> dict[str, Rule]:
    return {name: RULES[name] for name in names if getattr(settings, name)}


def _with_column(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    index = batch.schema.get_field_index(name)
    return batch.set_column(index, batch.schema.field(index), values)


def _replaced(before: pa.Array, settled: Settled) -> pa.Array:
    """The texts with the changed ones put in their places; the others are copied as they lie."""
    mask = np.zeros(len(before), np.bool_)
    places = sorted(settled.changed)
    mask[places] = True
    # A lone surrogate cannot be in a row that was checked, and no rule makes one.
    after = strings([settled.texts[place] for place in places])
    return pc.replace_with_mask(before, booleans(mask), after)


def _count(batch: Texts, clock: Counter[str]) -> None:
    _timed("characters", clock, lambda: batch.counts)


def _timed(name: str, clock: Counter[str], function: Any, *arguments: Any) -> Any:
    began = time.process_time()
    try:
        return function(*arguments)
    finally:
        clock[name] += time.process_time() - began  # type: ignore[assignment]
