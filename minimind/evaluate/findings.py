"""What an evaluation gives reason to warn of, in plain words, with what to do. The thresholds are named here.

Not here: what curves and sources give reason to warn of (`card.trainings`, `card.data`), and what holds a model up
(`gate`).
"""

from collections.abc import Iterator, Mapping

from minimind.evaluate.config import HELD_OUT
from minimind.evaluate.results import METRICS, Evaluation, Figure, TaskResult

CHANCE = 0.5
DRIFT = 0.02
"""Share of its bits per byte a stage after sft may lose: more is drift, if it leaves the interval of sft as well."""
FORGETTING = 0.1
"""Share of pretrain's bits per byte of plain text that sft may lose before it is worth a word."""
REPEATS = 0.85
"""xz, given the training text, against the n-gram: 0.93 on a clean split, 0.74 with a quarter of it copied."""
REPETITION = 0.3
"""Share of repeated 4-grams above which answers read as loops; people's prose stays below 0.05."""
SAME_ANSWERS = 0.3
"""Share of open questions with the very same answer as another one above which a model says one thing to all."""
FEW_STOPS = 0.5
FEW_PAIRS = 100
"""Fewer pairs than this leave an interval of ± 10 points and more."""
FEW_ITEMS = 25
"""Fewer items than this leave an interval of ± 20 points and more."""
SEEN = 0.01
"""Share of a task's items that trainings may have seen: as much moves a share by a point at most."""


def findings(evaluation: Evaluation) -> list[str]:
    """Warnings about the models, the worst first; what is true of several is said once."""
    return [
        *_of_text(evaluation),
        *_of_leaks(evaluation),
        *_of_preferences(evaluation),
        *_of_answers(evaluation),
        *_of_sizes(evaluation),
    ]


def _of_text(evaluation: Evaluation) -> Iterator[str]:
    bits = {name: found for name, result in evaluation.models.items() if (found := result.bits_per_byte)}
    yield from _against_counting(evaluation, bits)
    if {"pretrain", "sft"} <= set(bits) and (drift := _drift(bits, "sft", "pretrain")) > FORGETTING:
        yield (
            f"Forgetting: sft needs {drift:.0%} more bits per byte of plain text than pretrain; it learnt to answer "
            "and forgot some of the text. Let it read text beside the chats, `sft.mix = { pretrain = 0.2 }`, or lower "
            "`sft.lr`."
        )
    for name in (name for name in _BESIDE if {name, "sft"} <= set(bits)):
        drift = _drift(bits, name, "sft")
        if drift > DRIFT and bits[name].value > bits["sft"].interval.high:
            yield (
                f"Drift: {name} lost {drift:.1%} in bits per byte against sft, from which it was trained; it forgets "
                f"the language. Let it read text {_BESIDE[name]}, or lower `{name}.lr`."
            )


_BESIDE = {"dpo": "`beside` its pairs", "lora": "in its `mix`"}
"""What keeps the language, by stage."""


def _against_counting(evaluation: Evaluation, bits: Mapping[str, Figure]) -> Iterator[str]:
    text, baselines = evaluation.tasks.get("text"), evaluation.baselines
    ngram = text.ngram.get("bits_per_byte") if text else None
    if ngram is None or baselines is None:
        return
    # A chat model is judged by what it forgot; only what learnt to continue text competes with counting.
    judged = ["pretrain"] if "pretrain" in bits else list(bits)
    behind = {name: bits[name].value for name in judged if bits[name].value > ngram.value}
    if behind:
        word = "Worse" if any(value > ngram.interval.high for value in behind.values()) else "No better"
        worse = [f"{name} ({value:.3f})" for name, value in behind.items()]
        yield (
            f"{word} than counting: a byte {baselines.ngram_order}-gram needs {ngram.value:.3f} bits per byte of "
            f"held-out text, more is needed by {_listed(worse)}. Train longer, or on more text."
        )
    if baselines.xz_after_train is not None and baselines.xz_after_train < REPEATS * ngram.value:
        yield (
            "Repeated text: the held-out text has long passages of the training text. xz, which only finds repeats, "
            f"needs {baselines.xz_after_train:.3f} bits per byte, less than the {baselines.ngram_order}-gram. Bits per "
            "byte flatter a model that learns by heart; split by larger groups or remove near duplicates."
        )


def _drift(bits: Mapping[str, Figure], after: str, before: str) -> float:
    return bits[after].value / bits[before].value - 1


def _of_leaks(evaluation: Evaluation) -> Iterator[str]:
    """Once a task: the models that saw its items, and what the last of them gets without those."""
    for task in evaluation.tasks:
        seen = {
            name: found
            for name, result in evaluation.models.items()
            if (found := result.tasks.get(task)) and found.leaked and found.leaked >= SEEN * found.n
        }
        if not seen:
            continue
        last, found = list(seen.items())[-1]
        counts = {one.leaked for one in seen.values()}
        how_many = f"{found.leaked}" if len(counts) == 1 else f"up to {max(count or 0 for count in counts)}"
        cure = (
            "Split by larger groups, or remove near duplicates."
            if task in HELD_OUT
            else "Name the file in `evaluation` of the data spec, and train again."
        )
        yield (
            f"Seen before: {how_many} of {found.n} items of {task} stand in what {_listed(list(seen))} "
            f"{'was' if len(seen) == 1 else 'were'} trained on{_without(last, found)}. {cure}"
        )


def _without(name: str, found: TaskResult) -> str:
    """What is left of a figure on items that were not seen."""
    clean = found.clean.get(found.leading)
    if clean is None:
        return ", so its figures say nothing of new ones"
    metric, value = METRICS[found.leading], found.figures[found.leading].value
    before, after = (f"{one:.1%}" if metric.is_share else f"{one:.3f}" for one in (value, clean.value))
    return f"; on the {clean.n} others {metric.title} of {name} is {after} instead of {before}"


def _of_preferences(evaluation: Evaluation) -> Iterator[str]:
    dpo = evaluation.models.get("dpo")
    if dpo and (found := dpo.preference) and found.interval.low <= CHANCE:
        yield (
            f"No better than chance: dpo prefers the better answer in {found.value:.1%} of {found.n} pairs (95 % "
            f"interval {found.interval.low:.1%} to {found.interval.high:.1%}). Give it more or clearer pairs, or "
            "train longer."
        )
    if dpo and dpo.reward and dpo.reward.interval.low <= CHANCE:
        yield (
            f"No evidence of learning: dpo moved towards the better answer in {dpo.reward.accuracy:.1%} of pairs "
            f"against {dpo.reward.reference}. Raise `dpo.lr`, or give it more pairs."
        )


def _of_answers(evaluation: Evaluation) -> Iterator[str]:
    said = {name: result.said for name, result in evaluation.models.items() if result.said}
    repeated = {name: figures["repetition"].value for name, figures in said.items()}
    loops = [f"{name} ({share:.0%})" for name, share in repeated.items() if share > REPETITION]
    if loops:
        yield (
            f"Loops in the answers: many 4-grams of tokens had been said before by {_listed(loops)}. Train longer; "
            "until then sample with a `temperature` or a `repetition_penalty`."
        )
    chats = {name: result for name, result in evaluation.models.items() if name != "pretrain"}
    same = {name: found.value for name, result in chats.items() if (found := result.same_answers)}
    if alike := [f"{name} ({share:.0%})" for name, share in same.items() if share > SAME_ANSWERS]:
        yield (
            "The same words for all: many open questions got the very same answer as another one from "
            f"{_listed(alike)}. A model that was trained too little does that, or one that preference training drove "
            "to what is always safe to say: lower `dpo.lr`, or read more chats `beside` the pairs."
        )
    ended = {name: said[name]["ended"].value for name in chats if name in said}
    endless = [f"{name} ({share:.0%})" for name, share in ended.items() if share < FEW_STOPS]
    if endless:
        yield (
            f"Endless answers: few end by themselves, most are cut off: {_listed(endless)}. Train `sft` longer, or on "
            "shorter answers, or raise `evaluate.answer_tokens`."
        )


def _of_sizes(evaluation: Evaluation) -> Iterator[str]:
    few = []
    for name, task in evaluation.tasks.items():
        counts = [found.n for result in evaluation.models.values() if (found := result.tasks.get(name))]
        if counts and min(counts) < (FEW_PAIRS if task.kind == "preference" else FEW_ITEMS):
            few.append(f"{name} ({min(counts)})")
    if few:
        yield f"Few items: the intervals are wide where a figure rests on so few: {_listed(few)}. Hold out more rows."


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
