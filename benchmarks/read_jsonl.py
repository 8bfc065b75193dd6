"""JSON Lines to validated rows, every bad line accounted for.

    python -m benchmarks.read_jsonl [--input rows.jsonl]

`minimind` reads a file in which one line in a hundred is bad (cut off, a field missing, a key doubled, not UTF-8,
…) or blank, and gives record batches with ids and line numbers; it asserts rows + bad + blank = lines. `ingest`
does the same and writes the rows as zstd Arrow, the bad ones to dropped.jsonl, with the ledger, in one process.
`datasets` is load_dataset("json") with a fresh cache; it gets the clean file, because it gives up at the first
bad line, and has neither ids nor line numbers; it writes plain Arrow. `pyarrow` is pyarrow.json with an explicit
schema, one thread, clean file: the limit of a parser that accounts for nothing.

CPU seconds are those of the whole variant, imports too, as in every fresh process; `work_mb_per_s` leaves the
imports out: what counts when the file is so large that they do not matter.
"""

import gzip
import json
import random
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.harness import main, sample_corpus

BAD_LINES = (
    b'{"text": "cut off',
    b'{"content": "no text"}',
    b'{"text": 7}',
    b'{"text": "\xff\xfe"}',
    b'{"text": "a", "text": "b"}',
    b'{"text": "half \\ud83d"}',
    b'{"text": "a", "n": NaN}',
    b'["text"]',
    b"",
)


def minimind(path: Path) -> dict[str, Any]:
    from minimind.data.reading.checking import Form
    from minimind.data.reading.files import Part
    from minimind.data.reading.readers import check_part

    dirty, form = _dirty(path), Form(rows="pretrain")
    part = Part(file=dirty.name, label=dirty.name, location=str(dirty), kind="jsonl", size=dirty.stat().st_size)

    def work() -> dict[str, int]:
        rows = bad = blank = 0
        for checked in check_part(part, form, lambda size: None, source="rows", document="line"):
            rows, bad, blank = rows + checked.rows.num_rows, bad + len(checked.bad), blank + len(checked.blank)
        return {"rows": rows, "bad": bad, "blank": blank}

    figures = _timed(work, dirty)
    lines = int(dirty.with_suffix(".lines").read_text())
    assert figures["rows"] + figures["bad"] + figures["blank"] == lines, (figures, lines)
    return figures


def ingest(path: Path) -> dict[str, Any]:
    from minimind.data.reading.ingest import ingest as stage
    from minimind.data.reading.sources import IngestConfig, SourceConfig

    dirty = _dirty(path)
    source = SourceConfig(name="rows", rows="pretrain", path=str(dirty))
    config = IngestConfig(rows="pretrain", sources=(source,), workers=1)

    def work() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as scratch:
            figures = stage(config, {}, Path(scratch)).figures
        return {"rows": figures["rows_kept"], "bad": figures["rows_dropped"], "blank": figures["blank_lines"]}

    return _timed(work, dirty)


def datasets(path: Path) -> dict[str, Any]:
    import datasets as library

    library.disable_progress_bars()
    clean = _plain(path)

    def work() -> dict[str, int]:
        with tempfile.TemporaryDirectory() as cache:
            loaded = library.load_dataset("json", data_files=str(clean), split="train", cache_dir=cache)
            return {"rows": loaded.num_rows}

    return _timed(work, clean)


def pyarrow(path: Path) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import json as arrow_json

    clean = _plain(path)
    schema = pa.schema([("text", pa.string())])
    parse = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    read = arrow_json.ReadOptions(use_threads=False, block_size=4 << 20)

    def work() -> dict[str, int]:
        return {"rows": arrow_json.read_json(str(clean), read_options=read, parse_options=parse).num_rows}

    return _timed(work, clean)


def _timed(work: Callable[[], dict[str, Any]], path: Path) -> dict[str, Any]:
    megabytes, began = path.stat().st_size / 1e6, time.process_time()
    figures = work()
    return {"megabytes": megabytes, "work_mb_per_s": megabytes / (time.process_time() - began), **figures}


def _plain(path: Path) -> Path:
    """The input, unpacked once."""
    if path.suffix != ".gz":
        return path
    plain = _beside(path.with_suffix(""), "plain")
    if not plain.exists():
        plain.write_bytes(gzip.decompress(path.read_bytes()))
    return plain


def _dirty(path: Path) -> Path:
    """The input with a bad or blank line after about every hundredth, made once; their number beside it."""
    dirty = _beside(path, "dirty")
    if not dirty.with_suffix(".lines").exists():
        rng, count = random.Random(0), 0
        with _plain(path).open("rb") as lines, dirty.open("wb") as file:
            for line in lines:
                bad = rng.choice(BAD_LINES) + b"\n" if rng.random() < 0.01 else b""
                file.write(line + bad)
                count += 1 + bool(bad)
        dirty.with_suffix(".lines").write_text(str(count))
    return dirty


def _beside(path: Path, word: str) -> Path:
    directory = Path(tempfile.gettempdir()) / "minimind-benchmarks"
    directory.mkdir(exist_ok=True)
    return directory / f"{path.stem}-{path.stat().st_size if path.exists() else 0}.{word}.jsonl"


def _sample() -> Path:
    """Documentation of this Python, in rows of about 1.3 KB, as documents of the web have."""
    short = sample_corpus(Path(tempfile.gettempdir()) / "minimind-benchmarks", megabytes=200)
    path = _beside(short, "rows")
    if not path.exists():
        with short.open("rb") as lines, path.open("w", encoding="utf-8") as file:
            texts = (json.loads(line)["text"] for line in lines)
            while four := list(islice(texts, 4)):
                file.write(json.dumps({"text": "\n\n".join(four)}, ensure_ascii=False) + "\n")
    return path


VARIANTS = {"minimind": minimind, "ingest": ingest, "datasets": datasets, "pyarrow": pyarrow}

if __name__ == "__main__":
    main(
        "benchmarks.read_jsonl",
        "JSONL → validated rows, MB per CPU second",
        VARIANTS,
        baseline="datasets",
        default_input=_sample,
    )
