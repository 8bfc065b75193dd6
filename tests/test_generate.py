"""Generation: equal to full recomputation, bounded by the context, and safe to show while it runs."""

from collections.abc import Generator
from pathlib import Path

import pytest
import torch
from engine_parts import PROMPT, engine_of, recomputed, tiny_model

from minimind.artifact import Artifact
from minimind.errors import ArtifactError, DataError, MissingError
from minimind.infer import generate as generation
from minimind.infer.engine import Engine
from minimind.infer.generate import Completion, complete, complete_all, load, stream_text
from minimind.infer.sampling import Sampling
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.tokenizer import END_OF_TEXT, Tokenizer

GREEDY = Sampling(temperature=0, max_tokens=24, logit_bias={0: -100, 1: -100, 2: -100})
"""Without the tokens that end an answer."""


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return tiny_model(tokenizer.vocab_size)


@pytest.fixture
def engine(model: Transformer, tokenizer: Tokenizer) -> Engine:
    return engine_of(model, tokenizer)


def drained(stream: Generator[str, None, Completion]) -> tuple[list[str], Completion]:
    shown = []
    while True:
        try:
            shown.append(next(stream))
        except StopIteration as end:
            return shown, end.value


def test_greedy_tokens_equal_full_recomputation(model: Transformer, engine: Engine) -> None:
    """The cache is an optimisation: it must not change a token, from the first to the last of the context."""
    room = model.config.max_positions - len(PROMPT)
    done = complete(engine, PROMPT, sampling=GREEDY.replace(max_tokens=room))
    assert list(done.ids) == recomputed(model, PROMPT, room, banned=(0, 1, 2))
    assert len(set(done.ids)) > 3, "a constant answer would prove nothing"
    assert done.finish_reason == "length"


def test_a_seed_decides_the_text_and_nothing_else_does(engine: Engine) -> None:
    """An answer can be reproduced in another process, in which other draws were made."""
    sampling = Sampling(temperature=1.5, top_p=1, seed=5)
    torch.manual_seed(1)
    first = complete(engine, PROMPT, sampling=sampling)
    torch.manual_seed(2)
    assert complete(engine, PROMPT, sampling=sampling) == first
    assert complete(engine, PROMPT, sampling=sampling.replace(seed=6)) != first


def test_generation_ends_before_a_stop_token(model: Transformer, engine: Engine, tokenizer: Tokenizer) -> None:
    """The end of a turn is a signal, not a part of the answer."""
    free = recomputed(model, PROMPT, 200 - len(PROMPT))
    ends = [number for number, token in enumerate(free) if token in tokenizer.specials.stop]
    done = complete(engine, PROMPT, sampling=Sampling(temperature=0, max_tokens=len(free)))
    assert list(done.ids) == free[: ends[0] if ends else None]
    assert done.finish_reason == ("stop" if ends else "length")
    ending = complete(engine, PROMPT, sampling=Sampling(temperature=0, logit_bias={2: 100}))
    assert ending == Completion("", 0, "stop")


def test_the_context_bounds_prompt_and_answer_together(model: Transformer, engine: Engine) -> None:
    """Positions the model was never built for must not be used, whatever max_tokens says."""
    context = model.config.max_positions
    done = complete(engine, [END_OF_TEXT] + [30] * (context - 4), sampling=GREEDY.replace(max_tokens=1000))
    assert (done.tokens, done.finish_reason) == (3, "length")
    for size in (context, context + 1):
        with pytest.raises(DataError, match=rf"{size} tokens and the model's context {context}.*shorten"):
            stream_text(engine, [30] * size, sampling=GREEDY)


def test_max_tokens_ends_an_answer_for_its_length(engine: Engine) -> None:
    """A client tells a whole answer from a cut one by the finish reason."""
    done = complete(engine, PROMPT, sampling=GREEDY.replace(max_tokens=2))
    assert (done.tokens, done.finish_reason) == (2, "length")


@pytest.mark.parametrize(("prompt_ids", "reason"), [([], "empty"), ([5, -1], "token -1"), ([10**6], "token 1000000")])
def test_an_unusable_prompt_is_refused_when_the_stream_is_asked_for(
    engine: Engine, prompt_ids: list[int], reason: str
) -> None:
    """A server has to know before it has sent its status line."""
    with pytest.raises(DataError, match=reason):
        stream_text(engine, prompt_ids, sampling=GREEDY)
    assert not engine.busy


def test_an_open_stream_leaves_gradients_on(engine: Engine) -> None:
    """Evaluation samples while a training runs in the same thread: inference mode must not leak between tokens."""
    stream = stream_text(engine, PROMPT, sampling=GREEDY)
    next(stream)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_pieces_together_are_the_completion(engine: Engine) -> None:
    """Streamed or not, a client gets the same text; random bytes exercise broken UTF-8 as well."""
    for seed in range(5):
        sampling = Sampling(temperature=2, top_p=1, seed=seed, max_tokens=40)
        shown, completion = drained(stream_text(engine, PROMPT, sampling=sampling))
        assert all(shown)
        assert "".join(shown) == completion.text
        assert completion == complete(engine, PROMPT, sampling=sampling)


def test_a_stop_string_ends_the_model_too(engine: Engine) -> None:
    """Tokens behind a stop string would cost time for nothing."""
    whole = complete(engine, PROMPT, sampling=GREEDY)
    word = whole.text[3:5]
    cut = complete(engine, PROMPT, sampling=GREEDY.replace(stop=(word,)))
    assert cut.text == whole.text[: whole.text.index(word)]
    assert cut.finish_reason == "stop"
    assert cut.tokens < whole.tokens


def test_a_stream_that_is_closed_gives_its_place_back(engine: Engine) -> None:
    """Ctrl-C in a chat must not leave an answer that goes on being computed beside the next one."""
    stream = stream_text(engine, PROMPT, sampling=GREEDY)
    next(stream)
    assert engine.busy
    stream.close()
    assert not engine.busy


def test_many_answers_come_with_their_index(engine: Engine) -> None:
    """They are given as they are done, and each is what it would be alone."""
    prompts = [[*PROMPT, *range(40, 40 + n)] for n in range(9)]
    samplings = [Sampling(seed=n, max_tokens=20 - 2 * n) for n in range(9)]
    found = dict(complete_all(engine, prompts, samplings=samplings))
    for n in range(9):
        assert found[n] == complete(engine, prompts[n], sampling=samplings[n])


def test_load_gives_back_the_saved_model(tmp_path: Path, model: Transformer, tokenizer: Tokenizer) -> None:
    """Evaluation and chat read the directory a training stage wrote."""
    (tmp_path / "mine").mkdir()
    save_model(tmp_path / "mine", model)
    tokenizer.copy_to(tmp_path / "mine")
    loaded = load(tmp_path / "mine", "cpu", precision="fp32")
    assert loaded.name == "mine"
    assert loaded.config == model.config
    assert complete(loaded, PROMPT, sampling=GREEDY) == complete(engine_of(model, tokenizer), PROMPT, sampling=GREEDY)


def test_an_artifact_is_named_by_stage_and_fingerprint(tokenizer_artifact: Artifact) -> None:
    """The directory's own name is a fingerprint, which tells a reader nothing."""
    assert generation.name_of(tokenizer_artifact.dir) == f"tokenizer-{tokenizer_artifact.fingerprint[:8]}"


def test_a_model_without_its_tokenizer_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Another tokenizer of the same kind would give fluent nonsense."""
    save_model(tmp_path, tiny_model(tokenizer.vocab_size + 8))
    with pytest.raises(MissingError):
        load(tmp_path, "cpu")
    tokenizer.copy_to(tmp_path)
    with pytest.raises(ArtifactError, match="do not belong together"):
        load(tmp_path, "cpu")
