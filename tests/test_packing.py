"""Packing: nothing lost, nothing doubled, little padding."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.tokens.packing import Plan, plan_rows


def assert_whole(plan: Plan, lengths: np.ndarray, row_length: int) -> None:
    """The pieces of each document cover it once, in order, and no row is overfull."""
    covered = [np.zeros(length, int) for length in lengths]
    for document, start, length in zip(plan.documents, plan.starts, plan.lengths, strict=True):
        assert length > 0
        covered[document][start : start + length] += 1
        assert start % row_length == 0
    assert all((count == 1).all() for count in covered)
    filled = [plan.lengths[a:b].sum() for a, b in zip(plan.row_offsets, plan.row_offsets[1:], strict=False)]
    assert all(0 < size <= row_length for size in filled)
    assert plan.row_offsets[-1] == len(plan.documents)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 90), max_size=60), row_length=st.integers(1, 40))
def test_no_token_is_lost_or_doubled(lengths: list[int], row_length: int) -> None:
    """For any lengths, documents longer than a row among them."""
    sizes = np.array(lengths, np.int64)
    plan = plan_rows(sizes, row_length=row_length)
    assert_whole(plan, sizes, row_length)
    assert plan.num_rows >= -(-sizes.sum() // row_length)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=60))
def test_two_rows_that_would_fit_into_one_do_not_occur(lengths: list[int]) -> None:
    """What best fit promises: all rows but one are more than half full."""
    plan = plan_rows(np.array(lengths), row_length=30)
    filled = np.add.reduceat(plan.lengths, plan.row_offsets[:-1])
    assert np.sum(filled * 2 <= 30) <= 1


def test_only_documents_longer_than_a_row_are_split() -> None:
    """Cutting a document that fits costs context for nothing."""
    plan = plan_rows(np.array([3, 10, 25, 7, 10]), row_length=10)
    pieces = {int(document): int((plan.documents == document).sum()) for document in range(5)}
    assert pieces == {0: 1, 1: 1, 2: 3, 3: 1, 4: 1}
    assert plan.num_rows == 6  # 10+10+5 of the third, the two tens, 3+7 together


def test_padding_is_below_one_percent_on_lengths_like_those_of_real_text() -> None:
    """Padding is paid for like text; one document a row would leave two thirds empty here."""
    lengths = np.random.default_rng(0).lognormal(4.8, 0.8, 20_000).astype(np.int64) + 1
    plan = plan_rows(lengths, row_length=512)
    assert plan.lengths.sum() == lengths.sum()
    assert 1 - lengths.sum() / (plan.num_rows * 512) < 0.01


def test_the_plan_is_a_function_of_the_lengths() -> None:
    """A resumed training makes the plan anew and must find the same rows."""
    lengths = np.random.default_rng(1).integers(1, 200, 5_000)
    one, other = plan_rows(lengths, row_length=128), plan_rows(lengths.copy(), row_length=128)
    for name in ("documents", "starts", "lengths", "row_offsets"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_no_documents_give_no_rows() -> None:
    """An empty validation split has a plan, of nothing."""
    assert plan_rows(np.zeros(0, np.int64), row_length=16).num_rows == 0
