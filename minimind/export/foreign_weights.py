"""Somebody else's tensors: read without running anything, named and shaped as ours, or refused by name.

Files are safetensors (one, or shards with an index) or a PyTorch state dict, which is opened with `weights_only`: what
would run code when it is opened is refused. What wrappers put before names is taken off; buffers that follow from the
config are left out. A head that equals the embedding is a tied one.

Not here: the shape that is wanted (`foreign_config`, `inference`).
"""

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from minimind.config import shortened
from minimind.data.reading.strict_json import RowError, read_json
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
_HEADER_BYTES = 100_000_000
"""The longest header that the library reads."""
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
        names = set(read_json(index.read_bytes())["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(
            f"{index}: is damaged, or no index of shards (it has no weight_map); fetch the folder again"
        ) from None
    if odd := [name for name in names if not isinstance(name, str) or not _is_file_name(name)]:
        raise DataError(f"{index}: weight_map has {str(odd[0])[:80]!r}; shards are named as files of the same folder")
    if not names:
        raise DataError(f"{index}: weight_map is empty, so there are no shards; fetch the folder again")
    return sorted(names)


def _is_file_name(name: str) -> bool:
    return name.isprintable() and Path(name).name == name and name not in ("", "..")


def read_tensors(files: Iterable[Path]) -> dict[str, Tensor]:
    """All tensors by name, as they are stored. Raises an error that names the file for what is no set of tensors."""
    state: dict[str, Tensor] = {}
    for path in files:
        read = _read_pickled(path) if path.suffix in PICKLED else _read_safetensors(path)
        for name, tensor in ((_unwrapped(name), tensor) for name, tensor in read.items()):
            if name in state:
                raise DataError(f"{path}: has {name}, which was read before; which of the two counts is not known")
            if not name.endswith(_BUFFERS):
                state[name] = tensor
        if not read:
            raise DataError(f"{path}: has no tensors; fetch it again or give another file")
    return state


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
        _refuse_doubled(path)
        return load_file(path)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file, though the index lists it") from None
    except (SafetensorError, OSError) as error:
        why = shortened(" ".join(str(error).split()))
        raise DataError(f"{path}: is damaged or no safetensors file ({why}); fetch it again") from None


def _refuse_doubled(path: Path) -> None:
    """Raise DataError for a header that names a tensor twice, of which a reader takes the one or the other."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = file.read(size) if size < _HEADER_BYTES else b""
    try:
        read_json(header)
    except RowError as error:
        if error.reason == "duplicate_key":
            raise DataError(f"{path}: {error.detail}; it lies, give another file") from None


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
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file, though the index lists it") from None
    except Exception as error:  # torch's reader raises whatever its steps do on bytes that are no pickle of its own
        said = str(error).partition(". ")[0].partition("\n")[0][:120]
        why = said if " " in said else type(error).__name__
        raise DataError(f"{path}: is damaged or no PyTorch file ({why}); fetch it again") from None
    for name in _NESTED:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            loaded = loaded[name]
    if isinstance(loaded, Mapping) and not loaded:
        raise DataError(f"{path}: has no tensors; fetch it again or give another file")
    if not isinstance(loaded, Mapping):
        raise DataError(f"{path}: holds {type(loaded).__name__}, a state dict (name → tensor) was expected")
    other = next((name for name, value in loaded.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise DataError(f"{path}: {other} is {type(loaded[other]).__name__}, a tensor was expected")
    for name, tensor in loaded.items():
        if not isinstance(name, str):
            raise DataError(f"{path}: a tensor is named {name!r:.80}, a string was expected")
        if tensor.layout != torch.strided or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise DataError(f"{path}: {name} is {tuple(tensor.shape)} and not as many numbers are stored; it lies")
    return dict(loaded)


def _is_zip(path: Path) -> bool:
    """Whether PyTorch wrote it as it does since 1.6; only such a file can be mapped."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def _unwrapped(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name
