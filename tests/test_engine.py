"""Many answers at once: each is what it would be alone, places come free, prompts are not read twice."""

import json
import random
from pathlib import Path

import pytest
import torch
from engine_parts import PROMPT, engine_of, tiny_model

from minimind.errors import ConfigError, DataError
from minimind.infer.answer import Answer, ContextError
from minimind.infer.engine import PART, WHOLE, Engine
from minimind.infer.generate import complete, load
from minimind.infer.key_values import BLOCK
from minimind.infer.sampling import Sampling
from minimind.model.lora import apply_lora, lora_state, merge_lora, save_adapter
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.tokenizer import Tokenizer

ENDLESS = {0: -100.0, 1: -100.0, 2: -100.0}
OPTIONS = [
    {"temperature": 0},
    {"temperature": 1.2, "top_p": 1},
    {"temperature": 0.9, "top_k": 7},
    {"temperature": 1.5, "top_p": 0.8},
    {"temperature": 1.5, "min_p": 0.1, "top_p": 1},
    {"temperature": 0, "repetition_penalty": 1.5},
    {"temperature": 1, "presence_penalty": 1.5, "frequency_penalty": 0.7},
    {"temperature": 1, "frequency_penalty": -2},
    {"temperature": 1, "logit_bias": {30: 3.0, 31: -100.0}},
    {"temperature": 1, "stop": ["e", "的"]},
    {"temperature": 1.3, "logprobs": 3},
    {"temperature": 1, "json_object": True},
    {"temperature": 0, "max_tokens": 1},
]


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    return tiny_model(tokenizer.vocab_size, max_positions=1024)


def finished(engine: Engine) -> None:
    while engine.busy:
        engine.step()


def told(answer: Answer) -> tuple[object, ...]:
    """All there is to tell of an answer that is over."""
    spans, drawn = answer.take()
    return [span.text for span in spans], drawn, answer.ids, answer.finish_reason


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_answers_that_come_and_go_are_what_each_is_alone(
    precision: str, model: Transformer, tokenizer: Tokenizer
) -> None:
    """With every option of sampling, prompts of all lengths, and neighbours that change at every step: to the token."""
    rng, engine = random.Random(1), engine_of(model, tokenizer, precision=precision, max_batch=5)
    asked: list[tuple[list[int], Sampling, Answer]] = []
    for number in range(2 * len(OPTIONS)):
        prompt = [rng.randrange(16, model.config.vocab_size) for _ in range(rng.choice([1, 5, 63, 64, 65, 150, 300]))]
        sampling = Sampling.parse({"max_tokens": 30, "seed": number, **OPTIONS[number % len(OPTIONS)]}, origin="test")
        asked.append((prompt, sampling, engine.ask(prompt, sampling)))
        for _ in range(rng.randrange(4)):
            engine.step()
    finished(engine)
    for prompt, sampling, answer in asked:
        alone = engine_of(model, tokenizer, precision=precision, max_batch=1)
        wanted = alone.ask(prompt, sampling)
        finished(alone)
        assert told(answer) == told(wanted), sampling
    assert len({tuple(answer.ids) for _, _, answer in asked}) > len(OPTIONS)


def test_a_prompt_that_begins_as_another_is_not_read_again(model: Transformer, tokenizer: Tokenizer) -> None:
    """Conversations share the system text and their own past; the answer is the same to the token all the same."""
    engine, rng = engine_of(model, tokenizer), random.Random(2)
    system = [rng.randrange(16, model.config.vocab_size) for _ in range(3 * BLOCK + 10)]
    sampling = Sampling(temperature=1, seed=3, max_tokens=20)
    for number in range(3):
        prompt = [*system, *range(20, 40 + number)]
        answer = engine.ask(prompt, sampling)
        finished(engine)
        assert answer.cached_tokens == (3 * BLOCK if number else 0)
        assert answer.ids == list(complete(engine_of(model, tokenizer), prompt, sampling=sampling).ids)
    assert engine.counts.cached_tokens == 6 * BLOCK
    exact = engine.ask(
        system[: 3 * BLOCK], sampling
    )  # the scores behind its last token are wanted, so one block is read
    finished(engine)
    assert exact.cached_tokens == 2 * BLOCK


def test_what_is_kept_of_prompts_is_bounded(model: Transformer, tokenizer: Tokenizer) -> None:
    """A server that runs for a month must not fill the memory; the blocks used last stay."""
    engine = engine_of(model, tokenizer, prefix_tokens=4 * BLOCK)
    for number in range(6):
        engine.ask([20 + number] * (2 * BLOCK + 1), Sampling(max_tokens=1))
        finished(engine)
        assert engine.held_tokens <= 4 * BLOCK
    for number, cached in ((5, 2 * BLOCK), (0, 0)):
        answer = engine.ask([20 + number] * (2 * BLOCK + 1), Sampling(max_tokens=1))
        finished(engine)
        assert answer.cached_tokens == cached


@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_cancelled_answer_frees_its_place_at_once(after: int, model: Transformer, tokenizer: Tokenizer) -> None:
    """Waiting, being read, or under way: nobody pays for a client that has gone, and the others notice nothing."""
    engine = engine_of(model, tokenizer, max_batch=2)
    sampling = Sampling(temperature=0, max_tokens=12, logit_bias=ENDLESS)
    prompts = [[30 + n] * (WHOLE + 5 if n == 1 and after == 1 else 9) for n in range(3)]
    if max(map(len, prompts)) >= model.config.max_positions:
        prompts = [prompt[:900] for prompt in prompts]
    answers = [engine.ask(prompt, sampling) for prompt in prompts]
    for _ in range(after):
        engine.step()
    engine.cancel(answers[1])
    assert answers[1].finish_reason == "cancelled"
    engine.cancel(answers[1])
    finished(engine)
    for number in (0, 2):
        assert answers[number].ids == list(
            complete(engine_of(model, tokenizer), prompts[number], sampling=sampling).ids
        )
    assert engine.running == engine.waiting == 0


def test_a_long_prompt_is_read_in_parts_while_others_are_answered(model: Transformer, tokenizer: Tokenizer) -> None:
    """A stream must not stand still because somebody else pasted a book."""
    engine = engine_of(model, tokenizer)
    endless = Sampling(max_tokens=60, logit_bias=ENDLESS, seed=1)
    first = engine.ask(PROMPT, endless)
    engine.step()
    long = engine.ask([30] * (3 * PART - 5), endless)
    drawn = []
    while not long.ids:
        before = len(first.ids)
        engine.step()
        drawn.append(len(first.ids) - before)
    assert drawn == [1, 1, 1]


def test_places_and_memory_bound_how_many_are_answered_at_once(model: Transformer, tokenizer: Tokenizer) -> None:
    """The others wait their turn, in order; nothing is refused and nothing is lost."""
    engine = engine_of(model, tokenizer, max_batch=8, cache_tokens=100)
    answers = [engine.ask([30] * 20, Sampling(max_tokens=25, logit_bias=ENDLESS, seed=n)) for n in range(6)]
    seen = []
    while engine.busy:
        engine.step()
        seen.append(engine.running)
    assert max(seen) == 2
    assert all(len(answer.ids) == 25 for answer in answers)
    with pytest.raises(ContextError, match="keeps 100 at most"):
        engine.ask([30] * 100, Sampling())


def test_an_answer_with_bad_scores_ends_alone(model: Transformer, tokenizer: Tokenizer) -> None:
    """Constrained to JSON, one answer can run into a wall; the ones beside it go on."""
    engine = engine_of(model, tokenizer)
    good = engine.ask(PROMPT, Sampling(seed=1, max_tokens=9, logit_bias=ENDLESS))
    bad = engine.ask(PROMPT, Sampling(seed=1))
    bad.sampler._allowed = lambda _: False
    finished(engine)
    assert isinstance(bad.error, DataError)
    assert bad.finish_reason == "cancelled"
    assert len(good.ids) == 9


def test_json_is_json(model: Transformer, tokenizer: Tokenizer) -> None:
    """A model that has never seen JSON writes nothing else; the answer ends with the object."""
    engine, complete_ones = engine_of(model, tokenizer), 0
    close = {tokenizer.encode("}")[0]: 3.0}
    for seed in range(12):
        sampling = Sampling(temperature=1, seed=seed, max_tokens=200, json_object=True, logit_bias=close)
        done = complete(engine, PROMPT, sampling=sampling)
        if done.finish_reason == "stop":
            assert isinstance(json.loads(done.text), dict)
            complete_ones += 1
    assert complete_ones > 6


def test_adapters_are_worn_by_those_who_asked_for_them(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """One base model and several adapters in one batch give what the merged models give."""
    base, names = tiny_model(tokenizer.vocab_size), ("first", "second")
    save_model(tmp_path, base)
    tokenizer.copy_to(tmp_path)
    merged = {}
    for number, name in enumerate(names):
        model = tiny_model(tokenizer.vocab_size)
        targets = ["q_proj", "o_proj", "down_proj"]
        apply_lora(model, rank=4, alpha=8, targets=targets, seed=number)
        generator = torch.Generator().manual_seed(number)
        for matrix_name, matrix in lora_state(model).items():
            if matrix_name.endswith("lora_B"):
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.5)
        save_adapter(tmp_path / name, model, targets=targets, base=None)
        merge_lora(model)
        merged[name] = engine_of(model, tokenizer)
    adapters = {name: tmp_path / name for name in names}
    engine = load(tmp_path, "cpu", precision="fp32", max_batch=6, adapters=adapters)
    sampling = Sampling(temperature=0, max_tokens=12, logit_bias=ENDLESS)
    wearing = [None, "first", "second", "first", None, "second"]
    prompts = [[*PROMPT, *[40 + n] * 70] for n in range(len(wearing))]
    answers = [engine.ask(prompt, sampling, adapter=name) for prompt, name in zip(prompts, wearing, strict=True)]
    finished(engine)
    plain = engine_of(base, tokenizer)
    for name, prompt, answer in zip(wearing, prompts, answers, strict=True):
        wanted = complete(merged[name] if name else plain, prompt, sampling=sampling)
        assert answer.ids == list(wanted.ids), name
    with pytest.raises(ConfigError, match=r"no adapter `third`.*first, second"):
        engine.ask(PROMPT, sampling, adapter="third")
    again = engine.ask(prompts[1], sampling, adapter="second")  # read with another adapter: not the same keys
    finished(engine)
    assert again.cached_tokens == 0


def test_an_idle_engine_gives_long_rows_back(model: Transformer, tokenizer: Tokenizer) -> None:
    """One long conversation at noon must not hold its memory all night."""
    engine = engine_of(model, tokenizer)
    engine.ask([30] * 700, Sampling(max_tokens=3))
    finished(engine)
    engine.step()
    assert engine._rows.length == engine._reading_row.length == 512
