"""Where the rows of a step come from, in words: for the message about a batch that gave no finite loss.

`corpus source:line` for as many as a person reads. Not here: all of a step's rows with their texts, which
`minimind trace MODEL --step N` and `minimind data show` give.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minimind.artifact import open_artifact
from minimind.errors import MiniMindError
from minimind.tokens.microscope import Slide
from minimind.tokens.trace_pieces import Source

LIMIT = 8


def name_rows(batches: Source, token_sets: Sequence[Path], step: int, *, limit: int = LIMIT) -> str:
    """`source:line, …` of the first rows of a step (from 0); empty where the corpus is not in the store any more.

    `token_sets` are the directories of the artifacts, the stage's own first.
    """
    pieces = batches.pieces(step)
    real = np.flatnonzero(pieces.documents >= 0)  # augmentation has no row
    names = list[str]()
    for number in np.unique(pieces.token_sets[real]).tolist():
        own = real[pieces.token_sets[real] == number]
        documents = list(dict.fromkeys(pieces.documents[own].tolist()))
        try:
            origins = Slide.of(open_artifact(token_sets[number]), "train").origins(documents[: 2 * limit])
        except MiniMindError:  # the message it is for matters more
            continue
        found = list(dict.fromkeys(str(origin) for origin in origins.values()))  # both sides of a pair are of one row
        names += [*found[:limit], *(["…"] if len(documents) > len(origins) or len(found) > limit else [])]
    return ", ".join(names)
