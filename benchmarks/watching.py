"""What tracking costs a training: figures, events, spikes and checkpoints beside the same steps without any of it.

The tiny recipe's model and batch (`quickstart`: 3.5 M parameters, 4,096 positions, Muon), one thread, a line of figures
every ten steps. A checkpoint is saved once; `share` adds up what was measured inside the watched run for each part,
with a checkpoint every 60 seconds as by default. What is compared are CPU seconds.

    python -m benchmarks.watching
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import main
from benchmarks.token_sets import CACHE, short_lengths, write_random_set
from minimind.events import EVENTS_FILE, EventWriter
from minimind.model.transformer import Transformer
from minimind.recipe import load_recipe
from minimind.runtime import choose_precision
from minimind.tokens.batches import RowBatches
from minimind.tokens.split_writer import Documents
from minimind.tokens.token_set import TokenSet
from minimind.train.checkpoint import save_checkpoint
from minimind.train.loop import Progress, Training, train
from minimind.train.objectives import next_token
from minimind.train.optimizer import make_optimizers
from minimind.train.parallel import GradientSum, Ranks
from minimind.train.stage_configs import TrainRun
from minimind.train.watch import UpdateNorm, Watch

STEPS, VOCABULARY, DOCUMENTS = 20, 2048, 3000
ONE_RANK = Ranks(0, 1, torch.device("cpu"))


def documents() -> Path:
    """Random ids in documents of usual lengths."""
    directory = CACHE / "watching" / "train"
    if not (directory / "tokens.json").exists():
        lengths = short_lengths(DOCUMENTS, mean=280, longest=4000)
        ids = np.random.default_rng(0).integers(1, VOCABULARY, int(lengths.sum()))
        some = Documents(ids, lengths, None, np.arange(len(lengths)), 3 * lengths)
        write_random_set(directory, [some], vocab_size=VOCABULARY, row_length=256)
    return directory / "tokens.json"


def bare(path: Path) -> dict[str, Any]:
    """The loop with nobody listening: no figures but its own, no file, no checkpoint."""
    training = _training(path)
    return _run(training, Progress())


def watched(path: Path) -> dict[str, Any]:
    """The loop as a training has it."""
    training, progress, spent = _training(path), Progress(), {"figures": 0.0, "spikes": 0.0, "update": 0.0, "save": 0.0}
    for name in ("_keep", "_compare"):
        setattr(UpdateNorm, name, _timed(getattr(UpdateNorm, name), spent, "update"))
    with tempfile.TemporaryDirectory() as directory, EventWriter(Path(directory) / EVENTS_FILE) as events:
        run = TrainRun(stage="pretrain", config=training.config, inputs={}, fingerprints={}, out_dir=Path(directory))
        watch = Watch(
            *(run, training.model, training.optimizers, training.batches, ONE_RANK, events, progress),
            total_steps=STEPS,
            steps_per_epoch=200,
        )
        watch.describe(replace(progress, step=1, seconds=1.0))  # measures the peak, once a process
        save = partial(
            save_checkpoint,
            Path(directory) / "checkpoints",
            run="",
            model=training.model,
            optimizers=training.optimizers,
            ranks=ONE_RANK,
            events_offset=0,
        )
        training = replace(
            training,
            config=training.config.replace(checkpoint_steps=STEPS - 1),
            events=events,
            describe=_timed(watch.describe, spent, "figures"),
            observe=_timed(watch.observe, spent, "spikes"),
            save=_timed(save, spent, "save"),
        )
        figures = _run(training, progress)
    seconds = figures["cpu_seconds"] - sum(spent.values())
    every_step = (spent["figures"] + spent["spikes"] + spent["update"]) / seconds
    return {**figures, "share": every_step + spent["save"] / 60, **spent}


def _training(path: Path) -> Training:
    torch.set_num_threads(1)
    config = load_recipe("quickstart").pretrain_config(VOCABULARY)
    model = Transformer(config.model, compute_dtype=choose_precision("auto", ONE_RANK.device))
    return Training(
        config=config.replace(validate_every=0, threads=1, checkpoint_seconds=86400.0),
        total_steps=STEPS,
        model=model,
        objective=next_token(),
        batches=RowBatches(TokenSet.open(path.parent), row_length=config.length, batch_rows=config.batch_items, seed=0),
        optimizers=make_optimizers(model, config, dtype=model.compute_dtype),
        gradients=GradientSum(model.parameters(), ONE_RANK),
        ranks=ONE_RANK,
        events=None,
    )


def _run(training: Training, progress: Progress) -> dict[str, Any]:
    began = time.process_time()
    train(training, progress)
    return {"cpu_seconds": time.process_time() - began, "million_ids": progress.tokens / 1e6}


def _timed(function: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        began = time.process_time()
        result = function(*arguments, **named)
        spent[name] += time.process_time() - began
        return result

    return timed


VARIANTS = {"bare": bare, "watched": watched}

if __name__ == "__main__":
    main(
        "benchmarks.watching",
        "A training with tracking, events and a checkpoint, million ids per CPU second",
        VARIANTS,
        baseline="bare",
        default_input=documents,
    )
