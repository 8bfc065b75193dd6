"""What an evaluation gives reason to warn of, in plain words. The thresholds are named here and nowhere else."""

from collections.abc import Iterator

from minimind.evaluate.results import Evaluation, ModelResult

CHANCE = 0.5
DRIFT = 0.02
"""Bits per byte a stage after sft may lose against it: more is forgetting."""
FORGETTING = 0.1
"""Bits per byte of plain text that sft may lose against pretrain before it is worth a word."""
LEAK = 0.85
"""xz, given the training text, against the n-gram: 0.93 on a clean split, 0.74 with a quarter of it copied."""
REPETITION = 0.3
"""Share of repeated 4-grams above which answers read as loops; people's prose stays below 0.05."""
FEW_STOPS = 0.5
FEW_PAIRS = 100
"""Fewer pairs than this leave an interval of ± 10 points and more."""


def findings(evaluation: Evaluation) -> list[str]:
    """Warnings about the models, the worst first; what is true of several is said once."""
    return [*_of_text(evaluation), *_of_preferences(evaluation), *_of_answers(evaluation)]


def _of_text(evaluation: Evaluation) -> Iterator[str]:
    baselines, models = evaluation.baselines, evaluation.models
    bits = {name: result.score.bits_per_byte for name, result in models.items()}
    # A chat model is judged by what it forgot, below; only what learnt to continue text competes with counting.
    judged = ["pretrain"] if "pretrain" in bits else list(bits)
    worse = [f"{name} ({bits[name]:.3f})" for name in judged if bits[name] > baselines.ngram]
    if worse:
        yield (
            f"Worse than counting: a byte {baselines.ngram_order}-gram needs {baselines.ngram:.3f} bits per byte of "
            f"validation text, more is needed by {_listed(worse)}. Train longer, or on more text."
        )
    if baselines.xz_after_train < LEAK * baselines.ngram:
        yield (
            f"The validation text repeats long passages of the training text: xz, which only finds repeats, needs "
            f"{baselines.xz_after_train:.3f} bits per byte, less than the {baselines.ngram_order}-gram. Bits per byte "
            "flatter a model that learns by heart; split by larger groups or remove near duplicates."
        )
    if {"pretrain", "sft"} <= set(bits) and (drift := bits["sft"] / bits["pretrain"] - 1) > FORGETTING:
        yield (
            f"sft needs {drift:.0%} more bits per byte of plain text than pretrain: it learnt to answer and forgot "
            "some of the text. That is usual; where plain text matters too, lower sft.lr."
        )
    for name in ("dpo", "lora"):
        if name in bits and "sft" in bits and (drift := bits[name] / bits["sft"] - 1) > DRIFT:
            yield (
                f"{name} lost {drift:.1%} in bits per byte against sft, from which it was trained: it forgets "
                f"the language. Lower {name}.lr."
            )


def _of_preferences(evaluation: Evaluation) -> Iterator[str]:
    scored = {name: result.preference for name, result in evaluation.models.items() if result.preference}
    dpo = evaluation.models.get("dpo")
    if dpo and dpo.preference and CHANCE in dpo.preference.interval:
        found = dpo.preference
        yield (
            f"dpo prefers the better answer in {found.accuracy:.1%} of {found.pairs} pairs (95 % interval "
            f"{found.interval.low:.1%} to {found.interval.high:.1%}): that may be chance."
        )
    if dpo and dpo.reward and dpo.reward.interval.low <= CHANCE:
        yield (
            f"dpo moved towards the better answer in {dpo.reward.accuracy:.1%} of pairs against "
            f"{dpo.reward.reference}: no evidence yet that preference training went in the right direction."
        )
    pairs = max((score.pairs for score in scored.values()), default=FEW_PAIRS)
    if pairs < FEW_PAIRS:
        yield f"Preference accuracy rests on {pairs} pairs only: its intervals are wide."


def _of_answers(evaluation: Evaluation) -> Iterator[str]:
    answered: dict[str, ModelResult] = {name: result for name, result in evaluation.models.items() if result.answers}
    loops = [f"{name} ({result.repetition:.0%})" for name, result in answered.items() if result.repetition > REPETITION]
    if loops:
        yield f"Loops in the answers: many 4-grams of tokens had been said before by {_listed(loops)}."
    endless = [
        f"{name} ({result.ended_by_stop:.0%})"
        for name, result in answered.items()
        if name != "pretrain" and result.ended_by_stop < FEW_STOPS
    ]
    if endless:
        yield f"Few answers end by themselves, most are cut off: {_listed(endless)}."


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
