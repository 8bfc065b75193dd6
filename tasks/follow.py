"""Follows a stage's event file while the stage runs and fans it out.

Its sinks (MLflow, Prefect, the terminal) may fail, lag or hang: each has a thread and a position in the file of its
own, a failing one is tried again with longer and longer pauses, and what it still misses at the end is delivered when
the stage is recorded, from the file.
"""

import contextvars
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from minimind.events import EVENTS_FILE, Event, EventReader
from tasks.patience import ANSWER_SECONDS
from tasks.redaction import without_secrets

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
END_SECONDS = ANSWER_SECONDS + 2.0
"""For a call that is under way when the stage ends: it keeps to the bound, so it is over by then."""

Sink = Callable[[list[Event]], None]


class Follower:
    """Context manager: while it is open, every sink gets the new events of `directory` in order."""

    def __init__(self, directory: Path, sinks: dict[str, Sink], *, skip_to_step: int = -1) -> None:
        """`skip_to_step`: training steps up to it were delivered before (a resumed stage)."""
        path = directory / EVENTS_FILE
        self._stop = threading.Event()
        self._threads = [self._thread_of(_Position(path, name, sink, skip_to_step)) for name, sink in sinks.items()]

    def __enter__(self) -> "Follower":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        until = time.monotonic() + END_SECONDS
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))

    def _thread_of(self, position: "_Position") -> threading.Thread:
        def run() -> None:
            while not self._stop.wait(POLL_SECONDS):
                position.deliver()
            position.deliver()

        # Prefect keeps its settings and run context in context variables, which a thread does not inherit.
        return threading.Thread(target=contextvars.copy_context().run, args=(run,), name="follow-events", daemon=True)


class _Position:
    """How far one sink has come."""

    def __init__(self, path: Path, name: str, sink: Sink, skip_to_step: int) -> None:
        self._reader, self._name, self._sink = EventReader(path), name, sink
        self._skip_to_step = self._last_step = skip_to_step
        self._pause, self._not_before = FIRST_PAUSE_SECONDS, 0.0

    def deliver(self) -> None:
        if time.monotonic() < self._not_before:
            return
        try:
            events = self._reader.pending()
            if self._reader.was_cut:  # by a resume, to its checkpoint
                self._skip_to_step = self._last_step
            fresh = [event for event in events if event.kind != "step" or event.step > self._skip_to_step]
            if fresh:
                self._sink(fresh)
        except Exception as error:  # a view that is down must not stop the stage; the file keeps everything
            said = without_secrets(str(error))
            logger.warning("%s is behind (%s); trying again in %.0f s", self._name, said, self._pause)
            self._not_before = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            return
        self._reader.take()
        self._pause = FIRST_PAUSE_SECONDS
        self._last_step = max([self._last_step, *(e.step for e in fresh if e.kind == "step")])
