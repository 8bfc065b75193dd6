"""Token sets: rows as flat files of ids that open in no time, and the stage that writes them.

Per split (`train/`, `val/`), little-endian:

    tokens.bin  uint16 (uint32 where the vocabulary has more than 65,536 ids); documents one after
                another, and one END_OF_TEXT more at the end, so a label is always the next id in the file
    mask.bin    uint8 for each id: 1 where it is learnt as a target; chat and preference only
    docs.idx    int64, documents + 1 offsets into tokens.bin
    rows.idx    int64, the row of the corpus split each document is from
    bytes.idx   int64, UTF-8 bytes of each document's text; of chats, of the learnt text only
    tokens.json what the files are (`TokensInfo`)

A pretraining document is END_OF_TEXT and the text; a chat document the rendered conversation; a pair
is two documents, chosen then rejected, of which only the last turn is learnt (the rest is the same).
Nothing is cut. A chat or pair of more than `max_tokens` is left out whole and written down in
`dropped/dropped.jsonl`; pretraining documents of any length stay (`minimind.tokens.packing` splits them).

Opening checks every size, not every byte: that the bytes are those written, and so every id below the
vocabulary's size, is for the artifact's sha256 sums to prove.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, ValidationError, model_validator

from minimind.artifact import Inputs, Summary
from minimind.config import Config
from minimind.data.documents import CONTENT, SCHEMAS, RowKind
from minimind.data.dropped import DropLog
from minimind.data.shards import count_rows, read_batches
from minimind.errors import ArtifactError, ConfigError, DataError, MissingError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.runtime import write_json
from minimind.stage import Stage
from minimind.tokens.chat import render_batch
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.vocabulary import END_OF_TEXT

SPLITS = ("train", "val")
INFO_FILE = "tokens.json"
DROPPED_DIR = "dropped"


class TokensConfig(Config):
    """Which rows are made tokens of, and which are too long."""

    rows: RowKind
    max_tokens: int | None = Field(default=None, ge=8)
    """Longest chat, or side of a pair, that is kept; no more than the row length of the training to come."""

    @model_validator(mode="after")
    def _pretraining_has_no_limit(self) -> Self:
        if self.rows == "pretrain" and self.max_tokens is not None:
            raise ValueError("max_tokens is for chat and preference rows; long pretraining documents are split")
        return self


class TokensInfo(Config):
    """What `tokens.json` says of a split."""

    rows: RowKind
    dtype: str
    vocab_size: int
    documents: int
    tokens: int
    """Without the END_OF_TEXT that ends the file."""
    trained_tokens: int
    """Labels of one epoch."""
    bytes: int
    tokenizer: str
    """The tokenizer artifact's fingerprint."""


@dataclass(frozen=True)
class TokenSet:
    """One split, memory-mapped. `trained` is None for pretraining, where every id but the first is a label."""

    kind: RowKind
    tokens: np.ndarray
    offsets: np.ndarray
    rows: np.ndarray
    bytes: np.ndarray
    trained: np.ndarray | None
    info: TokensInfo

    @property
    def num_documents(self) -> int:
        return self.info.documents

    @property
    def num_tokens(self) -> int:
        """Ids of all documents, without the END_OF_TEXT behind the last."""
        return self.info.tokens

    def document(self, number: int) -> np.ndarray:
        """The ids of one document."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    @classmethod
    def open(cls, directory: Path) -> "TokenSet":
        """The token set of a split's directory. Raises MissingError, or ArtifactError where sizes disagree."""
        path = directory / INFO_FILE
        try:
            info = TokensInfo.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise MissingError(f"{path}: no token set here; run the stage tokens") from None
        except ValidationError as error:
            raise ArtifactError(f"{path}: damaged ({error.errors()[0]['msg']}); build the tokens again") from None
        offsets = _map(directory / "docs.idx", "<i8", info.documents + 1)
        if offsets[0] != 0 or offsets[-1] != info.tokens:
            at, found, wanted = (0, offsets[0], 0) if offsets[0] else (8 * info.documents, offsets[-1], info.tokens)
            raise ArtifactError(f"{directory / 'docs.idx'}: {found} at byte {at}, {wanted} was expected; build again")
        return cls(
            kind=info.rows,
            tokens=_map(directory / "tokens.bin", info.dtype, info.tokens + 1),
            offsets=offsets,
            rows=_map(directory / "rows.idx", "<i8", info.documents),
            bytes=_map(directory / "bytes.idx", "<i8", info.documents),
            trained=None if info.rows == "pretrain" else _map(directory / "mask.bin", "|u1", info.tokens + 1),
            info=info,
        )


@dataclass(frozen=True)
class _Document:
    ids: list[int]
    trained: list[bool] | None
    size: int


def token_dtype(vocab_size: int) -> str:
    """The narrowest type on disk that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def tokenize(config: TokensConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Write the token sets of a corpus' two splits and the rows that were too long."""
    corpus, tokenizer = inputs["corpus"].dir, Tokenizer.load(inputs["tokenizer"].dir)
    (out_dir / DROPPED_DIR).mkdir()
    total = sum(count_rows(corpus / split) for split in SPLITS)
    figures: dict[str, int | float | str | None] = {}
    with DropLog(out_dir / DROPPED_DIR) as dropped, EventWriter(out_dir / EVENTS_FILE) as events:
        done = 0
        for split in SPLITS:
            rows, before = 0, dropped.rows
            with _SplitWriter(out_dir / split, config.rows, tokenizer.vocab_size) as writer:
                for batch in read_batches(corpus / split):
                    for row, documents in enumerate(_documents(config, batch, tokenizer), start=rows):
                        if _too_long(config, documents):
                            _drop(dropped, config, batch.slice(row - rows, 1).to_pylist()[0], split, documents)
                        else:
                            writer.write(row, documents)
                    rows += batch.num_rows
                    done += batch.num_rows
                    events.progress(done, total, "rows")
            info = writer.info(tokenizer=inputs["tokenizer"].fingerprint)
            write_json(out_dir / split / INFO_FILE, info.model_dump(mode="json"))
            figures |= {f"{split}_{name}": value for name, value in _figures(info, rows, dropped.rows - before).items()}
    if not figures["train_documents"]:
        limit = (
            f" of at most {config.max_tokens} tokens (the shortest `length` of the stages that read it)"
            if config.max_tokens
            else ""
        )
        raise DataError(f"{corpus / 'train'}: no row{limit} to learn from among {figures['train_rows']}")
    warnings = []
    if dropped.rows:
        share = f"{dropped.rows} of {total} rows"
        limit = f"{config.max_tokens} tokens, the shortest `length` of the stages that read them"
        warnings = [f"{share} are longer than {limit}, and were left out"]
    first = TokenSet.open(out_dir / "train").document(0)[:256]
    return Summary(figures=figures, samples=[tokenizer.decode(first)], warnings=warnings)


TOKENS = Stage("tokens", tokenize, inputs=("corpus", "tokenizer"))


class _SplitWriter:
    """Appends documents to a split's files and counts."""

    def __init__(self, directory: Path, kind: RowKind, vocab_size: int) -> None:
        directory.mkdir(parents=True)
        self._kind: RowKind = kind
        self._vocab_size = vocab_size
        self._dtype = token_dtype(vocab_size)
        self._documents = self._tokens = self._trained = self._bytes = 0
        names = {"tokens": "tokens.bin", "docs": "docs.idx", "rows": "rows.idx", "bytes": "bytes.idx"}
        if kind != "pretrain":
            names["mask"] = "mask.bin"
        with ExitStack() as stack:
            self._files = {key: stack.enter_context((directory / name).open("wb")) for key, name in names.items()}
            self._open = stack.pop_all()

    def write(self, row: int, documents: list[_Document]) -> None:
        for document in documents:
            self._append("docs", [self._tokens], "<i8")
            self._append("rows", [row], "<i8")
            self._append("bytes", [document.size], "<i8")
            self._append("tokens", document.ids, self._dtype)
            if document.trained is not None:
                self._append("mask", document.trained, "|u1")
                self._trained += sum(document.trained)
            else:
                self._trained += len(document.ids)  # the next document's END_OF_TEXT is a label, the first one is none
            self._documents += 1
            self._tokens += len(document.ids)
            self._bytes += document.size

    def info(self, *, tokenizer: str) -> TokensInfo:
        return TokensInfo(
            rows=self._kind,
            dtype=self._dtype,
            vocab_size=self._vocab_size,
            documents=self._documents,
            tokens=self._tokens,
            trained_tokens=self._trained,
            bytes=self._bytes,
            tokenizer=tokenizer,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._append("docs", [self._tokens], "<i8")
        self._append("tokens", [END_OF_TEXT], self._dtype)
        if "mask" in self._files:
            self._append("mask", [0], "|u1")
        self._open.close()

    def _append(self, key: str, values: list[int] | list[bool], dtype: str) -> None:
        self._files[key].write(np.array(values, dtype=dtype).tobytes())


def _documents(config: TokensConfig, batch: pa.RecordBatch, tokenizer: Tokenizer) -> Iterator[list[_Document]]:
    """The documents of each row of `batch`."""
    if not batch.schema.equals(SCHEMAS[config.rows]):
        columns = ", ".join(batch.schema.names)
        raise ConfigError(f'tokens.rows = "{config.rows}", but the rows of the corpus have the columns {columns}')
    fields = CONTENT[config.rows]
    if config.rows == "pretrain":
        texts = batch["text"].to_pylist()
        for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
            yield [_Document([END_OF_TEXT, *ids], None, len(text.encode("utf-8")))]
        return
    conversations = list(chain.from_iterable(zip(*(batch[name].to_pylist() for name in fields), strict=True)))
    rendered = render_batch(conversations, tokenizer, last_turn_only=config.rows == "preference")
    documents = [_Document(one.ids, one.trained, one.trained_bytes) for one in rendered]
    for start in range(0, len(documents), len(fields)):
        yield documents[start : start + len(fields)]


def _too_long(config: TokensConfig, documents: list[_Document]) -> bool:
    return config.max_tokens is not None and max(len(document.ids) for document in documents) > config.max_tokens


def _drop(log: DropLog, config: TokensConfig, row: dict[str, Any], split: str, documents: list[_Document]) -> None:
    lengths = " and ".join(str(len(document.ids)) for document in documents)
    log.add(
        source=row["source"],
        file=split,
        line=row["line"],
        rule="max_tokens",
        reason="too_long",
        detail=f"{lengths} tokens, at most {config.max_tokens} are taken",
        text=json.dumps({name: row[name] for name in CONTENT[config.rows]}, ensure_ascii=False),
    )


def _figures(info: TokensInfo, rows: int, dropped: int) -> dict[str, int | float]:
    """rows = dropped_rows + documents (twice as many documents for pairs)."""
    figures: dict[str, int | float] = {
        "rows": rows,
        "dropped_rows": dropped,
        "documents": info.documents,
        "tokens": info.tokens,
        "trained_tokens": info.trained_tokens,
        "bytes": info.bytes,
    }
    # A chat's header tokens have no bytes of text, so there the ratio is that of the learnt tokens.
    return figures | {"bytes_per_token": round(info.bytes / max(info.trained_tokens, 1), 4)}


def _map(path: Path, dtype: str, count: int) -> np.ndarray:
    """A read-only map of `count` numbers. Raises where the file's size is another."""
    wanted = count * np.dtype(dtype).itemsize
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ArtifactError(f"{path}: missing from a token set; build the tokens again") from None
    if size != wanted:
        fault = f"ends at byte {size}, before byte {wanted}" if size < wanted else f"goes on after byte {wanted}"
        raise ArtifactError(f"{path}: {fault}, where {INFO_FILE} says it ends; build the tokens again")
    if not count:
        return np.zeros(0, dtype)
    # A plain array on the map: np.memmap itself makes every index a slow subclass call.
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(count,)))
