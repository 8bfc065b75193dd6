"""Follows a stage's event file while the stage runs and fans it out.

One thread per running stage. Its sinks (MLflow, Prefect, the terminal) may fail or lag: the
position in the file is kept per sink, a failing one is tried again with longer and longer pauses,
and what it still misses at the end is delivered when the stage is recorded, from the file.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from minimind.events import EVENTS_FILE, Event, read_events

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0

Sink = Callable[[list[Event]], None]


class Follower:
    """Context manager: while it is open, every sink gets the new events of `directory` in order."""

    def __init__(self, directory: Path, sinks: dict[str, Sink], *, skip_to_step: int = -1) -> None:
        """`skip_to_step`: training steps up to it were delivered before (a resumed stage)."""
        self._path = directory / EVENTS_FILE
        self._sinks = [_Position(name, sink, skip_to_step) for name, sink in sinks.items()]
        self._stop = threading.Event()
        # Prefect keeps its settings and run context in context variables, which a thread does not inherit.
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="follow-events", daemon=True)

    def __enter__(self) -> "Follower":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=15)

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._deliver()
        self._deliver()

    def _deliver(self) -> None:
        for position in self._sinks:
            position.deliver(self._path)


class _Position:
    """How far one sink has come."""

    def __init__(self, name: str, sink: Sink, skip_to_step: int) -> None:
        self._name, self._sink = name, sink
        self._skip_to_step = self._last_step = skip_to_step
        self._offset, self._pause, self._not_before = 0, FIRST_PAUSE_SECONDS, 0.0

    def deliver(self, path: Path) -> None:
        if time.monotonic() < self._not_before:
            return
        if path.exists() and path.stat().st_size < self._offset:  # a resume cut it back to its checkpoint
            self._skip_to_step = self._last_step
        events, offset = read_events(path, self._offset)
        fresh = [event for event in events if event.kind != "step" or event.step > self._skip_to_step]
        try:
            if fresh:
                self._sink(fresh)
        except Exception as error:  # a view that is down must not stop the stage; the file keeps everything
            logger.warning("%s is behind (%s); trying again in %.0f s", self._name, error, self._pause)
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            return
        self._offset, self._pause = offset, FIRST_PAUSE_SECONDS
        self._last_step = max([self._last_step, *(e.step for e in fresh if e.kind == "step")])
