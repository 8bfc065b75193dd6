"""What rows reached: every artifact of a store that has them, learnt from them, or was made of one that did.

A training learnt from a row if a step of it had a piece of the row in its batch. That follows from its manifest
(`minimind.tokens.trace`), by one pass over the pieces of its steps, whatever the number of rows. Where it does not
follow any more, because the code that chooses rows has changed or the data is gone, it is taken to have learnt from
the rows that its token sets have. Rows for validation were only measured on.

Not here: which rows (`minimind.forget.rows`); trainings that were broken off, whose scratch is no artifact.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from minimind.artifact import Artifact
from minimind.config import Config
from minimind.data.booking import FORGET
from minimind.data.dropped import DROPPED_FILE, read_dropped
from minimind.data.forget_list import Place
from minimind.data.shards import ROWS_DIR, read_batches
from minimind.forget.rows import ORIGIN, Sought, kind_of
from minimind.lineage import in_order
from minimind.tokens.token_set import TokenSet, ranges
from minimind.tokens.trace_pieces import in_steps
from minimind.tokens.trainings import SPLITS, TRAININGS, Training

How = Literal["holds", "learnt", "made_of", "measured", "derived"]
STEPS_TOLD = 12
_LOGS = {"ingest": (DROPPED_FILE,), "clean": (DROPPED_FILE,), "shard": (f"dropped/{DROPPED_FILE}",)} | {
    "tokens": (f"dropped/{DROPPED_FILE}", "dropped/cut.jsonl")
}
"""Stage → its logs of rows that were left out, with their texts."""
_READS = {"clean": "rows", "shard": "rows", "tokens": "corpus"}
"""Stage → the input that its rows are from: where that has none of them, it has none."""
Numbers = dict[str, np.ndarray]
"""Split → rows of a corpus, or documents of a token set."""


class Reached(Config):
    """An artifact that has some of the rows, or was made of one that has."""

    kind: str
    label: str
    fingerprint: str
    how: How
    """Has rows in its files; learnt from some in its own steps, or was made of a model that did; measured itself or
    others on rows for validation; or was made of what has them, but learnt nothing from them."""
    rows: dict[str, int] = {}
    """Where they are: `rows`, `train`, `val`, of token sets documents; `dropped` in a log, with their texts."""
    steps: int = 0
    """Steps that had one."""
    first_steps: list[int] = []
    note: str = ""


def reach(sought: Sought, artifacts: Sequence[Artifact], trainings: Sequence[Training]) -> list[Reached]:
    """Everything the rows reached, each artifact behind those that it was made of."""
    return list(_Walk(sought, artifacts, trainings).go())


class _Walk:
    """The artifacts of a store, one after the other; what was found of one is needed for those made of it."""

    def __init__(self, sought: Sought, artifacts: Sequence[Artifact], trainings: Sequence[Training]) -> None:
        self._sought = sought
        self._artifacts = in_order(artifacts)
        self._known = {artifact.fingerprint: artifact for artifact in artifacts}
        self._trainings = {training.fingerprint: training for training in trainings}
        self._numbers: dict[str, Numbers] = {}
        self._reached: dict[str, Reached] = {}

    def go(self) -> Iterator[Reached]:
        for artifact in self._artifacts:
            found = self._look_at(artifact)
            if found:
                self._reached[artifact.fingerprint] = found
                yield found

    def _look_at(self, artifact: Artifact) -> Reached | None:
        if artifact.kind in _LOGS:
            read = artifact.manifest.parents.get(_READS.get(artifact.kind, ""), "")
            rows = self._rows_in(artifact) if read in self._reached or read not in self._known else {}
            return _reached(artifact, "holds", rows=rows) if any(rows.values()) else None
        above = [self._reached[one] for one in artifact.manifest.parents.values() if one in self._reached]
        if all(one.kind == "ingest" for one in above):  # told of in figures only
            return None
        if artifact.kind in TRAININGS:
            return self._training(artifact)
        if artifact.kind == "tokenizer":
            return self._tokenizer(artifact)
        if artifact.kind == "publish":
            chosen = str(artifact.summary().figures.get("model"))
            return self._made_of(artifact, (chosen,)) or _reached(artifact, "derived")
        only_measured = any(one.kind == "tokens" and one.rows.get("val") for one in above)
        return _reached(artifact, "measured" if only_measured else "derived")

    def _rows_in(self, artifact: Artifact) -> dict[str, int]:
        if artifact.kind == "tokens":
            numbers = self._documents(artifact)
        else:
            kind = kind_of(artifact)
            directories = SPLITS if artifact.kind == "shard" else (ROWS_DIR,)
            numbers = {name: _matching(self._sought, kind, artifact.dir / name) for name in directories}
        self._numbers[artifact.fingerprint] = numbers
        ingest = self._ingest_of(artifact)
        logs = [artifact.dir / name for name in _LOGS[artifact.kind]]
        dropped = sum(self._count_logged(log, ingest, in_tokens=artifact.kind == "tokens") for log in logs)
        return {name: len(found) for name, found in numbers.items()} | ({"dropped": dropped} if dropped else {})

    def _documents(self, artifact: Artifact) -> Numbers:
        """The documents of the corpus' rows that are meant."""
        rows = self._numbers.get(artifact.manifest.parents.get("corpus", ""), {})
        found = {}
        for split in SPLITS:
            of_document = TokenSet.open(artifact.dir / split).rows
            first = np.searchsorted(of_document, rows.get(split, _NOTHING))
            last = np.searchsorted(of_document, rows.get(split, _NOTHING), side="right")
            found[split] = ranges(first, last - first)
        return found

    def _count_logged(self, log: Path, ingest: str, *, in_tokens: bool) -> int:
        """Lines of a log that are of the rows and have a text."""
        count = 0
        for row in read_dropped(log) if log.exists() else ():
            place = Place.of(row.source, row.line) if in_tokens else Place(row.source, row.file, row.line)
            count += row.rule != FORGET and bool(row.text) and self._sought.has(ingest, place)
        return count

    def _ingest_of(self, artifact: Artifact) -> str:
        """The fingerprint of the ingest that read the rows of a data artifact; of what else it can be traced to."""
        fingerprint = artifact.fingerprint
        while (one := self._known.get(fingerprint)) and one.kind != "ingest":
            fingerprint = one.manifest.parents.get(_READS[one.kind], "")
        return fingerprint

    def _training(self, artifact: Artifact) -> Reached:
        sets = [one for one in artifact.manifest.parents.values() if one in self._numbers]
        start = self._made_of(artifact, tuple(artifact.manifest.parents))
        note = f"and is {start.note}" if start else ""
        if any(len(self._numbers[one]["train"]) for one in sets):
            training = self._trainings.get(artifact.fingerprint)
            if training is None or training.changed_code:
                why = "cannot be gone through again" if training is None else "the code that chooses rows has changed"
                told = f"its steps cannot be told ({why}); it is taken to have had them"
                return _reached(artifact, "learnt", note="; ".join(filter(None, (told, note))))
            if len(steps := self._steps(training)):
                first = steps[:STEPS_TOLD].tolist()
                return _reached(artifact, "learnt", steps=len(steps), first_steps=first, note=note)
        if start:
            return start
        only_measured = any(len(self._numbers[one]["val"]) for one in sets)
        return _reached(artifact, "measured" if only_measured else "derived")

    def _steps(self, training: Training) -> np.ndarray:
        """The steps, from 1, with a piece of one of the documents."""
        documents = [self._numbers.get(one.fingerprint, {}).get("train", _NOTHING) for one in training.token_sets]
        found = [_NOTHING]
        for part in in_steps(training.open(), training.batch_items, training.steps):
            hit = np.zeros(len(part.steps), np.bool_)
            for number, own in enumerate(documents):
                hit |= (part.pieces.token_sets == number) & np.isin(part.pieces.documents, own)
            found.append(np.unique(part.steps[hit]) + 1)
        return np.concatenate(found)

    def _tokenizer(self, artifact: Artifact) -> Reached:
        corpus = artifact.manifest.parents["corpus"]
        if not len(self._numbers.get(corpus, {}).get("train", _NOTHING)) or artifact.manifest.parts.sources:
            return _reached(artifact, "derived")
        size = int(self._known[corpus].summary().figures.get("train_bytes") or 0)
        whole = size <= artifact.manifest.parts.config.get("sample_bytes", 0)
        return _reached(
            artifact, "learnt", note="" if whole else "from a sample of the corpus, which may not have them"
        )

    def _made_of(self, artifact: Artifact, names: Sequence[str]) -> Reached | None:
        """An artifact as a model made of one that learnt; None where no such model is among these inputs."""
        parents = [self._reached.get(artifact.manifest.parents.get(name, "")) for name in names]
        learnt = [p for p in parents if p and p.kind in (*TRAININGS, "publish") and p.how in ("learnt", "made_of")]
        if not learnt:
            return None
        return _reached(
            artifact, "made_of", note=f"made of {' and '.join(f'{p.label} {p.fingerprint}' for p in learnt)}"
        )


_NOTHING = np.zeros(0, np.int64)


def _reached(artifact: Artifact, how: How, **told: object) -> Reached:
    values: Mapping[str, object] = {"kind": artifact.kind, "label": artifact.label, "fingerprint": artifact.fingerprint}
    return Reached.model_validate({**values, "how": how, **told})


def _matching(sought: Sought, kind: str, directory: Path) -> np.ndarray:
    """The numbers of the rows of a directory that are meant."""
    found, start = [_NOTHING], 0
    for batch in read_batches(directory, ORIGIN):
        found.append(start + np.flatnonzero(sought.mask(kind, batch)))
        start += batch.num_rows
    return np.concatenate(found)
