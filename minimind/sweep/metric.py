"""By which figure the points of a sweep are compared, and which way it is better."""

from collections.abc import Collection
from typing import Literal, get_args

from minimind.config import Config, nearest
from minimind.errors import ConfigError
from minimind.train.config import StageName

Goal = Literal["min", "max"]

GOALS: dict[str, Goal] = {
    "bits_per_byte": "min",
    "loss": "min",
    "cross_entropy": "min",
    "divergence": "min",
    "accuracy": "max",
    "accuracy_per_token": "max",
    "margin": "max",
    "kl": "min",
    "tokens_per_second": "max",
    "seconds": "min",
    "peak_memory_mb": "min",
    "repetition": "min",
}
"""How a figure's name ends → which way it is better."""
BY_DEFAULT: dict[StageName, str] = {
    "pretrain": "validation_bits_per_byte",
    "sft": "validation_loss",
    "dpo": "validation_accuracy",  # its loss has another scale with every `beta` and `loss`
    "lora": "validation_loss",
    "distill": "validation_cross_entropy",  # its loss has another scale with every `alpha` and `temperature`
}
TRAININGS: tuple[StageName, ...] = get_args(StageName)
"""In the order of the pipeline."""


class Metric(Config):
    """A figure of a stage's summary, and which way it is better."""

    stage: str
    figure: str
    goal: Goal
    own: bool = True
    """Whether the stage is the one whose figures are compared; else its name is said too."""

    @property
    def name(self) -> str:
        """`validation_loss`, or `evaluate.sft_bits_per_byte` for a figure of another stage."""
        return self.figure if self.own else f"{self.stage}.{self.figure}"

    @property
    def words(self) -> str:
        return f"{self.name}, {'lower' if self.goal == 'min' else 'higher'} is better"

    def rank(self, value: float) -> float:
        """Smaller is better."""
        return value if self.goal == "min" else -value


def compared_stage(stage: str, sections: Collection[str]) -> StageName:
    """The training whose figures tell points apart: the one that is swept, of a pipeline's the last of them."""
    for training in reversed(TRAININGS):
        if training == stage or (stage not in TRAININGS and training in sections):
            return training
    return "pretrain"


def choose_metric(name: str | None, goal: str | None, *, compared: StageName, stages: Collection[str]) -> Metric:
    """The metric that was asked for, or the usual one. `stages` are those that run. Raises ConfigError."""
    stage, dot, figure = (name or BY_DEFAULT[compared]).rpartition(".")
    if dot and stage not in stages:
        raise ConfigError(f"--metric {name}: no stage `{stage}` runs here{nearest(stage, [*stages])}")
    if not dot and compared not in stages:
        raise ConfigError(f"{compared} does not run here, and its figures are what is compared; --metric names others")
    if goal is not None and goal not in get_args(Goal):
        raise ConfigError(f"--goal {goal}: say `min` or `max`")
    known = next((GOALS[end] for end in GOALS if figure == end or figure.endswith(f"_{end}")), None)
    if goal is None and known is None:
        hint = nearest(figure, sorted({*GOALS, *BY_DEFAULT.values()}))
        raise ConfigError(f"--metric {name}: say which way it is better, --goal min or --goal max{hint}")
    return Metric(stage=stage or compared, figure=figure, goal=goal or known or "min", own=stage in ("", compared))
