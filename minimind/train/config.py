"""Settings that all trainings have in common.

The defaults are a plain starting point for a model of 5 to 100 M parameters. Fields marked `WHERE` say where and how
fast, and are no part of a stage's identity. Not here: those of one stage (`stage_configs.py`), and what the fields do
to a step (`loop.py`, `optimizer.py`, `objectives.py`).
"""

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from minimind.config import WHERE, Config
from minimind.runtime import Precision

StageName = Literal["pretrain", "sft", "dpo", "lora", "distill"]
Part = Literal["embedding", "attention", "ffn", "norm", "output"]
"""Parts of the model that may have a learning rate of their own."""

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
MixedRows = Literal["pretrain", "chat"]


class TrainConfig(Config):
    """What all training stages have in common. Give exactly one of `epochs` and `tokens`."""

    own_rows: ClassVar[str] = "pretrain"
    """The kind of rows a stage is there for."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training split; a fraction is rounded up to whole steps."""
    tokens: Positive | None = None
    """Token positions to train on, padding included; rounded up to whole steps."""
    batch_tokens: Positive = 16384
    """Token positions of one step over all ranks: `batch_tokens // length` rows, half as many pairs."""
    length: Positive = 512
    """Row length; for pairs the longest conversation that is kept whole."""
    mix: dict[MixedRows, Annotated[float, Field(gt=0, lt=1)]] = {}
    """Kinds of rows that are trained on beside the stage's own, and their shares of all rows."""
    micro_tokens: Annotated[Positive, WHERE] = 8192
    """Most token positions a rank holds activations for at once; a batch above it is accumulated."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-3
    min_lr: Rate | None = None
    """Where the schedule ends; a tenth of `lr` by default."""
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    lr_scales: dict[Part, Rate] = {}
    """Factors on `lr` for parts of the model; 0 freezes a part."""
    weight_decay: Rate = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    grad_clip: Rate = 1.0
    """Largest norm of the gradient; 0 clips nothing."""

    precision: Precision = "auto"
    compile: Literal["auto", "on", "off"] = "off"
    """`auto` compiles on a GPU for runs of 100 M tokens and more, where it pays for itself."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    validate_every: Annotated[int, Field(ge=0)] = 100
    """Steps between two looks at the validation split; 0 looks only at the end."""

    parallel: Annotated[Literal["ddp"], WHERE] = "ddp"
    """How ranks share the work: each holds the whole model and a slice of every batch."""
    processes: Annotated[Positive, WHERE] = 1
    threads: Annotated[Positive | None, WHERE] = None
    """Threads of each process; the cores divided by `processes` by default."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], WHERE] = "auto"
    log_every: Annotated[Positive, WHERE] = 10
    checkpoint_seconds: Annotated[float, Field(gt=0), WHERE] = 60.0
    checkpoint_steps: Annotated[Positive | None, WHERE] = None
    """Also save after every so many steps."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.epochs is None) == (self.tokens is None):
            raise ValueError("give exactly one of `epochs` and `tokens`")
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(f"`min_lr` {self.min_lr} is above `lr` {self.lr}")
        if self.own_rows in self.mix or sum(self.mix.values()) > 0.99:
            raise ValueError(
                f"`mix` = {self.mix} names kinds of rows other than its own, {self.own_rows}, and leaves 0.01 or more "
                "to those"
            )
        if self.batch_items < 1:
            raise ValueError(f"`batch_tokens` {self.batch_tokens} holds no {self._item} of `length` {self.length}")
        if self.batch_items < self.processes:
            raise ValueError(
                f"`batch_tokens` {self.batch_tokens} holds {self.batch_items} {self._item}s of `length` {self.length}, "
                f"fewer than `processes` {self.processes}; raise the first or lower the last"
            )
        return self

    @property
    def lowest_lr(self) -> float:
        return self.lr / 10 if self.min_lr is None else self.min_lr

    @property
    def item_tokens(self) -> int:
        """Token positions of one item: a row, or the two rows of a pair."""
        return self.length

    @property
    def batch_items(self) -> int:
        """Rows (or pairs) in one step over all ranks."""
        return self.batch_tokens // self.item_tokens

    @property
    def micro_items(self) -> int:
        """Rows (or pairs) a rank takes at once; never below one."""
        return max(1, self.micro_tokens // self.item_tokens)

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole training, rounded up."""
        if self.epochs is not None:
            return math.ceil(self.epochs * steps_per_epoch - 1e-9)  # 1.1 · 10 is 11.000000000000002
        assert self.tokens is not None
        return math.ceil(self.tokens / (self.batch_items * self.item_tokens))

    @property
    def _item(self) -> str:
        return "row"
