"""Rows that did not come through as they were: searched for a text in the logs of cleaning and tokenizing.

    clean    dropped.jsonl (ingest's rows first), changed.jsonl.zst
    tokens   dropped/dropped.jsonl (too long), dropped/cut.jsonl (turns taken away)

A log keeps a row as it was read, or its messages as JSON, so a text may stand there as it is, or escaped once or
twice, or with every character beyond ASCII as `\\uXXXX`. All of these are looked for in the bytes of a log, and only
lines with one of them are read.
"""

import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from minimind.artifact import Artifact
from minimind.config import Config
from minimind.data.dropped import CHANGED_FILE, DROPPED_FILE, read_changes
from minimind.errors import ArtifactError

_LOGS = {"clean": (DROPPED_FILE,), "tokens": (f"dropped/{DROPPED_FILE}", "dropped/cut.jsonl")}
"""Stage → its logs; the rows in ingest's and shard's are among those of clean."""
_AROUND = 60


class LoggedRow(Config):
    """A row that was left out, cut or changed, and why."""

    stage: str
    fingerprint: str
    what: str
    """`dropped`, `cut`, or `changed`."""
    source: str
    file: str
    line: int
    why: str
    """Rule and reason, or the rules that changed it."""
    excerpt: str


def search_logs(artifact: Artifact, text: str) -> Iterator[LoggedRow]:
    """The rows in an artifact's logs in which `text` stands."""
    forms = _forms(text)
    for name in _LOGS.get(artifact.kind, ()):
        path = artifact.dir / name
        for row in _lines_with(path, forms) if path.exists() else ():
            told = {key: value for key, value in row.items() if isinstance(value, str)}
            holding = next((value for value in told.values() if any(form in value for form in forms)), "")
            why = ": ".join(
                part for part in (row.get("rule", ""), row.get("reason", ""), row.get("detail", "")) if part
            )
            yield _logged(artifact, "cut" if "cut" in name else "dropped", row, why, _excerpt(holding, forms))
    if artifact.kind == "clean" and (artifact.dir / CHANGED_FILE).exists():
        for row in read_changes(artifact.dir / CHANGED_FILE):
            if any(form in row["before"] or form in row["after"] for form in forms):
                kept = any(form in row["after"] for form in forms)
                why = ", ".join(row["rules"]) + ("" if kept else " (the text is not in it any more)")
                excerpt = _excerpt(row["before"] if not kept else row["after"], forms)
                yield _logged(artifact, "changed", row, why, excerpt)


def _logged(artifact: Artifact, what: str, row: dict[str, Any], why: str, excerpt: str) -> LoggedRow:
    return LoggedRow(
        stage=artifact.label,
        fingerprint=artifact.fingerprint,
        what=what,
        source=row["source"],
        file=row.get("file", ""),
        line=row["line"],
        why=why,
        excerpt=excerpt,
    )


def _forms(text: str) -> list[str]:
    """The text as it may stand in a row: as it is, as JSON, as JSON in JSON, and as JSON of ASCII alone."""
    once = _escaped(text)
    return list(dict.fromkeys([text, once, _escaped(once), json.dumps(text)[1:-1]]))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _lines_with(path: Path, forms: list[str]) -> Iterator[dict[str, Any]]:
    """The lines of a log whose JSON holds one of the forms."""
    if not path.stat().st_size:
        return
    needle = re.compile(b"|".join(re.escape(_escaped(form).encode("utf-8")) for form in forms))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        after = 0
        while found := needle.search(data, after):
            start = data.rfind(b"\n", 0, found.start()) + 1
            after = data.find(b"\n", found.end())
            after = len(data) if after < 0 else after
            try:
                yield json.loads(data[start:after])
            except ValueError as error:
                raise ArtifactError(f"{path}: damaged at byte {start} ({error}); run the stage again") from None


def _excerpt(text: str, forms: list[str]) -> str:
    at, form = next(((text.find(form), form) for form in forms if form in text), (0, ""))
    start, stop = max(0, at - _AROUND), at + len(form) + _AROUND
    return ("… " if start else "") + text[start:stop] + (" …" if stop < len(text) else "")
