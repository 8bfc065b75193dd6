"""Fully sharded data parallelism (FSDP2): each rank holds its rows of every weight, gradient and optimizer state.

Torch's `fully_shard` puts a layer's weights together just before they are used, frees them after, and scatters the sum
of the layer's gradients. Embedding, last norm and output projection are one unit, which stays whole from the forward
pass to the end of the backward pass: the objectives take `model.output_weight` between the two.

Weights travel in fp32, because the model casts them where it uses them (norms and routers it does not cast at all): the
arithmetic is that of `ddp` but for the order of sums. With accumulation, micro-batches before the last one add up whole
gradients and send nothing. Not here: Muon, which needs whole matrices, and bf16 on the wire.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.train.config import TrainConfig
from minimind.train.parallel import Ranks
from minimind.train.sharding import Layout, Piece, step_pieces
from minimind.train.twin import empty_twin


def require_even_shares(config: TrainConfig, ranks: Ranks) -> None:
    """Raise ConfigError where a rank would have more forward passes than another, and wait for it for ever."""
    if config.batch_items % ranks.size:
        raise ConfigError(
            f'`parallel` "{config.parallel}" gives every rank as many rows: `batch_tokens` {config.batch_tokens} holds '
            f"{config.batch_items} (or pairs), which {ranks.size} ranks do not divide; change `batch_tokens`"
        )
    if config.optimizer == "muon":
        raise ConfigError(
            f'`optimizer` "muon" needs whole matrices, `parallel` "{config.parallel}" cuts them; use "zero1"'
        )


class Sharded:
    """A model under FSDP2, its gradients and, at the end, its whole weights. `model` is changed in place."""

    def __init__(self, model: Transformer, ranks: Ranks) -> None:
        self.model, self._ranks = model, ranks
        self._twin = empty_twin(model)
        mesh = init_device_mesh(ranks.device.type, (ranks.size,))
        for layer in model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        for method in ("hidden", "expert_load"):  # the ways into the model; `forward` goes through the first
            register_fsdp_forward_method(model, method)
        for module in self._units():
            module.set_gradient_divide_factor(1.0)  # a sum: the loss is divided by the global count
            module.set_force_sum_reduction_for_comms(True)  # gloo has no other
            module.set_reduce_scatter_unused_params(True)  # an expert without a token on one rank

    def layout(self, optimizers: Sequence[Optimizer]) -> Layout:
        """This rank's rows, as what `optimizers` step from now on."""
        pieces = {p: _piece(name, p, self._ranks) for name, p in self.model.named_parameters() if p.requires_grad}
        step_pieces(optimizers, pieces)
        held = list(pieces.values())
        return Layout(held, held, whole_weights=False, whole_state=False)

    def reshard(self) -> None:
        """Give back what a forward pass without a backward pass has left whole."""
        for module in self._units():
            module.reshard()

    def whole(self) -> Transformer:
        """The model as it was before it was sharded, with the weights of now on the first rank. Every rank calls it."""
        self.reshard()
        state = {}
        for name, value in self.model.state_dict().items():
            full = value.full_tensor() if isinstance(value, DTensor) else value
            if self._ranks.is_first:
                state[name] = full.cpu()
        if self._ranks.is_first:
            self._twin.load_state_dict(state, assign=True)
        return self._twin

    def _units(self) -> list[FSDPModule]:
        return [module for module in self.model.modules() if isinstance(module, FSDPModule)]


class ShardedGradientSum:
    """What `GradientSum` is for whole gradients: FSDP2 reduces and scatters them as the backward pass goes on."""

    def __init__(self, sharded: Sharded, ranks: Ranks) -> None:
        self._sharded, self._model, self._ranks = sharded, sharded.model, ranks

    def zero(self) -> None:
        self._sharded.reshard()  # what a validation has left whole would hide the parameters that hold gradients
        for parameter in self._model.parameters():
            parameter.grad = None

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`; with `last`, sum over ranks and keep this rank's rows."""
        self._model.set_requires_gradient_sync(last)
        loss.backward()

    def norm(self) -> Tensor:
        """The Euclidean norm of the whole gradient, on every rank."""
        squares = [part.square().sum(dtype=torch.float64) for part in self._parts()]
        total = torch.stack(squares).sum() if squares else torch.zeros((), dtype=torch.float64)
        return self._ranks.sum(total.to(self._ranks.device)).sqrt()

    def scale(self, factor: float) -> None:
        if factor != 1.0:
            for part in self._parts():
                part.mul_(factor)

    def _parts(self) -> list[Tensor]:
        return [p.grad.to_local() for p in self._model.parameters() if p.grad is not None]


def _piece(name: str, parameter: nn.Parameter, ranks: Ranks) -> Piece:
    """Torch cuts as `chunk` does: all ranks but the last ones have ⌈rows / ranks⌉."""
    local, num_rows = parameter.to_local(), len(parameter)
    start = min(ranks.rank * -(-num_rows // ranks.size), num_rows)
    return Piece(name, nn.Parameter(local.detach()), start, num_rows)
