"""Somebody else's tokenizer: its ids, our files; special tokens by name; what it loses is counted."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from conftest import conversations, documents
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from minimind.artifact import Artifact, Store
from minimind.errors import ConfigError, MissingError
from minimind.infer.generate import prompt_ids
from minimind.recipe import load_recipe
from minimind.stage import build
from minimind.tokens.chat import render, render_prompt
from minimind.tokens.tokenizer import Tokenizer
from minimind.tokens.tokenizer_training import TOKENIZER, TokenizerConfig
from minimind.tokens.vocabulary import SpecialIds, find_specials

UPSTREAM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
HARD = [
    "",
    " a  b\n\n\tc ",
    "今天天气很好",
    "😀 é e\u0301 \u2581 \0",
    "".join(UPSTREAM),
    "<think>1984</think>",
    "\u0130\ufb01",
]


def byte_level(path: Path, specials: list[str], *, normalizer: Any = None, size: int = 500) -> Path:
    """A tokenizer.json as upstream trains it: byte-level BPE with the special tokens first."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if normalizer:
        made.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(documents(100), trainer)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(str(path))
    return path


def sentencepiece_model(path: Path, **settings: Any) -> Path:
    """A tokenizer.model as others train it: sentencepiece with its own defaults, or other settings."""
    made = io.BytesIO()
    options = {"vocab_size": 440, "byte_fallback": True, "character_coverage": 0.98, "minloglevel": 2, **settings}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(documents(200)), model_writer=made, **options)
    path.write_bytes(made.getvalue())
    return path


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_level(tmp_path_factory.mktemp("upstream") / "tokenizer.json", UPSTREAM)


@pytest.fixture(scope="module")
def take(corpus: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path | str, int], Artifact]:
    """The stage with a file in the place of training."""
    store = Store(tmp_path_factory.mktemp("foreign"))
    return lambda file, size: build(
        TOKENIZER, TokenizerConfig(file=str(file), vocab_size=size), {"corpus": corpus}, store=store
    )[0]


@pytest.fixture(scope="module")
def taken(upstream: Path, take: Callable[[Path | str, int], Artifact]) -> Artifact:
    return take(upstream.parent, 500)


def plain(path: Path) -> tokenizers.Tokenizer:
    """The file as its own library reads it, special tokens in text switched off."""
    made = tokenizers.Tokenizer.from_file(str(path))
    made.encode_special_tokens = True
    return made


def test_its_ids_are_those_of_its_own_library(upstream: Path, taken: Artifact) -> None:
    """A model that was trained elsewhere with these ids must see them again."""
    tokenizer, own = Tokenizer.load(taken.dir), plain(upstream)
    for text in [*documents(100, seed=3), *HARD]:
        assert tokenizer.encode(text) == own.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
        assert tokenizer.decode_bytes(tokenizer.encode(text)) == text.encode()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=st.lists(st.one_of(st.text(max_size=12), st.sampled_from(UPSTREAM)), max_size=5).map("".join))
def test_any_text_comes_back_and_none_becomes_a_special_token(taken: Artifact, text: str) -> None:
    """Byte-level BPE loses nothing; and a user who types a token's name types text."""
    tokenizer = Tokenizer.load(taken.dir)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not tokenizer.specials.stop & set(ids)


def test_transformers_reads_the_artifact_with_equal_ids(taken: Artifact) -> None:
    """The export has no tokenizer.model, and needs nothing of ours; a row of tools and thoughts, too."""
    from transformers import AutoTokenizer

    stock, tokenizer = AutoTokenizer.from_pretrained(str(taken.dir)), Tokenizer.load(taken.dir)
    assert sorted(path.name for path in taken.dir.glob("tokenizer*")) == ["tokenizer.json", "tokenizer_config.json"]
    assert (stock.eos_token, stock.pad_token, len(stock)) == ("<|im_end|>", "<|endoftext|>", 500)
    for text in [*documents(20, seed=4), *HARD]:
        assert stock(text, split_special_tokens=True).input_ids == tokenizer.encode(text)
    for turns in (row["conversations"] for row in conversations(30)):
        assert stock.apply_chat_template(turns, return_dict=False) == render(turns, tokenizer).ids
        prompt = stock.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert prompt == render_prompt(turns, tokenizer)


def test_tags_it_lacks_are_text_and_those_it_has_are_ids(
    taken: Artifact, take: Callable[[Path | str, int], Artifact], tmp_path: Path
) -> None:
    """Upstream's first vocabulary has no token for thoughts; its later ones add them as tokens that are not special."""
    path = byte_level(tmp_path / "tokenizer.json", ["</s>", "<|im_end|>", "<|im_start|>"])
    with_tags = tokenizers.Tokenizer.from_file(str(path))
    with_tags.add_tokens(["<think>", "</think>"])
    with_tags.save(str(path))
    without, later = Tokenizer.load(taken.dir), Tokenizer.load(take(path, 502).dir)
    assert without.specials == SpecialIds(end_of_text=0, im_start=1, im_end=2)
    assert later.specials == SpecialIds(end_of_text=0, im_start=2, im_end=1, think=500, think_end=501)
    turns = [
        {"role": "user", "content": "<think>"},
        {"role": "assistant", "content": "Yes.", "reasoning_content": "Hm."},
    ]
    for tokenizer, thoughts in ((without, 0), (later, 1)):
        rendered = render(turns, tokenizer)
        assert sum(index in (500, 501) for index in rendered.ids) == 2 * thoughts
        learnt = [index for index, trained in zip(rendered.ids, rendered.trained, strict=True) if trained]
        assert tokenizer.decode(learnt) == "<think>\nHm.\n</think>\n\nYes.<|im_end|>"
        assert "<think>" in tokenizer.decode(rendered.ids[: rendered.trained.index(True)])
        assert prompt_ids(tokenizer, "x", raw=True)[0] == 0


def test_a_tokenizer_that_loses_text_is_taken_with_a_count(
    take: Callable[[Path | str, int], Artifact], tmp_path: Path
) -> None:
    """Lower case is a choice; that half the capitals of a corpus are gone must be said."""
    path = byte_level(tmp_path / "tokenizer.json", UPSTREAM, normalizer=normalizers.Lowercase())
    summary = take(path, 500).summary()
    failures, total = summary.figures["round_trip_failures"], summary.figures["documents"]
    assert total == 300
    assert 100 < failures <= 300
    assert any(f"{failures} of 300 documents" in warning for warning in summary.warnings)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"model_type": "bpe"}, id="bpe with sentencepiece's defaults"),
        pytest.param({"model_type": "unigram"}, id="unigram"),
        pytest.param(
            {"model_type": "bpe", "normalization_rule_name": "identity", "remove_extra_whitespaces": False},
            id="as Llama",
        ),
    ],
)
def test_a_sentencepiece_model_is_taken_as_it_is(
    take: Callable[[Path | str, int], Artifact], tmp_path: Path, options: dict[str, Any]
) -> None:
    """Its library gives the ids; the twin made for transformers is proven to give the same."""
    path = sentencepiece_model(tmp_path / "their.model", user_defined_symbols=UPSTREAM[1:], **options)
    artifact = take(path, 440)
    own = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = Tokenizer.load(artifact.dir)
    assert tokenizer.specials.end_of_text == own.piece_to_id("</s>")
    assert {path.name for path in artifact.dir.glob("tokenizer*")} >= {"tokenizer.model", "tokenizer.json"}
    for text in documents(40, seed=5):
        assert tokenizer.encode(text) == own.encode(text)
    assert not tokenizer.specials.stop & set(tokenizer.encode("<|im_end|>"))
    if options.get("normalization_rule_name") == "identity":
        assert artifact.summary().figures["round_trip_failures"] == 0
    else:
        assert artifact.summary().warnings


def test_what_is_missing_is_named(upstream: Path, tmp_path: Path) -> None:
    """A tokenizer for plain text cannot mark turns."""
    with pytest.raises(ConfigError, match=r"no token <\|im_start\|> and no <\|im_end\|>"):
        find_specials({"</s>": 2, "a": 3}, where="their.model")
    with pytest.raises(ConfigError, match=r"no token <\|endoftext\|>, which.*</s>"):
        find_specials({"<|im_start|>": 2, "<|im_end|>": 3}, where="their.model")
    for file, words in (("absent.json", "no such file"), ("", "neither tokenizer.json nor tokenizer.model")):
        with pytest.raises(MissingError, match=words):
            load_recipe("quickstart", overrides=[f"tokenizer.file={tmp_path / file}"])
    (tmp_path / "words.txt").write_text("a b")
    with pytest.raises(ConfigError, match=r"give a tokenizer\.model"):
        load_recipe("quickstart", overrides=[f"tokenizer.file={tmp_path / 'words.txt'}"])
    (tmp_path / "broken.json").write_text('{"model": 3}')
    with pytest.raises(ConfigError, match=r"not a tokenizer\.json"):
        load_recipe("quickstart", overrides=[f"tokenizer.file={tmp_path / 'broken.json'}"])
    settings = json.loads(upstream.read_text())
    settings["decoder"] = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    (tmp_path / "words.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="decoder of type WordPiece"):
        load_recipe("quickstart", overrides=[f"tokenizer.file={tmp_path / 'words.json'}"])


def test_the_recipe_takes_its_size(upstream: Path, tmp_path: Path) -> None:
    """The model must have a row for every id, so nobody should have to count them."""
    recipe = load_recipe("quickstart", overrides=[f"tokenizer.file={upstream}"])
    assert recipe.tokenizer.vocab_size == recipe.model.vocab_size == 500
    assert recipe.pretrain_config(500).model.vocab_size == 500
    for setting in ("tokenizer.vocab_size=600", "model.vocab_size=600"):
        with pytest.raises(ConfigError, match=r"vocab_size.* 600"):
            load_recipe("quickstart", overrides=[f"tokenizer.file={upstream}", setting])
    beside = tmp_path / "mine.toml"
    beside.write_text('[tokenizer]\nfile = "its"\n[model]\npreset = "minimind-nano"\n[pretrain]\nepochs = 1\n')
    byte_level(tmp_path / "its" / "tokenizer.json", UPSTREAM, size=450)
    assert load_recipe(str(beside)).tokenizer.vocab_size == 450


def test_its_bytes_count_and_its_place_does_not(upstream: Path, tmp_path: Path) -> None:
    """A file that was moved reruns nothing; one that was changed does."""
    moved = tmp_path / "elsewhere" / "tokenizer.json"
    moved.parent.mkdir()
    moved.write_bytes(upstream.read_bytes())
    parts = [
        TOKENIZER.parts(TokenizerConfig(file=str(path), vocab_size=500), {"corpus": "0"}) for path in (upstream, moved)
    ]
    assert parts[0].fingerprint() == parts[1].fingerprint()
    moved.write_text(moved.read_text() + "\n")
    changed = TOKENIZER.parts(TokenizerConfig(file=str(moved), vocab_size=500), {"corpus": "0"})
    assert changed.fingerprint() != parts[0].fingerprint()
    assert parts[0].fingerprint() != TOKENIZER.parts(TokenizerConfig(vocab_size=500), {"corpus": "0"}).fingerprint()
