"""What a model answers to prompts with checks, and which checks its answers fail.

Decoding is greedy, so that an outcome is a function of the weights. An answer is read as the server reads it: reasoning
and calls of tools are what stands between those tags, which are tokens, and never what is merely spelt like them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from minimind.evaluate.prompts.items import PromptItem
from minimind.evaluate.prompts.said import Said
from minimind.evaluate.prompts.tools import Tools, read_tools
from minimind.infer.engine import Engine
from minimind.infer.generate import Completion, complete_all, prompt_ids
from minimind.infer.sampling import Sampling
from minimind.infer.text import Channels, TextStream
from minimind.tokens.chat import render_prompt
from minimind.tokens.repetition import repetition_rate
from minimind.tokens.tokenizer import Tokenizer

TOO_LONG = "prompt is longer than the model's context"


@dataclass(frozen=True)
class Outcome:
    """An answer, verbatim with its tags, and what is wrong with it in plain words."""

    item: PromptItem
    text: str
    tokens: int
    ended: bool
    """Whether it stopped by itself."""
    repetition: float
    """Share of its 4-grams of tokens that it had already said."""
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failures


def run_prompts(engine: Engine, items: Sequence[PromptItem], *, max_tokens: int, chat: bool) -> list[Outcome]:
    """The greedy answer to each item, checked; without `chat` what the user said last is continued as a document.

    As many at once as the engine takes. A prompt that leaves no room for an answer is a failure, not an error.
    """
    asked = [_prompt_ids(engine.tokenizer, item, chat=chat) for item in items]
    room = min(engine.config.max_positions, engine.cache_tokens)
    fitting = [number for number, ids in enumerate(asked) if len(ids) < room]
    greedy = [Sampling(temperature=0, max_tokens=max_tokens)] * len(fitting)
    answered = complete_all(engine, [asked[number] for number in fitting], samplings=greedy)
    done = {fitting[index]: completion for index, completion in answered}
    return [
        _outcome(item, done[number], engine.tokenizer)
        if number in done
        else Outcome(item, "", 0, ended=False, repetition=0.0, failures=(TOO_LONG,))
        for number, item in enumerate(items)
    ]


def said_of(tokenizer: Tokenizer, ids: Iterable[int], *, ended: bool, repetition: float, tools: Tools) -> Said:
    """An answer's tokens as checks see them."""
    stream, channels = TextStream(tokenizer), Channels()
    spans = [span for token in ids for span in stream.feed(token)] + stream.finish()
    pieces = [piece for span in spans if (piece := channels.feed(span))]
    content, calls = ("".join(text for name, text in pieces if name == part) for part in ("content", "tool_call"))
    return Said(content.strip(), calls, ended=ended, repetition=repetition, tools=tools)


def _prompt_ids(tokenizer: Tokenizer, item: PromptItem, *, chat: bool) -> list[int]:
    if not chat:
        return prompt_ids(tokenizer, item.question, raw=True)
    first, *others = item.conversation
    return render_prompt([{**first, "tools": item.tools}, *others], tokenizer)


def _outcome(item: PromptItem, answer: Completion, tokenizer: Tokenizer) -> Outcome:
    ended, repetition = answer.finish_reason == "stop", repetition_rate(answer.ids)
    said = said_of(tokenizer, answer.ids, ended=ended, repetition=repetition, tools=read_tools(item.tools))
    failures = tuple(fault for check in item.checks if (fault := check.fault(said)))
    return Outcome(item, answer.text, answer.tokens, ended, repetition, failures)
