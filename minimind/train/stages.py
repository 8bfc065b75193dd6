"""The five training stages: each writes what its ranks need to know, and owns them until they are done.

All keep their scratch directory after a failure, and go on from the newest whole checkpoint in it.
Not here: what a rank does (`job.py`) and how ranks are started and stopped (`launch.py`).
"""

import time
from collections.abc import Callable
from pathlib import Path

from minimind.artifact import Inputs, Summary
from minimind.errors import ConfigError
from minimind.stage import C, Stage
from minimind.tokens.token_set import TokenSet
from minimind.train.config import StageName, TrainConfig
from minimind.train.forecast import compared
from minimind.train.launch import CHECKPOINTS_DIR, RUN_FILE, TRAINING_FILE, Trained, launch
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
    summary = Trained.read(out_dir)
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


_OTHERS = ("tokens_pretrain", "tokens_chat")
"""Inputs for rows beside a stage's own; it takes those that need not be of its own kind."""


def _stage(function: Callable[[C, Inputs, Path], Summary], *inputs: str, beside: tuple[str, ...]) -> Stage[C]:
    return Stage(
        function.__name__,
        function,
        inputs=inputs,
        optional_inputs=beside,
        resumable=True,
        leaves=(CHECKPOINTS_DIR,),
        launches=("minimind.train.__main__",),
    )


PRETRAIN = _stage(pretrain, "tokens", "tokenizer", beside=("tokens_chat",))
SFT = _stage(sft, "tokens", "model", beside=("tokens_pretrain",))
DPO = _stage(dpo, "tokens", "model", beside=_OTHERS)
LORA = _stage(lora, "tokens", "model", beside=_OTHERS)
DISTILL = _stage(distill, "tokens", "model", "teacher", beside=("tokens_pretrain",))
