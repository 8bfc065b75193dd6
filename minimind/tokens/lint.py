"""Lint: what ruins a training silently, found in files of rows, in a corpus, or in a token set.

    files, folders   every row is checked as ingest would, then looked at by the rules on rows
    a corpus         the same for its rows, and training against validation
    a token set      the rules on ids and masks; rows are named where the corpus is still in the store

Every finding names file and line, or the document, and shows an excerpt. Nothing is changed.
Not here: the rules (`lint_rules` lists them), cleaning rows (`minimind.data.cleaning`).
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from minimind.artifact import MANIFEST_FILE, Artifact, open_artifact
from minimind.data.documents import CONTENT, RowKind
from minimind.data.reading.files import find_all
from minimind.data.reading.readers import cut_file, read_part
from minimind.data.reading.shapes import Shape
from minimind.data.reading.strict_json import RowError, read_json
from minimind.data.reading.validate import checked_files
from minimind.data.shards import ROWS_DIR, read_batches
from minimind.errors import ArtifactError, DataError, MissingError
from minimind.lineage import parent
from minimind.tokens.chat import render, render_prompt
from minimind.tokens.lint_rows import RowRules
from minimind.tokens.lint_rules import Findings, LintReport, Place
from minimind.tokens.lint_sets import SetRules
from minimind.tokens.lint_splits import Splits, row_digests, split_of_file
from minimind.tokens.lint_template import ExportedTemplate, first_difference, spells_special_token
from minimind.tokens.token_set import INFO_FILE, TokenSet
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.trace_corpus import CorpusSplit
from minimind.tokens.trainings import SPLITS, split_dir

SAMPLED_ROWS = 200
"""Conversations that are put through the exported template."""
_KIND_ROWS = 20
"""Rows at the start of the files by which their kind is told."""


def lint(
    target: str, *, kind: RowKind | None = None, shape: Shape = "minimind", tokenizer_dir: Path | None = None
) -> LintReport:
    """Look at a file, a folder of files, a corpus or a token set.

    `kind` is told from the first rows of files where it is not given; `tokenizer_dir` adds the comparison with the
    exported template. Raises MissingError, DataError or ConfigError where there is nothing that can be looked at.
    """
    path = Path(target).expanduser()
    if path.is_dir() and _is_token_set(path):
        return lint_tokens(path.resolve(), target=target, tokenizer_dir=tokenizer_dir)
    if (path / MANIFEST_FILE).exists():
        return _lint_corpus(open_artifact(path.resolve()), target, tokenizer_dir)
    return _lint_files(target, kind, shape, tokenizer_dir)


def lint_tokens(directory: Path, *, target: str = "", tokenizer_dir: Path | None = None) -> LintReport:
    """Look at both splits of a token set, or at the one of a split's directory."""
    findings, splits = Findings(), Splits()
    artifact = _artifact_around(directory)
    corpus = artifact and parent(artifact, "corpus", proven=False)
    tokenizer_dir = tokenizer_dir or _dir_of(artifact and parent(artifact, "tokenizer", proven=False))
    tokenizer = Tokenizer.load(tokenizer_dir) if tokenizer_dir else None
    if tokenizer is None:
        findings.skipped.append("mask_outside_answers, template_differs: no tokenizer beside it; give --tokenizer")
    sets = {split: tokens for split, tokens in _open_splits(directory).items() if tokens.num_documents}
    if not sets:
        raise DataError(f"{directory}: the token set has no documents")
    rows = {split: _corpus_split(corpus, split) for split in sets}

    def locate(split: str, document: int) -> Place:
        source = rows[split]
        if source is None:
            return Place(file="", split=split, document=document)
        origin = next(iter(source.origins([int(sets[split].rows[document])]).values()))
        return Place(file=origin.source, line=origin.line, split=split, document=document)

    for split, tokens in sets.items():
        SetRules(tokens, split, findings, locate, tokenizer, splits).look()
    splits.conclude(findings, locate)
    for split, tokens in sets.items():
        source = rows[split]
        if tokenizer_dir and source is not None and tokens.kind != "pretrain":
            _compare_documents(tokens, split, source, tokenizer_dir, findings, locate)
        elif source is None and tokens.kind != "pretrain":
            findings.skipped.append(f"template_differs, {split}: its corpus is not in the store")
    kind = next(iter(sets.values())).kind
    documents = sum(tokens.num_documents for tokens in sets.values())
    return findings.report(target=target or str(directory), kind=kind, rows=documents, unit="documents")


def _lint_files(target: str, kind: RowKind | None, shape: Shape, tokenizer_dir: Path | None) -> LintReport:
    kind = kind or _told_kind(target)
    findings, splits = Findings(), Splits()
    rules, at = RowRules(kind, findings), list[tuple[str, int]]()
    template = _TemplateRule(kind, tokenizer_dir, findings)
    for file, checked in checked_files([target], kind, shape=shape):
        split = split_of_file(_below(file, target))
        for bad in checked.bad:
            rules.bad(bad.reason, bad.detail, bad.raw, Place(file=file, line=bad.line))
        for row in checked.rows.to_pylist():
            place = Place(file=file, line=row["line"])
            rules.look(row, place)
            template.look(row, place)
            if split:
                splits.add(split, len(at), *row_digests(kind, row))
                at.append((file, row["line"]))
    rules.conclude()
    splits.conclude(findings, lambda _, number: Place(file=at[number][0], line=at[number][1]))
    return findings.report(target=target, kind=kind, rows=rules.rows)


def _lint_corpus(artifact: Artifact, target: str, tokenizer_dir: Path | None) -> LintReport:
    """The rows of an artifact of the stages ingest, clean or shard."""
    kind = artifact.manifest.parts.config.get("rows")
    directories = [path for name in (*SPLITS, ROWS_DIR) if any((path := artifact.dir / name).glob("*.arrow"))]
    if kind not in CONTENT or not directories:
        raise DataError(f"{target}: an artifact of the stage {artifact.kind} holds no rows; name a corpus or token set")
    findings, splits = Findings(), Splits()
    rules, template = RowRules(kind, findings), _TemplateRule(kind, tokenizer_dir, findings)
    at: list[tuple[str, int]] = []
    for directory in directories:
        for row in (row for batch in read_batches(directory) for row in batch.to_pylist()):
            place = Place(file=row["source"], line=row["line"])
            rules.look(row, place)
            template.look(row, place)
            if directory.name in SPLITS:
                splits.add(directory.name, len(at), *row_digests(kind, row))
                at.append((row["source"], row["line"]))
    rules.conclude()
    splits.conclude(findings, lambda split, number: Place(file=at[number][0], line=at[number][1], split=split))
    return findings.report(target=target, kind=kind, rows=rules.rows)


class _TemplateRule:
    """Puts the first rows through the exported template and compares with the ids of a training."""

    def __init__(self, kind: RowKind, tokenizer_dir: Path | None, findings: Findings) -> None:
        self._kind, self._findings, self._left = kind, findings, 0
        if tokenizer_dir and kind != "pretrain":
            self._tokenizer, self._template = Tokenizer.load(tokenizer_dir), ExportedTemplate(tokenizer_dir)
            self._left = SAMPLED_ROWS

    def look(self, row: dict[str, Any], place: Place) -> None:
        if not self._left:
            return
        turns = row[CONTENT[self._kind][0]]
        if spells_special_token(turns):
            return
        self._left -= 1
        prompt = self._kind == "prompt"
        seen = render_prompt(turns, self._tokenizer) if prompt else render(turns, self._tokenizer).ids
        _compare(seen, self._template, turns, prompt, self._findings, place)


def _compare_documents(
    tokens: TokenSet, split: str, source: CorpusSplit, tokenizer_dir: Path, findings: Findings, locate: Any
) -> None:
    """Documents drawn evenly from the set, as they stand in its files, against the template on their rows."""
    template = ExportedTemplate(tokenizer_dir)
    sides = 2 if tokens.kind == "preference" else 1
    rows = np.asarray(tokens.rows)[::sides]
    alone = np.flatnonzero(np.concatenate([np.diff(rows) > 0, [True]]) & np.concatenate([[True], np.diff(rows) > 0]))
    drawn = alone[np.unique(np.linspace(0, len(alone) - 1, min(SAMPLED_ROWS, len(alone))).astype(int))].tolist()
    contents = source.contents(rows[drawn])
    whole = Tokenizer.load(tokenizer_dir)
    for number in drawn:
        for side, name in enumerate(CONTENT[tokens.kind]):
            turns = contents[int(rows[number])][name]
            document = sides * number + side
            ids = tokens.document(document).tolist()
            prompt = tokens.kind == "prompt"
            was_cut = len(ids) < len(render(turns, whole).ids)  # `too_long` took turns away, and said so
            if not spells_special_token(turns) and not was_cut:
                _compare(ids, template, turns, prompt, findings, locate(split, document))


def _compare(
    seen: list[int], template: ExportedTemplate, turns: Any, prompt: bool, findings: Findings, place: Place
) -> None:
    exported = template.ids(turns, with_header=prompt)
    if exported != seen:
        at = first_difference(exported, seen)
        ours, theirs = template.decode(seen[at : at + 12]), template.decode(exported[at : at + 12])
        shown = f"{ours!r} in training, {theirs!r} exported"
        findings.add("template_differs", place, f"from position {at} on", shown)


def _below(file: str, target: str) -> str:
    """The name of a file below the folder that was given; of a file that was given itself, its own name."""
    return file.removeprefix(target).lstrip("/\\") or Path(file).name


def _told_kind(target: str) -> RowKind:
    """The kind that the first rows of the files look like."""
    parts = chain.from_iterable(
        cut_file(file, place, kind, label=file, document="passage") for file, (place, kind) in find_all(target).items()
    )
    seen = 0
    for part in parts:
        if part.kind == "text":
            return "pretrain"
        for value in _first_values(part):
            keys = set(value) if isinstance(value, dict) else set()
            if {"chosen", "rejected"} <= keys or "preferred_output" in keys:
                return "preference"
            if keys & {"conversations", "messages", "instruction"}:
                return "chat"
            if keys & {"text", "prompt"}:
                return "pretrain" if "text" in keys else "prompt"
            seen += 1
            if seen == _KIND_ROWS:
                break
    raise DataError(f"{target}: what its rows are cannot be told from the first of them; say it with --kind")


def _first_values(part: Any) -> Iterator[Any]:
    for read in read_part(part, lambda _: None, document="passage"):
        lines = read if isinstance(read, list) else read.data.split(b"\n")[:_KIND_ROWS]
        for line in lines[:_KIND_ROWS]:
            value = line if isinstance(line, bytes) else line.value
            try:
                yield read_json(value.removeprefix(b"\xef\xbb\xbf")) if isinstance(value, bytes) else value
            except RowError:
                continue
        return


def _is_token_set(path: Path) -> bool:
    return any((place / INFO_FILE).exists() for place in (path, *(path / split for split in SPLITS)))


def _open_splits(directory: Path) -> dict[str, TokenSet]:
    if (directory / INFO_FILE).exists():
        return {directory.name if directory.name in SPLITS else "train": TokenSet.open(directory)}
    there: Sequence[str] = [split for split in SPLITS if (directory / split / INFO_FILE).exists()]
    return {split: TokenSet.open(split_dir(directory, split)) for split in there}


def _artifact_around(directory: Path) -> Artifact | None:
    place = next((p for p in (directory, directory.parent) if (p / MANIFEST_FILE).exists()), None)
    try:
        return open_artifact(place) if place else None
    except (ArtifactError, MissingError):
        return None


def _dir_of(artifact: Artifact | None) -> Path | None:
    return artifact.dir if artifact else None


def _corpus_split(corpus: Artifact | None, split: str) -> CorpusSplit | None:
    try:
        return CorpusSplit(corpus.dir / split) if corpus else None
    except MissingError:
        return None
