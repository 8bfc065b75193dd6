"""What an evaluation gives reason to warn of, in plain words. The thresholds are named here and nowhere else."""

from collections.abc import Iterator

from minimind.evaluate.results import Evaluation, ModelResult

CHANCE = 0.5
DRIFT = 0.02
"""Bits per byte a preference stage may lose against the model it started from: more is forgetting."""
REPETITION = 0.3
"""Share of repeated 4-grams above which answers read as loops; people's prose stays below 0.05."""
FEW_PAIRS = 100
"""Fewer pairs than this leave an interval of ± 10 points and more."""


def findings(evaluation: Evaluation) -> list[str]:
    """Warnings about the models, in the report's order."""
    found = [warning for name, result in evaluation.models.items() for warning in _of_model(name, result, evaluation)]
    pairs = {result.preference.pairs for result in evaluation.models.values() if result.preference}
    if pairs and max(pairs) < FEW_PAIRS:
        found.append(f"Preference accuracy rests on {max(pairs)} pairs only; its intervals are wide.")
    return found


def _of_model(name: str, result: ModelResult, evaluation: Evaluation) -> Iterator[str]:
    bits, baselines, before = result.score.bits_per_byte, evaluation.baselines, evaluation.models.get("sft")
    if bits > baselines.ngram:
        yield (
            f"{name} predicts the validation text worse ({bits:.3f} bits per byte) than a byte "
            f"{baselines.ngram_order}-gram ({baselines.ngram:.3f}): train it longer or on more text."
        )
    if before is not None and name in ("dpo", "lora"):
        drift = bits / before.score.bits_per_byte - 1
        if drift > DRIFT:
            yield (
                f"{name} lost {drift:.1%} in bits per byte against sft: it forgets the language; lower {name}.lr "
                "or raise the weight of staying close to sft."
            )
    preference = result.preference
    if preference is not None and name == "dpo" and CHANCE in preference.interval:
        yield (
            f"{name}'s preference accuracy is {preference.accuracy:.1%} with a 95 % interval from "
            f"{preference.interval.low:.1%} to {preference.interval.high:.1%}: it may be chance."
        )
    if result.reward is not None and name == "dpo" and result.reward.interval.low <= CHANCE:
        yield (
            f"{name}'s implicit reward prefers the chosen answer in {result.reward.accuracy:.1%} of pairs: no "
            "evidence yet that preference training changed the model in the right direction."
        )
    if result.answers and result.repetition > REPETITION:
        yield f"{name} repeats itself: {result.repetition:.0%} of the 4-grams of its answers had been said before."
    if result.answers and name != "pretrain" and result.ended_by_stop < 0.5:
        yield f"{name} rarely ends an answer by itself ({result.ended_by_stop:.0%}); the others were cut off."
