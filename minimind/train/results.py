"""What a training leaves behind: its figures, its warnings, and the model directory.

The first rank calls these at the end, `describer` also between. Not here: the figures of a step
(`loop.py`) and of held-out rows (`validation.py`).
"""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save

from minimind import runtime
from minimind.artifact import Summary
from minimind.model.config import count_parameters
from minimind.model.lora import lora_state, merge_lora
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.token_set import TokensInfo
from minimind.tokens.tokenizer import Tokenizer
from minimind.train import throughput
from minimind.train.checkpoint import CHECKPOINTS_DIR
from minimind.train.loop import Figures, Progress, Training
from minimind.train.parallel import Ranks
from minimind.train.stage_configs import LoraConfig, TrainRun

ADAPTER_FILE = "adapter.safetensors"
ADAPTER_CONFIG_FILE = "adapter.json"


def describer(run: TrainRun, model: Transformer, ranks: Ranks) -> Callable[[Progress], Figures]:
    """Memory, and the share of the GPU's peak where that is known."""
    peak = throughput.peak_flops(ranks.device)
    flops = throughput.flops_per_token(model.config, run.config.length)

    def describe(progress: Progress) -> Figures:
        figures = {"memory_mb": throughput.peak_memory_mb(ranks.device)}
        sums = progress.since_log
        if peak and run.stage in ("pretrain", "sft"):  # the others do more or less than one pass per token
            figures["mfu"] = flops * sums["tokens"] / sums["seconds"] / (peak * ranks.size)
        return figures

    return describe


def summarize(
    run: TrainRun, training: Training, tokens: TokensInfo, progress: Progress, figures: Figures, mixture: Figures
) -> Summary:
    """The figures and warnings of a finished training."""
    warnings, model, ranks, total_steps = [], training.model, training.ranks, training.total_steps
    if run.config.warmup_steps >= total_steps:
        warnings.append(
            f"`{run.stage}.warmup_steps` {run.config.warmup_steps} is not below the {total_steps} steps of the "
            "training: the learning rate never reached `lr`"
        )
    if progress.skipped_steps:
        warnings.append(f"{progress.skipped_steps} steps were skipped, their loss or gradient was not finite")
    if "validation_loss" not in figures:
        warnings.append("the validation split is empty: nothing was measured on held-out rows")
    kept = {k: _finite(v) for k, v in figures.items() if k.startswith("validation_") or k in ("loss", "accuracy")}
    what = "trained_pairs" if run.stage == "dpo" else "trained_tokens"
    return Summary(
        figures={
            "steps": progress.step,
            "skipped_steps": progress.skipped_steps,
            "tokens": progress.tokens,
            what: progress.units,
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
            **kept,
            "parameters": count_parameters(model.config),
            "trained_parameters": trained_parameters(model),
            "peak_memory_mb": round(throughput.peak_memory_mb(ranks.device), 1),
            **{name: round(share, 6) for name, share in mixture.items()},
            "tokenizer": tokens.tokenizer,
            "precision": str(model.compute_dtype).removeprefix("torch."),
            "processes": ranks.size,
        },
        warnings=warnings,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def trained_parameters(model: Transformer) -> int:
    """Weights that training may change."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def save_result(run: TrainRun, model: Transformer) -> None:
    """The model directory; for an adapted model the adapters too, and the weights with them merged in."""
    if isinstance(run.config, LoraConfig):
        state = {name: tensor.cpu().contiguous() for name, tensor in lora_state(model).items()}
        runtime.write_atomic(run.out_dir / ADAPTER_FILE, save(state, metadata={"format": "pt"}))
        adapter = {
            "rank": run.config.rank,
            "alpha": run.config.alpha,
            "targets": list(run.config.targets),
            "base_fingerprint": run.fingerprints["model"],
        }
        runtime.write_json(run.out_dir / ADAPTER_CONFIG_FILE, adapter)
        merge_lora(model)
    save_model(run.out_dir, model)
    Tokenizer.load(tokenizer_dir(run)).copy_to(run.out_dir)
    shutil.rmtree(run.out_dir / CHECKPOINTS_DIR, ignore_errors=True)


def tokenizer_dir(run: TrainRun) -> Path:
    """Where the tokenizer's files are."""
    return run.inputs["tokenizer"] if run.stage == "pretrain" else run.inputs["model"]
