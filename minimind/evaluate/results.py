"""What an evaluation found, as it stands in `evaluation.json`; read by the report, the gate and `minimind diff`.

A *task* is what is measured: texts, chats, pairs, questions, prompts. A *metric* is a figure of it; the first of a
result leads. Every figure has its interval and the number of items behind it. What the figures are to be compared
with, chance and a byte n-gram, belongs to the task and is the same for all models.
"""

from pathlib import Path
from typing import Literal, get_args

from minimind.config import Config

EVALUATION_FILE = "evaluation.json"

Kind = Literal["text", "chat", "preference", "choices", "cloze", "prompts"]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Metric(Config):
    """How a figure is to be read."""

    title: str
    lower_is_better: bool = False
    is_share: bool = False
    """Between 0 and 1, shown in percent."""
    unit: str = ""


METRICS: dict[str, Metric] = {
    "bits_per_byte": Metric(title="bits per byte", lower_is_better=True),
    "nats_per_token": Metric(title="nats per answered token", lower_is_better=True, unit="nats"),
    "accuracy": Metric(title="accuracy", is_share=True),
    "accuracy_normalised": Metric(title="accuracy by length", is_share=True),
    "accuracy_letters": Metric(title="accuracy by letter", is_share=True),
    "accuracy_per_token": Metric(title="accuracy per token", is_share=True),
    "margin_per_token": Metric(title="margin per token", unit="nats"),
    "margin": Metric(title="margin", unit="nats"),
    "passed": Metric(title="passed", is_share=True),
    "same": Metric(title="same answer as to another question", lower_is_better=True, is_share=True),
    "repetition": Metric(title="repeated 4-grams", lower_is_better=True, is_share=True),
    "ended": Metric(title="ended by itself", is_share=True),
    "tokens": Metric(title="tokens per answer", unit="tokens"),
}


OPEN_ENDED = "open_ended"
"""The task of held-out questions that are answered anew, without anybody to check the answers."""
SAID = ("repetition", "tokens", "ended")
"""What is measured of anything that a model says."""


class Interval(Config):
    """A 95 % interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Figure(Config):
    """A number, how sure it is, and how many items are behind it."""

    value: float
    interval: Interval
    n: int


class Task(Config):
    """What all models were measured on."""

    kind: Kind
    items: int
    about: str
    """Where the items are from, for people."""
    chance: dict[str, float] = {}
    """Metric → what guessing gets."""
    ngram: dict[str, Figure] = {}
    """Metric → what a byte n-gram of the training text gets."""
    skipped: dict[str, int] = {}
    """Reason → items that no model was measured on."""


class TaskResult(Config):
    """What one model got in a task."""

    figures: dict[str, Figure]
    """By metric; the first leads."""
    groups: dict[str, dict[str, Figure]] = {}
    """`source`, `language` or `subject` → its names → the leading metric on the items of that name."""
    clean: dict[str, Figure] = {}
    """The same as `figures` on items that no training of this model had seen; empty where that is all of them."""
    leaked: int | None = None
    """Items that a training had seen; None where nobody looked."""

    @property
    def leading(self) -> str:
        """The metric that leads."""
        return next(iter(self.figures))

    @property
    def n(self) -> int:
        """Items behind the leading figure."""
        return self.figures[self.leading].n


class Leak(Config):
    """An item of an evaluation that stands in what a model was trained on."""

    task: str
    item: str
    share: float
    """Of its letters that were found."""
    where: str


class RewardScore(Config):
    """How often DPO's implicit reward, the margin gained over the reference model, is positive."""

    reference: str
    metric: str = "margin"
    """Which margin: of sums or of means over tokens, as the training compared them."""
    accuracy: float
    interval: Interval
    margin: float


class Answer(Config):
    """A model's words, verbatim; empty where it stopped at once."""

    prompt: str
    text: str
    tokens: int
    ended_by_stop: bool
    """False where it was cut off at the limit of tokens."""
    repetition: float
    """Share of its 4-grams of tokens that it had already said."""


class ModelResult(Config):
    """All that was measured of one model."""

    fingerprint: str
    parameters: int
    context: int
    """Tokens it saw at most."""
    tasks: dict[str, TaskResult] = {}
    reward: RewardScore | None = None
    answers: list[Answer] = []
    """To the fixed prompts."""
    said: dict[str, Figure] = {}
    """The metrics `SAID` of all that it answered, to fixed and to checked prompts; empty without either."""
    leaks: list[Leak] = []
    unchecked: list[str] = []
    """Trainings whose data could not be searched for items any more, and why."""
    seconds: float = 0.0

    def figure(self, task: str, metric: str) -> Figure | None:
        """A figure, where it was measured."""
        found = self.tasks.get(task)
        return found.figures.get(metric) if found else None

    @property
    def bits_per_byte(self) -> Figure | None:
        """On the held-out text."""
        return self.figure("text", "bits_per_byte")

    @property
    def same_answers(self) -> Figure | None:
        """Share of open questions that got the very same answer as another one."""
        return self.figure(OPEN_ENDED, "same")

    @property
    def preference(self) -> Figure | None:
        """Accuracy on the held-out pairs."""
        return self.figure("preference", "accuracy_per_token")


class Baselines(Config):
    """What was read to compare with, and what compressors need for the held-out text."""

    ngram_order: int
    train_bytes: int
    """Read by the n-gram and by xz."""
    xz: float | None = None
    """Bits per byte of the held-out text compressed alone."""
    xz_after_train: float | None = None
    """What it adds to the compressed training text."""


class Evaluation(Config):
    """Models and tasks by name, in the report's order."""

    tasks: dict[str, Task]
    models: dict[str, ModelResult]
    baselines: Baselines | None = None


def read_evaluation(directory: Path) -> Evaluation:
    """The evaluation in an artifact. Raises MissingError or ArtifactError."""
    return Evaluation.read_json(directory / EVALUATION_FILE, remedy="run the stage evaluate again")


def figures(evaluation: Evaluation) -> dict[str, int | float | str | None]:
    """The evaluation as flat names: `sft_bits_per_byte`, `sft_arithmetic_passed_low`, `byte_6gram_bits_per_byte`, …"""
    flat: dict[str, int | float | str | None] = {}
    for name, result in evaluation.models.items():
        flat |= {f"{name}_{figure}": value for figure, value in model_figures(result).items()}
    for name, task in evaluation.tasks.items():
        flat[f"{name}_items"] = task.items
        for metric, found in task.ngram.items():
            flat[f"byte_ngram_{flat_name(name, metric)}"] = found.value
    if evaluation.baselines:
        flat |= {
            "xz_bits_per_byte": evaluation.baselines.xz,
            "xz_after_train_bits_per_byte": evaluation.baselines.xz_after_train,
        }
    return {name: round(value, 5) if isinstance(value, float) else value for name, value in flat.items()}


def model_figures(result: ModelResult) -> dict[str, float]:
    """One model's figures by flat names, each leading one with the ends of its interval."""
    flat: dict[str, float] = {}
    for name, task in result.tasks.items():
        for metric, found in task.figures.items():
            flat[flat_name(name, metric)] = found.value
            if metric == task.leading:
                flat[f"{flat_name(name, metric)}_low"] = found.interval.low
                flat[f"{flat_name(name, metric)}_high"] = found.interval.high
        if task.leaked is not None:
            flat[flat_name(name, "leaked")] = task.leaked / max(task.n, 1)
    if result.reward:
        flat |= {"reward_accuracy": result.reward.accuracy, "reward_margin": result.reward.margin}
    for metric, found in result.said.items():
        flat |= {metric: found.value, f"{metric}_low": found.interval.low, f"{metric}_high": found.interval.high}
    return flat


def flat_name(task: str, metric: str) -> str:
    """A figure's name behind its model's: `bits_per_byte` of the held-out text, else `arithmetic_passed`."""
    return metric if task == "text" else f"{task}_{metric}"
