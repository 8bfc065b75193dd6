"""The aliases of what a sweep makes: at the best point's versions, not at whichever was registered last.

Every recorded training takes `@candidate` of its name, and every published one `@champion`. Both are put right after
each point, so that also a sweep that is killed leaves them at the best so far, or at a point that had just ended.
"""

from collections.abc import Collection, Mapping

from minimind.sweep.comparison import Moved
from tasks.plan import Step
from tasks.recording import telling_mlflow
from tasks.registry import CANDIDATE, CHAMPION, registered_as
from tasks.stage import Pipeline

Versions = dict[str, str]
"""`models:/<name>@<alias>` → the URI of a version."""


class Aliases:
    """Those of the names that points differ in."""

    def __init__(self, run: Pipeline, labels: Collection[str]) -> None:
        self._run = run
        self._names = {label: name for label in sorted(labels) if (name := registered_as(label))}
        self._taken: dict[int, Versions] = {}
        self._before = self._standing()

    def note(self, number: int, steps: Mapping[str, Step]) -> None:
        """A point ran: what it made is entitled to `@candidate`, and to `@champion` where it took that itself."""
        own = {name: uri for label, name in self._names.items() if (uri := label in steps and steps[label].uri)}
        standing = self._standing()
        champions = (name for name, uri in own.items() if standing.get(_full(name, CHAMPION)) == uri)
        self._taken[number] = {_full(name, CANDIDATE): uri for name, uri in own.items()}
        self._taken[number] |= {_full(name, CHAMPION): own[name] for name in champions}

    def settle(self, best: int | None) -> list[Moved]:
        """Point the aliases at what the best point is entitled to, or back to where they stood; says what is new."""
        taken = self._taken.get(best, {}) if best is not None else {}
        standing, wanted = self._standing(), {**self._before, **taken}
        with telling_mlflow(self._run, "which point is the best"):
            for full, uri in wanted.items():
                if self._run.tracker and uri != standing.get(full):
                    name, _, alias = full.removeprefix("models:/").partition("@")
                    self._run.tracker.set_alias(name, alias, uri)
        moved = (Moved(alias=full, before=self._before.get(full), now=uri) for full, uri in taken.items())
        return [one for one in moved if one.before != one.now or one.alias.endswith(f"@{CANDIDATE}")]

    def _standing(self) -> Versions:
        """Where they stand now, as far as they are there."""
        found: Versions = {}
        with telling_mlflow(self._run, "where the aliases stand"):
            for name in self._names.values() if self._run.tracker else ():
                for alias in (CANDIDATE, CHAMPION):
                    if uri := self._run.tracker.alias_of(name, alias):
                        found[_full(name, alias)] = uri
        return found


def _full(name: str, alias: str) -> str:
    return f"models:/{name}@{alias}"
