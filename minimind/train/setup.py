"""What a training starts from: the model on its device, its arithmetic, and whether it is compiled.

Not here: its rows (`splits.py`), its objective (`stage_objectives.py`).
"""

import torch

from minimind import runtime
from minimind.errors import ConfigError
from minimind.model.lora import apply_lora
from minimind.model.transformer import Transformer
from minimind.model.weights import load_model
from minimind.train.parallel import Ranks
from minimind.train.splits import Split
from minimind.train.stage_configs import PretrainConfig, TrainRun

COMPILE_TOKENS = 100e6
"""A cold compile takes about a minute, in which a GPU does a tenth of this."""


def choose_dtype(run: TrainRun, ranks: Ranks) -> torch.dtype:
    dtype = runtime.choose_precision(run.config.precision, ranks.device)
    if dtype == torch.float16 and ranks.device.type == "cpu":
        raise ConfigError(f'`{run.stage}.precision` is "fp16", ten times slower than "fp32" on a CPU; use "auto"')
    return dtype


def make_model(run: TrainRun, split: Split, ranks: Ranks, dtype: torch.dtype) -> Transformer:
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
    if lora := config.adapters:
        apply_lora(model, rank=lora.rank, alpha=lora.alpha, targets=lora.targets, seed=config.seed)
    for layer in model.model.layers:
        layer.recompute = config.checkpoint_activations
    if config.parallel == "fsdp" and ranks.size > 1:
        return model.set_compute_dtype(dtype)  # FSDP moves a layer at a time, which may be all that fits
    return model.to(ranks.device).set_compute_dtype(dtype)


def compiles(run: TrainRun, total_steps: int, ranks: Ranks) -> bool:
    """Whether the model is compiled: as the recipe says, and with `auto` on a GPU where the run pays for it.

    On a CPU a compiled step is no faster (docs/log.md): norms, rotation, attention and loss are fused by hand.
    """
    config = run.config
    if config.compile != "auto":
        return config.compile == "on"
    tokens = total_steps * config.batch_items * config.item_tokens
    return ranks.device.type == "cuda" and config.parallel != "deepspeed" and tokens >= COMPILE_TOKENS
