"""What is dropped must be a duplicate, what is kept must not be one, and how the work was cut must not show."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from minimind.data.deduplication import candidates
from minimind.data.deduplication.candidates import pairs_of
from minimind.data.deduplication.duplicates import Duplicates, clusters, find_duplicates
from minimind.data.deduplication.folding import content_keys, fold
from minimind.data.deduplication.groups import Groups
from minimind.data.deduplication.signatures import SHINGLE, signatures
from minimind.data.deduplication.similarity import TextStore, jaccards
from minimind.data.rules.texts import Texts
from minimind.errors import DataError

HAN = (
    "春眠不觉晓处处闻啼鸟夜来风雨声花落知多少白日依山尽黄河入海流欲穷千里目更上一层楼床前明月光疑是地上霜举头望低思故乡"
)
WORDS = "the of sun lake river stone bird green walks under over morning night a in winter light slowly sings"


def write_piece(directory: Path, texts: list[str], name: str) -> tuple[Path, Path, Path]:
    """Keys, signatures and texts of one piece, as cleaning leaves them; in batches of three rows."""
    folded = fold(Texts(texts))
    paths = directory / f"{name}.keys.npy", directory / f"{name}.signatures.npy", directory / f"{name}.arrow"
    np.save(paths[0], content_keys(folded))
    np.save(paths[1], signatures(folded))
    table = pa.table({"text": pa.array(texts, pa.string())})
    with pa.OSFile(str(paths[2]), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return paths


def find(directory: Path, texts: list[str], *, cuts: tuple[int, ...] = (), **options) -> Duplicates:
    """The duplicates of texts that come in pieces cut at `cuts`."""
    directory.mkdir(parents=True, exist_ok=True)
    borders = [0, *cuts, len(texts)]
    pieces = [
        write_piece(directory, texts[first:last], f"{at:03d}")
        for at, (first, last) in enumerate(zip(borders, borders[1:], strict=False))
    ]
    keys, signed, stored = (list(paths) for paths in zip(*pieces, strict=True))
    options = {"threshold": 0.8, **options}
    return find_duplicates(keys, signed, TextStore(stored, "text"), work_dir=directory / "work", **options)


def written(rng: np.random.Generator, size: int, *, chinese: bool) -> str:
    return "".join(rng.choice(list(HAN), size)) if chinese else " ".join(rng.choice(WORDS.split(), size // 5 + 1))


def edited(rng: np.random.Generator, text: str, share: float) -> str:
    """`text` with some of it taken out, put in, or written in capitals."""
    size = max(1, int(len(text) * share))
    at = int(rng.integers(0, max(1, len(text) - size)))
    kind = rng.integers(0, 3)
    if kind == 0:
        return text[:at] + text[at + size :]
    if kind == 1:
        return text[:at] + text[:size][::-1] + text[at:]
    return text[:at] + text[at : at + size].upper().replace(" ", "\r\n") + text[at + size :]


def corpus(seed: int, groups: int = 60) -> list[str]:
    """Texts in both languages, most of them with a few edited copies, in mixed order."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(groups):
        text = written(rng, int(rng.integers(8, 900)), chinese=number % 2 == 0)
        texts.append(text)
        for _ in range(int(rng.integers(0, 4))):
            texts.append(edited(rng, text, rng.choice([0.005, 0.02, 0.05, 0.1, 0.2])))
    return [texts[i] for i in rng.permutation(len(texts))]


def plain_jaccard(one: str, other: str) -> float:
    """The definition, written down plainly."""
    sets = [{t[i : i + SHINGLE] for i in range(max(1, len(t) - SHINGLE + 1))} if t else set() for t in (one, other)]
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 1.0


def by_brute_force(texts: list[str], threshold: float) -> tuple[list[int], list[int]]:
    """exact_of and near_of by comparing every row with every earlier one."""
    folded = [fold(Texts([text])).text(0) for text in texts]
    first: dict[str, int] = {}
    exact_of = [-1 if first.setdefault(text, row) == row else first[text] for row, text in enumerate(folded)]
    near_of, kept = [-1] * len(texts), []
    for row, text in enumerate(folded):
        if exact_of[row] < 0:
            near_of[row] = next((k for k in kept if plain_jaccard(folded[k], text) >= threshold), -1)
            if near_of[row] < 0:
                kept.append(row)
    return exact_of, near_of


@pytest.mark.parametrize(("seed", "threshold"), [(0, 0.8), (1, 0.8), (2, 0.6), (3, 0.95)])
def test_what_is_found_is_what_brute_force_finds(tmp_path, seed, threshold):
    """Recall and precision at once: the same rows dropped, for the same rows, in Chinese and English."""
    texts = corpus(seed)
    found = find(tmp_path, texts, threshold=threshold)
    exact_of, near_of = by_brute_force(texts, threshold)
    assert found.exact_of.tolist() == exact_of
    missed = (found.near_of < 0) & (np.array(near_of) >= 0)
    assert missed.sum() <= 0.01 * len(texts)
    if not missed.any():
        assert found.near_of.tolist() == near_of
    assert sum(row >= 0 for row in near_of) > 10 and sum(row >= 0 for row in exact_of) > 10


def test_every_dropped_row_has_a_kept_one_near_enough(tmp_path):
    """Precision 1: what is said of a dropped row can be checked by reading two texts."""
    texts = corpus(4)
    found = find(tmp_path, texts)
    for row in np.flatnonzero(found.near_of >= 0).tolist():
        kept = int(found.near_of[row])
        one, other = (fold(Texts([texts[i]])).text(0) for i in (row, kept))
        assert kept < row and found.kept[kept] and not found.kept[row]
        assert found.jaccard[row] == pytest.approx(plain_jaccard(one, other)) and found.jaccard[row] >= 0.8
    for row in np.flatnonzero(found.exact_of >= 0).tolist():
        first = int(found.exact_of[row])
        assert first < row and found.exact_of[first] == -1
        assert fold(Texts([texts[row]])).text(0) == fold(Texts([texts[first]])).text(0)


@pytest.mark.parametrize(
    ("cuts", "memory_bytes"),
    [((1,), 1 << 28), ((0, 0, 70, 71, 120), 1 << 28), ((50,), 40), ((30, 31, 90), 1000), ((), 1)],
)
def test_cuts_and_memory_do_not_show(tmp_path, cuts, memory_bytes):
    """Pieces follow the sizes of files and memory that of the machine; the same rows must be dropped."""
    texts = corpus(5)
    whole = find(tmp_path / "whole", texts)
    cut = find(tmp_path / "cut", texts, cuts=cuts, memory_bytes=memory_bytes)
    for name in ("exact_of", "near_of", "jaccard"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))
    assert (cut.candidates, cut.compared, cut.band_pairs) == (whole.candidates, whole.compared, whole.band_pairs)


def test_what_is_kept_is_kept_again(tmp_path):
    """Cleaning a clean corpus must not lose rows."""
    texts = corpus(6)
    kept = find(tmp_path / "first", texts).kept
    left = [text for text, keep in zip(texts, kept, strict=True) if keep]
    assert find(tmp_path / "again", left).kept.all()


def test_both_halves_of_a_key_must_be_equal(tmp_path):
    """64 bits bring rows together; the other 64 tell strangers apart, also across pieces."""
    keys = np.array([[7, 1], [7, 2], [8, 1], [7, 1], [7, 2], [9, 9], [7, 3]], np.uint64)
    paths = [tmp_path / "a.npy", tmp_path / "b.npy", tmp_path / "c.npy"]
    for path, piece in zip(paths, (keys[:2], keys[2:2], keys[2:]), strict=True):
        np.save(path, piece)
    found = find_duplicates(paths, [], TextStore([], "text"), threshold=None, work_dir=tmp_path / "work")
    assert found.exact_of.tolist() == [-1, -1, -1, 0, 1, -1, -1]


def test_more_rows_than_can_be_numbered_are_refused(tmp_path, monkeypatch):
    """A pair of rows is packed into 64 bits; beyond, rows would be mistaken for others."""
    monkeypatch.setattr("minimind.data.deduplication.duplicates.MAX_ROWS", 2)
    with pytest.raises(DataError, match="3 rows are more than the 2"):
        find(tmp_path, ["a", "b", "c"])


def test_a_chain_of_changes_loses_only_what_is_near_a_kept_row(tmp_path):
    """1 is near 0 and 2 near 1, but 2 is not near 0: with 1 gone, 2 stays. Clustering would lose it."""
    words = [f"word{n:02d}" for n in range(40)]
    chain = [" ".join(words[start : start + 30]) for start in (0, 2, 4)]
    found = find(tmp_path, chain)
    assert found.near_of.tolist() == [-1, 0, -1]


def test_processes_find_the_same(tmp_path):
    """Comparing is cut into jobs; the order in which they end, and where, changes nothing."""
    texts = corpus(7, groups=12)
    _, _, stored = write_piece(tmp_path, texts, "piece")
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, len(texts), (200, 2))
    options = {"memory_bytes": 1 << 20, "job_bytes": 100_000}
    alone = jaccards(TextStore([stored], "text"), pairs, **options, workers=1)
    np.testing.assert_array_equal(jaccards(TextStore([stored], "text"), pairs, **options, workers=2), alone)
    folded = [fold(Texts([text])).text(0) for text in texts]
    np.testing.assert_allclose(alone, [plain_jaccard(folded[a], folded[b]) for a, b in pairs])


def test_each_kind_can_be_switched_off(tmp_path):
    """Two switches in the data spec: equal texts are near ones, too, when only those are looked for."""
    texts = ["a text that is long enough to be like another", "A Text that is long enough to be like another", "x"]
    texts.append(texts[0] + "s")
    assert find(tmp_path / "exact", texts, threshold=None).kept.tolist() == [True, False, True, True]
    near = find(tmp_path / "near", texts, exact=False)
    assert near.exact_of.tolist() == [-1] * 4 and near.near_of.tolist() == [-1, 0, -1, 0]
    assert find(tmp_path / "none", texts, exact=False, threshold=None).kept.all()


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        ([], []),
        ([""], [0]),
        (["", " ", "\n", "\u200b"], [0]),
        (["a", "b", "A", "ab", "abcd", "abce", "abcd "], [0, 1, 3, 4, 5]),
        (["啊" * 9, "啊" * 8, "啊" * 3], [0, 2]),
    ],
)
def test_texts_of_hardly_any_characters(tmp_path, texts, kept):
    """No shingle, one shingle, one shingle many times."""
    assert np.flatnonzero(find(tmp_path, texts).kept).tolist() == kept


@pytest.mark.parametrize("exact", [True, False])
def test_thousands_of_equal_rows_are_one(tmp_path, exact):
    """All pairs of 5,000 rows are 12 million; the first is what the others are compared with."""
    found = find(tmp_path, ["the same boilerplate, again and again and again"] * 5000, exact=exact)
    assert np.flatnonzero(found.kept).tolist() == [0]
    assert set((found.exact_of if exact else found.near_of)[1:].tolist()) == {0}
    assert found.compared < 10_000 and found.candidates < 5000 * 41


def test_thousands_of_rows_that_look_alike_cost_little(tmp_path):
    """Forms that differ in a number: hot in every band, near the first of them, compared with it alone."""
    form = "Dear customer, thank you for your order. It was sent today and will reach you within three working days. "
    texts = [f"{form}{form.upper()[::-1]} {number:05d}" for number in range(2000)]
    found = find(tmp_path, texts)
    assert np.flatnonzero(found.kept).tolist() == [0]
    assert found.hot_groups > 0 and found.compared == 1999


def test_a_huge_text_is_compared_like_any_other(tmp_path):
    """Longer than a block of hashing and than the memory for comparing; its copy differs in a line."""
    text = written(np.random.default_rng(8), 400_000, chinese=False)
    found = find(tmp_path, [text, "short", text + "\nand a line"], memory_bytes=1 << 16)
    assert found.near_of.tolist() == [-1, -1, 0] and 0.99 < found.jaccard[2] < 1


def test_hot_groups_are_paired_with_first_rows_and_neighbours(monkeypatch):
    """Small groups give all their pairs, each once; the order and the slices they come in do not matter."""
    monkeypatch.setattr(candidates, "HOT_FIRST", 3)
    monkeypatch.setattr(candidates, "HOT_BEFORE", 2)
    monkeypatch.setattr(candidates, "_PAIRS_AT_ONCE", 7)
    rows = np.array([4, 8, 9, *range(20, 32)])
    found = [
        pair for slice_ in pairs_of(Groups(rows, np.array([3, 12]))) for pair in zip(*map(list, slice_), strict=True)
    ]
    expected = {(8, 4), (9, 4), (9, 8)}
    for later in range(20, 32):
        expected |= {(later, earlier) for earlier in range(20, later) if earlier < 23 or later - earlier <= 2}
    assert len(found) == len(set(found)) and set(found) == expected


def test_clusters_hold_a_kept_row_and_what_fell_for_it(tmp_path):
    """The report shows them: near duplicates, copies of the kept row, and copies of near duplicates."""
    text = (
        "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness"
    )
    other = "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。"
    found = find(tmp_path, [other, text, text + "!", text.upper(), "alone", text + "!\n", other + "\r\n"])
    sizes, largest = clusters(found)
    assert sizes == Counter({4: 1, 2: 1})
    assert [(c.kept, c.dropped) for c in largest] == [(1, [2, 3, 5]), (0, [6])]
    assert largest[0].jaccard[1] == 1 and largest[0].jaccard[0] == largest[0].jaccard[2] == found.jaccard[2] < 1
    assert clusters(found, largest=1)[1] == largest[:1]


def test_no_duplicates_make_no_clusters(tmp_path):
    """A clean corpus has an empty table in its report."""
    assert clusters(find(tmp_path, ["one text", "quite another"])) == (Counter(), [])


def test_texts_are_found_by_row_over_files_and_batches(tmp_path):
    """In any order, some twice, with empty files between; sizes are those of UTF-8."""
    texts = [f"{number} 文" * (number % 4) for number in range(20)]
    pieces = [texts[:7], [], texts[7:8], texts[8:]]
    paths = [write_piece(tmp_path, piece, str(at))[2] for at, piece in enumerate(pieces)]
    store = TextStore(paths, "text")
    rows = np.array([19, 0, 7, 7, 8, 3])
    assert len(store) == 20 and store(7) == texts[7]
    assert store.take(rows) == [texts[row] for row in rows]
    assert store.num_bytes(rows).tolist() == [len(texts[row].encode()) for row in rows]


def test_a_missing_column_is_named(tmp_path):
    """Whoever wrote the pieces must learn which column was meant."""
    path = write_piece(tmp_path, ["a"], "piece")[2]
    with pytest.raises(DataError, match=r"no column 'content'; its columns are text"):
        TextStore([path], "content")(0)


def test_compressed_and_other_columns_are_refused(tmp_path):
    """A compressed file would be unpacked whole for every text; numbers have no shingles."""
    table = pa.table({"text": ["text " * 100], "line": [1]})
    path = tmp_path / "piece.arrow"
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="is compressed"):
        TextStore([path], "text")(0)
    with pytest.raises(DataError, match="column 'line' is of int64"):
        TextStore([path], "line")(0)


def test_nothing_is_left_in_the_work_directory(tmp_path):
    """Signatures and bands of a large corpus are gigabytes; leftovers of a killed run go first."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "band-00.u64").write_bytes(b"of a run that was killed")
    find(tmp_path, corpus(9, groups=5))
    assert not (tmp_path / "work").exists()
