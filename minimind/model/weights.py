"""A model as two files: `model.safetensors` (fp32, a tied weight stored once) and `config.json`.

Tensor names are Hugging Face's, `config.json` is our `ModelConfig`; the stock classes' own config is
written by the export. Loading checks every name and shape before a model is built from them. Not
here: the tokenizer's files beside these, checksums (the artifact's manifest has them).
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minimind.data.reading.strict_json import RowError, read_json
from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.model.config import ModelConfig
from minimind.model.layers import Embedding, Linear
from minimind.model.transformer import Transformer
from minimind.runtime import write_atomic, write_json

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
_FLOATS = ("F32", "F64", "F16", "BF16")
REMEDY = "build the stage that wrote it again, or point to another model directory"


def save_model(directory: Path, model: Transformer) -> None:
    """Write the model's two files into `directory`, each atomically. Adapters must be merged before."""
    state = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in model.state_dict().items()}
    adapters = sorted(name for name in state if ".lora_" in name)
    if adapters:
        raise ConfigError(f"the model still carries adapters ({adapters[0]}, …); call merge_lora before saving it")
    write_atomic(directory / WEIGHTS_FILE, save(state, metadata={"format": "pt"}))
    write_json(directory / CONFIG_FILE, model.config.model_dump())


def load_config(directory: Path) -> ModelConfig:
    """The shape of the model in `directory`. Raises MissingError, ArtifactError or ConfigError naming the file."""
    path = directory / CONFIG_FILE
    try:
        values = read_json(path.read_bytes())
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file; {directory} is no model directory: {REMEDY}") from None
    except RowError as error:
        raise ArtifactError(f"{path}: is not valid JSON ({error.detail}); {REMEDY}") from None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); {REMEDY}") from None
    if not isinstance(values, dict):
        raise ArtifactError(f"{path}: holds {type(values).__name__}, a JSON object was expected; {REMEDY}")
    return ModelConfig.parse(values, origin=str(path))


def load_model(directory: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Transformer:
    """The model in `directory`, with fp32 weights that compute in fp32.

    `dtype` is for inference: matrices are stored in it and products run in it, norms and routers
    stay fp32. To train in bf16, load without it and call `set_compute_dtype`.
    """
    config = load_config(directory)
    with torch.device("meta"):
        model = Transformer(config, compute_dtype=dtype or torch.float32)
    state = _read_weights(directory / WEIGHTS_FILE, {name: p.shape for name, p in model.named_parameters()}, device)
    model.load_state_dict(state, assign=True)
    if dtype is not None:
        for module in model.modules():
            if isinstance(module, Linear | Embedding):
                module.weight.data = module.weight.data.to(dtype)
    return model


def _read_weights(path: Path, shapes: dict[str, torch.Size], device: torch.device | str) -> dict[str, Tensor]:
    """The tensors of `shapes` in fp32, once the file is known to hold them and nothing else."""
    if not path.exists():
        raise MissingError(f"{path}: no such file; {REMEDY}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            stored = {name: torch.Size(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _compare(path, stored, shapes)
            if odd := [name for name in shapes if file.get_slice(name).get_dtype() not in _FLOATS]:
                raise ArtifactError(f"{path}: {odd[0]} is stored as {file.get_slice(odd[0]).get_dtype()}; {REMEDY}")
            return {name: file.get_tensor(name).to(torch.float32) for name in shapes}
    except ArtifactError:
        raise
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path}: is damaged or no safetensors file ({error}); {REMEDY}") from None


def _compare(path: Path, stored: dict[str, torch.Size], shapes: dict[str, torch.Size]) -> None:
    """Raise ArtifactError when names or shapes in the file are not the model's."""
    missing, foreign = sorted(shapes.keys() - stored.keys()), sorted(stored.keys() - shapes.keys())
    if missing or foreign:
        lacks = f"lacks {len(missing)} tensors ({', '.join(missing[:3])})" if missing else ""
        extra = f"has {len(foreign)} it should not ({', '.join(foreign[:3])})" if foreign else ""
        found = " and ".join(part for part in (lacks, extra) if part)
        raise ArtifactError(f"{path}: {found} for the model that {CONFIG_FILE} describes; {REMEDY}")
    for name, shape in shapes.items():
        if stored[name] != shape:
            raise ArtifactError(
                f"{path}: {name} is {tuple(stored[name])}, {CONFIG_FILE} makes it {tuple(shape)}; {REMEDY}"
            )
