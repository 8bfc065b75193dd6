"""Log-probabilities of preference pairs under the model that DPO starts from.

They never change, so they are computed once, before the first step, and kept in
`reference.safetensors` under the fingerprint of that model and set: a resumed training reads
them. The pass over the training pairs takes the very micro-batches of the first epoch, so that
an untouched policy differs from its reference by nothing at all. Not here: the loss.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minimind import runtime
from minimind.model.transformer import Transformer
from minimind.train.loop import Batches, micro_batches
from minimind.train.objectives import Reference, pair_log_probs, take_pairs
from minimind.train.parallel import Ranks

REFERENCE_FILE = "reference.safetensors"


@dataclass(frozen=True)
class Pairs:
    """A split of preference pairs, and how it is cut. One epoch holds each pair once, then wraps."""

    batches: Batches
    num_pairs: int
    batch_pairs: int
    micro_pairs: int
    num_batches: int
    """How many are looked at; a training shorter than an epoch needs no reference for the rest."""


def references(
    path: Path, model: Transformer, splits: dict[str, Pairs], ranks: Ranks, *, key: str
) -> dict[str, Reference]:
    """Split name → its reference: from `path` where it holds that of `key`, else computed and written there.

    `key` names the model, the pairs and the arithmetic.
    """
    found = _read(path, key) if ranks.is_first else {}
    if not ranks.from_first(int(bool(found))):
        found = {
            f"{name} {which}": values
            for name, pairs in splits.items()
            for which, values in zip(("chosen", "rejected"), _compute(model, pairs, ranks), strict=True)
        }
        if ranks.is_first:
            runtime.write_atomic(path, save(found, metadata=_seal(key, found)))
    else:
        found = _read(path, key)
    return {
        name: Reference(found[f"{name} chosen"].to(ranks.device), found[f"{name} rejected"].to(ranks.device))
        for name in splits
    }


def _compute(model: Transformer, pairs: Pairs, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """(chosen_P, rejected_P) on the CPU, NaN for pairs that are never looked at; each rank does its share."""
    tables = torch.zeros(2, pairs.num_pairs, device=ranks.device)
    unseen_P = torch.ones(pairs.num_pairs, dtype=torch.bool)
    with torch.no_grad():
        for number in range(min(pairs.num_batches, -(-pairs.num_pairs // pairs.batch_pairs))):
            batch = pairs.batches.batch(number)
            unseen_P[torch.from_numpy(batch.items_B)] = False
            # the end of the last batch belongs to the next epoch; each pair is written once
            left = pairs.num_pairs - number * pairs.batch_pairs - ranks.share(pairs.batch_pairs)[0]
            for micro, _ in micro_batches(batch, pairs.batch_pairs, take_pairs, ranks, pairs.micro_pairs):
                items_P = micro.items_B.chunk(2)[0][: max(left, 0)]
                chosen_P, rejected_P, _ = pair_log_probs(model, micro)
                tables[0, items_P] = chosen_P[: len(items_P)]
                tables[1, items_P] = rejected_P[: len(items_P)]
                left -= len(chosen_P)
    chosen_P, rejected_P = ranks.sum(tables).cpu().masked_fill_(unseen_P, torch.nan)
    return chosen_P.clone(), rejected_P.clone()


def _read(path: Path, key: str) -> dict[str, Tensor]:
    """What is in `path`; nothing where it is missing, damaged, or of another key."""
    if not path.exists():
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except SafetensorError:
        return {}
    return found if metadata == _seal(key, found) else {}


def _seal(key: str, tensors: dict[str, Tensor]) -> dict[str, str]:
    """One entry, because safetensors writes several in an order that changes from run to run."""
    return {"seal": f"{key} {_digest(tensors)}"}


def _digest(tensors: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(tensors[name].numpy().tobytes() for name in sorted(tensors))).hexdigest()
