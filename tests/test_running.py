"""Notes of flow runs: whatever a process or a server dies of, no run says for ever that it is running."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import psutil
import pytest
from conftest import Tracked
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefect.states import Cancelling, Running
from rich.console import Console

from flows.serve import prefect_for_one_run
from minimind.errors import StageError
from tasks import running
from tasks.running import Note, heeding_cancellation, note_end, note_run, own_end, say_cancelled, settle
from tasks.runs import is_alive, owner
from tasks.tracking import Tracker

GONE = "4194000@1.00"
"""A process that is not there."""


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server for the module."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_HOME: home}):
        patch.setenv("MINIMIND_HOME", str(home))
        with prefect_for_one_run(Console(quiet=True), share=False) as address:
            yield address


@pytest.fixture
def tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: Tracked) -> Tracker:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tracked(tmp_path)


def started(state: object = None) -> str:
    """A flow run that says it is running, with a task run that does."""

    @flow(name="killed")
    def function() -> None:
        pass

    with get_client(sync_client=True) as client:
        run = client.create_flow_run(function, state=state or Running())
        from prefect import task

        client.create_task_run(task(name="stage")(lambda: None), run.id, dynamic_key="0", state=Running())
        return str(run.id)


def states(run: str) -> tuple[str, set[str]]:
    """Of the flow run and of its task runs."""
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    with get_client(sync_client=True) as client:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[UUID(run)])))
        return client.read_flow_run(UUID(run)).state.name, {task.state.name for task in tasks}


def note(home: Path, tracker: Tracker, **changes: object) -> Note:
    made = Note(
        id="one",
        host=running.owner()["host"],
        process=GONE,
        tracking_uri=tracker.uri,
        mlflow_run=tracker.begin("full-pipeline", tags={}),
    ).replace(**changes)
    running._write(home, made)
    return made


def notes(home: Path) -> list[Note]:
    return [note for _, note in running._notes(home)]


def test_a_killed_processs_runs_are_ended_in_both_servers(prefect: str, tracker: Tracker, tmp_path: Path) -> None:
    """A SIGKILL ends nothing by itself."""
    left = note(tmp_path, tracker, prefect_run=started())
    assert settle(tmp_path, tracker) == 1
    assert states(left.prefect_run) == ("Crashed", {"Crashed"})
    assert tracker.client.get_run(left.mlflow_run).info.status == "KILLED"
    assert not notes(tmp_path)
    assert settle(tmp_path, tracker) == 0


@pytest.mark.parametrize(("status", "name"), [("FINISHED", "Completed"), ("FAILED", "Failed"), ("KILLED", "Cancelled")])
def test_what_ended_while_the_servers_were_down_is_told_as_it_ended(
    prefect: str, tracker: Tracker, tmp_path: Path, status: running.Status, name: str
) -> None:
    left = note(tmp_path, tracker, prefect_run=started(), status=status, versions={"sft": "models:/minimind-sft/1"})
    settle(tmp_path, tracker)
    assert states(left.prefect_run)[0] == name
    run = tracker.client.get_run(left.mlflow_run)
    assert run.info.status == status
    assert run.data.params == {"stage.sft": "models:/minimind-sft/1"}


def test_a_run_that_was_being_cancelled_is_cancelled(prefect: str, tracker: Tracker, tmp_path: Path) -> None:
    left = note(tmp_path, tracker, prefect_run=started(Cancelling()))
    settle(tmp_path, tracker)
    assert states(left.prefect_run)[0] == "Cancelled"


def test_a_run_whose_process_lives_is_left_alone(prefect: str, tracker: Tracker, tmp_path: Path) -> None:
    """Also one of another machine, whose processes nobody here can see."""
    mine = note(tmp_path, tracker, prefect_run=started(), **running.owner())
    note(tmp_path, tracker, id="two", host="elsewhere")
    assert settle(tmp_path, tracker) == 0
    assert states(mine.prefect_run)[0] == "Running"
    assert len(notes(tmp_path)) == 2


def test_a_pid_that_was_given_again_is_no_life(tracker: Tracker, tmp_path: Path) -> None:
    left = note(tmp_path, tracker, process=f"{os.getpid()}@12.00")
    settle(tmp_path, tracker)
    assert tracker.client.get_run(left.mlflow_run).info.status == "KILLED"


def test_a_server_that_is_down_is_told_later(tracker: Tracker, prefect: str, tmp_path: Path) -> None:
    left = note(tmp_path, tracker, prefect_run=started())
    assert settle(tmp_path, None) == 1
    assert [one.id for one in notes(tmp_path)] == ["one"], "MLflow does not know yet"
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        settle(tmp_path, tracker)
    assert len(notes(tmp_path)) == 1, "Prefect could not be asked"
    settle(tmp_path, tracker)
    assert not notes(tmp_path)
    assert tracker.client.get_run(left.mlflow_run).info.status == "KILLED"


def test_a_run_that_nobody_has_any_more_is_forgotten(prefect: str, tracker: Tracker, tmp_path: Path) -> None:
    """Databases are thrown away; the note must not stay for ever."""
    note(tmp_path, tracker, prefect_run="00000000-0000-0000-0000-000000000000", mlflow_run="0" * 32)
    assert settle(tmp_path, tracker) == 0
    assert not notes(tmp_path)


def test_an_interrupted_flow_is_cancelled_not_crashed(prefect: str, tracker: Tracker, tmp_path: Path) -> None:
    """Prefect's word for Ctrl-C is Crashed, which is what a bug looks like."""

    @flow(name="interrupted")
    def function() -> None:
        noted = note_run(tmp_path, tracking_uri=None, mlflow_run=None)
        note_end(tmp_path, noted, "KILLED", {}, None)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        function()
    (left,) = notes(tmp_path)
    assert states(left.prefect_run)[0] == "Crashed"
    say_cancelled(tmp_path)
    assert states(left.prefect_run)[0] == "Cancelled"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is only the time")
def test_a_process_is_the_same_one_after_the_clock_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of a start is told from the clock of now; another process would end the runs of a living one."""
    me = owner()["process"]
    for time in (0.0, 1e9):
        monkeypatch.setattr(psutil.Process, "create_time", lambda self, time=time: time)
        assert owner()["process"] == me and is_alive(me)


def test_a_part_that_prefect_has_no_run_of_does_not_write_over_its_flows_note(prefect: str, tmp_path: Path) -> None:
    """A point of a sweep that runs without Prefect ends, and the sweep does not."""

    @flow(name="whole")
    def function() -> None:
        whole = note_run(tmp_path, tracking_uri=None, mlflow_run=None)
        part = note_run(tmp_path, tracking_uri=None, mlflow_run=None)
        assert whole.prefect_run and part.prefect_run is None
        note_end(tmp_path, part, "FINISHED", {}, None)
        assert {one.id: one.status for one in notes(tmp_path)} == {whole.id: None, part.id: "FINISHED"}
        assert own_end(tmp_path) is None
        note_end(tmp_path, whole, "FINISHED", {}, None)
        assert own_end(tmp_path)

    function()


CANCELLED = """
import sys, time, uuid
from pathlib import Path
from prefect.client.orchestration import get_client
from prefect.states import Cancelling
from tasks import running
home, run = Path(sys.argv[1]), sys.argv[2]
running._write(home, running.Note(id="one", prefect_run=run, **running.owner()))
with running.heeding_cancellation(home):
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(uuid.UUID(run), Cancelling(), force=True)
    time.sleep(30)
"""


def test_a_run_of_this_process_that_is_cancelled_in_the_page_gets_sigterm(prefect: str, tmp_path: Path) -> None:
    """There is no runner beside `minimind run` to see it."""
    environment = {**os.environ, "PREFECT_API_URL": f"{prefect}/api"}
    command = [sys.executable, "-c", CANCELLED, str(tmp_path), started()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGTERM, done.stderr


def test_a_flow_that_is_left_alone_gets_no_signal(prefect: str, tmp_path: Path) -> None:
    with heeding_cancellation(tmp_path), pytest.raises(StageError):
        raise StageError("its own error comes out")
