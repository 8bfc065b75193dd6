"""A model directory in, text out: one answer, a stream of it, or many at once.

`load` gives an engine; `stream_text` what is safe to show at once, `complete` the whole answer, `complete_all` those to
many prompts. Streams are generators whose return value says how the answer ended, and they refuse an unusable prompt
when they are called, not at the first token. The prompt and the answer together never exceed the model's
`max_positions`. Not here: how (`engine`), servers (`minimind.serve`).
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, open_artifact
from minimind.errors import ArtifactError
from minimind.infer.answer import Answer
from minimind.infer.engine import Engine
from minimind.infer.network import Network
from minimind.infer.products import Precision, use_huge_pages
from minimind.infer.protocol import FinishReason
from minimind.infer.sampling import Sampling
from minimind.model.lora import load_adapter
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model
from minimind.tokens.chat import render_prompt
from minimind.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Completion:
    """A whole answer: its text, the number of tokens drawn for it, what ended it, and its tokens."""

    text: str
    tokens: int
    finish_reason: FinishReason
    ids: tuple[int, ...] = ()


def load(
    directory: Path,
    device: str = "auto",
    *,
    precision: Precision = "auto",
    max_batch: int = 1,
    cache_tokens: int | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Engine:
    """The model in `directory`, in the fastest dtype the device has unless one is given, with adapters by name.

    Raises MissingError or ArtifactError where files are absent or do not fit together.
    """
    use_huge_pages()
    model, tokenizer = load_pair(directory, device)
    network = Network(model, precision)
    for name, path in (adapters or {}).items():
        adapted = load_model(directory, device=network.device)  # its matrices are adapted in place
        load_adapter(path, adapted)
        network.attach(name, adapted)
    engine = Engine(network, tokenizer, name=name_of(directory), max_batch=max_batch, cache_tokens=cache_tokens)
    engine.adapters |= set(adapters or {})
    return engine


def load_pair(
    directory: Path, device: str = "auto", *, dtype: torch.dtype | None = None
) -> tuple[Transformer, Tokenizer]:
    """The model in `directory`, in fp32 unless a `dtype` is given, with its tokenizer. Raises as `load` does."""
    model = load_model(directory, device=runtime.choose_device(device), dtype=dtype).eval()
    tokenizer = Tokenizer.load(directory)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise ArtifactError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} tokens and the model {model.config.vocab_size}; "
            "they do not belong together, copy the tokenizer's files the model was trained with"
        )
    return model, tokenizer


def prompt_ids(tokenizer: Tokenizer, text: str, *, system: str = "", raw: bool = False) -> list[int]:
    """The ids of a question in the chat format, or with `raw` of a document's beginning."""
    if raw:
        return [tokenizer.specials.end_of_text, *tokenizer.encode(text)]
    turns = [{"role": "system", "content": system}] if system else []
    return render_prompt([*turns, {"role": "user", "content": text}], tokenizer)


def stream_text(engine: Engine, prompt: Sequence[int], *, sampling: Sampling) -> Generator[str, None, Completion]:
    """The answer in pieces as they become certain; together they are the completion's text.

    No piece is empty or splits a character. Bytes that are no UTF-8 come as U+FFFD; of the special
    tokens only tags (`<think>`, `<tool_call>`, …) are shown. Raises DataError for a prompt that cannot be answered. A
    stream that is closed early gives its place back.
    """
    return _pieces(engine, engine.ask(prompt, sampling))


def complete(engine: Engine, prompt: Sequence[int], *, sampling: Sampling) -> Completion:
    """The whole answer to a prompt. Raises as `stream_text` does."""
    (answer,) = complete_all(engine, [prompt], samplings=[sampling])
    return answer[1]


def complete_all(
    engine: Engine, prompts: Sequence[Sequence[int]], *, samplings: Sequence[Sampling]
) -> Iterator[tuple[int, Completion]]:
    """The answer to each prompt with its index, in the order in which they are done; as many at once as fit.

    An answer does not depend on the others. Raises as `stream_text` does, before the first answer.
    """
    asked = {engine.ask(p, sampling): i for i, (p, sampling) in enumerate(zip(prompts, samplings, strict=True))}
    texts = dict.fromkeys(asked, "")
    try:
        while asked:
            for answer in engine.step():
                if answer not in asked:
                    continue
                texts[answer] += "".join(span.text for span in answer.take()[0])
                if answer.finish_reason is not None:
                    yield asked.pop(answer), _completion(answer, texts.pop(answer))
    finally:
        for answer in asked:
            engine.cancel(answer)


def _pieces(engine: Engine, answer: Answer) -> Generator[str, None, Completion]:
    text = ""
    try:
        while answer.finish_reason is None:
            engine.step()
            piece = "".join(span.text for span in answer.take()[0])
            text += piece
            if piece:
                yield piece
    finally:
        engine.cancel(answer)
    return _completion(answer, text)


def _completion(answer: Answer, text: str) -> Completion:
    if answer.error is not None:
        raise answer.error
    assert answer.finish_reason is not None
    return Completion(text, len(answer.ids), answer.finish_reason, tuple(answer.ids))


def name_of(directory: Path) -> str:
    """`sft-1a2b3c4d` for a stage's artifact, else the directory's own name."""
    if not (directory / MANIFEST_FILE).is_file():
        return directory.resolve().name
    artifact = open_artifact(directory)
    return f"{artifact.kind}-{artifact.fingerprint[:8]}"
