"""A model directory in, tokens or text out, one answer at a time.

`generate` gives token ids: one pass over the prompt, then one token at a time against the
key-value cache. `stream_text` gives text that is safe to show at once: a character is held back
until all its bytes are there, and what could still become a stop string until it cannot. `complete`
is the whole answer. Streams are generators whose return value says how the answer ended, and they
refuse an unusable prompt when they are called, not at the first token.

The prompt and the answer together never exceed the model's `max_positions`. Not here: many answers
at once, quantised weights.

Axes: B batch (1), T time, D model width, V vocabulary.
"""

import codecs
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, open_artifact
from minimind.errors import ArtifactError, DataError
from minimind.infer.sampling import Sampler, Sampling
from minimind.model.attention import KeyValueCache
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model
from minimind.runtime import Precision
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to answer, with its tokenizer and a name for people."""

    model: Transformer
    tokenizer: Tokenizer
    config: ModelConfig
    name: str


@dataclass(frozen=True)
class Completion:
    """A whole answer: its text, the number of tokens drawn for it, and what ended it."""

    text: str
    tokens: int
    finish_reason: FinishReason


def load(directory: Path, device: str = "auto", *, precision: Precision = "auto") -> LoadedModel:
    """The model in `directory`, in the fastest dtype the device has.

    Raises MissingError or ArtifactError where files are absent or do not fit together.
    """
    chosen = runtime.choose_device(device)
    model = load_model(directory, device=chosen, dtype=runtime.choose_precision(precision, chosen)).eval()
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ArtifactError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}; "
            "they do not belong together, copy the tokenizer's files the model was trained with"
        )
    return LoadedModel(model, tokenizer, model.config, _name_of(directory))


def prompt_ids(tokenizer: Tokenizer, text: str, *, system: str = "", raw: bool = False) -> list[int]:
    """The ids of a question in the chat format, or with `raw` of a document's beginning."""
    if raw:
        return [tokenizer.specials.end_of_text, *tokenizer.encode(text)]
    turns = [{"role": "system", "content": system}] if system else []
    return render_prompt([*turns, {"role": "user", "content": text}], tokenizer)


def generate(
    model: Transformer, prompt_ids: Sequence[int], *, sampling: Sampling, stop_ids: Collection[int]
) -> Generator[int, None, FinishReason]:
    """The tokens that follow the prompt, up to and without the first one in `stop_ids` (`tokenizer.specials.stop`).

    Raises DataError for a prompt that is empty, leaves no room in the context, or holds ids the
    model does not have.
    """
    vocab_size, context = model.config.vocab_size, model.config.max_positions
    if not prompt_ids:
        raise DataError("the prompt is empty; give it at least one token (<|endoftext|> starts a text from nothing)")
    if len(prompt_ids) >= context:
        raise DataError(
            f"the prompt has {len(prompt_ids)} tokens and the model's context {context}, which leaves no room for "
            "an answer; shorten the prompt"
        )
    foreign = [token for token in prompt_ids if not 0 <= token < vocab_size]
    if foreign:
        raise DataError(
            f"the prompt has token {foreign[0]} and the model only 0 to {vocab_size - 1}; "
            "encode the prompt with the tokenizer of this model"
        )
    return _decode(model, list(prompt_ids), sampling=sampling, stop_ids=frozenset(stop_ids))


def stream_text(
    model: Transformer, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, sampling: Sampling
) -> Generator[str, None, Completion]:
    """The answer in pieces as they become certain; together they are the completion's text.

    No piece is empty or splits a character. Bytes that are no UTF-8 come as U+FFFD; of the special
    tokens only tags (`<think>`, `<tool_call>`, …) are shown. Raises as `generate` does.
    """
    tokens = generate(model, prompt_ids, sampling=sampling, stop_ids=tokenizer.specials.stop)
    return _pieces(tokens, tokenizer, sampling.stop)


def complete(model: Transformer, tokenizer: Tokenizer, prompt_ids: Sequence[int], *, sampling: Sampling) -> Completion:
    """The whole answer to a prompt. Raises as `generate` does."""
    pieces = stream_text(model, tokenizer, prompt_ids, sampling=sampling)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


def complete_all(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], *, samplings: Sequence[Sampling], max_batch: int = 64
) -> Iterator[tuple[int, Completion]]:
    """The answer to each prompt with its index, in the order in which they are done."""
    for index, (ids, sampling) in enumerate(zip(prompts, samplings, strict=True)):
        yield index, complete(loaded.model, loaded.tokenizer, ids, sampling=sampling)


def settled(text: str, stop: Sequence[str]) -> tuple[int, bool]:
    """How many characters of `text` may be shown whatever comes next, and whether a stop string begins there.

    Of several stop strings the one that is complete first counts, so that an answer does not
    depend on how it is cut into tokens.
    """
    found = [(start + len(word), start) for word in stop if (start := text.find(word)) >= 0]
    if found:
        return min(found)[1], True
    begun = (n for word in stop for n in range(1, min(len(word), len(text) + 1)) if text.endswith(word[:n]))
    return len(text) - max(begun, default=0), False


def _decode(
    model: Transformer, prompt_ids: list[int], *, sampling: Sampling, stop_ids: frozenset[int]
) -> Generator[int, None, FinishReason]:
    config = model.config
    length = min(len(prompt_ids) + sampling.max_tokens, config.max_positions)
    sampler = Sampler(sampling, vocab_size=config.vocab_size, seen=prompt_ids)
    cache = KeyValueCache(config, 1, length, model.compute_dtype, model.device)
    fresh_ids = prompt_ids
    for _ in range(length - len(prompt_ids)):
        token = sampler.next(_next_logits(model, fresh_ids, cache))
        if token in stop_ids:
            return "stop"
        yield token
        fresh_ids = [token]
    return "length"


@torch.inference_mode()
def _next_logits(model: Transformer, fresh_ids: list[int], cache: KeyValueCache) -> Tensor:
    """The scores behind the last of `fresh_ids`, which are added to the cache. Only that position is projected to V."""
    tokens_BT = torch.tensor([fresh_ids], dtype=torch.int64, device=model.device)
    hidden_BTD, _ = model.hidden(tokens_BT, cache=cache)
    return model.logits(hidden_BTD[0, -1])


def _pieces(
    tokens: Generator[int, None, FinishReason], tokenizer: Tokenizer, stop: Sequence[str]
) -> Generator[str, None, Completion]:
    tags = _tags(tokenizer)
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    text, held, num_tokens = "", "", 0
    reason: FinishReason | None = None
    while reason is None:
        try:
            token = next(tokens)
        except StopIteration as end:
            reason = end.value
            held += utf8.decode(b"", final=True)
        else:
            num_tokens += 1
            held += utf8.decode(tags.get(token) or tokenizer.decode_bytes([token]))
        size, stopped = settled(held, stop)
        if stopped:
            reason, held = "stop", held[:size]
        elif reason is not None:
            size = len(held)
        piece, held = held[:size], held[size:]
        text += piece
        if piece:
            yield piece
    return Completion(text, num_tokens, reason)


def _tags(tokenizer: Tokenizer) -> dict[int, bytes]:
    """The tokens shown by name: tags of reasoning and of tool calls tell parts of an answer apart."""
    named = tokenizer.specials.named().items()
    return {token: name.encode() for token, name in named if token not in tokenizer.specials.stop}


def _name_of(directory: Path) -> str:
    """`sft-1a2b3c4d` for a stage's artifact, else the directory's own name."""
    if not (directory / MANIFEST_FILE).is_file():
        return directory.resolve().name
    artifact = open_artifact(directory)
    return f"{artifact.kind}-{artifact.fingerprint[:8]}"
