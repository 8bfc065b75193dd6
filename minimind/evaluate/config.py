"""The settings of the two last stages and of the gate between them: `[evaluate]`, `[publish]` and `[gate]`."""

import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from minimind.config import WHERE, Config, expanded
from minimind.data.kinds import RowKind
from minimind.runtime import Precision, home

ModelName = Literal["pretrain", "sft", "dpo", "lora", "distill"]
MODEL_NAMES: tuple[ModelName, ...] = get_args(ModelName)
"""In the order in which a report shows them."""

CORPORA: dict[str, tuple[RowKind, str]] = {
    "corpus": ("pretrain", "text"),
    "corpus_chat": ("chat", "chat"),
    "corpus_preference": ("preference", "preference"),
    "corpus_lora": ("lora", "lora_chat"),
}
"""Input of the stage → its kind of rows, and what the task of its held-out ones is called."""
HELD_OUT = tuple(task for _, task in CORPORA.values())

BuiltIn = Literal["arithmetic", "tools", "instructions"]
BUILT_IN: tuple[BuiltIn, ...] = get_args(BuiltIn)
"""Sets of prompts that come with the project, whose answers can be checked."""

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

Files = Annotated[tuple[str, ...], WHERE]
"""Paths: what counts is the bytes, which are a source of the stage."""

FILE_SETTINGS = ("texts", "chats", "pairs", "choices", "cloze", "checked_prompts")
"""The settings that name files, relative to the recipe."""


class EvaluateConfig(Config):
    """What is measured of every model."""

    max_documents: int = Field(200, ge=1)
    """Held-out texts scored; a seeded choice where there are more. All models and baselines read the same."""
    max_chats: int = Field(200, ge=1)
    """Held-out conversations scored."""
    max_open_ended: int = Field(50, ge=0)
    """Held-out conversations whose first question is asked anew, to see how a model talks; 0 asks none."""
    max_pairs: int = Field(300, ge=1)
    """Held-out preference pairs scored."""
    max_items: int = Field(500, ge=1)
    """Items taken of each file and each set by name."""
    texts: Files = ()
    """Files of texts to measure bits per byte on, besides what the corpus holds out."""
    chats: Files = ()
    """Files of conversations to measure the assistant's words on."""
    pairs: Files = ()
    """Files of preference pairs."""
    choices: Files = ()
    """Files of multiple-choice questions, `{question, choices, answer}` a line; or names: mmlu, cmmlu, ceval, …"""
    cloze: Files = ()
    """Files of beginnings with choices to go on: `{context, choices, answer}` a line."""
    checked_prompts: Files = ()
    """Files of prompts whose answers can be checked: `{prompt, checks}` a line."""
    built_in: tuple[BuiltIn, ...] = BUILT_IN
    """Which of the prompts that come with the project are asked."""
    wordings: tuple[str, ...] = ()
    """How questions are put, with {question}, whose scores are averaged; by default two ways in their language."""
    orders: int = Field(4, ge=0)
    """Orders of the choices behind letters that are averaged; 0 does not ask by letter."""
    context: int | None = Field(None, ge=2)
    """Tokens a model sees at most while it is scored; None takes the length it was pretrained with."""
    contamination: bool = True
    """Whether every item is looked for in what each model was trained on."""
    leak_share: float = Field(0.7, gt=0, le=1)
    """Of an item's letters that must be found for it to count as seen."""
    resamples: int = Field(1000, ge=100)
    """Bootstrap resamples behind the 95 % intervals."""
    prompts: tuple[Annotated[str, Field(min_length=1)], ...] = PROMPTS
    """Answered by every model, kept verbatim."""
    answer_tokens: int = Field(64, ge=1)
    baseline_order: int = Field(6, ge=1, le=7)
    """Bytes in a gram of the baseline: 6 predicts a byte from five."""
    baseline_bytes: int = Field(16 << 20, ge=1)
    """Training text the baselines read at most."""
    seed: int = 0
    precision: Precision = "auto"
    """Of the matrix products. bf16, where the hardware has it, moves bits per byte in the fifth digit."""
    batch_tokens: Annotated[int | None, WHERE] = Field(None, ge=1)
    """Tokens scored at a time; by default 2048 on a CPU, whose caches are small, and 32768 on a GPU."""
    device: Annotated[str, WHERE] = "auto"

    @property
    def has_files(self) -> bool:
        """Whether it names files, or sets by name."""
        return any(getattr(self, name) for name in FILE_SETTINGS)

    @field_validator("wordings")
    @classmethod
    def _with_a_question(cls, wordings: tuple[str, ...]) -> tuple[str, ...]:
        for wording in wordings:
            names = [name for _, name, _, _ in string.Formatter().parse(wording) if name is not None]
            if names != ["question"]:
                raise ValueError(f'a wording has {{question}} once and no other braces; it is "{wording}"')
        return wordings


class GateConfig(Config):
    """When a model may become the champion. A rule whose figure was not measured does not hold anybody up."""

    enabled: bool = True
    max_bits_per_byte_loss: float | None = Field(0.01, ge=0)
    """Bits per byte of held-out text it may need more than the champion, as far as that is sure (95 %). Two seeds of
    one recipe differ by 0.01."""
    max_drift: float | None = Field(None, ge=0)
    """Share of bits per byte that dpo or lora may lose against the model it came from, as far as that is sure."""
    preference_above_chance: bool = True
    """Of dpo: the lower end of its accuracy's interval, or of its gain over the model it was trained from, is above
    chance."""
    max_repetition: float | None = Field(0.5, ge=0, le=1)
    """Of repeated 4-grams in all answers, as far as that is sure (95 %): above, answers are loops."""
    max_same_answers: float | None = Field(0.5, ge=0, le=1)
    """Of open questions that got the very same answer as another one, as far as that is sure: above, it collapsed."""
    max_leaked: float | None = Field(None, ge=0, le=1)
    """Share of the items of any task that its trainings may have seen."""
    at_least: dict[str, float] = {}
    """Figure of the published model, as `minimind eval` names it (`arithmetic_passed`) → what it must reach."""
    at_most: dict[str, float] = {}
    """Figure → what it must not pass (`chat_nats_per_token`)."""


class PublishSection(Config):
    """`[publish]`: which model is handed out, and what the report card says above its figures."""

    model: ModelName = "dpo"
    """The one to publish. Where it was not trained, the next of dpo, lora, sft, pretrain that was, with a warning."""
    name: str = "MiniMind"
    commands: tuple[str, ...] = ()
    """How to reproduce: shown as they are, in order; by default what ran, out of the artifacts."""
    price_per_hour: float | None = Field(None, ge=0)
    """Of the machine, in any currency: with it the report card says what the stages cost."""


class PublishConfig(PublishSection):
    """`[publish]` together with `[gate]`: a published model says what it had to pass."""

    gate: GateConfig = GateConfig()


def resolved(table: Mapping[str, Any], base: Path, *, given: Collection[str] = ()) -> dict[str, Any]:
    """`[evaluate]` with its files as seen from `base`, and those of the settings `given` as overrides as from here.

    What is no path (the name of a set) stays as it is.
    """
    found = dict(table)
    for name in FILE_SETTINGS:
        place = Path.cwd() if f"evaluate.{name}" in given else base
        if isinstance(entries := table.get(name), list) and all(isinstance(entry, str) for entry in entries):
            found[name] = [str(place / expanded(entry)) if _is_path(entry) else entry for entry in entries]
    return found


def _is_path(entry: str) -> bool:
    return "/" in entry or "." in entry


def suites_dir() -> Path:
    """Where sets that were fetched by name are kept."""
    return home() / "suites"
