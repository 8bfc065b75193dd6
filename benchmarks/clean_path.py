"""The whole default path: JSONL → parse → rules → exact and near duplicates → zstd Arrow shards.

    python -m benchmarks.clean_path [--input rows.jsonl.gz]

`minimind` is ingest, clean and shard as in a pipeline, every artifact sealed (hashed and flushed), in one process.
`datatrove` does with its own blocks what they have for the same purpose: JsonlReader, FTFYFormatter,
PIIFormatter, LanguageFilter (fastText) or not, GopherRepetitionFilter, C4QualityFilter, exact deduplication of
documents, MinHash deduplication in its four stages (signature, buckets, cluster, filter), JsonlWriter with zstd.
It has no verification of near duplicates, no HTML unwrapping, no gibberish or contamination rule as set up here,
so it does less. Its English-only filters judge Chinese wrongly; what they keep is not compared, only the time.
"""

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.harness import main, sample_corpus


def minimind(path: Path) -> dict[str, Any]:
    """ingest → clean → shard into a store in a scratch directory, on one worker."""
    from minimind.artifact import Store
    from minimind.data.cleaning import CLEAN, CleanConfig
    from minimind.data.reading.ingest import INGEST
    from minimind.data.reading.sources import IngestConfig, SourceConfig
    from minimind.data.sharding import SHARD, ShardConfig
    from minimind.stage import build

    source = SourceConfig(name="rows", rows="pretrain", path=str(path))
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch))
        read, _ = build(INGEST, IngestConfig(rows="pretrain", sources=(source,), workers=1), {}, store=store)
        cleaned, _ = build(CLEAN, CleanConfig(rows="pretrain", workers=1), {"rows": read}, store=store)
        build(SHARD, ShardConfig(rows="pretrain", workers=1), {"rows": cleaned}, store=store)
        figures = cleaned.summary().figures
        seconds = {
            name.removeprefix("cpu_seconds_"): value for name, value in figures.items() if name.startswith("cpu_sec")
        }
        shares = {f"ms_per_mb_{name}": 1e9 * value / figures["bytes_in"] for name, value in seconds.items()}
        return {
            "megabytes": figures["bytes_in"] / 1e6,
            "rows": figures["rows_in"],
            "kept": figures["rows_kept"],
            **shares,
        }


def datatrove(path: Path) -> dict[str, Any]:
    """The same purpose by datatrove's blocks, one task, one worker."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import C4QualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig

    logging.disable(logging.INFO)
    # sha1, because datatrove's xxhash passes strings where the package has come to want bytes
    config = MinhashConfig(
        n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(hash_fc="sha1", precision=64)
    )
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        (base / "in").mkdir()
        shutil.copy(path, base / "in" / path.name)

        def run(*steps: Any, tasks: int = 1) -> None:
            LocalPipelineExecutor(
                list(steps), tasks=tasks, workers=1, skip_completed=False, logging_dir=str(base / "logs")
            ).run()

        run(
            JsonlReader(str(base / "in")),
            FTFYFormatter(),
            PIIFormatter(),
            GopherRepetitionFilter(),
            C4QualityFilter(filter_no_terminal_punct=False),
            JsonlWriter(str(base / "filtered"), output_filename="${rank}.jsonl.gz"),
        )
        run(JsonlReader(str(base / "filtered")), MinhashDedupSignature(str(base / "sig"), config=config))
        run(MinhashDedupBuckets(str(base / "sig"), str(base / "buckets"), config=config), tasks=config.num_buckets)
        run(MinhashDedupCluster(str(base / "buckets"), str(base / "remove"), config=config))
        run(
            JsonlReader(str(base / "filtered")),
            MinhashDedupFilter(str(base / "remove")),
            JsonlWriter(str(base / "out"), output_filename="${rank}.jsonl.zst", compression="zstd"),
        )
        lines = pa.input_stream(str(path), compression="detect").read().splitlines()
        texts = (json.loads(line)["text"] for line in lines)
        return {"megabytes": sum(len(text.encode()) for text in texts) / 1e6}


VARIANTS = {"minimind": minimind, "datatrove": datatrove}

if __name__ == "__main__":
    main(
        "benchmarks.clean_path",
        "JSONL → rules → exact → near → zstd shards, MB of text per CPU second",
        VARIANTS,
        baseline="datatrove",
        default_input=lambda: sample_corpus(Path(tempfile.gettempdir()) / "minimind-benchmarks"),
    )
