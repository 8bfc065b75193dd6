"""Which rows of which parameters a rank holds and trains, and ZeRO-1 on top of it.

A `Piece` is a run of rows of one parameter. Optimizers step pieces instead of parameters: AdamW works element by
element, so any cut gives the same numbers; Muon needs whole matrices, so a matrix is one piece of one rank and a stack
of matrices is cut between them. Checkpoints are written and read by pieces, so that one written by so many ranks is
read by any other number of them, and by another kind of parallelism.

ZeRO-1 (Rajbhandari et al. 2020, section 5): every rank holds all weights and the whole sum of gradients, but the
optimizer's state for its pieces only. After a step the ranks give each other the weights they changed. The arithmetic
of every element is that of one rank, so the result is equal to the bit. Not here: sharded weights (`fsdp.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from minimind.train.optimizer import Muon
from minimind.train.parallel import BUCKET_BYTES, Ranks, buckets

Span = tuple[int, int]
"""Rows from start to stop."""


@dataclass(frozen=True)
class Piece:
    """Rows of a parameter: `tensor` shares the parameter's memory."""

    name: str
    tensor: nn.Parameter
    start: int
    num_rows: int
    """Of the whole parameter."""

    @property
    def stop(self) -> int:
        return self.start + len(self.tensor)

    @property
    def is_whole(self) -> bool:
        return len(self.tensor) == self.num_rows

    def key(self, what: str = "", value: Tensor | None = None) -> str:
        """The name of its weights, or of a tensor of its state, in a file: `model.norm.weight[0:256]|exp_avg`."""
        rows = "" if self.is_whole or (value is not None and not value.ndim) else f"[{self.start}:{self.stop}]"
        return f"{self.name}{rows}|{what}" if what else f"{self.name}{rows}"


@dataclass(frozen=True)
class Layout:
    """What one rank has of the trained parameters."""

    weights: list[Piece]
    """What this rank holds."""
    stepped: list[Piece]
    """What its optimizers step, and keep state for."""
    whole_weights: bool = True
    """Every rank holds all weights."""
    whole_state: bool = True
    """Every rank holds the optimizers' state for all weights."""

    @classmethod
    def whole(cls, model: nn.Module) -> "Layout":
        """Everything on every rank."""
        pieces = [Piece(name, p, 0, len(p)) for name, p in model.named_parameters() if p.requires_grad]
        return cls(pieces, pieces)

    def weight_tensors(self) -> dict[str, Tensor]:
        """What this rank holds, by the name of each piece."""
        return {piece.key(): piece.tensor.detach() for piece in self.weights}

    def state_tensors(self, optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
        """What `optimizers` keep for the pieces they step."""
        states = {p: state for optimizer in optimizers for p, state in optimizer.state.items()}
        return {
            piece.key(what, value): value.detach()
            for piece in self.stepped
            for what, value in states.get(piece.tensor, {}).items()
        }


def step_pieces(optimizers: Sequence[Optimizer], pieces: dict[nn.Parameter, Piece | None]) -> None:
    """Have `optimizers`, which have not stepped yet, step this rank's piece of each parameter, or nothing of it."""
    owned = {p: piece for p, piece in pieces.items() if piece is not None and len(piece.tensor)}

    def hand_over(*_: Any) -> None:
        for parameter, piece in owned.items():
            gradient = parameter.grad
            if gradient is not None:
                local = gradient.to_local() if hasattr(gradient, "to_local") else gradient[piece.start : piece.stop]
                piece.tensor.grad = local

    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["params"] = [owned[p].tensor for p in group["params"] if p in owned]
        optimizer.register_step_pre_hook(hand_over)


class Zero1:
    """The optimizers' work and state, divided over the ranks."""

    def __init__(self, optimizers: Sequence[Optimizer], model: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        names = {p: name for name, p in model.named_parameters()}
        self._spans = _share_out(optimizers, ranks.size)
        mine = {p: _piece(names[p], p, spans[ranks.rank]) for p, spans in self._spans.items()}
        step_pieces(optimizers, mine)
        if ranks.size > 1:  # the last of them: then all weights are new
            optimizers[-1].register_step_post_hook(lambda *_: self._exchange())
        stepped = [piece for piece in mine.values() if piece is not None]
        self.layout = Layout(Layout.whole(model).weights, stepped, whole_state=False)

    @torch.no_grad()
    def _exchange(self) -> None:
        """Give every rank the weights that the others changed, some 25 MB at a time."""
        for bucket in buckets(list(self._spans), BUCKET_BYTES):
            lengths = [sum(_numel(p, self._spans[p][rank]) for p in bucket) for rank in range(self._ranks.size)]
            sent = bucket[0].new_zeros(max(lengths))
            self._copy(bucket, self._ranks.rank, sent, into_parameters=False)
            received = bucket[0].new_empty(self._ranks.size * max(lengths))
            dist.all_gather_single(received, sent)
            for rank, flat in enumerate(received.view(self._ranks.size, -1)):
                if rank != self._ranks.rank:
                    self._copy(bucket, rank, flat, into_parameters=True)

    def _copy(self, bucket: list[nn.Parameter], rank: int, flat: Tensor, *, into_parameters: bool) -> None:
        at = 0
        for parameter in bucket:
            start, stop = self._spans[parameter][rank]
            rows = parameter[start:stop]
            part = flat[at : at + rows.numel()].view_as(rows)
            rows.copy_(part) if into_parameters else part.copy_(rows)
            at += rows.numel()


def _share_out(optimizers: Sequence[Optimizer], size: int) -> dict[nn.Parameter, list[Span]]:
    """The rows of every parameter that each rank steps; the same on all ranks, and about as much for each."""
    spans: dict[nn.Parameter, list[Span]] = {}
    load = [0] * size
    for optimizer in optimizers:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if isinstance(optimizer, Muon):
            for parameter in sorted((p for p in parameters if p.ndim == 2), key=Tensor.numel, reverse=True):
                owner = load.index(min(load))
                load[owner] += parameter.numel()
                spans[parameter] = [(0, len(parameter)) if rank == owner else (0, 0) for rank in range(size)]
            parameters = [p for p in parameters if p.ndim > 2]
        for parameter in parameters:
            rows = len(parameter)
            spans[parameter] = [(rows * rank // size, rows * (rank + 1) // size) for rank in range(size)]
    return spans


def _piece(name: str, parameter: nn.Parameter, span: Span) -> Piece | None:
    start, stop = span
    if start == stop:
        return None
    return Piece(name, nn.Parameter(parameter.detach()[start:stop]), start, len(parameter))


def _numel(parameter: Tensor, span: Span) -> int:
    return (span[1] - span[0]) * (parameter.numel() // len(parameter))
