"""The books of a model: what became of every source, and the equations that were tried.

Not here: what is counted (`token_ledger_counts`) and which equations there are (`token_ledger`).
"""

from collections.abc import Mapping
from typing import Any

from minimind.config import Config


class Account(Config):
    """What became of one source of one kind of rows."""

    kind: str
    source: str
    bytes_in: int = 0
    rows_in: int = 0
    unusable: dict[str, int] = {}
    """Rows that could not be read, by reason."""
    cleaned: dict[str, int] = {}
    """Rows that cleaning dropped, by `rule: reason`."""
    rows_clean: int = 0
    repeated: int = 0
    """Rows that the source's weight put into training once more."""
    left_out: int = 0
    """Rows that the source's weight kept out of training."""
    rows: dict[str, int] = {}
    """Split → rows of the corpus; the same for those that follow."""
    too_long: dict[str, int] = {}
    documents: dict[str, int] = {}
    tokens: dict[str, int] = {}
    trained_tokens: dict[str, int] = {}
    """Labels of one epoch."""


class TrainingAccount(Config):
    """What a training took of its token set."""

    training: str
    fingerprint: str
    token_set: str
    steps: int
    epochs: float
    tokens: int | None
    """Of all its steps; None where it was trained by another version and did not write it down."""
    trained_tokens: int | None


class TokenLedger(Config):
    """The books of everything a model was made of."""

    of: str
    accounts: list[Account]
    trainings: list[TrainingAccount]
    checks: int
    """Equations that were tried."""
    imbalances: list[str]
    """Those that do not hold, the first of the path first."""
    uncounted: list[str]
    """What could not be counted, and why: artifacts that are not in the store, trainings of another version."""

    @property
    def balances(self) -> bool:
        return not self.imbalances


class Books:
    """Accounts that are being written, and the equations tried."""

    def __init__(self) -> None:
        self.accounts: dict[tuple[str, str], dict[str, Any]] = {}
        self.imbalances: list[str] = []
        self.uncounted: list[str] = []
        self.checks = 0

    def account(self, kind: str, source: str) -> dict[str, Any]:
        return self.accounts.setdefault((kind, source), {"kind": kind, "source": source})

    def equal(self, where: str, one: str, left: Mapping[str, int], other: str, right: Mapping[str, int]) -> None:
        """Check an equation for every source."""
        for source in sorted({*left, *right}):
            self.checks += 1
            a, b = left.get(source, 0), right.get(source, 0)
            if a != b:
                self.imbalances.append(f"{where}, source {source}: {one} {a:,} ≠ {other} {b:,}")

    def same(self, where: str, one: str, left: int | None, other: str, right: int) -> None:
        """Check an equation of totals; one without a left side was not written down by an older version."""
        if left is None:
            return
        self.checks += 1
        if left != right:
            self.imbalances.append(f"{where}: {one} {left:,} ≠ {other} {right:,}")
