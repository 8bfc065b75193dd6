"""From a step of a training back to its rows: documents, offsets, labels, and the lines they come from.

Steps are counted from 1. Not here: from a text to the steps (`minimind.tokens.trace`), and the tokens themselves
(`minimind.tokens.microscope`).
"""

from collections.abc import Collection, Iterator, Sequence

from minimind.artifact import Artifact
from minimind.config import Config
from minimind.errors import ConfigError
from minimind.lineage import parent
from minimind.tokens.batches import PairBatches
from minimind.tokens.layout import IGNORE, Batch, PiecesOfStep
from minimind.tokens.microscope import Slide, sides_of
from minimind.tokens.trainings import Training


class PieceOfStep(Config):
    """A document, or a part of one, in a batch."""

    row: int
    item: int
    """Row of the packing plan, or number of the pair."""
    side: str
    token_set: int
    """Number of the token set in a mixture."""
    document: int
    """−1 for tokens that augmentation put in."""
    start: int
    """Tokens of the document before it."""
    tokens: int
    trained: int
    """Labels on it."""
    offset: int
    """Tokens of the whole file before it."""
    source: str
    line: int | None
    id: str


class StepTrace(Config):
    """What a training was given at a step."""

    training: str
    fingerprint: str
    token_set: str
    step: int
    epoch: int
    """From 1, of the step's first row."""
    pieces: list[PieceOfStep]
    sources: dict[str, str]
    """What the pieces were read from → digest of its bytes, as in the lineage; empty where `ingest` is gone."""
    changed_code: list[str]
    """Modules that choose rows and have changed since: where there are any, this is not what it was given."""


def trace_step(training: Training, step: int) -> StepTrace:
    """The rows of a step with their sources. Raises ConfigError for a step that the training does not have."""
    if not 1 <= step <= max(1, training.steps):
        raise ConfigError(f"--step {step}: {training.label} {training.fingerprint} has steps 1 to {training.steps}")
    slides = [Slide.of(artifact, "train") for artifact in training.token_sets]
    batches = training.open()
    batch, pieces = batches.batch(step - 1), batches.pieces(step - 1)
    items = batches.num_pairs if isinstance(batches, PairBatches) else batches.num_rows
    traced = list(_pieces(slides, batch, pieces))
    return StepTrace(
        training=training.label,
        fingerprint=training.fingerprint,
        token_set=f"{training.tokens.label} {training.tokens.fingerprint}",
        step=step,
        epoch=(step - 1) * training.batch_items // items + 1,
        pieces=traced,
        sources=_digests(training, {piece.source for piece in traced}),
        changed_code=list(training.changed_code),
    )


def _digests(training: Training, names: Collection[str]) -> dict[str, str]:
    """The digests of what was read for these sources; a name has the file behind it where a source has several."""
    found, bare = dict[str, str](), {name.partition("/")[0] for name in names}
    for token_set in training.token_sets:
        artifact: Artifact | None = token_set
        for name in ("corpus", "rows", "rows"):
            artifact = artifact and parent(artifact, name)
        for source, digest in artifact.manifest.parts.sources.items() if artifact else ():
            if source in names or source in bare or source.partition("/")[0] in names:
                found[source] = digest
    return found


def _pieces(slides: Sequence[Slide], batch: Batch, pieces: PiecesOfStep) -> Iterator[PieceOfStep]:
    sides = sides_of(slides, batch)
    columns = (pieces.rows, pieces.columns, pieces.documents, pieces.starts, pieces.lengths, pieces.token_sets)
    places = list(zip(*(column.tolist() for column in columns), strict=True))
    origins = [
        slide.origins([d for _, _, d, _, _, own in places if own == number and d >= 0])
        for number, slide in enumerate(slides)
    ]
    for row, column, document, start, length, token_set in places:
        origin = origins[token_set].get(document)
        labels = batch.labels_BT[row, column : column + length]
        yield PieceOfStep(
            row=row,
            item=int(batch.items_B[row]),
            side=sides[row * len(sides) // len(batch)],
            token_set=token_set,
            document=document,
            start=start,
            tokens=length,
            trained=int((labels != IGNORE).sum()),
            offset=int(slides[token_set].tokens.offsets[document]) + start if document >= 0 else -1,
            source=origin.source if origin else "",
            line=origin.line if origin else None,
            id=origin.id if origin else "",
        )
