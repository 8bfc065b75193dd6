"""DeepSpeed's ZeRO under the one loop: `parallel = "deepspeed"`, with a configuration of DeepSpeed's own.

The engine cuts weights, gradients and the optimizer's state (stages 1 to 3, offloaded or not), sums gradients, clips
and steps. The loop keeps all else: batches, objectives, the schedule, votes, what is skipped. Checkpoints are ours too,
whole tensors without pickle, so any number of ranks goes on from them; DeepSpeed's own are of one number of ranks.

What stage 3 must know of this model: a layer's weights are put together for the whole layer, and what the root holds
(embedding, last norm, output projection) stays whole, because the objectives take `model.output_weight` after the
forward pass, when DeepSpeed would have freed it. Not here: Muon, which needs whole matrices.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from minimind.errors import ConfigError
from minimind.model.transformer import Layer, Transformer
from minimind.train.config import TrainConfig
from minimind.train.parallel import Ranks
from minimind.train.sharding import Layout, Piece
from minimind.train.twin import empty_twin

OURS = {
    "train_batch_size": "batch_tokens",
    "train_micro_batch_size_per_gpu": "micro_tokens",
    "gradient_accumulation_steps": "batch_tokens",
    "gradient_clipping": "grad_clip",
    "optimizer": "optimizer",
    "scheduler": "schedule",
    "fp16": "precision",
    "amp": "precision",
}
"""What of DeepSpeed's configuration the recipe says, and where."""


def engine_config(config: TrainConfig) -> dict[str, Any]:
    """What DeepSpeed is given: the recipe's table, without `"auto"` values, and what follows from the other settings.

    Raises ConfigError where the two could contradict each other.
    """
    given = _without_auto(config.deepspeed or {})
    for key, name in OURS.items():
        if key in given:
            raise ConfigError(f'`deepspeed.{key}` is said by `{name}`; take it out, or make it "auto"')
    zero = given.get("zero_optimization")
    if not isinstance(zero, Mapping) or zero.get("stage") not in (1, 2, 3):
        raise ConfigError('`deepspeed.zero_optimization.stage` must be 1, 2 or 3; without ZeRO, `parallel` is "ddp"')
    return {
        "steps_per_print": None,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW, whose state is the same everywhere
        **given,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.grad_clip,
    }


class Engine:
    """A model in DeepSpeed's hands. `model` and `optimizer` are changed in place."""

    def __init__(self, config: TrainConfig, model: Transformer, optimizer: Optimizer, ranks: Ranks) -> None:
        deepspeed = _import(ranks)
        self.model, self._ranks = model, ranks
        self._twin = empty_twin(model)
        self._mirrored: dict[nn.Parameter, nn.Parameter] = {}
        """Parameter → whole stand-in, while a checkpoint is written or read."""
        settings = engine_config(config)
        self.stage: int = settings["zero_optimization"]["stage"]
        if self.stage == 3:
            deepspeed.utils.set_z3_leaf_modules(model, [Layer])
        self.engine, *_ = deepspeed.initialize(
            model=_Root(model), optimizer=optimizer, config=settings, dist_init_required=False
        )
        self.zero = self.engine.optimizer
        self.inner = optimizer
        if self.stage == 3:
            self._keep_whole([model.model.embed_tokens, model.model.norm, model.lm_head])
            model.model.embed_tokens.register_forward_hook(_want_gradient)
        for way in ("hidden", "expert_load"):  # the ways into the model, by way of the engine's hooks
            setattr(model, way, _Way(self.engine, way))

    def flat_groups(self) -> Iterator[tuple[int, Tensor, list[nn.Parameter]]]:
        """(parameter group, this rank's flat fp32 part, parameters in it) of everything that is stepped."""
        if self.stage == 3:
            groups = zip(self.zero.fp32_partitioned_groups_flat, self.zero.fp16_groups, strict=True)
            for number, (flat, parameters) in enumerate(groups):
                yield self.zero.sub_group_to_group_id[number], flat, parameters
        else:
            groups = zip(self.zero.single_partition_of_fp32_groups, self.zero.bit16_groups, strict=True)
            for number, (flat, parameters) in enumerate(groups):
                yield number, flat, parameters

    def whole(self) -> Transformer:
        """The model as it was before, with the fp32 weights of now on the first rank. Every rank calls it."""
        state = {}
        for name, parameter in self.model.named_parameters():
            full = self._full(parameter)
            if self._ranks.is_first:
                state[name] = full.cpu()
        if self._ranks.is_first:
            self._twin.load_state_dict(state, assign=True)
        return self._twin

    @contextmanager
    def to_save(self) -> Iterator[tuple[Layout, list[Optimizer]]]:
        """Weights and state as whole tensors of the first rank, for as long as they are written."""
        from deepspeed.utils import safe_get_full_optimizer_state

        layout, mirror = self._mirror(filled=True)
        self._link()
        for _, flat, parameters in self.flat_groups():
            for what, value in self.inner.state.get(flat, {}).items():
                for parameter in parameters:
                    kept = value.clone()
                    if value.shape == flat.shape:
                        kept = safe_get_full_optimizer_state(parameter, what)
                    if self._ranks.is_first:
                        mirror.state[self._mirrored[parameter]][what] = kept.cpu()
        yield layout, [mirror]
        self._mirrored.clear()

    @contextmanager
    def to_load(self) -> Iterator[tuple[Layout, list[Optimizer]]]:
        """Whole tensors to be filled on every rank; afterwards each rank takes its part."""
        layout, mirror = self._mirror(filled=False)
        yield layout, [mirror]
        for _, flat, parameters in self.flat_groups():
            for parameter in parameters:
                self._set(parameter, self._mirrored[parameter].detach())
            states = [mirror.state[self._mirrored[parameter]] for parameter in parameters]
            if not states[0]:
                continue
            for what, value in states[0].items():
                self.inner.state[flat][what] = torch.zeros_like(flat) if value.ndim else value.clone()
            self._link()
            for parameter, state in zip(parameters, states, strict=True):
                for what, value in state.items():
                    if value.ndim:
                        self._set(parameter, value, what)
        self._mirrored.clear()
        self._refresh()

    def discard(self) -> None:
        """Forget the gradient of a step that is skipped, as DeepSpeed does after an overflow."""
        if self.stage == 3:
            self.zero._pre_step()
            self.zero._overflow_clean_up(self.zero.loss_scale)
            return
        self.zero.micro_step_id = -1
        self.zero.zero_grad(set_to_none=True)
        self.zero._release_preflattened_grad_buffers()
        if self.zero.cpu_offload:
            self.zero.reset_cpu_buffers()
        else:
            for number in self.zero.averaged_gradients:
                self.zero.averaged_gradients[number] = None
                self.zero.all_grad_tensors[number] = None

    def norm(self) -> Tensor:
        """The norm of the whole gradient, infinite where it is not finite. Every rank calls it."""
        from deepspeed.runtime.utils import combine_grad_norm_groups

        if self.stage == 3:
            return combine_grad_norm_groups(self.zero._get_norm_groups())
        return self.zero.scaled_global_norm()

    def _full(self, parameter: nn.Parameter) -> Tensor:
        """A whole parameter in fp32, from its masters where it is trained. Every rank calls it."""
        from deepspeed import zero
        from deepspeed.utils import safe_get_full_fp32_param

        if parameter.requires_grad:
            return safe_get_full_fp32_param(parameter)
        if self.stage < 3:
            return parameter.detach().float()
        with zero.GatheredParameters([parameter]):
            return parameter.detach().float().clone()

    def _set(self, parameter: nn.Parameter, value: Tensor, what: str | None = None) -> None:
        """Put a whole fp32 tensor in place of this rank's part of the weights, or of the state `what`."""
        from deepspeed import utils

        value = value.to(self._ranks.device)
        if self.stage < 3:
            if what is None:
                utils.safe_set_full_fp32_param(parameter, value)
            else:
                utils.safe_set_full_optimizer_state(parameter, value, what)
            return
        # a part is ⌈numel / ranks⌉ long, and the last one padded, which DeepSpeed's setter of whole tensors forgets
        numel = parameter.ds_tensor.ds_numel
        padded = F.pad(value.flatten(), (0, numel * self._ranks.size - value.numel()))
        part = padded.narrow(0, numel * self._ranks.rank, numel)
        if what is None:
            utils.safe_set_local_fp32_param(parameter, part)
        else:
            utils.safe_set_local_optimizer_state(parameter, part, what)

    def _mirror(self, *, filled: bool) -> tuple[Layout, Optimizer]:
        """Whole fp32 stand-ins for the trained parameters, filled on the first rank, and an optimizer over them."""
        pieces = []
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            shape = parameter.ds_shape if self.stage == 3 else parameter.shape
            value = self._full(parameter).cpu() if filled else torch.empty(shape)
            if filled and not self._ranks.is_first:
                value = value[:0]
            self._mirrored[parameter] = nn.Parameter(value.clone())
            pieces.append(Piece(name, self._mirrored[parameter], 0, shape[0]))
        return Layout(pieces, pieces), torch.optim.AdamW(self._mirrored.values())

    def _link(self) -> None:
        """Have DeepSpeed find the state of every group: it looks after the first step of the first one, once."""
        if self.stage < 3 and self.inner.state:
            self.zero._hp_optimizer_states_linked = False
            self.zero._lazy_init_hp_params_optimizer_state()

    def _refresh(self) -> None:
        """Make the weights that the model computes with those of the fp32 masters."""
        if self.stage < 3:
            self.zero.update_lp_params()
            return
        self.zero._partition_all_parameters()
        for number, _ in enumerate(self.zero.fp16_groups):
            self.zero._reassign_or_swap_out_partitioned_parameters(number)
        self._gather_kept()

    def _keep_whole(self, modules: Sequence[nn.Module | None]) -> None:
        for parameter in (p for module in modules if module is not None for p in module.parameters()):
            parameter.is_external_param = True  # no module frees it, from the first pass on
            if not parameter.ds_persist:
                parameter.ds_persist = True
                self.zero.persistent_parameters.append(parameter)
        self._gather_kept()

    def _gather_kept(self) -> None:
        kept = self.zero.persistent_parameters
        if kept:
            kept[0].all_gather(kept)


class EngineGradients:
    """What `GradientSum` is for whole gradients; the engine reduces as the backward pass goes on."""

    def __init__(self, engine: Engine, ranks: Ranks) -> None:
        self._engine, self._ranks = engine, ranks
        self._pending = False

    def zero(self) -> None:
        if self._pending:  # the last step was skipped
            self._engine.discard()
            self._pending = False

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the gradient of `loss`; with `last`, finish the sum over ranks."""
        self._engine.engine.set_gradient_accumulation_boundary(last)
        self._engine.engine.backward(loss * self._ranks.size, scale_wrt_gas=False)  # it takes the mean over ranks
        self._pending = True

    def norm(self) -> Tensor:
        return self._engine.norm()

    def scale(self, factor: float) -> None:
        """Nothing: the engine clips at the same norm when it steps."""

    def stepped(self) -> None:
        self._pending = False


class EngineOptimizer(Optimizer):
    """The step of the engine, with the parameter groups of the optimizer inside, whose learning rates are set here."""

    def __init__(self, engine: Engine, gradients: EngineGradients) -> None:
        self._engine, self._gradients = engine, gradients
        groups = [{**group, "params": []} for group in engine.inner.param_groups]
        for number, flat, _ in engine.flat_groups():
            groups[number]["params"].append(flat)
        super().__init__(groups, {})
        self.state = engine.inner.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # the base class's signature
        assert closure is None
        for mine, inner in zip(self.param_groups, self._engine.inner.param_groups, strict=True):
            inner["lr"] = mine["lr"]
        self._engine.engine.step()
        self._gradients.stepped()


class _Root(nn.Module):
    """Makes a forward pass of every way into the model, for the hooks."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self._ways = {"hidden": model.hidden, "expert_load": model.expert_load}

    def forward(self, way: str, *args: Any, **named: Any) -> Any:
        return self._ways[way](*args, **named)


def _want_gradient(_module: nn.Module, _inputs: Any, embedded_BTD: Tensor) -> None:
    """Where the embedding is frozen: DeepSpeed sees the end of a layer's backward pass by the gradient of its input."""
    if torch.is_grad_enabled() and not embedded_BTD.requires_grad:
        embedded_BTD.requires_grad_()


class _Way:
    """A method of the model that goes through the engine."""

    def __init__(self, engine: nn.Module, way: str) -> None:
        self._engine, self._way = engine, way

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._engine(self._way, *args, **named)


def _import(ranks: Ranks) -> Any:
    """DeepSpeed, told of the device, with a process group to work in."""
    os.environ["DS_ACCELERATOR"] = ranks.device.type
    try:
        import deepspeed
    except ImportError as error:
        raise ConfigError(
            f'`parallel` "deepspeed" needs the package, which cannot be imported here ({error}); '
            "install it with `pip install 'minimind-pipeline[deepspeed]'`"
        ) from None
    if ranks.device.type == "cpu":  # else it compiles a C++ operation at the first start, for minutes
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not dist.is_initialized():  # one rank needs no group for anything else
        dist.init_process_group("nccl" if ranks.device.type == "cuda" else "gloo")
    deepspeed.init_distributed(dist_init_required=False, verbose=False)
    return deepspeed


def _without_auto(table: Mapping[str, Any]) -> dict[str, Any]:
    """The table without the values that Hugging Face's configurations leave to the trainer, and tables of only such."""
    kept = {}
    for key, value in table.items():
        inner = _without_auto(value) if isinstance(value, Mapping) else value
        if inner != "auto" and not (value and inner == {}):
            kept[key] = inner
    return kept
