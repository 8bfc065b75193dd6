"""Short names for what came of a training, to compare runs by: of tensors, name by name, and of the lines of a log.

Not here: the sums in a checkpoint and in a manifest, which are of files (`runtime.file_sha256`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from minimind.events import EVENTS_FILE, read_events
from minimind.train.optimizer import optimizer_state

CLOCKS = frozenset({"tokens_per_second", "memory_mb", "mfu", "eta_seconds"})
"""Figures of the log that tell of time and of the machine; all others follow from the settings and the data."""


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of names, types, shapes and bytes; equal only where all bits are."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def digest_state(model: nn.Module, optimizers: Sequence[Optimizer] = ()) -> dict[str, str]:
    """`weights_digest` of what is trained, and `optimizer_digest` of what the optimizers keep, where there are any."""
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found = {"weights_digest": digest_tensors(trained)}
    if optimizers:
        found["optimizer_digest"] = digest_tensors(optimizer_state(optimizers, model))
    return found


def digest_figures(directory: Path) -> str:
    """Of every line of a training's log: its step and its figures, but for those of the clock and the machine."""
    events, _ = read_events(directory / EVENTS_FILE)
    lines = [[e.step, {k: v for k, v in e.metrics.items() if k not in CLOCKS}] for e in events if e.kind == "step"]
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()[:16]
