"""Tokenizing: the stage that turns a corpus into token sets.

    part of the corpus ─► tokenize_part: encode, render, fit ─┐     (a job for each part)
    part of the corpus ─► tokenize_part: encode, render, fit ─┼─► train/ val/, their packing plans, dropped/
    part of the corpus ─► tokenize_part: encode, render, fit ─┘

A part is some neighbouring record batches, about 50 MB of text; in memory is one batch of them, and while the
plans are made 50 bytes a document. Finished jobs outlive a kill; the bytes that come out depend on the corpus, the
tokenizer and the settings alone, not on the number of workers.

Nothing is cut silently. A conversation of more than `max_tokens` is treated as `too_long` says
(`minimind.tokens.fitting`); what is left out stands in `dropped/dropped.jsonl`, what is cut out in
`dropped/cut.jsonl`, and both are counted by source in `tokens.json`. Pretraining documents of any length stay
(`minimind.tokens.packing` spreads them over rows).
Not here: what a job does (`minimind.tokens.tokenize_jobs`), the files (`minimind.tokens.token_set`).
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from minimind.artifact import Inputs, Summary
from minimind.data.documents import SCHEMAS
from minimind.data.dropped import DROPPED_FILE
from minimind.data.pieces import build_pieces, enough_workers, join_files, taken_apart
from minimind.data.shards import count_rows
from minimind.errors import ArtifactError, ConfigError, DataError, MissingError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage
from minimind.tokens.split_writer import close_split
from minimind.tokens.token_set import (
    BYTES_FILE,
    MASK_FILE,
    OFFSETS_FILE,
    ROWS_FILE,
    SPLITS,
    TOKENS_FILE,
    TokenSet,
    TokensInfo,
    plan_dir,
    token_dtype,
)
from minimind.tokens.tokenize_jobs import (
    CUT_DIR,
    DROPPED_DIR,
    FIGURES_FILE,
    PartFigures,
    TokensConfig,
    TokensJob,
    tokenize_part,
)
from minimind.tokens.tokenizer import Tokenizer

__all__ = ["CUT_FILE", "DROPPED_DIR", "TOKENS", "TokensConfig", "tokenize"]

CUT_FILE = "cut.jsonl"
PART_BYTES = 16 << 20
"""Of compressed shards that one job reads: some 50 MB of text, a few seconds."""
_PIECES = "pieces"

Figures = dict[str, int | float | str | None]


def tokenize(config: TokensConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Write the token sets of a corpus' two splits, and what was left out or cut because it was too long."""
    corpus, tokenizer = inputs["corpus"].dir, Tokenizer.load(inputs["tokenizer"].dir)
    for name in (*SPLITS, DROPPED_DIR):
        shutil.rmtree(out_dir / name, ignore_errors=True)
    jobs = [job for split in SPLITS for job in _jobs(config, corpus / split, inputs["tokenizer"].dir)]
    total = sum(count_rows(corpus / split) for split in SPLITS)
    size = sum(path.stat().st_size for split in SPLITS for path in (corpus / split).glob("*.arrow"))
    with EventWriter(out_dir / EVENTS_FILE, keep_bytes=0) as events:
        pieces = build_pieces(
            tokenize_part,
            jobs,
            out_dir / _PIECES,
            workers=enough_workers(config.workers, size),
            on_progress=lambda done: events.progress(min(done, total - 1), total, "rows"),
        )
        infos = {}
        with taken_apart(pieces) as parts:
            (out_dir / DROPPED_DIR).mkdir()
            for name, target in ((DROPPED_DIR, DROPPED_FILE), (CUT_DIR, CUT_FILE)):
                join_files((part / name / DROPPED_FILE for part in parts), out_dir / DROPPED_DIR / target)
            for split in SPLITS:
                of_split = [part for part, job in zip(parts, jobs, strict=True) if job.split == split]
                infos[split] = _join(of_split, out_dir / split, config, tokenizer, inputs["tokenizer"].fingerprint)
        events.progress(total, total, "rows")
    return _conclude(config, infos, out_dir, corpus, tokenizer)


TOKENS = Stage("tokens", tokenize, inputs=("corpus", "tokenizer"), format_version=2, resumable=True)


def _jobs(config: TokensConfig, directory: Path, tokenizer: Path) -> list[TokensJob]:
    """A job for each part of a split; how the work is cut depends on its files alone. A split without rows has one."""
    rules = config.replace(workers=0, row_lengths=())
    spans = list(_spans(config, directory)) or [[]]
    return [TokensJob(config=rules, tokenizer=str(tokenizer), split=directory.name, spans=tuple(s)) for s in spans]


def _spans(config: TokensConfig, directory: Path) -> Iterator[list[tuple[str, int, int]]]:
    """Neighbouring record batches, by file, until they have about `PART_BYTES`."""
    paths = sorted(directory.glob("*.arrow"))
    if not paths:
        raise MissingError(f"{directory}: no *.arrow files here; run the stage shard")
    spans: list[tuple[str, int, int]] = []
    size = 0.0
    for path in paths:
        batches = _count_batches(config, path)
        for index in range(batches):
            if spans and spans[-1][0] == str(path):
                spans[-1] = (str(path), spans[-1][1], index + 1)
            else:
                spans.append((str(path), index, index + 1))
            size += path.stat().st_size / batches
            if size >= PART_BYTES:
                yield spans
                spans, size = [], 0.0
    if spans:
        yield spans


def _count_batches(config: TokensConfig, path: Path) -> int:
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            schema, batches = reader.schema, reader.num_record_batches
    except pa.ArrowInvalid as error:
        raise ArtifactError(f"{path}: damaged Arrow file ({str(error)[:100]}); build it again") from None
    if not schema.equals(SCHEMAS[config.rows]):
        columns = ", ".join(schema.names)
        raise ConfigError(f'tokens.rows = "{config.rows}", but the rows of the corpus have the columns {columns}')
    return batches


def _join(
    parts: Sequence[Path], target: Path, config: TokensConfig, tokenizer: Tokenizer, fingerprint: str
) -> TokensInfo:
    """Put the parts of a split together; their files go as they are read."""
    figures = [PartFigures.model_validate_json((part / FIGURES_FILE).read_bytes()) for part in parts]
    target.mkdir()
    for name in (TOKENS_FILE, BYTES_FILE, *([MASK_FILE] if config.rows != "pretrain" else [])):
        join_files(_consumed(part / name for part in parts), target / name)
    for name, counts in ((OFFSETS_FILE, [f.tokens for f in figures]), (ROWS_FILE, [f.rows for f in figures])):
        before = np.cumsum([0, *counts])[:-1].tolist()
        _join_moved([part / name for part in parts], before, target / name)
    whole = _sum(figures)
    info = TokensInfo(
        rows=config.rows,
        dtype=token_dtype(tokenizer.vocab_size),
        vocab_size=tokenizer.vocab_size,
        documents=whole.documents,
        tokens=whole.tokens,
        trained_tokens=whole.trained_tokens,
        bytes=whole.bytes,
        tokenizer=fingerprint,
        end_of_text=tokenizer.specials.end_of_text,
        longest=whole.longest,
        sources=dict(sorted(whole.sources.items())),
    )
    close_split(target, info, config.row_lengths)
    return info


def _consumed(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths one by one, each removed when the next is asked for: twice the set would not fit every disk."""
    for path in paths:
        yield path
        path.unlink()


def _join_moved(paths: Sequence[Path], before: Sequence[int], target: Path) -> None:
    """Join files of int64, to the numbers of each of which is added what stood before it."""
    with target.open("wb") as whole:
        for path, offset in zip(paths, before, strict=True):
            (np.fromfile(path, "<i8") + offset).tofile(whole)


def _sum(figures: Sequence[PartFigures]) -> PartFigures:
    total = PartFigures()
    for part in figures:
        sources = dict(total.sources)
        for name, counts in part.sources.items():
            sources[name] = sources[name].plus(counts.model_dump()) if name in sources else counts
        added = {
            name: getattr(total, name) + getattr(part, name)
            for name in ("rows", "documents", "tokens", "trained_tokens", "bytes")
        }
        total = PartFigures(**added, longest=max(total.longest, part.longest), sources=sources)
    return total


def _conclude(
    config: TokensConfig, infos: dict[str, TokensInfo], out_dir: Path, corpus: Path, tokenizer: Tokenizer
) -> Summary:
    figures: Figures = {}
    for split, info in infos.items():
        figures |= {f"{split}_{name}": value for name, value in _figures(info).items()}
        for row_length in config.row_lengths:
            if plan_dir(out_dir / split, row_length).is_dir():
                rows = TokenSet.open(out_dir / split).plan(row_length).num_rows
                figures[f"{split}_padding_{row_length}"] = round(1 - info.tokens / (rows * row_length), 6)
    total, dropped, cut = (sum(figures[f"{s}_{name}rows"] for s in SPLITS) for name in ("", "dropped_", "cut_"))
    limit = f"{config.max_tokens} tokens, the shortest `length` of the stages that read them"
    if not figures["train_documents"]:
        within = f" of at most {limit}" if config.max_tokens else ""
        raise DataError(f"{corpus / 'train'}: no row{within}, to learn from among {figures['train_rows']}")
    warnings = []
    if dropped:
        warnings.append(f"{dropped} of {total} rows are longer than {limit}, and were left out")
    if cut:
        how = "split" if config.too_long == "split" else "cut from the left"
        warnings.append(f"{cut} of {total} rows are longer than {limit}, and were {how}: {DROPPED_DIR}/{CUT_FILE}")
    first = TokenSet.open(out_dir / "train").document(0)[:256]
    return Summary(figures=figures, samples=[tokenizer.decode(first)], warnings=warnings)


def _figures(info: TokensInfo) -> dict[str, int | float]:
    """rows = dropped_rows + rows that documents are of; a pair is two documents, a split chat several."""
    counted = {
        name: sum(getattr(source, name) for source in info.sources.values())
        for name in ("rows", "dropped_rows", "cut_rows", "dropped_bytes", "cut_bytes")
    }
    made = {name: getattr(info, name) for name in ("documents", "tokens", "trained_tokens", "bytes")}
    # A chat's header tokens have no bytes of text, so there the ratio is that of the learnt tokens.
    return counted | made | {"bytes_per_token": round(info.bytes / max(info.trained_tokens, 1), 4)}
