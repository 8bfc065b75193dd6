"""Sharding: the stage that splits rows between training and validation and writes the corpus.

Rows keep their order, so that the same input gives the same files. Whole groups go to `val/` by a hash of
(seed, group): a row's side does not depend on what other rows there are, and the parts of one file or
conversation are never on both sides. A source's weight repeats or thins out its training rows.

Not here: the files (`shards`); mixtures of several token sets (`batches`).
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash
from pydantic import Field

from minimind.artifact import Inputs, Summary
from minimind.config import WHERE, Config
from minimind.data.arrays import booleans, int64s
from minimind.data.columns import text_bytes
from minimind.data.documents import RowKind
from minimind.data.dropped import DROPPED_FILE
from minimind.data.pieces import Advance, build_pieces, enough_workers, taken_apart
from minimind.data.shards import (
    ROWS_DIR,
    SHARD_BYTES,
    SIDES,
    RowWriter,
    count_rows,
    gather_parts,
    read_batches,
    read_file,
)
from minimind.errors import DataError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.stage import Stage

_PIECES, _FIGURES = "pieces", "figures.json"


class ShardConfig(Config):
    """How rows are split between training and validation, and cut into files."""

    rows: RowKind
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Of the groups, so of the rows about; 0 makes no validation rows."""
    shard_bytes: Annotated[int, WHERE] = Field(default=SHARD_BYTES, ge=1024)
    """Size on disk at which a new file is begun; the rows and their order do not depend on it."""
    seed: int = 0
    weights: dict[str, float] = {}
    """Source → how often its training rows are in the corpus: 2 is twice, 0.25 a quarter of them. Others are once."""
    workers: Annotated[int, WHERE] = 0
    """Processes; 0 takes one for each core."""


def shard(config: ShardConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Split clean rows into train/ and val/ and pass on the list of dropped rows."""
    source = inputs["rows"].dir
    cut, warnings = _choose_cut(config, source / ROWS_DIR)
    total = count_rows(source / ROWS_DIR)
    for side in (*SIDES, "dropped"):
        shutil.rmtree(out_dir / side, ignore_errors=True)
        (out_dir / side).mkdir()
    files = sorted((source / ROWS_DIR).glob("*.arrow"))
    jobs = [
        ShardJob(config=config, paths=tuple(map(str, paths)), cut=cut) for paths in _groups(files, config.shard_bytes)
    ]
    with EventWriter(out_dir / EVENTS_FILE, keep_bytes=0) as events:
        pieces = build_pieces(
            shard_files,
            jobs,
            out_dir / _PIECES,
            workers=enough_workers(config.workers, sum(path.stat().st_size for path in files)),
            on_progress=lambda done: events.progress(min(done, total - 1), total, "rows"),
        )
        figures: Counter[str] = Counter(rows=total)
        for piece in pieces:
            figures.update(json.loads((piece / _FIGURES).read_text(encoding="utf-8")))
        with taken_apart(pieces) as parts:
            for side in SIDES:
                figures[f"{side}_shards"] = gather_parts(parts, out_dir / side, side, stem="shard")
        events.progress(total, total, "rows")
    shutil.copyfile(source / DROPPED_FILE, out_dir / "dropped" / DROPPED_FILE)
    return Summary(figures=dict(figures), warnings=warnings)


SHARD = Stage("shard", shard, inputs=("rows",), format_version=2, resumable=True)


class ShardJob(Config):
    """Some files of rows, and the hash below which a group is for validation."""

    config: ShardConfig
    paths: tuple[str, ...]
    cut: int


def shard_files(job: ShardJob, out_dir: Path, advance: Advance) -> None:
    """Split the rows of some files: train/ and val/ parts."""
    config, figures = job.config, Counter({f"{side}_{unit}": 0 for side in SIDES for unit in ("rows", "bytes")})
    writers = {
        side: RowWriter(out_dir / side, config.rows, part_bytes=config.shard_bytes, stem="shard") for side in SIDES
    }
    with writers["train"], writers["val"]:
        for batch in (batch for path in job.paths for batch in read_file(Path(path))):
            in_val = _hashes(config.seed, batch["group"]) < np.uint64(job.cut)
            sides = {"train": _weighted(batch.filter(booleans(~in_val)), config), "val": batch.filter(booleans(in_val))}
            for side, rows in sides.items():
                figures[f"{side}_rows"] += rows.num_rows
                figures[f"{side}_bytes"] += int(text_bytes(config.rows, rows).sum())
                writers[side].write_batch(rows)
            advance(batch.num_rows)
    (out_dir / _FIGURES).write_text(json.dumps(figures), encoding="utf-8")


def _groups(paths: Sequence[Path], size: int) -> Iterator[list[Path]]:
    """Neighbouring files together until they have about `size` bytes: one job, and about one shard."""
    group: list[Path] = []
    for path in paths:
        group.append(path)
        if sum(p.stat().st_size for p in group) >= size:
            yield group
            group = []
    if group:
        yield group


def _weighted(batch: pa.RecordBatch, config: ShardConfig) -> pa.RecordBatch:
    """Every row as often as the weight of its source says; of a fraction, rows chosen by a hash."""
    if not config.weights or not batch.num_rows:
        return batch
    names = [name.partition("/")[0] for name in batch["source"].to_pylist()]
    if not set(names) & set(config.weights):
        return batch
    times = []
    for name, row_id, line in zip(names, batch["id"].to_pylist(), batch["line"].to_pylist(), strict=True):
        whole, fraction = divmod(config.weights.get(name, 1.0), 1.0)
        chosen = _hash(config.seed, f"weight:{row_id}:{line}") < int(fraction * 2**64)
        times.append(int(whole) + chosen)
    return batch.take(int64s(np.repeat(np.arange(batch.num_rows), times)))


def _hash(seed: int, group: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{seed}:{group}".encode())


def _hashes(seed: int, groups: pa.StringArray) -> npt.NDArray[np.uint64]:
    prefix = f"{seed}:".encode()
    digests = [xxhash.xxh3_64_digest(prefix + group) for group in groups.view(pa.binary()).to_pylist()]
    return np.frombuffer(b"".join(digests), ">u8").astype(np.uint64)


def _choose_cut(config: ShardConfig, source: Path) -> tuple[int, list[str]]:
    """The hash below which a group goes to validation, and what to warn of.

    The cut is moved just so far that neither side is empty, where two groups or more allow it.
    """
    lowest, highest = 2**64, -1
    for batch in read_batches(source, ["group"]):
        hashes = _hashes(config.seed, batch["group"])
        if len(hashes):
            lowest, highest = min(lowest, int(hashes.min())), max(highest, int(hashes.max()))
    if highest < 0:
        raise DataError(f"{source}: no rows to shard")
    cut = int(config.validation_fraction * 2**64)
    if not cut:
        return 0, []
    if lowest == highest:
        return 0, ["val is empty: all rows are of one group, and a group is not split"]
    if cut <= lowest:
        moved = f"validation_fraction = {config.validation_fraction} chose no group; one was taken for val"
        return lowest + 1, [moved]
    if cut > highest:
        return highest, ["validation_fraction chose every group; one was kept for train"]
    return cut, []
