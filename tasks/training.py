"""The training stages as tasks: tokens and a model in, a model out."""

from collections.abc import Collection, Mapping, Sequence

from minimind.artifact import Artifact
from minimind.data.kinds import RowKind
from minimind.errors import ConfigError
from minimind.train.config import StageName, TrainConfig
from minimind.train.splits import rows_read
from minimind.train.stages import DISTILL, DPO, LORA, PRETRAIN, SFT
from tasks.stage import Pipeline

Tokens = Mapping[str, Artifact]
"""Token sets by kind of rows: a stage's own, and those that its settings ask for beside it."""
TRAININGS = {"pretrain": PRETRAIN, "sft": SFT, "dpo": DPO, "lora": LORA, "distill": DISTILL}
"""In the order of the pipeline."""


def train(run: Pipeline, stage: StageName, tokens: Tokens, start: Artifact, *, teacher: Artifact | None = None):
    """The model of one training stage, from the model it starts from; pretraining starts from a tokenizer."""
    section = settings(run, stage)
    inputs = {**_read(section, tokens), "tokenizer" if stage == "pretrain" else "model": start}
    if stage == "pretrain":
        return run.stage(PRETRAIN, run.recipe.pretrain_config(start.manifest.parts.config["vocab_size"]), inputs)
    if stage == "distill":
        assert teacher is not None, "distillation has a teacher"
        return run.stage(DISTILL, section.stage_config(), {**inputs, "teacher": teacher})
    return run.stage(TRAININGS[stage], section, inputs)


def settings(run: Pipeline, stage: StageName) -> TrainConfig:
    """A recipe's section for a training. Raises ConfigError where it has none."""
    section = getattr(run.recipe, stage)
    if section is None:
        raise ConfigError(f"recipe {run.recipe.name} has no section [{stage}]; add it, or take a recipe that has one")
    return section


def kinds_read(run: Pipeline, stage: StageName, there: Collection[str]) -> list[RowKind]:
    """The kinds of rows that a training reads where there are rows of these, its own first."""
    return list(rows_read(settings(run, stage), there).values())


def _read(section: TrainConfig, tokens: Tokens) -> dict[str, Artifact]:
    """The token sets that a training reads, by the names of its inputs."""
    if missing := [kind for kind in section.other_rows if kind not in tokens]:
        asked = "mix" if section.mix else "beside"
        raise ConfigError(
            f"`{asked}` asks for {', '.join(missing)} rows, and the data spec has no source of them; add one"
        )
    return {name: tokens[kind] for name, kind in rows_read(section, tokens).items()}


def overrides_of(stage: str, overrides: Sequence[str] | None, **changes: float | str | None) -> list[str]:
    """`overrides` and the settings that were given, as `section.key=value`; one length of a run replaces the other."""
    given = [f"{stage}.{name}={_toml(value)}" for name, value in changes.items() if value is not None]
    return [*given, *(overrides or ())]


def _toml(value: float | str) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
