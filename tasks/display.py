"""Progress for the person at the terminal: a bar per running stage, a line per finished one.

On a terminal it is drawn by rich; into a file or pipe the same facts come as plain lines, a
running stage at most every ten seconds. Nothing else prints while a pipeline runs.
"""

import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from minimind.events import Event

PLAIN_SECONDS = 10.0
SHOWN_WARNINGS = 3
SHOWN = ("loss", "accuracy", "validation_bits_per_byte", "tokens_per_second")
SHORT = {"validation_bits_per_byte": "bits/byte", "tokens_per_second": "tok/s"}


@dataclass
class Display:
    """Stages as they come and go. `quiet` prints nothing at all (served flows have Prefect's page)."""

    console: Console = field(default_factory=Console)
    quiet: bool = False
    _progress: Progress | None = None
    _bars: dict[str, TaskID] = field(default_factory=dict)
    _latest: dict[str, dict[str, float]] = field(default_factory=dict)
    _printed: float = 0.0

    def __enter__(self) -> "Display":
        if not self.quiet and self.console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                TextColumn("[bold]{task.description:<18}"),
                BarColumn(bar_width=24),
                TextColumn("{task.fields[amount]:>18}"),
                TextColumn("[cyan]{task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress:
            self._progress.stop()

    def heading(self, words: str) -> None:
        """What the stages that follow belong to."""
        self._say(f"\n[bold]{words}[/bold]")

    def started(self, label: str) -> None:
        """A stage begins; what it will do is not known yet."""
        self._latest[label] = {}
        if self._progress:
            self._bars[label] = self._progress.add_task(label, total=None, amount="", figures="")
        else:
            self._say(f"{label}: started")

    def events(self, label: str, events: list[Event]) -> None:
        """Show the newest of a stage's events."""
        for event in events:
            self._latest[label].update({k: v for k, v in event.metrics.items() if v is not None})
            if event.kind == "log" and event.level != "info":
                self._say(f"{label}: {event.level}: {event.message}")
        moving = [event for event in events if event.kind != "log"]
        if moving:
            self._move(label, moving[-1])

    def finished(self, label: str, words: str) -> None:
        """A stage is done: `words` says with what."""
        self._drop_bar(label)
        self._say(f"[green]✓[/green] {label:<20} {words}")

    def failed(self, label: str, words: str) -> None:
        """A stage ended without an artifact."""
        self._drop_bar(label)
        self._say(f"[red]✗[/red] {label:<20} {words}")

    def warn(self, words: str) -> None:
        """Something the user should know that stops nothing."""
        self._say(f"[yellow]![/yellow] {words}")

    def warnings(self, label: str, lines: list[str]) -> None:
        """The warnings of a stage, the first few of many."""
        for line in lines[:SHOWN_WARNINGS]:
            self.warn(f"{label}: {line}")
        if len(lines) > SHOWN_WARNINGS:
            self.warn(f"{label}: … and {len(lines) - SHOWN_WARNINGS} more warnings in its summary.json")

    def _move(self, label: str, event: Event) -> None:
        unit = "steps" if event.kind == "step" else event.message
        figures = "  ".join(
            f"{SHORT.get(name, name)} {_short(self._latest[label][name])}"
            for name in SHOWN
            if name in self._latest[label]
        )
        amount = f"{event.step:,}/{event.total:,} {unit}"
        if self._progress:
            self._progress.update(
                self._bars[label], completed=event.step, total=event.total, amount=amount, figures=figures
            )
        elif time.monotonic() - self._printed > PLAIN_SECONDS:
            self._printed = time.monotonic()
            self._say(f"{label}: {amount}  {figures}")

    def _drop_bar(self, label: str) -> None:
        if self._progress and label in self._bars:
            self._progress.remove_task(self._bars.pop(label))

    def _say(self, text: str) -> None:
        if not self.quiet:
            self.console.print(text, highlight=False)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3f}"
