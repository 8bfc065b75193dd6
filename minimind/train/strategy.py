"""How the ranks of a training share the model: `parallel` of its settings, as an object.

    ddp         every rank holds everything; gradients are summed          (`parallel.py`, `exact.py`)
    zero1       the optimizers' state is divided over ranks                 (`sharding.py`)
    fsdp        weights, gradients and the optimizers' state are divided    (`fsdp.py`)
    deepspeed   what DeepSpeed's own configuration says                     (`deepspeed_engine.py`)

A strategy is made around a fresh model, is given its optimizers once there are some, and then says what steps, how
gradients are summed, what of the model is this rank's to save, and how the whole model comes back at the end. Not here:
how a batch is divided (`Ranks.share`); every rank takes its slice whatever the strategy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch.optim import Optimizer

from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.train.config import TrainConfig
from minimind.train.deepspeed_engine import Engine, EngineGradients, EngineOptimizer, engine_config
from minimind.train.exact import ExactGradientSum
from minimind.train.fsdp import Sharded, ShardedGradientSum, require_even_shares
from minimind.train.parallel import Gradients, GradientSum, Ranks
from minimind.train.sharding import Layout, Zero1

Held = tuple[Layout, Sequence[Optimizer]]
"""What a rank has of the weights, and the optimizers that hold its state."""


class Strategy:
    """`ddp`; the others change what differs."""

    gradients: Gradients
    layout: Layout
    optimizers: Sequence[Optimizer]
    """What the loop steps."""

    def __init__(self, config: TrainConfig, model: Transformer, ranks: Ranks) -> None:
        self._config, self._model, self._ranks = config, model, ranks

    def give(self, optimizers: Sequence[Optimizer]) -> None:
        """Take the optimizers, which have not stepped; from here on there are the attributes above."""
        self.optimizers = optimizers
        trained = self._model.parameters()
        if self._config.exact:
            self.gradients = ExactGradientSum(trained, self._ranks, num_micro=self._config.num_micro)
        else:
            self.gradients = GradientSum(trained, self._ranks)
        self.layout = Layout.whole(self._model)

    def compile(self) -> None:
        """Compile what a step runs."""
        self._model.hidden = torch.compile(self._model.hidden)  # type: ignore[method-assign]

    def settle(self) -> None:
        """Call after forward passes without a backward pass, before anyone looks at the parameters."""

    @contextmanager
    def to_save(self) -> Iterator[Held]:
        """What a checkpoint is written from; every rank enters it."""
        self.settle()
        yield self.layout, self.optimizers

    @contextmanager
    def to_load(self) -> Iterator[Held]:
        """What a checkpoint is read into; every rank enters it."""
        yield self.layout, self.optimizers

    def whole_model(self) -> Transformer:
        """The trained model, whole on the first rank; every rank calls it."""
        return self._model


class Zero1Strategy(Strategy):
    """`zero1`."""

    def give(self, optimizers: Sequence[Optimizer]) -> None:
        super().give(optimizers)
        self.layout = Zero1(optimizers, self._model, self._ranks).layout


class FsdpStrategy(Strategy):
    """`fsdp`."""

    def __init__(self, config: TrainConfig, model: Transformer, ranks: Ranks) -> None:
        super().__init__(config, model, ranks)
        require_even_shares(config, ranks)
        self._sharded = Sharded(model, ranks)

    def give(self, optimizers: Sequence[Optimizer]) -> None:
        self.optimizers = optimizers
        self.gradients = ShardedGradientSum(self._sharded, self._ranks)
        self.layout = self._sharded.layout(optimizers)

    def compile(self) -> None:
        for layer in self._model.model.layers:  # weights come and go between layers, which no graph can hold
            layer.compute = torch.compile(layer.compute)

    def settle(self) -> None:
        self._sharded.reshard()

    def whole_model(self) -> Transformer:
        return self._sharded.whole()


class DeepSpeedStrategy(Strategy):
    """`deepspeed`; one rank alone has something of it too, offloading."""

    def __init__(self, config: TrainConfig, model: Transformer, ranks: Ranks) -> None:
        super().__init__(config, model, ranks)
        require_even_shares(config, ranks)
        engine_config(config)  # what is wrong with it is said before the data is looked at
        if config.compile == "on":
            raise ConfigError('`compile` does not go with `parallel` "deepspeed"; set it to "off"')

    def give(self, optimizers: Sequence[Optimizer]) -> None:
        (optimizer,) = optimizers
        self._engine = Engine(self._config, self._model, optimizer, self._ranks)
        self.gradients = EngineGradients(self._engine, self._ranks)
        self.optimizers = [EngineOptimizer(self._engine, self.gradients)]

    @contextmanager
    def to_save(self) -> Iterator[Held]:
        with self._engine.to_save() as held:
            yield held

    @contextmanager
    def to_load(self) -> Iterator[Held]:
        with self._engine.to_load() as held:
            yield held

    def whole_model(self) -> Transformer:
        return self._engine.whole()


def make_strategy(config: TrainConfig, model: Transformer, ranks: Ranks) -> Strategy:
    """The strategy that `config` asks for. One rank has nothing to divide: it is `ddp`, unless DeepSpeed was asked."""
    if config.parallel == "deepspeed":
        return DeepSpeedStrategy(config, model, ranks)
    if ranks.size == 1:
        return Strategy(config, model, ranks)
    kinds = {"ddp": Strategy, "zero1": Zero1Strategy, "fsdp": FsdpStrategy}
    return kinds[config.parallel](config, model, ranks)
