"""Log-probabilities of preference pairs under the model that a preference training starts from.

They never change, so they are computed once and kept beside the token set, for every training on it that starts from
that model, whatever its learning rate, β, seed, length or number of ranks:

    <store>/artifacts/tokens/.<token set>.references/<model>-<key>.safetensors

The key is a digest of the model's weights, the arithmetic and the code that computes them. Pairs are taken in groups
that follow from the token set alone, not in the micro-batches of a training, so a value is the same to the bit
whoever computes it. The price: an untouched policy, which sees pairs in other company, differs from its reference by
rounding. Measured on answers of 520 nats: at most 2e-4 nats in fp32, and in bf16 1e-3 with the smallest preset
and 1e-2 with minimind2-small. So its loss is ln 2 to four digits and more.

A short training looks at some of the pairs; only their groups are computed, and added to what is known. The file is
replaced by one rename: processes that do so at once both write the truth, and the last one's groups stay. A damaged
file is computed again. Not here: the losses (`preference_losses.py`).
"""

import hashlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from minimind import runtime
from minimind.model.transformer import Transformer
from minimind.tokens.batches import PairBatches
from minimind.train.objectives import Reference, Tensors, pair_log_probs, take_pairs
from minimind.train.parallel import Ranks

GROUP_TOKENS_CPU = 256
"""A pair or two: one alone has 0.76 of the speed of large groups, two 0.99; a short training computes few too many."""
GROUP_TOKENS_GPU = 16384

Table = Tensor
"""fp32 of 2 × P on the CPU: chosen, rejected; NaN for pairs that nobody has asked for yet."""


@dataclass(frozen=True)
class Wanted:
    """A split of preference pairs, and the numbers of those that are looked at (None: all)."""

    batches: PairBatches
    pairs: np.ndarray | None = None

    def groups(self, group_tokens: int) -> np.ndarray:
        """The number of each pair's group, ascending."""
        numbers = np.arange(self.batches.num_pairs)
        tokens_P = self.batches.pieces_of(numbers).lengths.reshape(2, -1).sum(0)
        return (np.cumsum(tokens_P) - tokens_P) // group_tokens


@dataclass(frozen=True)
class Found:
    """References by split, and how they were come by."""

    references: dict[str, Reference]
    computed: int
    """Pairs computed now; the others were known."""
    seconds: float
    """That it took."""
    problem: str = ""
    """What was wrong with the file, or with its place."""


def directory_of(tokens_dir: Path) -> Path:
    """Where the references of a token set are kept: beside its artifact, which is sealed."""
    return tokens_dir.with_name(f".{tokens_dir.name}.references")


def find_references(path: Path, model: Transformer, splits: Mapping[str, Wanted], ranks: Ranks) -> Found:
    """The references of `splits`: those in `path`, the missing ones computed with `model` and added there."""
    known, problem = _read(path, splits) if ranks.is_first else ({}, "")
    tables, computed, started = dict[str, Table](), 0, time.perf_counter()
    for name, wanted in splits.items():
        start = known.get(name, torch.full((2, wanted.batches.num_pairs), torch.nan))
        start = _from_first(start, ranks)
        tables[name], added = _complete(start, model, wanted, ranks)
        computed += added
    if computed and ranks.is_first:
        problem = _write(path, tables) or problem
    references = {name: Reference(*table.to(ranks.device)) for name, table in tables.items()}
    return Found(references, computed, time.perf_counter() - started, problem)


def _complete(table: Table, model: Transformer, wanted: Wanted, ranks: Ranks) -> tuple[Table, int]:
    """`table` with all wanted pairs in it, and how many were added; each rank computes its share of the groups."""
    missing_P = table.isnan().any(0).numpy()
    if wanted.pairs is not None:
        asked_P = np.zeros_like(missing_P)
        asked_P[wanted.pairs] = True
        missing_P = missing_P & asked_P
    if not missing_P.any():
        return table, 0
    device = ranks.device
    group_P = wanted.groups(GROUP_TOKENS_CPU if device.type == "cpu" else GROUP_TOKENS_GPU)
    groups = np.unique(group_P[missing_P])
    new = torch.zeros_like(table, device=device)
    with torch.no_grad():
        for round_start in range(0, len(groups), ranks.size):
            ranks.beat()
            # a rank without a group in the last round computes one all the same: sharded models need all ranks
            number = min(round_start + ranks.rank, len(groups) - 1)
            first, stop = np.searchsorted(group_P, [groups[number], groups[number] + 1])
            batch = wanted.batches.gather(np.arange(first, stop))
            chosen_P, rejected_P, _ = pair_log_probs(model, Tensors.of(take_pairs(batch, 0, len(batch) // 2), device))
            if number == round_start + ranks.rank:
                new[0, first:stop], new[1, first:stop] = chosen_P, rejected_P
    added_P = torch.from_numpy(np.isin(group_P, groups))
    return torch.where(added_P, ranks.sum(new).cpu(), table), int(added_P.sum())


def _from_first(table: Table, ranks: Ranks) -> Table:
    """The first rank's table on every rank; NaN travels as it is, since the others add zeros."""
    return ranks.sum(table.to(ranks.device) if ranks.is_first else torch.zeros_like(table, device=ranks.device)).cpu()


def _read(path: Path, splits: Mapping[str, Wanted]) -> tuple[dict[str, Table], str]:
    """The tables in `path`, none where it is missing; and what is wrong with it."""
    if not path.exists():
        return {}, ""
    damaged = f"{path}: is damaged; the reference log-probabilities are computed again"
    try:
        with safe_open(path, framework="pt") as file:
            seal = (file.metadata() or {}).get("seal")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError):
        return {}, damaged
    fits = all(found[n].shape == (2, s.batches.num_pairs) for n, s in splits.items() if n in found)
    return (found, "") if seal == _digest(found) and fits else ({}, damaged)


def _write(path: Path, tables: Mapping[str, Table]) -> str:
    """Keep the tables; the problem where the place cannot be written, for the training does not depend on it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        runtime.write_atomic(path, save(dict(tables), metadata={"seal": _digest(tables)}))
    except OSError as error:
        return f"{path}: cannot be written ({os.strerror(error.errno or 0)}); the reference serves this training only"
    return ""


def _digest(tables: Mapping[str, Table]) -> str:
    """Of names and values. One entry of metadata: safetensors writes several in an order that changes."""
    digest = hashlib.sha256()
    for name in sorted(tables):
        digest.update(name.encode() + b"\0" + tables[name].numpy().tobytes())
    return digest.hexdigest()
