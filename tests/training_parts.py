"""Small parts for the training tests: a tiny model, batches with a pattern in them, a training of one process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from minimind.events import EVENTS_FILE, EventWriter, read_events
from minimind.model.config import ModelConfig
from minimind.model.transformer import Transformer
from minimind.tokens.batches import IGNORE, Batch
from minimind.train.config import TrainConfig
from minimind.train.exact import ExactGradientSum
from minimind.train.loop import Batches, Progress, Training
from minimind.train.objectives import Objective
from minimind.train.optimizer import make_optimizers
from minimind.train.parallel import GradientSum, Ranks

VOCABULARY = 600
"""That of the session's tokenizer."""
TINY = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_size=8,
    ffn_size=64,
    max_positions=512,
)

ONE_RANK = Ranks(0, 1, torch.device("cpu"))


class Pattern:
    """Batches with something to learn: the next token is a fixed function of the last one, mostly."""

    def __init__(self, *, rows: int = 8, length: int = 24, pairs: bool = False, trained: float = 0.7) -> None:
        self._rows, self._length, self._pairs, self._trained = rows, length, pairs, trained

    def batch(self, step: int) -> Batch:
        """The batch of a step, from that number alone."""
        rng = np.random.default_rng([7, step])
        rows = 2 * self._rows if self._pairs else self._rows
        tokens = np.empty((rows, self._length + 1), np.int64)
        tokens[:, 0] = rng.integers(1, VOCABULARY, rows)
        for column in range(self._length):
            factor = np.where(np.arange(rows) < self._rows, 3, 5)  # the rejected halves follow another rule
            tokens[:, column + 1] = (tokens[:, column] * factor + 1) % VOCABULARY
        noise = rng.random(tokens.shape) < 0.1
        tokens = np.where(noise, rng.integers(1, VOCABULARY, tokens.shape), tokens)
        trained = rng.random((rows, self._length)) < self._trained
        items = np.arange(self._rows) + step * self._rows
        return Batch(
            tokens_BT=tokens[:, :-1].copy(),
            labels_BT=np.where(trained, tokens[:, 1:], IGNORE),
            documents_BT=np.repeat(np.arange(rows)[:, None] * self._pairs, self._length, axis=1).astype(np.int32),
            positions_BT=np.tile(np.arange(self._length), (rows, 1)),
            items_B=np.tile(items, 2) if self._pairs else items,
        )


def make_training(
    config: TrainConfig,
    model: Transformer,
    objective: Objective,
    batches: Batches,
    *,
    total_steps: int,
    events: EventWriter | None = None,
    save: Callable[[Progress], None] = lambda progress: None,
) -> Training:
    """A training of one rank in this process."""
    return Training(
        config=config,
        total_steps=total_steps,
        model=model,
        objective=objective,
        batches=batches,
        optimizers=make_optimizers(model, config, dtype=model.compute_dtype),
        gradients=ExactGradientSum(model.parameters(), ONE_RANK, num_micro=config.num_micro)
        if config.exact
        else GradientSum(model.parameters(), ONE_RANK),
        ranks=ONE_RANK,
        events=events,
        save=save,
    )


def losses(directory: Path) -> list[float | None]:
    """The losses in a directory's event stream, in order."""
    events = read_events(directory / EVENTS_FILE)
    return [event.metrics["loss"] for event in events if "loss" in event.metrics]
