"""What turns a text into ids: one class for each kind of tokenizer file.

    PieceEncoder          tokenizer.model of this project: kitoken
    SentencePieceEncoder  somebody else's tokenizer.model: sentencepiece itself
    FastEncoder           somebody else's tokenizer.json: Hugging Face's `tokenizers` itself

Measured on 12.6 MB of English and Chinese text, MB per CPU second, same vocabulary and same ids: kitoken 11.8 (this
module around it costs nothing), sentencepiece 6.7, tokenizers 4.1, transformers' call 3.2 (`benchmarks/encoding.py`).
kitoken has given sentencepiece's ids on every text tried: 20,000 from hypothesis, 60,000 of overlapping pieces,
85,000 texts of corpora and chats. It does so for the settings our models are trained with; files with other settings
are read by the library that wrote them. tiktoken over the same pieces, 8.0, merges bytes where sentencepiece merges
characters, and gives other ids.

None ever gives a special token for a text: those that a file would find in text are switched off first, and
`Tokenizer.load` proves it. Threads are not used: one process per shard scales, threads in an encoder do not.
Not here: the names that make a token special (`vocabulary`), files that are made of others (`foreign_tokenizer`).
"""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import Any, Protocol

from minimind.config import shortened
from minimind.data.reading.strict_json import RowError, read_json
from minimind.errors import ArtifactError, ConfigError
from minimind.tokens.vocabulary import FIRST_BYTE, FIRST_PIECE, SPACE_MARK, SPECIAL_TOKENS, find_specials

_MARK_IDS = [FIRST_BYTE + byte for byte in SPACE_MARK.encode("utf-8")]
_MAX_IDS = 1 << 22
"""Four times the largest vocabulary that can be trained with; tables are made of so many."""
_DECODERS = {"ByteLevel", "ByteFallback", "Fuse", "Replace", "Metaspace", "Strip", "Sequence"}


class Encoder(Protocol):
    """Texts to ids, and the tables that turn ids back."""

    names: list[str]
    """By id, as the file writes it."""
    spoken: list[bytes]
    """By id, UTF-8 of the text it stands for, nothing for special tokens. Parts of characters are bytes of them."""
    spelt: frozenset[int]
    """Ids of single bytes, in which characters without a piece are spelt."""
    drops_first_blank: bool
    """Whether the tokenizer puts a blank before a text, which decoding takes away."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]: ...  # pragma: no cover


class PieceEncoder:
    """A model of `minimind.tokens.vocabulary`; `is_own` says whether names are those of one."""

    drops_first_blank = False

    def __init__(self, model: bytes) -> None:
        import kitoken

        self.names = piece_names(model)
        self._kitoken = kitoken.Kitoken.from_sentencepiece(model)
        learnt = [name.replace(SPACE_MARK, " ").encode("utf-8") for name in self.names[FIRST_PIECE:]]
        self.spoken = [*[b""] * FIRST_BYTE, *(bytes([byte]) for byte in range(256)), *learnt]
        self.spelt = frozenset(range(FIRST_BYTE, FIRST_PIECE))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """A text's own U+2581, which sentencepiece cannot tell from a blank, is cut out and written as its bytes."""
        if not any(SPACE_MARK in text for text in texts):
            return self._kitoken.encode_all(list(texts), False)
        parts = [text.split(SPACE_MARK) for text in texts]
        encoded = iter(self._kitoken.encode_all([part for split in parts for part in split], False))
        return [_join(islice(encoded, len(split))) for split in parts]


class SentencePieceEncoder:
    """Any sentencepiece model, whatever it does to blanks and letters."""

    def __init__(self, model: bytes) -> None:
        import sentencepiece

        proto = read_proto(model)
        special = set(find_specials({p.piece: i for i, p in enumerate(proto.pieces)}, where="tokenizer.model").named())
        for index in special:  # as a control symbol it is never found in text
            proto.pieces[index].type = proto.SentencePiece.CONTROL
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        kinds = proto.SentencePiece
        self.names = [piece.piece for piece in proto.pieces]
        silent = {kinds.CONTROL, kinds.UNKNOWN}
        self.spoken = [
            b"" if p.type in silent else byte_of(p.piece) if p.type == kinds.BYTE else _unmarked(p.piece)
            for p in proto.pieces
        ]
        self.spelt = frozenset(index for index, piece in enumerate(proto.pieces) if piece.type == kinds.BYTE)
        self.drops_first_blank = proto.normalizer_spec.add_dummy_prefix

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._processor.encode(list(texts), num_threads=1)


class FastEncoder:
    """Any tokenizer.json whose decoder works token by token (byte-level or with byte fallback)."""

    def __init__(self, text: str, *, where: str = "tokenizer.json") -> None:
        import tokenizers

        settings = read_fast_settings(text, where=where)
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(settings))
        except Exception as error:  # the library knows no other class
            why = shortened(" ".join(str(error).split()))
            raise ConfigError(f"{where}: cannot be used as a tokenizer.json ({why}); give another file") from None
        self._tokenizer.encode_special_tokens = True
        ids = self._tokenizer.get_vocab(with_added_tokens=True)
        _require_said_ids(_ids_of(settings), ids, where)
        self.names = [""] * (max(ids.values()) + 1)
        for name, index in ids.items():
            self.names[index] = name
        decoders = _flattened(settings.get("decoder"), "decoders")
        self._check(decoders, where)
        added = {entry["id"]: entry for entry in settings.get("added_tokens") or ()}
        byte_level = any(decoder["type"] == "ByteLevel" for decoder in decoders)
        to_bytes = _byte_level if byte_level else _with_replacements(decoders)
        self.spoken = [
            (b"" if added[i]["special"] else name.encode("utf-8")) if i in added else to_bytes(name)
            for i, name in enumerate(self.names)
        ]
        self.spelt = frozenset(
            index
            for index, raw in enumerate(self.spoken)
            if (_is_part(raw) if byte_level else index not in added and is_byte_name(self.names[index]))
        )
        strips = any(decoder["type"] == "Strip" and decoder.get("start") for decoder in decoders)
        prepends = any(d["type"] == "Metaspace" and d.get("prepend_scheme") != "never" for d in decoders)
        self.drops_first_blank = strips or prepends

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self._tokenizer.encode(text, add_special_tokens=False).ids for text in texts]

    def _check(self, decoders: list[dict[str, Any]], where: str) -> None:
        unknown = {decoder["type"] for decoder in decoders} - _DECODERS
        if unknown or not decoders:
            found = f"a decoder of type {', '.join(sorted(unknown))}" if unknown else "no decoder"
            raise ConfigError(
                f"{where}: has {found}, so its tokens do not stand for bytes one by one; use a byte-level tokenizer, "
                "one with byte fallback, or leave out tokenizer.file to have one trained"
            )


def is_own(names: Sequence[str]) -> bool:
    """Whether a sentencepiece model with these names was trained by this project."""
    return tuple(names[: len(SPECIAL_TOKENS)]) == SPECIAL_TOKENS and "<0x00>" in names[FIRST_BYTE : FIRST_BYTE + 1]


def piece_names(model: bytes) -> list[str]:
    """The names of a sentencepiece model's ids. Raises ArtifactError for bytes that are none."""
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except (RuntimeError, OSError) as error:
        raise ArtifactError(f"no sentencepiece model: {error}") from None
    return [processor.id_to_piece(index) for index in range(processor.get_piece_size())]


def read_proto(model: bytes) -> Any:
    """A sentencepiece model as its protocol buffer."""
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError:
        raise ArtifactError("no sentencepiece model") from None
    return proto


def read_fast_settings(text: str, *, where: str) -> dict[str, Any]:
    """A tokenizer.json as we use and export it: special tokens special, nothing cut, padded, put before or random.

    Raises ConfigError where it is no tokenizer.json, or has no token that conversations need.
    """
    try:
        settings = read_json(text.encode("utf-8"))
        ids = _ids_of(settings)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        why = f" ({error.detail})" if isinstance(error, RowError) else ""
        raise ConfigError(f"{where}: is not a tokenizer.json of Hugging Face's tokenizers{why}; give another") from None
    added = settings.get("added_tokens") or []
    special = set(find_specials(ids, where=where).named())
    known = {entry["id"] for entry in added}
    settings["added_tokens"] = [{**e, "special": True} if e["id"] in special else e for e in added] + [
        _added(index, name) for name, index in ids.items() if index in special - known
    ]
    settings["added_tokens"].sort(key=lambda entry: entry["id"])
    settings |= {"truncation": None, "padding": None, "post_processor": None}
    if settings["model"].get("dropout"):
        settings["model"]["dropout"] = None
    return settings


def _ids_of(settings: dict[str, Any]) -> dict[str, int]:
    """Name → id of all tokens. Raises a standard error where that is not what the file says."""
    vocabulary = settings["model"]["vocab"]
    ids = dict(vocabulary) if isinstance(vocabulary, dict) else {item[0]: i for i, item in enumerate(vocabulary)}
    ids |= {entry["content"]: entry["id"] for entry in settings.get("added_tokens") or []}
    for name, index in ids.items():
        if not isinstance(name, str) or type(index) is not int or not 0 <= index < _MAX_IDS:
            raise ValueError("an id is a whole number, and there are not millions of them")
    return ids


def _require_said_ids(said: dict[str, int], given: dict[str, int], where: str) -> None:
    """Raise ConfigError where the library gives a token another id than the file says, or one id to two tokens."""
    for name, index in said.items():
        if given.get(name) != index:
            raise ConfigError(f"{where}: says {name!r:.40} is id {index}, and its library gives it {given.get(name)}")
    by_id: dict[int, str] = {}
    for name, index in sorted(given.items()):
        if (other := by_id.setdefault(index, name)) != name:
            raise ConfigError(f"{where}: gives {name!r:.40} and {other!r:.40} one id, {index}; use another tokenizer")


def byte_of(name: str) -> bytes:
    """The byte that `<0x41>` names."""
    return bytes([int(name[3:5], 16)])


def is_byte_name(name: str) -> bool:
    return len(name) == 6 and name.startswith("<0x") and name.endswith(">")


def _added(index: int, name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": name, **flags, "special": True}


def _unmarked(piece: str) -> bytes:
    return piece.replace(SPACE_MARK, " ").encode("utf-8")


def _flattened(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """The parts of a pipeline in a tokenizer.json, sequences taken apart."""
    if not part:
        return []
    return [p for inner in part[key] for p in _flattened(inner, key)] if part["type"] == "Sequence" else [part]


def _is_part(raw: bytes) -> bool:
    """Whether these bytes are a part of a character."""
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return True
    return False


def _byte_level(name: str) -> bytes:
    """The bytes behind the letters that byte-level vocabularies write them as; other letters as they are."""
    table = _byte_letters()
    return b"".join(bytes([table[c]]) if c in table else c.encode("utf-8") for c in name)


@cache
def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 stands for itself, the other bytes for U+0100 and on."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _with_replacements(decoders: Iterable[dict[str, Any]]) -> Any:
    """How a vocabulary without byte letters is read: bytes by name, blanks by their mark."""
    replaced = {SPACE_MARK: " "} if any(decoder["type"] == "Metaspace" for decoder in decoders) else {}
    for decoder in decoders:
        if decoder["type"] == "Replace" and "String" in decoder["pattern"]:
            replaced[decoder["pattern"]["String"]] = decoder["content"]
    has_bytes = any(decoder["type"] == "ByteFallback" for decoder in decoders)

    def read(name: str) -> bytes:
        if has_bytes and is_byte_name(name):
            return byte_of(name)
        for old, new in replaced.items():
            name = name.replace(old, new)
        return name.encode("utf-8")

    return read


def _join(encoded: Iterable[list[int]]) -> list[int]:
    """The ids of the parts of a text that was cut at U+2581, with that character's bytes between them."""
    joined: list[int] = []
    for number, ids in enumerate(encoded):
        joined += [*_MARK_IDS, *ids] if number else ids
    return joined
