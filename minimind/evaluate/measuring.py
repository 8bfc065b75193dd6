"""Models measured on material: figures with intervals, by group, on clean items, beside chance and an n-gram.

`measure` goes through the models one at a time; what one said of every single item stays, for differences between
models on the same items (`gate`, `minimind report diff`). Not here: where material and models come from (`stage`).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from minimind.evaluate.contamination import Overlap
from minimind.evaluate.intervals import Resampling, Values
from minimind.evaluate.material import Facts, Material, Measured, Ngrams, Subject
from minimind.evaluate.prompts.asked import Asked
from minimind.evaluate.prompts.outcomes import Outcome
from minimind.evaluate.results import SAID, Answer, Figure, Leak, Task, TaskResult

GROUPS = ("source", "language", "subject")
MAX_GROUPS = 60
"""Names of a group that are told apart, the largest first: MMLU has 57 subjects."""


@dataclass(frozen=True)
class Scores:
    """All that one model got: task → metric → values by item, and its checked answers."""

    tasks: Mapping[str, Measured]
    outcomes: Mapping[str, Sequence[Outcome]] = field(default_factory=dict)
    seconds: float = 0.0


def measure(
    subject: Subject, materials: Sequence[Material], *, advance: Callable[[str], None] = lambda name: None
) -> Scores:
    """One model on all material; `advance` is told each task when it is done."""
    started = time.monotonic()
    tasks, outcomes = dict[str, Measured](), dict[str, Sequence[Outcome]]()
    for material in materials:
        if isinstance(material, Asked):
            outcomes[material.name] = material.ask(subject)
            tasks[material.name] = material.values(outcomes[material.name])
        else:
            tasks[material.name] = material.measure(subject)
        advance(material.name)
    return Scores(tasks, outcomes, time.monotonic() - started)


def task_of(material: Material, ngrams: Ngrams, resampling: Resampling) -> Task:
    """What all models are compared with."""
    baseline = {metric: resampling.figure(values) for metric, values in material.baseline(ngrams).items()}
    return Task(
        kind=material.kind,
        items=len(material.facts),
        about=material.about,
        chance=material.chance(),
        ngram=baseline,
        skipped=dict(material.skipped),
    )


def result_of(
    material: Material, measured: Measured, resampling: Resampling, overlaps: Sequence[Overlap] | None
) -> TaskResult:
    """One model's figures in a task; `overlaps` say what its trainings saw of the items."""
    leading = next(iter(measured.values()))
    leaked = None if overlaps is None else np.array([overlap.leaked for overlap in overlaps], bool)
    is_mixed = leaked is not None and 0 < leaked.sum() < len(leaked)
    return TaskResult(
        figures=_figures(measured, resampling),
        groups={name: groups for name in GROUPS if (groups := _by_group(material.facts, leading, name, resampling))},
        clean=_figures({name: one.take(~leaked) for name, one in measured.items()}, resampling) if is_mixed else {},
        leaked=None if leaked is None else int(leaked.sum()),
    )


def said_of(answers: Sequence[Answer], outcomes: Iterable[Outcome], resampling: Resampling) -> dict[str, Figure]:
    """How much a model repeats itself, whether it comes to an end and how long it talks, over all its answers."""
    rows = [(one.repetition, one.tokens, one.ended_by_stop) for one in answers]
    rows += [(one.repetition, one.tokens, one.ended) for one in outcomes]
    if not rows:
        return {}
    columns = np.array(rows, np.float64).T
    return {name: resampling.figure(Values.of(one)) for name, one in zip(SAID, columns, strict=True)}


def leaks_of(material: Material, overlaps: Sequence[Overlap] | None) -> Iterator[Leak]:
    """The items of a task that were seen, the most of one first."""
    if overlaps is None:
        return
    found = [(facts.id, overlap) for facts, overlap in zip(material.facts, overlaps, strict=True) if overlap.leaked]
    for item, overlap in sorted(found, key=lambda pair: -pair[1].share):
        yield Leak(task=material.name, item=item, share=round(overlap.share, 3), where=overlap.where)


def _figures(measured: Measured, resampling: Resampling) -> dict[str, Figure]:
    return {metric: resampling.figure(values) for metric, values in measured.items()}


def _by_group(facts: Sequence[Facts], values: Values, name: str, resampling: Resampling) -> dict[str, Figure]:
    """The metric by the names of a group, where there is more than one; the largest first."""
    names = np.array([getattr(one, name) or "–" for one in facts])
    different, counts = np.unique(names, return_counts=True)
    if len(different) < 2:
        return {}
    largest = np.argsort(-counts, kind="stable")[:MAX_GROUPS]
    return {str(different[at]): resampling.figure(values.take(names == different[at])) for at in largest.tolist()}
