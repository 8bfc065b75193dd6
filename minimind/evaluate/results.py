"""What an evaluation found, as it stands in `evaluation.json`; read by the report, the gate and `minimind diff`."""

from pathlib import Path

from minimind.config import Config

EVALUATION_FILE = "evaluation.json"


class Interval(Config):
    """A 95 % interval."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


class Score(Config):
    """How well a model predicts text. `nats` is the summed −log p of `tokens` tokens, which spell `bytes` bytes."""

    bits_per_byte: float
    interval: Interval
    """By bootstrap over documents."""
    nats: float
    bytes: int
    tokens: int
    documents: int
    context: int
    """Tokens seen at most."""


class PreferenceScore(Config):
    """How often a model finds the chosen answer likelier than the rejected one. Chance is 0.5."""

    pairs: int
    skipped: int
    """Pairs left out because a side was too long."""
    accuracy: float
    interval: Interval
    """Wilson's."""
    normalised_accuracy: float
    """The same with the log-probability per token, which does not favour short answers."""
    margin: float
    """Mean of log p(chosen) − log p(rejected), in nats."""


class RewardScore(Config):
    """How often DPO's implicit reward, the margin gained over the reference model, is positive."""

    reference: str
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
    score: Score
    preference: PreferenceScore | None = None
    reward: RewardScore | None = None
    answers: list[Answer] = []

    @property
    def repetition(self) -> float:
        return _mean([answer.repetition for answer in self.answers])

    @property
    def answer_length(self) -> float:
        return _mean([answer.tokens for answer in self.answers])

    @property
    def ended_by_stop(self) -> float:
        return _mean([float(answer.ended_by_stop) for answer in self.answers])


class Baselines(Config):
    """Bits per byte without a neural network, on the same validation text; `train_bytes` were read before."""

    ngram_order: int
    ngram: float
    ngram_interval: Interval
    xz: float
    """The validation text compressed alone."""
    xz_after_train: float
    """What the validation text adds to the compressed training text."""
    train_bytes: int
    bytes: int


class Evaluation(Config):
    """Models by name, in the report's order, and what they are compared with."""

    models: dict[str, ModelResult]
    baselines: Baselines
    validation_documents: int
    """In the validation split; each `score.documents` says how many of them were read."""


def read_evaluation(directory: Path) -> Evaluation:
    """The evaluation in an artifact. Raises MissingError or ArtifactError."""
    return Evaluation.read_json(directory / EVALUATION_FILE, remedy="run the stage evaluate again")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
