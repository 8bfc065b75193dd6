"""Mixtures: exact shares, a function of the step, and every set as if it were alone."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.artifact import Artifact
from minimind.data.documents import RowKind
from minimind.errors import ConfigError
from minimind.tokens.batches import IGNORE, RowBatches
from minimind.tokens.layout import Batch, PiecesOfStep
from minimind.tokens.mixture import CYCLE, MixtureBatches
from minimind.tokens.token_set import TokenSet

Sets = dict[str, TokenSet]


@pytest.fixture(scope="module")
def sets(token_artifacts: dict[RowKind, Artifact]) -> Sets:
    kinds: tuple[RowKind, ...] = ("chat", "pretrain")
    return {kind: TokenSet.open(token_artifacts[kind].dir / "train") for kind in kinds}


def mixture(sets: Sets, share: float = 0.1, *, batch_rows: int = 16, seed: int = 3) -> MixtureBatches:
    sources = {name: RowBatches(one, row_length=400, batch_rows=16, seed=seed) for name, one in sets.items()}
    return MixtureBatches(sources, {"pretrain": share}, batch_rows=batch_rows, seed=seed)


class Counted:
    """A source whose rows are numbered in the order they are taken."""

    def __init__(self, num_rows: int = 50) -> None:
        self.row_length, self.num_rows, self.steps_per_epoch = 4, num_rows, num_rows

    def take(self, start: int, count: int) -> Batch:
        row = np.zeros((count, 4), np.int64)
        return Batch(row, row, row.astype(np.int32), row, np.arange(start, start + count) % self.num_rows)

    def take_pieces(self, start: int, count: int) -> PiecesOfStep:
        nothing = np.zeros(count, np.int64)
        return PiecesOfStep(np.arange(count), nothing, np.arange(start, start + count), nothing, nothing + 4, nothing)

    def tokens_in(self, start: int, count: int) -> int:
        return 4 * count

    batch = pieces = None


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shares=st.lists(st.integers(1, 300), min_size=1, max_size=3), cycles=st.integers(0, 10**9), seed=st.integers(0, 9)
)
def test_shares_are_exact_in_every_cycle_however_late(shares: list[int], cycles: int, seed: int) -> None:
    """⌊c·1024·w⌋ rows after c cycles, counted in integers: a float would drift in a long run."""
    names = [f"set{number}" for number in range(len(shares))]
    mix = {name: share / 1000 for name, share in zip(names, shares, strict=True)}
    mixed = MixtureBatches({"own": Counted(), **{name: Counted() for name in names}}, mix, batch_rows=CYCLE, seed=seed)
    pieces = mixed.take_pieces(cycles * CYCLE, CYCLE)
    found = np.bincount(pieces.token_sets, minlength=len(names) + 1).tolist()
    exact = [Fraction(share, 1000) for share in shares]
    wanted = [int((cycles + 1) * CYCLE * share) - int(cycles * CYCLE * share) for share in exact]
    assert found == [CYCLE - sum(wanted), *wanted]
    firsts = [
        pieces.documents[pieces.token_sets == number].min() for number in range(1, len(names) + 1) if found[number]
    ]
    assert firsts == [int(cycles * CYCLE * share) for share, n in zip(exact, wanted, strict=True) if n]


def test_each_set_goes_through_its_own_rows_in_its_own_order(sets: Sets) -> None:
    """As if it were alone: every row once an epoch."""
    mixed, seen = mixture(sets, 0.3), {0: [], 1: []}
    for step in range(20):
        batch, pieces = mixed.batch(step), mixed.pieces(step)
        owners = pieces.token_sets[np.flatnonzero(np.diff(pieces.rows, prepend=-1))]
        for row, owner in enumerate(owners.tolist()):
            seen[owner].append(batch.tokens_BT[row])
    for owner, token_set in enumerate(sets.values()):
        alone = RowBatches(token_set, row_length=400, batch_rows=16, seed=3)
        wanted = alone.take(0, len(seen[owner])).tokens_BT
        np.testing.assert_array_equal(np.array(seen[owner]), wanted)


def test_a_batch_depends_on_the_step_alone(sets: Sets) -> None:
    """Also across cycles and with other numbers of rows in a batch."""
    mixed = mixture(sets, batch_rows=48)
    walked = [mixed.batch(step) for step in range(45)]
    for step in (44, 0, 21, 22):
        for name in ("tokens_BT", "labels_BT", "documents_BT", "positions_BT", "items_B"):
            fresh = getattr(mixture(sets, batch_rows=48).batch(step), name)
            np.testing.assert_array_equal(fresh, getattr(walked[step], name))
    joined = np.concatenate([batch.items_B for batch in walked[:4]])
    parts = np.concatenate([mixture(sets, batch_rows=16).batch(step).items_B for step in range(12)])
    np.testing.assert_array_equal(joined, parts)
    assert mixture(sets, seed=4).batch(0).items_B.tolist() != mixture(sets).batch(0).items_B.tolist()


def test_rows_of_text_among_chats_learn_every_id(sets: Sets) -> None:
    """And chats learn what they learn alone."""
    mixed = mixture(sets, 0.5)
    batch, pieces = mixed.batch(0), mixed.pieces(0)
    owners = pieces.token_sets[np.flatnonzero(np.diff(pieces.rows, prepend=-1))]
    assert set(owners.tolist()) == {0, 1}
    for row, owner in enumerate(owners):
        real, learnt = batch.documents_BT[row] >= 0, batch.labels_BT[row] != IGNORE
        assert (learnt[real].all() if owner else not learnt[real].all()) and not learnt[~real].any()
    first_text = RowBatches(sets["chat"], row_length=400, batch_rows=1, seed=0).num_rows
    assert ((batch.items_B >= first_text) == (owners == 1)).all()


def test_pieces_are_those_of_the_batch(sets: Sets) -> None:
    mixed, named = mixture(sets, 0.4), list(sets.values())
    batch, pieces = mixed.batch(5), mixed.pieces(5)
    for row, column, document, start, length, number in zip(
        *(getattr(pieces, n) for n in ("rows", "columns", "documents", "starts", "lengths", "token_sets")), strict=True
    ):
        ids = named[number].document(document)[start : start + length]
        assert batch.tokens_BT[row, column : column + length].tolist() == ids.tolist()
    assert pieces.lengths.sum() == (batch.documents_BT >= 0).sum()


def test_an_epoch_is_over_when_the_own_rows_are(sets: Sets) -> None:
    """`epochs = 1` goes on meaning: every conversation once."""
    mixed = mixture(sets, 0.25, batch_rows=8)
    own = RowBatches(sets["chat"], row_length=400, batch_rows=8, seed=3).num_rows
    rows = np.concatenate([mixed.batch(step).items_B for step in range(mixed.steps_per_epoch)])
    assert set(rows[rows < own].tolist()) == set(range(own))
    fewer = rows[: mixed.num_rows - 1]
    assert set(fewer[fewer < own].tolist()) != set(range(own))


def test_planned_and_actual_shares_of_tokens_are_told(sets: Sets) -> None:
    """Rows of another set may be fuller or emptier than the stage's own."""
    mixed = mixture(sets, 0.2)
    shares = mixed.shares(40)
    seen = np.zeros(2)
    for step in range(40):
        pieces = mixed.pieces(step)
        seen += np.bincount(pieces.token_sets, pieces.lengths, 2)
    assert [shares[name].tokens_actual for name in sets] == pytest.approx((seen / seen.sum()).tolist())
    assert shares["pretrain"].rows == pytest.approx(0.2)
    assert shares["pretrain"].tokens_planned == pytest.approx(shares["pretrain"].tokens_actual, abs=0.03)
    assert sum(share.tokens_planned for share in shares.values()) == pytest.approx(1)
    assert mixed.shares(0)["chat"].tokens_actual == 0


@pytest.mark.parametrize(("mix", "said"), [({"pretrain": 0.995}, "0.01 or more"), ({"dpo": 0.1}, "names dpo")])
def test_a_mixture_that_cannot_be_is_an_error(sets: Sets, mix: dict[str, float], said: str) -> None:
    sources = {name: RowBatches(one, row_length=400, batch_rows=16, seed=0) for name, one in sets.items()}
    with pytest.raises(ConfigError, match=said):
        MixtureBatches(sources, mix, batch_rows=4, seed=0)
