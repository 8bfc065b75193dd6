"""What an export is asked for, and what a verification found; read by all of the package."""

from typing import Literal

import torch

from minimind.config import Config
from minimind.export.gguf_model import GgufType

Format = Literal["hf", "gguf", "adapter"]
HfType = Literal["bf16", "fp32", "fp16"]
DTYPES: dict[HfType, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}


class ExportConfig(Config):
    """Which formats, and how numbers are stored in them."""

    to: tuple[Format, ...]
    dtype: HfType = "bf16"
    """Of the tensors for transformers."""
    gguf_type: GgufType = "f16"
    base: str | None = None
    """Name or path of the exported base model, for an adapter's `base_model_name_or_path`."""


class Check(Config):
    """What came back when a format was loaded by the library it is for."""

    format: Format
    stored: str
    """How its numbers are stored."""
    library: str
    positions: int
    """At which logits were compared."""
    difference: float
    """The greatest, of two logits (for llama.cpp: of two log-probabilities), from our model with the stored numbers."""
    typical: float
    """The median over positions of their greatest difference."""
    judged: Literal["difference", "typical"]
    """Which of the two must be within the tolerance: of experts, `typical`."""
    scale: float
    """The greatest logit."""
    tolerance: float
    """Allowed for what is judged, as a share of the scale."""
    rounding: float
    """The greatest difference of logits that storing the numbers so makes to our own model."""
    texts: int
    unequal_ids: int
    """Texts whose ids differ."""
    greedy: int
    """Greedy continuations that were compared."""
    near_ties: int
    """Of these, those that part where two logits are closer than the difference explains."""
    rerouted: int
    """Of these, of experts in rounded products, those that part elsewhere: a token may have gone to another one."""
    unequal_greedy: int
    """Of these, those that part without such a reason."""

    @property
    def equal_greedy(self) -> int:
        return self.greedy - self.near_ties - self.rerouted - self.unequal_greedy

    @property
    def relative(self) -> float:
        """What is judged, as a share of the greatest logit."""
        return (self.typical if self.judged == "typical" else self.difference) / self.scale

    @property
    def passed(self) -> bool:
        return self.relative <= self.tolerance and not self.unequal_ids and not self.unequal_greedy
