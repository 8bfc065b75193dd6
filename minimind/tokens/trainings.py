"""A training as it can be gone through again, step by step; steps are counted from 1, as in MLflow.

Not here: what a training was given (`minimind.train.history`), artifacts by name (`minimind.lineage`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minimind.artifact import Artifact
from minimind.tokens.batches import PairBatches, RowBatches
from minimind.tokens.token_set import INFO_FILE, TokenSet
from minimind.tokens.trace_pieces import Source

TRAININGS = ("pretrain", "sft", "dpo", "lora", "distill")
SPLITS = ("train", "val")


def split_dir(place: Path, split: str) -> Path:
    """The directory of a split: of a token set's artifact, or `place` itself where it is one already."""
    return place if (place / INFO_FILE).exists() else place / split


@dataclass(frozen=True)
class Training:
    """A training as it can be gone through again; `minimind.train.history` makes one of a trained model."""

    label: str
    fingerprint: str
    token_sets: tuple[Artifact, ...]
    """What it learns from: its own, then those that are mixed in, as `PiecesOfStep.token_sets` counts them."""
    length: int
    batch_items: int
    """Rows (or pairs) of a step."""
    seed: int
    figures: Mapping[str, Any]
    """What it says of itself; empty before it ran."""
    steps: int
    """All of them, also before it has run."""
    open: Callable[[], Source]
    """Gives its batches; step s is `batch(s - 1)`."""
    changed_code: tuple[str, ...] = ()
    """Modules that choose the rows of a step and are not those it was trained with: then steps tell nothing."""

    @property
    def tokens(self) -> Artifact:
        """Its own token set."""
        return self.token_sets[0]

    def reads(self, token_set: Artifact) -> bool:
        """Whether it learns from this token set."""
        return token_set.fingerprint in [one.fingerprint for one in self.token_sets]

    def facts(self) -> dict[str, str]:
        """What its batches follow from, for people."""
        sets = ", ".join(f"{one.label} {one.fingerprint}" for one in self.token_sets)
        return {"token set": sets, "length": str(self.length), "seed": str(self.seed)}


def open_batches(tokens: TokenSet, *, length: int, batch_items: int, seed: int) -> RowBatches | PairBatches:
    """Pairs of a preference set, packed rows of any other."""
    if tokens.kind == "preference":
        return PairBatches(tokens, batch_pairs=batch_items, max_length=length, seed=seed)
    return RowBatches(tokens, row_length=length, batch_rows=batch_items, seed=seed)
