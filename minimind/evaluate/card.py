"""The report card as data: what stands in `report.json`, from which its pages and pictures are drawn.

Everything a reader sees is in here, so a page can be drawn again from the file alone.
"""

from pathlib import Path

from minimind.config import Config
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


class Report(Config):
    """The whole card."""

    name: str
    recipe: str
    data: str
    created_at: str
    host: str
    commit: str
    libraries: dict[str, str]
    published: str
    """The name of the model that was handed out."""
    published_fingerprint: str
    model: dict[str, Value]
    """The published model's shape."""
    headlines: list[Headline]
    warnings: list[str]
    evaluation: Evaluation
    funnels: list[Funnel]
    tokenizer: dict[str, Value]
    trainings: list[Training]
    lineage: list[Node]
    """Everything that was read, in the order of the pipeline."""
    commands: list[str]
    seconds: float
    """Of all stages together."""


def read_report(directory: Path) -> Report:
    """The report in a published artifact. Raises MissingError or ArtifactError."""
    return Report.read_json(directory / REPORT_FILE, remedy="run the stage publish again")
