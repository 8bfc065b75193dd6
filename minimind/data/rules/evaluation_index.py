"""The pieces of all questions of the evaluation sets, sorted, to look a batch of texts up in.

Made once a process, and again when a file changes (by size and time). Two tables, by the first bits of a piece and
by its last, rule nearly everything out; what is left is searched.
Not here: what a piece is (`evaluation_pieces`), how files are read (`evaluation_sets`). Questions without any piece
("RAM?") cannot be found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minimind.data.rules.evaluation_pieces import Pieces, first_bits, last_bits, letters_of, pieces_of
from minimind.data.rules.evaluation_sets import Item, read_items, state_of
from minimind.data.rules.texts import Texts


@dataclass(frozen=True)
class EvaluationIndex:
    """The pieces of all items, sorted, and whose they are."""

    items: tuple[Item, ...]
    hashes: npt.NDArray[np.uint32]
    """The different pieces, sorted."""
    first: npt.NDArray[np.int64]
    """Where the owners of each piece begin; one more than there are pieces."""
    owners: npt.NDArray[np.int64]
    places: npt.NDArray[np.int64]
    """Letters of the item before the piece, question and choices one after the other."""
    is_question: npt.NDArray[np.bool_]
    """Whether the piece is one of the question, not of a choice."""
    pieces: npt.NDArray[np.int64]
    """How many different pieces each item has."""
    question_pieces: npt.NDArray[np.int64]
    """How many of them are of its question."""
    may_be: npt.NDArray[np.bool_]
    """By first and by last bits of a piece: whether one like it is in the index. 1 MB each; looked up first."""


def load_index(files: tuple[str, ...]) -> EvaluationIndex:
    """The index of some files, made once a process as long as they do not change."""
    return _index_of(tuple(state_of(name) for name in files))


@lru_cache(maxsize=4)
def _index_of(states: tuple[tuple[str, int, int], ...]) -> EvaluationIndex:
    return index_items([item for name, _, _ in states for item in read_items(Path(name))])


def index_items(items: Sequence[Item]) -> EvaluationIndex:
    """The index of items as they are written; in it they are folded to letters and digits."""
    parts = [[part for part in (item.question, *item.choices) if part] for item in items]
    flat = [part for part_list in parts for part in part_list]
    owners = np.repeat(np.arange(len(items)), list(map(len, parts)))
    is_question = np.concatenate([np.arange(len(part_list)) == 0 for part_list in parts] or [np.zeros(0, np.bool_)])
    lengths = np.array([len(letters_of(part)) for part in flat], np.int64)
    ends = np.cumsum(lengths)
    item_begins = np.concatenate(([0], ends))[np.cumsum([0, *map(len, parts)])[:-1]]
    found = pieces_of(Texts(flat))
    places = (ends - lengths)[found.owners] + found.places - item_begins[owners[found.owners]]
    of_questions = is_question[found.owners]
    return _sorted_index(tuple(map(_folded, items)), found.hashes, owners[found.owners], places, of_questions)


def without_common(index: EvaluationIndex, pieces: Pieces, most: int) -> tuple[EvaluationIndex, Pieces]:
    """The index without what stands more than `most` times among `pieces`, and those of them that it then has.

    "What is the signature of" in ten thousand answers brings each of them near each such question, by what tells
    nothing. So an item is looked for by its rarer pieces. One whose question has none is looked for by as many of
    its choices' as one choice has; and one that has none at all by all of its own, at the first `most` places.
    """
    at = np.minimum(np.searchsorted(index.hashes, pieces.hashes), max(0, len(index.hashes) - 1))
    found = np.flatnonzero(index.hashes[at] == pieces.hashes) if len(index.hashes) else at[:0]
    at = at[found]
    times = np.bincount(at, minlength=len(index.hashes))
    is_rare = np.repeat(times <= most, np.diff(index.first))
    count = len(index.items)
    rare = np.bincount(index.owners[is_rare], minlength=count)
    of_questions = np.bincount(index.owners[is_rare & index.is_question], minlength=count)
    kept = is_rare | (rare[index.owners] == 0)
    choices = np.array([max(1, len(item.choices)) for item in index.items], np.int64)
    hash_of = np.repeat(np.arange(len(index.hashes)), np.diff(index.first))[kept]
    different, first = np.unique(hash_of, return_index=True)
    order = np.argsort(at, kind="stable")
    rank = np.empty(len(at), np.int64)
    rank[order] = np.arange(len(at)) - (np.cumsum(times) - times)[at[order]]
    here = found[(rank < most) & np.isin(at, different)]
    thinned = replace(
        index,
        hashes=index.hashes[different],
        first=np.append(first, len(hash_of)).astype(np.int64),
        owners=index.owners[kept],
        places=index.places[kept],
        is_question=index.is_question[kept],
        pieces=np.where(rare == 0, index.pieces, np.where(of_questions > 0, rare, -(-rare // choices))),
        question_pieces=np.where(rare == 0, index.question_pieces, of_questions),
    )
    return thinned, Pieces(pieces.hashes[here], pieces.owners[here], pieces.places[here])


def _sorted_index(
    items: tuple[Item, ...],
    hashes: npt.NDArray[np.uint32],
    owners: npt.NDArray[np.int64],
    places: npt.NDArray[np.int64],
    is_question: npt.NDArray[np.bool_],
) -> EvaluationIndex:
    order = np.lexsort((places, owners, hashes))
    hashes, owners, places, is_question = hashes[order], owners[order], places[order], is_question[order]
    is_new = np.ones(len(hashes), np.bool_)
    is_new[1:] = (hashes[1:] != hashes[:-1]) | (owners[1:] != owners[:-1])
    hashes, owners, places, is_question = hashes[is_new], owners[is_new], places[is_new], is_question[is_new]
    different, first = np.unique(hashes, return_index=True)
    may_be = np.zeros((2, 1 << 20), np.bool_)
    may_be[0, first_bits(different)] = True
    may_be[1, last_bits(different)] = True
    return EvaluationIndex(
        items=items,
        hashes=different,
        first=np.concatenate((first, [len(hashes)])).astype(np.int64),
        owners=owners,
        places=places,
        is_question=is_question,
        pieces=np.bincount(owners, minlength=len(items)),
        question_pieces=np.bincount(owners[is_question], minlength=len(items)),
        may_be=may_be,
    )


def _folded(item: Item) -> Item:
    choices = tuple(letters_of(choice) for choice in item.choices)
    return Item(item.name, item.file, letters_of(item.question), choices, letters_of(item.answer), item.asks)
