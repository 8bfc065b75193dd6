"""The ledger: what became of every row, by source and rule, in rows and in bytes, to the unit.

One is kept by every piece of work and they are added up, so no figure depends on how the work was cut.
`ledger.json` of an artifact holds it; the report is made from nothing else. It balances:
rows and bytes in = kept + dropped. Its size does not grow with the data: examples are excerpts, and few.
Not here: the dropped and changed rows themselves (`dropped`), and the report (`report`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Self, get_args, get_origin, get_type_hints

import msgspec

from minimind import runtime
from minimind.errors import ArtifactError, MissingError

LEDGER_FILE = "ledger.json"
"""Of the stage that wrote the directory."""
READ_LEDGER_FILE = "read_ledger.json"
"""Of reading, beside that of cleaning."""
EXAMPLES_PER_RULE = 6
"""Of each reason or change, the first so many in input order."""
CLUSTERS_SHOWN = 20
MEMBERS_SHOWN = 4
"""Dropped texts of a cluster that are kept to be shown; `size` counts all."""
EXAMPLE_CHARACTERS = 600
CONTEXT_CHARACTERS = 120
"""Of these so many stand before the first difference of two texts."""


@dataclass
class Ledger:
    """Counts of one stage. Keys are tuples, written to JSON as lists; units are rows and UTF-8 bytes."""

    rows_in: Counter[str] = field(default_factory=Counter)
    """By source; the same for the next five."""
    bytes_in: Counter[str] = field(default_factory=Counter)
    rows_kept: Counter[str] = field(default_factory=Counter)
    bytes_kept: Counter[str] = field(default_factory=Counter)
    """As they came in; what rules made of them is bytes_out."""
    bytes_out: Counter[str] = field(default_factory=Counter)
    rows_dropped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By source, rule and reason; the same for bytes_dropped."""
    bytes_dropped: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    rows_changed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By source and rule. A row changed by two rules counts for both."""
    languages: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kept rows by source and language code (`und`: none could be told)."""
    lengths_kept: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Kept rows by source and bucket of their length in characters: see `length_bucket`."""
    lengths_dropped: Counter[tuple[str, int]] = field(default_factory=Counter)
    cluster_sizes: Counter[int] = field(default_factory=Counter)
    """Clusters of duplicates, exact and near (the kept text and those dropped for it), by number of members."""
    examples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """`rule: reason`, or `rule: changed` → the first few: source, file, line, detail, before and after."""
    clusters: list[dict[str, Any]] = field(default_factory=list)
    """The largest clusters: size, kept (source, line, text), dropped (a list of the same with jaccard)."""

    def wants_example(self, key: str) -> bool:
        """Whether there is room for one more of this kind."""
        return len(self.examples.get(key, ())) < EXAMPLES_PER_RULE

    def add_example(self, key: str, example: Mapping[str, Any]) -> None:
        """Keep `example` if there is room. Its texts are cut: `before` and `after` to where they differ first."""
        if not self.wants_example(key):
            return
        cut = {name: _ends(value) if isinstance(value, str) else value for name, value in example.items()}
        before, after = example.get("before"), example.get("after")
        if isinstance(before, str) and isinstance(after, str):
            cut["before"], cut["after"] = _around_difference(before, after)
        self.examples.setdefault(key, []).append(cut)

    def add_cluster(self, size: int, *, kept: Mapping[str, Any], dropped: Sequence[Mapping[str, Any]]) -> None:
        """Keep a cluster of duplicates to be shown, if it is among the largest; `cluster_sizes` counts on its own.

        Each dropped text is cut to where it differs first from the kept one, whose words there are `against`.
        """
        if len(self.clusters) == CLUSTERS_SHOWN and size <= self.clusters[-1]["size"]:
            return
        members = []
        for member in dropped[:MEMBERS_SHOWN]:
            against, text = _around_difference(kept["text"], member["text"])
            members.append({**member, "text": text, "against": against})
        cluster = {"size": size, "kept": {**kept, "text": _ends(kept["text"])}, "dropped": members}
        self.clusters = _largest([*self.clusters, cluster])

    def add(self, other: "Ledger") -> None:
        """Count what `other` counted too; examples of this one come first. (a + b) + c is a + (b + c)."""
        for name, value in vars(self).items():
            if isinstance(value, Counter):
                value.update(getattr(other, name))
        for key, examples in other.examples.items():
            self.examples[key] = [*self.examples.get(key, []), *examples][:EXAMPLES_PER_RULE]
        self.clusters = _largest([*self.clusters, *other.clusters])

    def imbalance(self) -> str:
        """What does not add up, in words; empty where the books balance."""
        for unit in ("rows", "bytes"):
            come_in, kept = getattr(self, f"{unit}_in"), getattr(self, f"{unit}_kept")
            dropped = self.dropped_by_source(unit)
            for source in sorted({*come_in, *kept, *dropped}):
                if come_in[source] != kept[source] + dropped[source]:
                    return f"{source}: {unit} in {come_in[source]} ≠ kept {kept[source]} + dropped {dropped[source]}"
        return ""

    def dropped_by_source(self, unit: str = "rows") -> Counter[str]:
        """Rows dropped by source, or `bytes`."""
        dropped: Counter[str] = Counter()
        for (source, _, _), count in getattr(self, f"{unit}_dropped").items():
            dropped[source] += count
        return dropped

    def figures(self) -> dict[str, int]:
        """The sums, flat, for a stage's summary: in, kept, dropped, by reason and by changing rule."""
        by_reason: Counter[str] = Counter()
        for (_, _, reason), count in self.rows_dropped.items():
            by_reason[f"dropped_{reason}"] += count
        by_rule: Counter[str] = Counter()
        for (_, rule), count in self.rows_changed.items():
            by_rule[f"changed_{rule}"] += count
        return {
            "rows_in": self.rows_in.total(),
            "rows_kept": self.rows_kept.total(),
            "rows_dropped": self.rows_dropped.total(),
            "bytes_in": self.bytes_in.total(),
            "bytes_kept": self.bytes_kept.total(),
            "bytes_dropped": self.bytes_dropped.total(),
            "bytes_out": self.bytes_out.total(),
            **dict(sorted(by_reason.items())),
            **dict(sorted(by_rule.items())),
        }

    def write(self, directory: Path, name: str = LEDGER_FILE) -> None:
        """Write `ledger.json`, or `name`; equal ledgers give equal bytes."""
        plain = {name: _pairs(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        plain["examples"] = {key: shown for key, shown in sorted(self.examples.items()) if shown}
        runtime.write_json(directory / name, _encodable(plain))

    @classmethod
    def read(cls, directory: Path, name: str = LEDGER_FILE) -> Self:
        """The ledger of a directory. Raises MissingError, and ArtifactError where it cannot be read."""
        path = directory / name
        try:
            stored = msgspec.json.decode(path.read_bytes(), type=_stored_shape())
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"{path}: no ledger here; run the cleaning that writes it") from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArtifactError(f"{path}: is no ledger ({error}); run the stage again") from None
        values = msgspec.structs.asdict(stored)
        fresh = vars(cls())
        return cls(**{n: Counter(dict(v)) if isinstance(fresh[n], Counter) else v for n, v in values.items()})


def length_bucket(characters: int) -> int:
    """The bucket of a length: 0 for 0 and 1, 1 for 2 and 3, 2 for 4 to 7, …"""
    return max(0, characters.bit_length() - 1)


@cache
def _stored_shape() -> Any:
    """What `ledger.json` must look like: the ledger's own fields, all of them, counters as pairs."""
    hints = get_type_hints(Ledger)
    shapes = {
        name: list[tuple[get_args(hint)[0], int]] if get_origin(hint) is Counter else hint  # type: ignore[misc]
        for name, hint in hints.items()
    }
    return msgspec.defstruct("StoredLedger", list(shapes.items()), forbid_unknown_fields=True)


def _pairs(counter: Counter[Any]) -> list[list[Any]]:
    """Key and count, sorted; counts of nothing are left out, as they are when counters are compared."""
    pairs = sorted((key, count) for key, count in counter.items() if count)
    return [[list(key) if isinstance(key, tuple) else key, count] for key, count in pairs]


def _largest(clusters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of equal size the first; which ones does not depend on how the clusters were added up."""
    return sorted(clusters, key=lambda cluster: -cluster["size"])[:CLUSTERS_SHOWN]


def _ends(text: str) -> str:
    """A text's beginning and end."""
    half = EXAMPLE_CHARACTERS // 2
    return text if len(text) <= EXAMPLE_CHARACTERS else f"{text[:half]} … {text[-half:]}"


def _around_difference(one: str, other: str) -> tuple[str, str]:
    """Two texts, both from shortly before the first character in which they differ."""
    same, differ = 0, min(len(one), len(other))
    while same < differ:  # by halves: comparing slices is quick, characters are not
        middle = (same + differ + 1) // 2
        same, differ = (middle, differ) if one[same:middle] == other[same:middle] else (same, middle - 1)
    start = max(0, same - CONTEXT_CHARACTERS) if max(len(one), len(other)) > EXAMPLE_CHARACTERS else 0
    return _window(one, start), _window(other, start)


def _window(text: str, start: int) -> str:
    stop = start + EXAMPLE_CHARACTERS
    return ("… " if start else "") + text[start:stop] + (" …" if stop < len(text) else "")


def _encodable(value: Any) -> Any:
    """`value` with half characters, which UTF-8 cannot hold, as `?`."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {_encodable(key): _encodable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(inner) for inner in value]
    return value
