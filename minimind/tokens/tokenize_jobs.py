"""The jobs of the stage tokens: part of a corpus in, part of a token set out.

A job goes over its record batches one at a time: texts are encoded all at once, what comes out is flat arrays
with the documents one behind the other, and only conversations that are too long are looked at one by one.
Row numbers and offsets are those within the part; the stage adds what stands before it.

Not here: how the parts are put together (`minimind.tokens.tokenizing`), what becomes of a conversation that is
too long (`minimind.tokens.fitting`).
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from minimind.config import WHERE, Config
from minimind.data.booking import content_text, source_names
from minimind.data.documents import CONTENT, RowKind
from minimind.data.dropped import DropLog
from minimind.data.kinds import CONVERSATIONS
from minimind.data.pieces import Advance
from minimind.data.reading.tally import measure
from minimind.data.shards import content_bytes
from minimind.errors import ArtifactError
from minimind.runtime import write_json
from minimind.tokens.chat import render_batch, render_prompt
from minimind.tokens.fitting import LEAST_TOKENS, Fitted, Side, TooLong, fit
from minimind.tokens.split_writer import Documents, SplitWriter, trained_of_each
from minimind.tokens.token_set import SourceTokens, token_dtype
from minimind.tokens.tokenizer import Tokenizer

FIGURES_FILE = "figures.json"
DROPPED_DIR, CUT_DIR = "dropped", "cut"
"""Each with a `dropped.jsonl`: of rows left out, and of what was cut out of rows."""


class TokensConfig(Config):
    """Which rows are made tokens of, and what becomes of those that are too long."""

    rows: RowKind
    max_tokens: int | None = Field(default=None, ge=LEAST_TOKENS)
    """Longest conversation, prompt or side of a pair that is kept whole; no more than the training's row length."""
    too_long: TooLong = "drop"
    """What becomes of a longer one; a pair or a prompt cannot be split."""
    row_lengths: Annotated[tuple[int, ...], WHERE] = ()
    """Lengths of the trainings that read the set: a packing plan is stored for each, others are made when asked for."""
    workers: Annotated[int, WHERE] = 0
    """Processes; 0 takes one for each core."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.rows == "pretrain" and (self.max_tokens is not None or self.too_long != "drop"):
            raise ValueError("max_tokens and too_long are not for pretrain rows; long documents are split")
        if self.too_long == "split" and self.rows not in CONVERSATIONS:
            raise ValueError(f'too_long = "split" is for conversations; {self.rows} rows can be "drop" or "cut_left"')
        return self


class TokensJob(Config):
    """Some neighbouring record batches of one split."""

    config: TokensConfig
    tokenizer: str
    split: str
    spans: tuple[tuple[str, int, int], ...]
    """File, the first record batch of it, and the one behind the last."""


class PartFigures(Config):
    """What a job wrote; adds up over the parts of a split."""

    rows: int = 0
    documents: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    bytes: int = 0
    longest: int = 0
    sources: dict[str, SourceTokens] = {}


def tokenize_part(job: TokensJob, out_dir: Path, advance: Advance) -> None:
    """Write the documents of the job's rows, the rows that were dropped or cut, and figures."""
    config, tokenizer = job.config, Tokenizer.load(Path(job.tokenizer))
    sources: dict[str, SourceTokens] = {}
    rows = 0
    with ExitStack() as stack:
        writer = stack.enter_context(SplitWriter(out_dir, config.rows, vocab_size=tokenizer.vocab_size))
        for name in (DROPPED_DIR, CUT_DIR):
            (out_dir / name).mkdir()
        dropped, cut = (stack.enter_context(DropLog(out_dir / name)) for name in (DROPPED_DIR, CUT_DIR))
        for batch in _read(job.spans):
            some, bytes_cut = _fitting(_documents(config.rows, batch, tokenizer), batch, job, tokenizer, dropped, cut)
            _count(sources, batch, config.rows, some, bytes_cut)
            writer.write(some.moved(rows))
            rows += batch.num_rows
            advance(batch.num_rows)
    figures = PartFigures(
        rows=rows,
        documents=writer.documents,
        tokens=writer.tokens,
        trained_tokens=writer.trained,
        bytes=writer.bytes,
        longest=writer.longest,
        sources=sources,
    )
    write_json(out_dir / FIGURES_FILE, figures.model_dump(mode="json"))


def _read(spans: tuple[tuple[str, int, int], ...]) -> Iterator[pa.RecordBatch]:
    for path, first, stop in spans:
        try:
            with pa.memory_map(path) as source:
                reader = pa.ipc.open_file(source)
                for index in range(first, stop):
                    yield reader.get_batch(index)
        except pa.ArrowInvalid as error:
            raise ArtifactError(f"{path}: damaged Arrow file ({str(error)[:100]}); build it again") from None


def _documents(kind: RowKind, batch: pa.RecordBatch, tokenizer: Tokenizer) -> Documents:
    """The documents of all rows of `batch`, whatever their length; `rows` counts from 0 within the batch."""
    dtype = token_dtype(tokenizer.vocab_size)
    if kind == "pretrain":
        encoded = tokenizer.encode_batch(batch["text"].to_pylist())
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        ids = np.fromiter(chain.from_iterable(encoded), dtype, int(lengths.sum()))
        ids = np.insert(ids, np.cumsum(lengths) - lengths, np.array(tokenizer.specials.end_of_text, dtype))
        sizes = pc.binary_length(batch["text"]).to_numpy(zero_copy_only=False).astype(np.int64)
        return Documents(ids, lengths + 1, None, np.arange(batch.num_rows), sizes)
    fields = CONTENT[kind]
    conversations = list(chain.from_iterable(zip(*(batch[name].to_pylist() for name in fields), strict=True)))
    # Of a prompt no turn is learnt, so the earlier answers of it are not either.
    rendered = render_batch(conversations, tokenizer, last_turn_only=kind not in CONVERSATIONS)
    header = render_prompt([], tokenizer) if kind == "prompt" else []
    lengths = np.fromiter((len(one.ids) + len(header) for one in rendered), np.int64, len(rendered))
    total = int(lengths.sum())
    return Documents(
        np.fromiter(chain.from_iterable(chain(one.ids, header) for one in rendered), dtype, total),
        lengths,
        np.fromiter(chain.from_iterable(chain(one.trained, [False] * len(header)) for one in rendered), bool, total),
        np.repeat(np.arange(batch.num_rows), len(fields)),
        np.fromiter((one.trained_bytes for one in rendered), np.int64, len(rendered)),
    )


def _fitting(
    some: Documents, batch: pa.RecordBatch, job: TokensJob, tokenizer: Tokenizer, dropped: DropLog, cut: DropLog
) -> tuple[Documents, dict[int, int]]:
    """`some` where every document fits, and for each row that was cut the bytes that are in none."""
    config = job.config
    if config.max_tokens is None or not (some.lengths > config.max_tokens).any():
        return some, {}
    long_rows = np.unique(some.rows[some.lengths > config.max_tokens]).tolist()
    whole = np.flatnonzero(~np.isin(some.rows, long_rows))
    starts = np.cumsum(some.lengths) - some.lengths
    parts, bytes_cut = [some.take(whole)], dict[int, int]()
    for row in long_rows:
        numbers = np.flatnonzero(some.rows == row)
        spans = [slice(starts[number], starts[number] + some.lengths[number]) for number in numbers]
        sides = [Side(some.ids[span], some.trained[span]) for span in spans if some.trained is not None]
        values = batch.slice(row, 1).to_pylist()[0]
        fitted = fit(
            sides,
            values[CONTENT[config.rows][0]],
            config.too_long,
            max_tokens=config.max_tokens,
            im_start=tokenizer.specials.im_start,
        )
        _note(dropped, cut, job, values, sides, fitted)
        if fitted.documents:
            parts.append(_flat(fitted.documents, row, tokenizer))
            bytes_cut[row] = len(sides) * content_bytes({"conversations": fitted.lost})
    return Documents.joined(parts), bytes_cut


def _flat(documents: list[Side], row: int, tokenizer: Tokenizer) -> Documents:
    return Documents(
        np.concatenate([document.ids for document in documents]),
        np.array([len(document.ids) for document in documents]),
        np.concatenate([document.trained for document in documents]),
        np.full(len(documents), row),
        np.array([len(tokenizer.decode_bytes(document.ids[document.trained])) for document in documents]),
    )


def _note(
    dropped: DropLog, cut: DropLog, job: TokensJob, row: Mapping[str, Any], sides: list[Side], fitted: Fitted
) -> None:
    """Write down that a row was too long, and what was done about it."""
    config, lengths = job.config, " and ".join(str(len(side.ids)) for side in sides)
    if not fitted.documents:
        rule, what = "max_tokens", f"{lengths} tokens, at most {config.max_tokens} are taken"
        text = content_text(config.rows, dict(row))
    else:
        rule, made = config.too_long, " and ".join(str(len(document.ids)) for document in fitted.documents)
        what = f"{lengths} tokens became {made}; {len(fitted.lost)} messages were left out"
        bare = [{key: value for key, value in turn.items() if value is not None} for turn in fitted.lost]
        text = json.dumps(bare, ensure_ascii=False)
    log = cut if fitted.documents else dropped
    log.add(
        source=row["source"],
        file=job.split,
        line=row["line"],
        rule=rule,
        reason="too_long",
        detail=what,
        text=text,
    )


def _count(
    sources: dict[str, SourceTokens],
    batch: pa.RecordBatch,
    kind: RowKind,
    some: Documents,
    bytes_cut: Mapping[int, int],
) -> None:
    """Add what became of the rows of `batch` to their sources' figures."""
    names, source_of = np.unique(np.array(source_names(batch), object), return_inverse=True)
    sizes = np.asarray(measure(kind, batch)[0])
    kept, cut = np.zeros(batch.num_rows, bool), np.zeros(batch.num_rows, np.int64)
    kept[some.rows] = True
    cut[list(bytes_cut)] = list(bytes_cut.values())
    was_cut = np.isin(np.arange(batch.num_rows), list(bytes_cut))
    by_row = {
        "rows": np.ones_like(sizes),
        "bytes": sizes,
        "kept_rows": kept,
        "kept_bytes": (sizes - cut) * kept,
        "dropped_rows": ~kept,
        "dropped_bytes": sizes * ~kept,
        "cut_rows": was_cut,
        "cut_bytes": cut,
    }
    by_document = {
        "documents": np.ones_like(some.lengths),
        "tokens": some.lengths,
        "trained_tokens": trained_of_each(some),
    }
    places = dict.fromkeys(by_row, source_of) | dict.fromkeys(by_document, source_of[some.rows])
    sums = {
        name: np.bincount(places[name], values, len(names)).astype(np.int64).tolist()
        for name, values in (by_row | by_document).items()
    }
    for number, source in enumerate(names.tolist()):
        sources[source] = sources.get(source, SourceTokens()).plus({name: sums[name][number] for name in sums})
