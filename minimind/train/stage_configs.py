"""Settings of the five training stages, and the one file a rank reads.

A section of a recipe (`[pretrain]`, `[sft]`, `[dpo]`, `[lora]`, `[distill]`) is one of these classes. Not here: what
they have in common (`config.py`).
"""

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from minimind.data.kinds import RowKind
from minimind.model.config import ModelConfig
from minimind.proven import Proven
from minimind.train.config import Fraction, LoraSettings, MixedRows, Positive, Rate, StageName, TrainConfig


class PretrainConfig(TrainConfig):
    """`[pretrain]`: next tokens of plain text, from random weights."""

    model: ModelConfig


class SftConfig(TrainConfig):
    """`[sft]`: the assistant's turns of conversations."""

    own_rows: ClassVar[tuple[RowKind, ...]] = ("chat",)
    lr: Annotated[float, Field(gt=0)] = 5e-4
    system_prompts: tuple[str, ...] = ()
    """System turns, one of which is put before a conversation that has none."""
    system_share: Fraction = 0.0
    """Share of such conversations that get one, drawn anew every epoch."""
    empty_think_share: Fraction = 0.0
    """Share of conversations without reasoning that get an empty `<think>` before their last answer."""

    @model_validator(mode="after")
    def _prompts_and_share(self) -> Self:
        if bool(self.system_prompts) != (self.system_share > 0):
            raise ValueError("`system_prompts` and `system_share` need each other: give both or neither")
        return self

    @property
    def augments(self) -> bool:
        """Whether conversations are changed on their way into a batch."""
        return self.system_share > 0 or self.empty_think_share > 0


PreferenceLossName = Literal["sigmoid", "ipo", "simpo", "orpo"]
LOSS_SETTINGS: dict[PreferenceLossName, tuple[str, ...]] = {
    "sigmoid": ("length_normalised", "length_floor", "label_smoothing"),
    "ipo": ("length_normalised", "length_floor"),
    "simpo": ("target_margin",),
    "orpo": (),
}
"""Preference loss → the settings it takes besides `beta`. The formulas: `preference_losses.py`."""


class DpoConfig(TrainConfig):
    """`[dpo]`: chosen over rejected answers, against the model it starts from."""

    own_rows: ClassVar[tuple[RowKind, ...]] = ("preference",)
    lr: Annotated[float, Field(gt=0)] = 1e-5
    grad_clip: Rate = 0.5
    weight_decay: Rate = 0.0
    loss: PreferenceLossName = "sigmoid"
    """DPO as published, or another loss of preference pairs."""
    beta: Annotated[float, Field(gt=0)] = 0.15
    """How strongly the policy is held to the reference; of `orpo` the weight of the preference."""
    length_normalised: bool = False
    """Compare means over an answer's tokens, not sums."""
    length_floor: Positive | None = None
    """Of such a mean: an answer of fewer tokens counts as one of so many."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The share of pairs believed to be labelled the wrong way round (Mitchell 2023, conservative DPO)."""
    target_margin: Rate | None = None
    """By how much the reward of the chosen answer is to be the higher one: γ of `simpo`."""
    beside: dict[MixedRows, Annotated[float, Field(gt=0)]] = {}
    """Kinds of rows of which a piece is read beside each pair, and the weights of their losses: what is kept."""
    text_length: Annotated[int, Field(ge=2)] = 128
    """Tokens of a piece of plain text beside a pair, at most; conversations stand whole."""

    @model_validator(mode="after")
    def _only_pairs(self) -> Self:
        if self.mix:
            raise ValueError("`mix` is for stages that learn tokens; dpo reads them `beside` its pairs")
        return self

    @model_validator(mode="after")
    def _what_the_loss_takes(self) -> Self:
        for name in ("length_normalised", "length_floor", "label_smoothing", "target_margin"):
            takers = [f'"{loss}"' for loss, taken in LOSS_SETTINGS.items() if name in taken]
            if getattr(self, name) and f'"{self.loss}"' not in takers:
                raise ValueError(f'`{name}` is for `loss` = {" or ".join(takers)}; it is "{self.loss}": leave it out')
        if self.length_floor and not self.length_normalised:
            raise ValueError(
                "`length_floor` is for means over an answer's tokens: set `length_normalised`, or leave it out"
            )
        if self.loss == "simpo" and self.target_margin is None:
            raise ValueError('`loss` = "simpo" needs a `target_margin` (usual: 0.3 to 1.6; 0 for none)')
        if self.compares_per_token and "beta" not in self.model_fields_set:
            raise ValueError(
                "`beta` counts per token here, and its default is for whole answers; give it (usual: 2 to 5)"
            )
        return self

    @property
    def other_rows(self) -> tuple[RowKind, ...]:
        return tuple(self.beside)

    @property
    def compares_per_token(self) -> bool:
        """Whether means over an answer's tokens are compared, not sums."""
        return self.loss == "simpo" or self.length_normalised

    @property
    def needs_reference(self) -> bool:
        """Whether the loss compares with the model that training starts from."""
        return self.loss in ("sigmoid", "ipo")

    @property
    def loss_settings(self) -> dict[str, float | bool | None]:
        """The arguments of the loss's function."""
        return {"beta": self.beta} | {name: getattr(self, name) for name in LOSS_SETTINGS[self.loss]}

    @property
    def item_tokens(self) -> int:
        return 2 * self.length

    @property
    def _item(self) -> str:
        return "pair"


class LoraConfig(TrainConfig, LoraSettings):
    """`[lora]`: the objective of `[sft]` on low-rank additions to frozen weights."""

    own_rows: ClassVar[tuple[RowKind, ...]] = ("lora", "chat")
    """Rows given for it alone, else what `[sft]` learns from."""

    @model_validator(mode="after")
    def _not_twice(self) -> Self:
        if self.lora:
            raise ValueError("`lora` is for other trainings; here `rank`, `alpha`, `targets` stand by themselves")
        return self

    @property
    def adapters(self) -> LoraSettings:
        return LoraSettings(rank=self.rank, alpha=self.alpha, targets=self.targets)


class DistillConfig(TrainConfig):
    """`[distill]`: the objective of `[sft]` mixed with a teacher's distribution."""

    own_rows: ClassVar[tuple[RowKind, ...]] = ("chat",)
    lr: Annotated[float, Field(gt=0)] = 5e-4
    alpha: Fraction = 0.5
    """Weight of the labels; the rest is the teacher's."""
    temperature: Annotated[float, Field(gt=0)] = 1.5


CONFIGS: dict[str, type[TrainConfig]] = {
    "pretrain": PretrainConfig,
    "sft": SftConfig,
    "dpo": DpoConfig,
    "lora": LoraConfig,
    "distill": DistillConfig,
}


class TrainRun(Proven):
    """All that a rank is told: the content of `run.json`."""

    stage: StageName
    config: SerializeAsAny[TrainConfig]
    inputs: dict[str, Path]
    """Input name → directory of the sealed payload."""
    fingerprints: dict[str, str]
    """Input name → fingerprint."""
    out_dir: Path

    @field_validator("config", mode="before")
    @classmethod
    def _of_the_stage(cls, value: Any, info: ValidationInfo) -> Any:
        """Read the settings as the stage's own class; the file does not name it twice."""
        wanted = CONFIGS.get(info.data.get("stage", ""), TrainConfig)
        return value if isinstance(value, wanted) else wanted.model_validate(value)
