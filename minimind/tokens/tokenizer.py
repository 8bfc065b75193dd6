"""The tokenizer: text to ids and back.

`decode(encode(text)) == text` for every text that is valid Unicode, with a tokenizer that this project trained; with
somebody else's, as far as that one loses nothing (the tokenizer's report counts). Encoding never gives a special
token: a text that spells one out stays text, and `minimind.tokens.chat` puts the real ones in by id.

Not here: what does the encoding (`encoders`), what the pieces are (`vocabulary`), the stage that trains a tokenizer or
takes one that exists (`tokenizer_training`).
"""

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from minimind.errors import ArtifactError, ConfigError, DataError, MissingError
from minimind.tokens.encoders import Encoder, FastEncoder, PieceEncoder, SentencePieceEncoder, is_own, piece_names
from minimind.tokens.hf_tokenizer import CONFIG_FILE, FAST_FILE
from minimind.tokens.vocabulary import END_OF_TEXT, IM_END, IM_START, SPECIAL_TOKENS, SpecialIds, find_specials

__all__ = ["END_OF_TEXT", "IM_END", "IM_START", "SPECIAL_TOKENS", "TOKENIZER_FILES", "SpecialIds", "Tokenizer"]

MODEL_FILE = "tokenizer.model"
TOKENIZER_FILES = (MODEL_FILE, FAST_FILE, CONFIG_FILE)
"""What a tokenizer's directory has; `tokenizer.model` is missing where it was made from a tokenizer.json."""


class Tokenizer:
    """Encodes and decodes. Make one with `Tokenizer.load`."""

    def __init__(self, encoder: Encoder, directory: Path) -> None:
        self.directory, self._encoder = directory, encoder
        self.specials: SpecialIds = find_specials(
            {name: index for index, name in enumerate(encoder.names)}, where=str(directory)
        )
        self.vocab_size: int = len(encoder.names)
        self.spelt = encoder.spelt
        """Ids of bytes in which a character without a piece of its own is spelt."""
        self._spoken = encoder.spoken
        self._shown = [raw or name.encode("utf-8") for raw, name in zip(encoder.spoken, encoder.names, strict=True)]

    @classmethod
    def of_model(cls, model: bytes, directory: Path) -> "Tokenizer":
        """The tokenizer of a sentencepiece model's bytes; `directory` is where its files are, or will be."""
        own = is_own(piece_names(model))
        return cls._proven(PieceEncoder(model) if own else SentencePieceEncoder(model), directory)

    @classmethod
    def of_fast(cls, text: str, directory: Path, *, name: str = FAST_FILE) -> "Tokenizer":
        """The tokenizer of a tokenizer.json's text; `name` is what that file is called in `directory`."""
        return cls._proven(FastEncoder(text, where=str(directory / name)), directory)

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """The tokenizer whose files are in `directory` (a tokenizer artifact or a model directory)."""
        model, fast = directory / MODEL_FILE, directory / FAST_FILE
        if model.is_file():
            try:
                return cls.of_model(model.read_bytes(), directory)
            except ArtifactError as error:
                raise ArtifactError(f"{model}: damaged ({error}); build the tokenizer again") from None
        if fast.is_file():
            return cls.of_fast(fast.read_text(encoding="utf-8"), directory)
        raise MissingError(f"{model}: no tokenizer here, and no {FAST_FILE}; run the stage tokenizer")

    @classmethod
    def _proven(cls, encoder: Encoder, directory: Path) -> "Tokenizer":
        """A tokenizer of which it is tried that the name of a special token stays text."""
        tokenizer = cls(encoder, directory)
        special = tokenizer.specials.named()
        for index in special:
            name = encoder.names[index]
            if special.keys() & set(tokenizer.encode(f"a{name}b")) | special.keys() & set(tokenizer.encode(name)):
                raise ConfigError(
                    f"{directory}: reads {name} in a user's text as the special token, whatever it is told, so that "
                    "users could speak as the system; use another tokenizer"
                )
        return tokenizer

    def pieces(self) -> list[str]:
        """The name of every id as the tokenizer's file has it; in ours U+2581 is a blank and `<0x0A>` a byte."""
        return list(self._encoder.names)

    def piece_bytes(self) -> list[bytes]:
        """By id, UTF-8 of the text it stands for: nothing for special tokens, a part of a character for some."""
        return self._spoken

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, never a special one. Raises DataError for half a character (a lone surrogate)."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; several times faster than one by one where texts are short."""
        try:
            return self._encoder.encode_batch(texts)
        except (TypeError, RuntimeError, UnicodeEncodeError):  # what the encoders make of a string that has no UTF-8
            for text in texts:
                _require_utf8(text)
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, special tokens shown by their names; bytes that are not UTF-8 come out as U+FFFD."""
        text = self._join_bytes(ids, self._shown).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._encoder.drops_first_blank else text

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The UTF-8 of `ids` without special tokens; it may end inside a character, as a stream does."""
        return self._join_bytes(ids, self._spoken)

    def copy_to(self, directory: Path) -> None:
        """Copy the tokenizer's files into `directory`, for example beside a model's weights."""
        directory.mkdir(parents=True, exist_ok=True)
        for path in tokenizer_files(self.directory):
            shutil.copyfile(path, directory / path.name)

    def _join_bytes(self, ids: Iterable[int], table: list[bytes]) -> bytes:
        numbers = [int(index) for index in ids]
        if numbers and not 0 <= min(numbers) <= max(numbers) < self.vocab_size:
            raise DataError(f"ids from {min(numbers)} to {max(numbers)}; this tokenizer has 0 to {self.vocab_size - 1}")
        return b"".join([table[index] for index in numbers])


def tokenizer_files(directory: Path) -> list[Path]:
    """The tokenizer's files in a directory. Raises MissingError where one is not there that belongs to it."""
    needed = [directory / FAST_FILE, directory / CONFIG_FILE]
    if missing := [path for path in needed if not path.is_file()]:
        raise MissingError(f"{missing[0]}: missing from a tokenizer's files; build it again")
    return [path for path in (directory / MODEL_FILE, *needed) if path.is_file()]


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
