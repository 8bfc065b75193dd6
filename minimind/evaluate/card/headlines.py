"""The few figures at the top of the card, each with what to compare it with, and whether the loss is normal."""

from collections.abc import Iterator

from minimind.data.wording import duration
from minimind.evaluate.card.card import Cost, Headline
from minimind.evaluate.card.wording import amount, in_short, interval_of, shown_figure
from minimind.evaluate.results import METRICS, Evaluation, Figure

MOST_TASKS = 5
"""Tasks among the headlines: with size, time and cost two rows of tiles."""


def headlines_of(evaluation: Evaluation, published: str, *, seconds: float, cost: Cost) -> list[Headline]:
    """Tiles: what the published model gets in the first tasks, how large it is, and what it took to make."""
    headlines = list(_of_tasks(evaluation, published))[:MOST_TASKS]
    if result := evaluation.models.get(published):
        note = f"published model: {published}"
        headlines.append(Headline(label="parameters", value=f"{result.parameters / 1e6:.1f} M", note=note))
    headlines.append(Headline(label="all stages", value=in_short(seconds), note=duration(seconds) + ", summed"))
    hours = [(cost.gpu_hours, "GPU-hours"), (cost.core_hours, "core-hours")]
    used = " + ".join(f"{amount(value)} {unit}" for value, unit in hours if value)
    if cost.money is not None:
        headlines.append(Headline(label="cost", value=f"{cost.money:,.2f}", note=used or "no time at all"))
    elif used:
        value, unit = next((value, unit) for value, unit in hours if value)
        headlines.append(Headline(label=unit, value=amount(value), note=used))
    return headlines


def verdict_on(evaluation: Evaluation) -> str:
    """Whether the loss of the first model is normal, by what counting and compressing make of the same text."""
    text, baselines = evaluation.tasks.get("text"), evaluation.baselines
    ngram = text.ngram.get("bits_per_byte") if text else None
    name = next(iter(evaluation.models), "")
    found = evaluation.models[name].bits_per_byte if name else None
    if ngram is None or baselines is None or found is None:
        return ""
    against = f"a byte {baselines.ngram_order}-gram that read the same training text ({ngram.value:.3f})"
    xz = ""
    if baselines.xz_after_train is not None:
        xz = f"; xz, which has read it too, needs {baselines.xz_after_train:.3f}"
    needs = f"{name} needs {found.value:.3f} bits per byte of held-out text"
    if found.value < ngram.interval.low:
        return f"Is the loss normal? Yes: {needs}, {1 - found.value / ngram.value:.0%} less than {against}{xz}."
    if found.value > ngram.interval.high:
        more = f"{needs}, {found.value / ngram.value - 1:.0%} more than {against}{xz}"
        return f"Is the loss normal? No: {more}. It has not learnt yet what counting letters gives."
    return f"Is the loss normal? Hardly: {needs}, about as much as {against}{xz}."


def _of_tasks(evaluation: Evaluation, published: str) -> Iterator[Headline]:
    result = evaluation.models.get(published)
    for name, task in evaluation.tasks.items():
        found = result.tasks.get(name) if result else None
        if found is None:
            continue
        leading = found.leading
        label = METRICS[leading].title if name == "text" else f"{name}: {METRICS[leading].title}"
        notes = [f"95 %: {interval_of(leading, found.figures[leading].interval)}"]
        notes += _compared(leading, task.ngram.get(leading), task.chance.get(leading))
        before = evaluation.models.get("sft")
        if before and published != "sft" and task.kind == "preference" and (was := before.figure(name, leading)):
            notes.append(f"sft {shown_figure(leading, was.value)}")
        yield Headline(label=label, value=shown_figure(leading, found.figures[leading].value), note="; ".join(notes))


def _compared(metric: str, ngram: Figure | None, chance: float | None) -> list[str]:
    if ngram:
        return [f"n-gram {shown_figure(metric, ngram.value)}"]
    return [f"chance {shown_figure(metric, chance)}"] if chance else []
