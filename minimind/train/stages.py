"""The five training stages: each writes what its ranks need to know, and owns them until they are done.

All keep their scratch directory after a failure, and go on from the newest whole checkpoint in it.
Not here: what a rank does (`job.py`) and how ranks are started and stopped (`launch.py`).
"""

import shutil
import time
from pathlib import Path

from minimind.artifact import Inputs, Summary
from minimind.errors import ConfigError
from minimind.stage import Stage
from minimind.tokens.token_set import TokenSet
from minimind.train.config import StageName, TrainConfig
from minimind.train.forecast import compared
from minimind.train.launch import CHECKPOINTS_DIR, RUN_FILE, TRAINING_FILE, launch
from minimind.train.splits import other_input
from minimind.train.stage_configs import DistillConfig, DpoConfig, LoraConfig, PretrainConfig, SftConfig, TrainRun


def pretrain(config: PretrainConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """A model from random weights, on plain text."""
    return _train("pretrain", config, inputs, out_dir)


def sft(config: SftConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """A model that answers, from one that continues text."""
    return _train("sft", config, inputs, out_dir)


def dpo(config: DpoConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """A model that prefers the chosen answers."""
    return _train("dpo", config, inputs, out_dir)


def lora(config: LoraConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """Adapters for a model, and the model with them merged in."""
    return _train("lora", config, inputs, out_dir)


def distill(config: DistillConfig, inputs: Inputs, out_dir: Path) -> Summary:
    """A model that learns from a teacher's distribution as well as from the labels."""
    return _train("distill", config, inputs, out_dir)


def _train(stage: StageName, config: TrainConfig, inputs: Inputs, out_dir: Path) -> Summary:
    _require_others(config, inputs)
    _require_one_tokenizer(inputs)
    run = TrainRun(
        stage=stage,
        config=config,
        inputs={name: artifact.dir for name, artifact in inputs.items()},
        fingerprints={name: artifact.fingerprint for name, artifact in inputs.items()},
        out_dir=out_dir,
    )
    resumed, started = (out_dir / CHECKPOINTS_DIR).exists(), time.monotonic()
    launch(run)
    seconds = time.monotonic() - started
    summary = Summary.model_validate_json((out_dir / TRAINING_FILE).read_bytes())
    # only now: a training that is killed before here goes on from the last of them
    shutil.rmtree(out_dir / CHECKPOINTS_DIR, ignore_errors=True)
    for name in (TRAINING_FILE, RUN_FILE):  # its figures go into the seal, its paths mean nothing elsewhere
        (out_dir / name).unlink()
    return summary if resumed else compared(summary, run, seconds=seconds)


def _require_one_tokenizer(inputs: Inputs) -> None:
    """Raise ConfigError where the tokens were made by another tokenizer than a model is used to."""
    tokens = TokenSet.open(inputs["tokens"].dir / "train").info.tokenizer
    mixed = {name: inputs[name] for name in _OTHERS if name in inputs}
    known = {name: inputs[name].summary().figures.get("tokenizer") for name in ("model", "teacher") if name in inputs}
    known |= {name: TokenSet.open(artifact.dir / "train").info.tokenizer for name, artifact in mixed.items()}
    if "tokenizer" in inputs:
        known["tokenizer"] = inputs["tokenizer"].fingerprint
    for name, tokenizer in known.items():
        if tokenizer not in (None, tokens):
            raise ConfigError(
                f"the tokens were made by tokenizer {tokens}, the input `{name}` is of tokenizer {tokenizer}; "
                "make the tokens again with that tokenizer"
            )


def _require_others(config: TrainConfig, inputs: Inputs) -> None:
    """Raise ConfigError where the inputs are not those that the settings ask for: one that is not read still reruns."""
    wanted, given = {other_input(kind) for kind in config.other_rows}, {name for name in _OTHERS if name in inputs}
    if wanted != given:
        raise ConfigError(
            f"beside the stage's own rows its settings read {', '.join(sorted(wanted)) or 'no tokens'}; it was given "
            f"{', '.join(sorted(given)) or 'none'}"
        )


_RANK = ("minimind.train.__main__",)
_OTHERS = ("tokens_pretrain", "tokens_chat")
"""Inputs for rows beside a stage's own; it takes those that need not be of its own kind."""

PRETRAIN = Stage(
    "pretrain",
    pretrain,
    inputs=("tokens", "tokenizer"),
    optional_inputs=("tokens_chat",),
    resumable=True,
    launches=_RANK,
)
SFT = Stage(
    "sft", sft, inputs=("tokens", "model"), optional_inputs=("tokens_pretrain",), resumable=True, launches=_RANK
)
DPO = Stage("dpo", dpo, inputs=("tokens", "model"), optional_inputs=_OTHERS, resumable=True, launches=_RANK)
LORA = Stage("lora", lora, inputs=("tokens", "model"), optional_inputs=_OTHERS, resumable=True, launches=_RANK)
DISTILL = Stage(
    "distill",
    distill,
    inputs=("tokens", "model", "teacher"),
    optional_inputs=("tokens_pretrain",),
    resumable=True,
    launches=_RANK,
)
