"""Which pieces a vocabulary has: the special tokens, the sample that is learnt from, sentencepiece's training.

What is set here and why:

- Ids: the special tokens 0, 1, 2, …, then `<unk>` (sentencepiece insists; with byte fallback it is never
  produced), the 256 bytes, the learnt pieces. Special tokens are *control* symbols, which sentencepiece
  never finds in text.
- Nothing is normalised, stripped or prefixed, so every text can be had back to the byte.
- A line feed ends a piece or stands among line feeds, never before anything else. So a chat turn's header,
  `assistant\\n`, has the same ids whatever text follows; costs 0.2 % of the tokens (1.5 % if no two line
  feeds may join). The reason is in `minimind.tokens.chat`.
- Numbers are cut into digits (`split_digits`): a number then always reads the same way, digit by digit,
  and rare numbers take no room in a small vocabulary; costs 1 % of the tokens on documentation.
- Characters: see `choose_coverage`.

Documents are fed whole, but in blocks of `BLOCK_CHARACTERS`: sentencepiece keeps positions inside a run
without blanks in 16 bits and drops a sentence above its length limit silently.
Not here: the tokenizer that uses the pieces (`minimind.tokens.tokenizer`).
"""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
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
MIN_COVERAGE, MAX_COVERAGE = 0.98, 0.9999
"""sentencepiece takes no coverage below .98; the last ten-thousandth of the characters are typing errors."""
MERGES_PER_CHARACTER = 20
"""See `choose_coverage`; between 16 and 32 every corpus tried was within 0.5 % of its best compression."""

_CUT = "\ufdd0"
"""A code point that is no character; marks where no piece may go across, and is in no piece itself."""
_AFTER_LINE_FEEDS = re.compile(r"\n(?!\n)")
# Texts that must not become learnt pieces, being the names of others; and what sentencepiece reserves:
# a sentence with U+2585 would be dropped whole.
_RESERVED = re.compile(
    "|".join([*map(re.escape, SPECIAL_TOKENS), UNKNOWN_TOKEN, "<0x[0-9A-F]{2}>", f"[\0{SPACE_MARK}\u2585{_CUT}]"])
)


def sample_texts(directory: Path, sample_bytes: int, *, seed: int) -> Iterator[str]:
    """Texts of the shards in `directory`, about `sample_bytes` and never more, drawn evenly from all of them.

    A document is drawn by a hash of (seed, id), so it does not depend on the others. The hash is not the one
    that chose the validation rows, or the training rows would have none of its lower end. One record batch
    in memory; two passes over the shards.
    """
    total = sum(pc.sum(pc.binary_length(batch["text"])).as_py() or 0 for batch in read_batches(directory, ["text"]))
    if not total:
        raise DataError(f"{directory}: there is no text to learn a tokenizer from")
    cut = min(1.0, sample_bytes / total) * 2**64
    left = sample_bytes
    for batch in read_batches(directory, ["id", "text"]):
        for row_id, text in zip(batch["id"].to_pylist(), batch["text"].to_pylist(), strict=True):
            if xxhash.xxh3_64_intdigest(f"tokenizer:{seed}:{row_id}".encode()) >= cut:
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


def choose_coverage(characters: Counter[str], vocab_size: int) -> float:
    """The share of all characters whose characters get a piece of their own, the others being spelt in bytes.

    A character earns a piece when it is as frequent as the rarest merge would be, for which
    1 / (20 · vocabulary) of all characters is a good guess. It gave the best compression, or within
    0.5 % of it, for English at 2048 (any coverage does), English with 3 % Chinese at 2048 (.989, where
    .9995 loses a tenth) and at 4096 (.993), and two mixes with more Chinese at 6400 (.980, .988).
    """
    total = characters.total()
    common = sum(count for count in characters.values() if count * vocab_size * MERGES_PER_CHARACTER >= total)
    return min(max(common / total, MIN_COVERAGE), MAX_COVERAGE)


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
