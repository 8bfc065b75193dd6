"""Too long conversations: what stays is whole turns, fits, and begins as it must."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.tokens.chat import render, render_prompt
from minimind.tokens.fitting import Fitted, Side, TooLong, fit
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.vocabulary import IM_START

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    {"role": "user", "content": "One question about bread and stars?"},
    {"role": "assistant", "content": "One answer."},
    {"role": "user", "content": "Add 1 and 1."},
    {"role": "assistant", "content": "", "tool_calls": '[{"name": "add"}]'},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "It is 2."},
    {"role": "user", "content": "Bye?"},
    {"role": "assistant", "content": "Bye."},
]
GROUPS = [TURNS[:2], TURNS[2:6], TURNS[6:]]
"""The turns that stay together."""


def side(messages: list[dict[str, Any]], tokenizer: Tokenizer, *, pair: bool = False) -> Side:
    rendered = render(messages, tokenizer, last_turn_only=pair)
    return Side(np.array(rendered.ids), np.array(rendered.trained))


def fitted(
    messages: list[dict[str, Any]], policy: TooLong, tokenizer: Tokenizer, *, room_for: list[dict[str, Any]]
) -> Fitted:
    """`messages` made to fit what `room_for` takes."""
    limit = len(render(room_for, tokenizer).ids)
    return fit([side(messages, tokenizer)], messages, policy, max_tokens=limit, im_start=IM_START)


def assert_is(found: Side, messages: list[dict[str, Any]], tokenizer: Tokenizer) -> None:
    """The document is these messages as they would be rendered alone, mask included."""
    wanted = side(messages, tokenizer)
    assert found.ids.tolist() == wanted.ids.tolist()
    assert found.trained.tolist() == wanted.trained.tolist()


def test_cut_left_takes_the_oldest_turns_and_keeps_the_system_turn(tokenizer: Tokenizer) -> None:
    """A tool's answer goes with the question that led to it."""
    found = fitted([SYSTEM, *TURNS], "cut_left", tokenizer, room_for=[SYSTEM, *GROUPS[1], *GROUPS[2]])
    assert_is(found.documents[0], [SYSTEM, *GROUPS[1], *GROUPS[2]], tokenizer)
    assert found.lost == GROUPS[0]
    one_less = fitted(TURNS, "cut_left", tokenizer, room_for=[SYSTEM, *GROUPS[2]])
    assert_is(one_less.documents[0], GROUPS[2], tokenizer)
    assert one_less.lost == [*GROUPS[0], *GROUPS[1]]


def test_split_gives_every_part_the_system_turn(tokenizer: Tokenizer) -> None:
    """Nothing is lost where every question fits with its own answer."""
    found = fitted([SYSTEM, *TURNS], "split", tokenizer, room_for=[SYSTEM, *GROUPS[1]])
    assert not found.lost
    for document, group in zip(found.documents, GROUPS, strict=True):
        assert_is(document, [SYSTEM, *group], tokenizer)


def test_split_leaves_out_what_does_not_fit_alone_and_says_so(tokenizer: Tokenizer) -> None:
    """The turns around it do not become neighbours: the second would seem to follow the first."""
    found = fitted(TURNS, "split", tokenizer, room_for=GROUPS[0])
    assert found.lost == GROUPS[1]
    assert [len(document.ids) for document in found.documents] == [
        len(render(group, tokenizer).ids) for group in (GROUPS[0], GROUPS[2])
    ]


def test_a_list_of_tools_stays_though_the_turn_that_named_it_goes(tokenizer: Tokenizer) -> None:
    """The system turn was made for it, and calls of tools further on need it."""
    named = [{**TURNS[0], "tools": '[{"name": "add"}]'}, *TURNS[1:]]
    whole = side(named, tokenizer)
    found = fit([whole], named, "cut_left", max_tokens=len(whole.ids) - 1, im_start=IM_START)
    starts = np.flatnonzero(whole.ids == IM_START)
    kept = np.concatenate([whole.ids[: starts[1]], whole.ids[starts[3] :]])
    assert found.documents[0].ids.tolist() == kept.tolist()
    assert found.lost == named[:2]


def test_both_sides_of_a_pair_lose_the_same_turns(tokenizer: Tokenizer) -> None:
    """Else the two answers would be to different prompts."""
    sides = [[*TURNS[:7], {"role": "assistant", "content": text}] for text in ("Yes.", "No, never, not at all.")]
    limit = len(render([*GROUPS[1], *sides[1][6:]], tokenizer).ids)
    pair = [side(messages, tokenizer, pair=True) for messages in sides]
    found = fit(pair, sides[0], "cut_left", max_tokens=limit, im_start=IM_START)
    assert len(found.documents) == 2 and found.lost == GROUPS[0]
    for document, messages in zip(found.documents, sides, strict=True):
        assert document.ids.tolist() == render([*GROUPS[1], *messages[6:]], tokenizer).ids
        assert document.trained.sum() == render(messages, tokenizer, last_turn_only=True).trained.count(True)


def test_a_prompt_keeps_the_place_for_its_answer(tokenizer: Tokenizer) -> None:
    prompt = TURNS[:7]
    ids = np.array(render_prompt(prompt, tokenizer))
    short = render_prompt(GROUPS[2][:1], tokenizer)
    found = fit([Side(ids, np.zeros(len(ids), bool))], prompt, "cut_left", max_tokens=len(short), im_start=IM_START)
    assert found.documents[0].ids.tolist() == short


@pytest.mark.parametrize("policy", ["drop", "cut_left"])
def test_what_cannot_be_made_to_fit_gives_no_document(tokenizer: Tokenizer, policy: TooLong) -> None:
    """The last question and its answer are never taken apart."""
    room = GROUPS[2][:1] if policy == "cut_left" else TURNS[:-1]
    assert not fitted(TURNS, policy, tokenizer, room_for=room).documents


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=8),
    limit=st.integers(4, 120),
    system=st.booleans(),
    policy=st.sampled_from(["cut_left", "split"]),
)
def test_documents_fit_and_messages_are_kept_or_lost(
    sizes: list[tuple[int, int]], limit: int, system: bool, policy: TooLong
) -> None:
    """For any conversation: ids of turns in order, none in two documents but the system's, none forgotten."""
    messages = [{"role": "system", "content": "s"}] * system
    messages += [{"role": role, "content": "x"} for _ in sizes for role in ("user", "assistant")]
    lengths = [3] * system + [size for pair in sizes for size in pair]
    turns = [np.array([IM_START, *[100 + number] * (size - 1)]) for number, size in enumerate(lengths)]
    ids = np.concatenate(turns)
    found = fit([Side(ids, ids > 0)], messages, policy, max_tokens=limit, im_start=IM_START)
    assert all(len(document.ids) <= limit for document in found.documents)
    head = len(turns[0]) if system else 0
    kept = [token for document in found.documents for token in document.ids[head:].tolist()]
    lost = len(ids) - head - len(kept)
    assert lost >= 0
    if not found.documents:
        assert min(head + sum(pair) for pair in (sizes if policy == "split" else sizes[-1:])) > limit
    else:
        numbers = [token for token in kept if token >= 100]
        assert numbers == sorted(numbers)
        assert len(messages) - system - len(found.lost) == kept.count(IM_START)
