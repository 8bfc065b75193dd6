"""Sums whose order does not depend on the ranks: with `exact`, weights are equal to the bit at 1, 2, 4, … ranks.

A sum of floats depends on its order. Here the order is a binary tree over the M micro-batches of the global batch, and
on M alone: node j of level l holds the micro-batches from M·j//2^l to before M·(j+1)//2^l. Those are the very shares of
2^l ranks, so a rank adds up one node out of its own micro-batches, and the ranks add the rest of the tree together.
Figures for the log are laid in a table with a line for each micro-batch and added up in float64, in the order of lines.

The micro-batch itself is what must stay the same: one with fewer rows is multiplied by other kernels, which is another
rounding. Hence ranks never divide one (`Ranks.share` with `unit`), and `micro_tokens` is a part of the identity.

Costs: the sum over ranks waits for the end of the backward pass, and log2(M / ranks) more gradients are held.
Not here: other machines, thread counts and versions of torch, whose kernels may round differently (docs/training.md);
ranks have one thread each unless `threads` is given (`launch.py`).
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minimind.errors import ConfigError
from minimind.train.config import TrainConfig
from minimind.train.objectives import Sums
from minimind.train.parallel import GradientSum, Ranks


def require_exact(config: TrainConfig, ranks: Ranks) -> None:
    """Raise ConfigError where so many ranks are no level of the tree, or `parallel` adds in an order of its own."""
    if config.parallel not in ("ddp", "zero1"):
        raise ConfigError(
            f'`exact` adds up whole gradients, and `parallel` "{config.parallel}" has none; set it to "ddp" or "zero1"'
        )
    if ranks.size & (ranks.size - 1):
        raise ConfigError(f"`exact` works with 1, 2, 4, 8, … ranks, there are {ranks.size}; change `processes`")
    if config.num_micro < ranks.size:
        raise ConfigError(
            f"`exact` gives whole micro-batches to ranks, and `batch_tokens` {config.batch_tokens} holds "
            f"{config.num_micro} of `micro_tokens` {config.micro_tokens}, fewer than {ranks.size} ranks; lower "
            "`micro_tokens` (which changes the result) or `processes`"
        )


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, torch takes kernels that add in a fixed order: a GPU's scatters and attention, compiled embeddings."""
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it did not write
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


class ExactGradientSum(GradientSum):
    """`GradientSum` in the order of the tree. `num_micro` is that of the global batch, the same in every step.

    Partial sums wait in `_pending` until their sibling is there, as carries do in a binary counter.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, *, num_micro: int) -> None:
        super().__init__(parameters, replace(ranks, rank=0, size=1))  # buffers, and no reduction on the way
        self._all_ranks = ranks
        self._merges = merges(num_micro, level=ranks.size.bit_length() - 1, node=ranks.rank)
        self._next = 0
        self._pending: list[list[Tensor]] = []
        self._spare: list[list[Tensor]] = []

    def zero(self) -> None:
        super().zero()
        self._next = 0
        self._spare += self._pending  # of a step that was broken off
        self._pending = []

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss` in its place of the tree; with `last`, go on with it over the ranks."""
        loss.backward()
        for _ in range(self._merges[self._next]):
            sibling = self._pending.pop()
            torch._foreach_add_(self.buffers, sibling)
            self._spare.append(sibling)
        self._next += 1
        if not last:
            kept = self._spare.pop() if self._spare else [torch.empty_like(buffer) for buffer in self.buffers]
            torch._foreach_copy_(kept, self.buffers)
            self._pending.append(kept)
            super().zero()
            return
        assert self._next == len(self._merges) and not self._pending
        for buffer in self.buffers:
            sum_over_ranks(buffer, self._all_ranks)


def merges(num_micro: int, *, level: int, node: int) -> list[int]:
    """For each micro-batch of a node of the tree, in order, how many nodes are whole once it is added."""
    first, stop = num_micro * node >> level, num_micro * (node + 1) >> level
    if stop - first <= 1:
        return [0] * (stop - first)
    left, right = (merges(num_micro, level=level + 1, node=child) for child in (2 * node, 2 * node + 1))
    if left and right:
        right[-1] += 1
    return left + right


def sum_over_ranks(buffer: Tensor, ranks: Ranks) -> None:
    """`buffer` (flat), in place the sum over a power of two of ranks, in the order of the tree.

    Every rank adds up its part of the buffer out of everyone's and hands it round: as many bytes as a ring all-reduce.
    """
    if ranks.size == 1:
        return
    if ranks.size == 2:  # a + b has one order
        dist.all_reduce(buffer)
        return
    width = -(-len(buffer) // ranks.size)
    sent = buffer.new_zeros(ranks.size * width)
    sent[: len(buffer)] = buffer
    parts = torch.empty_like(sent)
    dist.all_to_all_single(parts, sent)
    rows = parts.view(ranks.size, width)
    while len(rows) > 1:
        rows = rows[0::2] + rows[1::2]
    dist.all_gather_single(sent, rows[0].contiguous())
    buffer.copy_(sent[: len(buffer)])


def sum_in_order(
    places: Sequence[int], micro: Sequence[Sums], *, count: int, ranks: Ranks, once: Sums | None = None
) -> dict[str, float]:
    """Figures of `count` micro-batches over all ranks, added up in their order, on the host.

    `micro` are those of this rank, one or more, and `places` their numbers. `once` are scalars of which each rank has
    one, and whose sum is exact in any order (whole numbers, equal shares).
    """
    kind = torch.float32 if ranks.device.type == "mps" else torch.float64
    names, once = list(micro[0]), once or {}
    table = torch.zeros(count, len(names), dtype=kind, device=ranks.device)
    for place, sums in zip(places, micro, strict=True):
        table[place] = torch.stack([sums[name].detach().to(kind) for name in names])
    singles = [value.detach().to(ranks.device, kind).reshape(1) for value in once.values()]
    # only its own rank fills a line, so the sum over ranks rounds nothing
    summed = ranks.sum(torch.cat([table.flatten(), *singles]))
    figures = torch.cat([summed[: table.numel()].view_as(table).sum(0), summed[table.numel() :]])
    return dict(zip([*names, *once], figures.tolist(), strict=True))
