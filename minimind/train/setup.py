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
from minimind.train.stage_configs import LoraConfig, PretrainConfig, TrainRun


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
    if isinstance(config, LoraConfig):
        apply_lora(model, rank=config.rank, alpha=config.alpha, targets=config.targets, seed=config.seed)
    return model.to(ranks.device).set_compute_dtype(dtype)


def compiles(run: TrainRun, total_steps: int, ranks: Ranks) -> bool:
    tokens = total_steps * run.config.batch_items * run.config.item_tokens
    auto = ranks.device.type == "cuda" and tokens >= 100e6  # a cold compile takes about a minute
    return run.config.compile == "on" or (run.config.compile == "auto" and auto)
