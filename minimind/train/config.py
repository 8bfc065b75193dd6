"""Settings that all trainings have in common.

The defaults are a plain starting point for a model of 5 to 100 M parameters. Fields marked `WHERE` say where and how
fast, and are no part of a stage's identity. Not here: those of one stage (`stage_configs.py`), and what the fields do
to a step (`loop.py`, `optimizer.py`, `objectives.py`).
"""

import json
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from minimind.config import WHERE, Config
from minimind.data.kinds import RowKind
from minimind.runtime import Precision

StageName = Literal["pretrain", "sft", "dpo", "lora", "distill"]
Part = Literal["embedding", "attention", "ffn", "norm", "output"]
"""Parts of the model that may have a learning rate of their own."""

Positive = Annotated[int, Field(gt=0)]
Rate = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
MixedRows = Literal["pretrain", "chat"]


class LoraSettings(Config):
    """Low-rank additions to frozen weights (`minimind.model.lora`)."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The addition is scaled by `alpha / rank`."""
    targets: tuple[str, ...] = ("q_proj", "o_proj")
    """Last parts of the names of the matrices that get an addition."""


class TrainConfig(Config):
    """What all training stages have in common. Give exactly one of `epochs` and `tokens`."""

    own_rows: ClassVar[tuple[RowKind, ...]] = ("pretrain",)
    """The kinds of rows a stage is there for. It learns from one of them: see `own_kind`."""

    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the training split; a fraction is rounded up to whole steps."""
    tokens: Positive | None = None
    """Token positions to train on, padding included; rounded up to whole steps."""
    max_tokens: Positive | None = None
    """Token positions at most, however many `epochs` would be; rounded up to whole steps."""
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
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """`wsd` is warm-up, stable, decay: the peak for most of the training, down over its last `decay_fraction`."""
    decay_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of all steps over which `wsd` decays; 0.2 by default."""
    decay_shape: Literal["sqrt", "linear"] | None = None
    """How `wsd` decays: by 1 − √(share of the decay done), the default, or in a line."""
    lr_scales: dict[Part, Rate] = {}
    """Factors on `lr` for parts of the model; 0 freezes a part."""
    weight_decay: Rate = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    grad_clip: Rate = 1.0
    """Largest norm of the gradient; 0 clips nothing."""

    lora: LoraSettings | None = None
    """Train additions of low rank instead of the weights; they are kept, and merged into the weights at the end."""

    precision: Precision = "auto"
    compile: Literal["auto", "on", "off"] = "off"
    """`auto` compiles where it pays: on a GPU, from 100 M tokens on (`setup.py`)."""
    exact: bool = False
    """The same weights to the bit at 1, 2, 4, … ranks (`exact.py`); `micro_tokens` is then a part of the identity."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    validate_every: Annotated[int, Field(ge=0)] = 100
    """Steps between two looks at the validation split; 0 looks only at the end."""
    probes: Annotated[bool, WHERE] = True
    """At every look, also ask the model how held-out texts and chats go on (`probes.py`); no weight depends on it."""

    deepspeed: dict[str, Any] | None = None
    """DeepSpeed's own configuration, or the path of one; counts, since it may change what weights are kept in."""
    parallel: Annotated[Literal["ddp", "zero1", "fsdp", "deepspeed"], WHERE] = "ddp"
    """What ranks divide beside the batch: nothing, the optimizer's state, or everything (`strategy.py`)."""
    checkpoint_activations: Annotated[bool, WHERE] = False
    """Make each layer's activations again in the backward pass instead of keeping them."""
    processes: Annotated[Positive, WHERE] = 1
    """Ranks on each node."""
    nodes: Annotated[Positive, WHERE] = 1
    """Machines that train together; the others run `minimind node` (`nodes.py`)."""
    rendezvous: Annotated[str | None, WHERE] = None
    """`host:port` of the machine that runs the stage, where nodes meet."""
    threads: Annotated[Positive | None, WHERE] = None
    """Threads of each process; the cores divided by `processes` by default."""
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], WHERE] = "auto"
    log_every: Annotated[Positive, WHERE] = 10
    checkpoint_seconds: Annotated[float, Field(gt=0), WHERE] = 60.0
    checkpoint_steps: Annotated[Positive | None, WHERE] = None
    """Also save after every so many steps."""
    stall_seconds: Annotated[float, Field(gt=0), WHERE] = 900.0
    """A training of which no rank goes on for so long is ended, with what its ranks were at."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if (self.epochs is None) == (self.tokens is None):
            raise ValueError("give exactly one of `epochs` and `tokens`")
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(f"`min_lr` {self.min_lr} is above `lr` {self.lr}")
        if self.schedule != "wsd" and (self.decay_fraction or self.decay_shape):
            raise ValueError(
                f'`decay_fraction` and `decay_shape` are for `schedule` = "wsd", not "{self.schedule}"; leave them out'
            )
        if {*self.own_rows} <= {*self.mix} or sum(self.mix.values()) > 0.99:
            raise ValueError(
                f"`mix` = {self.mix} names kinds of rows other than its own, {self.own_rows[-1]}, and leaves 0.01 or "
                "more to those"
            )
        if self.batch_items < 1:
            raise ValueError(f"`batch_tokens` {self.batch_tokens} holds no {self._item} of `length` {self.length}")
        if self.batch_items < self.processes * self.nodes:
            raise ValueError(
                f"`batch_tokens` {self.batch_tokens} holds {self.batch_items} {self._item}s of `length` {self.length}, "
                f"fewer than `processes` {self.processes}{f' × `nodes` {self.nodes}' if self.nodes > 1 else ''}; "
                "raise the first or lower the last"
            )
        return self

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _read_deepspeed(cls, value: Any) -> Any:
        """A path stands for what is in the file now, so that the stage's identity knows of it."""
        if not isinstance(value, str):
            return value
        try:
            return json.loads(Path(value).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"`deepspeed` is no JSON file that can be read: {value} ({error})") from None

    @model_validator(mode="after")
    def _deepspeed_is_asked_for(self) -> Self:
        if (self.parallel == "deepspeed") != (self.deepspeed is not None):
            raise ValueError(
                '`parallel` = "deepspeed" and the table `deepspeed` (or the path of a ds_config.json) go together; '
                "give both or neither"
            )
        return self

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> Self:
        if self.nodes > 1 and not re.fullmatch(r".+:\d{1,5}", self.rendezvous or ""):
            raise ValueError(
                f'`nodes` {self.nodes} need `rendezvous` = "host:port" of the first one (given: {self.rendezvous})'
            )
        if self.nodes == 1 and self.rendezvous:
            raise ValueError("`rendezvous` is for several `nodes`; raise that, or leave it out")
        return self

    def own_kind(self, there: Collection[str] = ()) -> RowKind:
        """The kind of rows that is learnt where there are rows of these: the first of its own that is not mixed in."""
        own = [kind for kind in self.own_rows if kind not in self.mix]
        return next((kind for kind in own if kind in there), own[-1])

    @property
    def other_rows(self) -> tuple[RowKind, ...]:
        """The kinds of rows that are read beside the stage's own."""
        return tuple(self.mix)

    @property
    def adapters(self) -> LoraSettings | None:
        """What is trained in the place of the weights; None where those are."""
        return self.lora

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

    @property
    def num_micro(self) -> int:
        """Micro-batches of a step over all ranks, where ranks divide none."""
        return -(-self.batch_items // self.micro_items)

    @property
    def unit(self) -> int:
        """Rows (or pairs) that are never divided among ranks."""
        return self.micro_items if self.exact else 1

    def identity(self) -> dict[str, Any]:
        """With `exact` the size of a micro-batch decides the last bit, so it counts."""
        return super().identity() | ({"micro_tokens": self.micro_tokens} if self.exact else {})

    def total_steps(self, steps_per_epoch: int) -> int:
        """Steps of the whole training, rounded up."""
        given = [math.ceil(t / (self.batch_items * self.item_tokens)) for t in (self.tokens, self.max_tokens) if t]
        if self.epochs is not None:
            given.append(math.ceil(self.epochs * steps_per_epoch - 1e-9))  # 1.1 · 10 is 11.000000000000002
        return min(given)

    @property
    def _item(self) -> str:
        return "row"
