"""The tokenizer: text to ids and back without loss, and the stage that trains it.

`decode(encode(text)) == text` for every text that is valid Unicode. Encoding never gives a special
token: a text that spells one out stays text, and `minimind.tokens.chat` puts the real ones in by id.
sentencepiece does the work but for the one character it cannot tell from a blank, U+2581, at which
texts are cut and which is written as its three bytes.
Threads are not used: one process per shard scales, sentencepiece's `num_threads` does not.

The stage writes `tokenizer.model`, its Hugging Face twin (`minimind.tokens.hf_tokenizer`) and
`report.json`. Not here: what the pieces are (`minimind.tokens.vocabulary`).
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from pydantic import Field

from minimind.artifact import Inputs, Summary
from minimind.config import Config
from minimind.data.shards import count_rows
from minimind.errors import ArtifactError, DataError, MissingError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.runtime import write_json
from minimind.stage import Stage
from minimind.tokens.hf_tokenizer import CONFIG_FILE, FAST_FILE, write_hf_tokenizer
from minimind.tokens.vocabulary import (
    END_OF_TEXT,
    FIRST_BYTE,
    FIRST_PIECE,
    IM_END,
    IM_START,
    SPACE_MARK,
    SPECIAL_TOKENS,
    UNKNOWN,
    choose_coverage,
    sample_texts,
    train_pieces,
    training_blocks,
)

__all__ = [
    "END_OF_TEXT",
    "IM_END",
    "IM_START",
    "SPECIAL_TOKENS",
    "TOKENIZER",
    "TOKENIZER_FILES",
    "Tokenizer",
    "TokenizerConfig",
    "train_tokenizer",
]

MODEL_FILE = "tokenizer.model"
REPORT_FILE = "report.json"
TOKENIZER_FILES = (MODEL_FILE, FAST_FILE, CONFIG_FILE)
_MARK_IDS = [FIRST_BYTE + byte for byte in SPACE_MARK.encode("utf-8")]
_REPORT_BYTES = 4 << 20
"""Text of each split the report is measured on: half a second, and good to four digits."""
_PASSES = 3
"""Over the sample: counting characters, training, and a third for the report."""


class TokenizerConfig(Config):
    """What the tokenizer learns, and from how much."""

    vocab_size: int = Field(default=6400, ge=FIRST_PIECE + 1, le=1 << 20)
    """All of it: 16 special tokens, `<unk>`, 256 bytes, and the learnt pieces."""
    character_coverage: float | None = Field(default=None, ge=0.98, le=1)
    """Share of all characters whose characters get a piece of their own; by default chosen from the corpus."""
    sample_bytes: int = Field(default=40 << 20, ge=1 << 10)
    """Text to learn from; training takes 15–18 times as much memory."""
    seed: int = 0
    """Chooses the sample where the corpus is larger."""


class Tokenizer:
    """Encodes and decodes. Make one with `Tokenizer.load`."""

    def __init__(self, model: bytes, directory: Path) -> None:
        import sentencepiece

        self._directory = directory
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.load_from_serialized_proto(model)
        except (RuntimeError, OSError) as error:
            raise ArtifactError(f"{directory / MODEL_FILE}: damaged ({error}); build the tokenizer again") from None
        self.vocab_size: int = self._processor.get_piece_size()
        names = self.pieces()
        if tuple(names[: len(SPECIAL_TOKENS)]) != SPECIAL_TOKENS or not self._processor.is_byte(FIRST_BYTE):
            raise ArtifactError(f"{directory / MODEL_FILE}: not a tokenizer of this project (other special tokens)")
        learnt = [name.replace(SPACE_MARK, " ").encode("utf-8") for name in names[FIRST_PIECE:]]
        self._spoken = [*[b""] * FIRST_BYTE, *(bytes([byte]) for byte in range(256)), *learnt]
        self._shown = [*(name.encode("utf-8") for name in names[:FIRST_BYTE]), *self._spoken[FIRST_BYTE:]]

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer whose files are in `directory` (a tokenizer artifact or a model directory)."""
        try:
            return cls((directory / MODEL_FILE).read_bytes(), directory)
        except FileNotFoundError:
            raise MissingError(f"{directory / MODEL_FILE}: no tokenizer here; run the stage tokenizer") from None

    def pieces(self) -> list[str]:
        """The name of every id, with U+2581 for a blank and `<0x0A>` for a byte."""
        return [self._processor.id_to_piece(index) for index in range(self.vocab_size)]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, never a special one. Raises DataError for half a character (a lone surrogate)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; several times faster than one by one where texts are short."""
        try:
            return self._encode(texts)
        except (TypeError, RuntimeError):  # what sentencepiece makes of a string that has no UTF-8
            for text in texts:
                _require_utf8(text)
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens shown by their names; bytes that are not UTF-8 come out as U+FFFD."""
        return self._join_bytes(ids, self._shown).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 of `ids` without special tokens; it may end inside a character, as a stream does."""
        return self._join_bytes(ids, self._spoken)

    def copy_to(self, directory: Path) -> None:
        """Copy the tokenizer's files into `directory`, for example beside a model's weights."""
        directory.mkdir(parents=True, exist_ok=True)
        for name in TOKENIZER_FILES:
            try:
                shutil.copyfile(self._directory / name, directory / name)
            except FileNotFoundError:
                raise MissingError(f"{self._directory / name}: missing beside {MODEL_FILE}; build it again") from None

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        if not any(SPACE_MARK in text for text in texts):
            return self._processor.encode(list(texts), num_threads=1)
        parts = [text.split(SPACE_MARK) for text in texts]
        flat = [part for split in parts for part in split]
        encoded = iter(self._processor.encode(flat, num_threads=1))
        return [_join(islice(encoded, len(split))) for split in parts]

    def _join_bytes(self, ids: Iterable[int], table: list[bytes]) -> bytes:
        numbers = [int(index) for index in ids]
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.vocab_size:
            raise DataError(f"ids from {min(numbers)} to {max(numbers)}; this tokenizer has 0 to {self.vocab_size - 1}")
        return b"".join([table[index] for index in numbers])


def train_tokenizer(config: TokenizerConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Learn the pieces from the training rows of a corpus and write the tokenizer's files and report."""
    train_dir, val_dir = inputs["corpus"].dir / "train", inputs["corpus"].dir / "val"

    def sample() -> Iterable[str]:
        return sample_texts(train_dir, config.sample_bytes, seed=config.seed)

    with EventWriter(out_dir / EVENTS_FILE) as events:
        characters: Counter[str] = Counter()
        for block in training_blocks(sample()):
            characters.update(block)
        if not characters:
            raise DataError(f"{train_dir}: there is no text to learn a tokenizer from")
        events.progress(1, _PASSES, "passes")
        coverage = config.character_coverage or choose_coverage(characters, config.vocab_size)
        model = train_pieces(sample(), vocab_size=config.vocab_size, character_coverage=coverage)
        events.progress(2, _PASSES, "passes")
        (out_dir / MODEL_FILE).write_bytes(model)
        tokenizer = Tokenizer(model, out_dir)
        write_hf_tokenizer(tokenizer.pieces(), out_dir)
        figures: dict[str, int | float | str | None] = {
            "vocab_size": tokenizer.vocab_size,
            "character_coverage": round(coverage, 6),
            "character_pieces": sum(len(piece) == 1 for piece in tokenizer.pieces()[FIRST_PIECE:]),
            **_measure(tokenizer, sample()),
        }
        if val_dir.is_dir() and count_rows(val_dir):
            held_out = _measure(tokenizer, sample_texts(val_dir, _REPORT_BYTES, seed=config.seed))
            figures |= {f"val_{name}": value for name, value in held_out.items()}
        events.progress(3, _PASSES, "passes")
    longest = sorted(tokenizer.pieces()[FIRST_PIECE:], key=lambda piece: (-len(piece), piece))[:20]
    write_json(out_dir / REPORT_FILE, {**figures, "longest_pieces": longest})
    return Summary(figures=figures, samples=[f"longest pieces: {' | '.join(longest)}"], warnings=_warnings(figures))


TOKENIZER = Stage("tokenizer", train_tokenizer, inputs=("corpus",))


def _measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int | float]:
    """How well the first `_REPORT_BYTES` of `texts` compress, and whether all of them come back unchanged."""
    documents = size = tokens = in_bytes = failures = 0
    for text in texts:
        ids = tokenizer.encode(text)
        documents, size, tokens = documents + 1, size + len(text.encode("utf-8")), tokens + len(ids)
        in_bytes += sum(FIRST_BYTE <= index < FIRST_PIECE for index in ids)
        failures += tokenizer.decode(ids) != text or any(index <= UNKNOWN for index in ids)
        if size >= _REPORT_BYTES:
            break
    return {
        "measured_documents": documents,
        "measured_bytes": size,
        "bytes_per_token": round(size / max(tokens, 1), 4),
        "byte_fallback_share": round(in_bytes / max(tokens, 1), 6),
        "round_trip_failures": failures,
    }


def _warnings(figures: dict[str, int | float | str | None]) -> list[str]:
    """What a reader of the figures should not overlook."""
    found = []
    if failures := figures["round_trip_failures"]:
        found.append(f"{failures} documents of the sample did not come back unchanged from encoding and decoding")
    share = float(figures["byte_fallback_share"] or 0)
    if share > 0.1:
        found.append(
            f"{share:.0%} of the tokens are single bytes; a larger tokenizer.vocab_size or "
            f"tokenizer.character_coverage would spell fewer characters out"
        )
    return found


def _join(encoded: Iterable[list[int]]) -> list[int]:
    """The ids of the parts of a text that was cut at U+2581, with that character's bytes between them."""
    joined: list[int] = []
    for number, ids in enumerate(encoded):
        joined += [*_MARK_IDS, *ids] if number else ids
    return joined


def _require_utf8(text: str) -> None:
    if not isinstance(text, str):
        raise DataError(f"a text to encode is {type(text).__name__}; a string was expected")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise DataError(
            f"the text has half a character (lone surrogate U+{code:04X}) at position {error.start}; "
            f"it cannot be written as UTF-8, so it cannot be encoded"
        ) from None
