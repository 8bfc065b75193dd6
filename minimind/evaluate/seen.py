"""The documents that trainings really had in their steps, as text.

A training of half an epoch had half of the rows. Which ones follows from its manifest; a document counts as seen if
any piece of it was in a step, and is then read whole. If the code that chooses rows has changed since, nobody can say
any more which they were: then all documents of its token sets count. Special tokens are no text; what augmentation
put into conversations is in no document.
Not here: what is looked for in the texts (`minimind.evaluate.contamination`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minimind.tokens.microscope import Slide
from minimind.tokens.trace_pieces import in_steps
from minimind.tokens.trainings import Training

BATCH_TOKENS = 1 << 20
"""Of documents that are decoded together: some 4 MB of text."""


@dataclass(frozen=True)
class SeenSet:
    """A token set, and which of its documents trainings had."""

    label: str
    slide: Slide
    trainings: tuple[Training, ...]
    """Those that read it."""
    seen_SD: np.ndarray
    """bool: which of them had which document."""

    def texts(self) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Numbers and texts of the documents that anyone had, in order, some MB at a time."""
        tokens, pieces = self.slide.tokens, self.slide.tokenizer.piece_bytes()
        documents = np.flatnonzero(self.seen_SD.any(axis=0))
        ends = np.cumsum(tokens.offsets[documents + 1] - tokens.offsets[documents])
        first = 0
        while first < len(documents):
            limit = BATCH_TOKENS + (ends[first - 1] if first else 0)
            last = max(first + 1, int(np.searchsorted(ends, limit, side="right")))
            ids = [tokens.document(number).tolist() for number in documents[first:last].tolist()]
            raw = [b"".join(map(pieces.__getitem__, own)) for own in ids]
            yield documents[first:last], [text.decode("utf-8", "replace") for text in raw]
            first = last


def seen_sets(trainings: Sequence[Training]) -> Iterator[SeenSet]:
    """Every token set that one of `trainings` reads, once, whoever reads it.

    Raises MissingError or ArtifactError where its files or its tokenizer are gone.
    """
    artifacts = {one.fingerprint: one for training in trainings for one in training.token_sets}
    slides = {fingerprint: Slide.of(artifact, "train") for fingerprint, artifact in artifacts.items()}
    masks = {training.fingerprint: _masks(training, slides) for training in trainings}
    for fingerprint, slide in slides.items():
        readers = tuple(training for training in trainings if training.reads(artifacts[fingerprint]))
        seen = np.stack([masks[training.fingerprint][fingerprint] for training in readers])
        yield SeenSet(artifacts[fingerprint].label, slide, readers, seen)


def _masks(training: Training, slides: dict[str, Slide]) -> dict[str, np.ndarray]:
    """Fingerprint of each of its token sets → which documents it had in a step."""
    names = [one.fingerprint for one in training.token_sets]
    seen = [np.zeros(slides[name].tokens.num_documents, np.bool_) for name in names]
    if training.changed_code:
        return {name: np.ones_like(own) for name, own in zip(names, seen, strict=True)}
    for part in in_steps(training.open(), training.batch_items, training.steps):
        pieces = part.pieces
        for number, own in enumerate(seen):
            own[pieces.documents[(pieces.token_sets == number) & (pieces.documents >= 0)]] = True
        if all(own.all() for own in seen):
            break
    return dict(zip(names, seen, strict=True))
