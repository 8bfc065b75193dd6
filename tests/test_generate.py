"""Generation: equal to full recomputation, bounded by the context, and safe to show while it runs."""

import random
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

from minimind.artifact import Artifact
from minimind.errors import ArtifactError, DataError, MissingError
from minimind.infer import generate as generation
from minimind.infer.generate import Completion, complete, generate, load, settled, stream_text
from minimind.infer.sampling import Sampling
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.tokenizer import END_OF_TEXT, IM_END, SPECIAL_TOKENS, SpecialIds, Tokenizer

GREEDY = Sampling(temperature=0, max_tokens=24)
PROMPT = [END_OF_TEXT, 20, 31, 40, 31]


def tiny_model(vocab_size: int, **changes: int) -> Transformer:
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=vocab_size, hidden_size=32, num_layers=2, num_heads=4, num_kv_heads=2, head_size=8, ffn_size=64,
        **{"max_positions": 64, **changes},
    )  # fmt: skip
    model = Transformer(config).eval()
    with torch.no_grad():  # fresh weights give nearly equal scores; larger ones make the choices clear
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    return model


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return tiny_model(tokenizer.vocab_size)


class Scripted:
    """A tokenizer whose token n is the n-th of the given byte strings: any border between tokens can be tried."""

    specials = SpecialIds(end_of_text=END_OF_TEXT, im_start=1, im_end=IM_END)

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def decode_bytes(self, ids: list[int]) -> bytes:
        return b"".join(self._pieces[token - len(SPECIAL_TOKENS)] for token in ids)

    def tokens(self) -> Generator[int, None, str]:
        yield from range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + len(self._pieces))
        return "length"


def streamed(*pieces: bytes, stop: tuple[str, ...] = ()) -> tuple[list[str], Completion]:
    """What a stream shows when the model says `pieces`, a token each, and the completion it returns."""
    script = Scripted(*pieces)
    return drained(generation._pieces(script.tokens(), script, stop))  # type: ignore[arg-type]


def drained(stream: Generator[str, None, Completion]) -> tuple[list[str], Completion]:
    shown = []
    while True:
        try:
            shown.append(next(stream))
        except StopIteration as end:
            return shown, end.value


def recomputed(model: Transformer, prompt_ids: list[int], count: int) -> list[int]:
    """Greedy tokens by the definition: the whole text through the model for every token, no cache."""
    ids = list(prompt_ids)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt_ids) :]


def test_greedy_tokens_equal_full_recomputation(model: Transformer) -> None:
    """The cache is an optimisation: it must not change a token, from the first to the last of the context."""
    room = model.config.max_positions - len(PROMPT)
    tokens = list(generate(model, PROMPT, sampling=GREEDY.replace(max_tokens=room), stop_ids=()))
    assert tokens == recomputed(model, PROMPT, room)
    assert len(set(tokens)) > 3, "a constant answer would prove nothing"


def test_a_seed_decides_the_text_and_nothing_else_does(model: Transformer, tokenizer: Tokenizer) -> None:
    """An answer can be reproduced in another process, in which other draws were made."""
    sampling = Sampling(temperature=1.5, top_p=1, seed=5)
    torch.manual_seed(1)
    first = complete(model, tokenizer, PROMPT, sampling=sampling)
    torch.manual_seed(2)
    assert complete(model, tokenizer, PROMPT, sampling=sampling) == first
    assert complete(model, tokenizer, PROMPT, sampling=sampling.replace(seed=6)) != first


def test_generation_ends_before_a_stop_token(model: Transformer) -> None:
    """The end of a turn is a signal, not a part of the answer."""
    tokens = list(generate(model, PROMPT, sampling=GREEDY, stop_ids=()))
    stop = tokens[5]
    stream = generate(model, PROMPT, sampling=GREEDY, stop_ids={stop})
    shown = []
    with pytest.raises(StopIteration) as end:
        while True:
            shown.append(next(stream))
    assert shown == tokens[: tokens.index(stop)]
    assert end.value.value == "stop"


def test_the_context_bounds_prompt_and_answer_together(model: Transformer, tokenizer: Tokenizer) -> None:
    """Positions the model was never built for must not be used, whatever max_tokens says."""
    context = model.config.max_positions
    prompt_ids = [END_OF_TEXT] + [30] * (context - 4)
    sampling = GREEDY.replace(max_tokens=1000)
    assert len(list(generate(model, prompt_ids, sampling=sampling, stop_ids=()))) == 3
    for size in (context, context + 1):
        with pytest.raises(DataError, match=rf"{size} tokens and the model's context {context}"):
            generate(model, [30] * size, sampling=sampling, stop_ids=())
        with pytest.raises(DataError, match="shorten"):
            stream_text(model, tokenizer, [30] * size, sampling=sampling)


def test_max_tokens_ends_an_answer_for_its_length(model: Transformer) -> None:
    """A client tells a whole answer from a cut one by the finish reason."""
    stream = generate(model, PROMPT, sampling=GREEDY.replace(max_tokens=2), stop_ids=())
    assert len([next(stream), next(stream)]) == 2
    with pytest.raises(StopIteration) as end:
        next(stream)
    assert end.value.value == "length"


@pytest.mark.parametrize(("prompt_ids", "reason"), [([], "empty"), ([5, -1], "token -1"), ([10**6], "token 1000000")])
def test_an_unusable_prompt_is_refused_when_the_stream_is_asked_for(
    model: Transformer, prompt_ids: list[int], reason: str
) -> None:
    """A server has to know before it has sent its status line."""
    with pytest.raises(DataError, match=reason):
        generate(model, prompt_ids, sampling=GREEDY, stop_ids=())


def test_an_open_stream_leaves_gradients_on(model: Transformer) -> None:
    """Evaluation samples while a training runs in the same thread: inference mode must not leak between tokens."""
    stream = generate(model, PROMPT, sampling=GREEDY, stop_ids=())
    next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_pieces_together_are_the_completion(model: Transformer, tokenizer: Tokenizer) -> None:
    """Streamed or not, a client gets the same text; random bytes exercise broken UTF-8 as well."""
    for seed in range(5):
        sampling = Sampling(temperature=2, top_p=1, seed=seed, max_tokens=40)
        shown, completion = drained(stream_text(model, tokenizer, PROMPT, sampling=sampling))
        assert all(shown)
        assert "".join(shown) == completion.text
        assert completion == complete(model, tokenizer, PROMPT, sampling=sampling)


def test_a_character_is_held_back_until_it_is_whole() -> None:
    """Chinese falls back to three byte tokens each; a screen must never show their halves."""
    text = "é好🙂!"
    shown, completion = streamed(*(bytes([byte]) for byte in text.encode()))
    assert shown == ["é", "好", "🙂", "!"]
    assert completion == Completion(text, len(text.encode()), "length")


def test_bytes_that_are_no_utf8_become_replacement_characters() -> None:
    """A model may say anything; what it said last is flushed at the end, not lost."""
    shown, completion = streamed(b"a\xff", b"b", "好".encode()[:2])
    assert "".join(shown) == completion.text == "a\ufffdb\ufffd"


def test_text_runs_the_same_however_it_is_cut_into_tokens() -> None:
    """Stop strings and characters across any border: the answer is that of the bytes taken one by one."""
    cuts = random.Random(0)
    for stop in [("END",), ("ab", "bc"), ("abcd", "bc"), ("aab",), ("好的", "的E"), ("zz",)]:
        for text in ["xaabcdE", "aaabEND", "E EN END.", "ENEND", "问好的END", "abab", "", "好"]:
            data = text.encode()
            expected = streamed(*(bytes([byte]) for byte in data), stop=stop)[1]
            for _ in range(10):
                borders = sorted(cuts.choices(range(len(data) + 1), k=3))
                pieces = [data[a:b] for a, b in zip([0, *borders], [*borders, len(data)], strict=True)]
                shown, completion = streamed(*pieces, stop=stop)
                assert "".join(shown) == completion.text
                assert (completion.text, completion.finish_reason) == (expected.text, expected.finish_reason)
            assert not any(word in expected.text for word in stop)


@pytest.mark.parametrize(
    ("text", "stop", "shown", "reason"),
    [
        ("one END two", ("END",), "one ", "stop"),
        ("one EN", ("END",), "one EN", "length"),
        ("xaab", ("aab",), "x", "stop"),
        ("xabcd", ("abcd", "bc"), "xa", "stop"),
        ("END", ("END",), "", "stop"),
    ],
)
def test_the_text_ends_before_the_first_stop_string(text: str, stop: tuple[str, ...], shown: str, reason: str) -> None:
    """The beginning of a stop string that was never completed belongs to the answer."""
    _, completion = streamed(*(bytes([byte]) for byte in text.encode()), stop=stop)
    assert (completion.text, completion.finish_reason) == (shown, reason)


def test_no_part_of_a_stop_string_is_shown_early() -> None:
    """What a screen has shown cannot be taken back."""
    shown, completion = streamed(b"one E", b"N", b"D two", stop=("END",))
    assert shown == ["one "]
    assert completion == Completion("one ", 3, "stop")
    assert settled("one E", ("END",)) == (4, False)


def test_a_stop_string_ends_the_model_too(model: Transformer, tokenizer: Tokenizer) -> None:
    """Tokens behind a stop string would cost time for nothing."""
    whole = complete(model, tokenizer, PROMPT, sampling=GREEDY)
    word = whole.text[3:5]
    cut = complete(model, tokenizer, PROMPT, sampling=GREEDY.replace(stop=(word,)))
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.finish_reason == "stop"
    assert cut.tokens < whole.tokens


def test_load_gives_back_the_saved_model(tmp_path: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Evaluation and chat read the directory a training stage wrote."""
    (tmp_path / "mine").mkdir()
    save_model(tmp_path / "mine", model)
    tokenizer.copy_to(tmp_path / "mine")
    loaded = load(tmp_path / "mine", "cpu", precision="fp32")
    assert loaded.name == "mine"
    assert loaded.config == model.config
    assert complete(loaded.model, loaded.tokenizer, PROMPT, sampling=GREEDY) == complete(
        model, tokenizer, PROMPT, sampling=GREEDY
    )


def test_an_artifact_is_named_by_stage_and_fingerprint(tokenizer_artifact: Artifact) -> None:
    """The directory's own name is a fingerprint, which tells a reader nothing."""
    assert generation._name_of(tokenizer_artifact.dir) == f"tokenizer-{tokenizer_artifact.fingerprint[:8]}"


def test_load_in_bf16_answers(tmp_path: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """The dtype most machines infer in; weights, cache and rotary tables have to agree on it."""
    save_model(tmp_path, model)
    tokenizer.copy_to(tmp_path)
    loaded = load(tmp_path, "cpu", precision="bf16")
    tokens = list(generate(loaded.model, PROMPT, sampling=GREEDY, stop_ids=()))
    assert len(tokens) == GREEDY.max_tokens
    assert tokens[0] == recomputed(loaded.model, PROMPT, 1)[0]


def test_a_model_without_its_tokenizer_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Another tokenizer of the same kind would give fluent nonsense."""
    save_model(tmp_path, tiny_model(tokenizer.vocab_size + 8))
    with pytest.raises(MissingError):
        load(tmp_path, "cpu")
    tokenizer.copy_to(tmp_path)
    with pytest.raises(ArtifactError, match="do not belong together"):
        load(tmp_path, "cpu")


def test_reasoning_tags_are_shown_and_turn_tokens_are_not(tokenizer: Tokenizer) -> None:
    """Reasoning and tool calls are told from the answer by their tags, which are single tokens."""
    think = SPECIAL_TOKENS.index("<think>")

    def tokens() -> Generator[int, None, str]:
        yield from [think, *tokenizer.encode("hm"), think + 1, IM_END, *tokenizer.encode("好")]
        return "stop"

    assert "".join(generation._pieces(tokens(), tokenizer, ())) == "<think>hm</think>好"  # type: ignore[arg-type]
