"""Preference accuracy, DPO's implicit reward, and the loss on the assistant's words of held-out chats."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from engine_parts import tiny_model

from minimind.evaluate.baseline import fit_ngram
from minimind.evaluate.dialogue import Chats
from minimind.evaluate.intervals import Resampling, Values
from minimind.evaluate.material import Facts, Ngrams, Subject
from minimind.evaluate.preference import Pairs, reward_score
from minimind.model.transformer import Transformer
from minimind.tokens.chat import render
from minimind.tokens.tokenizer import Tokenizer


def chat(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": content} for n, content in enumerate(contents)]


CHOSEN = [
    chat("Who reads?", "She reads one page."),
    chat("a", "b", "水？", "水是生命的源头。"),
    chat("x", "quiet river"),
]
REJECTED = [chat("Who reads?", "no"), chat("a", "b", "水？", "不知道"), chat("x", "quiet river")]


@pytest.fixture(scope="module")
def subject(tokenizer: Tokenizer) -> Subject:
    return Subject(tiny_model(tokenizer.vocab_size), tokenizer, context=256, batch_tokens=64, precision="fp32")


def facts(count: int) -> list[Facts]:
    return [Facts(str(number)) for number in range(count)]


def slow(model: Transformer, ids: list[int], wanted: list[bool]) -> float:
    """Σ log p of the wanted tokens in float64, the whole conversation through the model once."""
    exact = Transformer(model.config, compute_dtype=torch.float64).double()
    exact.load_state_dict(model.state_dict())
    with torch.inference_mode():
        log_probs_TV = torch.log_softmax(exact(torch.tensor([ids]))[0].double(), -1)
    return sum(float(log_probs_TV[t - 1, ids[t]]) for t in range(1, len(ids)) if wanted[t])


def test_only_the_last_answer_of_a_pair_counts(subject: Subject):
    """The question is the same on both sides and must not add noise; the answer is read after all of it."""
    measured = Pairs("preference", "made up", facts(3), CHOSEN, REJECTED).measure(subject)
    for number, sides in enumerate(zip(CHOSEN, REJECTED, strict=True)):
        rendered = [render(side, subject.tokenizer, last_turn_only=True) for side in sides]
        sums = [slow(subject.model, one.ids, one.trained) for one in rendered]
        assert measured["margin"].values[number] == pytest.approx(sums[0] - sums[1], abs=1e-4)
        means = [total / sum(one.trained) for total, one in zip(sums, rendered, strict=True)]
        assert measured["accuracy"].values[number] == (0.5 if number == 2 else float(sums[0] > sums[1]))
        assert measured["accuracy_per_token"].values[number] == (0.5 if number == 2 else float(means[0] > means[1]))
        assert measured["margin_per_token"].values[number] == pytest.approx(means[0] - means[1], abs=1e-5)


def test_reward_is_the_margin_gained_over_the_reference():
    """A policy equal to its reference has learnt nothing: half a point for every pair, whatever its own accuracy."""
    score = partial(reward_score, name="sft", resampling=Resampling(100))
    reference = {"margin": Values.of(np.array([1.0, -3.0, 2.0])), "margin_per_token": Values.of(np.zeros(3))}
    for per_token in (True, False):
        assert score(reference, reference, per_token=per_token).accuracy == 0.5
    policy = {"margin": Values.of(np.array([2.0, -5.0, 3.0])), "margin_per_token": Values.of(np.array([1.0, 2.0, 3.0]))}
    reward = score(policy, reference, per_token=False)
    assert reward.accuracy == pytest.approx(2 / 3) and reward.margin == 0 and reward.reference == "sft"
    reward = score(policy, reference, per_token=True)
    assert (reward.accuracy, reward.margin, reward.metric) == (1.0, 2.0, "margin_per_token")


def test_answers_alone_are_scored_and_specials_are_no_bytes(subject: Subject):
    """The loss of SFT on chats never seen: <|im_end|> is learnt, so it counts as a token, but it spells no byte."""
    measured = Chats("chat", "made up", facts(3), CHOSEN).measure(subject)
    special = subject.tokenizer.specials.named()
    for number, conversation in enumerate(CHOSEN):
        rendered = render(conversation, subject.tokenizer)
        words = [flag and index not in special for index, flag in zip(rendered.ids, rendered.trained, strict=True)]
        nats, bits = measured["nats_per_token"], measured["bits_per_byte"]
        assert nats.values[number] == pytest.approx(-slow(subject.model, rendered.ids, rendered.trained), abs=1e-4)
        assert nats.weights[number] == sum(rendered.trained)
        wanted = -slow(subject.model, rendered.ids, words) / math.log(2)
        assert bits.values[number] == pytest.approx(wanted, abs=1e-4)
        said = [turn["content"] for turn in conversation if turn["role"] == "assistant"]
        assert bits.weights[number] == sum(len(content.encode("utf-8")) for content in said)


def test_an_ngram_prefers_what_it_has_read():
    """The counting baseline is measured on the same pairs and chats as the models."""
    ngram = fit_ngram([b"Who reads?\nShe reads one page."] * 4 + ["水是生命的源头。".encode()], order=6)
    pairs = Pairs("preference", "made up", facts(3), CHOSEN, REJECTED).baseline(Ngrams(fit_chat=lambda: ngram))
    assert [pairs[metric].values.tolist()[2] for metric in ("accuracy_per_token", "accuracy")] == [0.5, 0.5]
    chats = Chats("chat", "made up", facts(2), [CHOSEN[0], REJECTED[1]]).baseline(Ngrams(fit_chat=lambda: ngram))
    bits = chats["bits_per_byte"].values / chats["bits_per_byte"].weights
    assert bits[0] < 1 < bits[1]
    assert chats["bits_per_byte"].weights.tolist() == [19, 1 + len("不知道".encode())]
