"""The ledger balances to the unit over the whole way, and names the first thing that does not."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import conversations, documents
from history_parts import seal_training
from typer.testing import CliRunner

from minimind.artifact import MANIFEST_FILE, Artifact, FileEntry, Store, open_artifact
from minimind.cli import app
from minimind.data.cleaning import CLEAN, CleanConfig
from minimind.data.dropped import DROPPED_FILE
from minimind.data.reading.ingest import INGEST
from minimind.data.reading.sources import IngestConfig, SourceConfig
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import read_rows, write_rows
from minimind.errors import MissingError
from minimind.lineage import by_fingerprint
from minimind.model.config import ModelConfig
from minimind.runtime import file_sha256
from minimind.stage import build
from minimind.tokens.token_ledger import TokenLedger, balance
from minimind.tokens.token_set import TokenSet
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.train.history import trainings
from minimind.train.stage_configs import PretrainConfig, SftConfig

MODEL = ModelConfig(vocab_size=600, hidden_size=32, num_layers=1, num_heads=2, max_positions=512)
WEIGHTS = {"twice": 2.5, "half": 0.5}


def write_sources(directory: Path) -> list[SourceConfig]:
    """Chats of three sources: one with bad, doubled and long rows, one repeated, one thinned out."""
    rows = conversations(150, seed=4)
    long = " ".join(f"word{n}" for n in range(300))
    extra: list[Any] = [rows[0], rows[1], {"conversations": []}, {"text": "no chat"}]
    extra.append({"conversations": [{"role": "user", "content": "Say"}, {"role": "assistant", "content": long}]})
    parts = {"plain": [*rows[:60], *extra], "twice": rows[60:90], "half": rows[90:]}
    sources = []
    for name, values in parts.items():
        path = directory / f"{name}.jsonl"
        path.write_text("".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values), encoding="utf-8")
        sources.append(SourceConfig(name=name, rows="chat", path=str(path)))
    return sources


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer_artifact: Artifact) -> Artifact:
    """A chat model of a base model, with the whole lineage in a store of its own."""
    directory = tmp_path_factory.mktemp("ledger")
    store = Store(directory / "home")
    tokenizer = store.path("tokenizer", tokenizer_artifact.fingerprint)
    shutil.copytree(tokenizer_artifact.dir, tokenizer)
    texts = [{"text": text} for text in documents(120, seed=8)]
    (directory / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    text = SourceConfig(name="text", rows="pretrain", path=str(directory / "text.jsonl"))
    made: dict[str, Artifact] = {}
    for kind, sources in (("pretrain", [text]), ("chat", write_sources(directory))):
        ingest, _ = build(INGEST, IngestConfig(rows=kind, sources=tuple(sources)), {}, store=store)
        clean, _ = build(CLEAN, CleanConfig(rows=kind), {"rows": ingest}, store=store)
        weights = WEIGHTS if kind == "chat" else {}
        config = ShardConfig(rows=kind, validation_fraction=0.2, weights=weights)
        shard, _ = build(SHARD, config, {"rows": clean}, store=store)
        config = TokensConfig(rows=kind, max_tokens=400 if kind == "chat" else None)
        inputs = {"corpus": shard, "tokenizer": open_artifact(tokenizer)}
        made[kind], _ = build(TOKENS, config, inputs, store=store)
    base = PretrainConfig(epochs=1.3, length=64, batch_tokens=512, model=MODEL)
    model = seal_training(store, "pretrain", base, {"tokens": made["pretrain"]})
    sft = SftConfig(epochs=2, length=512, batch_tokens=4096)
    return seal_training(store, "sft", sft, {"tokens": made["chat"], "model": model})


def copied(artifact: Artifact, tmp_path: Path) -> Artifact:
    """The artifact in a copy of its store, to be damaged."""
    shutil.copytree(artifact.dir.parents[1], tmp_path / "home" / "artifacts")
    return open_artifact(tmp_path / "home" / "artifacts" / artifact.kind / artifact.fingerprint)


def books_of(artifact: Artifact) -> TokenLedger:
    return balance(artifact, trainings(Store(artifact.dir.parents[2])))


def test_the_whole_way_balances_by_source(made: Artifact) -> None:
    """Against counts from the files as they were written, and from the corpus with plain Python."""
    books = books_of(made)
    assert books.imbalances == []
    (uncounted,) = books.uncounted  # the tokenizer is a copy from another store
    assert uncounted.startswith("tokenizer")
    assert books.checks > 80
    accounts = {account.source: account for account in books.accounts}
    plain = accounts["plain"]
    assert (plain.rows_in, plain.unusable) == (65, {"no_target": 1, "missing_field": 1})
    assert plain.cleaned == {"duplicates: exact_duplicate": 2}
    assert plain.rows_clean == 61 and sum(plain.too_long.values()) == 1
    assert plain.repeated == plain.left_out == 0
    for name, weight in WEIGHTS.items():
        account = accounts[name]
        val, train = account.rows.get("val", 0), account.rows["train"]
        assert account.rows_clean + account.repeated - account.left_out == val + train
        assert (account.repeated > 0, account.left_out > 0) == (weight > 1, weight < 1)
    tokens = by_fingerprint(Store(made.dir.parents[2]), made.manifest.parents["tokens"])
    assert tokens is not None
    for split in ("train", "val"):
        opened = TokenSet.open(tokens.dir / split)
        chats = [account for account in books.accounts if account.kind == "chat"]
        assert sum(account.tokens.get(split, 0) for account in chats) == opened.num_tokens
        assert opened.trained is not None
        assert sum(account.trained_tokens.get(split, 0) for account in chats) == int(opened.trained.sum())
        corpus = Store(made.dir.parents[2]).path("shard", tokens.manifest.parents["corpus"])
        rows = Counter(row["source"] for row in read_rows(corpus / split))
        assert {a.source: a.rows[split] for a in chats if a.rows.get(split)} == dict(rows)


def test_what_trainings_took_is_counted_from_their_batches(made: Artifact) -> None:
    books = {account.training: account for account in books_of(made).trainings}
    figures = made.summary().figures
    assert (books["sft"].tokens, books["sft"].trained_tokens) == (figures["tokens"], figures["trained_tokens"])
    assert books["sft"].epochs == pytest.approx(2, abs=0.5)
    assert books["pretrain"].steps > 1


def _file(store: Store, kind: str, rows: str, name: str) -> Path:
    (found,) = [a for a in store.all() if a.kind == kind and a.manifest.parts.config.get("rows", rows) == rows]
    return found.dir / name


def _log_line(store: Store) -> None:
    path = _file(store, "clean", "chat", DROPPED_FILE)
    path.write_bytes(path.read_bytes().rsplit(b"\n", 2)[0] + b"\n")


def reseal(directory: Path) -> None:
    """Have the manifest say of each file what it is now."""
    manifest = open_artifact(directory).manifest
    paths = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST_FILE)
    files = [
        FileEntry(path=path.relative_to(directory).as_posix(), size=path.stat().st_size, sha256=file_sha256(path))
        for path in paths
    ]
    manifest.replace(files=files).write(directory / MANIFEST_FILE)


def _figure_of_reading(store: Store) -> None:
    path = _file(store, "ingest", "chat", "ledger.json")
    ledger = json.loads(path.read_text())
    ledger["bytes_in"] = [[name, count + (name == "half")] for name, count in ledger["bytes_in"]]
    path.write_text(json.dumps(ledger))


def _corpus_row(store: Store) -> None:
    path = _file(store, "shard", "pretrain", "val")
    rows = list(read_rows(path))
    shutil.rmtree(path)
    write_rows(path, "pretrain", rows[:-1], stem="shard")


def _mask(store: Store) -> None:
    path = _file(store, "tokens", "chat", "train") / "mask.bin"
    mask = np.memmap(path, "u1", "r+")
    mask[int(np.flatnonzero(mask)[0])] = 0
    mask.flush()


def _figure_of_training(store: Store) -> None:
    path = _file(store, "sft", "chat", "summary.json")
    summary = json.loads(path.read_text())
    summary["figures"]["tokens"] += 1
    path.write_text(json.dumps(summary))


@pytest.mark.parametrize(
    ("damage", "first"),
    [
        (_figure_of_reading, "ingest chat, source half: bytes in"),
        (_log_line, "clean chat, source plain: rows dropped 2 ≠ lines of its drop log 1"),
        (_corpus_row, "shard pretrain: val rows of its summary"),
        (_mask, "tokens-chat train: trained tokens of tokens.json"),
        (_figure_of_training, "sft: tokens it says it took"),
    ],
)
def test_what_does_not_balance_is_named_where_it_begins(
    damage: Callable[[Store], None], first: str, made: Artifact, tmp_path: Path
) -> None:
    """By one row, one byte, one label: a ledger that rounds is none."""
    artifact = copied(made, tmp_path)
    damage(Store(tmp_path / "home"))
    for found in Store(tmp_path / "home").all():
        reseal(found.dir)
    books = books_of(artifact)
    assert books.imbalances and books.imbalances[0].startswith(first), books.imbalances


def test_what_is_not_in_the_store_is_said_not_passed_over(made: Artifact, tmp_path: Path) -> None:
    artifact = copied(made, tmp_path)
    shutil.rmtree(_file(Store(tmp_path / "home"), "ingest", "chat", ""))
    books = books_of(artifact)
    assert books.balances
    assert any("not in the store" in line for line in books.uncounted)
    shutil.rmtree(tmp_path / "home" / "artifacts" / "shard")
    with pytest.raises(MissingError, match="no corpus"):
        books_of(artifact)


def test_the_command_prints_the_books_and_exits_with_1_where_they_do_not_balance(
    made: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = copied(made, tmp_path)
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path / "home"))
    run = CliRunner()
    done = run.invoke(app, ["ledger"], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    assert "repeated by weight" in done.output and "equations hold" in done.output
    assert json.loads(run.invoke(app, ["ledger", "sft", "--json"]).output)["imbalances"] == []
    _mask(Store(tmp_path / "home"))
    done = run.invoke(app, ["ledger", str(artifact.dir)])
    assert done.exit_code == 1
    assert "tokens-chat train" in done.output
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path / "empty"))
    assert isinstance(run.invoke(app, ["ledger"]).exception, MissingError)
