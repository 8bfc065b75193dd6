"""Which evaluation items a model was trained on: looked for in the documents that its trainings had in their steps.

    model ─► its trainings, and those of the models it was made of ─► documents seen ─► texts ─► items in them

Cleaning leaves questions out before there are tokens (`minimind.data.rules.contamination`); here the tokens
themselves are read, so an item is found whatever the cleaning was told, with the same index and the same rules. What
they do not find is not found here either: translations and paraphrases. A model that was trained elsewhere cannot be
looked into, and that is said.
Not here: which documents a training had (`minimind.evaluate.seen`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from minimind.artifact import Artifact
from minimind.data.rules.contamination import Found, find_items, without_escapes
from minimind.data.rules.evaluation_index import EvaluationIndex, index_items
from minimind.data.rules.evaluation_sets import Item
from minimind.data.rules.texts import Texts
from minimind.errors import MiniMindError, MissingError
from minimind.evaluate.seen import SeenSet, seen_sets
from minimind.lineage import in_order, parent
from minimind.tokens.microscope import Slide
from minimind.tokens.trainings import TRAININGS, Training
from minimind.train.history import training_of

_WEIGHTS = ("model", "teacher")
"""Inputs of a training that are models; what a teacher saw goes over into its pupil."""


@dataclass(frozen=True)
class Overlap:
    """What of an item stands in the documents that were trained on, at the worst place of all."""

    share: float
    """Of the letters of its question and choices, 0 to 1."""
    leaked: bool
    """Whether that much of it is a leak, by the rule of cleaning."""
    where: str
    """`pretrain tokens-pretrain document 17, source wiki, line 3`; empty where nothing was found."""


COMMON = 64
"""Times that a piece of an item may stand in some MB of text: one that stands there more often is of a template."""

NOTHING_FOUND = Overlap(0.0, False, "")


def overlaps(items: Sequence[Item], trainings: Sequence[Training], *, leak_share: float = 0.7) -> list[Overlap]:
    """For each item, in order, what `trainings` saw of it.

    Raises MissingError or ArtifactError where the data of one is gone: `trainings_behind` gives those that have it.
    """
    each = overlaps_of_each(items, trainings, leak_share=leak_share)
    return worst([[NOTHING_FOUND] * len(items), *each.values()])


def overlaps_of_each(
    items: Sequence[Item], trainings: Sequence[Training], *, leak_share: float = 0.7
) -> dict[str, list[Overlap]]:
    """Fingerprint of each training → what it saw of each item.

    For several models with trainings in common: a training that is given twice is looked through once, and a document
    that several had is read once.
    """
    known = {training.fingerprint: training for training in trainings}
    found = {fingerprint: [NOTHING_FOUND] * len(items) for fingerprint in known}
    index = index_items(items)
    for seen in seen_sets(list(known.values())) if items else ():
        best = [dict[int, tuple[bool, float, int]]() for _ in seen.trainings]
        for document, item, what in _items_in(seen, index, leak_share):
            hit = (what.is_leak(leak_share), what.share, document)
            for reader in np.flatnonzero(seen.seen_SD[:, document]).tolist():
                if item not in best[reader] or hit[:2] > best[reader][item][:2]:
                    best[reader][item] = hit
        places = _places(seen, {document for own in best for _, _, document in own.values()})
        for training, own in zip(seen.trainings, best, strict=True):
            here = found[training.fingerprint]
            for item, (leaked, share, document) in own.items():
                where = f"{training.label} {places[document]}"
                here[item] = _worse(here[item], Overlap(share, leaked, where))
    return found


def worst(parts: Sequence[Sequence[Overlap]]) -> list[Overlap]:
    """For each item the worst of what several trainings saw; of equals the first."""
    merged = list(parts[0])
    for part in parts[1:]:
        merged = [_worse(before, now) for before, now in zip(merged, part, strict=True)]
    return merged


def trainings_behind(model: Artifact) -> tuple[list[Training], list[str]]:
    """The trainings whose weights went into a model, the oldest first, and why others cannot be looked through.

    They are its own and those of the models it was made of, of teachers too; of a published model those of the model
    that was chosen.
    """
    models, reasons = _models_behind(model)
    found = []
    for one in in_order(models.values()):
        if one.kind in TRAININGS:
            try:
                found.append(_ready(one))
            except MiniMindError as error:
                reasons.append(f"{one.label} {one.fingerprint}: {error}")
        elif one.kind != "publish":
            reasons.append(f"{one.label} {one.fingerprint}: was not trained here, so nobody knows what it saw")
    return found, reasons


def _models_behind(model: Artifact) -> tuple[dict[str, Artifact], list[str]]:
    """Every model whose weights went into `model`, itself among them; and those that the store has no more."""
    known, waiting, missing = {model.fingerprint: model}, [model], list[str]()
    while waiting:
        one = waiting.pop()
        names = (str(one.summary().figures.get("model")),) if one.kind == "publish" else _WEIGHTS
        for name in (name for name in names if name in one.manifest.parents):
            found = parent(one, name)
            if found is None:
                gone = f"{name} {one.manifest.parents[name]}"
                missing.append(f"{gone}: {one.label} {one.fingerprint} was made of it, and the store has it no more")
            elif found.fingerprint not in known:
                known[found.fingerprint] = found
                waiting.append(found)
    return known, missing


def _ready(artifact: Artifact) -> Training:
    """The training of a model. Raises where it, or what it read, is not there any more."""
    training = training_of(artifact)
    if not training.steps:
        raise MissingError("it does not say how many steps it took; train it again to look into it")
    for token_set in training.token_sets:
        Slide.of(token_set, "train")
    if not training.changed_code:
        training.open()
    return training


def _items_in(seen: SeenSet, index: EvaluationIndex, leak_share: float) -> Iterator[tuple[int, int, Found]]:
    """(document, number of the item, what of it stands there), some documents after the other."""
    for documents, written in seen.texts():
        texts = Texts(written)
        escaped, read = without_escapes(texts)
        for numbers, some in ((documents, texts), (documents[escaped], read)):
            for text, item, found in find_items(some, index, leak_share, most=COMMON):
                yield int(numbers[text]), item, found


def _places(seen: SeenSet, documents: set[int]) -> dict[int, str]:
    """Document → what it is called, with the line it was made of where the corpus is still there."""
    origins = seen.slide.origins(sorted(documents))
    lines = {number: f", source {origin.source}, line {origin.line}" for number, origin in origins.items()}
    return {number: f"{seen.label} document {number}{lines.get(number, '')}" for number in documents}


def _worse(one: Overlap, other: Overlap) -> Overlap:
    return other if (other.leaked, other.share) > (one.leaked, one.share) else one
