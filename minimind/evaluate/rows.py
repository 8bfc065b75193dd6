"""Held-out rows of a corpus and rows of a user's file, as what models are measured on.

Of a corpus only the rows that are wanted are kept in memory, whatever its size. A file is read strictly: an
evaluation with a part of its items is another evaluation, so the first bad row stops it, with file, line and reason.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minimind.artifact import Artifact
from minimind.data.kinds import RowKind
from minimind.data.reading.checking import Form
from minimind.data.reading.files import find_all
from minimind.data.reading.json_objects import read_objects
from minimind.data.reading.readers import check_part, cut_file
from minimind.data.rules.language import UNDETERMINED, languages
from minimind.data.rules.texts import Texts as RuleTexts
from minimind.data.shards import count_rows, read_batches
from minimind.errors import DataError
from minimind.evaluate.choices import ChoiceItem, Choices, check_item
from minimind.evaluate.dialogue import Chats
from minimind.evaluate.material import Facts, Material, joined
from minimind.evaluate.perplexity import Texts
from minimind.evaluate.preference import Pairs
from minimind.evaluate.results import Kind
from minimind.evaluate.scoring import choose

KINDS: dict[RowKind, Kind] = {"pretrain": "text", "chat": "chat", "preference": "preference", "lora": "chat"}
"""Kind of rows → kind of task."""


def held_out(corpus: Artifact, rows_of: RowKind, name: str, *, limit: int, seed: int) -> Material | None:
    """The held-out rows of a corpus as a task, at most `limit` chosen by `seed`; None where it holds none out."""
    count = count_rows(corpus.dir / "val")
    places = choose(count, limit=limit, seed=seed)
    rows = list(_taken(corpus.dir / "val", places))
    about = f"{len(rows):,} of {count:,} held-out {rows_of} rows"
    return _material(KINDS[rows_of], name, rows, about) if rows else None


def from_file(path: Path, rows_of: RowKind, *, limit: int | None = None, seed: int = 0) -> Material:
    """The rows of a user's file. Raises DataError with file and line for the first that cannot be measured."""
    rows = list(_checked(path, rows_of))
    if not rows:
        raise DataError(f"{path}: has no rows; give a file with one row a line")
    chosen = choose(len(rows), limit=limit or len(rows), seed=seed)
    return _material(
        KINDS[rows_of],
        task_name(path),
        [rows[place] for place in chosen.tolist()],
        _about(path, len(chosen), len(rows)),
    )


def read_choices(
    path: Path,
    kind: Kind,
    *,
    limit: int | None = None,
    seed: int = 0,
    wordings: Sequence[str] = (),
    orders: int = 4,
) -> Choices:
    """Questions `{question, choices, answer, context?}` or beginnings `{context, choices, answer}`, one a line."""
    found = [_choice(row, kind, f"{path}:{number}") for number, row in read_objects(path, of="questions")]
    chosen = choose(len(found), limit=limit or len(found), seed=seed).tolist()
    items, facts = [found[place][0] for place in chosen], [found[place][1] for place in chosen]
    about = _about(path, len(chosen), len(found))
    return Choices(task_name(path), about, _named(facts), items, kind=kind, wordings=wordings, orders=orders)


def task_name(path: Path) -> str:
    """What a file's task is called: its name without endings."""
    return path.name.split(".")[0] or path.name


def _about(path: Path, taken: int, count: int) -> str:
    return f"{path.name}: {count:,} items" if taken == count else f"{path.name}: {taken:,} of {count:,} items"


def _material(kind: Kind, name: str, rows: Sequence[Mapping[str, Any]], about: str) -> Material:
    facts = _facts(kind, rows)
    if kind == "text":
        return Texts(name, about, facts, [row["text"] for row in rows])
    if kind == "chat":
        return Chats(name, about, facts, [row["conversations"] for row in rows])
    return Pairs(name, about, facts, [row["chosen"] for row in rows], [row["rejected"] for row in rows])


def _facts(kind: Kind, rows: Sequence[Mapping[str, Any]]) -> list[Facts]:
    """Ids, sources and languages; a language that nobody has told yet is looked for."""
    words = [row["text"] if kind == "text" else joined(row.get("conversations") or row["chosen"]) for row in rows]
    told = languages(RuleTexts(words)) if rows else []
    return _named(
        [
            Facts(str(row["id"]), str(row["source"]).partition("/")[0], str(row.get("language") or language))
            for row, language in zip(rows, told, strict=True)
        ]
    )


def _named(facts: Sequence[Facts]) -> list[Facts]:
    """The facts with ids of which none occurs twice."""
    seen: dict[str, int] = {}
    named = []
    for one in facts:
        seen[one.id] = seen.get(one.id, 0) + 1
        again = f"{one.id}#{seen[one.id]}" if seen[one.id] > 1 else one.id
        named.append(Facts(again, one.source, one.language, one.subject))
    return named


def _taken(directory: Path, places: np.ndarray) -> Iterator[dict[str, Any]]:
    """The rows at sorted places of a split, in order."""
    start = 0
    for batch in read_batches(directory):
        own = places[(places >= start) & (places < start + batch.num_rows)] - start
        yield from batch.take(own).to_pylist() if len(own) else ()
        start += batch.num_rows


def _checked(path: Path, rows: RowKind) -> Iterator[dict[str, Any]]:
    """The rows of a file in any of the formats that a source may have."""
    for file, (location, file_kind) in find_all(str(path)).items():
        for part in cut_file(file, location, file_kind, label=file, document="passage"):
            for checked in check_part(
                part, Form(rows=rows), lambda _: None, source=Path(file).name, document="passage"
            ):
                if checked.bad:
                    bad = checked.bad[0]
                    raise DataError(f"{file}:{bad.line}: {bad.reason}: {bad.detail}; mend the row or leave it out")
                yield from checked.rows.to_pylist()


def _choice(row: Mapping[str, Any], kind: Kind, where: str) -> tuple[ChoiceItem, Facts]:
    key = "question" if kind == "choices" else "context"
    question, context = row.get(key), row.get("context") or "" if kind == "choices" else ""
    choices = _strings(row.get("choices"), where)
    if not isinstance(question, str) or not isinstance(context, str):
        raise DataError(f"{where}: `{key}` must be a string; a row is {_SHAPES[kind]}")
    answer = _answer(row.get("answer"), choices, where)
    check_item(question, choices, answer, kind=kind, where=where)
    name = row.get("id")
    identity = str(name) if isinstance(name, str | int) else _digest(question, choices)
    told = {field: str(row.get(field) or "") for field in ("source", "subject", "type")}
    language = str(row.get("lang") or row.get("language") or languages(RuleTexts([" ".join([question, *choices])]))[0])
    return ChoiceItem(question, choices, answer, context), Facts(
        identity, told["source"], "" if language == UNDETERMINED else language, told["subject"] or told["type"]
    )


_SHAPES = {
    "choices": '{"question": "…", "choices": ["…", "…"], "answer": 0}',
    "cloze": '{"context": "…", "choices": ["…", "…"], "answer": 0}',
}


def _strings(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        raise DataError(f"{where}: `choices` must be a list of strings")
    return tuple(value)


def _answer(value: Any, choices: Sequence[str], where: str) -> int:
    """The number of the right choice, given as such, as a letter or in words."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    meant = {number for number, choice in enumerate(choices) if value in (chr(ord("A") + number), choice)}
    if len(meant) == 1:
        return meant.pop()
    trouble = f"it is {value!r}" + (f", which may be any of {sorted(meant)}: give its number" if meant else "")
    raise DataError(f"{where}: `answer` must be the number of a choice (from 0), its letter or its words; {trouble}")


def _digest(question: str, choices: Sequence[str]) -> str:
    return hashlib.sha256("\0".join([question, *sorted(choices)]).encode("utf-8")).hexdigest()[:16]
