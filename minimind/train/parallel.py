"""The ranks of one training, and the sum of their gradients.

Each rank holds the whole model and a contiguous slice of every global batch; the gradient is the
*sum* over ranks (the loss is divided by the global count beforehand). `GradientSum` does what
torch's DistributedDataParallel does (buckets, reduced while the backward pass goes on, nothing
sent before the last micro-batch) with two differences that matter here:

- its buckets never change, so a resumed run adds in the same order as the first one and is equal
  to the bit; DDP forms its buckets anew after the first step of every process
- a parameter that got no gradient on some rank (an expert that no token chose) counts as zero
  instead of stopping the others

Collectives run on gloo (CPU) or NCCL (CUDA) within a time limit. Not here: dividing more
than the batch (`strategy.py`).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from minimind import runtime
from minimind.errors import ConfigError

SPARE_SECONDS = 60
"""A collective gives up so much later than the one who watches the ranks, and can say better which of them hangs."""

BUCKET_BYTES = 25 << 20
"""DDP's default: large enough to fill a link, small enough to start before the backward pass ends."""


@dataclass(frozen=True)
class Ranks:
    """This rank among the others."""

    rank: int
    size: int
    device: torch.device
    pulse: Path | None = None
    """Touched with every micro-batch, so that one who watches can tell slow from stuck."""

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def beat(self) -> None:
        """Say that this rank is not stuck."""
        if self.pulse:
            os.utime(self.pulse)

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor`, in place the sum over ranks."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_figures(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Scalars summed over ranks, on the host. Every rank gives the same names."""
        if not values:
            return {}
        exact = torch.float32 if self.device.type == "mps" else torch.float64
        stacked = torch.stack([value.detach().to(self.device, exact) for value in values.values()])
        return dict(zip(values, self.sum(stacked).tolist(), strict=True))

    def from_first(self, value: int) -> int:
        """The first rank's `value`, on every rank."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.broadcast(tensor, 0)
        return int(tensor)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Every rank's `tensor` (of one shape), in rank order, on the CPU."""
        if self.size == 1:
            return [tensor.cpu()]
        mine = tensor.to(self.device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return [part.cpu() for part in parts]

    def share(self, count: int, unit: int = 1) -> tuple[int, int]:
        """This rank's contiguous part of `count` items as (start, stop); sizes differ by one `unit` at most.

        Parts begin at multiples of `unit`; the last one ends with what is left.
        """
        units = -(-count // unit)
        start, stop = (units * rank // self.size * unit for rank in (self.rank, self.rank + 1))
        return min(start, count), min(stop, count)


@contextmanager
def join(device_name: str, *, stall_seconds: float = 900.0, pulses: Path | None = None) -> Iterator[Ranks]:
    """Take this process's place among the ranks that torchrun started; one process needs no group.

    Each rank touches a file of its own in `pulses` as it goes on.
    """
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = runtime.choose_device(device_name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError('`device` is "cuda", but torch sees no GPU here; set it to "auto" or "cpu"')
        if (device.index or 0) >= torch.cuda.device_count():
            raise ConfigError(f"`processes` asks for more than the {torch.cuda.device_count()} GPUs of this machine")
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")  # what is left in fp32 may use TF32
    pulse = pulses and pulses / str(rank)
    if pulse:
        pulse.parent.mkdir(exist_ok=True)
        pulse.touch()
    ranks = Ranks(rank, size, device, pulse)
    if size == 1:
        yield ranks
        return
    if device.type == "mps":
        raise ConfigError('`processes` above 1 works on "cuda" and "cpu", not on "mps"')
    patience = timedelta(seconds=stall_seconds + SPARE_SECONDS)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)
    yield ranks
    dist.destroy_process_group()  # after an error the others may be in a collective, and this would wait for them


class Gradients(Protocol):
    """The gradient of a step, summed over micro-batches and ranks."""

    def zero(self) -> None: ...

    def backward(self, loss: Tensor, *, last: bool) -> None: ...

    def norm(self) -> Tensor: ...

    def scale(self, factor: float) -> None: ...


class GradientSum:
    """Gradients in flat buffers of a fixed order, summed over ranks.

    `.grad` of every parameter is a view into a buffer, so nothing is copied. Call `zero`, then
    `backward` for each micro-batch with `last=True` on the last, then `clip`.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], ranks: Ranks, *, bucket_bytes: int = BUCKET_BYTES) -> None:
        self._ranks = ranks
        self._armed = False
        self._launched: list[dist.Work] = []
        self.buffers: list[Tensor] = []
        self._missing: list[int] = []
        self._sizes: list[int] = []
        # the backward pass reaches the last layers first
        for bucket in buckets([p for p in parameters if p.requires_grad][::-1], bucket_bytes):
            self._add_bucket(bucket)

    def zero(self) -> None:
        for buffer in self.buffers:
            buffer.zero_()

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`; with `last`, sum over ranks, each bucket as soon as it is whole."""
        self._armed = last and self._ranks.size > 1
        self._missing = list(self._sizes)
        loss.backward()
        if self._armed:
            self._armed = False
            while len(self._launched) < len(self.buffers):  # buckets with a parameter that got no gradient
                self._launch()
            for work in self._launched:
                work.wait()
            self._launched.clear()

    def norm(self) -> Tensor:
        """The Euclidean norm of the whole gradient."""
        return torch.stack([buffer.norm() for buffer in self.buffers]).norm()

    def scale(self, factor: float) -> None:
        if factor != 1.0:
            for buffer in self.buffers:
                buffer.mul_(factor)

    def _add_bucket(self, parameters: list[nn.Parameter]) -> None:
        index = len(self.buffers)
        buffer = parameters[0].new_zeros(sum(p.numel() for p in parameters))
        self.buffers.append(buffer)
        self._sizes.append(len(parameters))
        start = 0
        for parameter in parameters:
            parameter.grad = buffer[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
            if self._ranks.size > 1:
                parameter.register_post_accumulate_grad_hook(self._arrival(index))

    def _arrival(self, index: int) -> Callable[[Tensor], None]:
        def arrived(_: Tensor) -> None:
            if not self._armed:
                return
            self._missing[index] -= 1
            # in the order of the buckets, which is the same on every rank
            while len(self._launched) < len(self.buffers) and self._missing[len(self._launched)] <= 0:
                self._launch()

        return arrived

    def _launch(self) -> None:
        work = dist.all_reduce(self.buffers[len(self._launched)], async_op=True)
        assert work is not None
        self._launched.append(work)


def buckets(parameters: list[nn.Parameter], limit: int) -> list[list[nn.Parameter]]:
    """Neighbours together, up to `limit` bytes; a larger parameter is alone."""
    buckets: list[list[nn.Parameter]] = []
    size = limit
    for parameter in parameters:
        nbytes = parameter.numel() * parameter.element_size()
        if not buckets or size + nbytes > limit:
            buckets.append([])
            size = 0
        buckets[-1].append(parameter)
        size += nbytes
    return buckets
