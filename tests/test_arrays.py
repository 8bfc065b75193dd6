"""Arrays made of buffers are those that Arrow makes of lists, and pandas stays out of it."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minimind.data.arrays import booleans, int64s, numbers, strings

SETTLED = settings(deadline=None, derandomize=True, max_examples=100)
READ_AND_SHARD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from minimind.data.sharding import ShardConfig, shard
from minimind.data.reading.ingest import ingest
from minimind.data.reading.sources import IngestConfig, SourceConfig

home, rows = Path(sys.argv[1]), sys.argv[2]
read, corpus = home / "read", home / "corpus"
read.mkdir(), corpus.mkdir()
source = SourceConfig(name="rows", rows=rows, path=str(home / "rows.jsonl"))
ingest(IngestConfig(rows=rows, sources=(source,), workers=1), {}, read)
shard(ShardConfig(rows=rows, workers=1), {"rows": SimpleNamespace(dir=read)}, corpus)
assert "pandas" not in sys.modules
"""


@SETTLED
@given(st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]))))
def test_strings_are_those_of_arrow(values: list[str | None]):
    """Null is not the empty string."""
    made = strings(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.string())) and made.null_count == values.count(None)


@SETTLED
@given(
    st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)), st.integers(0, 9), st.sampled_from([pa.int32(), pa.int64()])
)
def test_numbers_are_read_from_any_slice(values: list[int | None], start: int, kind: pa.DataType):
    """A batch is often a slice of a larger one; its buffers are those of the whole."""
    assert numbers(pa.array(values, kind)[start:]).tolist() == [value or 0 for value in values[start:]]


@SETTLED
@given(st.lists(st.booleans()))
def test_booleans_and_numbers_come_back(values: list[bool]):
    """What is filtered by them must be what numpy would take."""
    flags = np.array(values, np.bool_)
    assert booleans(flags).to_pylist() == values
    assert int64s(np.flatnonzero(flags)[::-1]).to_pylist() == np.flatnonzero(flags)[::-1].tolist()


@pytest.mark.parametrize(
    ("rows", "line"),
    [
        ("pretrain", '{"text": "row %d \\\\n \\\\u4e2d"}'),
        ("chat", '{"conversations": [{"role": "user", "content": "%d"}, {"role": "assistant", "content": "b"}]}'),
    ],
)
def test_reading_and_sharding_leave_pandas_alone(tmp_path, rows: str, line: str):
    """Arrow imports it to look whether a list is one of its: a quarter of a second in every process."""
    (tmp_path / "rows.jsonl").write_text("".join(line % number + "\n" for number in range(50)), encoding="utf-8")
    subprocess.run([sys.executable, "-c", READ_AND_SHARD, str(tmp_path), rows], check=True, timeout=60)
