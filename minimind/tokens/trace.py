"""Tracing: from a text to the rows, tokens, steps and models that saw it, and from a step back to its rows.

    text ─► rows of every corpus in the store ─► documents of its token sets ─► pieces ─► rows of the packing plan
                                                                                              │ order of each epoch
         models made of a training ◄─ trainings ◄─ steps ◄────────────────────────────────────┘

Nothing was written down while a training ran: a batch is a function of (seed, step, token set), so all of it follows
from the manifests. Rows that cleaning or tokenizing left out, cut or changed are found in their logs, with the reason
(`trace_logs`). Steps are counted from 1. A text is found as it stands, to the byte; `limit` bounds what is followed.
Not here: reading rows (`trace_corpus`), who stands where in a batch (`trace_pieces`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from minimind.artifact import Artifact, Store
from minimind.config import Config
from minimind.errors import ConfigError
from minimind.lineage import ancestors, parent
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.trace_corpus import CorpusSplit, Hit
from minimind.tokens.trace_logs import LoggedRow, search_logs
from minimind.tokens.trace_pieces import in_steps
from minimind.tokens.trainings import SPLITS, Training


class TrainingSeen(Config):
    """A training that had a document in its batches."""

    training: str
    fingerprint: str
    steps: list[int]
    changed_code: list[str]
    """Modules that choose rows and have changed since: where there are any, the steps are not those it had."""


class DocumentSeen(Config):
    """A document of a token set in which the text stands."""

    token_set: str
    fingerprint: str
    document: int
    occurrences: int
    first_token: int
    """Of the document: the token with the first byte of the first occurrence."""
    last_token: int
    offset: int
    """Tokens of the whole file before `first_token`."""
    trainings: list[TrainingSeen]


class RowSeen(Config):
    """A row of a corpus in which the text stands."""

    corpus: str
    fingerprint: str
    split: str
    row: int
    id: str
    source: str
    line: int
    field: str
    byte_offset: int
    documents: list[DocumentSeen]


class TextTrace(Config):
    """Where a text went."""

    text: str
    rows: list[RowSeen]
    rows_found: int
    """In all; `rows` has the first of every corpus."""
    logged: list[LoggedRow]
    """Rows with the text that were left out, cut or changed."""
    models: dict[str, str]
    """Fingerprint → name of every model that has learnt from it, or was made of such a model."""
    learnt_by: dict[str, list[str]]
    """The same models → the trainings by which they did: a model's own, and those of the models it was made of."""


def trace_text(text: str, store: Store, trainings: Sequence[Training], *, limit: int = 20) -> TextTrace:
    """Everything in `store` that saw `text`, and the steps of `trainings` that had it.

    The first `limit` rows of every corpus are followed to the steps.
    """
    if not text:
        raise ConfigError("--text is empty; give some words to look for")
    artifacts = list(store.all())
    rows: list[RowSeen] = []
    found = 0
    for corpus in (artifact for artifact in artifacts if artifact.kind == "shard"):
        sets = [a for a in artifacts if a.kind == "tokens" and a.manifest.parents.get("corpus") == corpus.fingerprint]
        for split in SPLITS:
            hits, count = _first_of_rows(CorpusSplit(corpus.dir / split).find(text), limit)
            found += count
            rows += _rows_seen(corpus, split, hits, sets, trainings, text)
    seen = {t.fingerprint for row in rows for document in row.documents for t in document.trainings if t.steps}
    learnt_by = _learnt_by(artifacts, seen)
    return TextTrace(
        text=text,
        rows=rows,
        rows_found=found,
        logged=[row for artifact in artifacts for row in islice(search_logs(artifact, text), limit)],
        models={one.fingerprint: one.label for one in artifacts if one.fingerprint in learnt_by},
        learnt_by=learnt_by,
    )


def _first_of_rows(hits: Iterable[Hit], limit: int) -> tuple[list[Hit], int]:
    """The first hit of each of the first `limit` rows, and in how many rows there are hits."""
    first: list[Hit] = []
    count, last = 0, -1
    for hit in hits:
        if hit.origin.row != last:
            count, last = count + 1, hit.origin.row
            first += [hit] if count <= limit else []
    return first, count


def _rows_seen(
    corpus: Artifact, split: str, hits: Sequence[Hit], sets: Sequence[Artifact], known: Sequence[Training], text: str
) -> Iterator[RowSeen]:
    if not hits:
        return
    documents: dict[int, list[DocumentSeen]] = {hit.origin.row: [] for hit in hits}
    for artifact in sets:
        readers = [t for t in known if t.reads(artifact)] if split == "train" else []
        for row, document in _documents_seen(artifact, split, list(documents), readers, text):
            documents[row].append(document)
    for hit in hits:
        yield RowSeen(
            corpus=corpus.label,
            fingerprint=corpus.fingerprint,
            split=split,
            row=hit.origin.row,
            id=hit.origin.id,
            source=hit.origin.source,
            line=hit.origin.line,
            field=hit.field,
            byte_offset=hit.offset,
            documents=documents[hit.origin.row],
        )


def _documents_seen(
    artifact: Artifact, split: str, rows: Sequence[int], readers: Sequence[Training], text: str
) -> Iterator[tuple[int, DocumentSeen]]:
    """(row, document) for every document of the given rows in which the text stands."""
    tokenizer_artifact = parent(artifact, "tokenizer")
    if tokenizer_artifact is None:
        return
    tokens, tokenizer = TokenSet.open(artifact.dir / split), Tokenizer.load(tokenizer_artifact.dir)
    row_of, spans = dict[int, int](), dict[int, list[tuple[int, int]]]()
    for row in rows:
        first, last = np.searchsorted(tokens.rows, [row, row + 1])
        for document in range(int(first), int(last)):
            if found := _spans(tokens.document(document).tolist(), tokenizer, text.encode("utf-8")):
                row_of[document], spans[document] = row, found
    steps = [(training, _steps_of(training, artifact, spans)) for training in readers if spans]
    for document, ((first_token, last_token), *others) in spans.items():
        seen = DocumentSeen(
            token_set=artifact.label,
            fingerprint=artifact.fingerprint,
            document=document,
            occurrences=1 + len(others),
            first_token=first_token,
            last_token=last_token,
            offset=int(tokens.offsets[document]) + first_token,
            trainings=[
                TrainingSeen(
                    training=training.label,
                    fingerprint=training.fingerprint,
                    steps=of[document],
                    changed_code=list(training.changed_code),
                )
                for training, of in steps
            ],
        )
        yield row_of[document], seen


def _spans(ids: Sequence[int], tokenizer: Tokenizer, needle: bytes) -> list[tuple[int, int]]:
    """First and last token of every place in a document's bytes where the needle stands."""
    pieces = [tokenizer.decode_bytes([number]) for number in ids]
    ends = np.cumsum([len(piece) for piece in pieces])
    places = [found.start() for found in re.finditer(re.escape(needle), b"".join(pieces))]
    edges = [np.searchsorted(ends, [at, at + len(needle) - 1], side="right").tolist() for at in places]
    return [(first, last) for first, last in edges]


def _steps_of(training: Training, artifact: Artifact, spans: dict[int, list[tuple[int, int]]]) -> dict[int, list[int]]:
    """Document → the steps whose batch has a piece of it with a token of one of its spans."""
    number = [one.fingerprint for one in training.token_sets].index(artifact.fingerprint)
    documents = np.array(sorted(spans))
    steps: dict[int, list[int]] = {document: [] for document in spans}
    for part in in_steps(training.open(), training.batch_items, training.steps):
        pieces = part.pieces
        for place in np.flatnonzero((pieces.token_sets == number) & np.isin(pieces.documents, documents)).tolist():
            document, start = int(pieces.documents[place]), int(pieces.starts[place])
            stop, step = start + int(pieces.lengths[place]), int(part.steps[place]) + 1
            if (
                any(start <= last and first < stop for first, last in spans[document])
                and step not in steps[document][-1:]
            ):
                steps[document].append(step)
    return steps


def _learnt_by(artifacts: Sequence[Artifact], trained: set[str]) -> dict[str, list[str]]:
    """Each model among `artifacts` → those of the trained ones that it is or was made of, where there are any."""
    models = [artifact for artifact in artifacts if (artifact.dir / "model.safetensors").exists()]
    found = {model.fingerprint: [one for one in _trained_from(model) if one in trained] for model in models}
    return {fingerprint: list(dict.fromkeys(ones)) for fingerprint, ones in found.items() if ones}


def _trained_from(artifact: Artifact) -> Iterator[str]:
    """The fingerprints of the models whose weights went into a model; of a teacher, too."""
    if artifact.kind != "publish":
        yield from (fp for fp in ancestors(artifact))
        return
    yield artifact.fingerprint
    chosen = artifact.summary().figures.get("model")
    for name, fingerprint in artifact.manifest.parents.items():
        if name == chosen and (found := parent(artifact, name)):
            yield fingerprint
            yield from ancestors(found)
