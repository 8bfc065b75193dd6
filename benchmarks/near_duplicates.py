"""Candidates for near duplicates per CPU second, against rensa and datasketch; recall and precision of each.

Every variant gets the same folded texts, no two of them equal, and gives pairs of rows; the time is that from
the texts to the pairs. All cut the same shingles (5 characters) and use bands of MinHash that should find a
pair of similarity .8 with a chance over .99: 64 numbers in 16 bands of 4 for the peers (.9998), the cheapest
that both of them take; 64 in 16 bands of 5 here (.998). The truth is every pair of similarity .8 and more, by prefix
filtering (Bayardo, Ma, Srikant 2007) and comparison of the sets: exact, and without any signature.

    rensa            as its documentation has it: lists of tokens, RMinHash, RMinHashLSH
    rensa_hashed     fed with this package's hashes of shingles instead of strings; it can then only tell which
                     rows have a partner, not which one, so its recall is of rows
    datasketch       MinHash.bulk with xxh3 for the default SHA-1, MinHashLSH
    minimind         candidates; minimind_verified also compares the texts

Rows come from the input, and an edited copy of every tenth is planted among them.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.harness import main, sample_corpus
from minimind.data.deduplication.candidates import find_candidates
from minimind.data.deduplication.duplicates import MEMORY_BYTES
from minimind.data.deduplication.folding import Folded, content_keys, fold
from minimind.data.deduplication.groups import equal_groups
from minimind.data.deduplication.signatures import SHINGLE, hash_shingles, shingle_sets, signatures
from minimind.data.deduplication.similarity import jaccards_of
from minimind.data.rules.texts import Texts

THRESHOLD = 0.8
DOCUMENTS = 10_000
"""Peers take 2 to 5 s for these, and the truth a minute, once."""
NUMBERS, BANDS = 64, 16
BATCH = 2048
"""Texts at a time, as the cleaning stage has them."""
CACHE = Path(tempfile.gettempdir()) / "minimind-benchmarks"
Pairs = npt.NDArray[np.int64]
"""(n, 2), the earlier row first."""


def minimind(texts: list[str]) -> Pairs:
    """Signatures of batches to files, then bands: as the cleaning stage does."""
    with tempfile.TemporaryDirectory(dir=CACHE) as work:
        directory = Path(work)
        np.save(directory / "signatures.npy", np.concatenate([signatures(folded) for folded in _folded(texts)]))
        everyone = np.ones(len(texts), np.bool_)
        (directory / "bands").mkdir()
        found = find_candidates(
            [directory / "signatures.npy"],
            everyone,
            threshold=THRESHOLD,
            work_dir=directory / "bands",
            memory_bytes=MEMORY_BYTES,
        )
        parts = [np.stack((earlier, later), axis=1) for later, earlier in found.parts()]
    return np.concatenate([np.empty((0, 2), np.int64), *parts])


def minimind_verified(texts: list[str]) -> Pairs:
    """Of the candidates those that are near, by their texts."""
    candidates = minimind(texts)
    rows, places = np.unique(candidates, return_inverse=True)
    sets = shingle_sets(fold(Texts([texts[row] for row in rows.tolist()])))
    return candidates[jaccards_of(sets, places.reshape(-1, 2)) >= THRESHOLD]


def rensa(texts: list[str]) -> Pairs:
    """All rows inserted into the index, then all asked for."""
    from rensa import RMinHash, RMinHashLSH

    hashes = []
    for start in range(0, len(texts), BATCH):  # the strings of all shingles at once would be gigabytes
        tokens = [_shingles(text) for text in texts[start : start + BATCH]]
        hashes += RMinHash.from_token_sets(tokens, num_perm=NUMBERS, seed=1)
    index = RMinHashLSH(THRESHOLD, NUMBERS, BANDS)
    index.insert_many(hashes)
    return _pairs((row, partners) for row, partners in enumerate(index.query_all(hashes)))


def rensa_hashed(texts: list[str]) -> Pairs:
    """Rows that have a partner, as pairs of a row with itself."""
    from rensa import RMinHash, RMinHashLSH

    hashes, counts = [], []
    for folded in _folded(texts):
        lengths = np.diff(folded.offsets)
        within = np.arange(len(folded.codes)) - np.repeat(folded.offsets[:-1], lengths)
        whole = within <= np.repeat(lengths, lengths) - SHINGLE
        hashes.append(hash_shingles(folded.codes, np.uint64)[whole[: 1 - SHINGLE]])
        counts.append(np.maximum(0, lengths - SHINGLE + 1))
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(hashes), offsets, NUMBERS, 1)
    flags = RMinHashLSH(THRESHOLD, NUMBERS, BANDS).query_duplicate_flags_matrix_one_shot(matrix)
    rows = np.flatnonzero(np.array(flags))
    return np.stack((rows, rows), axis=1)


def datasketch(texts: list[str]) -> Pairs:
    """Each row asked for, then inserted."""
    import xxhash
    from datasketch import MinHash, MinHashLSH

    def hash32(data: bytes) -> int:
        return xxhash.xxh3_64_intdigest(data) & 0xFFFFFFFF

    index = MinHashLSH(num_perm=NUMBERS, params=(BANDS, NUMBERS // BANDS))
    found = []
    for start in range(0, len(texts), BATCH):
        tokens = [[shingle.encode() for shingle in _shingles(text)] for text in texts[start : start + BATCH]]
        for row, hashed in enumerate(MinHash.generator(tokens, num_perm=NUMBERS, seed=1, hashfunc=hash32), start):
            found.append((row, index.query(hashed)))
            index.insert(row, hashed, check_duplication=False)
    return _pairs(found)


def _variant(work: Callable[[list[str]], Pairs]) -> Callable[[Path], dict[str, Any]]:
    """`work` as the harness wants it: timed without its preparation, and judged."""

    def run(path: Path) -> dict[str, Any]:
        os.environ["RAYON_NUM_THREADS"] = "1"
        texts, truth = _prepared(path)
        began = time.process_time()
        pairs = work(texts)
        seconds = time.process_time() - began
        if len(pairs) and (pairs[:, 0] == pairs[:, 1]).all():
            truth = np.unique(truth)[:, None].repeat(2, axis=1)
        found, true = ({(a, b) for a, b in both.tolist()} for both in (pairs, truth))
        return {
            "cpu_seconds": seconds,
            "documents": len(texts),
            "pairs": len(found),
            "recall": len(found & true) / len(true),
            "precision": len(found & true) / max(1, len(found)),
        }

    return run


def _prepared(path: Path) -> tuple[list[str], Pairs]:
    """The folded texts and the true pairs; made once, and kept beside other things that are made once."""
    CACHE.mkdir(exist_ok=True)
    stem = f"near-{path.stem}-{path.stat().st_size}"
    texts_path, truth_path = CACHE / f"{stem}.json", CACHE / f"{stem}.npy"
    if not truth_path.exists():
        texts = _planted(path)
        texts_path.write_text(json.dumps(texts), encoding="utf-8")
        np.save(truth_path, true_pairs([hashes for folded in _folded(texts) for hashes in shingle_sets(folded)]))
    return json.loads(texts_path.read_text(encoding="utf-8")), np.load(truth_path)


def _planted(path: Path) -> list[str]:
    """Different folded texts of the input, with edited copies of every tenth, in random order."""
    with path.open(encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for _, line in zip(range(DOCUMENTS), file, strict=False)]
    rng = np.random.default_rng(0)
    for text in texts[::10]:
        size = max(1, int(len(text) * rng.uniform(0, 0.12)))
        at = int(rng.integers(0, max(1, len(text) - size)))
        texts.append(rng.choice([text[:at] + text[at + size :], text[:at] + text[:size][::-1] + text[at:]]))
    folded = fold(Texts([texts[row] for row in rng.permutation(len(texts)).tolist()]))
    _, first = np.unique(content_keys(folded), axis=0, return_index=True)
    return [folded.text(row) for row in sorted(first.tolist()) if folded.text(row)]


def true_pairs(sets: list[npt.NDArray[np.uint64]], threshold: float = THRESHOLD) -> Pairs:
    """Every pair of sets of at least this similarity.

    With elements from rare to frequent, two such sets share one of the first n - ceil(threshold n) + 1 of each.
    """
    sizes = np.array([len(hashes) for hashes in sets])
    _, element, frequency = np.unique(np.concatenate(sets), return_inverse=True, return_counts=True)
    rank = np.empty(len(frequency), np.int64)
    rank[np.argsort(frequency, kind="stable")] = np.arange(len(frequency))
    row = np.repeat(np.arange(len(sets)), sizes)
    order = np.lexsort((rank[element], row))
    place = np.arange(len(row)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    first = order[place < (sizes - np.ceil(threshold * sizes - 1e-9) + 1)[row]]
    keys = rank[element[first]].astype(np.uint64) << np.uint64(40)  # ranks are below 2**24 here, and even in the top
    packed: list[npt.NDArray[np.int64]] = []
    for groups in equal_groups([keys], rows=len(keys), directory=CACHE / "never", memory_bytes=1 << 40):
        members = np.split(row[first[groups.rows]], np.cumsum(groups.sizes)[:-1])
        for rows in members:
            one, other = (rows[side] for side in np.triu_indices(len(rows), 1))
            fits = np.minimum(sizes[one], sizes[other]) >= threshold * np.maximum(sizes[one], sizes[other])
            packed.append(np.minimum(one, other)[fits] * len(sets) + np.maximum(one, other)[fits])
    unique = np.unique(np.concatenate(packed))
    pairs = np.stack((unique // len(sets), unique % len(sets)), axis=1)
    return pairs[jaccards_of(sets, pairs) >= threshold]


def _folded(texts: list[str]) -> Iterator[Folded]:
    """Batches of texts, folded already, as the arrays that the stage has at this point."""
    for start in range(0, len(texts), BATCH):
        batch = Texts(texts[start : start + BATCH])
        yield Folded(batch.codes, batch.offsets)


def _shingles(text: str) -> list[str]:
    return [text[at : at + SHINGLE] for at in range(max(1, len(text) - SHINGLE + 1))]


def _pairs(found: Iterable[tuple[int, Iterable[int]]]) -> Pairs:
    pairs = {(min(row, other), max(row, other)) for row, partners in found for other in partners if other != row}
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)


VARIANTS = {work.__name__: _variant(work) for work in (minimind, minimind_verified, rensa, rensa_hashed, datasketch)}

if __name__ == "__main__":
    main(
        "benchmarks.near_duplicates",
        "near duplicates: documents per CPU second",
        VARIANTS,
        baseline="rensa",
        default_input=lambda: sample_corpus(CACHE),
    )
