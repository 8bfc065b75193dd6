"""Shards: rows come back as they went in, and groups are never split."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from minimind.artifact import Artifact, Store, Summary
from minimind.config import Config
from minimind.data.documents import SCHEMAS, check_row
from minimind.data.dropped import DROPPED_FILE
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import ROWS_DIR, RowWriter, content_bytes, count_rows, read_batches, read_rows, write_rows
from minimind.errors import ArtifactError, DataError, MissingError
from minimind.stage import Stage, build


def rows(count: int, groups: int | None = None, text: str = "text number") -> list[dict[str, Any]]:
    made = []
    for number in range(count):
        row = check_row("pretrain", {"text": f"{text} {number}"})
        group = row["id"] if groups is None else f"group {number % groups}"
        made.append({"source": "s", "line": number + 1, "group": group, "language": None, **row})
    return made


def as_clean(tmp_path: Path, made: list[dict[str, Any]]) -> Artifact:
    """A sealed artifact that looks like the clean stage's."""

    def write(_config: Config, _inputs: Any, out_dir: Path) -> Summary:
        write_rows(out_dir / ROWS_DIR, "pretrain", made)
        (out_dir / DROPPED_FILE).write_text('{"line": 7}\n', encoding="utf-8")
        return Summary()

    return build(Stage("clean", write), Config(), {}, store=Store(tmp_path))[0]


def shards(tmp_path: Path, made: list[dict[str, Any]], **settings: Any) -> Artifact:
    config = ShardConfig(rows="pretrain", **settings)
    return build(SHARD, config, {"rows": as_clean(tmp_path, made)}, store=Store(tmp_path))[0]


def split_of(artifact: Artifact) -> dict[str, list[dict[str, Any]]]:
    return {side: list(read_rows(artifact.dir / side)) for side in ("train", "val")}


def test_rows_come_back_in_order_over_several_files(tmp_path: Path):
    """Order is identity: the tokens stage numbers rows by it."""
    made = rows(9000)
    assert write_rows(tmp_path / "rows", "pretrain", made, part_bytes=20_000) == 9000
    assert len(list((tmp_path / "rows").glob("*.arrow"))) > 1
    assert list(read_rows(tmp_path / "rows")) == made
    assert count_rows(tmp_path / "rows") == 9000


def test_batches_are_written_as_they_are_and_columns_are_chosen(tmp_path: Path):
    """Readers that need one column do not pay for the texts."""
    batch = pa.RecordBatch.from_pylist(rows(3), schema=SCHEMAS["pretrain"])
    assert write_rows(tmp_path / "rows", "pretrain", [batch, batch], stem="x") == 6
    assert [b.schema.names for b in read_batches(tmp_path / "rows", ["group"])] == [["group"], ["group"]]
    assert [b.num_rows for b in read_batches(tmp_path / "rows")] == [3, 3]


def test_big_rows_make_small_batches(tmp_path: Path):
    """A batch is what a reader holds in memory; it is bounded by bytes, not only by rows."""
    with RowWriter(tmp_path / "rows", "pretrain") as writer:
        for row in rows(10, text="x" * 1_000_000):
            writer.write(row, content_bytes(row))
    assert [batch.num_rows for batch in read_batches(tmp_path / "rows")] == [5, 5]


def test_same_rows_give_the_same_bytes(tmp_path: Path):
    """Reuse and sealing rest on it."""
    for name in ("a", "b"):
        write_rows(tmp_path / name, "pretrain", rows(500))
    assert (tmp_path / "a" / "part-00000.arrow").read_bytes() == (tmp_path / "b" / "part-00000.arrow").read_bytes()


def test_no_group_is_split_and_no_row_is_lost(tmp_path: Path):
    """A document's paragraphs on both sides would make validation a memory test."""
    made = rows(400, groups=40)
    split = split_of(shards(tmp_path, made, validation_fraction=0.25))
    sides = {side: {row["group"] for row in part} for side, part in split.items()}
    assert not sides["train"] & sides["val"] and len(sides["val"]) >= 2
    assert sorted(split["train"] + split["val"], key=lambda row: row["line"]) == made
    assert [row["line"] for row in split["train"]] == sorted(row["line"] for row in split["train"])


def test_fraction_is_about_kept_and_a_row_stays_on_its_side(tmp_path: Path):
    """The side depends on the row's group alone: more data does not move old rows to the other side."""
    small = split_of(shards(tmp_path / "a", rows(500), validation_fraction=0.1))
    large = split_of(shards(tmp_path / "b", rows(2000), validation_fraction=0.1))
    assert 0.07 < len(large["val"]) / 2000 < 0.13
    assert {row["id"] for row in small["val"]} <= {row["id"] for row in large["val"]}


def test_seed_moves_the_split(tmp_path: Path):
    """Another seed, other validation rows."""
    val = [{r["id"] for r in split_of(shards(tmp_path / str(s), rows(300), seed=s))["val"]} for s in (0, 1)]
    assert val[0] != val[1]


@pytest.mark.parametrize(("fraction", "train", "val"), [(0.000001, 1, 1), (0.999999, 1, 1), (0.0, 2, 0)])
def test_two_groups_are_enough_for_both_sides(tmp_path: Path, fraction: float, train: int, val: int):
    """A tiny corpus still gets validated, and the summary says that the fraction was not kept."""
    artifact = shards(tmp_path, rows(2), validation_fraction=fraction)
    figures = artifact.summary().figures
    assert (figures["train_rows"], figures["val_rows"]) == (train, val)
    assert bool(artifact.summary().warnings) == bool(fraction)


def test_one_group_leaves_val_empty_and_says_so(tmp_path: Path):
    """A group is not split even then; val can still be opened."""
    artifact = shards(tmp_path, rows(5, groups=1))
    assert list(read_rows(artifact.dir / "val")) == []
    assert "val is empty" in artifact.summary().warnings[0]


def test_dropped_rows_are_passed_on(tmp_path: Path):
    """The corpus artifact alone tells what is not in it."""
    artifact = shards(tmp_path, rows(5))
    assert (artifact.dir / "dropped" / DROPPED_FILE).read_text(encoding="utf-8") == '{"line": 7}\n'


def test_shard_size_changes_files_but_not_identity(tmp_path: Path):
    """Where the cuts fall says nothing about the rows, so it must not retrain a model."""
    configs = [ShardConfig(rows="pretrain", shard_bytes=size) for size in (1 << 12, 1 << 20)]
    assert configs[0].identity() == configs[1].identity()


def test_nothing_to_read_is_said_plainly(tmp_path: Path):
    """No files, a damaged file, no rows: three different remedies."""
    with pytest.raises(MissingError, match="no .*arrow files"):
        list(read_rows(tmp_path))
    (tmp_path / "part-00000.arrow").write_bytes(b"not arrow at all")
    with pytest.raises(ArtifactError, match="damaged"):
        list(read_rows(tmp_path))
    with pytest.raises(DataError, match="no rows"):
        shards(tmp_path / "x", [])
