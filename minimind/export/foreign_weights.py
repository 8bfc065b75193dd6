"""Somebody else's tensors: read without running anything, named and shaped as ours, or refused by name.

Files are safetensors (one, or shards with an index) or a PyTorch state dict, which is opened with `weights_only`: what
would run code when it is opened is refused. What wrappers put before names is taken off; buffers that follow from the
config are left out. A head that equals the embedding is a tied one.

Not here: the shape that is wanted (`foreign_config`, `inference`).
"""

import json
import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from minimind.errors import ConfigError, DataError, MissingError
from minimind.export.hf_model import own_state
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
PICKLED = (".pth", ".pt", ".bin")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_WRAPPERS = ("_orig_mod.", "module.")
_NESTED = ("model", "state_dict", "model_state_dict")
"""Under which a checkpoint has its weights, beside other things."""
_BUFFERS = ("rotary_emb.inv_freq", "freqs_cos", "freqs_sin", "freqs_cis", "pos_cis", "attn.mask")
_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights of a folder, or `path` itself. Raises MissingError or ConfigError."""
    if path.is_file():
        if path.suffix not in (*PICKLED, ".safetensors"):
            raise ConfigError(f"{path}: is no model; give a folder of Hugging Face's, a .safetensors, .pth or .pt file")
        return [path]
    if not path.is_dir():
        raise MissingError(f"{path}: no such file or folder; a model on a hub must be fetched first")
    for name in SINGLE_FILES:
        if (path / name).is_file():
            return [path / name]
    for name in INDEX_FILES:
        if (path / name).is_file():
            return [path / shard for shard in _shards(path / name)]
    raise MissingError(f"{path}: has none of {', '.join(SINGLE_FILES)}, nor shards of one; it is no model's folder")


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{index}: is damaged, or no index of shards (it has no weight_map)") from None


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors by name, as they are stored. Raises an error that names the file for what is no set of tensors."""
    state: dict[str, Tensor] = {}
    for path in files:
        state |= _read_pickled(path) if path.suffix in PICKLED else _read_safetensors(path)
    named = {_unwrapped(name): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if not name.endswith(_BUFFERS)}


def has_qk_norm(state: Mapping[str, Tensor]) -> bool:
    return any(name.endswith("self_attn.q_norm.weight") for name in state)


def own_tensors(config: ModelConfig, state: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """The tensors of a model of this shape, in fp32 under our names.

    Raises DataError naming what is missing, unknown, of another shape, no number of ours, or not finite.
    """
    ours = _with_shared_experts(config, own_state(config, state))
    if config.tie_embeddings and HEAD in ours:
        if EMBEDDING in ours and not torch.equal(ours[HEAD], ours[EMBEDDING]):
            raise DataError(f"{where}: tie_word_embeddings is set, and {HEAD} differs from {EMBEDDING}")
        del ours[HEAD]
    with torch.device("meta"):
        wanted = {name: parameter.shape for name, parameter in Transformer(config).named_parameters()}
    missing, unknown = sorted(wanted.keys() - ours.keys()), sorted(ours.keys() - wanted.keys())
    if missing or unknown:
        lacks = f"lacks {', '.join(missing[:3])}{' …' * (len(missing) > 3)}" if missing else ""
        extra = f"has {', '.join(unknown[:3])}{' …' * (len(unknown) > 3)}, unknown to us" if unknown else ""
        raise DataError(f"{where}: {' and '.join(part for part in (lacks, extra) if part)}")
    for name, shape in wanted.items():
        _check(name, ours[name], shape, where)
    return {name: ours[name].to(torch.float32).contiguous() for name in wanted}


def _check(name: str, tensor: Tensor, shape: torch.Size, where: str) -> None:
    if tensor.shape != shape:
        raise DataError(f"{where}: {name} is {tuple(tensor.shape)}, the settings make it {tuple(shape)}")
    if tensor.dtype not in _FLOATS:
        raise DataError(f"{where}: {name} is stored as {tensor.dtype}; quantised weights cannot be imported")
    if not torch.isfinite(tensor).all():
        raise DataError(f"{where}: {name} has NaN or infinity; such a model answers nothing")


def _with_shared_experts(config: ModelConfig, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Upstream's shared experts, which it keeps one by one, as the one SwiGLU that is the sum of them."""
    for layer in range(config.num_layers):
        for part, axis in (("gate", 0), ("up", 0), ("down", 1)):
            prefix = f"model.layers.{layer}.mlp.shared_experts"
            names = [f"{prefix}.{number}.{part}_proj.weight" for number in range(config.num_shared_experts)]
            if names and all(name in state for name in names):
                state[f"{prefix}.{part}_proj.weight"] = torch.cat([state.pop(name) for name in names], axis)
    return state


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file, though the index lists it") from None
    except SafetensorError as error:
        raise DataError(f"{path}: is damaged or no safetensors file ({error})") from None


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol", UserWarning)  # what follows says it better
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError:
        raise DataError(
            f"{path}: would run code when it is opened, or is no PyTorch file; save a state dict of tensors only: "
            'torch.save(model.state_dict(), "model.pth")'
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise DataError(f"{path}: is damaged or no PyTorch file ({str(error).splitlines()[0]})") from None
    for name in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if not isinstance(loaded, Mapping) or not loaded:
        raise DataError(f"{path}: holds {type(loaded).__name__}, a state dict (name → tensor) was expected")
    other = next((name for name, value in loaded.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise DataError(f"{path}: {other} is {type(loaded[other]).__name__}, a tensor was expected")
    return dict(loaded)


def _is_zip(path: Path) -> bool:
    """Whether PyTorch wrote it as it does since 1.6; only such a file can be mapped."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
