"""What one rank does with a `run.json`: put the parts of a training together, train, measure, save.

The five stages differ here and only here: which model they start from, what is trained of it, and
the objective. Everything is derived from the run; nothing else is read. Rank 0 writes the model
directory and `training.json`; the others compute. Not here: processes (`launch.py`).
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from minimind import fingerprint, runtime
from minimind.errors import ConfigError
from minimind.events import EVENTS_FILE, EventWriter
from minimind.model.config import count_parameters
from minimind.model.lora import apply_lora
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model
from minimind.tokens.mixture import MixtureBatches
from minimind.tokens.tokenizer import Tokenizer
from minimind.train import objectives
from minimind.train.checkpoint import (
    CHECKPOINTS_DIR,
    Found,
    find_checkpoint,
    load_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from minimind.train.config import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, TrainRun
from minimind.train.launch import TRAINING_FILE
from minimind.train.loop import Figures, Progress, Training, train
from minimind.train.objectives import Objective
from minimind.train.optimizer import LossScale, make_optimizers
from minimind.train.parallel import GradientSum, Ranks
from minimind.train.reference import REFERENCE_FILE, Pairs, references
from minimind.train.results import describer, save_result, summarize, tokenizer_dir, trained_parameters
from minimind.train.splits import Split, open_train_split, open_val_split
from minimind.train.validation import HeldOut, validate


def run_rank(run: TrainRun, ranks: Ranks) -> None:
    """Train as `run` says; on the first rank, leave the model directory and `training.json` behind."""
    config, out_dir = run.config, run.out_dir
    dtype = _choose_dtype(run, ranks)
    trained = open_train_split(run.stage, config, run.inputs, tokenizer_dir(run))
    held_out = open_val_split(run.stage, config, run.inputs, ranks=ranks.size)
    model = _make_model(run, trained, ranks, dtype)
    objective, measured = _make_objectives(run, model, trained, held_out, ranks, dtype)
    optimizers = make_optimizers(model, config, dtype=dtype)
    total_steps = config.total_steps(trained.steps_per_epoch)
    identity = fingerprint.digest({"config": config.identity(), "inputs": run.fingerprints})
    found, passed_over = _find_checkpoint(out_dir, identity, ranks)
    progress = Progress(loss_scale=LossScale.of(dtype))
    if found:
        progress = load_checkpoint(found, model=model, optimizers=optimizers, ranks=ranks)
    kept = found.header.events_offset if found else 0
    with EventWriter(out_dir / EVENTS_FILE, keep_bytes=kept) if ranks.is_first else nullcontext() as events:
        if events:
            _announce(events, run, ranks, model, found, passed_over)
            _tell_mixture(events, trained, 0)
        if _compiles(run, total_steps, ranks):
            model.hidden = torch.compile(model.hidden)  # type: ignore[method-assign]
        held_out_items = held_out and HeldOut(held_out.batches, held_out.num_items, held_out.batch_items)

        def look(sample: bool) -> Figures:
            return validate(model, measured, held_out_items, ranks, sample=sample) if held_out_items else {}

        training = Training(
            config=config,
            total_steps=total_steps,
            model=model,
            objective=objective,
            batches=trained.batches,
            optimizers=optimizers,
            gradients=GradientSum(model.parameters(), ranks),
            ranks=ranks,
            events=events,
            validate=lambda: look(sample=True),
            save=partial(_save_progress, out_dir, identity, model, optimizers, ranks, events),
            describe=describer(run, model, ranks),
        )
        figures = train(training, progress)
        at_the_end = look(sample=False)
        if events:
            if at_the_end:
                events.step(progress.step, total_steps, at_the_end)
            mixture = _tell_mixture(events, trained, progress.step)
            summary = summarize(run, training, trained.tokens.info, progress, figures | at_the_end, mixture)
            save_result(run, model)
            runtime.write_json(out_dir / TRAINING_FILE, summary.model_dump(mode="json"))


def _save_progress(
    out_dir: Path,
    identity: str,
    model: Transformer,
    optimizers: list[Optimizer],
    ranks: Ranks,
    events: EventWriter | None,
    progress: Progress,
) -> None:
    save_checkpoint(
        out_dir / CHECKPOINTS_DIR,
        progress,
        run=identity,
        model=model,
        optimizers=optimizers,
        ranks=ranks,
        events_offset=events.offset() if events else 0,
    )


def _choose_dtype(run: TrainRun, ranks: Ranks) -> torch.dtype:
    dtype = runtime.choose_precision(run.config.precision, ranks.device)
    if dtype == torch.float16 and ranks.device.type == "cpu":
        raise ConfigError(f'`{run.stage}.precision` is "fp16", ten times slower than "fp32" on a CPU; use "auto"')
    return dtype


def _make_model(run: TrainRun, split: Split, ranks: Ranks, dtype: torch.dtype) -> Transformer:
    """What training starts from, on its device, with what is not trained frozen."""
    config = run.config
    if isinstance(config, PretrainConfig):
        model = Transformer(config.model, seed=config.seed)
    else:
        model = load_model(run.inputs["model"])
    vocabulary = split.tokens.info.vocab_size
    if model.config.vocab_size != vocabulary:
        where = (
            "the model's vocabulary (`tokenizer.vocab_size`)" if run.stage == "pretrain" else "the model's vocabulary"
        )
        raise ConfigError(
            f"{where} is {model.config.vocab_size}, the tokens were made with {vocabulary}; make them equal"
        )
    if config.length > model.config.max_positions:
        raise ConfigError(
            f"`{run.stage}.length` is {config.length}, the model has {model.config.max_positions} positions; lower it"
        )
    if isinstance(config, LoraConfig):
        apply_lora(model, rank=config.rank, alpha=config.alpha, targets=config.targets, seed=config.seed)
    return model.to(ranks.device).set_compute_dtype(dtype)


def _make_objectives(
    run: TrainRun, model: Transformer, trained: Split, held_out: Split | None, ranks: Ranks, dtype: torch.dtype
) -> tuple[Objective, Objective]:
    """The objective to train on, and the same for the validation split."""
    config = run.config
    if isinstance(config, DistillConfig):
        teacher = load_model(run.inputs["teacher"], device=ranks.device).set_compute_dtype(dtype)
        if teacher.config.vocab_size != model.config.vocab_size:
            raise ConfigError(
                f"the teacher's vocabulary is {teacher.config.vocab_size}, the student's {model.config.vocab_size}; "
                "distillation needs the same tokenizer"
            )
        teacher.requires_grad_(False)
        both = objectives.distill(teacher, alpha=config.alpha, temperature=config.temperature)
        return both, both
    if isinstance(config, DpoConfig):
        splits = {"train": trained, **({"val": held_out} if held_out else {})}
        steps = {"train": config.total_steps(trained.steps_per_epoch)}
        pairs = {
            name: Pairs(
                split.batches,
                split.num_items,
                split.batch_items,
                config.micro_items,
                num_batches=steps.get(name, split.steps_per_epoch),
            )
            for name, split in splits.items()
        }
        arithmetic = {"length": config.length, "dtype": str(dtype), "seed": config.seed, **steps}
        key = fingerprint.digest({"inputs": run.fingerprints, **arithmetic})
        known = references(run.out_dir / REFERENCE_FILE, model, pairs, ranks, key=key)
        made = {
            name: objectives.dpo(reference, beta=config.beta, label_smoothing=config.label_smoothing)
            for name, reference in known.items()
        }
        return made["train"], made.get("val", made["train"])
    both = objectives.next_token(_bytes_per_token(run) if trained.tokens.kind == "pretrain" else None)
    return both, both


def _bytes_per_token(run: TrainRun) -> Tensor:
    tokenizer = Tokenizer.load(tokenizer_dir(run))
    return torch.tensor([len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)])


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
    events: EventWriter, run: TrainRun, ranks: Ranks, model: Transformer, found: Found | None, passed_over: list[str]
) -> None:
    """What a reader of the log wants to know before the first step."""
    for line in passed_over:
        events.log(line, level="warning")
    if found:
        events.log(f"goes on after step {found.header.progress['step']}")
    dtype = str(model.compute_dtype).removeprefix("torch.")
    events.log(
        f"{run.stage}: {trained_parameters(model):,} of {count_parameters(model.config):,} parameters trained "
        f"in {dtype} on {ranks.size} × {ranks.device.type}, {torch.get_num_threads()} threads each"
    )


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


def _compiles(run: TrainRun, total_steps: int, ranks: Ranks) -> bool:
    tokens = total_steps * run.config.batch_items * run.config.item_tokens
    auto = ranks.device.type == "cuda" and tokens >= 100e6  # a cold compile takes about a minute
    return run.config.compile == "on" or (run.config.compile == "auto" and auto)
