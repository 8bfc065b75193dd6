"""Somebody else's tokenizer in the place of a trained one: found, checked, and written as ours are.

`[tokenizer] file` names a `tokenizer.model` of sentencepiece, a `tokenizer.json` of Hugging Face, or a directory with
either (a tokenizer.json counts first: it knows the tokens that were added later). Upstream MiniMind's is a
tokenizer.json, byte-level BPE of 6,400 ids.

What is changed on the way, in the copy only: the tokens of conversations are marked special, and nothing is put
before a text, cut, padded or dropped at random. So stock transformers and `Tokenizer` give equal ids; for a
tokenizer.model, whose twin is made here, this is proven on a sample of the corpus. A unigram model's twin knows no
way to read the name of a special token as text (Hugging Face's `Unigram` has none), so a tokenizer.json of that type is
refused, and of a tokenizer.model only the twin has that hole, not `Tokenizer`.

Not here: which names are looked for (`vocabulary.find_specials`), how the files are read (`encoders`).
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from minimind.config import expanded, printable
from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.runtime import file_sha256
from minimind.tokens.encoders import FastEncoder, read_fast_settings, read_proto
from minimind.tokens.hf_tokenizer import FAST_FILE, merges_of, write_hf_config
from minimind.tokens.tokenizer import MODEL_FILE, Tokenizer
from minimind.tokens.vocabulary import SPACE_MARK, find_specials

_UNIGRAM, _BPE = 1, 2
"""sentencepiece's numbers for the types of models that can be written as a tokenizer.json."""


def locate(file: str) -> Path:
    """The tokenizer.json or tokenizer.model that a setting means. Raises MissingError or ConfigError."""
    path = expanded(file)
    leave_out = "leave it out to have a tokenizer trained"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name with a NUL
        raise MissingError(f"{_named(file)}: no such file; {leave_out}") from None
    except OSError as error:
        raise MissingError(f"{_named(file)}: {error.strerror}; name another, or {leave_out}") from None
    if path.is_dir():
        found = next((path / name for name in (FAST_FILE, MODEL_FILE) if (path / name).is_file()), None)
        if found is None:
            raise MissingError(f"{_named(file)}: neither {FAST_FILE} nor {MODEL_FILE} is in this directory")
        return found
    if not path.is_file():
        raise MissingError(f"{_named(file)}: is no regular file; {leave_out}")
    if path.suffix not in (".json", ".model"):
        raise ConfigError(
            f"{_named(file)}: give a tokenizer.model (sentencepiece), a tokenizer.json (Hugging Face), "
            "or a directory with either"
        )
    return path


def _named(file: str | Path) -> str:
    return f"`tokenizer.file` = {printable(str(file))}"


def digest(file: str) -> dict[str, str]:
    """The source of a stage that uses the file: its name and the sha256 of its bytes."""
    path = locate(file)
    return {path.name: file_sha256(path)}


def open_foreign(file: str) -> Tokenizer:
    """The tokenizer a setting means, read where it lies. Raises MissingError or ConfigError, naming the setting."""
    path = locate(file)
    try:
        if path.suffix == ".json":
            return Tokenizer.of_fast(path.read_text(encoding="utf-8"), path.parent, name=path.name)
        return Tokenizer.of_model(path.read_bytes(), path.parent)
    except (ArtifactError, UnicodeDecodeError):
        what = "is no UTF-8; save it as UTF-8" if path.suffix == ".json" else "is no sentencepiece model"
        raise ConfigError(f"{_named(file)}: {what}; give another file, or leave it out to have one trained") from None
    except OSError as error:
        raise MissingError(f"{_named(file)}: cannot be read ({error.strerror}); look at it") from None


def adopt(file: str, out_dir: Path, *, sample: Iterable[str]) -> Tokenizer:
    """Write the files of somebody else's tokenizer into `out_dir`.

    Raises ConfigError where the Hugging Face twin of a tokenizer.model gives other ids for a text of `sample`.
    """
    path, tokenizer = locate(file), open_foreign(file)
    if path.suffix == ".json":
        settings = read_fast_settings(path.read_text(encoding="utf-8"), where=str(path))
    else:
        (out_dir / MODEL_FILE).write_bytes(path.read_bytes())
        settings = read_fast_settings(_twin(path), where=str(path))
    (out_dir / FAST_FILE).write_text(json.dumps(settings, ensure_ascii=False) + "\n", encoding="utf-8")
    write_hf_config(out_dir, end_of_text=tokenizer.pieces()[tokenizer.specials.end_of_text])
    if path.suffix != ".json":
        _require_equal_ids(path, tokenizer, out_dir, sample)
    return Tokenizer.load(out_dir)


def _require_equal_ids(path: Path, tokenizer: Tokenizer, out_dir: Path, sample: Iterable[str]) -> None:
    twin = FastEncoder((out_dir / FAST_FILE).read_text(encoding="utf-8"))
    for number, text in enumerate(sample):
        if tokenizer.encode(text) != twin.encode_batch([text])[0]:
            raise ConfigError(
                f"{_named(path)}: its Hugging Face twin gives other ids for text {number} of the sample, "
                f"{text[:40]!r}; give the tokenizer.json that belongs to it"
            )


def _twin(path: Path) -> str:
    """The tokenizer.json of a sentencepiece model: the same pieces, the same treatment of blanks and letters."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

    proto = read_proto(path.read_bytes())
    names = [piece.piece for piece in proto.pieces]
    special = find_specials({name: index for index, name in enumerate(names)}, where=str(path)).named()
    tokenizer = Tokenizer(_model(path, proto, names, models))
    spec, steps = proto.normalizer_spec, []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend(SPACE_MARK))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE_MARK)])
    read = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*read, *([decoders.Strip(" ", 1, 0)] if spec.add_dummy_prefix else [])])
    control = [p.piece for i, p in enumerate(proto.pieces) if p.type == proto.SentencePiece.CONTROL or i in special]
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in control])
    return tokenizer.to_str()


def _model(path: Path, proto: Any, names: list[str], models: Any) -> Any:
    spec, kinds = proto.trainer_spec, proto.SentencePiece
    unknown = next((i for i, piece in enumerate(proto.pieces) if piece.type == kinds.UNKNOWN), None)
    if spec.model_type == _UNIGRAM:
        scored = [(piece.piece, piece.score) for piece in proto.pieces]
        return models.Unigram(scored, unknown, spec.byte_fallback)
    if spec.model_type != _BPE:
        raise ConfigError(f"{_named(path)}: a model of words or characters; only BPE and unigram can be used")
    normal = [piece for piece in proto.pieces if piece.type == kinds.NORMAL]
    learnt = [piece.piece for piece in sorted(normal, key=lambda piece: -piece.score)]
    return models.BPE(
        vocab={name: index for index, name in enumerate(names)},
        merges=merges_of(learnt),
        unk_token=None if unknown is None else names[unknown],
        fuse_unk=True,
        byte_fallback=spec.byte_fallback,
    )
