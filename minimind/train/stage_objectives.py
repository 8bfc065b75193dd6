"""Which objective a stage has: what it needs besides the model, and one to train on and one to measure with.

Not here: the objectives themselves (`objectives.py`).
"""

import torch
from torch import Tensor

from minimind import fingerprint
from minimind.errors import ConfigError
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model
from minimind.tokens.tokenizer import Tokenizer
from minimind.train import objectives
from minimind.train.objectives import Objective
from minimind.train.parallel import Ranks
from minimind.train.reference import REFERENCE_FILE, Pairs, references
from minimind.train.results import tokenizer_dir
from minimind.train.splits import Split
from minimind.train.stage_configs import DistillConfig, DpoConfig, TrainRun


def make_objectives(
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
