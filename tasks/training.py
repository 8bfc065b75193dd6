"""The training stages as tasks: tokens and a model in, a model out."""

from collections.abc import Sequence

from minimind.artifact import Artifact
from minimind.errors import ConfigError
from minimind.train.stages import DISTILL, DPO, LORA, PRETRAIN, SFT
from tasks.stage import Pipeline


def pretrain(run: Pipeline, tokens: Artifact, tokenizer: Artifact) -> Artifact:
    """Learn to go on with text, from random weights."""
    vocab_size = tokenizer.manifest.parts.config["vocab_size"]
    return run.stage(PRETRAIN, run.recipe.pretrain_config(vocab_size), {"tokens": tokens, "tokenizer": tokenizer})


def sft(run: Pipeline, tokens: Artifact, model: Artifact) -> Artifact:
    """Learn to answer, from conversations."""
    return run.stage(SFT, _section(run, "sft"), {"tokens": tokens, "model": model})


def dpo(run: Pipeline, tokens: Artifact, model: Artifact) -> Artifact:
    """Learn to prefer, from pairs of answers."""
    return run.stage(DPO, _section(run, "dpo"), {"tokens": tokens, "model": model})


def lora(run: Pipeline, tokens: Artifact, model: Artifact) -> Artifact:
    """Learn a low-rank addition to a model that stays as it is."""
    return run.stage(LORA, _section(run, "lora"), {"tokens": tokens, "model": model})


def distill(run: Pipeline, tokens: Artifact, model: Artifact) -> Artifact:
    """Learn from the distribution of a teacher."""
    section = _section(run, "distill")
    inputs = {"tokens": tokens, "model": model, "teacher": run.take(section.teacher)}
    return run.stage(DISTILL, section.stage_config(), inputs)


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
