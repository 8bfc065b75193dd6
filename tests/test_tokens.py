"""Token sets: what is in the files, what was left out, and what a damaged file says."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SealCorpus, conversations, preferences
from pydantic import ValidationError

from minimind.artifact import Artifact, Store
from minimind.data.documents import RowKind
from minimind.data.shards import read_rows
from minimind.errors import ArtifactError, ConfigError, DataError, MissingError
from minimind.stage import build
from minimind.tokens.chat import render
from minimind.tokens.token_set import TOKENS, TokensConfig, TokenSet, token_dtype
from minimind.tokens.tokenizer import Tokenizer
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
    with pytest.raises(ValidationError, match="max_tokens is for chat and preference"):
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
