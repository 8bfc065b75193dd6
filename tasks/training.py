"""The training stages as tasks: tokens and a model in, a model out."""

from collections.abc import Mapping, Sequence

from minimind.artifact import Artifact
from minimind.errors import ConfigError
from minimind.train.config import TrainConfig
from minimind.train.splits import mixed_input
from minimind.train.stages import DISTILL, DPO, LORA, PRETRAIN, SFT
from tasks.stage import Pipeline
from tasks.tracking import CANDIDATE

Tokens = Mapping[str, Artifact]
"""Token sets by kind of rows: a stage's own, and those that its `mix` asks for."""


def pretrain(run: Pipeline, tokens: Tokens, tokenizer: Artifact) -> Artifact:
    """Learn to go on with text, from random weights."""
    vocab_size = tokenizer.manifest.parts.config["vocab_size"]
    config = run.recipe.pretrain_config(vocab_size)
    return run.stage(PRETRAIN, config, {**_read(config, tokens), "tokenizer": tokenizer})


def sft(run: Pipeline, tokens: Tokens, model: Artifact) -> Artifact:
    """Learn to answer, from conversations."""
    config = _section(run, "sft")
    return run.stage(SFT, config, {**_read(config, tokens), "model": model})


def dpo(run: Pipeline, tokens: Tokens, model: Artifact) -> Artifact:
    """Learn to prefer, from pairs of answers."""
    config = _section(run, "dpo")
    return run.stage(DPO, config, {**_read(config, tokens), "model": model})


def lora(run: Pipeline, tokens: Tokens, model: Artifact) -> Artifact:
    """Learn a low-rank addition to a model that stays as it is."""
    config = _section(run, "lora")
    return run.stage(LORA, config, {**_read(config, tokens), "model": model})


def distill(run: Pipeline, tokens: Tokens, model: Artifact) -> Artifact:
    """Learn from the distribution of a teacher."""
    section = _section(run, "distill")
    inputs = {**_read(section, tokens), "model": model, "teacher": run.take(section.teacher)}
    return run.stage(DISTILL, section.stage_config(), inputs)


def tokens_of(run: Pipeline, stage: str, own: Artifact) -> Tokens:
    """`own`, and the newest token set of every kind that the stage's `mix` asks for; for a stage that is run alone."""
    config = _section(run, stage)
    names = {kind: "minimind-tokens" + (f"-{kind}" if kind != "pretrain" else "") for kind in config.mix}
    return {config.own_rows: own} | {kind: run.take(f"models:/{name}@{CANDIDATE}") for kind, name in names.items()}


def _read(config: TrainConfig, tokens: Tokens) -> dict[str, Artifact]:
    """The token sets that a training reads, by the names of its inputs."""
    if missing := [kind for kind in config.mix if kind not in tokens]:
        raise ConfigError(f"`mix` asks for {', '.join(missing)} rows, and the data spec has no source of them; add one")
    return {"tokens": tokens[config.own_rows]} | {mixed_input(kind): tokens[kind] for kind in config.mix}


def overrides_of(stage: str, overrides: Sequence[str] | None, **settings: float | str | None) -> list[str]:
    """`overrides` and the settings that were given, as `section.key=value`; one length of a run replaces the other."""
    changes = [f"{stage}.{name}={_toml(value)}" for name, value in settings.items() if value is not None]
    return [*changes, *(overrides or ())]


def _toml(value: float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _section(run: Pipeline, name: str):
    section = getattr(run.recipe, name)
    if section is None:
        raise ConfigError(f"recipe {run.recipe.name} has no section [{name}]; add it, or take a recipe that has one")
    return section
