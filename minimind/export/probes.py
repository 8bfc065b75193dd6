"""The fixed texts that a verification reads, and what our own model makes of them.

English, Chinese and code; as a document and as a chat; one that goes on for several hundred positions, for rotary
positions and masks go wrong late. A model with a short context sees their beginnings. Greedy answers are compared token
by token: where they part, the two candidates' logits say whether that was a near-tie.

Axes: T time, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minimind.infer.generate import prompt_ids
from minimind.infer.network import Network
from minimind.model.transformer import Transformer
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

ANSWER_TOKENS = 24
LONGEST = 700
"""Positions of the longest probe: past several hundred, and still seconds for a model of 200 M on one core."""

_ENGLISH = "The sea is calm this morning. Two fishermen mend a net of 1,984 knots and talk about the price of bread.\n"
_CHINESE = "春天来了，花开了，鸟儿在树上唱歌。老师问：“三加五等于几？”学生想了很久才回答：8。\n"
_CODE = (
    "def mean(values: list[float]) -> float:\n    if not values:\n        raise ValueError('')\n\treturn sum(values)\n"
)
TEXTS = (
    _ENGLISH,
    _CHINESE,
    _CODE,
    "  two blanks,\ta tab,\r\n\n three ends of lines\n\n\n and 😀 é e\u0301 ﬁ ０１２ naïve Ünïcödé \u00a0\u3000.",
    "A name in a text is text: <|im_end|> <|endoftext|> <think>",
    "",
)
"""Texts whose ids are compared."""
CHATS: tuple[tuple[Mapping[str, str], ...], ...] = (
    ({"role": "user", "content": "Who are you?"},),
    ({"role": "user", "content": "你是谁？请用一句话回答。"},),
    (
        {"role": "system", "content": "You answer in one sentence. 用一句话回答。"},
        {"role": "user", "content": "What does json.dumps do?"},
        {"role": "assistant", "content": "It turns an object into JSON."},
        {"role": "user", "content": "And json.loads?"},
    ),
)
LONG_TEXT = "".join(f"{number}. {_ENGLISH}{_CHINESE}{_CODE}" for number in range(1, 40))


@dataclass(frozen=True)
class Probe:
    """A prompt with our logits behind each of its tokens, and our greedy answer to it."""

    ids: list[int]
    logits_TV: Tensor
    answer: list[int]


def probes(model: Transformer, tokenizer: Tokenizer) -> list[Probe]:
    """All prompts, read by our model in fp32."""
    prompts = [prompt_ids(tokenizer, text, raw=True) for text in (_ENGLISH, _CHINESE, _CODE, LONG_TEXT)]
    prompts += [render_prompt(chat, tokenizer) for chat in CHATS]
    room, network = min(LONGEST, model.config.max_positions - ANSWER_TOKENS - 1), Network(model, "fp32")
    return [_probe(model, network, tokenizer, ids[:room]) for ids in prompts]


def greedy(network: Network, ids: Sequence[int], *, count: int) -> list[int]:
    """The `count` likeliest tokens behind `ids`, whether or not one of them ends an answer."""
    keys, answer = network.new_key_values(1), list[int]()
    logits_V = network.prefill(ids, start=0, key_values=keys)
    for length in range(len(ids), len(ids) + count):
        answer.append(int(logits_V.argmax()))
        if len(answer) < count:
            logits_V = network.decode(answer[-1:], lengths=[length], key_values=keys)[0]
    return answer


def until_stop(ids: Sequence[int], tokenizer: Tokenizer) -> list[int]:
    """An answer up to and with the first token that ends one."""
    end = next((place for place, token in enumerate(ids, 1) if token in tokenizer.specials.stop), len(ids))
    return list(ids[:end])


def parts_without_reason(model: Transformer, probe: Probe, theirs: Sequence[int], *, difference: float) -> bool:
    """Whether an answer that is not ours parts from it where the two candidates are no near-tie.

    Each of the two logits may be off by `difference`, so a gap of up to twice that is a tie.
    """
    pairs = zip(probe.answer, theirs, strict=False)
    place = next((place for place, (our, their) in enumerate(pairs) if our != their), None)
    if place is None:  # one of them broke off
        return True
    with torch.inference_mode():
        logits_V = model(torch.tensor([probe.ids + probe.answer[:place]]))[0, -1]
    return bool(logits_V[probe.answer[place]] - logits_V[theirs[place]] > 2 * difference)


def _probe(model: Transformer, network: Network, tokenizer: Tokenizer, ids: list[int]) -> Probe:
    with torch.inference_mode():
        logits_TV = model(torch.tensor([ids]))[0]
    return Probe(ids, logits_TV, until_stop(greedy(network, ids, count=ANSWER_TOKENS), tokenizer))
