"""Answers on fixed prompts, and how repetition in them is measured."""

import pytest
import torch
from engine_parts import engine_of

from minimind.evaluate.answers import answer_prompts, repetition_rate
from minimind.evaluate.intervals import Resampling
from minimind.evaluate.measuring import said_of
from minimind.evaluate.prompts.asked import Asked
from minimind.evaluate.prompts.items import PromptItem
from minimind.evaluate.prompts.outcomes import TOO_LONG, Outcome
from minimind.evaluate.results import Answer
from minimind.infer.engine import Engine
from minimind.infer.generate import complete
from minimind.infer.sampling import Sampling
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import END_OF_TEXT, Tokenizer

PROMPTS = ("Who are you?", "你是谁？")


def tiny(tokenizer: Tokenizer, **changes: object) -> Engine:
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "ffn_size": 32, "max_positions": 128, **changes}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, **shape), seed=3)
    if not model.config.tie_embeddings:
        torch.nn.init.zeros_(model.output_weight)
    return engine_of(model, tokenizer)


def test_answers_are_the_greedy_ones_word_for_word(tokenizer: Tokenizer):
    """What the report shows must be what a user gets at temperature 0, with the chat format around the prompt."""
    engine = tiny(tokenizer)
    for answer in answer_prompts(engine, PROMPTS, max_tokens=9, chat=True):
        prompt_ids = render_prompt([{"role": "user", "content": answer.prompt}], tokenizer)
        wanted = complete(engine, prompt_ids, sampling=Sampling(temperature=0, max_tokens=9))
        assert (answer.text, answer.tokens) == (wanted.text, wanted.tokens)
        assert answer.ended_by_stop == (wanted.finish_reason == "stop")


def test_a_pretrained_model_continues_the_prompt_as_a_document(tokenizer: Tokenizer):
    """It has never seen the chat format: it gets what its documents begin with."""
    engine = tiny(tokenizer)
    (answer,) = answer_prompts(engine, PROMPTS[:1], max_tokens=9, chat=False)
    prompt_ids = [END_OF_TEXT, *tokenizer.encode(PROMPTS[0])]
    assert answer.text == complete(engine, prompt_ids, sampling=Sampling(temperature=0, max_tokens=9)).text


def test_a_model_that_stops_at_once_says_nothing(tokenizer: Tokenizer):
    """An empty answer that ended by itself is told apart from one that was cut off."""
    engine = tiny(tokenizer, tie_embeddings=False)  # all logits equal: END_OF_TEXT, the first id, is taken
    for answer in answer_prompts(engine, PROMPTS, max_tokens=9, chat=True):
        assert (answer.text, answer.tokens, answer.ended_by_stop, answer.repetition) == ("", 0, True, 0.0)


def test_what_was_said_counts_fixed_and_checked_prompts(tokenizer: Tokenizer):
    """Ten fixed prompts alone cannot tell a model that loops from one that looped twice."""
    item = PromptItem("1", "sums", (), None, ())
    looped = [Outcome(item, "a a", 8, ended=False, repetition=0.5, failures=())] * 3
    answers = [Answer(prompt="?", text="", tokens=0, ended_by_stop=True, repetition=0.0)]
    said = said_of(answers, looped, Resampling())
    assert {name: (figure.value, figure.n) for name, figure in said.items()} == {
        "repetition": (0.375, 4),
        "tokens": (6, 4),
        "ended": (0.25, 4),
    }
    assert said_of([], [], Resampling()) == {}


def test_one_answer_to_all_questions_is_seen():
    """It repeats nothing within an answer and ends by itself; only beside the others it shows."""
    open_ended = Asked("open_ended", "", [PromptItem(str(n), "", (), None, ()) for n in range(6)], 8)
    texts = {"1": (), "1 ": (), "": (), "Hello": (), "\n": (TOO_LONG,), "\t": (TOO_LONG,)}
    outcomes = [
        Outcome(item, text, 1, ended=True, repetition=0.0, failures=failures)
        for item, (text, failures) in zip(open_ended.items, texts.items(), strict=True)
    ]
    measured = open_ended.values(outcomes)
    assert next(iter(measured)) == "same" and measured["same"].values.tolist() == [1, 1, 0, 0, 0, 0]
    assert "passed" not in measured and open_ended.questions() == [] and open_ended.chance() == {}


def test_repetition_is_the_share_of_grams_said_before():
    """Loops must show as such, and short or varied answers must not."""
    assert repetition_rate([]) == repetition_rate([1, 1, 1]) == repetition_rate(list(range(50))) == 0.0
    assert repetition_rate([7] * 13) == pytest.approx(9 / 10)
    assert repetition_rate([1, 2, 3, 4, 5, 1, 2, 3, 4]) == pytest.approx(1 / 6)
