"""From a text to all who saw it, and from a step to its rows: against a search through every batch."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SealCorpus, conversations
from history_parts import seal_training
from typer.testing import CliRunner

from minimind.artifact import Artifact, Store
from minimind.cli import app
from minimind.data.cleaning import CLEAN, CleanConfig
from minimind.data.documents import RowKind
from minimind.data.reading.ingest import INGEST
from minimind.data.reading.sources import IngestConfig, SourceConfig
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import read_rows
from minimind.errors import ConfigError, MissingError
from minimind.lineage import find_artifact, lineage_of, parent
from minimind.model.config import ModelConfig
from minimind.stage import build
from minimind.tokens.layout import IGNORE
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.tokens.trace import TextTrace, trace_text
from minimind.tokens.trace_corpus import CorpusSplit
from minimind.tokens.trace_step import trace_step
from minimind.train.history import training_of, trainings
from minimind.train.stage_configs import DpoConfig, PretrainConfig, SftConfig
from tasks.registry import Registration

MODEL = ModelConfig(vocab_size=600, hidden_size=32, num_layers=1, num_heads=2, max_positions=512)

BESIDE: dict[RowKind, float] = {"pretrain": 0.5, "chat": 0.5}


@pytest.fixture(scope="module")
def trained(store: Store, token_artifacts: dict[RowKind, Artifact]) -> dict[str, Artifact]:
    """A training of each kind; the base model's rows are short, so documents are cut."""
    configs = {
        "pretrain": PretrainConfig(epochs=2.5, length=64, batch_tokens=512, model=MODEL),
        "sft": SftConfig(epochs=2.5, length=512, batch_tokens=2048, seed=5),
        "dpo": DpoConfig(epochs=1.5, length=512, batch_tokens=4096, beside=BESIDE, text_length=64),
    }
    kinds: dict[str, RowKind] = {"pretrain": "pretrain", "sft": "chat", "dpo": "preference"}
    made: dict[str, Artifact] = {}
    for stage, config in configs.items():
        inputs = {"tokens": token_artifacts[kinds[stage]]}
        if stage == "dpo":
            inputs |= {"model": made["sft"], **{f"tokens_{kind}": token_artifacts[kind] for kind in BESIDE}}
        made[stage] = seal_training(store, stage, config, inputs)
    return made


def look_through(artifact: Artifact, tokenizer: Tokenizer, text: str) -> list[int]:
    """The steps with a piece of a document whose own text holds `text`, from the batches themselves."""
    training = training_of(artifact)
    batches, found = training.open(), []
    for step in range(training.steps):
        batch = batches.batch(step)
        for row in range(len(batch)):
            documents = batch.documents_BT[row]
            numbers = set(documents[documents >= 0].tolist())
            if any(text in tokenizer.decode(batch.tokens_BT[row][documents == number]) for number in numbers):
                found.append(step + 1)
                break
    return found


def steps_in(trace: TextTrace, fingerprint: str) -> list[int]:
    seen = [one for row in trace.rows for document in row.documents for one in document.trainings]
    return sorted({step for one in seen if one.fingerprint == fingerprint for step in one.steps})


@pytest.mark.parametrize(("stage", "kind"), [("sft", "chat"), ("dpo", "preference"), ("pretrain", "pretrain")])
def test_the_steps_are_those_whose_batches_hold_the_text(
    stage: str, kind: RowKind, trained: dict[str, Artifact], token_artifacts: dict[RowKind, Artifact], store: Store
) -> None:
    """Against decoding every batch. Where documents are cut, a step may have a part of the text alone."""
    tokenizer = Tokenizer.load(store.path("tokenizer", token_artifacts[kind].manifest.parents["tokenizer"]))
    corpus = store.path("shard", token_artifacts[kind].manifest.parents["corpus"])
    known = trainings(store)
    for number in (0, 7, 19):
        row = list(read_rows(corpus / "train"))[number]
        content = (
            row["text"] if kind == "pretrain" else row["conversations" if kind == "chat" else "chosen"][-1]["content"]
        )
        text = content[:18]
        trace = trace_text(text, store, known, limit=1000)
        mine = [
            seen for seen in trace.rows if (seen.fingerprint, seen.split, seen.id) == (corpus.name, "train", row["id"])
        ]
        assert (mine[0].source, mine[0].line, mine[0].row) == (row["source"], row["line"], number)
        told, held = (steps_in(trace, trained[stage].fingerprint), look_through(trained[stage], tokenizer, text))
        assert told == held if kind != "pretrain" else set(held) <= set(told)


def test_the_tokens_named_are_those_of_the_text(
    trained: dict[str, Artifact], token_artifacts: dict[RowKind, Artifact], store: Store, tokenizer: Tokenizer
) -> None:
    artifact = token_artifacts["pretrain"]
    text = "小猫在窗边睡觉"
    trace = trace_text(text, store, [], limit=5)
    documents = [document for row in trace.rows for document in row.documents if row.split == "train"]
    assert documents
    from minimind.tokens.token_set import TokenSet

    for document in documents:
        directory = store.path("tokens", document.fingerprint) / "train"
        tokens = TokenSet.open(directory)
        ids = tokens.document(document.document)
        span = tokenizer.decode(ids[document.first_token : document.last_token + 1])
        assert text in span
        assert text not in tokenizer.decode(ids[document.first_token + 1 : document.last_token + 1])
        assert text not in tokenizer.decode(ids[document.first_token : document.last_token])
        assert tokens.tokens[document.offset] == ids[document.first_token]
    assert artifact.fingerprint in {document.fingerprint for document in documents}


def test_models_made_of_a_model_that_saw_it_are_named(trained: dict[str, Artifact], store: Store) -> None:
    """The preference model never read the chats, but it is made of the one that did."""
    row = next(iter(read_rows(store.path("shard", corpus_of(trained["sft"], store)) / "train")))
    trace = trace_text(row["conversations"][-1]["content"], store, trainings(store))
    assert {trained["sft"].fingerprint, trained["dpo"].fingerprint} <= set(trace.models)
    assert trained["pretrain"].fingerprint not in trace.models


def test_each_model_says_by_which_training_it_learnt(trained: dict[str, Artifact], store: Store) -> None:
    """A preference model made of the chat model learnt by that one's steps, not by its own."""
    row = next(iter(read_rows(store.path("shard", corpus_of(trained["sft"], store)) / "train")))
    trace = trace_text(row["conversations"][-1]["content"], store, trainings(store))
    sft, dpo = trained["sft"].fingerprint, trained["dpo"].fingerprint
    assert trace.learnt_by.keys() == trace.models.keys()
    assert trace.learnt_by[sft] == [sft]
    assert sorted(trace.learnt_by[dpo]) == sorted([dpo, sft]), "it reads chats beside its pairs"


def corpus_of(model: Artifact, store: Store) -> str:
    return store.find("tokens", model.manifest.parents["tokens"]).manifest.parents["corpus"]


def test_rows_for_validation_have_no_steps(trained: dict[str, Artifact], store: Store) -> None:
    corpus = corpus_of(trained["sft"], store)
    row = next(iter(read_rows(store.path("shard", corpus) / "val")))
    trace = trace_text(row["conversations"][-1]["content"], store, trainings(store), limit=1000)
    (seen,) = [one for one in trace.rows if (one.fingerprint, one.id) == (corpus, row["id"])]
    assert seen.split == "val" and seen.documents
    assert not [one for document in seen.documents for one in document.trainings]


@pytest.mark.parametrize("stage", ["pretrain", "sft", "dpo"])
def test_a_step_is_traced_to_its_rows(stage: str, trained: dict[str, Artifact], store: Store) -> None:
    """Every position and label of the batch is accounted for, and every line is the one in the corpus."""
    training = training_of(trained[stage])
    batches = training.open()
    corpora = [parent(tokens, "corpus") for tokens in training.token_sets]
    rows = [row for corpus in corpora if corpus for row in read_rows(corpus.dir / "train")]
    for step in (1, training.steps):
        trace, batch = trace_step(training, step), batches.batch(step - 1)
        assert sum(piece.tokens for piece in trace.pieces) == int((batch.documents_BT >= 0).sum())
        assert sum(piece.trained for piece in trace.pieces) == int((batch.labels_BT != IGNORE).sum())
        by_id = {row["id"]: row for row in rows}
        for piece in trace.pieces:
            assert (piece.source, piece.line) == (by_id[piece.id]["source"], by_id[piece.id]["line"])
    with pytest.raises(ConfigError, match=f"has steps 1 to {training.steps}"):
        trace_step(training, training.steps + 1)


def test_rows_by_number_and_texts_over_several_batches(tmp_path: Path, seal_corpus: SealCorpus) -> None:
    """Also where rows are in several files and record batches, and a text crosses from one row into the next."""
    from minimind.data.shards import write_rows

    rows = [
        {"id": f"{n:016x}", "source": "s", "line": n, "group": "g", "text": f"row {n} of many é"} for n in range(9000)
    ]
    write_rows(tmp_path / "train", "pretrain", rows, part_bytes=1 << 14)
    assert len(list((tmp_path / "train").glob("*.arrow"))) > 1
    corpus = CorpusSplit(tmp_path / "train")
    assert corpus.num_rows == 9000
    assert {n: origin.line for n, origin in corpus.origins([0, 4095, 4096, 8999]).items()} == {
        0: 0,
        4095: 4095,
        4096: 4096,
        8999: 8999,
    }
    (hit,) = corpus.find("row 8998 of")
    assert (hit.origin.row, hit.field, hit.offset) == (8998, "text", 0)
    assert [hit.offset for hit in corpus.find("é")] == [len(f"row {n} of many ") for n in range(9000)]
    assert not list(corpus.find("érow"))


def test_a_text_in_any_field_of_a_message_is_found(seal_corpus: SealCorpus) -> None:
    rows = conversations(12)
    corpus = seal_corpus("chat", rows, validation_fraction=0.2)
    fields = {
        hit.field.partition(": ")[2]
        for split in ("train", "val")
        for text in (
            '"parameters": {}',
            '"arguments": {"a": 1}',
            "It is 2.",
            rows[0]["conversations"][2]["reasoning_content"],
        )
        for hit in CorpusSplit(corpus.dir / split).find(text)
    }
    assert fields == {"tools", "tool_calls", "content", "reasoning_content"}


@pytest.fixture(scope="module")
def cleaned_home(tmp_path_factory: pytest.TempPathFactory, tokenizer_artifact: Artifact) -> Store:
    """A store whose rows went the whole way, with some dropped by the check, by cleaning and as too long."""
    directory = tmp_path_factory.mktemp("cleaned")
    rows: list[Any] = conversations(40)
    long = " ".join(f"word{n}" for n in range(300))
    rows.append(
        {"conversations": [{"role": "user", "content": "Say"}, {"role": "assistant", "content": f"{long} quux"}]}
    )
    rows.append({"conversations": [{"role": "user", "content": 'A "quoted"\nlost line'}]})
    rows.append(
        {
            "conversations": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "caf\u00c3\u00a9 tr\u00c3\u00a8s bon"},
            ]
        }
    )
    lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows)]
    (directory / "chat.jsonl").write_text("\n".join([*lines, lines[3]]) + "\n", encoding="utf-8")
    store = Store(directory / "home")
    shutil.copytree(tokenizer_artifact.dir, store.path("tokenizer", tokenizer_artifact.fingerprint))
    source = SourceConfig(name="chat", rows="chat", path=str(directory / "chat.jsonl"))
    ingest, _ = build(INGEST, IngestConfig(rows="chat", sources=(source,)), {}, store=store)
    clean, _ = build(CLEAN, CleanConfig(rows="chat"), {"rows": ingest}, store=store)
    shard, _ = build(SHARD, ShardConfig(rows="chat", validation_fraction=0.2), {"rows": clean}, store=store)
    inputs = {"corpus": shard, "tokenizer": tokenizer_artifact}
    tokens, _ = build(TOKENS, TokensConfig(rows="chat", max_tokens=400), inputs, store=store)
    seal_training(store, "sft", SftConfig(epochs=1, length=512, batch_tokens=2048), {"tokens": tokens})
    return store


def test_the_sources_of_a_step_are_those_of_the_lineage(cleaned_home: Store) -> None:
    """From a step to the bytes of the file its rows are from."""
    ingest = find_artifact("ingest-chat", cleaned_home)
    trace = trace_step(training_of(find_artifact("sft", cleaned_home)), 1)
    assert {piece.source for piece in trace.pieces} == {"chat"}
    assert trace.sources == ingest.manifest.parts.sources == lineage_of(ingest).root.sources
    assert list(trace.sources) == ["chat/chat.jsonl"]


@pytest.mark.parametrize(
    ("text", "what", "line", "why"),
    [
        ('A "quoted"\nlost line', "dropped", 42, "check: no_target"),
        ("word299 quux", "dropped", 41, "max_tokens: too_long"),
        ("café très", "changed", 43, "unicode"),
        ("cafÃ©", "changed", 43, "not in it any more"),
    ],
)
def test_rows_that_did_not_come_through_are_found_with_the_reason(
    cleaned_home: Store, text: str, what: str, line: int, why: str
) -> None:
    """In a log a text is JSON, or JSON in JSON, with or without escapes."""
    logged = [row for row in trace_text(text, cleaned_home, []).logged if row.what == what]
    assert [(row.line, row.source) for row in logged] == [(line, "chat")]
    assert why in logged[0].why
    assert logged[0].excerpt


def test_the_first_rows_are_followed_and_all_are_counted(store: Store, trained: dict[str, Artifact]) -> None:
    trace = trace_text("the", store, [], limit=2)
    corpora = {(row.fingerprint, row.split) for row in trace.rows}
    assert len(trace.rows) <= 2 * len(corpora) < trace.rows_found


def test_artifacts_are_found_by_name_directory_or_fingerprint(
    store: Store, token_artifacts: dict[RowKind, Artifact]
) -> None:
    artifact = token_artifacts["preference"]
    for name in ("tokens-preference", artifact.fingerprint, str(artifact.dir), str(artifact.dir / "train")):
        assert find_artifact(name, store, kinds=("tokens",)).label == "tokens-preference"
    assert find_artifact("corpus", store).kind == "shard"
    with pytest.raises(MissingError, match="did you mean `tokens-chat`"):
        find_artifact("tokens-chatt", store, kinds=("tokens",))
    with pytest.raises(ConfigError, match="an artifact of the stage tokens"):
        find_artifact(str(artifact.dir), store, kinds=("sft",))
    with pytest.raises(ConfigError, match="not by a training"):
        training_of(artifact)


def test_the_command_traces_texts_and_steps(
    store: Store, trained: dict[str, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINIMIND_HOME", str(store.root.parent))
    noted = store.root.parent / "registry" / f"dpo-{trained['dpo'].fingerprint}.json"
    noted.parent.mkdir(exist_ok=True)
    registration = Registration(tracking_uri="nowhere", run_id="none", name="minimind-dpo", version=7)
    noted.write_text(registration.model_dump_json(), encoding="utf-8")
    run = CliRunner()
    done = run.invoke(app, ["trace", "--text", "It is 2.", "--limit", "1"])
    assert done.exit_code == 0 and "given:" in done.output and "sft" in done.output
    learnt = f"dpo {trained['dpo'].fingerprint}  models:/minimind-dpo/7  made of sft {trained['sft'].fingerprint}"
    assert learnt in done.output
    told = json.loads(run.invoke(app, ["trace", "--text", "It is 2.", "--limit", "1", "--json"]).output)
    assert told["registered"] == {trained["dpo"].fingerprint: "models:/minimind-dpo/7"}
    done = run.invoke(app, ["trace", str(trained["sft"].dir), "--step", "2", "--json"])
    assert json.loads(done.output)["step"] == 2
    assert "nor any log" in run.invoke(app, ["trace", "--text", "found nowhere at all"]).output
    for arguments in (["trace"], ["trace", "--step", "1"], ["trace", "sft", "--text", "x"], ["trace", "--text", ""]):
        assert isinstance(run.invoke(app, arguments).exception, ConfigError)
