"""A mixture: the rows of a batch from several token sets, in exact shares.

The walk over rows goes in cycles of 1,024. In the first c cycles another set with the share w has ⌊c·1024·w⌋ rows,
in fractions, not floats, and the stage's own set has the rest: no long run is off by a row. Within a cycle the
order is shuffled by (seed, cycle). How many rows of a set come before any place is closed form and a count
within one cycle, so a batch stays a function of its step, and each set goes through its own epochs at its own pace.

Shares are of rows. Rows of another set may be fuller or emptier, so the shares of tokens are told beside them:
as planned from the mean row of each set, and as they were.

Axes: B rows of a batch, T positions, S token sets. Not here: a set's own rows (`minimind.tokens.batches`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction

import numpy as np

from minimind.errors import ConfigError
from minimind.tokens.batches import RowSource
from minimind.tokens.layout import Batch, PiecesOfStep

CYCLE = 1024
LEAST_OWN = Fraction(1, 100)
"""What must be left to the stage's own rows: with less, a cycle could owe them a row."""


@dataclass(frozen=True)
class Share:
    """What a token set is of a mixture."""

    rows: float
    tokens_planned: float
    tokens_actual: float
    """Over the steps that were asked for."""


class MixtureBatches(RowSource):
    """Rows of `sources`, the first being the stage's own; `mix` gives the shares of all others by name."""

    def __init__(
        self, sources: Mapping[str, RowSource], mix: Mapping[str, float], *, batch_rows: int, seed: int
    ) -> None:
        own, *others = sources
        if set(mix) != set(others):
            raise ConfigError(f"`mix` names {', '.join(mix)}; the token sets beside {own} are {', '.join(others)}")
        exact = [Fraction(str(mix[name])) for name in others]
        if min(exact, default=Fraction(1)) <= 0 or 1 - sum(exact) < LEAST_OWN:
            raise ConfigError(f"`mix` = {dict(mix)}: shares are above 0 and leave 0.01 or more to the rows of {own}")
        self._names, self._shares = [own, *others], [1 - sum(exact), *exact]
        self._sources = list(sources.values())
        if len({source.row_length for source in self._sources}) > 1:
            raise ConfigError("the token sets of a mixture are cut into rows of different lengths")
        self.row_length, self._batch_rows, self._seed = self._sources[0].row_length, batch_rows, seed
        self._first_items = np.cumsum([0, *(source.num_rows for source in self._sources)])
        self._kept: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    @property
    def num_rows(self) -> int:
        """Places until every row of the stage's own set has been seen."""
        wanted = self._sources[0].num_rows
        low, high = wanted, int(wanted / self._shares[0]) + 2 * CYCLE
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._before(middle)[0] >= wanted else (middle + 1, high)
        return low

    def take(self, start: int, count: int) -> Batch:
        """The rows at `count` places from `start` on."""
        whole = Batch.empty(count, self.row_length)
        for number, first, size, at in self._spans(start, count):
            part = self._sources[number].take(first, size)
            part = replace(part, items_B=part.items_B + self._first_items[number])
            for field in fields(Batch):
                getattr(whole, field.name)[at] = getattr(part, field.name)
        return whole

    def take_pieces(self, start: int, count: int) -> PiecesOfStep:
        """The pieces of `take(start, count)`."""
        parts = []
        for number, first, size, at in self._spans(start, count):
            found = self._sources[number].take_pieces(first, size)
            numbers = np.full(len(found.rows), number)
            parts.append((at[found.rows], found.columns, found.documents, found.starts, found.lengths, numbers))
        joined = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        return PiecesOfStep(*(array[order] for array in joined))

    def tokens_in(self, start: int, count: int) -> int:
        """Ids in `take(start, count)`, padding left out."""
        return sum(self._sources[number].tokens_in(first, size) for number, first, size, _ in self._spans(start, count))

    def shares(self, steps: int) -> dict[str, Share]:
        """What each set is of the mixture, by name; actual over the first `steps`."""
        rows_S = self._before(steps * self._batch_rows)
        seen_S = [source.tokens_in(0, rows) for source, rows in zip(self._sources, rows_S.tolist(), strict=True)]
        means_S = [source.tokens_in(0, source.num_rows) / source.num_rows for source in self._sources]
        planned_S = [float(share) * mean for share, mean in zip(self._shares, means_S, strict=True)]
        return {
            name: Share(float(share), planned / sum(planned_S), seen / max(1, sum(seen_S)))
            for name, share, planned, seen in zip(self._names, self._shares, planned_S, seen_S, strict=True)
        }

    def _spans(self, start: int, count: int) -> list[tuple[int, int, int, np.ndarray]]:
        """For each set with rows at these places: its number, its first row and how many, and where they go."""
        owners_B = np.concatenate(
            [self._order(cycle) for cycle in range(start // CYCLE, (start + count - 1) // CYCLE + 1)]
        )[start % CYCLE :][:count]
        before_S = self._before(start)
        places = ((number, np.flatnonzero(owners_B == number)) for number in range(len(self._sources)))
        return [(number, int(before_S[number]), len(at), at) for number, at in places if len(at)]

    def _before(self, place: int) -> np.ndarray:
        """How many rows of each set come before a place."""
        cycle, within = divmod(place, CYCLE)
        inside = np.bincount(self._order(cycle)[:within], minlength=len(self._sources)) if within else 0
        return np.array(self._in_cycles(cycle)) + inside

    def _in_cycles(self, cycles: int) -> Sequence[int]:
        """Rows of each set in so many cycles from the first on."""
        others = [cycles * CYCLE * share.numerator // share.denominator for share in self._shares[1:]]
        return [cycles * CYCLE - sum(others), *others]

    def _order(self, cycle: int) -> np.ndarray:
        """Place within a cycle → number of the set."""
        if self._kept[0] != cycle:
            counts = np.subtract(self._in_cycles(cycle + 1), self._in_cycles(cycle))
            owners = np.repeat(np.arange(len(counts)), counts)
            self._kept = (cycle, np.random.default_rng([self._seed, cycle]).permutation(owners))
        return self._kept[1]
