"""A batch of texts, looked at once for all rules, and what a rule may say of one.

    rule(texts, settings) -> {index: Changed | Dropped}        texts it does not name are kept as they are

Rules see batches, not rows: the characters of a whole batch are one array, each is looked up in one table
(`characters`), and the counts per text tell a rule which few texts it must read closely. So a rule costs
nanoseconds a character on clean text, and Python runs only where something was found.

Not here: the rules; the tables (`characters`); what a row is (`documents`), and how outcomes become kept and
dropped rows (`judgement`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from minimind.data.rules.characters import HIDDEN_RANGES, CharClass, class_table, first_kinds, kind_table

if TYPE_CHECKING:
    from minimind.data.rules.settings import CleanRules


@dataclass(frozen=True)
class Changed:
    """The text is kept with other words: `text` is what it became."""

    text: str


@dataclass(frozen=True)
class Dropped:
    """The text is left out: a reason that can be counted, and the details for a reader."""

    reason: str
    detail: str


__all__ = ["HIDDEN_RANGES", "KINDS", "Changed", "CharClass", "Dropped", "Outcomes", "Rule", "Texts"]
Outcomes = Mapping[int, Changed | Dropped]
Rule = Callable[["Texts", "CleanRules"], Outcomes]
KINDS = 256
_TOGETHER = 64
"""Texts that are looked up and counted together: rows fit into 16 bits and, with the characters, into the cache."""


class Texts:
    """Some texts, their code points end to end, and their characters counted by class."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.memo: dict[str, Any] = {}
        """What a rule worked out for the whole batch and another may want: languages."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def codes(self) -> npt.NDArray[np.uint32]:
        """The code points of all texts, one after the other."""
        found = np.empty(int(self.offsets[-1]), np.uint32)
        for first in range(0, len(self), _TOGETHER):
            joined = "".join(self.texts[first : first + _TOGETHER]).encode("utf-32-le", "surrogatepass")
            begin = self.offsets[first]
            found[begin : begin + len(joined) // 4] = np.frombuffer(joined, "<u4")
        found.setflags(write=False)
        return found

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each text begins in `codes`, and behind the last where it ends: len + 1 numbers."""
        ends = np.fromiter(map(len, self.texts), np.int64, len(self.texts)).cumsum()
        return np.concatenate((np.zeros(1, np.int64), ends))

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Characters in each text."""
        return np.diff(self.offsets)

    @cached_property
    def classes(self) -> npt.NDArray[np.uint8]:
        """The CharClass of every code point."""
        return class_table()[self.codes]

    @property
    def kinds(self) -> npt.NDArray[np.uint8]:
        """The kind of every code point: its class, divided more finely (`characters`)."""
        return self._kinds_and_histogram[0]

    @property
    def histogram(self) -> npt.NDArray[np.int32]:
        """Characters by text and kind: (len, 256)."""
        return self._kinds_and_histogram[1]

    @cached_property
    def _kinds_and_histogram(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Both at once, while the characters of some texts are in the cache."""
        kinds, histogram = np.empty(len(self.codes), np.uint8), np.empty((len(self), KINDS), np.int32)
        table = kind_table()
        for first in range(0, len(self), _TOGETHER):
            lengths = self.lengths[first : first + _TOGETHER]
            span = slice(self.offsets[first], self.offsets[first + len(lengths)])
            kinds[span] = table.take(self.codes[span], mode="clip")
            cells = np.repeat(np.arange(0, KINDS * len(lengths), KINDS, dtype=np.uint16), lengths)
            cells |= kinds[span]
            counted = np.bincount(cells, minlength=KINDS * len(lengths))
            histogram[first : first + len(lengths)] = counted.reshape(len(lengths), KINDS)
        return kinds, histogram

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """Characters by text and class: (len, number of classes)."""
        return np.add.reduceat(self.histogram, first_kinds(), axis=1, dtype=np.int64)

    def count(self, *classes: CharClass) -> npt.NDArray[np.int64]:
        """Characters of any of these classes in each text."""
        return self.counts[:, list(classes)].sum(axis=1)

    def having(self, *classes: CharClass) -> list[int]:
        """The texts with a character of any of these classes."""
        return np.flatnonzero(self.count(*classes)).tolist()
