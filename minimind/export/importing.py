"""Somebody else's model as an artifact of the store: `minimind import`.

    model.safetensors config.json tokenizer.*      a model directory of ours, sealed

It is a stage like others: its sources are the sha256 of the files that were read, so the same files give the same
artifact, wherever they lay. It is pinned, or `minimind gc` would take it for a leftover. `minimind chat`, `minimind
export` and `-p init=` of a training take its directory.

A vocabulary that the model has room for and the tokenizer does not use is cut off (models are padded to round
numbers), which is said. The tokenizer's files become ours; a chat template of its own is replaced by the family's.

Not here: what can be read (`foreign_config`, `foreign_weights`), tokenizers (`minimind.tokens.foreign_tokenizer`).
"""

from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor

from minimind import runtime
from minimind.artifact import Artifact, Inputs, Store, Summary
from minimind.config import WHERE, Config
from minimind.errors import ConfigError, MissingError
from minimind.export.foreign_config import CONFIG_FILE, own_config, read_config
from minimind.export.foreign_weights import (
    EMBEDDING,
    HEAD,
    INDEX_FILES,
    has_qk_norm,
    own_tensors,
    read_tensors,
    weight_files,
)
from minimind.export.inference import infer_config
from minimind.export.probes import LONG_TEXT, TEXTS
from minimind.housekeeping.pins import pin
from minimind.model.config import ModelConfig, count_parameters
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.stage import Stage, build
from minimind.tokens import foreign_tokenizer
from minimind.tokens.encoders import is_own, piece_names
from minimind.tokens.hf_tokenizer import FAST_FILE, write_hf_tokenizer
from minimind.tokens.tokenizer import MODEL_FILE, Tokenizer


class ImportConfig(Config):
    """What is read. Places do not count; the bytes there do."""

    path: Annotated[str, WHERE]
    tokenizer: Annotated[str | None, WHERE] = None
    """A folder or file; None looks beside the weights."""
    preset: str | None = None


def bring_in(config: ImportConfig, _: Inputs, out_dir: Path) -> Summary:
    """Read, check and write the model. Raises ConfigError, DataError or MissingError with what is wrong."""
    path = Path(config.path)
    state = read_tensors(weight_files(path))
    shape, warnings = _shape(path, state, config.preset)
    tensors = own_tensors(shape, state, where=str(path))
    tokenizer = _take_tokenizer(_tokenizer_file(config), out_dir)
    shape, tensors, cut = _fitted(shape, tensors, tokenizer)
    with torch.device("meta"):
        model = Transformer(shape)
    model.load_state_dict(tensors, assign=True)
    save_model(out_dir, model)
    figures = {
        "parameters": count_parameters(shape),
        "vocab_size": shape.vocab_size,
        "num_layers": shape.num_layers,
        "hidden_size": shape.hidden_size,
        "stored_as": ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})),
    }
    return Summary(figures=figures, warnings=[*warnings, *cut])


def read_digests(config: ImportConfig) -> dict[str, str]:
    """Name → sha256 of every file that is read."""
    path = Path(config.path)
    files = [*weight_files(path), *_config_file(path), _tokenizer_file(config)]
    return {file.name: runtime.file_sha256(_present(file)) for file in files}


IMPORT = Stage("import", bring_in, sources=read_digests)


def import_model(
    path: Path, *, tokenizer: Path | None = None, preset: str | None = None, store: Store
) -> tuple[Artifact, bool]:
    """The artifact of the model at `path`, and whether it was there already.

    It is pinned: no pipeline could make it again. Raises ConfigError, DataError or MissingError with what is wrong.
    """
    place = str(path.expanduser().resolve())
    beside = str(tokenizer.expanduser().resolve()) if tokenizer else None
    artifact, reused = build(IMPORT, ImportConfig(path=place, tokenizer=beside, preset=preset), {}, store=store)
    pin(artifact, store)
    return artifact, reused


def _shape(path: Path, state: dict[str, Tensor], preset: str | None) -> tuple[ModelConfig, list[str]]:
    """From the config.json, or without one from the tensors; what was assumed is said."""
    described = _config_file(path)
    if not described or preset is not None:
        return infer_config(state, preset=preset, where=str(path))
    where = str(described[0])
    return own_config(read_config(described[0]), qk_norm=has_qk_norm(state), where=where), []


def _config_file(path: Path) -> list[Path]:
    """The config.json of a folder or beside a file, if it is there."""
    file = (path if path.is_dir() else path.parent) / CONFIG_FILE
    return [file] if file.is_file() or (path.is_dir() and any((path / name).is_file() for name in INDEX_FILES)) else []


def _tokenizer_file(config: ImportConfig) -> Path:
    """The file that the tokenizer is read from: a tokenizer.model of ours, else what counts of somebody else's."""
    path = Path(config.path)
    place = Path(config.tokenizer) if config.tokenizer else path if path.is_dir() else path.parent
    if place.is_file():
        return place
    found = [place / name for name in (FAST_FILE, MODEL_FILE) if (place / name).is_file()]
    if not found:
        raise MissingError(
            f"{place}: has neither {FAST_FILE} nor {MODEL_FILE}; give the folder of the tokenizer by --tokenizer"
        )
    if found[-1].name == MODEL_FILE and is_own(piece_names(found[-1].read_bytes())):
        return found[-1]
    return found[0]


def _take_tokenizer(file: Path, out_dir: Path) -> Tokenizer:
    """Write the tokenizer's files. One of ours comes back whole, its twin made again from its pieces."""
    if file.name == MODEL_FILE and is_own(piece_names(file.read_bytes())):
        (out_dir / MODEL_FILE).write_bytes(file.read_bytes())
        write_hf_tokenizer(piece_names(file.read_bytes()), out_dir)
        return Tokenizer.load(out_dir)
    return foreign_tokenizer.adopt(str(file), out_dir, sample=[*TEXTS, LONG_TEXT])


def _fitted(
    shape: ModelConfig, tensors: dict[str, Tensor], tokenizer: Tokenizer
) -> tuple[ModelConfig, dict[str, Tensor], list[str]]:
    """The model with as many rows in its embedding as the tokenizer has tokens."""
    size = tokenizer.vocab_size
    if size > shape.vocab_size:
        raise ConfigError(
            f"the tokenizer has {size} tokens and the model {shape.vocab_size}: it is not the model's; give that one "
            "by --tokenizer"
        )
    if size == shape.vocab_size:
        return shape, tensors, []
    cut = {name: tensors[name][:size].contiguous() for name in (EMBEDDING, HEAD) if name in tensors}
    said = f"rows {size} to {shape.vocab_size - 1} of the embedding, which no token of the tokenizer has, were left out"
    return shape.replace(vocab_size=size), {**tensors, **cut}, [said]


def _present(file: Path) -> Path:
    if not file.is_file():
        raise MissingError(f"{file}: no such file")
    return file
