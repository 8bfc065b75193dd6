"""The report card as data: what stands in `report.json`, from which its pages and pictures are drawn.

Everything a reader sees is in here, so a page can be drawn again from the file alone.
"""

from pathlib import Path

from minimind.config import Config
from minimind.evaluate.gate import Ruling
from minimind.evaluate.results import Evaluation
from minimind.lineage import Node

REPORT_FILE = "report.json"

Value = int | float | str | None


class Headline(Config):
    """One of the few figures at the top: a value as it is shown, and what to compare it with."""

    label: str
    value: str
    note: str


class Dropped(Config):
    """How many rows one rule left out for one reason."""

    rule: str
    reason: str
    rows: int


class Funnel(Config):
    """What became of the rows of one kind. `rows_in` is what was read: kept and dropped together."""

    kind: str
    rows_in: int
    train_rows: int
    validation_rows: int
    dropped: list[Dropped]

    @property
    def kept(self) -> int:
        return self.train_rows + self.validation_rows


class Share(Config):
    """What one source gives to a training: of its train split, in one epoch."""

    source: str
    rows: int
    bytes: int
    tokens: int
    trained_tokens: int
    share: float
    """Of the trained tokens of its kind of rows, 0 to 1."""


class Mixture(Config):
    """The sources of one kind of rows, the largest first."""

    kind: str
    sources: list[Share]


class Curve(Config):
    """A metric over the steps of a training, thinned out to what a picture can show."""

    metric: str
    steps: list[int]
    values: list[float]


class Training(Config):
    """How one model was trained."""

    stage: str
    seconds: float
    figures: dict[str, Value]
    curves: list[Curve]
    """Of its losses."""
    looks: list[Curve] = []
    """What was measured on held-out rows on the way, besides the loss: bits per byte, and shares from 0 to 1."""


class Cost(Config):
    """What the stages took together, whether made now or reused."""

    core_hours: float
    """Hours × cores of the machine, of stages that ran on processors."""
    gpu_hours: float
    """Hours × processes, of trainings that ran on GPUs."""
    money: float | None = None
    """Hours × the price of the machine, where it is known."""


class FailedAnswer(Config):
    """An answer that a check found fault with, word for word."""

    task: str
    model: str
    item: str
    prompt: str
    answer: str
    failures: list[str]


class Piece(Config):
    """A token of a chat as it is shown."""

    text: str
    trained: bool
    special: bool = False


class MaskView(Config):
    """One chat as the trainings read it, token by token, with what of it is learnt."""

    title: str
    pieces: list[Piece]


class Report(Config):
    """The whole card."""

    name: str
    recipe: str
    data: str
    pipeline: str
    user: str
    created_at: str
    host: str
    commit: str
    libraries: dict[str, str]
    seconds: float
    """Of all stages together."""
    cost: Cost
    published: str
    """The name of the model that was handed out."""
    published_fingerprint: str
    model: dict[str, Value]
    """The published model's shape."""
    headlines: list[Headline]
    warnings: list[str]
    gate: list[Ruling]
    """Of the rules that need no other model to compare with."""
    verdict: str
    """Whether the loss is normal, in a sentence; empty where there is nothing to compare with."""
    evaluation: Evaluation
    failed_answers: list[FailedAnswer]
    """A few of each model and set of prompts; `evaluation` has how many there are."""
    funnels: list[Funnel]
    mixtures: list[Mixture]
    mask: MaskView | None
    tokenizer: dict[str, Value]
    trainings: list[Training]
    lineage: list[Node]
    """Everything that was read, in the order of the pipeline."""
    commands: list[str]


def read_report(directory: Path) -> Report:
    """The report in a published artifact. Raises MissingError or ArtifactError."""
    return Report.read_json(directory / REPORT_FILE, remedy="run the stage publish again")
