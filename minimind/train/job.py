"""What one rank does with a `run.json`: put the parts of a training together, train, measure, save.

Everything is derived from the run; nothing else is read. Rank 0 writes the model directory and `training.json`; the
others compute. Not here: what the parts are made from (`setup.py`, `splits.py`, `stage_objectives.py`), processes
(`launch.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch

from minimind import fingerprint, runtime
from minimind.events import EVENTS_FILE, EventWriter
from minimind.model.config import count_parameters
from minimind.model.transformer import Transformer
from minimind.tokens.mixture import MixtureBatches
from minimind.train.checkpoint import (
    Found,
    find_checkpoint,
    load_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from minimind.train.digests import digest_optimizers, digest_weights
from minimind.train.exact import deterministic, require_exact
from minimind.train.launch import CHECKPOINTS_DIR, TRAINING_FILE
from minimind.train.loop import Figures, Progress, Training, train
from minimind.train.optimizer import LossScale, make_optimizers
from minimind.train.parallel import Ranks
from minimind.train.results import save_result, summarize, tokenizer_dir, trained_parameters
from minimind.train.row_names import name_rows
from minimind.train.setup import choose_dtype, compiles, make_model
from minimind.train.splits import Split, mixed_input, open_train_split, open_val_split
from minimind.train.stage_configs import TrainRun
from minimind.train.stage_objectives import Objectives, make_objectives
from minimind.train.strategy import Strategy, make_strategy
from minimind.train.validation import HeldOut, validate
from minimind.train.watch import Watch


def run_rank(run: TrainRun, ranks: Ranks) -> None:
    """Train as `run` says; on the first rank, leave the model directory and `training.json` behind."""
    config, out_dir = run.config, run.out_dir
    if config.exact:
        require_exact(config, ranks)
    dtype = choose_dtype(run, ranks)
    trained = open_train_split(run.stage, config, run.inputs, tokenizer_dir(run))
    held_out = open_val_split(run.stage, config, run.inputs, ranks=ranks.size)
    model = make_model(run, trained, ranks, dtype)
    strategy = make_strategy(config, model, ranks)
    objectives = make_objectives(run, model, trained, held_out, ranks, dtype)
    strategy.settle()
    strategy.give(make_optimizers(model, config, dtype=dtype))
    optimizers = strategy.optimizers
    total_steps = config.total_steps(trained.steps_per_epoch)
    identity = fingerprint.digest({"config": config.identity(), "inputs": run.fingerprints})
    found, passed_over = _find_checkpoint(out_dir, identity, ranks)
    progress = Progress(loss_scale=LossScale.of(dtype))
    if found:
        with strategy.to_load() as (layout, states):
            progress = load_checkpoint(found, model=model, optimizers=states, ranks=ranks, layout=layout)
    kept = found.header.events_offset if found else 0
    writer = EventWriter(out_dir / EVENTS_FILE, keep_bytes=kept) if ranks.is_first else nullcontext()
    with deterministic(config.exact), writer as events:
        if events:
            _announce(events, run, ranks, model, found, [*passed_over, *objectives.warnings], objectives.notes)
            _tell_mixture(events, trained, 0)
        if compiles(run, total_steps, ranks):
            strategy.compile()
        look = _looking(run, model, objectives, held_out, ranks)
        watch = Watch(
            run,
            model,
            optimizers,
            trained.batches,
            ranks,
            events,
            progress,
            total_steps=total_steps,
            steps_per_epoch=trained.steps_per_epoch,
        )
        training = Training(
            config=config,
            total_steps=total_steps,
            model=model,
            objective=objectives.trained,
            batches=trained.batches,
            optimizers=optimizers,
            gradients=strategy.gradients,
            ranks=ranks,
            events=events,
            validate=lambda: look(True),
            save=partial(_save_progress, out_dir, identity, model, strategy, ranks, events),
            describe=watch.describe,
            observe=watch.observe,
            name_rows=partial(name_rows, trained.batches, _token_sets(run)),
        )
        figures = train(training, progress)
        at_the_end = look(False)
        with strategy.to_save() as (layout, states):
            optimizer_digest = digest_optimizers(layout, states, ranks)
        whole = strategy.whole_model()
        if events:
            if at_the_end:
                events.step(progress.step, total_steps, at_the_end)
            mixture = _tell_mixture(events, trained, progress.step)
            summary = summarize(run, training, trained.tokens.info, progress, figures | at_the_end, mixture)
            digests = {"weights_digest": digest_weights(whole), "optimizer_digest": optimizer_digest}
            summary = summary.replace(figures={**summary.figures, **objectives.figures, **digests})
            save_result(run, whole)
            runtime.write_json(out_dir / TRAINING_FILE, summary.model_dump(mode="json"))


def _looking(
    run: TrainRun, model: Transformer, objectives: Objectives, held_out: Split | None, ranks: Ranks
) -> Callable[[bool], Figures]:
    """Figures of the held-out rows, of a sample or of all; nothing where there are none."""
    if held_out is None:
        return lambda sample: {}
    unit = run.config.micro_items if run.config.exact else None
    items = HeldOut(held_out.batches, held_out.num_items, held_out.batch_items, unit=unit)
    return lambda sample: validate(model, objectives.measured, items, ranks, sample=sample)


def _token_sets(run: TrainRun) -> list[Path]:
    """The stage's own, and those that are mixed in."""
    return [run.inputs["tokens"], *(run.inputs[mixed_input(kind)] for kind in run.config.mix)]


def _save_progress(
    out_dir: Path,
    identity: str,
    model: Transformer,
    strategy: Strategy,
    ranks: Ranks,
    events: EventWriter | None,
    progress: Progress,
) -> str | None:
    """Save, or go on without and say so: the next try may find room on the disk."""
    with strategy.to_save() as (layout, optimizers):
        problem = save_checkpoint(
            out_dir / CHECKPOINTS_DIR,
            progress,
            run=identity,
            model=model,
            optimizers=optimizers,
            ranks=ranks,
            events_offset=events.offset() if events else 0,
            layout=layout,
        )
    if problem and events:
        events.log(problem, level="warning")
    return problem


def _find_checkpoint(out_dir: Path, identity: str, ranks: Ranks) -> tuple[Found | None, list[str]]:
    """The checkpoint that the first rank finds and proves; every rank gets the same."""
    found, passed_over = None, list[str]()
    if ranks.is_first:
        found, passed_over = find_checkpoint(out_dir / CHECKPOINTS_DIR, run=identity)
    step = ranks.from_first(found.header.progress["step"] if found else -1)
    if step >= 0 and not found:
        found = open_checkpoint(out_dir / CHECKPOINTS_DIR, step)
    return found, passed_over


def _announce(
    events: EventWriter,
    run: TrainRun,
    ranks: Ranks,
    model: Transformer,
    found: Found | None,
    warnings: Sequence[str],
    notes: Sequence[str],
) -> None:
    """What a reader of the log wants to know before the first step."""
    for line in warnings:
        events.log(line, level="warning")
    if found:
        events.log(f"goes on after step {found.header.progress['step']}")
    dtype = str(model.compute_dtype).removeprefix("torch.")
    events.log(
        f"{run.stage}: {trained_parameters(model):,} of {count_parameters(model.config):,} parameters trained "
        f"in {dtype} on {ranks.size} × {ranks.device.type}, {torch.get_num_threads()} threads each"
    )
    for line in notes:
        events.log(line)


def _tell_mixture(events: EventWriter, trained: Split, steps: int) -> Figures:
    """Log what each token set is of the rows and tokens; the same as figures, actual over the first `steps`."""
    if not isinstance(trained.batches, MixtureBatches):
        return {}
    figures, words = Figures(), []
    for name, share in trained.batches.shares(steps).items():
        figures |= {f"mix_{name}_rows": share.rows, f"mix_{name}_tokens_planned": share.tokens_planned}
        figures |= {f"mix_{name}_tokens": share.tokens_actual} if steps else {}
        actual = f", {share.tokens_actual:.2%} of those so far" if steps else ""
        words.append(f"{name} {share.rows:.2%} of the rows, planned {share.tokens_planned:.2%} of the tokens{actual}")
    events.log(f"mixture: {'; '.join(words)}")
    return figures
