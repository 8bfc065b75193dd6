"""Groups of equal keys must be the same whether the keys fit into memory or not."""

import numpy as np
import pytest

from minimind.data.deduplication.groups import BYTES_PER_ROW, Spill, equal_groups


def grouped(keys: np.ndarray, cuts: int, directory, *, memory_bytes: int) -> list[list[int]]:
    """All groups as lists of rows."""
    chunks = np.array_split(keys, cuts)
    found = equal_groups(chunks, rows=len(keys), directory=directory, memory_bytes=memory_bytes)
    return [rows.tolist() for g in found for rows in np.split(g.rows, np.cumsum(g.sizes)[:-1]) if len(rows)]


def hashed(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)


@pytest.mark.parametrize("share", [1.0, 0.51, 0.2, 0.01])
@pytest.mark.parametrize("cuts", [1, 7])
def test_groups_do_not_depend_on_memory(tmp_path, share, cuts):
    """Spilled to 1, 2, 8 or 128 files: the same groups, the same order, rows ascending."""
    keys = hashed(np.random.default_rng(0).integers(0, 600, 2000))
    expected: dict[int, list[int]] = {}
    for row, key in enumerate(keys.tolist()):
        expected.setdefault(key, []).append(row)
    found = grouped(keys, cuts, tmp_path / "parts", memory_bytes=int(2000 * BYTES_PER_ROW * share))
    assert found == [expected[key] for key in sorted(expected) if len(expected[key]) > 1]


@pytest.mark.parametrize("memory_bytes", [1 << 20, 10])
def test_no_keys_and_no_equal_keys_make_no_groups(tmp_path, memory_bytes):
    """Empty input, one row, rows all different."""
    for name, keys in {
        "none": np.empty(0, np.uint64),
        "one": hashed(np.arange(1)),
        "all": hashed(np.arange(50)),
    }.items():
        assert grouped(keys, 1, tmp_path / name, memory_bytes=memory_bytes) == []


@pytest.mark.parametrize("memory_bytes", [1 << 20, 100])
def test_one_key_for_all_is_one_group(tmp_path, memory_bytes):
    """The worst case is large, not wrong."""
    assert grouped(np.full(300, 5, np.uint64), 3, tmp_path / "parts", memory_bytes=memory_bytes) == [list(range(300))]


def test_spill_gives_back_what_was_put_aside(tmp_path):
    """By part, in the order it was added; a part that got nothing is empty."""
    spill = Spill(tmp_path / "spill", 4, width=2)
    spill.add(np.array([2, 0, 2]), np.array([[1, 10], [2, 20], [3, 30]], np.uint64))
    spill.add(np.array([0]), np.array([[4, 40]], np.uint64))
    assert [spill.read(part).tolist() for part in range(4)] == [[[2, 20], [4, 40]], [], [[1, 10], [3, 30]], []]
    assert list((tmp_path / "spill").iterdir()) == []
