"""Two report cards, or two models, side by side: every figure with its paired difference and what that shows.

Models are matched by name. A difference is taken over the items that both were measured on, drawn together (paired
bootstrap), so that what both find hard cancels out; figures on other items are shown and not compared. That a
difference is sure says nothing of another seed of the training.
Not here: what differs in settings, data and code (`minimind.lineage.compare`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from minimind.artifact import Artifact
from minimind.config import Config
from minimind.data.pages import template
from minimind.errors import ConfigError
from minimind.evaluate.evaluated import Evaluated, ModelFigures, evaluated
from minimind.evaluate.intervals import Resampling
from minimind.evaluate.results import METRICS, Answer, Figure, Metric, ModelResult, read_evaluation
from minimind.evaluate.table import Items, paired
from minimind.lineage import Comparison, compare

TEMPLATE = Path(__file__).parent / "templates" / "difference.html.j2"
FEWEST = 10
"""Items that both must have been measured on: a bootstrap over fewer says too little is sure."""
SHARED = 0.5
"""Of the items of either that the other must have: those few that weigh the same by chance are no fair choice."""
FIXED = "answers"
"""What the fixed prompts are called among the tasks."""
REWARD = "reward"
NEITHER = ("tokens",)
"""Metrics of which neither more nor less is better."""

Word = Literal["better", "worse", "cannot be told apart", "higher", "lower", "other items", "only one has it"]

_OWN = {REWARD: Metric(title="moved towards the better answer", is_share=True)}


class Row(Config):
    """One figure of two models."""

    task: str
    metric: str
    before: Figure | None
    after: Figure | None
    difference: Figure | None
    """What the second has more, with its 95 % interval, over the items that both were measured on."""
    word: Word

    @property
    def how(self) -> Metric:
        """How the metric is to be read."""
        return _metric(self.metric)


class BothAnswers(Config):
    """What two models said to the same prompt."""

    prompt: str
    before: Answer | None
    after: Answer | None


class Side(Config):
    """One of the two models of a pair."""

    name: str
    fingerprint: str
    """Empty where the model is in no store."""
    parameters: int
    context: int


class Pair(Config):
    """Two models."""

    before: Side
    after: Side
    rows: list[Row]
    said: list[BothAnswers]

    @property
    def title(self) -> str:
        return self.before.name if self.before.name == self.after.name else f"{self.before.name} → {self.after.name}"

    @property
    def same(self) -> bool:
        return self.before.fingerprint == self.after.fingerprint != ""


class Difference(Config):
    """Two report cards, evaluations or models."""

    before: str
    """Label, fingerprint and time."""
    after: str
    pairs: list[Pair]
    made: Comparison | None
    """What differs in how they were made; of a folder of figures nobody knows."""


def difference(before: Artifact | Path, after: Artifact | Path) -> Difference:
    """Every figure of both: cards, evaluations, models, or folders that `minimind eval --out` wrote.

    Raises MissingError where one was not measured, ConfigError where nothing matches.
    """
    old, new = _Measured.of(before), _Measured.of(after)
    pairs = [_pair(one, other) for one, other in _matched(old, new)]
    made = compare(before, after) if isinstance(before, Artifact) and isinstance(after, Artifact) else None
    return Difference(before=old.title, after=new.title, pairs=pairs, made=made)


def render_html(found: Difference) -> str:
    """The whole as one page that fetches nothing."""
    return template(TEMPLATE, value_of, change_of, trim=False).render(d=found)


def value_of(figure: Figure | None, metric: str) -> str:
    """A figure for people."""
    if figure is None:
        return "–"
    return f"{figure.value:.1%}".replace("%", " %") if _metric(metric).is_share else f"{figure.value:.4g}"


def change_of(figure: Figure | None, metric: str) -> str:
    """A difference with its interval; of shares in points of a hundred."""
    if figure is None:
        return ""
    scale, digits = (100, 1) if _metric(metric).is_share else (1, 4)
    value, low, high = (f"{scale * one:+.{digits}f}" for one in (figure.value, *_ends(figure)))
    return f"{value} ({low} to {high})"


def _ends(figure: Figure) -> tuple[float, float]:
    return figure.interval.low, figure.interval.high


@dataclass(frozen=True)
class _Measured:
    """One side of a comparison, whatever it was given as."""

    title: str
    where: Path
    models: Mapping[str, ModelFigures]
    """By name."""
    of_several: bool
    """Whether it tells of several models, rather than of one that it is itself."""
    handed_out: str | None = None
    """The model that a card published."""

    @classmethod
    def of(cls, side: Artifact | Path) -> "_Measured":
        if isinstance(side, Path):
            models = {name: ModelFigures(side, name) for name in read_evaluation(side).models}
            return cls(str(side), side, models, of_several=len(models) > 1)
        title = f"{side.label} {side.fingerprint}, {side.manifest.created_at[:16].replace('T', ' ')} UTC"
        if side.kind == "evaluate":
            known = {name: Evaluated.of(side, name, side) for name in read_evaluation(side.dir).models}
            return cls(title, side.dir, known, of_several=True)
        found = evaluated(side)
        if side.kind != "publish":
            return cls(title, side.dir, {found.name: found}, of_several=False)
        known = {name: Evaluated.of(side, name, found.source) for name in found.evaluation.models}
        return cls(title, side.dir, known, of_several=True, handed_out=found.name)

    def one_beside(self, other: "_Measured") -> ModelFigures:
        """The model that it stands for beside a single one."""
        names = [self.handed_out] if self.handed_out else list(self.models)
        if len(names) > 1:
            names = [name for name in names if name in other.models]
        if len(names) != 1:
            raise ConfigError(
                f"{self.where}: has {', '.join(self.models)}; give one of these models, or two evaluations"
            )
        return self.models[names[0]]


def _matched(before: _Measured, after: _Measured) -> Iterator[tuple[ModelFigures, ModelFigures]]:
    """The models that are compared: of two that tell of several those of one name, else the one each stands for."""
    if not (before.of_several and after.of_several):
        yield before.one_beside(after), after.one_beside(before)
        return
    ours, theirs = before.models, after.models
    if before.handed_out and after.handed_out and before.handed_out != after.handed_out:
        yield ours[before.handed_out], theirs[after.handed_out]
    elif not ours.keys() & theirs.keys():
        raise ConfigError(f"{', '.join(ours)} and {', '.join(theirs)}: no model of one name; give two models")
    yield from ((ours[name], theirs[name]) for name in ours if name in theirs)


def _pair(before: ModelFigures, after: ModelFigures) -> Pair:
    return Pair(before=_side(before), after=_side(after), rows=list(_rows(before, after)), said=_said(before, after))


def _side(model: ModelFigures) -> Side:
    found = model.result
    return Side(name=model.name, fingerprint=found.fingerprint, parameters=found.parameters, context=found.context)


def _rows(before: ModelFigures, after: ModelFigures) -> Iterator[Row]:
    old, new = before.result, after.result
    for task in dict.fromkeys([*old.tasks, *new.tasks]):
        figures = [one.tasks[task].figures if task in one.tasks else {} for one in (old, new)]
        for metric in dict.fromkeys([*figures[0], *figures[1]]):
            items = (before.items(task, metric), after.items(task, metric))
            yield _row(task, metric, figures[0].get(metric), figures[1].get(metric), items)
    if old.reward or new.reward:
        yield _row("preference", REWARD, *map(_reward, (old, new)), (_gained(before), _gained(after)))
    for metric in ("repetition", "ended", "tokens") if old.answers or new.answers else ():
        items = (_of_answers(old, metric), _of_answers(new, metric))
        yield _row(FIXED, metric, *map(_figure, items), items)


def _row(task: str, metric: str, before: Figure | None, after: Figure | None, items: tuple[Items, Items]) -> Row:
    change = _change(*items)
    word: Word = "only one has it" if before is None or after is None else _word(change, metric)
    return Row(task=task, metric=metric, before=before, after=after, difference=change, word=word)


def _change(before: Items, after: Items) -> Figure | None:
    pair = paired(after, before)
    enough = max(FEWEST, SHARED * min(len(before), len(after)))
    return Resampling().difference(*pair) if pair and len(pair[0].values) >= enough else None


def _word(change: Figure | None, metric: str) -> Word:
    if change is None:
        return "other items"
    low, high = _ends(change)
    if not (low > 0 or high < 0):
        return "cannot be told apart"
    if metric in NEITHER:
        return "higher" if low > 0 else "lower"
    return "better" if (low > 0) != _metric(metric).lower_is_better else "worse"


def _metric(name: str) -> Metric:
    return METRICS.get(name) or _OWN.get(name) or Metric(title=name)


def _reward(result: ModelResult) -> Figure | None:
    found = result.reward
    return found and Figure(value=found.accuracy, interval=found.interval, n=result.tasks["preference"].n)


def _gained(model: ModelFigures) -> Items:
    """Pair → whether the margin grew over the reference model's."""
    if model.result.reward is None:
        return {}
    metric = model.result.reward.metric
    own = model.items("preference", metric)
    reference = model.items("preference", metric, name=model.result.reward.reference)
    gains = {item: own[item][0] - reference[item][0] for item in own if item in reference}
    return {item: ((gain > 0) + 0.5 * (gain == 0), 1.0) for item, gain in gains.items()}


def _of_answers(result: ModelResult, metric: str) -> Items:
    """Fixed prompt → what a metric says of the answer."""
    values = {
        "repetition": lambda answer: answer.repetition,
        "ended": lambda answer: float(answer.ended_by_stop),
        "tokens": lambda answer: float(answer.tokens),
    }
    return {answer.prompt: (values[metric](answer), 1.0) for answer in result.answers}


def _figure(items: Items) -> Figure | None:
    pair = paired(items, items)
    return Resampling().figure(pair[0]) if pair else None


def _said(before: ModelFigures, after: ModelFigures) -> list[BothAnswers]:
    old, new = ({answer.prompt: answer for answer in one.result.answers} for one in (before, after))
    return [
        BothAnswers(prompt=prompt, before=old.get(prompt), after=new.get(prompt))
        for prompt in dict.fromkeys([*old, *new])
    ]
