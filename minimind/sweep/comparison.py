"""How the points of a sweep did: `sweep.json`, from which its table, page and pictures are drawn.

Points that differ in nothing but seeds are one setting tried several times: settings are compared by their means, and
how far seeds lie apart says what a difference is worth. Without several seeds nothing is known of that, and nothing
is said of it.
"""

import json
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from minimind.config import Config
from minimind.proven import Proven
from minimind.sweep.metric import Metric

SWEEP_FILE = "sweep.json"


class Curve(Config):
    """A figure in the course of a training."""

    figure: str
    tokens: list[float]
    """Positions seen so far, padding left out."""
    values: list[float]


class Result(Config):
    """What became of one point."""

    number: int
    name: str
    settings: dict[str, Any]
    """Key → value."""
    texts: dict[str, str]
    """Key → value as it was typed."""
    state: Literal["waiting", "made", "reused", "failed"] = "waiting"
    figures: dict[str, float] = {}
    """Of the training that is compared, and the metric if it is of another stage."""
    version: str | None = None
    """What that training was registered as."""
    fingerprint: str | None = None
    curves: list[Curve] = []
    error: str | None = None
    page: str | None = None
    """Its run in MLflow."""


class Moved(Config):
    """An alias that the sweep pointed at the best."""

    alias: str
    """`models:/minimind-sft@candidate`."""
    before: str | None
    """Where it stood before the sweep."""
    now: str


@dataclass(frozen=True)
class Group:
    """A setting with all its seeds."""

    settings: dict[str, Any]
    texts: dict[str, str]
    results: tuple[Result, ...]
    values: tuple[float, ...]
    """The metric of those that have it."""

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for less than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def whole(self) -> bool:
        return len(self.values) == len(self.results)


class Comparison(Proven):
    """All points of a sweep."""

    id: str
    """The same for the same points of the same inputs, settings and code."""
    stage: str
    """What was run: a training, or `full-pipeline`."""
    compared: str
    """The training whose figures are shown."""
    recipe: str
    metric: Metric
    names: dict[str, str]
    """Swept key → how it is called in tables."""
    seeds: list[str] = []
    """Those of the keys that are seeds."""
    fixed: list[str] = []
    """Settings that hold for all points, as they were given."""
    inputs: dict[str, str] = {}
    """Input → the exact version that all points read."""
    results: list[Result]
    moved: list[Moved] = []
    created_at: str
    prefect: str | None = None
    mlflow: str | None = None

    @property
    def finished(self) -> bool:
        return all(result.state != "waiting" for result in self.results)

    @property
    def failed(self) -> list[Result]:
        return [result for result in self.results if result.state == "failed"]

    def value(self, result: Result) -> float | None:
        """A point's metric; of one that failed it does not count."""
        return None if result.state == "failed" else result.figures.get(self.metric.name)

    def groups(self) -> list[Group]:
        """Settings with their seeds, the best first; those whose seeds did not all give a figure after the others."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(json.dumps(self._choice(result), sort_keys=True, default=str), []).append(result)
        return sorted(map(self._group, found.values()), key=self._rank_of_group)

    def ranked(self) -> list[Result]:
        """Points, the best first; those without the metric last, in their order."""
        return [result for group in self.groups() for result in sorted(group.results, key=self._rank)]

    def best(self) -> Result | None:
        """The best point of the best setting; None where no point has the metric."""
        first = next(iter(self.ranked()), None)
        return first if first and self.value(first) is not None else None

    def notes(self) -> list[str]:
        """What a reader of the table must know."""
        lines = [f"{result.name}: {result.error}" for result in self.failed]
        nameless = [r.name for r in self.results if r.state in ("made", "reused") and self.value(r) is None]
        if nameless and len(nameless) + len(self.failed) < len(self.results):
            lines.append(f"without {self.metric.name}: {', '.join(nameless)}")
        elif nameless:
            known = sorted({name for result in self.results for name in result.figures})
            lines.append(f"no point has {self.metric.name}; there is {', '.join(known)}")
        if any(key.startswith("tokenizer.") for key in self.names) and not self.metric.name.endswith("bits_per_byte"):
            lines.append("figures per token do not compare models of different tokenizers; bits per byte do")
        return lines + self._chance()

    def _chance(self) -> list[str]:
        """What the seeds say of the difference between the best setting and the next."""
        groups = [group for group in self.groups() if group.values]
        if len(groups) < 2:
            return []
        if not self.seeds:
            training = self.compared
            return [f"one seed each: -o {training}.seed=0,1,2 besides would say how much of a difference is chance"]
        best, second = groups[:2]
        if best.spread is None or second.spread is None or best.mean is None or second.mean is None:
            return []
        apart = abs(best.mean - second.mean)
        error = math.sqrt(best.spread**2 / len(best.values) + second.spread**2 / len(second.values))
        verdict = "that may be chance" if apart < 2 * error else "more than twice that error"
        return [
            f"the means of the best two settings, {self._words(best)} and {self._words(second)}, are "
            f"{apart:.2g} apart, with a standard error of {error:.2g} over seeds: {verdict}"
        ]

    def _words(self, group: Group) -> str:
        """`lr=3e-4`."""
        return " ".join(f"{self.names[key]}={text}" for key, text in group.texts.items())

    def _choice(self, result: Result) -> dict[str, Any]:
        return {key: value for key, value in result.settings.items() if key not in self.seeds}

    def _group(self, results: Iterable[Result]) -> Group:
        all_of_it = tuple(results)
        values = tuple(value for result in all_of_it if (value := self.value(result)) is not None)
        chosen = self._choice(all_of_it[0])
        return Group(chosen, {key: all_of_it[0].texts[key] for key in chosen}, all_of_it, values)

    def _rank_of_group(self, group: Group) -> tuple[bool, bool, float]:
        mean = group.mean
        return mean is None, not group.whole, 0.0 if mean is None else self.metric.rank(mean)

    def _rank(self, result: Result) -> tuple[bool, float]:
        value = self.value(result)
        return value is None, 0.0 if value is None else self.metric.rank(value)


def read_comparison(directory: Path) -> Comparison:
    """What stands in a sweep's directory. Raises MissingError or ArtifactError."""
    return Comparison.read_json(directory / SWEEP_FILE, remedy="sweep again")
