"""A model's words on fixed prompts, kept verbatim: the figures say how good, these show what it is like.

Decoding is greedy, so that the answers are a function of the weights. Not here: a judgement of
whether an answer is true.
"""

from collections.abc import Sequence

from minimind.evaluate.results import Answer
from minimind.infer.engine import Engine
from minimind.infer.generate import complete_all, prompt_ids
from minimind.infer.sampling import Sampling
from minimind.tokens.repetition import repetition_rate


def answer_prompts(engine: Engine, prompts: Sequence[str], *, max_tokens: int, chat: bool) -> list[Answer]:
    """The greedy answer to each prompt; without `chat` the plain continuation of the prompt as a document."""
    ids = [prompt_ids(engine.tokenizer, prompt, raw=not chat) for prompt in prompts]
    greedy = Sampling(temperature=0, max_tokens=max_tokens)
    done = dict(complete_all(engine, ids, samplings=[greedy] * len(ids)))
    return [
        Answer(
            prompt=prompt,
            text=engine.tokenizer.decode_bytes(done[number].ids).decode("utf-8", "replace"),
            tokens=done[number].tokens,
            ended_by_stop=done[number].finish_reason == "stop",
            repetition=repetition_rate(done[number].ids),
        )
        for number, prompt in enumerate(prompts)
    ]
