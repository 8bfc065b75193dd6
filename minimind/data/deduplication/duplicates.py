"""Duplicates: which rows are dropped because an earlier one says the same, exactly or nearly.

Rows are taken in the order of the input. One that equals an earlier row once both are folded is an exact
duplicate of the first of its kind. Of the others, a row is dropped if and only if an *earlier row that is kept*
has a Jaccard similarity of at least the threshold, measured on the texts: nothing is dropped on an estimate,
and no chain of similar texts loses more than each link. Candidates come from signatures (`candidates`), so a
near duplicate can be missed, seldom (2 in 1000 at the threshold of .8); none is invented.

The result depends on the rows and their order alone: not on pieces, workers or memory.

Memory: 40 MB for each million rows (the result, and which rows take part), about `memory_bytes` at most for all
else, and what of the work files (192 MB for a million rows) the system keeps in its cache: 64 MB of it is mapped.
Seen: a process of 252 MB for 253,740 rows of 338 MB, 116 MB with `memory_bytes` of 4 MB.

Not here: what is compared of a row of several texts (the caller joins them), and what is done with the rows.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import isnan
from pathlib import Path

import numpy as np
import numpy.typing as npt

from minimind.data.deduplication.candidates import MAX_ROWS, find_candidates
from minimind.data.deduplication.groups import equal_groups
from minimind.data.deduplication.similarity import TextStore, jaccards
from minimind.errors import DataError

NONE = -1
MEMORY_BYTES = 256 << 20
"""Groups 6.7 million rows without a file."""
CLUSTERS_SHOWN = 20
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """What is known of each row."""

    exact_of: Rows
    """The first equal row, or -1. That one may itself be a near duplicate."""
    near_of: Rows
    """The first kept row that is near enough, or -1."""
    jaccard: npt.NDArray[np.float64]
    """The similarity to that row; 0 where there is none."""
    band_pairs: int = 0
    """Pairs of rows that shared a band, once for each."""
    candidates: int = 0
    """Pairs whose signatures were alike."""
    compared: int = 0
    """Pairs whose texts had to be compared: with kept rows only, and up to the one that is near enough."""
    hot_groups: int = 0
    """Groups of rows that were too large to look at all their pairs: see `candidates`."""

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """The rows that are no duplicates."""
        return (self.exact_of == NONE) & (self.near_of == NONE)

    @property
    def first(self) -> Rows:
        """The first row that is equal, of each row: itself where none was before it."""
        return np.where(self.exact_of == NONE, np.arange(len(self.exact_of)), self.exact_of)

    @property
    def kept_for(self) -> Rows:
        """The kept row that each row was dropped for; itself where it is kept."""
        first = self.first
        return np.where(self.near_of[first] == NONE, first, self.near_of[first])


@dataclass(frozen=True)
class Cluster:
    """A kept row, the rows dropped for it in order, and how similar they are to it (1: the same)."""

    kept: int
    dropped: list[int]
    jaccard: list[float]


def find_duplicates(
    keys: Sequence[Path],
    signatures: Sequence[Path],
    store: TextStore,
    *,
    threshold: float | None,
    work_dir: Path,
    exact: bool = True,
    memory_bytes: int = MEMORY_BYTES,
    workers: int = 1,
) -> Duplicates:
    """What of the rows of all pieces are duplicates.

    For each piece `keys` names a .npy file of `folding.content_keys`, `signatures` one of `signatures.signatures`;
    `store` has the same rows' texts. `exact` and `threshold` switch the two kinds: without a threshold no near
    duplicates are looked for and `signatures` may be empty. `work_dir` is made anew, and removed.
    """
    shutil.rmtree(work_dir, ignore_errors=True)
    work_dir.mkdir(parents=True)
    rows = sum(len(np.load(path, mmap_mode="r")) for path in keys)
    if rows > MAX_ROWS:
        raise DataError(f"{rows} rows are more than the {MAX_ROWS} in which duplicates can be found; cut the sources")
    nowhere = np.full(rows, NONE, np.int64)
    found = Duplicates(nowhere, nowhere, np.zeros(rows))
    if exact:
        found = replace(found, exact_of=_equal_rows(keys, rows, work_dir / "exact", memory_bytes))
    if threshold is not None and rows:
        found = _near_rows(found, signatures, store, threshold, work_dir, memory_bytes, workers)
    shutil.rmtree(work_dir)
    return found


def clusters(duplicates: Duplicates, *, largest: int = CLUSTERS_SHOWN) -> tuple[Counter[int], list[Cluster]]:
    """How many clusters have so many rows, and the largest ones, the earlier first among equals.

    A cluster is a kept row and all that were dropped for it: near duplicates, and copies of it or of those.
    """
    first, kept = duplicates.first, duplicates.kept_for
    jaccard = np.where(kept == first, 1.0, duplicates.jaccard[first])
    dropped = np.flatnonzero(kept != np.arange(len(kept)))
    dropped = dropped[np.argsort(kept[dropped], kind="stable")]
    roots, starts, counts = np.unique(kept[dropped], return_index=True, return_counts=True)
    shown = [
        Cluster(int(roots[at]), members.tolist(), jaccard[members].tolist())
        for at in np.argsort(-counts, kind="stable")[:largest].tolist()
        for members in [dropped[starts[at] : starts[at] + counts[at]]]
    ]
    return Counter((counts + 1).tolist()), shown


def _equal_rows(keys: Sequence[Path], rows: int, directory: Path, memory_bytes: int) -> Rows:
    """The first row with the same 128 bits, for each row that has an earlier one."""
    exact_of = np.full(rows, NONE, np.int64)
    pieces = [np.load(path, mmap_mode="r") for path in keys]
    firsts = (np.ascontiguousarray(piece[:, 0]) for piece in pieces)
    for groups in equal_groups(firsts, rows=rows, directory=directory, memory_bytes=memory_bytes):
        # Half of the key brought them together; the other half tells strangers among them apart.
        group = np.repeat(np.arange(len(groups.sizes)), groups.sizes)
        second = _gather(pieces, groups.rows)
        order = np.lexsort((groups.rows, second, group))
        members, group, second = groups.rows[order], group[order], second[order]
        new = np.ones(len(members), np.bool_)
        new[1:] = (group[1:] != group[:-1]) | (second[1:] != second[:-1])
        first_of_kind = members[np.flatnonzero(new)][np.cumsum(new) - 1]
        exact_of[members[~new]] = first_of_kind[~new]
    return exact_of


def _gather(pieces: Sequence[npt.NDArray[np.uint64]], rows: Rows) -> npt.NDArray[np.uint64]:
    """The second half of the keys of some rows."""
    second = np.empty(len(rows), np.uint64)
    order = np.argsort(rows, kind="stable")
    ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
    borders = np.searchsorted(rows, np.concatenate(([0], ends)), sorter=order)
    for piece, end, first, last in zip(pieces, ends.tolist(), borders, borders[1:], strict=False):
        places = order[first:last]
        second[places] = piece[rows[places] - (end - len(piece)), 1]
    return second


def _near_rows(
    found: Duplicates,
    signatures: Sequence[Path],
    store: TextStore,
    threshold: float,
    work_dir: Path,
    memory_bytes: int,
    workers: int,
) -> Duplicates:
    candidates = find_candidates(
        signatures, found.exact_of == NONE, threshold=threshold, work_dir=work_dir, memory_bytes=memory_bytes
    )
    near_of, similarity = np.full(len(found.exact_of), NONE, np.int64), np.zeros(len(found.exact_of))
    compare = partial(jaccards, store, memory_bytes=memory_bytes, workers=workers)
    pairs = compared = 0
    for later, earlier in candidates.parts():
        pairs += len(later)
        compared += _drop_near(later, earlier, near_of, similarity, threshold=threshold, compare=compare)
    return replace(
        found,
        near_of=near_of,
        jaccard=similarity,
        band_pairs=candidates.band_pairs,
        candidates=pairs,
        compared=compared,
        hot_groups=candidates.hot_groups,
    )


def _drop_near(
    later: Rows,
    earlier: Rows,
    near_of: Rows,
    similarity: npt.NDArray[np.float64],
    *,
    threshold: float,
    compare: Callable[[Rows], npt.NDArray[np.float64]],
) -> int:
    """Decide on the rows of `later`, in their order, and enter the dropped ones; how many pairs this took.

    In rounds: each open row asks for its first candidates that are not known to be dropped, for one in the first
    round and for twice as many in each that follows, since every round reads the texts again. All that were asked
    for are measured together, and rows that wait for an earlier open one wait. The first open row of a round never
    waits, so every round gets further; what is decided is the same as one by one, and so is what is counted.
    """
    starts = np.flatnonzero(np.diff(later, prepend=NONE))
    rows, ends = later[starts], [*starts[1:].tolist(), len(later)]
    candidates, measured = earlier.tolist(), [np.nan] * len(later)
    dropped, undecided = set(earlier[near_of[earlier] != NONE].tolist()), set(rows.tolist())
    waiting, most = list(zip(rows.tolist(), starts.tolist(), ends, strict=True)), 1
    while waiting:
        asked, still = [], []
        for row, at, end in waiting:
            while at < end and (candidates[at] in dropped or measured[at] < threshold):
                at += 1
            if at < end and (isnan(measured[at]) or candidates[at] in undecided):
                asked += _open_places(range(at, end), candidates, measured, dropped, most)
                still.append((row, at, end))
                continue
            undecided.discard(row)
            if at < end:
                dropped.add(row)
                near_of[row], similarity[row] = candidates[at], measured[at]
        if asked:
            places = np.array(asked)
            places = places[np.argsort(earlier[places], kind="stable")]
            found = compare(np.stack((earlier[places], later[places]), axis=1))
            for place, likeness in zip(places.tolist(), found.tolist(), strict=True):
                measured[place] = likeness
        waiting, most = still, 2 * most
    until = np.where(near_of[later] == NONE, later, near_of[later])
    return int(np.count_nonzero((near_of[earlier] == NONE) & (earlier <= until)))


def _open_places(
    places: range, candidates: Sequence[int], measured: Sequence[float], dropped: set[int], most: int
) -> list[int]:
    """The first places, at most `most`, of candidates that are neither measured nor dropped."""
    return list(islice((at for at in places if isnan(measured[at]) and candidates[at] not in dropped), most))
