"""A stage that is being built, as others see it: its MLflow run, its Prefect page, the terminal.

All of them are views. One that is down costs the stage nothing; `minimind sync` makes MLflow good.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from minimind.artifact import Artifact, Inputs, Store
from minimind.config import Config
from minimind.errors import MiniMindError
from minimind.events import Event
from minimind.proven import Proven
from minimind.stage import Stage
from minimind.tokens.microscope_page import first_steps_page
from minimind.tokens.trainings import TRAININGS
from minimind.train.history import training_to_come
from tasks.follow import Follower
from tasks.prefect_page import one_line, progress_sink, show_first_steps, tell_prefect
from tasks.registry import Registration
from tasks.tracking import Tracker

if TYPE_CHECKING:
    from tasks.stage import Pipeline


FIRST_STEPS_FILE = "first_steps.html"


class RunNote(Proven):
    """Beside a scratch directory: the MLflow run of the stage that is built in it."""

    run_id: str


class Recording:
    """The MLflow run and the event follower of one stage that is being built."""

    def __init__(
        self,
        pipeline: "Pipeline",
        label: str,
        stage: Stage[Any],
        context: dict[str, str],
        *,
        config: Config,
        inputs: Inputs,
    ) -> None:
        self._pipeline, self._label, self._stage, self._context = pipeline, label, stage, context
        self._config, self._inputs = config, inputs
        self._run_id: str | None = None
        self._follower: Follower | None = None

    @contextmanager
    def following(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._follower:
                self._follower.__exit__()

    def start(self, scratch: Path) -> None:
        """Open the run, or go on with the one an interrupted try of the same stage left, and follow."""
        pipeline, tracker = self._pipeline, self._pipeline.tracker
        note = scratch.with_suffix(".run")  # beside the scratch directory: no part of the artifact
        sinks: dict[str, Callable[[list[Event]], None]] = {"display": lambda e: pipeline.display.events(self._label, e)}
        delivered = -1
        if tracker:
            with self._tolerant("could not open a run"):
                tags = {"stage": self._stage.name, **self._context}
                before = RunNote.read_or_set_aside(note, instead="another run is begun in MLflow")
                known = before.run_id if before and self._stage.resumable else None
                self._run_id = known or tracker.begin(self._label, tags=tags, parent=pipeline.run_id)
                if known:
                    tracker.resume(known)
                    delivered = tracker.last_step(known)
                RunNote(run_id=self._run_id).write(note)
                self._context["mlflow_run_id"] = self._run_id
        if tracker and self._run_id and self._stage.name in TRAININGS:
            self._show_first_steps(tracker, self._run_id)
        if tracker and self._run_id:
            run_id = self._run_id
            sinks["MLflow"] = lambda events: tracker.log_steps(run_id, events)
        shown = f"the progress of {self._label}"
        tell_prefect(pipeline, shown, lambda: sinks.update(Prefect=progress_sink(self._label)))
        self._follower = Follower(scratch, sinks, skip_to_step=delivered).__enter__()

    def record(self, artifact: Artifact) -> Registration | None:
        """Complete the run and register the artifact; a tracker that is down is made good by `minimind sync`."""
        tracker = self._pipeline.tracker
        if tracker is None:
            return None
        self._pipeline.store.scratch(artifact.kind, artifact.fingerprint).with_suffix(".run").unlink(missing_ok=True)
        with self._tolerant(f"does not know {self._label} yet; `minimind sync` sends it later"):
            return tracker.record(artifact, run_id=self._run_id, parent=self._pipeline.run_id)
        return None

    def failed(self, error: BaseException) -> None:
        killed = not isinstance(error, Exception)
        self._pipeline.display.failed(self._label, "stopped" if killed else "failed")
        if self._pipeline.tracker and self._run_id:
            with self._tolerant("could not close a run"):
                self._pipeline.tracker.end(self._run_id, "KILLED" if killed else "FAILED")

    def _show_first_steps(self, tracker: Tracker, run_id: str) -> None:
        """Log the tokens of the first steps to the run before they are trained on, and link them from Prefect."""
        parts = self._stage.parts(self._config, {name: artifact.fingerprint for name, artifact in self._inputs.items()})
        try:
            training = training_to_come(self._stage.name, self._config, self._inputs, parts.fingerprint())
            page = first_steps_page(training)
        except MiniMindError as error:  # the training itself says what is wrong with its rows, and better
            self._pipeline.display.warn(f"no page of the first steps: {one_line(error)}")
            return
        with self._tolerant("could not take the page of the first steps"):
            tracker.log_page(run_id, page, FIRST_STEPS_FILE)
        link = tracker.links.page(tracker.experiment_id, run_id, FIRST_STEPS_FILE)
        tell_prefect(self._pipeline, "the first steps", lambda: show_first_steps(self._label, link))

    def _tolerant(self, words: str) -> AbstractContextManager[None]:
        return _tolerating(self._pipeline, words)


def forget_sealed(store: Store) -> None:
    """Remove the notes of runs whose artifact is sealed: a kill came between the two."""
    for note in store.root.glob("*/.*.run"):
        fingerprint = note.name.strip(".").partition(".")[0]
        if store.path(note.parent.name, fingerprint).exists() and not note.with_suffix(".scratch").exists():
            note.unlink(missing_ok=True)


def telling_mlflow(pipeline: "Pipeline", what: str) -> AbstractContextManager[None]:
    """Inside, a tracking server that does not answer costs a warning and no more."""
    return _tolerating(pipeline, f"was not told of {what}")


@contextmanager
def _tolerating(pipeline: "Pipeline", words: str) -> Iterator[None]:
    failures = pipeline.tracker.failures if pipeline.tracker else ()
    try:
        yield
    except failures as error:
        pipeline.display.warn(f"MLflow {words} ({one_line(error)})")
