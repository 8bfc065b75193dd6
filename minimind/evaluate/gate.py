"""The gate: when a model may become the champion of its name. Rules on figures, and on differences item by item.

    absolute_rules   what the model's own evaluation says of it
    drift            against the model it was trained from
    against          against the champion, on the texts that both were measured on

A difference counts as far as it is sure: the end of its 95 % interval that is better for the model decides. Such an
interval is over texts, not over seeds of the training; `max_bits_per_byte_loss` leaves room for those.
Not here: who the champion is, and what follows from a verdict (`tasks.gate`).
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from minimind.artifact import Artifact
from minimind.config import Config, nearest
from minimind.errors import ArtifactError, ConfigError, MissingError
from minimind.evaluate.config import GateConfig
from minimind.evaluate.evaluated import BITS, TEXT, Evaluated, evaluated, texts_anew
from minimind.evaluate.intervals import Resampling
from minimind.evaluate.results import Evaluation, Figure, Interval, ModelResult, flat_name, model_figures
from minimind.evaluate.table import Items, paired
from minimind.proven import Proven

SHARED = 0.9
"""Of the model's held-out texts that the champion must have been measured on too for its own figures to do."""
DRIFTING = ("dpo", "lora")
"""Trainings that are to leave what the model knows of the language as it is."""

State = Literal["passed", "refused", "forced"]


class Ruling(Config):
    """What one rule says of a model."""

    rule: str
    """The setting's name in `[gate]`."""
    passed: bool | None
    """None where there was nothing to judge."""
    detail: str


class Champion(Config):
    """The model that a verdict compared with."""

    uri: str
    fingerprint: str


class Forced(Config):
    """Who made a model the champion that the gate had refused."""

    by: str
    reason: str
    at: str


class Verdict(Proven):
    """What the gate says of a model."""

    model: str
    """What its evaluation calls it: dpo."""
    label: str
    """Of the artifact that was judged: publish, sft."""
    fingerprint: str
    champion: Champion | None
    """Of the same name in the registry, when it was judged."""
    gate: GateConfig
    rulings: list[Ruling]
    judged_at: str
    forced: Forced | None = None

    @property
    def passed(self) -> bool:
        return not any(ruling.passed is False for ruling in self.rulings)

    @property
    def state(self) -> State:
        return "passed" if self.passed else "forced" if self.forced else "refused"

    @property
    def reason(self) -> str:
        """What refuses it, in one line; empty where it passes."""
        return "; ".join(f"{one.rule}: {one.detail}" for one in self.rulings if one.passed is False)


def own_rules(gate: GateConfig, model: Evaluated) -> list[Ruling]:
    """All that can be said of a model without a champion."""
    if not gate.enabled:
        return [Ruling(rule="enabled", passed=None, detail="[gate] enabled is false: no rule was looked at")]
    return [*absolute_rules(gate, model.evaluation, model.name), *_drift_of(gate, model)]


def absolute_rules(gate: GateConfig, evaluation: Evaluation, model: str) -> list[Ruling]:
    """The rules that the figures of one model decide."""
    result = evaluation.models[model]
    rulings = []
    if gate.preference_above_chance and model == "dpo":
        rulings.append(_prefers(evaluation, result))
    if gate.max_repetition is not None:
        rulings.append(_repeats(gate.max_repetition, result))
    if gate.max_same_answers is not None:
        rulings.append(_differs(gate.max_same_answers, result))
    if gate.max_leaked is not None:
        rulings.append(_leaked(gate.max_leaked, result))
    figures = model_figures(result)
    rulings += _bounds("at_least", gate.at_least, figures)
    rulings += _bounds("at_most", gate.at_most, figures)
    return rulings


def drift(gate: GateConfig, model: Items, start: Items, *, name: str) -> Ruling:
    """What a model lost on plain text against the one called `name`, from which it was trained."""
    limit, pair = gate.max_drift, paired(model, start)
    assert limit is not None
    if pair is None:
        return Ruling(rule="max_drift", passed=None, detail=f"no text was read by both the model and {name}")
    after, before = pair
    lost = Resampling().difference(after, before)
    share, low, high = (value / before.mean for value in (lost.value, lost.interval.low, lost.interval.high))
    return Ruling(
        rule="max_drift",
        passed=low <= limit,
        detail=f"{share:+z.1%} bits per byte against {name}, from which it was trained (95 %: {low:+z.1%} to "
        f"{high:+z.1%} over {lost.n} texts); max_drift allows {limit:+.1%}",
    )


def against(gate: GateConfig, model: Items, champion: Items) -> Ruling:
    """Bits per byte of the model and of the champion on the texts that both were measured on."""
    limit, pair = gate.max_bits_per_byte_loss, paired(model, champion)
    assert limit is not None
    if pair is None or len(pair[0].values) < SHARED * len(model):
        shared = len(pair[0].values) if pair else 0
        raise MissingError(f"only {shared} of {len(model)} texts were read by both")
    after, before = pair
    lost = Resampling().difference(after, before)
    return Ruling(
        rule="max_bits_per_byte_loss",
        passed=lost.interval.low <= limit,
        detail=f"{after.mean:.4f} bits per byte of held-out text, the champion {before.mean:.4f}: {lost.value:+.4f} "
        f"(95 %: {lost.interval.low:+.4f} to {lost.interval.high:+.4f} over {lost.n} texts); "
        f"max_bits_per_byte_loss allows {limit:+g}",
    )


def against_champion(gate: GateConfig, model: Evaluated, champion: Artifact) -> Ruling:
    """The same, of a champion whose files are there: by its own evaluation, else measured anew.

    Where neither can be done the model is refused: nobody knows whether it is worse.
    """
    rule, limit = "max_bits_per_byte_loss", gate.max_bits_per_byte_loss
    texts = model.items(TEXT, BITS)
    if limit is None or not texts:
        words = "is not set" if limit is None else "no held-out text was measured"
        return Ruling(rule=rule, passed=None, detail=words)
    known = _known(champion)
    if known and known.result.fingerprint == model.result.fingerprint:
        return Ruling(rule=rule, passed=True, detail="it is the very model that is the champion now")
    try:
        if known and _alike(known, model) and (ruling := _stored(gate, texts, known)):
            return ruling
        return against(gate, texts, texts_anew(champion, model, context=_context(known, model)))
    except (MissingError, ArtifactError) as error:
        return not_compared(str(error))


def not_compared(why: str) -> Ruling:
    """A model that could not be compared with its champion is refused."""
    return Ruling(
        rule="max_bits_per_byte_loss",
        passed=False,
        detail=f"it could not be compared with the champion ({why}); `minimind promote MODEL --force` makes it the "
        "champion all the same",
    )


def _drift_of(gate: GateConfig, model: Evaluated) -> Iterator[Ruling]:
    if gate.max_drift is None or model.name not in DRIFTING:
        return
    if model.start is None or not (own := model.items(TEXT, BITS)):
        words = "the model it was trained from was not measured with it, or no held-out text was"
        yield Ruling(rule="max_drift", passed=None, detail=words)
        return
    yield drift(gate, own, model.items(TEXT, BITS, name=model.start), name=model.start)


def _prefers(evaluation: Evaluation, result: ModelResult) -> Ruling:
    rule, found, gained = "preference_above_chance", result.preference, result.reward
    if found is None:
        return Ruling(rule=rule, passed=None, detail="no held-out preference pairs were measured")
    chance = evaluation.tasks["preference"].chance.get("accuracy_per_token", 0.5)
    words = f"it prefers the better answer in {_sure(found.value, found.interval)} of {found.n} pairs"
    if gained:
        words += f" and moved towards it in {_sure(gained.accuracy, gained.interval)}"
    passed = found.interval.low > chance or (gained is not None and gained.interval.low > chance)
    return Ruling(rule=rule, passed=passed, detail=f"{words}; chance is {chance:.0%}")


def _repeats(limit: float, result: ModelResult) -> Ruling:
    words = "of the 4-grams in {n} answers had been said before"
    return _bounded("max_repetition", limit, result.said.get("repetition"), words, "no prompts were answered")


def _differs(limit: float, result: ModelResult) -> Ruling:
    words = "of {n} open questions got the very same answer as another one"
    return _bounded("max_same_answers", limit, result.same_answers, words, "no open questions were asked")


def _bounded(rule: str, limit: float, found: Figure | None, words: str, missing: str) -> Ruling:
    """A share that may not pass its limit, as far as its interval is sure."""
    if found is None:
        return Ruling(rule=rule, passed=None, detail=missing)
    detail = f"{_sure(found.value, found.interval)} {words.format(n=found.n)}; {rule} allows {limit:.1%}"
    return Ruling(rule=rule, passed=found.interval.low <= limit, detail=detail)


def _sure(share: float, interval: Interval) -> str:
    return f"{share:.1%} (95 %: at least {interval.low:.1%})"


def _leaked(limit: float, result: ModelResult) -> Ruling:
    figures = model_figures(result)
    shares = {name: figures[flat_name(name, "leaked")] for name, one in result.tasks.items() if one.leaked is not None}
    if not shares:
        return Ruling(rule="max_leaked", passed=None, detail="nobody looked for the items in what it was trained on")
    worst = max(shares, key=shares.__getitem__)
    words = f"its trainings had {shares[worst]:.1%} of the items of {worst}, the most of any task"
    return Ruling(rule="max_leaked", passed=shares[worst] <= limit, detail=f"{words}; max_leaked allows {limit:.1%}")


def _bounds(
    rule: Literal["at_least", "at_most"], bounds: Mapping[str, float], figures: Mapping[str, float]
) -> list[Ruling]:
    rulings = []
    for name, bound in bounds.items():
        if name not in figures:
            detail = f"there is no figure `{name}`{nearest(name, list(figures))}; correct [gate] {rule}"
            rulings.append(Ruling(rule=f"{rule}.{name}", passed=False, detail=detail))
            continue
        value = figures[name]
        passed = value >= bound if rule == "at_least" else value <= bound
        words = f"{name} is {value:.4g}; {rule.replace('_', ' ')} {bound:g} is asked for"
        rulings.append(Ruling(rule=f"{rule}.{name}", passed=passed, detail=words))
    return rulings


def _known(champion: Artifact) -> Evaluated | None:
    """The champion's own evaluation, where it has one that can still be read."""
    try:
        known = evaluated(champion)
        return known if known.name in known.evaluation.models and known.config else None
    except (MissingError, ArtifactError, ConfigError):  # none, or one of an older version: it is measured anew
        return None


def _alike(known: Evaluated, model: Evaluated) -> bool:
    """Whether both saw as much at a time as they are made for, or the same."""
    return known.result.context == model.result.context or not (known.config.context or model.config.context)


def _context(known: Evaluated | None, model: Evaluated) -> int:
    """Tokens the champion is to see at a time: as many as it is made for, unless the evaluation says how many."""
    if known and not known.config.context and not model.config.context:
        return known.result.context
    return model.result.context


def _stored(gate: GateConfig, texts: Items, known: Evaluated) -> Ruling | None:
    """By the champion's own evaluation; None where that was made on other texts."""
    try:
        return against(gate, texts, known.items(TEXT, BITS))
    except (MissingError, ArtifactError):
        return None
