"""Checkpoints: everything a killed training needs to go on as if nothing had happened.

    checkpoints/step-00000123/
        model.safetensors       the trained parameters, fp32
        optimizer.safetensors   `parameter name|what` → tensor
        rng.safetensors         torch's generator state of every rank
        checkpoint.json         step and sums, events offset, sha256 of the files above

No pickle. A checkpoint is written under another name, flushed, and appears by one rename; the two
newest are kept. Loading proves the sums first: a flipped bit costs a checkpoint, not a training.
Not here: frozen weights (they come from the input), and the data position, which is the step.
"""

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from minimind import fingerprint, runtime
from minimind.config import Config
from minimind.errors import ArtifactError
from minimind.train.loop import Progress
from minimind.train.optimizer import LossScale, load_optimizer_state, optimizer_state
from minimind.train.parallel import Ranks

CHECKPOINTS_DIR = "checkpoints"
HEADER_FILE = "checkpoint.json"
KEEP = 2


class Header(Config):
    """`checkpoint.json`."""

    format_version: int = 1
    run: str
    """Digest of what is trained: settings and inputs."""
    world_size: int
    events_offset: int
    progress: dict[str, Any]
    files: dict[str, str]
    """File name → sha256."""
    own_digest: str = ""
    """Of the fields above."""

    def digest(self) -> str:
        return fingerprint.digest(self.model_dump(mode="json", exclude={"own_digest"}))


@dataclass(frozen=True)
class Found:
    """A proven checkpoint on disk."""

    path: Path
    header: Header

    def progress(self) -> Progress:
        values = dict(self.header.progress)
        return Progress(**{**values, "loss_scale": LossScale(**values["loss_scale"])})


def save_checkpoint(
    directory: Path,
    progress: Progress,
    *,
    run: str,
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    ranks: Ranks,
    events_offset: int,
) -> None:
    """Write a checkpoint below `directory`; every rank calls it, the first one writes."""
    generators = ranks.gather(torch.get_rng_state())
    if not ranks.is_first:
        return
    target = _path(directory, progress.step)
    scratch = directory / f".{target.name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    tensors: dict[str, Mapping[str, Tensor]] = {
        "model": {name: p for name, p in model.named_parameters() if p.requires_grad},
        "optimizer": optimizer_state(optimizers, model),
        "rng": {f"rank {rank}": state for rank, state in enumerate(generators)},
    }
    files = {}
    for stem, content in tensors.items():
        path = scratch / f"{stem}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in content.items()}, path)
        runtime.fsync_path(path)
        files[path.name] = runtime.file_sha256(path)
    header = Header(run=run, world_size=ranks.size, events_offset=events_offset, progress=asdict(progress), files=files)
    runtime.write_json(scratch / HEADER_FILE, header.replace(own_digest=header.digest()).model_dump(mode="json"))
    runtime.fsync_path(scratch)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    runtime.fsync_path(directory)
    for old in _all(directory)[KEEP:]:
        shutil.rmtree(old)


def find_checkpoint(directory: Path, *, run: str) -> tuple[Found | None, list[str]]:
    """The newest checkpoint of `run` whose bytes prove whole, and why newer ones were passed over."""
    passed_over = []
    for path in _all(directory):
        try:
            return Found(path, _prove(path, run)), passed_over
        except ArtifactError as error:
            passed_over.append(f"{path.name} is passed over: {error}")
    return None, passed_over


def open_checkpoint(directory: Path, step: int) -> Found:
    """The checkpoint of `step`, already proven by another rank."""
    path = _path(directory, step)
    return Found(path, Header.model_validate_json((path / HEADER_FILE).read_bytes()))


def load_checkpoint(found: Found, *, model: nn.Module, optimizers: Sequence[Optimizer], ranks: Ranks) -> Progress:
    """Put a checkpoint's weights, optimizer state and generator state in place. Every rank calls it."""
    weights = load_file(found.path / "model.safetensors")
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if weights.keys() != trained.keys():
        odd = sorted(weights.keys() ^ trained.keys())[0]
        raise ArtifactError(f"{found.path}: is of another model ({odd}); delete {found.path.parent}")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
    load_optimizer_state(optimizers, model, load_file(found.path / "optimizer.safetensors"))
    generators = load_file(found.path / "rng.safetensors")
    if f"rank {ranks.rank}" in generators:  # there may be more ranks than before
        torch.set_rng_state(generators[f"rank {ranks.rank}"])
    return found.progress()


def _prove(path: Path, run: str) -> Header:
    try:
        header = Header.model_validate_json((path / HEADER_FILE).read_bytes())
    except (OSError, ValidationError):
        raise ArtifactError(f"its {HEADER_FILE} is missing or damaged") from None
    if header.digest() != header.own_digest:
        raise ArtifactError(f"its {HEADER_FILE} was changed")
    if header.run != run:
        raise ArtifactError("it is of another training")
    for name, digest in header.files.items():
        if not (path / name).is_file() or runtime.file_sha256(path / name) != digest:
            raise ArtifactError(f"{name} is missing or damaged")
    return header


def _path(directory: Path, step: int) -> Path:
    return directory / f"step-{step:08d}"


def _all(directory: Path) -> list[Path]:
    """The checkpoints there, newest first."""
    if not directory.is_dir():
        return []
    return sorted((p for p in directory.iterdir() if re.fullmatch(r"step-\d{8,}", p.name)), reverse=True)
