"""What a training leaves behind: its figures, its warnings, and the model directory.

The first rank calls these at the end. Not here: the figures of a step (`loop.py`, `watch.py`) and of held-out rows
(`validation.py`).
"""

import math
from pathlib import Path

from minimind.artifact import Summary
from minimind.model.config import count_parameters
from minimind.model.lora import merge_lora, save_adapter
from minimind.model.transformer import Transformer
from minimind.model.weights import save_model
from minimind.tokens.token_set import TokensInfo
from minimind.tokens.tokenizer import Tokenizer
from minimind.train import throughput
from minimind.train.loop import Figures, Progress, Training
from minimind.train.stage_configs import TrainRun

ADAPTER_DIR = "adapter"


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
    if progress.loss_spikes:
        warnings.append(
            f"the loss rose far above what was usual in {progress.loss_spikes} steps, the last of them step "
            f"{progress.last_spike}; `minimind trace {run.stage} --step {progress.last_spike}` shows its rows"
        )
    if "validation_loss" not in figures:
        warnings.append("the validation split is empty: nothing was measured on held-out rows")
    kept = {k: _finite(v) for k, v in figures.items() if k.startswith("validation_") or k in ("loss", "accuracy")}
    what = "trained_pairs" if run.stage == "dpo" else "trained_tokens"
    return Summary(
        figures={
            "steps": progress.step,
            "device": ranks.device.type,
            "skipped_steps": progress.skipped_steps,
            "loss_spikes": progress.loss_spikes,
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
    if lora := run.config.adapters:
        save_adapter(run.out_dir / ADAPTER_DIR, model, targets=lora.targets, base=run.fingerprints.get("model"))
        merge_lora(model)
    save_model(run.out_dir, model)
    Tokenizer.load(tokenizer_dir(run)).copy_to(run.out_dir)


def tokenizer_dir(run: TrainRun) -> Path:
    """Where the tokenizer's files are."""
    return run.inputs["tokenizer"] if run.stage == "pretrain" else run.inputs["model"]
