"""Augmentation: conversations changed a little, anew in every epoch, as a function of (seed, row, epoch).

    system prompt   one of a list, put before a share of the conversations that have no system turn; not learnt
    empty think     `<think>\\n\\n</think>\\n\\n` before the last answer of a share of those without reasoning, so
                    that a model which reasons can be told not to; learnt, as reasoning is

All is done on ids, when a batch is made; the token set stays as it is. Lengths change, so every epoch has a
packing plan of its own, and may have a few rows more or fewer than the first. A conversation that would no longer
fit a row stays as it was. Where an epoch begins depends on the plans of those before it: the first batch of epoch
e costs e plans (`minimind.tokens.packing`: a tenth of a second for a million conversations), and opening one pass
over the ids.

Axes: B rows, D documents, N ids. Not here: the rows without changes (`minimind.tokens.batches`).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

from minimind.data.kinds import CONVERSATIONS
from minimind.errors import ConfigError
from minimind.tokens.batches import RowSource, require
from minimind.tokens.chat import render, render_prompt
from minimind.tokens.layout import IGNORE, Batch, Grid, PiecesOfStep
from minimind.tokens.packing import Plan, plan_rows
from minimind.tokens.shuffle import Shuffle, mixed
from minimind.tokens.token_set import TokenSet, ranges
from minimind.tokens.tokenizer import Tokenizer

_SCAN = 1 << 24
"""Ids looked at in one go."""


@dataclass(frozen=True)
class Augmentation:
    """What is put in, as ids, and how often."""

    system_prompts: tuple[np.ndarray, ...]
    """Whole system turns."""
    system_share: float
    empty_think: np.ndarray
    empty_think_share: float
    system_header: np.ndarray
    """How a conversation with a system turn begins."""
    answer_header: np.ndarray
    think: np.ndarray
    """How reasoning begins."""

    @classmethod
    def of(
        cls, tokenizer: Tokenizer, *, system_prompts: Sequence[str], system_share: float, empty_think_share: float
    ) -> "Augmentation":
        """The settings in the ids of `tokenizer`."""
        turns = [np.array(render([{"role": "system", "content": text}], tokenizer).ids) for text in system_prompts]
        header = render_prompt([], tokenizer)
        empty = render([{"role": "system", "content": ""}], tokenizer).ids
        specials = tokenizer.specials
        think, end = (
            [number] if number is not None else tokenizer.encode(name)
            for number, name in ((specials.think, "<think>"), (specials.think_end, "</think>"))
        )
        gap = tokenizer.encode("\n\n")
        return cls(
            system_prompts=tuple(turns),
            system_share=system_share,
            empty_think=np.array([*think, *gap, *end, *gap]),
            empty_think_share=empty_think_share,
            system_header=np.array(empty[: empty.index(specials.im_end)]),
            answer_header=np.array(header),
            think=np.array(think),
        )


@dataclass(frozen=True)
class _Epoch:
    """One epoch's choices and plan."""

    first_place: int
    prompt_D: np.ndarray
    """Number of the system prompt, −1 for none."""
    think_D: np.ndarray
    plan: Plan
    order: Shuffle
    number: int

    @property
    def end(self) -> int:
        """The place behind its last row."""
        return self.first_place + self.plan.num_rows

    def rows(self, within: int, count: int) -> np.ndarray:
        """The rows of the plan at `count` places from `within` on."""
        return self.order.take(self.number * self.plan.num_rows + within, count)


class AugmentedBatches(RowSource):
    """`RowBatches` of a chat set whose conversations are changed anew every epoch."""

    def __init__(
        self, token_set: TokenSet, augmentation: Augmentation, *, row_length: int, batch_rows: int, seed: int
    ) -> None:
        require(token_set, row_length, batch_rows)
        if token_set.kind not in CONVERSATIONS:
            raise ConfigError(
                f"augmentation (`system_share`, `empty_think_share`) is for conversations, not {token_set.kind} rows"
            )
        self._set, self._augmentation = token_set, augmentation
        self.row_length, self._batch_rows, self._seed = row_length, batch_rows, seed
        self._lengths_D = np.diff(token_set.offsets)
        self._has_system_D = _begins_with(token_set, augmentation.system_header)
        self._has_reasoning_D = _last_of_each(token_set, augmentation.think) >= 0
        answers_D = _last_of_each(token_set, augmentation.answer_header)
        self._answer_D = np.where(answers_D >= 0, answers_D + len(augmentation.answer_header), -1)
        self._kept: dict[int, _Epoch] = {}
        self._ends: list[int] = []

    @property
    def num_rows(self) -> int:
        """Rows of the first epoch."""
        return self._end(0)

    def take(self, start: int, count: int) -> Batch:
        """The rows at `count` places from `start` on."""
        parts = [self._gather(epoch, rows) for epoch, rows in self._walk(start, count)]
        return Batch(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Batch)))

    def take_pieces(self, start: int, count: int) -> PiecesOfStep:
        """The pieces of `take(start, count)`."""
        parts, rows_before = [], 0
        for epoch, rows in self._walk(start, count):
            row_of, documents = _documents_of(epoch.plan, rows)
            lengths_DS, documents_DS, starts_DS = self._segments(epoch, documents)
            there = lengths_DS > 0
            columns = np.cumsum(lengths_DS).reshape(lengths_DS.shape) - lengths_DS
            row_starts = columns[np.flatnonzero(np.diff(row_of, prepend=-1)), 0]
            columns = columns - row_starts[row_of][:, None]
            rows_DS = np.broadcast_to(row_of[:, None] + rows_before, there.shape)
            parts.append([array[there] for array in (rows_DS, columns, documents_DS, starts_DS, lengths_DS)])
            rows_before += len(rows)
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return PiecesOfStep(*joined, token_sets=np.zeros(len(joined[0]), np.int64))

    def tokens_in(self, start: int, count: int) -> int:
        """Ids in `take(start, count)`, padding left out."""
        return sum(
            int(epoch.plan.lengths[ranges(offsets[rows], offsets[rows + 1] - offsets[rows])].sum())
            for epoch, rows in self._walk(start, count)
            for offsets in [epoch.plan.row_offsets]
        )

    def _gather(self, epoch: _Epoch, rows: np.ndarray) -> Batch:
        row_of, documents = _documents_of(epoch.plan, rows)
        lengths_DS, documents_DS, starts_DS = self._segments(epoch, documents)
        ids, trained = [], []
        for place, segment in zip(*np.nonzero(lengths_DS), strict=True):
            size = lengths_DS[place, segment]
            if documents_DS[place, segment] < 0:
                put_in = self._prompt(epoch, documents[place]) if segment == 0 else self._augmentation.empty_think
                ids.append(put_in)
                trained.append(np.full(size, segment > 0))
            else:
                start = self._set.offsets[documents[place]] + starts_DS[place, segment]
                ids.append(self._set.tokens[start : start + size])
                trained.append(self._set.trained[start : start + size].astype(bool))
        ids_N, trained_N, lengths_D = np.concatenate(ids), np.concatenate(trained), lengths_DS.sum(axis=1)
        learnt_N = np.append(trained_N[1:], False)
        learnt_N[np.cumsum(lengths_D) - 1] = False
        firsts = np.flatnonzero(np.diff(row_of, prepend=-1))
        grid = Grid.of(row_of, lengths_D, num_rows=len(rows), width=self.row_length)
        tokens, at = grid.take(ids_N, np.cumsum(lengths_D) - lengths_D)
        labels_N = np.where(learnt_N, np.append(ids_N[1:], 0).astype(np.int64), IGNORE)
        return grid.batch(
            tokens,
            labels_N.take(at, mode="clip"),
            numbers=np.arange(len(row_of)) - firsts[row_of],
            items_B=rows,
            padding=self._set.info.end_of_text,
        )

    def _segments(self, epoch: _Epoch, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lengths, documents and starts of system prompt, beginning, empty think and rest of each, D×4."""
        prompt_D, think_D = epoch.prompt_D[documents], epoch.think_D[documents]
        length_D = self._lengths_D[documents]
        first_D = np.where(think_D, self._answer_D[documents], length_D)
        put_in = np.full_like(documents, -1)
        lengths = [
            self._prompt_lengths()[prompt_D],
            first_D,
            len(self._augmentation.empty_think) * think_D,
            length_D - first_D,
        ]
        nothing = np.zeros_like(documents)
        return (
            np.stack(lengths, axis=1).astype(np.int64),
            np.stack([put_in, documents, put_in, documents], axis=1),
            np.stack([nothing, nothing, nothing, first_D], axis=1),
        )

    def _prompt(self, epoch: _Epoch, document: int) -> np.ndarray:
        return self._augmentation.system_prompts[epoch.prompt_D[document]]

    def _prompt_lengths(self) -> np.ndarray:
        """Ids of each system prompt; 0 at −1, the last place, for none."""
        return np.array([*map(len, self._augmentation.system_prompts), 0])

    def _walk(self, start: int, count: int) -> Iterator[tuple[_Epoch, np.ndarray]]:
        """The epochs that `count` places from `start` on are of, and the rows of their plans."""
        number = bisect_right(self._ends, start)
        while count:
            epoch = self._epoch(number)
            if start < epoch.end:
                rows = epoch.rows(start - epoch.first_place, min(count, epoch.end - start))
                yield epoch, rows
                start, count = start + len(rows), count - len(rows)
            number += 1

    def _epoch(self, number: int) -> _Epoch:
        """An epoch's choices and plan. Kept are the last two, and where those before them end."""
        if number not in self._kept:
            before = self._end(number - 1)
            self._kept = {n: epoch for n, epoch in self._kept.items() if n == number - 1}
            self._kept[number] = self._make_epoch(number, before)
            if number == len(self._ends):
                self._ends.append(self._kept[number].end)
        return self._kept[number]

    def _end(self, number: int) -> int:
        """The place behind the last of an epoch."""
        for missing in range(len(self._ends), number + 1):
            self._epoch(missing)
        return self._ends[number] if number >= 0 else 0

    def _make_epoch(self, number: int, first_place: int) -> _Epoch:
        wanted, rows = self._augmentation, np.asarray(self._set.rows, np.uint64)
        drawn = [_drawn(self._seed, number, rows, salt) for salt in range(3)]
        prompt_D = np.full(len(rows), -1, np.int16)
        chosen = ~self._has_system_D & (drawn[0] < wanted.system_share) & bool(wanted.system_prompts)
        prompt_D[chosen] = (drawn[1][chosen] * len(wanted.system_prompts)).astype(np.int16)
        think_D = ~self._has_reasoning_D & (self._answer_D >= 0) & (drawn[2] < wanted.empty_think_share)
        added_D = self._prompt_lengths()[prompt_D] + len(wanted.empty_think) * think_D
        stays_D = self._lengths_D + added_D > self.row_length
        prompt_D[stays_D], think_D[stays_D], added_D[stays_D] = -1, False, 0
        plan = plan_rows(self._lengths_D + added_D, row_length=self.row_length)
        return _Epoch(first_place, prompt_D, think_D, plan, Shuffle(plan.num_rows, self._seed), number)


def _drawn(seed: int, epoch: int, rows: np.ndarray, salt: int) -> np.ndarray:
    """A number from 0 to below 1 for each row, from (seed, epoch, row, salt) alone."""
    key = mixed(mixed(np.array([seed], np.uint64)) + np.uint64(3 * epoch + salt))
    return (mixed(rows + key) >> np.uint64(11)).astype(np.float64) / 2**53


def _documents_of(plan: Plan, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The documents of the given rows, and for each the place of its row among them. None is cut."""
    counts = plan.row_offsets[rows + 1] - plan.row_offsets[rows]
    return np.repeat(np.arange(len(rows)), counts), plan.documents[ranges(plan.row_offsets[rows], counts)]


def _begins_with(token_set: TokenSet, header: np.ndarray) -> np.ndarray:
    """Whether each document begins with these ids."""
    at_DN = np.minimum(token_set.offsets[:-1, None] + np.arange(len(header)), token_set.num_tokens)
    return (token_set.tokens[at_DN] == header).all(axis=1)


def _last_of_each(token_set: TokenSet, wanted: np.ndarray) -> np.ndarray:
    """Offset within each document at which these ids stand for the last time; −1 where they do not."""
    last_D = np.full(token_set.num_documents, -1, np.int64)
    for start in range(0, token_set.num_tokens, _SCAN):
        part = token_set.tokens[start : start + _SCAN + len(wanted) - 1]
        places = np.flatnonzero(part == wanted[0])
        places = places[places + len(wanted) <= len(part)]
        for offset, token in enumerate(wanted[1:], start=1):
            places = places[part[places + offset] == token]
        documents = np.searchsorted(token_set.offsets, start + places, side="right") - 1
        last_D[documents] = start + places - token_set.offsets[documents]  # later places overwrite earlier ones
    return last_D
