"""The rules on training and validation together: equal documents, and equal prompts with other answers.

Of each document two digests of 64 bits are kept, of all of it and of its prompt, and where it is: 24 bytes. Two
different documents of a billion get the same digest by chance with a probability of about 3 %.
"""

from array import array
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import xxhash

from minimind.data.documents import CONTENT, RowKind
from minimind.tokens.lint_rules import Findings, Place

NO_PROMPT = 0
"""The digest of a prompt for a document that has none."""
_encode = msgspec.json.Encoder(order="sorted").encode


def digest(data: bytes) -> int:
    """64 bits, never `NO_PROMPT`."""
    return xxhash.xxh3_64_intdigest(data) or 1


def row_digests(kind: RowKind, row: dict[str, Any]) -> tuple[int, int]:
    """Of a row's content, and of what stands before its last answer."""
    if kind == "pretrain":
        return digest(row["text"].encode("utf-8", "replace")), NO_PROMPT
    whole = digest(_encode([row[name] for name in CONTENT[kind]]))
    return whole, NO_PROMPT if kind == "prompt" else digest(_encode(row[CONTENT[kind][0]][:-1]))


class Splits:
    """Digests of the documents of `train` and `val`."""

    def __init__(self) -> None:
        self._digests = {split: (array("Q"), array("Q"), array("q")) for split in ("train", "val")}

    def add(self, split: str, number: int, whole: int, prompt: int) -> None:
        """A document, by a number that `locate` will know."""
        for column, value in zip(self._digests[split], (whole, prompt, number), strict=True):
            column.append(value)

    def conclude(self, findings: Findings, locate: Callable[[str, int], Place]) -> None:
        """Tell of every document for validation that training has, and of the prompts of the others."""
        (train, train_prompts, train_at), (val, val_prompts, val_at) = (
            (np.frombuffer(whole, np.uint64), np.frombuffer(prompt, np.uint64), np.frombuffer(at, np.int64))
            for whole, prompt, at in self._digests.values()
        )
        if not len(train) or not len(val):
            return
        same = np.isin(val, train)
        _tell(findings, "train_row_in_val", val[same], val_at[same], (train, train_at), locate)
        asked = ~same & (val_prompts != NO_PROMPT) & np.isin(val_prompts, train_prompts)
        _tell(findings, "prompt_in_val", val_prompts[asked], val_at[asked], (train_prompts, train_at), locate)


def split_of_file(path: str) -> str:
    """The split that the name of a file or its folder says: `train`, `val`, or nothing."""
    words = path.replace("\\", "/").lower().replace("-", "_").replace(".", "_").replace("/", "_").split("_")
    if any(word in ("val", "valid", "validation", "dev", "test", "eval", "heldout") for word in words):
        return "val"
    return "train" if any(word in ("train", "training") for word in words) else ""


def _tell(
    findings: Findings,
    rule: str,
    digests: np.ndarray,
    numbers: np.ndarray,
    train: tuple[np.ndarray, np.ndarray],
    locate: Callable[[str, int], Place],
) -> None:
    for value, number in zip(digests.tolist(), numbers.tolist(), strict=True):
        if findings.room(rule):
            twin = locate("train", int(train[1][np.flatnonzero(train[0] == value)[0]]))
            findings.add(rule, locate("val", number), f"also {twin}")
        else:
            findings.add(rule, Place(file=""), "")
