"""Which objective a stage has: what it needs besides the model, and one to train on and one to measure with.

Not here: the objectives themselves (`objectives.py`).
"""

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from minimind import fingerprint, runtime
from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.model.weights import WEIGHTS_FILE, load_model
from minimind.tokens.batches import PairBatches
from minimind.tokens.tokenizer import Tokenizer
from minimind.train import objectives
from minimind.train.objectives import Objective
from minimind.train.parallel import Ranks
from minimind.train.preference_losses import LOSSES
from minimind.train.reference import Found, Wanted, directory_of, find_references
from minimind.train.results import tokenizer_dir
from minimind.train.splits import Split
from minimind.train.stage_configs import DistillConfig, DpoConfig, TrainRun


class Objectives(NamedTuple):
    """One to train on, the same for the validation split, and what is to be said of how they were made."""

    trained: Objective
    measured: Objective
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    figures: Mapping[str, float] = MappingProxyType({})
    """For the training's summary."""


def make_objectives(
    run: TrainRun, model: Transformer, trained: Split, held_out: Split | None, ranks: Ranks, dtype: torch.dtype
) -> Objectives:
    """The objectives of the run's stage. `model` is what training starts from."""
    config = run.config
    if isinstance(config, DistillConfig):
        both = objectives.distill(
            _teacher(run, model, ranks, dtype), alpha=config.alpha, temperature=config.temperature
        )
        return Objectives(both, both)
    if isinstance(config, DpoConfig):
        return _preference(run, config, model, trained, held_out, ranks, dtype)
    both = objectives.next_token(_bytes_per_token(run, ranks) if trained.tokens.kind == "pretrain" else None)
    return Objectives(both, both)


def _teacher(run: TrainRun, model: Transformer, ranks: Ranks, dtype: torch.dtype) -> Transformer:
    """The frozen model that teaches. Raises ConfigError where it cannot read what the student reads."""
    teacher = load_model(run.inputs["teacher"], device=ranks.device).set_compute_dtype(dtype)
    if teacher.config.vocab_size != model.config.vocab_size:
        raise ConfigError(
            f"the vocabulary of `distill.teacher` is {teacher.config.vocab_size}, the student's "
            f"{model.config.vocab_size}; take a teacher that was trained with the student's tokenizer"
        )
    if teacher.config.max_positions < run.config.length:
        raise ConfigError(
            f"`distill.length` is {run.config.length}, `distill.teacher` has {teacher.config.max_positions} positions; "
            "lower it, or take another teacher"
        )
    teacher.requires_grad_(False)
    return teacher.eval()


def _preference(
    run: TrainRun,
    config: DpoConfig,
    model: Transformer,
    trained: Split,
    held_out: Split | None,
    ranks: Ranks,
    dtype: torch.dtype,
) -> Objectives:
    loss = partial(LOSSES[config.loss], **config.loss_settings)
    if not config.needs_reference:
        return Objectives(objectives.preference(loss, beside=config.beside), objectives.preference(loss))
    found = _references(run, model, trained, held_out, ranks, dtype)
    bytes_per_token = _bytes_per_token(run, ranks)

    def objective(split: str) -> Objective:
        return objectives.preference(
            loss,
            found.references[split],
            bytes_per_token=bytes_per_token,
            beside=config.beside if split == "train" else {},
        )

    made = {split: objective(split) for split in found.references}
    note = f"reference log-probabilities: {found.computed:,} pairs computed in {found.seconds:.1f} s, the others known"
    warnings = (found.problem,) if found.problem else ()
    figures = {"reference_pairs": found.computed, "reference_seconds": round(found.seconds, 3)}
    return Objectives(made["train"], made.get("val", made["train"]), (note,), warnings, figures)


def _references(
    run: TrainRun, model: Transformer, trained: Split, held_out: Split | None, ranks: Ranks, dtype: torch.dtype
) -> Found:
    """Those of the pairs that this training looks at."""
    assert isinstance(trained.batches, PairBatches)
    steps, pairs = run.config.total_steps(trained.steps_per_epoch), None
    if steps < trained.steps_per_epoch:
        taken = [trained.batches.pieces(step) for step in range(steps)]
        pairs = np.concatenate([pieces.documents[pieces.token_sets == 0] // 2 for pieces in taken])
    wanted = {"train": Wanted(trained.batches, pairs)}
    if held_out:
        assert isinstance(held_out.batches, PairBatches)
        wanted["val"] = Wanted(held_out.batches)
    # the weights' own bytes, not the name of their artifact: a reference of other weights would be wrong unseen
    key = fingerprint.digest(
        {
            "weights": runtime.file_sha256(run.inputs["model"] / WEIGHTS_FILE),
            "pairs": run.fingerprints["tokens"],
            "arithmetic": [str(dtype), ranks.device.type, torch.__version__],
            "code": fingerprint.code_digests([find_references.__module__]),
        }
    )
    path = directory_of(run.inputs["tokens"]) / f"{run.fingerprints['model']}-{key}.safetensors"
    return find_references(path, model, wanted, ranks)


def _bytes_per_token(run: TrainRun, ranks: Ranks) -> Tensor:
    """Content bytes of every token, V of them; 0 for special tokens."""
    tokenizer = Tokenizer.load(tokenizer_dir(run))
    sizes = [len(tokenizer.decode_bytes([token])) for token in range(tokenizer.vocab_size)]
    return torch.tensor(sizes, device=ranks.device)
