"""llama.cpp loads what was exported: equal log-probabilities, equal ids, equal greedy answers."""

import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from conftest import conversations, documents
from export_parts import DENSE, SHAPES, lively, some_tokens
from test_foreign_tokenizer import UPSTREAM, byte_level, sentencepiece_model
from tokenizers import normalizers, pre_tokenizers

from minimind.errors import ConfigError
from minimind.export.gguf_model import GgufType, rounded, write_gguf
from minimind.export.gguf_tokenizer import CONTROL, CUTS, gguf_tokenizer
from minimind.export.llama_cpp import LlamaCpp, llama_cpp
from minimind.export.probes import TEXTS, greedy, until_stop
from minimind.infer.network import Network
from minimind.model.config import PRESETS, ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens import foreign_tokenizer
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

HARD = [*TEXTS, "\0 \x01", "\n", " ", "   ", "\n\n\n", "1234567890", "ü" * 40, "🏳️‍🌈 \u200d", "名" * 50, "\ufeff\ufffd"]


def differences(path: Path, model: Transformer, lengths: tuple[int, ...]) -> list[float]:
    """Greatest difference of log-probabilities behind prompts of these lengths, as shares of the greatest logit."""
    tokens_BT = some_tokens(max(lengths), vocab_size=model.config.vocab_size)
    with torch.no_grad():
        logits_TV = model(tokens_BT)[0]
    ours_TV, scale = logits_TV.log_softmax(-1), logits_TV.abs().max()
    found = []
    with llama_cpp(path, context=512) as theirs:
        for n in lengths:
            log_probs_V = theirs.log_probs(tokens_BT[0, :n].tolist(), vocab_size=model.config.vocab_size, drawn=300)
            found.append(float((ours_TV[n - 1] - log_probs_V).abs().max() / scale))
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_log_probabilities_and_greedy_answers_are_ours(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Orders of q and k, experts, shared ones, YaRN's factor, ε: each wrong one costs half of the logits."""
    model, path = lively(SHAPES[name]), tmp_path / "model.gguf"
    write_gguf(path, model.config, model.state_dict(), tokenizer=tokenizer, kind="f32", name="test")
    assert max(differences(path, model, (1, 2, 40, 300))) < 2e-5
    prompt = some_tokens(20)[0].tolist()
    own = until_stop(greedy(Network(model, "fp32"), prompt, count=8), tokenizer)
    with llama_cpp(path, context=64) as theirs:
        assert theirs.greedy(prompt, count=8)[: len(own)] == own


@pytest.mark.parametrize(("kind", "allowed"), [("f16", 1e-2), ("bf16", 5e-2), ("q8_0", 1e-1)])
def test_smaller_numbers_are_those_we_say_they_are(
    kind: GgufType, allowed: float, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """`rounded` is what verification compares with: it must be what the file holds, to the bit."""
    import gguf

    config = DENSE.replace(hidden_size=64, head_size=16, ffn_size=96)
    model, path = lively(config), tmp_path / "model.gguf"
    write_gguf(path, config, model.state_dict(), tokenizer=tokenizer, kind=kind, name="test")
    held = rounded(model.state_dict(), kind)
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    down = stored["blk.1.ffn_down.weight"]
    values = gguf.quants.dequantize(down.data, down.tensor_type).reshape(64, 96)
    assert np.array_equal(values, held["model.layers.1.mlp.down_proj.weight"].numpy())
    assert stored["blk.0.attn_norm.weight"].tensor_type == gguf.GGMLQuantizationType.F32
    model.load_state_dict(held)
    assert max(differences(path, model, (2, 100))) < allowed


def test_a_width_that_q8_0_cannot_cut_into_blocks_is_stored_as_f16(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Blocks have 32 numbers; a head size of 12 makes rows of 48 and 96."""
    import gguf

    config = DENSE.replace(hidden_size=48, head_size=12)
    model, path = lively(config), tmp_path / "model.gguf"
    write_gguf(path, config, model.state_dict(), tokenizer=tokenizer, kind="q8_0", name="test")
    types = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert types["blk.0.attn_q.weight"] == "F16" and types["blk.0.ffn_down.weight"] == "Q8_0"
    model.load_state_dict(rounded(model.state_dict(), "q8_0"))
    assert max(differences(path, model, (2, 50))) < 1e-1


@pytest.fixture(scope="module")
def loaded(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path, DENSE, lively(DENSE).state_dict(), tokenizer=tokenizer, kind="f32", name="test")
    with llama_cpp(path, context=256) as theirs:
        yield theirs


def test_ids_are_ours_for_texts_of_all_kinds(loaded: LlamaCpp, tokenizer: Tokenizer) -> None:
    """Another cut of the same text is another prompt. Special tokens' names in a text stay text."""
    for text in [*HARD, *documents(150, seed=9)]:
        assert loaded.encode(text) == tokenizer.encode(text), text


def test_ids_are_ours_for_random_characters(loaded: LlamaCpp, tokenizer: Tokenizer) -> None:
    """What people do not write, programs do: bytes, controls, blanks in a row, pieces that overlap."""
    rng = random.Random(3)
    letters = [*"aeinst .,:\n\t  ", *"的是天气春花", *map(chr, range(0x250)), "😀", "\u3000", "\u200b"]
    for _ in range(300):
        text = "".join(rng.choices(letters, k=rng.randint(1, 60)))
        assert loaded.encode(text) == tokenizer.encode(text), text


def test_the_one_character_that_differs_is_the_mark_of_blanks(loaded: LlamaCpp, tokenizer: Tokenizer) -> None:
    """llama.cpp cannot tell U+2581 from a blank. It is written in the card; if it can some day, so must that."""
    assert loaded.encode("a\u2581b") == tokenizer.encode("a b") != tokenizer.encode("a\u2581b")


def test_the_template_in_the_file_gives_the_ids_of_a_chat(loaded: LlamaCpp, tokenizer: Tokenizer) -> None:
    """A model that sees another header than in training answers another question."""
    for row in conversations(20):
        turns = [turn for turn in row["conversations"] if set(turn) == {"role", "content"}]
        if turns and turns[-1]["role"] == "user" or len(turns) > 1:
            turns = turns[:-1] if turns[-1]["role"] == "assistant" else turns
            assert loaded.chat_ids(turns) == render_prompt(turns, tokenizer)


def test_special_tokens_are_control_tokens_and_nothing_is_put_before_a_text(
    tokenizer: Tokenizer, loaded: LlamaCpp
) -> None:
    """A BOS or a blank of llama.cpp's own would shift every prompt."""
    entries = gguf_tokenizer(tokenizer)
    assert {index for index, kind in enumerate(entries.types) if kind == CONTROL} >= set(tokenizer.specials.named())
    assert loaded.encode("<|im_end|>", parse_special=True) == [tokenizer.specials.im_end]
    assert loaded.encode("a")[0] == tokenizer.encode("a")[0]


def foreign(file: Path, directory: Path) -> Tokenizer:
    directory.mkdir()
    return foreign_tokenizer.adopt(str(file), directory, sample=documents(20))


def tiny(vocab_size: int) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    config = DENSE.replace(vocab_size=vocab_size)
    return config, lively(config).state_dict()


def test_a_byte_level_tokenizer_of_others_gives_its_ids(tmp_path: Path) -> None:
    """Upstream's tokenizer is of this kind."""
    tokenizer = foreign(byte_level(tmp_path / "theirs" / "tokenizer.json", UPSTREAM), tmp_path / "taken")
    assert gguf_tokenizer(tokenizer).model == "gpt2"
    config, state = tiny(tokenizer.vocab_size)
    write_gguf(tmp_path / "m.gguf", config, state, tokenizer=tokenizer, kind="f32", name="test")
    with llama_cpp(tmp_path / "m.gguf", context=64) as theirs:
        for text in [*HARD, "\u2581", *documents(60, seed=4)]:
            assert theirs.encode(text) == tokenizer.encode(text), text
        chat = [{"role": "user", "content": "你好 there"}]
        assert theirs.chat_ids(chat) == render_prompt(chat, tokenizer)


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe"])
def test_the_cuts_of_qwen_and_llama_3_are_known_by_name(name: str, tmp_path: Path) -> None:
    """Their regular expressions stand in their files; llama.cpp has them built in."""
    pattern = next(pattern for pattern, known in CUTS.items() if known == name)
    file = byte_level(tmp_path / "theirs" / "tokenizer.json", UPSTREAM)
    made = tokenizers.Tokenizer.from_file(str(file))
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    made.save(str(file))
    settings = json.loads(file.read_text())
    settings["model"]["ignore_merges"] = name == "llama-bpe"
    file.write_text(json.dumps(settings))
    tokenizer = foreign(file, tmp_path / "taken")
    assert gguf_tokenizer(tokenizer).pre == name
    config, state = tiny(tokenizer.vocab_size)
    write_gguf(tmp_path / "m.gguf", config, state, tokenizer=tokenizer, kind="f32", name="test")
    with llama_cpp(tmp_path / "m.gguf", context=64) as theirs:
        for text in [*HARD, *documents(40, seed=4), "I'll say 12345 'tis", "a\r\n\r\n b  c"]:
            assert theirs.encode(text) == tokenizer.encode(text), text


def test_a_sentencepiece_model_of_others_gives_its_ids(tmp_path: Path) -> None:
    """Llama 2's is of this kind: BPE, a blank put before the text, nothing normalised."""
    file = sentencepiece_model(
        tmp_path / "tokenizer.model",
        model_type="bpe",
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=UPSTREAM,
    )
    tokenizer = foreign(file, tmp_path / "taken")
    config, state = tiny(tokenizer.vocab_size)
    write_gguf(tmp_path / "m.gguf", config, state, tokenizer=tokenizer, kind="f32", name="test")
    with llama_cpp(tmp_path / "m.gguf", context=64) as theirs:
        for text in [*documents(60, seed=4), " a  b", "天气 很好"]:
            assert theirs.encode(text) == tokenizer.encode(text), text


def test_tokenizers_that_llama_cpp_cannot_follow_are_refused(tmp_path: Path) -> None:
    """Nearly the same ids are other prompts; the message says what it cannot do, and that --to hf can be written."""
    lower = byte_level(tmp_path / "lower" / "tokenizer.json", UPSTREAM, normalizer=normalizers.Lowercase())
    with pytest.raises(ConfigError, match="Lowercase.*--to hf"):
        gguf_tokenizer(Tokenizer.load(lower.parent))
    cut = byte_level(tmp_path / "cut" / "tokenizer.json", UPSTREAM)
    changed = tokenizers.Tokenizer.from_file(str(cut))
    changed.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(), pre_tokenizers.ByteLevel(False)])
    changed.save(str(cut))
    with pytest.raises(ConfigError, match="Digits"):
        gguf_tokenizer(Tokenizer.load(cut.parent))
    normal = sentencepiece_model(tmp_path / "tokenizer.model", model_type="bpe", user_defined_symbols=UPSTREAM)
    with pytest.raises(ConfigError, match="nmt_nfkc"):
        gguf_tokenizer(Tokenizer.load(normal.parent))


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_at_its_full_size_has_equal_log_probabilities(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Heads of 96 and 80 channels, 16 layers: sizes that a small model does not have."""
    model, path = lively(PRESETS[name].replace(vocab_size=600)), tmp_path / "model.gguf"
    write_gguf(path, model.config, model.state_dict(), tokenizer=tokenizer, kind="f32", name="test")
    assert max(differences(path, model, (1, 2, 37, 300))) < 2e-5
