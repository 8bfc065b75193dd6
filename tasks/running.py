"""Which flow runs are under way, noted in the store, so that a later start can end those whose process is gone.

    <home>/running/<id>.json   one note each: whose process, which runs in Prefect and MLflow, how it ended

A killed process ends nothing, and a server may be down when a run ends. So a note stays until its process is gone
and both servers say that the run is over; every start of a flow and of `minimind up` sees to it (`settle`).
"""

import logging
import os
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import copy_context
from json import JSONDecodeError
from pathlib import Path
from typing import Literal

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Completed, Crashed, Failed, State
from pydantic import ValidationError

from minimind.errors import MiniMindError
from minimind.proven import Proven
from tasks.redaction import without_secrets
from tasks.runs import Runs, is_alive, owner

logger = logging.getLogger(__name__)

Status = Literal["FINISHED", "FAILED", "KILLED"]
CANCEL_POLL_SECONDS = 2.0
PREFECT_FAILURES = (httpx.HTTPError, PrefectException, OSError, JSONDecodeError, ValidationError)
"""What a call to Prefect raises where it does not answer, or something else does in its place."""
GONE = "the process of this run was gone"


class Note(Proven):
    """One flow run."""

    id: str
    host: str
    process: str
    """`pid@start`: a pid alone is given again."""
    prefect_run: str | None = None
    tracking_uri: str | None = None
    mlflow_run: str | None = None
    status: Status | None = None
    """How it ended; None while it runs."""
    versions: dict[str, str] = {}
    """Stage → the version that it gave."""


def note_run(home: Path, *, tracking_uri: str | None, mlflow_run: str | None) -> Note:
    """Note that this process runs the flow around this code; where that has its note, a part of it without a run."""
    context = FlowRunContext.get()
    prefect_run = str(context.flow_run.id) if context and context.flow_run else None
    if any(note.id == prefect_run and note.status is None and _is_own(note) for _, note in _notes(home)):
        prefect_run = None
    note = Note(
        id=prefect_run or uuid.uuid4().hex,
        prefect_run=prefect_run,
        tracking_uri=tracking_uri,
        mlflow_run=mlflow_run,
        **owner(),
    )
    _write(home, note)
    return note


def note_end(home: Path, note: Note, status: Status, versions: Mapping[str, str], runs: Runs | None) -> None:
    """Note how a run ended, and tell MLflow; if that is down, `settle` does."""
    note = note.replace(status=status, versions=dict(versions))
    _write(home, note)
    _tell_mlflow(note, runs)


def settle(home: Path, runs: Runs | None) -> int:
    """End the runs of this machine whose process is gone, in Prefect and in MLflow; says how many were still open."""
    ended = 0
    for path, note in _lost(home):
        told = [_tell_prefect(note), _tell_mlflow(note, runs)]
        ended += "open" in told
        if "down" not in told:
            path.unlink(missing_ok=True)
    return ended


def settle_mlflow(home: Path, runs: Runs) -> None:
    """As `settle`, in MLflow alone: each note stays until Prefect was told too."""
    for _, note in _lost(home):
        _tell_mlflow(note, runs)
    runs.reap()


def any_lost(home: Path) -> bool:
    """Whether `settle` has something to do."""
    return any(_lost(home))


def _lost(home: Path) -> Iterator[tuple[Path, Note]]:
    return ((p, note) for p, note in _notes(home) if note.host == owner()["host"] and not is_alive(note.process))


def say_cancelled(home: Path) -> None:
    """Have Prefect say Cancelled of what a signal stopped in this process; its own word for that is Crashed."""
    for _, note in _notes(home):
        if _is_own(note) and note.status == "KILLED" and note.prefect_run:
            with suppress(*PREFECT_FAILURES), get_client(sync_client=True) as client:
                client.set_flow_run_state(uuid.UUID(note.prefect_run), Cancelled(), force=True)


def own_end(home: Path) -> Note | None:
    """A note of this process's runs where all of them finished."""
    mine = [note for _, note in _notes(home) if _is_own(note)]
    return next(iter(mine), None) if all(note.status == "FINISHED" for note in mine) else None


def untold(error: BaseException) -> BaseException | None:
    """What a flow had failed with, or was stopped by, when Prefect did not answer to be told so."""
    before = error.__context__
    while before and not isinstance(before, MiniMindError | KeyboardInterrupt):
        before = before.__context__
    return before


def _is_own(note: Note) -> bool:
    return note.process == owner()["process"]


@contextmanager
def heeding_cancellation(home: Path) -> Iterator[None]:
    """Inside, cancelling a run of this process in Prefect sends it SIGTERM, as a deployment's runner would."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(CANCEL_POLL_SECONDS):
            with suppress(*PREFECT_FAILURES), get_client(sync_client=True) as client:
                while not over.wait(CANCEL_POLL_SECONDS):
                    if any(_is_cancelled(client, note) for _, note in _notes(home)):
                        os.kill(os.getpid(), signal.SIGTERM)
                        return

    # Prefect keeps its settings in context variables, which a thread does not inherit.
    thread = threading.Thread(target=copy_context().run, args=(watch,), name="heed-cancellation", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(timeout=CANCEL_POLL_SECONDS)


def _is_cancelled(client: SyncPrefectClient, note: Note) -> bool:
    if not _is_own(note) or note.status or not note.prefect_run:
        return False
    state = client.read_flow_run(uuid.UUID(note.prefect_run)).state
    return state is not None and state.type in (StateType.CANCELLING, StateType.CANCELLED)


def _tell_prefect(note: Note) -> Literal["open", "closed", "down"]:
    """End a flow run and its task runs where they are not; says how they were found."""
    if note.prefect_run is None:
        return "closed"
    run_id = uuid.UUID(note.prefect_run)
    try:
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(run_id).state
            is_open = state is None or not state.is_final()
            if is_open:
                client.set_flow_run_state(run_id, _end_state(note, state), force=True)
            tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run_id])))
            for task in tasks:
                if task.state is None or not task.state.is_final():
                    client.set_task_run_state(task.id, Crashed(message=GONE), force=True)
    except ObjectNotFound:
        return "closed"
    except PREFECT_FAILURES as error:
        logger.warning("Prefect could not be told how run %s ended: %s", note.id, without_secrets(str(error)))
        return "down"
    return "open" if is_open else "closed"


def _end_state(note: Note, state: State | None) -> State:
    if state is not None and state.type == StateType.CANCELLING:
        return Cancelled(message=GONE)
    if note.status is None:
        return Crashed(message=GONE)
    return {"FINISHED": Completed, "FAILED": Failed, "KILLED": Cancelled}[note.status]()


def _tell_mlflow(note: Note, runs: Runs | None) -> Literal["open", "closed", "down"]:
    """End the run of a flow where it is not; says how it was found."""
    if note.mlflow_run is None:
        return "closed"
    if runs is None or runs.uri != note.tracking_uri:
        return "down"
    try:
        return "open" if runs.close(note.mlflow_run, note.status or "KILLED", note.versions) else "closed"
    except runs.failures as error:
        logger.warning("MLflow could not be told how run %s ended: %s", note.id, error)
        return "down"


def _write(home: Path, note: Note) -> None:
    path = _directory(home) / f"{note.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    note.write(path)


def _notes(home: Path) -> Iterator[tuple[Path, Note]]:
    for path in sorted(_directory(home).glob("[!.]*.json")):
        instead = "if its process is gone, Prefect's page may go on showing that run as running"
        if note := Note.read_or_set_aside(path, instead=instead):  # else another process settled it
            yield path, note


def _directory(home: Path) -> Path:
    return home / "running"
