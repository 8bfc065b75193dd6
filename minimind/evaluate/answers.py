"""A model's words on fixed prompts, kept verbatim: the figures say how good, these show what it is like.

Decoding is greedy, so that the answers are a function of the weights. Not here: a judgement of
whether an answer is true.
"""

from collections.abc import Sequence

from minimind.evaluate.results import Answer
from minimind.infer.generate import generate
from minimind.infer.sampling import Sampling
from minimind.model.transformer import Transformer
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

GRAM = 4


def answer_prompts(
    model: Transformer, tokenizer: Tokenizer, prompts: Sequence[str], *, max_tokens: int, chat: bool
) -> list[Answer]:
    """The greedy answer to each prompt; without `chat` the plain continuation of the prompt as a document."""
    return [_answer(model, tokenizer, prompt, max_tokens=max_tokens, chat=chat) for prompt in prompts]


def repetition_rate(tokens: Sequence[int]) -> float:
    """The share of 4-grams that occurred before in the same answer; 0 for fewer than four tokens."""
    grams = [tuple(tokens[i : i + GRAM]) for i in range(len(tokens) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _answer(model: Transformer, tokenizer: Tokenizer, prompt: str, *, max_tokens: int, chat: bool) -> Answer:
    if chat:
        prompt_ids = render_prompt([{"role": "user", "content": prompt}], tokenizer)
    else:
        prompt_ids = [tokenizer.specials.end_of_text, *tokenizer.encode(prompt)]
    sampling = Sampling(temperature=0, max_tokens=max_tokens)
    stream = generate(model, prompt_ids, sampling=sampling, stop_ids=tokenizer.specials.stop)
    tokens: list[int] = []
    while True:
        try:
            tokens.append(next(stream))
        except StopIteration as end:
            finish_reason = end.value
            break
    return Answer(
        prompt=prompt,
        text=tokenizer.decode_bytes(tokens).decode("utf-8", "replace"),
        tokens=len(tokens),
        ended_by_stop=finish_reason == "stop",
        repetition=repetition_rate(tokens),
    )
