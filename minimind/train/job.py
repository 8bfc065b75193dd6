"""What one rank does with a `run.json`: put the parts of a training together, train, measure, save.

Everything is derived from the run; nothing else is read. Rank 0 writes the model directory and `training.json`; the
others compute. Not here: what the parts are made from (`setup.py`, `splits.py`, `stage_objectives.py`), processes
(`launch.py`).
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from minimind import fingerprint
from minimind.events import EVENTS_FILE, EventWriter
from minimind.failpoints import reach
from minimind.model.config import count_parameters
from minimind.model.transformer import Transformer
from minimind.tokens.mixture import MixtureBatches
from minimind.tokens.tokenizer import Tokenizer
from minimind.train.checkpoint import (
    Found,
    find_checkpoint,
    load_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from minimind.train.digests import digest_optimizers, digest_weights
from minimind.train.exact import deterministic, require_exact
from minimind.train.launch import CHECKPOINTS_DIR, TRAINING_FILE, Trained
from minimind.train.loop import Figures, Progress, Training, train
from minimind.train.optimizer import LossScale, make_optimizers
from minimind.train.parallel import Ranks
from minimind.train.probes import Probes, probe
from minimind.train.results import save_result, summarize, tokenizer_dir, trained_parameters
from minimind.train.row_names import name_rows
from minimind.train.setup import choose_dtype, compiles, make_model
from minimind.train.splits import Split, open_train_split, open_val_split, other_input
from minimind.train.stage_configs import TrainRun
from minimind.train.stage_objectives import Objectives, make_objectives
from minimind.train.strategy import Strategy, make_strategy
from minimind.train.validation import HeldOut, validate
from minimind.train.watch import Watch

_CHANGED = "the figures and lines up to there may be wrong; what is trained is not touched"


@dataclass(frozen=True)
class Parts:
    """What one rank trains with, before it is known where it begins."""

    run: TrainRun
    ranks: Ranks
    trained: Split
    held_out: Split | None
    model: Transformer
    objectives: Objectives
    strategy: Strategy
    total_steps: int
    loss_scale: LossScale

    @property
    def identity(self) -> str:
        """What a checkpoint must be of."""
        return fingerprint.digest({"config": self.run.config.identity(), "inputs": self.run.fingerprints})


def run_rank(run: TrainRun, ranks: Ranks) -> None:
    """Train as `run` says; on the first rank, leave the model directory and `training.json` behind."""
    reach("train.start")
    parts = _make_parts(run, ranks)
    found, passed_over = _find_checkpoint(run.out_dir, parts.identity, ranks)
    progress = _load(parts, found)
    kept = found.header.events_offset if found else 0
    writer = EventWriter(run.out_dir / EVENTS_FILE, keep_bytes=kept) if ranks.is_first else nullcontext()
    with deterministic(run.config.exact), writer as events:
        if events:
            changed = found is not None and found.header.events_sha256 not in ("", events.digest())
            if found and changed:
                events.log(f"{EVENTS_FILE} is not what it was after step {progress.step}: {_CHANGED}", level="warning")
            _announce(events, parts, found, passed_over)
            _tell_mixture(events, parts.trained, 0)
        if compiles(run, parts.total_steps, ranks):
            parts.strategy.compile()
        look = _looking(parts)
        training = _make_training(parts, progress, events, validate=lambda: look(True))
        figures = train(training, progress)
        _finish(parts, training, progress, figures, look(False))


def _make_parts(run: TrainRun, ranks: Ranks) -> Parts:
    config = run.config
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
    total_steps = config.total_steps(trained.steps_per_epoch)
    return Parts(run, ranks, trained, held_out, model, objectives, strategy, total_steps, LossScale.of(dtype))


def _load(parts: Parts, found: Found | None) -> Progress:
    """Where the training begins, with everything in place that a checkpoint holds."""
    if found is None:
        return Progress(loss_scale=parts.loss_scale)
    with parts.strategy.to_load() as (layout, optimizers):
        return load_checkpoint(found, model=parts.model, optimizers=optimizers, ranks=parts.ranks, layout=layout)


def _make_training(
    parts: Parts, progress: Progress, events: EventWriter | None, *, validate: Callable[[], Figures]
) -> Training:
    run, trained, optimizers = parts.run, parts.trained, parts.strategy.optimizers
    watch = Watch(
        run,
        parts.model,
        optimizers,
        trained.batches,
        parts.ranks,
        events,
        progress,
        total_steps=parts.total_steps,
        steps_per_epoch=trained.steps_per_epoch,
    )
    return Training(
        config=run.config,
        total_steps=parts.total_steps,
        model=parts.model,
        objective=parts.objectives.trained,
        batches=trained.batches,
        optimizers=optimizers,
        gradients=parts.strategy.gradients,
        ranks=parts.ranks,
        events=events,
        validate=validate,
        save=partial(_save_progress, parts, events),
        describe=watch.describe,
        observe=watch.observe,
        name_rows=partial(name_rows, trained.batches, _token_sets(run)),
    )


def _finish(parts: Parts, training: Training, progress: Progress, figures: Figures, at_the_end: Figures) -> None:
    """Write what the stage takes over. Every rank calls it, the first one writes."""
    run, events = parts.run, training.events
    with parts.strategy.to_save() as (layout, optimizers):
        optimizer_digest = digest_optimizers(layout, optimizers, parts.ranks)
    whole = parts.strategy.whole_model()
    if not events:
        return
    if at_the_end:
        events.step(progress.step, parts.total_steps, at_the_end)
    mixture = _tell_mixture(events, parts.trained, progress.step)
    summary = summarize(run, training, parts.trained.tokens.info, progress, figures | at_the_end, mixture)
    digests = {"weights_digest": digest_weights(whole), "optimizer_digest": optimizer_digest}
    summary = summary.replace(figures={**summary.figures, **parts.objectives.figures, **digests})
    save_result(run, whole)
    reach("train.end")
    Trained(**summary.model_dump()).write(run.out_dir / TRAINING_FILE)


def _looking(parts: Parts) -> Callable[[bool], Figures]:
    """Figures of the held-out rows, of a sample or of all, and of the probes; nothing where there are no rows."""
    held_out, config, ranks = parts.held_out, parts.run.config, parts.ranks
    if held_out is None:
        return lambda sample: {}
    unit = config.micro_items if config.exact else None
    items = HeldOut(held_out.batches, held_out.num_items, held_out.batch_items, unit=unit)
    look = partial(validate, parts.model, parts.objectives.measured, items, ranks)
    if not config.probes:
        return lambda sample: look(sample=sample)
    stops = Tokenizer.load(tokenizer_dir(parts.run)).specials.stop
    probes = Probes.of(held_out.tokens, length=config.length, stops=stops)
    return lambda sample: look(sample=sample) | probe(parts.model, probes, ranks)


def _token_sets(run: TrainRun) -> list[Path]:
    """The stage's own, and those that are read beside it."""
    return [run.inputs["tokens"], *(run.inputs[other_input(kind)] for kind in run.config.other_rows)]


def _save_progress(parts: Parts, events: EventWriter | None, progress: Progress) -> str | None:
    """Save, or go on without and say so: the next try may find room on the disk."""
    with parts.strategy.to_save() as (layout, optimizers):
        problem = save_checkpoint(
            parts.run.out_dir / CHECKPOINTS_DIR,
            progress,
            run=parts.identity,
            model=parts.model,
            optimizers=optimizers,
            ranks=parts.ranks,
            events_offset=events.offset() if events else 0,
            events_sha256=events.digest() if events else "",
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


def _announce(events: EventWriter, parts: Parts, found: Found | None, passed_over: Sequence[str]) -> None:
    """What a reader of the log wants to know before the first step."""
    model, ranks = parts.model, parts.ranks
    for line in [*passed_over, *parts.objectives.warnings]:
        events.log(line, level="warning")
    if found:
        events.log(f"goes on after step {found.header.progress['step']}")
    dtype = str(model.compute_dtype).removeprefix("torch.")
    events.log(
        f"{parts.run.stage}: {trained_parameters(model):,} of {count_parameters(model.config):,} parameters trained "
        f"in {dtype} on {ranks.size} × {ranks.device.type}, {torch.get_num_threads()} threads each"
    )
    for line in parts.objectives.notes:
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
