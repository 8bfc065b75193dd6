"""Writing a split of a token set: documents appended as flat arrays, then the files made whole.

`Documents` is what travels between rendering and file: some documents, one behind the other, without an object for
each. Not here: the format and opening it (`minimind.tokens.token_set`).
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np

from minimind.data.documents import RowKind
from minimind.runtime import write_json
from minimind.tokens.packing import plan_rows
from minimind.tokens.token_set import (
    BYTES_FILE,
    INFO_FILE,
    MASK_FILE,
    OFFSETS_FILE,
    ROWS_FILE,
    TOKENS_FILE,
    TokensInfo,
    plan_dir,
    ranges,
    token_dtype,
)


@dataclass(frozen=True)
class Documents:
    """Some documents one after another, flat. `trained` is None for pretraining."""

    ids: np.ndarray
    lengths: np.ndarray
    trained: np.ndarray | None
    rows: np.ndarray
    """Document → number of its row."""
    bytes: np.ndarray
    """Document → UTF-8 bytes of its text, of chats of the learnt text."""

    def take(self, documents: np.ndarray) -> "Documents":
        """Those of the given numbers, in ascending order."""
        kept = np.zeros(len(self.lengths), bool)
        kept[documents] = True
        of_token = np.repeat(kept, self.lengths)
        return Documents(
            self.ids[of_token],
            self.lengths[kept],
            None if self.trained is None else self.trained[of_token],
            self.rows[kept],
            self.bytes[kept],
        )

    def moved(self, rows: int) -> "Documents":
        """The same, of rows whose numbers are higher by `rows`."""
        return replace(self, rows=self.rows + rows)

    @classmethod
    def joined(cls, parts: Sequence["Documents"]) -> "Documents":
        """All documents of `parts` in the order of their rows; those of one row stay in order."""
        whole = cls(*(_concatenated([getattr(part, field.name) for part in parts]) for field in fields(cls)))
        order = np.argsort(whole.rows, kind="stable")
        starts = np.cumsum(whole.lengths) - whole.lengths
        of_token = ranges(starts[order], whole.lengths[order])
        return cls(
            whole.ids[of_token],
            whole.lengths[order],
            None if whole.trained is None else whole.trained[of_token],
            whole.rows[order],
            whole.bytes[order],
        )


class SplitWriter:
    """Appends documents to the files of a split and counts. One array operation for each file and call."""

    def __init__(self, directory: Path, kind: RowKind, *, vocab_size: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._kind, self._vocab_size = kind, vocab_size
        self._dtype = token_dtype(vocab_size)
        self.documents = self.tokens = self.trained = self.bytes = self.longest = 0
        names = [TOKENS_FILE, OFFSETS_FILE, ROWS_FILE, BYTES_FILE] + ([MASK_FILE] if kind != "pretrain" else [])
        with ExitStack() as stack:
            self._files = {name: stack.enter_context((directory / name).open("wb")) for name in names}
            self._open = stack.pop_all()

    def write(self, some: Documents) -> None:
        """Append `some`; `docs.idx` gets where each of them begins."""
        ends = self.tokens + np.cumsum(some.lengths)
        self._append(OFFSETS_FILE, ends - some.lengths, "<i8")
        self._append(ROWS_FILE, some.rows, "<i8")
        self._append(BYTES_FILE, some.bytes, "<i8")
        self._append(TOKENS_FILE, some.ids, self._dtype)
        if some.trained is not None:
            self._append(MASK_FILE, some.trained, "|u1")
        self.trained += trained_tokens(some)
        self.documents += len(some.lengths)
        self.tokens += len(some.ids)
        self.bytes += int(some.bytes.sum())
        self.longest = max(self.longest, int(some.lengths.max(initial=0)))

    def info(self, *, tokenizer: str = "", end_of_text: int = 0) -> TokensInfo:
        """What the files are, for `close_split`."""
        return TokensInfo(
            rows=self._kind,
            dtype=self._dtype,
            vocab_size=self._vocab_size,
            documents=self.documents,
            tokens=self.tokens,
            trained_tokens=self.trained,
            bytes=self.bytes,
            tokenizer=tokenizer,
            end_of_text=end_of_text,
            longest=self.longest,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def _append(self, name: str, values: np.ndarray, dtype: str) -> None:
        self._files[name].write(np.ascontiguousarray(values, dtype=dtype).data)


def close_split(directory: Path, info: TokensInfo, row_lengths: Sequence[int]) -> None:
    """Make the appended files of a split a whole token set: the last entries, what the files are, the plans."""
    last = {OFFSETS_FILE: ([info.tokens], "<i8"), TOKENS_FILE: ([info.end_of_text], info.dtype)}
    if info.rows != "pretrain":
        last[MASK_FILE] = ([0], "|u1")
    for name, (values, dtype) in last.items():
        with (directory / name).open("ab") as file:
            file.write(np.array(values, dtype).tobytes())
    write_json(directory / INFO_FILE, info.model_dump(mode="json"))
    if info.documents:
        lengths = np.diff(np.fromfile(directory / OFFSETS_FILE, "<i8"))
        for row_length in row_lengths:
            plan_rows(lengths, row_length=row_length).save(plan_dir(directory, row_length))


def trained_tokens(some: Documents) -> int:
    """Labels in an epoch: in pretraining every id, as the END_OF_TEXT behind a document is one and the first is not."""
    return len(some.ids) if some.trained is None else int(some.trained.sum())


def trained_of_each(some: Documents) -> np.ndarray:
    """Labels of each document; their sum is `trained_tokens`."""
    if some.trained is None:
        return some.lengths
    ends = np.cumsum(some.lengths)
    before = np.concatenate([[0], np.cumsum(some.trained)])
    return before[ends] - before[ends - some.lengths]


def _concatenated(arrays: Sequence[np.ndarray | None]) -> np.ndarray | None:
    there = [array for array in arrays if array is not None]
    return np.concatenate(there) if there else None
