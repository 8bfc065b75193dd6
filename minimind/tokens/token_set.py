"""Token sets: rows as flat files of ids that open in no time.

Per split (`train/`, `val/`), little-endian:

    tokens.bin  uint16 (uint32 where the vocabulary has more than 65,536 ids); documents one after
                another, and one END_OF_TEXT more at the end, so a label is always the next id in the file
    mask.bin    uint8 for each id: 1 where it is learnt as a target; not in pretraining sets
    docs.idx    int64, documents + 1 offsets into tokens.bin
    rows.idx    int64, the row of the corpus split each document is from
    bytes.idx   int64, UTF-8 bytes of each document's text; of chats, of the learnt text only
    tokens.json what the files are (`TokensInfo`), and what became of the rows of each source
    plan-512/   which documents share a row of 512 (`minimind.tokens.packing`), for the lengths of the trainings

A pretraining document is END_OF_TEXT and the text; a chat document the rendered conversation; a pair
is two documents, chosen then rejected, of which only the last turn is learnt (the rest is the same); a prompt
ends with the header of the answer that is due, and nothing of it is learnt.

Opening checks every size, not every byte: that the bytes are those written, and so every id below the
vocabulary's size, is for the artifact's sha256 sums to prove. Nothing is read that grows with the set.
Not here: how rows become documents (`minimind.tokens.tokenizing`).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from minimind.config import Config
from minimind.data.documents import RowKind
from minimind.errors import ArtifactError
from minimind.tokens.packing import Plan, plan_rows

SPLITS = ("train", "val")
INFO_FILE = "tokens.json"
OFFSETS_FILE, ROWS_FILE, BYTES_FILE = "docs.idx", "rows.idx", "bytes.idx"
TOKENS_FILE, MASK_FILE = "tokens.bin", "mask.bin"
MAPPED_IDS = 1 << 25
"""Sets of up to so many ids are read through their maps: 64 MB at most, and a third faster for short documents."""


class SourceTokens(Config):
    """What became of the rows of one source. rows = kept + dropped; bytes = kept + dropped + cut."""

    rows: int = 0
    bytes: int = 0
    """UTF-8 bytes of the rows' texts, as the corpus counts them; so are those that follow."""
    kept_rows: int = 0
    kept_bytes: int = 0
    dropped_rows: int = 0
    dropped_bytes: int = 0
    cut_rows: int = 0
    """Kept rows that were cut or split because they were too long."""
    cut_bytes: int = 0
    """What is in no document of them."""
    documents: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    def plus(self, counts: Mapping[str, int]) -> Self:
        """These figures and `counts` together."""
        return self.replace(**{name: getattr(self, name) + count for name, count in counts.items()})


class TokensInfo(Config):
    """What `tokens.json` says of a split."""

    rows: RowKind
    dtype: Literal["<u2", "<u4"]
    vocab_size: PositiveInt
    documents: NonNegativeInt
    tokens: NonNegativeInt
    """Without the END_OF_TEXT that ends the file."""
    trained_tokens: int
    """Labels of one epoch."""
    bytes: int
    tokenizer: str
    """The tokenizer artifact's fingerprint."""
    end_of_text: int = 0
    """The id that begins pretraining documents, ends the file, and pads rows."""
    longest: int | None = None
    """Tokens of the longest document."""
    sources: dict[str, SourceTokens] = {}


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
    directory: Path | None = None
    """Where its files are; None for a set in memory."""

    @property
    def num_documents(self) -> int:
        return self.info.documents

    @property
    def num_tokens(self) -> int:
        """Ids of all documents, without the END_OF_TEXT behind the last."""
        return self.info.tokens

    @property
    def longest_document(self) -> int:
        """Ids of the longest document; 0 without documents."""
        known = self.info.longest
        return int(np.diff(self.offsets).max(initial=0)) if known is None else known

    def document(self, number: int) -> np.ndarray:
        """The ids of one document."""
        return self.tokens[self.offsets[number] : self.offsets[number + 1]]

    def runs(self, begins: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """Ids and mask that hold these runs of the file, and where in them each run begins.

        Of a small set they are the maps themselves. Of a large one they are read run by run: a kernel may map 2 MB
        of a file for every id that is touched, and a batch of a terabyte would be as large as the machine.
        """
        if self.directory is None or self.num_tokens <= MAPPED_IDS:
            return self.tokens, self.trained, begins
        ids = _read_runs(self.directory / TOKENS_FILE, self.tokens.dtype, begins, lengths)
        mask = self.trained
        if mask is not None:
            mask = _read_runs(self.directory / MASK_FILE, mask.dtype, begins, lengths)
        return ids, mask, np.cumsum(lengths) - lengths

    def plan(self, row_length: int) -> Plan:
        """Which documents share a row of that length: as stored with the set, else made now."""
        if self.directory and (stored := plan_dir(self.directory, row_length)).is_dir():
            return Plan.load(stored)
        return plan_rows(np.diff(self.offsets), row_length=row_length)

    @classmethod
    def open(cls, directory: Path) -> "TokenSet":
        """The token set of a split's directory. Raises MissingError, or ArtifactError where sizes disagree."""
        info = TokensInfo.read_json(directory / INFO_FILE, remedy="run the stage tokens again")
        offsets = _map(directory / OFFSETS_FILE, "<i8", info.documents + 1)
        if offsets[0] != 0 or offsets[-1] != info.tokens:
            at, found, wanted = (0, offsets[0], 0) if offsets[0] else (8 * info.documents, offsets[-1], info.tokens)
            raise ArtifactError(f"{directory / OFFSETS_FILE}: {found} at byte {at}, {wanted} was expected; build again")
        return cls(
            kind=info.rows,
            tokens=_map(directory / TOKENS_FILE, info.dtype, info.tokens + 1),
            offsets=offsets,
            rows=_map(directory / ROWS_FILE, "<i8", info.documents),
            bytes=_map(directory / BYTES_FILE, "<i8", info.documents),
            trained=None if info.rows == "pretrain" else _map(directory / MASK_FILE, "|u1", info.tokens + 1),
            info=info,
            directory=directory,
        )


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """`starts[0], starts[0] + 1, …` for `counts[0]` numbers, then the same for the next, as one array."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)


def token_dtype(vocab_size: int) -> Literal["<u2", "<u4"]:
    """The narrowest type on disk that holds every id."""
    return "<u2" if vocab_size <= 1 << 16 else "<u4"


def plan_dir(directory: Path, row_length: int) -> Path:
    """Where a split keeps its plan for that row length."""
    return directory / f"plan-{row_length}"


def _read_runs(path: Path, dtype: np.dtype, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    places = zip((begins * dtype.itemsize).tolist(), (lengths * dtype.itemsize).tolist(), strict=True)
    with path.open("rb", buffering=0) as file:
        return np.frombuffer(b"".join([os.pread(file.fileno(), size, at) for at, size in places]), dtype)


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
