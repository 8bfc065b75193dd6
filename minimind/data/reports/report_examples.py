"""Examples of rules at work and clusters of duplicates, with their differences marked, for the data report."""

from dataclasses import dataclass
from typing import Any

from minimind.data.ledger import Ledger
from minimind.data.reports.difference import Piece, difference
from minimind.data.reports.report_rules import rule_order

ANCHOR_CHARACTERS = 20
"""Equal text of this length before a difference says that both texts ran side by side up to there."""


@dataclass(frozen=True)
class Example:
    reason: str
    """`changed`, or why the text was dropped."""
    place: str
    detail: str
    before: list[Piece]
    after: list[Piece] | None


@dataclass(frozen=True)
class Member:
    place: str
    jaccard: float | None
    text: list[Piece]


@dataclass(frozen=True)
class Cluster:
    size: int
    place: str
    text: str
    members: list[Member]


def examples_of(ledgers: list[Ledger]) -> dict[str, list[Example]]:
    """The examples of all ledgers by rule, in the order of the rules."""
    keys = {key for ledger in ledgers for key, shown in ledger.examples.items() if shown}
    result: dict[str, list[Example]] = {}
    for key in sorted(keys, key=lambda key: (rule_order(key.partition(": ")[0]), key)):
        rule, _, reason = key.partition(": ")
        for ledger in ledgers:
            result.setdefault(rule, []).extend(_example(reason, shown) for shown in ledger.examples.get(key, []))
    return result


def _example(reason: str, shown: dict[str, Any]) -> Example:
    before, after = shown.get("before") or "", shown.get("after")
    sides = ([Piece(before, False)], None) if after is None else _difference(before, after)
    return Example(reason, _place(shown), str(shown.get("detail") or ""), *sides)


def clusters_of(ledger: Ledger) -> list[Cluster]:
    """The largest clusters of duplicates, the differences to the kept text marked."""
    return [_cluster(cluster) for cluster in ledger.clusters]


def _cluster(cluster: dict[str, Any]) -> Cluster:
    kept = cluster["kept"]
    members = [
        Member(_place(m), m.get("jaccard"), _difference(m.get("against", kept["text"]), m["text"])[1])
        for m in cluster["dropped"]
    ]
    return Cluster(cluster["size"], _place(kept), kept["text"], members)


def _difference(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    one, other = difference(before, after)
    return _without_cut_end(one), _without_cut_end(other)


def _without_cut_end(pieces: list[Piece]) -> list[Piece]:
    """The pieces of an excerpt, its end not marked where it differs only because the other was cut elsewhere."""
    marked = [number for number, piece in enumerate(pieces) if piece.marked]
    cut = bool(pieces) and pieces[-1].text.endswith("…")
    if not cut or not marked or marked[-1] < len(pieces) - 2 or marked[-1] == 0:
        return pieces
    if len(pieces[marked[-1] - 1].text) < ANCHOR_CHARACTERS:
        return pieces
    return [*pieces[: marked[-1]], *(Piece(piece.text, False) for piece in pieces[marked[-1] :])]


def _place(shown: dict[str, Any]) -> str:
    """`source, file, line 7`, as far as it is known; or what `where` says."""
    if shown.get("where"):
        return str(shown["where"])
    parts = [str(shown[name]) for name in ("source", "file") if shown.get(name)]
    return ", ".join([*parts, *([f"line {shown['line']:,}"] if isinstance(shown.get("line"), int) else [])])
