"""What batch inference counts: figures of a piece, their sum, and the words for people.

The time is that in which any piece was at work, from its first start to its last end: pieces are made side by side,
and a run that was killed rests in between. Not here: what is counted (`batch_jobs`).
"""

from collections import Counter
from collections.abc import Iterator, Sequence

from minimind.artifact import Summary
from minimind.config import Config
from minimind.data.dropped import DROPPED_FILE

FIGURES_FILE = "figures.json"


class PieceFigures(Config):
    """What a job did; adds up over the pieces."""

    rows: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reasons: dict[str, int] = {}
    dropped: dict[str, int] = {}
    """Reason → rows."""
    first_dropped: str = ""
    samples: list[str] = []
    busy: list[tuple[float, float]] = []
    """When it was at work, seconds since 1970."""


def add(pieces: Iterator[PieceFigures]) -> PieceFigures:
    """The figures of all pieces together."""
    finished, dropped, busy, samples = Counter[str](), Counter[str](), list[tuple[float, float]](), list[str]()
    rows = prompt_tokens = completion_tokens = 0
    first_dropped = ""
    for piece in pieces:
        rows += piece.rows
        prompt_tokens += piece.prompt_tokens
        completion_tokens += piece.completion_tokens
        finished.update(piece.finish_reasons)
        dropped.update(piece.dropped)
        busy = _merged([*busy, *piece.busy])
        samples = [*samples, *piece.samples][:2]
        first_dropped = first_dropped or piece.first_dropped
    return PieceFigures(
        rows=rows,
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        finish_reasons=dict(sorted(finished.items())),
        dropped=dict(sorted(dropped.items())),
        first_dropped=first_dropped,
        samples=samples,
        busy=busy,
    )


def _merged(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The time that is in any of `spans`: pieces are made side by side, and a run that was killed rests in between."""
    merged: list[tuple[float, float]] = []
    for begin, end in sorted(spans):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((begin, end))
    return merged


def summary(figures: PieceFigures) -> Summary:
    """What the stage says of itself."""
    answered, dropped = sum(figures.finish_reasons.values()), sum(figures.dropped.values())
    seconds = sum(end - begin for begin, end in figures.busy)
    cut_off = figures.finish_reasons.get("length", 0)
    warnings = [f"{complaint(figures)}: {DROPPED_FILE}"] if dropped else []
    if cut_off:
        warnings.append(f"{cut_off} of {answered} answers were cut off by max_tokens or the end of the context")
    return Summary(
        figures={
            "rows": figures.rows,
            "answered": answered,
            "dropped": dropped,
            "prompt_tokens": figures.prompt_tokens,
            "completion_tokens": figures.completion_tokens,
            "tokens_per_second": round(figures.completion_tokens / max(seconds, 1e-9), 1),
            **{f"finished_by_{reason}": count for reason, count in figures.finish_reasons.items()},
        },
        samples=figures.samples,
        warnings=warnings,
    )


def complaint(figures: PieceFigures) -> str:
    """How many rows cannot be asked, the most frequent reason and the first place."""
    if not figures.dropped:
        return "it has blank lines only"
    reason, count = Counter(figures.dropped).most_common(1)[0]
    dropped = sum(figures.dropped.values())
    return (
        f"{dropped} of {figures.rows} rows cannot be asked; most often {reason} ({count}), "
        f"the first is {figures.first_dropped}"
    )
