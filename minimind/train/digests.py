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
from minimind.train.parallel import Ranks
from minimind.train.sharding import Layout

CLOCKS = frozenset({"tokens_per_second", "memory_mb", "mfu", "eta_seconds", "probe_seconds"})
"""Figures of the log that tell of time and of the machine; all others follow from the settings and the data."""


def digest_tensors(tensors: Mapping[str, Tensor]) -> str:
    """16 hexadecimal digits of names, types, shapes and bytes; equal only where all bits are."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def digest_weights(model: nn.Module) -> str:
    """Of what is trained."""
    return digest_tensors({name: p for name, p in model.named_parameters() if p.requires_grad})


def digest_optimizers(layout: Layout, optimizers: Sequence[Optimizer], ranks: Ranks) -> str:
    """Of what the optimizers keep; every rank calls it. Where each keeps a part, it is of the ranks' digests."""
    mine = digest_tensors(layout.state_tensors(optimizers))
    if layout.whole_state:
        return mine
    parts = ranks.gather(torch.frombuffer(bytearray(mine.encode()), dtype=torch.uint8))
    return hashlib.sha256(b"".join(bytes(part.tolist()) for part in parts)).hexdigest()[:16]


def digest_figures(directory: Path) -> str:
    """Of every line of a training's log: its step and its figures, but for those of the clock and the machine."""
    events = read_events(directory / EVENTS_FILE)
    lines = [[e.step, {k: v for k, v in e.metrics.items() if k not in CLOCKS}] for e in events if e.kind == "step"]
    return hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()[:16]
