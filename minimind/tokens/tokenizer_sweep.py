"""Other vocabularies for the same text: sizes, upstream's settings, and what each costs a model.

All are learnt from one sample and measured on the same held-out rows. A larger vocabulary needs fewer tokens for a
text and more parameters: its embedding, and an output projection that every token is multiplied with.
Not here: the shape of the model, which the recipe knows (`ModelCost` is told the numbers it takes).
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from minimind.config import Config
from minimind.errors import ConfigError
from minimind.tokens.coverage import choose_coverage
from minimind.tokens.vocabulary import SPECIAL_TOKENS, train_pieces

SWEEP_SIZES = (3200, 6400, 12800, 32000)
UPSTREAM_SIZE = 6400
SAMPLE_BYTES = 16 << 20
"""Text a vocabulary of the sweep is learnt from: byte-level BPE of this much takes 25 CPU seconds, ours 5 and the sweep
of coverages 10."""
LEARN_COVERAGE_ON = 6 << 20
HeldOut = Sequence[tuple[str, str]]
"""Language and text."""


class ModelCost(Config):
    """What of a model depends on the vocabulary, and what does not."""

    hidden_size: int
    other_parameters: int
    """Of everything but embedding and output projection."""
    tied: bool = True
    """Whether the output projection is the embedding."""


class SweepLine(Config):
    """A vocabulary, how it compresses held-out text, and what it costs."""

    name: str
    vocab_size: int
    bytes_per_token: dict[str, float] = {}
    """By language, and `all`."""
    seconds: float = 0.0
    """CPU time of learning it."""
    note: str = ""
    """Why there are no figures."""
    embedding_parameters: int | None = None
    """Of embedding and output projection."""
    embedding_share: float | None = None
    """Of all parameters."""
    logits_flops_per_token: int | None = None
    """Of the output projection, forwards."""
    logits_flops_per_byte: int | None = None


@dataclass(frozen=True)
class Vocabulary:
    """A way to count the tokens of texts."""

    name: str
    size: int
    count: Callable[[Sequence[str]], list[int]]


def compression(held_out: HeldOut, count: Callable[[Sequence[str]], list[int]]) -> dict[str, float]:
    """Bytes per token by language and of all together."""
    sizes: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for (language, text), length in zip(held_out, count([text for _, text in held_out]), strict=True):
        for name in (language, "all"):
            sizes[name] += len(text.encode("utf-8"))
            tokens[name] += length
    return {name: round(sizes[name] / max(tokens[name], 1), 4) for name in sorted(sizes, key=lambda n: (n == "all", n))}


def sweep(
    sample: Sequence[str], held_out: HeldOut, *, sizes: Iterable[int], cost: ModelCost | None
) -> Iterator[SweepLine]:
    """A line for each size, and one for upstream's settings, as they are learnt. Minutes for megabytes."""
    for size in sizes:
        yield _line(f"{size:,}", size, lambda size=size: own_vocabulary(sample, size), held_out, cost)
    name = f"byte-level BPE {UPSTREAM_SIZE:,}"
    yield _line(name, UPSTREAM_SIZE, lambda: byte_level_vocabulary(sample, UPSTREAM_SIZE), held_out, cost)


def own_vocabulary(sample: Sequence[str], size: int) -> Vocabulary:
    """Our settings, the coverage chosen as the stage does."""
    import kitoken

    coverage, _ = choose_coverage(_first(sample, LEARN_COVERAGE_ON), size)
    encoder = kitoken.Kitoken.from_sentencepiece(train_pieces(sample, vocab_size=size, character_coverage=coverage))
    return Vocabulary(f"{size:,}", size, lambda texts: [len(ids) for ids in encoder.encode_all(list(texts), False)])


def byte_level_vocabulary(sample: Iterable[str], size: int) -> Vocabulary:
    """Byte-level BPE of `tokenizers` with GPT-2's cuts: what upstream MiniMind trains."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS[:3]),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sample, trainer)
    return Vocabulary(
        f"byte-level BPE {size:,}", size, lambda texts: [len(tokenizer.encode(text).ids) for text in texts]
    )


def costs(vocab_size: int, bytes_per_token: float, cost: ModelCost) -> Mapping[str, float | int]:
    """What a vocabulary costs a model: the fields of `SweepLine`."""
    embedding = vocab_size * cost.hidden_size * (1 if cost.tied else 2)
    flops = 2 * vocab_size * cost.hidden_size
    return {
        "embedding_parameters": embedding,
        "embedding_share": round(embedding / (embedding + cost.other_parameters), 4),
        "logits_flops_per_token": flops,
        "logits_flops_per_byte": round(flops / max(bytes_per_token, 1e-9)),
    }


def _line(
    name: str, size: int, learn: Callable[[], Vocabulary], held_out: HeldOut, cost: ModelCost | None
) -> SweepLine:
    began = time.process_time()
    try:
        vocabulary = learn()
    except ConfigError as error:
        return SweepLine(name=name, vocab_size=size, note=str(error))
    seconds = round(time.process_time() - began, 1)
    found = compression(held_out, vocabulary.count)
    spent = costs(size, found["all"], cost) if cost else {}
    return SweepLine(name=name, vocab_size=size, bytes_per_token=found, seconds=seconds, **spent)


def _first(texts: Sequence[str], size: int) -> list[str]:
    """Texts evenly from all of them, of about `size` bytes."""
    total = sum(len(text) for text in texts)
    return list(texts[:: max(1, round(total / size))])
