"""Low-rank adapters (Hu et al. 2021): W x + α/r · B A x with W frozen. A transform of a model, not a trainer.

`apply_lora` swaps linear maps for adapted ones in place and freezes everything else; any loop then
trains what is left. `merge_lora` adds B·A into W and gives plain linear maps back. B starts at zero,
so a freshly adapted model computes what it did before. Names stay what they were, with `lora_A` and
`lora_B` beside `weight`.

Adapters are saved as the two files of peft, so that they load there on the model exported to Hugging Face's classes,
and here. Not here: dropout, adapters on embeddings or routers, several at once; peft on a mixture of experts, whose
matrices Hugging Face stacks.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from minimind.config import nearest
from minimind.data.reading.strict_json import read_json
from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.model.layers import Linear
from minimind.model.transformer import Transformer
from minimind.runtime import write_atomic, write_json

ADAPTER_FILE, ADAPTER_CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
"""peft's names."""
_PREFIX = "base_model.model."
"""What peft puts before the name of a matrix."""


class LoraLinear(Linear):
    """A frozen linear map with a trainable low-rank correction of its own."""

    def __init__(self, base: Linear, *, rank: int, alpha: float) -> None:
        nn.Module.__init__(self)
        outputs, inputs = base.weight.shape
        device = base.weight.device
        self.weight = base.weight
        self.lora_A = nn.Parameter(torch.empty(rank, inputs, dtype=torch.float32, device=device))
        self.lora_B = nn.Parameter(torch.zeros(outputs, rank, dtype=torch.float32, device=device))
        self.scale = alpha / rank

    def forward(self, x: Tensor) -> Tensor:
        weight, lora_A, lora_B = (matrix.to(x.dtype) for matrix in (self.weight, self.lora_A, self.lora_B * self.scale))
        return _Adapted.apply(x.flatten(0, -2), weight, lora_A, lora_B).unflatten(0, x.shape[:-1])


class _Adapted(torch.autograd.Function):
    """x Wᵀ + (x Aᵀ) Bᵀ for rows x, the second product added to the first where that stands, both ways."""

    @staticmethod
    def forward(ctx: Any, x_ND: Tensor, weight_FD: Tensor, lora_A_RD: Tensor, lora_B_FR: Tensor) -> Tensor:
        low_NR = x_ND @ lora_A_RD.T
        ctx.save_for_backward(x_ND, low_NR, weight_FD, lora_A_RD, lora_B_FR)
        return (x_ND @ weight_FD.T).addmm_(low_NR, lora_B_FR.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_NF: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, low_NR, weight_FD, lora_A_RD, lora_B_FR = ctx.saved_tensors
        dlow_NR = gradient_NF @ lora_B_FR
        dx_ND = (gradient_NF @ weight_FD).addmm_(dlow_NR, lora_A_RD) if ctx.needs_input_grad[0] else None
        return dx_ND, None, dlow_NR.T @ x_ND, gradient_NF.T @ low_NR


def apply_lora(model: Transformer, *, rank: int, alpha: float, targets: Sequence[str], seed: int = 0) -> None:
    """Adapt every linear map whose name ends in one of `targets` (`q_proj`, `self_attn.q_proj`); freeze the rest.

    A is uniform in ±1/√inputs (the usual Kaiming initialisation), seeded by `seed` and its name.
    Raises ConfigError for a rank below 1, a target nothing matches, or a model that has adapters.
    """
    if rank < 1:
        raise ConfigError(f"lora.rank: must be at least 1 (given: {rank})")
    linears = {name: m for name, m in model.named_modules() if isinstance(m, Linear) and name != "lm_head"}
    if any(isinstance(module, LoraLinear) for module in linears.values()):
        raise ConfigError("the model carries adapters already; merge them (merge_lora) before applying others")
    chosen = {name for target in targets for name in _matches(target, list(linears))}
    if not chosen:
        raise ConfigError("lora.targets: name at least one linear map" + nearest("", _short_names(list(linears))))
    model.requires_grad_(False)
    for name in sorted(chosen):
        adapted = LoraLinear(linears[name], rank=rank, alpha=alpha)
        digest = hashlib.sha256(f"{seed} {name}.lora_A".encode()).digest()
        generator = torch.Generator(device="cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        bound = 1 / math.sqrt(adapted.lora_A.shape[1])
        values = torch.empty(adapted.lora_A.shape).uniform_(-bound, bound, generator=generator)
        adapted.lora_A.data.copy_(values)
        model.set_submodule(name, adapted)


@torch.no_grad()
def merge_lora(model: Transformer) -> None:
    """Fold every adapter into its weight, remove it, and make all weights trainable again.

    W + α/r · (B A) in float64 on the CPU, rounded once to the dtype of the weight.
    """
    for name, adapted in _adapted(model).items():
        weight, lora_A, lora_B = (matrix.cpu().double() for matrix in (adapted.weight, adapted.lora_A, adapted.lora_B))
        plain = Linear(0, 0)
        plain.weight = adapted.weight
        plain.weight.copy_((weight + adapted.scale * (lora_B @ lora_A)).to(plain.weight.dtype))
        model.set_submodule(name, plain)
    model.requires_grad_(True)


def lora_state(model: Transformer) -> dict[str, Tensor]:
    """The adapters' matrices by name, detached and still the model's own memory."""
    return {
        f"{name}.{matrix}": getattr(adapted, matrix).detach()
        for name, adapted in _adapted(model).items()
        for matrix in ("lora_A", "lora_B")
    }


@torch.no_grad()
def load_lora(model: Transformer, state: Mapping[str, Tensor]) -> None:
    """Copy matrices saved by `lora_state` into a model adapted alike. Raises ArtifactError naming what differs."""
    own = lora_state(model)
    differing = sorted(own.keys() ^ state.keys())
    if differing:
        raise ArtifactError(
            f"the adapters in the file and those of the model differ in {differing[0]} and {len(differing) - 1} more; "
            "apply_lora with the targets the file was trained with"
        )
    for name, matrix in own.items():
        if state[name].shape != matrix.shape:
            raise ArtifactError(
                f"{name} is {tuple(state[name].shape)} in the file and {tuple(matrix.shape)} in the model; "
                "use the rank and the base model the file was trained with"
            )
        matrix.copy_(state[name])


def save_adapter(directory: Path, model: Transformer, *, targets: Sequence[str], base: str | None) -> None:
    """Write the adapters of `model` as peft does; `base` says of which model they are. No other weight is written."""
    adapters = list(_adapted(model).values())
    if not adapters:
        raise ConfigError("the model carries no adapters; call apply_lora before saving them")
    rank = len(adapters[0].lora_A)
    directory.mkdir(parents=True, exist_ok=True)
    state = {f"{_PREFIX}{name}.weight": matrix.cpu().contiguous() for name, matrix in lora_state(model).items()}
    write_atomic(directory / ADAPTER_FILE, save(state, metadata={"format": "pt"}))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": adapters[0].scale * rank,
        "target_modules": list(targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    write_json(directory / ADAPTER_CONFIG_FILE, config)


def load_adapter(directory: Path, model: Transformer) -> None:
    """Adapt `model` with what `save_adapter`, or peft for these matrices, wrote. Raises an error naming the file."""
    path = directory / ADAPTER_CONFIG_FILE
    try:
        config = read_json(path.read_bytes())
        rank, alpha, targets = int(config["r"]), float(config["lora_alpha"]), list(config["target_modules"])
        state = load_file(directory / ADAPTER_FILE)
    except FileNotFoundError as error:
        raise MissingError(f"{error.filename or directory / ADAPTER_FILE}: no such file; it is no adapter") from None
    except (ValueError, KeyError, TypeError, OverflowError, OSError, SafetensorError) as error:
        raise ArtifactError(f"{directory}: is damaged or no adapter ({error}); train it again") from None
    stored = {len(matrix) for name, matrix in state.items() if "lora_A" in name and matrix.ndim}
    if stored != {rank}:  # before anything of that size is made
        raise ArtifactError(f"{path}: r = {rank}, and the matrices have {sorted(stored)} rows; train it again")
    own = {name.removeprefix(_PREFIX).removesuffix(".weight"): matrix for name, matrix in state.items()}
    try:
        apply_lora(model, rank=rank, alpha=alpha, targets=targets)
        load_lora(model, own)
    except (ArtifactError, ConfigError) as error:
        raise ArtifactError(f"{directory}: is no adapter of this model: {error}") from None


def _adapted(model: Transformer) -> dict[str, LoraLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def _matches(target: str, names: list[str]) -> list[str]:
    """The names that end in `target` at a dot; an unknown target is an error with the nearest known one."""
    found = [name for name in names if name == target or name.endswith(f".{target}")]
    if not found:
        raise ConfigError(f"lora.targets: no linear map is named `{target}`" + nearest(target, _short_names(names)))
    return found


def _short_names(names: list[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in names})
