"""Token sets: what is in the files, what was left out, and what a damaged file says."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import GIVEN_ROWS, GivenRows, SealCorpus, conversations, documents, preferences
from pydantic import ValidationError

from minimind.artifact import Artifact, Store
from minimind.data import shards
from minimind.data.kinds import CONVERSATIONS, RowKind
from minimind.data.sharding import SHARD, ShardConfig
from minimind.data.shards import content_bytes, read_rows
from minimind.errors import ArtifactError, ConfigError, DataError, MissingError
from minimind.stage import build
from minimind.tokens import tokenizing
from minimind.tokens.chat import render, render_prompt
from minimind.tokens.packing import plan_rows
from minimind.tokens.token_set import TokenSet, token_dtype
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizing import TOKENS, TokensConfig
from minimind.tokens.vocabulary import END_OF_TEXT

KINDS: tuple[RowKind, ...] = ("pretrain", "chat", "preference")


def test_pretraining_documents_come_back_as_text(
    corpus: Artifact, tokenizer: Tokenizer, token_artifacts: dict[RowKind, Artifact]
) -> None:
    """From the file alone, by offset: every document, its row and its bytes."""
    for split in ("train", "val"):
        token_set = TokenSet.open(token_artifacts["pretrain"].dir / split)
        texts = [row["text"] for row in read_rows(corpus.dir / split)]
        assert token_set.num_documents == len(texts) > 0
        for number, text in enumerate(texts):
            ids = token_set.document(number)
            assert ids[0] == END_OF_TEXT
            assert tokenizer.decode(ids[1:]) == text
        assert token_set.rows.tolist() == list(range(len(texts)))
        assert token_set.bytes.tolist() == [len(text.encode()) for text in texts]
        assert token_set.tokens[-1] == END_OF_TEXT
        assert len(token_set.tokens) == token_set.num_tokens + 1
        assert token_set.trained is None


def test_chat_documents_are_the_rendered_rows(
    seal_corpus: SealCorpus, tokenizer: Tokenizer, token_artifacts: dict[RowKind, Artifact]
) -> None:
    """Ids and mask side by side, as the chat encoder gives them."""
    rows = seal_corpus("chat", conversations(60), validation_fraction=0.2)
    token_set = TokenSet.open(token_artifacts["chat"].dir / "train")
    assert token_set.trained is not None
    for number, row in enumerate(read_rows(rows.dir / "train")):
        rendered = render(row["conversations"], tokenizer)
        start, stop = token_set.offsets[number], token_set.offsets[number + 1]
        assert token_set.tokens[start:stop].tolist() == rendered.ids
        assert token_set.trained[start:stop].astype(bool).tolist() == rendered.trained
        assert token_set.bytes[number] == rendered.trained_bytes
    assert len(token_set.trained) == len(token_set.tokens)
    assert token_set.trained[-1] == 0


def test_conversations_for_lora_become_the_documents_that_chats_become(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, store: Store, token_artifacts: dict[RowKind, Artifact]
) -> None:
    """All answers of them are learnt, and each is in the split that it is in as a chat."""
    inputs = {
        "corpus": seal_corpus("lora", conversations(60), validation_fraction=0.2),
        "tokenizer": tokenizer_artifact,
    }
    artifact, _ = build(TOKENS, TokensConfig(rows="lora"), inputs, store=store)
    assert artifact.label == "tokens-lora"
    for split in ("train", "val"):
        lora, chat = (TokenSet.open(one.dir / split) for one in (artifact, token_artifacts["chat"]))
        assert lora.trained is not None and chat.trained is not None
        assert lora.tokens.tolist() == chat.tokens.tolist() and lora.trained.tolist() == chat.trained.tolist()


def test_pairs_are_chosen_then_rejected(tokenizer: Tokenizer, token_artifacts: dict[RowKind, Artifact]) -> None:
    """Even documents are chosen; a swap would train towards the worse answer."""
    token_set = TokenSet.open(token_artifacts["preference"].dir / "train")
    assert token_set.num_documents % 2 == 0
    for number in range(token_set.num_documents):
        ending = "No.<|im_end|>\n" if number % 2 else "Thank you.<|im_end|>\n"
        assert tokenizer.decode(token_set.document(number)).endswith(ending)
    assert token_set.rows.tolist() == [number // 2 for number in range(token_set.num_documents)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_ledger_adds_up(token_artifacts: dict[RowKind, Artifact], kind: RowKind) -> None:
    """Figures are what people and MLflow see; they must be the files'."""
    artifact = token_artifacts[kind]
    figures = artifact.summary().figures
    for split in ("train", "val"):
        token_set = TokenSet.open(artifact.dir / split)
        per_row = 2 if kind == "preference" else 1
        assert figures[f"{split}_rows"] * per_row == figures[f"{split}_documents"] == token_set.num_documents
        assert figures[f"{split}_tokens"] == token_set.num_tokens == token_set.offsets[-1]
        learnt = token_set.num_tokens if token_set.trained is None else token_set.trained.sum()
        assert figures[f"{split}_trained_tokens"] == learnt
        assert figures[f"{split}_bytes"] == token_set.bytes.sum()
        assert figures[f"{split}_dropped_rows"] == 0
    assert (artifact.dir / "dropped" / "dropped.jsonl").read_bytes() == b""


@pytest.mark.parametrize("kind", ["chat", "preference"])
def test_long_rows_are_left_out_whole_and_written_down(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, store: Store, kind: RowKind
) -> None:
    """A chat that is cut has no ending to learn; one that vanishes is never found again."""
    values = conversations(30) if kind == "chat" else preferences(30)
    long = "words " * 200
    if kind == "chat":
        values[3]["conversations"][-1]["content"] = long
    else:
        values[3]["rejected"][-1] = {"role": "assistant", "content": long}
    rows = seal_corpus(kind, values, validation_fraction=0)
    inputs = {"corpus": rows, "tokenizer": tokenizer_artifact}
    artifact, _ = build(TOKENS, TokensConfig(rows=kind, max_tokens=200), inputs, store=store)
    summary = artifact.summary()
    dropped = [json.loads(line) for line in (artifact.dir / "dropped" / "dropped.jsonl").read_text().splitlines()]
    kept = summary.figures["train_documents"] // (2 if kind == "preference" else 1)
    assert summary.figures["train_rows"] == kept + len(dropped) == 30
    assert summary.figures["train_dropped_rows"] == len(dropped) >= 1
    token_set = TokenSet.open(artifact.dir / "train")
    assert np.diff(token_set.offsets).max() <= 200
    assert 3 not in token_set.rows
    record = next(record for record in dropped if record["line"] == 4)
    assert (record["reason"], record["rule"], record["source"]) == ("too_long", "max_tokens", "given")
    assert "at most 200 are taken" in record["detail"]
    assert long in record["text"]
    assert f"{len(dropped)} of 30 rows" in summary.warnings[0]


def test_a_limit_no_row_meets_is_an_error(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """A training on nothing would fail later, and less clearly."""
    inputs = {"corpus": seal_corpus("chat", conversations(5)), "tokenizer": tokenizer_artifact}
    with pytest.raises(DataError, match=r"at most 8 tokens"):
        build(TOKENS, TokensConfig(rows="chat", max_tokens=8), inputs, store=Store(tmp_path))


def test_an_empty_validation_split_opens(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, store: Store, tokenizer: Tokenizer
) -> None:
    """validation_fraction = 0 is allowed; its token set is there and holds nothing."""
    rows = seal_corpus("pretrain", [{"text": "just one"}], validation_fraction=0)
    inputs = {"corpus": rows, "tokenizer": tokenizer_artifact}
    artifact, _ = build(TOKENS, TokensConfig(rows="pretrain"), inputs, store=store)
    token_set = TokenSet.open(artifact.dir / "val")
    assert (token_set.num_documents, token_set.num_tokens) == (0, 0)
    assert token_set.tokens.tolist() == [END_OF_TEXT]
    assert TokenSet.open(artifact.dir / "train").num_documents == 1


def test_rows_of_another_kind_are_an_error(corpus: Artifact, tokenizer_artifact: Artifact, tmp_path: Path) -> None:
    """The easiest mistake in a recipe."""
    inputs = {"corpus": corpus, "tokenizer": tokenizer_artifact}
    with pytest.raises(ConfigError, match=r'tokens\.rows = "chat".* text'):
        build(TOKENS, TokensConfig(rows="chat"), inputs, store=Store(tmp_path))


def test_pretraining_takes_no_limit() -> None:
    """It would be ignored, and a setting that is ignored misleads."""
    with pytest.raises(ValidationError, match="max_tokens and too_long are not for pretrain rows"):
        TokensConfig(rows="pretrain", max_tokens=100)


@pytest.mark.parametrize("name", ["tokens.bin", "docs.idx", "rows.idx", "bytes.idx", "mask.bin"])
def test_a_cut_or_grown_file_is_named_with_the_byte(
    token_artifacts: dict[RowKind, Artifact], tmp_path: Path, name: str
) -> None:
    """A memory map of a short file gives zeros or a bus error, long after it was opened."""
    directory = tmp_path / "train"
    shutil.copytree(token_artifacts["chat"].dir / "train", directory)
    whole = (directory / name).read_bytes()
    (directory / name).write_bytes(whole[:-1])
    with pytest.raises(ArtifactError, match=rf"{name}: ends at byte {len(whole) - 1}, before byte {len(whole)}"):
        TokenSet.open(directory)
    (directory / name).write_bytes(whole + b"x")
    with pytest.raises(ArtifactError, match=rf"{name}: goes on after byte {len(whole)}"):
        TokenSet.open(directory)
    (directory / name).unlink()
    with pytest.raises(ArtifactError, match=rf"{name}: missing"):
        TokenSet.open(directory)


def test_offsets_of_other_tokens_are_noticed(token_artifacts: dict[RowKind, Artifact], tmp_path: Path) -> None:
    """Right size, wrong content: the index of another run."""
    directory = tmp_path / "train"
    shutil.copytree(token_artifacts["chat"].dir / "train", directory)
    offsets = np.fromfile(directory / "docs.idx", "<i8")
    offsets[-1] += 1
    offsets.tofile(directory / "docs.idx")
    with pytest.raises(ArtifactError, match=rf"docs\.idx: {offsets[-1]} at byte {8 * (len(offsets) - 1)}"):
        TokenSet.open(directory)


def test_no_token_set_is_a_missing_one(tmp_path: Path) -> None:
    """And says which stage makes it."""
    with pytest.raises(MissingError, match="run the stage tokens"):
        TokenSet.open(tmp_path)


def test_ids_above_16_bits_get_32() -> None:
    """A vocabulary one larger than fits would wrap to 0, END_OF_TEXT, without a sound."""
    assert token_dtype(65_536) == "<u2"
    assert token_dtype(65_537) == "<u4"
    assert np.array([65_535], token_dtype(65_536))[0] == 65_535


def prompts(count: int) -> list[dict[str, Any]]:
    """Prompt rows: conversations without their last answer."""
    return [{"prompt": row["conversations"][:-1]} for row in conversations(count)]


def test_prompts_are_documents_with_a_place_for_an_answer(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, tokenizer: Tokenizer, store: Store
) -> None:
    """What a training by generated answers starts to write from; nothing of it is learnt."""
    rows = seal_corpus("prompt", prompts(20), validation_fraction=0.2)
    inputs = {"corpus": rows, "tokenizer": tokenizer_artifact}
    artifact, _ = build(TOKENS, TokensConfig(rows="prompt"), inputs, store=store)
    for split in ("train", "val"):
        token_set = TokenSet.open(artifact.dir / split)
        for number, row in enumerate(read_rows(rows.dir / split)):
            assert token_set.document(number).tolist() == render_prompt(row["prompt"], tokenizer)
        assert token_set.trained is not None and not token_set.trained.any()
        assert token_set.info.trained_tokens == token_set.info.bytes == 0


@pytest.fixture(scope="module")
def many_batches(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[RowKind, Artifact]]:
    """Corpora whose shards have many small record batches, so that there is something to cut into jobs."""
    given: dict[RowKind, list[dict[str, Any]]] = {
        "pretrain": [{"text": text} for text in documents(200)],
        "chat": conversations(60),
        "preference": preferences(40),
        "lora": conversations(60),
        "prompt": prompts(40),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "BATCH_ROWS", 12)
        own = Store(tmp_path_factory.mktemp("many"))
        made = {}
        for kind, values in given.items():
            rows, _ = build(GIVEN_ROWS, GivenRows(rows=kind, values=values), {}, store=own)
            made[kind] = build(SHARD, ShardConfig(rows=kind, validation_fraction=0.2), {"rows": rows}, store=own)[0]
        yield made


def contents(artifact: Artifact) -> dict[str, str]:
    """File → digest, without the events, which have times in them."""
    return {file.path: file.sha256 for file in artifact.manifest.files if file.path != "events.jsonl"}


@pytest.mark.parametrize("kind", [*KINDS, "prompt"])
def test_the_bytes_do_not_depend_on_how_the_work_is_cut_or_who_does_it(
    many_batches: dict[RowKind, Artifact],
    tokenizer_artifact: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: RowKind,
) -> None:
    """A set that changes with the machine is another artifact under the same name."""
    inputs = {"corpus": many_batches[kind], "tokenizer": tokenizer_artifact}
    limits = {} if kind == "pretrain" else {"max_tokens": 60, "too_long": "cut_left"}
    config = TokensConfig(rows=kind, row_lengths=(128,), **limits)
    one, _ = build(TOKENS, config, inputs, store=Store(tmp_path / "one"))
    monkeypatch.setattr(tokenizing, "PART_BYTES", 4000)
    assert len(tokenizing._jobs(config, many_batches[kind].dir / "train", tokenizer_artifact.dir)) > 1
    workers = 2 if kind == "chat" else 1
    other, _ = build(TOKENS, config.replace(workers=workers), inputs, store=Store(tmp_path / "other"))
    assert one.fingerprint == other.fingerprint
    assert contents(one) == contents(other)


def test_a_killed_stage_goes_on_from_its_finished_jobs(
    many_batches: dict[RowKind, Artifact], tokenizer_artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of tokenizing are not done twice because of a full disk."""
    inputs = {"corpus": many_batches["pretrain"], "tokenizer": tokenizer_artifact}
    config = TokensConfig(rows="pretrain", workers=1)
    monkeypatch.setattr(tokenizing, "PART_BYTES", 4000)
    whole, _ = build(TOKENS, config, inputs, store=Store(tmp_path / "whole"))
    real, done = tokenizing.tokenize_part, []

    def part(job: Any, out_dir: Path, advance: Any) -> None:
        if len(done) == 2:
            done.clear()
            raise KeyboardInterrupt
        done.append(out_dir)
        real(job, out_dir, advance)

    monkeypatch.setattr(tokenizing, "tokenize_part", part)
    store = Store(tmp_path / "broken")
    with pytest.raises(KeyboardInterrupt):
        build(TOKENS, config, inputs, store=store)
    monkeypatch.setattr(tokenizing, "tokenize_part", lambda *given: (done.append(given[1]), real(*given)))
    artifact, _ = build(TOKENS, config, inputs, store=store)
    jobs = sum(
        len(tokenizing._jobs(config, inputs["corpus"].dir / s, tokenizer_artifact.dir)) for s in ("train", "val")
    )
    assert len(done) == jobs - 2
    assert contents(artifact) == contents(whole)


def long_chat() -> dict[str, Any]:
    """Three questions with answers behind a system turn."""
    turns: list[dict[str, str]] = [{"role": "system", "content": "Answer well."}]
    for number in range(3):
        turns += [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": "Words. " * 9}]
    return {"conversations": turns}


@pytest.mark.parametrize("policy", ["cut_left", "split"])
def test_cut_conversations_are_counted_and_written_down(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, tokenizer: Tokenizer, tmp_path: Path, policy: str
) -> None:
    """Nothing is cut silently: every lost turn is in a file, every byte in a figure."""
    chat = long_chat()["conversations"]
    short = {"conversations": [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Yes."}]}
    hopeless = {"conversations": [short["conversations"][0], {"role": "assistant", "content": "Words. " * 90}]}
    corpus = seal_corpus("chat", [short, long_chat(), hopeless, short | {}], validation_fraction=0)
    limit = len(render([chat[0], *chat[3:]], tokenizer).ids)
    config = TokensConfig(rows="chat", max_tokens=limit, too_long=policy, row_lengths=(limit,))
    artifact, _ = build(TOKENS, config, {"corpus": corpus, "tokenizer": tokenizer_artifact}, store=Store(tmp_path))
    token_set, figures = TokenSet.open(artifact.dir / "train"), artifact.summary().figures
    (cut,) = [json.loads(line) for line in (artifact.dir / "dropped" / "cut.jsonl").read_text().splitlines()]
    (dropped,) = [json.loads(line) for line in (artifact.dir / "dropped" / "dropped.jsonl").read_text().splitlines()]
    assert (cut["rule"], cut["line"], dropped["rule"], dropped["line"]) == (policy, 2, "max_tokens", 3)
    lost = json.loads(cut["text"])
    parts = [[chat[0], *chat[3:]]] if policy == "cut_left" else [chat[:5], [chat[0], *chat[5:]]]
    assert lost == (chat[1:3] if policy == "cut_left" else [])
    made = [token_set.document(number).tolist() for number in np.flatnonzero(token_set.rows == 1)]
    assert made == [render(part, tokenizer).ids for part in parts]
    sizes = [int(token_set.bytes[number]) for number in np.flatnonzero(token_set.rows == 1)]
    assert sizes == [render(part, tokenizer).trained_bytes for part in parts]
    assert token_set.rows.tolist() == sorted(token_set.rows.tolist())
    source = token_set.info.sources["given"]
    assert (source.rows, source.kept_rows, source.dropped_rows, source.cut_rows) == (4, 3, 1, 1)
    assert source.cut_bytes == sum(len(turn["content"]) for turn in lost) == figures["train_cut_bytes"]
    assert figures["train_rows"] == len(set(token_set.rows.tolist())) + figures["train_dropped_rows"] == 4
    assert figures["train_cut_rows"] == 1
    assert any("cut.jsonl" in warning for warning in artifact.summary().warnings)


@pytest.mark.parametrize("kind", [*KINDS, "lora", "prompt"])
def test_the_ledger_of_every_source_balances_to_the_unit(
    tokenizer_artifact: Artifact, store: Store, tmp_path: Path, kind: RowKind
) -> None:
    """By source, for rows and bytes; and all sources together are the files."""
    given = {"pretrain": [{"text": t} for t in documents(60)], "preference": preferences(40), "prompt": prompts(40)}
    own = Store(tmp_path)
    values = given.get(kind, conversations(60))
    rows, _ = build(GIVEN_ROWS, GivenRows(rows=kind, values=values, sources=3), {}, store=own)
    corpus, _ = build(SHARD, ShardConfig(rows=kind, validation_fraction=0.2), {"rows": rows}, store=own)
    policy = "split" if kind in CONVERSATIONS else "cut_left"
    limits = {} if kind == "pretrain" else {"max_tokens": 60, "too_long": policy}
    inputs = {"corpus": corpus, "tokenizer": tokenizer_artifact}
    artifact, _ = build(TOKENS, TokensConfig(rows=kind, **limits), inputs, store=own)
    lost = 0
    for split in ("train", "val"):
        token_set = TokenSet.open(artifact.dir / split)
        info, of_source = token_set.info, [row["source"].partition("/")[0] for row in read_rows(corpus.dir / split)]
        sizes = [content_bytes(row) for row in read_rows(corpus.dir / split)]
        assert set(info.sources) == set(of_source) and len(info.sources) == 3
        for name, source in info.sources.items():
            assert source.rows == of_source.count(name) == source.kept_rows + source.dropped_rows
            assert source.bytes == sum(size for size, of in zip(sizes, of_source, strict=True) if of == name)
            assert source.bytes == source.kept_bytes + source.dropped_bytes + source.cut_bytes
            mine = [of_source[row] == name for row in token_set.rows]
            assert source.documents == sum(mine)
            assert source.kept_rows == len(set(token_set.rows[mine].tolist()))
            assert source.tokens == np.diff(token_set.offsets)[mine].sum()
            lost += source.dropped_rows + source.cut_rows
        for name in ("documents", "tokens", "trained_tokens"):
            assert sum(getattr(source, name) for source in info.sources.values()) == getattr(info, name)
    assert bool(lost) == (kind != "pretrain"), "the case needs rows that are too long"


def test_the_stored_plan_is_the_one_that_would_be_made(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, tmp_path: Path
) -> None:
    """Which lengths were foreseen is no reason for other batches."""
    corpus = seal_corpus("pretrain", [{"text": text} for text in documents(50)], validation_fraction=0)
    inputs = {"corpus": corpus, "tokenizer": tokenizer_artifact}
    config = TokensConfig(rows="pretrain", row_lengths=(32, 100))
    artifact, _ = build(TOKENS, config, inputs, store=Store(tmp_path))
    assert TOKENS.parts(config, {"corpus": "a", "tokenizer": "b"}) == TOKENS.parts(
        TokensConfig(rows="pretrain"), {"corpus": "a", "tokenizer": "b"}
    )
    token_set = TokenSet.open(artifact.dir / "train")
    for length in (32, 100):
        assert (artifact.dir / "train" / f"plan-{length}").is_dir()
        wanted, found = plan_rows(np.diff(token_set.offsets), row_length=length), token_set.plan(length)
        for name in ("documents", "starts", "lengths", "row_offsets"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name))
        padding = 1 - token_set.num_tokens / (wanted.num_rows * length)
        assert artifact.summary().figures[f"train_padding_{length}"] == pytest.approx(padding, abs=1e-6)


@pytest.mark.parametrize("name", ["documents", "row_offsets"])
def test_a_damaged_plan_is_refused(
    seal_corpus: SealCorpus, tokenizer_artifact: Artifact, tmp_path: Path, name: str
) -> None:
    """It would put half of one document behind half of another."""
    inputs = {"corpus": seal_corpus("pretrain", [{"text": "a b c"}] * 9), "tokenizer": tokenizer_artifact}
    config = TokensConfig(rows="pretrain", row_lengths=(32,))
    artifact, _ = build(TOKENS, config, inputs, store=Store(tmp_path))
    path = artifact.dir / "train" / "plan-32" / f"{name}.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ArtifactError, match=rf"{name}\.npy: damaged"):
        TokenSet.open(artifact.dir / "train").plan(32)
    path.unlink()
    with pytest.raises(ArtifactError, match=rf"{name}\.npy"):
        TokenSet.open(artifact.dir / "train").plan(32)


def test_what_cannot_be_split_is_an_error() -> None:
    """Half a pair teaches nothing."""
    for kind in ("preference", "prompt"):
        with pytest.raises(ValidationError, match="split"):
            TokensConfig(rows=kind, too_long="split")
