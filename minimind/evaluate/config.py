"""The settings of the two last stages: `[evaluate]` and `[publish]` of a recipe."""

from typing import Annotated, Literal

from pydantic import Field

from minimind.config import WHERE, Config
from minimind.runtime import Precision

ModelName = Literal["pretrain", "sft", "dpo", "lora", "distill"]
MODEL_NAMES: tuple[ModelName, ...] = ("pretrain", "sft", "dpo", "lora", "distill")
"""In the order in which a report shows them."""

PROMPTS = (
    "Who are you?",
    "你是谁？",
    "What does json.dumps do?",
    "What is the module textwrap?",
    "What is the signature of shutil.copyfile?",
    "Is collections.OrderedDict a function or a class?",
    "Which functions are in the module random?",
    "json.loads 是做什么的？",
    "What does `1 + 1` give?",
    "Write one sentence about the sea.",
)
"""Half of them suit the documentation of Python, which is the default data; the rest any chat model."""


class EvaluateConfig(Config):
    """What is measured of every model."""

    max_documents: int = Field(200, ge=1)
    """Validation documents scored; a seeded choice where there are more. All models and baselines read the same."""
    context: int | None = Field(None, ge=2)
    """Tokens a model sees at most while it is scored; None takes the length it was pretrained with."""
    max_pairs: int = Field(300, ge=1)
    """Preference pairs scored; a seeded choice where there are more."""
    max_pair_tokens: int = Field(2048, ge=2)
    """Pairs with a longer side are left out (and counted)."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples behind the 95 % interval of bits per byte."""
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = PROMPTS
    """Answered by every model, kept verbatim."""
    answer_tokens: int = Field(64, ge=1)
    baseline_order: int = Field(6, ge=1, le=7)
    """Bytes in a gram of the baseline: 6 predicts a byte from five."""
    baseline_bytes: int = Field(16 << 20, ge=1)
    """Training text the baselines read at most, from its start."""
    seed: int = 0
    precision: Precision = "auto"
    """Of the matrix products. bf16, where the hardware has it, moves bits per byte in the fifth digit."""
    batch_tokens: Annotated[int | None, WHERE] = Field(None, ge=1)
    """Tokens scored at a time; by default 2048 on a CPU, whose caches are small, and 32768 on a GPU."""
    device: Annotated[str, WHERE] = "auto"


class PublishConfig(Config):
    """Which model is handed out, and what the report card says above its figures."""

    model: ModelName = "dpo"
    """The one to publish. Where it was not trained, the next of dpo, lora, sft, pretrain that was, with a warning."""
    name: str = "MiniMind"
    commands: tuple[str, ...] = ("minimind run",)
    """How to reproduce: shown as they are, in order."""
