"""Which pieces a vocabulary has: the special tokens, the sample that is learnt from, sentencepiece's training.

What is set here and why. The figures are bytes per token of held-out English and Chinese text at 6,400, learnt from
17 MB: ours has 3.10 and 3.14, byte-level BPE of `tokenizers` on the same text 3.07 and 3.12 (see
`benchmarks/compression.py`).

- Ids: the special tokens 0, 1, 2, …, then `<unk>` (sentencepiece insists; with byte fallback it is never
  produced), the 256 bytes, the learnt pieces. Special tokens are *control* symbols, which sentencepiece
  never finds in text. Other people's tokenizers have other ids: see `SpecialIds`.
- Nothing is normalised, stripped or prefixed, so every text can be had back to the byte.
- A blank begins a piece or stands among blanks, so no piece has two words. Letting pieces reach across
  (`split_by_whitespace` off) saves 2 % of the tokens (measured with punctuation joined) and gives one
  word many spellings; it is left.
- A line feed ends a piece or stands among line feeds, never before anything else. So a chat turn's header,
  `assistant\n`, has the same ids whatever text follows; costs 0.2 % of the tokens (1.5 % if no two line
  feeds may join). The reason is in `minimind.tokens.chat`.
- Letters and punctuation do not join (`split_by_unicode_script`; punctuation is a script of its own). Letting them join
  saves 3 % of the tokens, and the models are worse: after 600,000 tokens of documentation at a vocabulary of 2,048,
  which are then more text, 2.069 and 2.075 bits per byte where cut pieces give 2.043 and 2.053 (two seeds); letting
  only punctuation before letters join, as GPT-4's cuts do, gave 2.073 (one seed). `dog.` and `(dog` are
  then words of their own.
- Numbers are cut into digits (`split_digits`): a number then always reads the same way, digit by digit,
  and rare numbers take no room in a small vocabulary; costs 0.2 % of the tokens on mixed text, 1 % on documentation.
- Pieces have 16 characters at most: 8 cost 0.7 % of the tokens (measured with punctuation joined), 32 save nothing.
- Characters: see `minimind.tokens.coverage`.

Documents are fed whole, but in blocks of `BLOCK_CHARACTERS`: sentencepiece keeps positions inside a run
without blanks in 16 bits and drops a sentence above its length limit silently.
Not here: the tokenizer that uses the pieces (`minimind.tokens.tokenizer`).
"""

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow.compute as pc
import xxhash

from minimind.data.shards import read_batches
from minimind.errors import ConfigError, DataError, StageError

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<think>",
    "</think>",
    *(f"<|reserved_{number}|>" for number in range(7)),
)
END_OF_TEXT, IM_START, IM_END, TOOL_CALL, TOOL_CALL_END, TOOL_RESPONSE, TOOL_RESPONSE_END, THINK, THINK_END = range(9)
UNKNOWN = len(SPECIAL_TOKENS)
UNKNOWN_TOKEN = "<unk>"
FIRST_BYTE = UNKNOWN + 1
FIRST_PIECE = FIRST_BYTE + 256
SPACE_MARK = "\u2581"
"""How sentencepiece writes a blank inside a piece. A text that has this character itself is cut there."""

BLOCK_CHARACTERS = 1 << 15
END_OF_TEXT_NAMES = (
    SPECIAL_TOKENS[END_OF_TEXT],
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<EOS>",
    "<｜end▁of▁sentence｜>",
    "<|END_OF_TEXT|>",
)
"""How tokenizers call the end of a text; the first that one has is it."""

_CUT = "\ufdd0"
"""A code point that is no character; marks where no piece may go across, and is in no piece itself."""
_AFTER_LINE_FEEDS = re.compile(r"\n(?!\n)")
# Texts that must not become learnt pieces, being the names of others; and what sentencepiece reserves:
# a sentence with U+2585 would be dropped whole.
_RESERVED = re.compile(
    "|".join([*map(re.escape, SPECIAL_TOKENS), UNKNOWN_TOKEN, "<0x[0-9A-F]{2}>", f"[\0{SPACE_MARK}\u2585{_CUT}]"])
)


@dataclass(frozen=True)
class SpecialIds:
    """The ids of a tokenizer's special tokens; None where it has no such token, and the name is written as text."""

    end_of_text: int
    im_start: int
    im_end: int
    tool_call: int | None = None
    tool_call_end: int | None = None
    tool_response: int | None = None
    tool_response_end: int | None = None
    think: int | None = None
    think_end: int | None = None

    @property
    def stop(self) -> frozenset[int]:
        """Where an answer ends by itself; a new turn's start is among them, for what follows is another's."""
        return frozenset({self.end_of_text, self.im_start, self.im_end})

    def named(self) -> dict[int, str]:
        """Id → the name it has in our format, of those that are there."""
        names = zip(fields(self), SPECIAL_TOKENS, strict=False)
        found = ((getattr(self, field.name), name) for field, name in names)
        return {index: name for index, name in found if index is not None}


def find_specials(ids: Mapping[str, int], *, where: str) -> SpecialIds:
    """The special tokens among the names of a tokenizer. Raises ConfigError with what is missing in `where`."""
    end = next((name for name in END_OF_TEXT_NAMES if name in ids), None)
    missing = [*([] if end else [SPECIAL_TOKENS[END_OF_TEXT]]), *(n for n in SPECIAL_TOKENS[1:3] if n not in ids)]
    if missing or end is None:
        raise ConfigError(
            f"{where}: has no token {' and no '.join(missing)}, which conversations and documents need "
            f"(end of text may also be called {', '.join(END_OF_TEXT_NAMES[1:4])}, …); add them to the tokenizer as "
            "special tokens, or leave out tokenizer.file to have one trained"
        )
    tags = {field.name: ids.get(name) for field, name in zip(fields(SpecialIds)[1:], SPECIAL_TOKENS[1:], strict=False)}
    return SpecialIds(end_of_text=ids[end], **tags)


def sample_texts(directory: Path, sample_bytes: int, *, seed: int) -> Iterator[str]:
    """Texts of the shards in `directory`, about `sample_bytes` and never more, drawn evenly from all of them.

    A document is drawn by a hash of (seed, id), so it does not depend on the others. The hash is not the one
    that chose the validation rows, or the training rows would have none of its lower end. Copies of a row that stand
    together, as a source's weight writes them, are drawn each on its own: so a source of weight 2 gives twice the text.
    One record batch in memory; two passes over the shards.
    """
    total = sum(pc.sum(pc.binary_length(batch["text"])).as_py() or 0 for batch in read_batches(directory, ["text"]))
    if not total:
        raise DataError(f"{directory}: there is no text to learn a tokenizer from")
    cut = min(1.0, sample_bytes / total) * 2**64
    left, last, copy = sample_bytes, "", 0
    for batch in read_batches(directory, ["id", "text"]):
        for row_id, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            copy = copy + 1 if row_id == last else 0
            last = row_id
            if xxhash.xxh3_64_intdigest(f"tokenizer:{seed}:{row_id}{f':{copy}' * bool(copy)}".encode()) >= cut:
                continue
            raw = text.encode("utf-8")
            yield text if len(raw) <= left else raw[:left].decode("utf-8", "ignore")
            left -= len(raw)
            if left <= 0:
                return


def training_blocks(texts: Iterable[str]) -> Iterator[str]:
    """What sentencepiece is fed: `texts` in blocks, without what it reserves, with the cuts marked."""
    for text in texts:
        for part in _RESERVED.split(text):
            for start in range(0, len(part), BLOCK_CHARACTERS):
                yield _AFTER_LINE_FEEDS.sub("\n" + _CUT, part[start : start + BLOCK_CHARACTERS])


def train_pieces(texts: Iterable[str], *, vocab_size: int, character_coverage: float) -> bytes:
    """A sentencepiece BPE model as bytes, the same for the same texts. Memory: 15–18 times the texts' bytes."""
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=training_blocks(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=character_coverage,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            byte_fallback=True,
            split_digits=True,
            pretokenization_delimiter=_CUT,
            max_sentence_length=8 * BLOCK_CHARACTERS,
            control_symbols=list(SPECIAL_TOKENS),
            unk_id=UNKNOWN,
            unk_piece=UNKNOWN_TOKEN,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise _explain(str(error), vocab_size, character_coverage) from None
    return model.getvalue()


def _explain(message: str, vocab_size: int, coverage: float) -> Exception:
    """sentencepiece's complaint as an error that names the settings."""
    if found := re.search(r"(\d+) vs (\d+)", message):
        return ConfigError(
            f"tokenizer.vocab_size = {vocab_size} is too small: at tokenizer.character_coverage = {coverage:.4f} the "
            f"corpus has characters for {found[2]} pieces, bytes and special tokens included. Set "
            f"tokenizer.vocab_size to {int(found[2]) * 3 // 2} or more, or lower tokenizer.character_coverage "
            f"(0.98 at least)"
        )
    if found := re.search(r"too high \(\d+\).*<= (\d+)", message):
        return ConfigError(
            f"tokenizer.vocab_size = {vocab_size} is too big for this corpus, which gives {found[1]} pieces at most; "
            f"set tokenizer.vocab_size to {found[1]} or less, or give it more text"
        )
    return StageError(f"sentencepiece could not learn the pieces: {message}")
