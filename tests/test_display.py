"""What a person at a terminal sees while a pipeline runs, and what a file gets instead."""

import io

import pytest
from rich.console import Console

from minimind.events import Event
from tasks.display import Display


def shown(*, terminal: bool) -> str:
    """What is drawn of a stage from its start to its end, with the figures of one step."""
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=terminal, width=160)) as display:
        display.started("pretrain")
        if display._progress:
            display._progress.refresh()  # a bar whose amount is not known yet
        metrics = {"loss": 2.5, "tokens_per_second": 7600.0}
        display.events("pretrain", [Event(time=0.0, kind="step", step=1200, total=3000, metrics=metrics)])
        if display._progress:
            display._progress.refresh()
        display.finished("pretrain", "loss 2.5")
    return text.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_a_stage_is_shown_from_its_start_to_its_end(terminal: bool):
    """A bar was once drawn with the number of steps before anybody knew it."""
    text = shown(terminal=terminal)
    for words in ("pretrain", "1,200/3,000 steps", "loss 2.500", "tok/s 7,600", "✓"):
        assert words in text
