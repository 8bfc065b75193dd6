"""What it costs to watch a training: events, checkpoints, MLflow, the progress bar, on the quickstart's pretraining.

The loop runs as a rank runs it, and beside it in the same process the follower that a stage starts, with MLflow on a
fresh SQLite database and the terminal's display. The CPU time of the loop's own calls (events, checkpoints) and of
every other thread is held against that of the rest. A checkpoint is saved after 28 steps: twice as often as once a
minute, which is what the recipe does on two idle cores.

Not here: starting a stage (imports, the launcher), which does not grow with a training.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from minimind.events import EVENTS_FILE, EventWriter
from minimind.model.config import PRESETS
from minimind.model.transformer import Transformer
from minimind.tokens.batches import Batch
from minimind.train import objectives
from minimind.train.checkpoint import save_checkpoint
from minimind.train.config import TrainConfig
from minimind.train.loop import Progress, Training, train
from minimind.train.optimizer import make_optimizers
from minimind.train.parallel import GradientSum, Ranks
from tasks.display import Display
from tasks.follow import Follower
from tasks.tracking import Tracker

STEPS, SAVE_EVERY, ROWS, LENGTH, VOCABULARY = 56, 28, 16, 256, 2048


class Rows:
    """The quickstart's batches in shape, random in content."""

    def batch(self, step: int) -> Batch:
        ids = np.random.default_rng([0, step]).integers(1, VOCABULARY, (ROWS, LENGTH + 1), dtype=np.int32)
        places = np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1))
        return Batch(ids[:, :-1].copy(), ids[:, 1:].copy(), np.zeros_like(places), places, np.arange(ROWS))


class Meter:
    """CPU seconds of this thread spent inside what it wraps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def metered(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.thread_time() - began

        return metered


def tracking(_: Path) -> dict[str, Any]:
    """The share of watching in a training of 56 steps of the quickstart's model."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        tracker = Tracker(directory)
        run_id = tracker.begin("pretrain", tags={"stage": "pretrain"})
        meter = Meter()
        with Display(Console(file=StringIO(), force_terminal=True)) as display:
            display.started("pretrain")
            sinks = {
                "display": lambda events: display.events("pretrain", events),
                "MLflow": lambda events: tracker.log_steps(run_id, events),
            }
            with EventWriter(directory / EVENTS_FILE) as events, Follower(directory, sinks):
                whole, own = _train(directory, events, meter)
        others = whole - own
    watching = meter.seconds + others
    return {
        "cpu_seconds": whole,
        "million_ids": STEPS * ROWS * LENGTH / 1e6,
        "loop_seconds": meter.seconds,
        "other_threads_seconds": others,
        "share": watching / (whole - watching),
    }


def _train(directory: Path, events: EventWriter, meter: Meter) -> tuple[float, float]:
    """CPU seconds of the process and of this thread, from the second step on."""
    config = TrainConfig(
        tokens=1,
        batch_tokens=ROWS * LENGTH,
        micro_tokens=ROWS * LENGTH,
        length=LENGTH,
        optimizer="muon",
        checkpoint_steps=SAVE_EVERY,
    )
    model = Transformer(PRESETS["minimind-nano"].replace(vocab_size=VOCABULARY)).set_compute_dtype(torch.bfloat16)
    optimizers, ranks = make_optimizers(model, config, dtype=torch.bfloat16), Ranks(0, 1, torch.device("cpu"))
    began: list[float] = []

    def note(progress: Progress, *_: object) -> None:
        if not began:
            began.extend((time.process_time(), time.thread_time()))
            meter.seconds = 0.0

    save = partial(save_checkpoint, directory / "checkpoints", model=model, optimizers=optimizers, ranks=ranks)
    events.step = meter(events.step)  # type: ignore[method-assign]
    training = Training(
        config=config,
        total_steps=STEPS,
        model=model,
        objective=objectives.next_token(),
        batches=Rows(),
        optimizers=optimizers,
        gradients=GradientSum(model.parameters(), ranks),
        ranks=ranks,
        events=events,
        save=meter(lambda progress: save(progress, run="", events_offset=events.offset())),
        observe=note,
    )
    train(training, Progress())
    time.sleep(1.0)  # what the follower has still to deliver
    return time.process_time() - began[0], time.thread_time() - began[1]
