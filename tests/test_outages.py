"""Servers that refuse, hang, break off, or are something else: nothing waits longer than the bound, nothing leaks.

Fake servers with real sockets. Real ones that are killed under a whole pipeline: test_faults_servers.
"""

import asyncio
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import mlflow.tracking  # noqa: F401  which takes seconds, and none of them is waited for a server
import pytest
from conftest import Tracked
from file_events import needs_ptrace, run_traced
from prefect.client import base
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from rich.console import Console

from flows import local, serve, servers
from flows.prefect_server import Door
from minimind.errors import DataError, ServiceError
from tasks import databases, patience, running
from tasks.redaction import without_secrets
from tasks.running import PREFECT_FAILURES
from tasks.runs import Runs
from tasks.tracking import Tracker

PREFECT_VERSIONS = databases.PREFECT.newest()
OK = "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}"
ANSWERS = {
    "breaks off": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    "500": "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "503": "HTTP/1.1 503 Later\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "429": "HTTP/1.1 429 Slower\r\nRetry-After: 3600\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "maintenance": "HTTP/1.1 503 No\r\nPrefect-Maintenance: true\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    "html": OK.format("text/html", 15, "<html>hi</html>"),
    "a list": OK.format("application/json", 2, "[]"),
    "nothing": OK.format("application/json", 2, "{}"),
    "other words": OK.format("application/json", 21, '{"experiment": [1, 2]}'[:21]),
    "not HTTP": "SSH-2.0-OpenSSH_9.2\r\n",
}


@contextmanager
def fake(answer: str | None, *, asked: list[str] | None = None) -> Iterator[str]:
    """A server that says the same to all who ask, or with None nothing; it gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held: list[socket.socket] = []

        def talk() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                    held.append(connection)
                    request = connection.recv(65536).decode("latin-1")
                    if asked is not None:
                        asked.append(request)
                    if answer is not None:
                        connection.sendall(answer.encode())
                        connection.close()
                except OSError:
                    return

        threading.Thread(target=talk, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MINIMIND_MLFLOW_URL", *patience.settings()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(patience, "_servers", {})


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long Prefect's client would have slept."""
    slept: list[float] = []
    monkeypatch.setattr(base, "time", SimpleNamespace(sleep=slept.append))
    return slept


# What answers in the place of MLflow


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_answer_of_mlflow_is_one_clear_error_at_once(answer: str, tmp_path: Path):
    """Also one that asks for an hour's patience; and the next call does not even try."""
    started = time.monotonic()
    with fake(ANSWERS[answer]) as address:
        with pytest.raises(ServiceError, match=f"^MLflow at {address} does not answer") as caught:
            Tracker(tmp_path, address)
        assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 500
    assert time.monotonic() - started < patience.ANSWER_SECONDS
    with pytest.raises(ServiceError, match=r"it is asked again in \d+ s"):
        Tracker(tmp_path, address)


@pytest.mark.slow
def test_mlflow_that_hangs_costs_no_more_than_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both tries together; whoever connects again within a minute waits no more."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    assert patience.settings()["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "5" and patience.ANSWER_SECONDS == 10
    with fake(None) as address:
        started = time.monotonic()
        with pytest.raises(ServiceError, match="does not answer"):
            Tracker(tmp_path, address)
        waited = time.monotonic() - started
        with pytest.raises(ServiceError, match="asked again"):
            Tracker(tmp_path, address)
    assert 1 <= waited < 5
    assert time.monotonic() - started < waited + 1


def test_a_redirect_is_not_followed(tmp_path: Path):
    """What a run says of itself goes to the server that was named, and the token with it."""
    elsewhere: list[str] = []
    with fake(ANSWERS["html"], asked=elsewhere) as other:
        moved = f"HTTP/1.1 302 Found\r\nLocation: {other}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        with fake(moved) as address, pytest.raises(ServiceError, match="302"):
            Tracker(tmp_path, address)
    assert elsewhere == []


def test_a_server_that_will_not_have_us_says_so(tmp_path: Path):
    refusal = '{"error_code": "PERMISSION_DENIED", "message": "who are you?"}'
    said = f"HTTP/1.1 403 No\r\nContent-Type: application/json\r\nContent-Length: {len(refusal)}\r\n\r\n{refusal}"
    with fake(said) as address, pytest.raises(ServiceError, match=r"refuses: PERMISSION_DENIED: who are you\?"):
        Tracker(tmp_path, address)


def test_a_server_that_was_away_is_asked_again_when_a_run_ends(tmp_path: Path):
    """It may be back, and there is much to tell."""
    asked: list[str] = []
    with fake(ANSWERS["503"], asked=asked) as address:
        for again in (False, False, True):
            if again:
                patience.ask_again()
            with pytest.raises(ServiceError):
                Tracker(tmp_path, address)
        assert len(asked) == 2 * patience.MLFLOW_TRIES


@pytest.mark.slow
def test_a_locked_mlflow_database_is_an_outage_without_a_traceback(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    runs = Runs(tmp_path)
    run_id = runs.begin("x", tags={})
    with closing(sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        with pytest.raises(ServiceError, match="locked"):
            runs.log_metrics(run_id, {"loss": 1.0})
        assert time.monotonic() - started < 30  # MLflow has SQLite wait for 20
        with pytest.raises(ServiceError, match="asked again"):
            runs.log_metrics(run_id, {"loss": 1.0})
    patience.ask_again()
    runs.log_metrics(run_id, {"loss": 1.0})
    assert "Traceback" not in "".join(capfd.readouterr())


def test_sync_tells_mlflow_how_a_flow_ended_that_could_not_say_so(tmp_path: Path, tracked: Tracked):
    """And leaves the note for Prefect, which is asked at the next start."""
    tracker = tracked(tmp_path)
    flow_run, stage_run = (tracker.begin(name, tags={}) for name in ("flow", "stage"))
    gone = {"host": running.owner()["host"], "process": "4194000@1.00"}
    for name, value in gone.items():
        tracker.client.set_tag(stage_run, name, value)
    note = running.Note(id="one", prefect_run=str(uuid.uuid4()), mlflow_run=flow_run, status="FINISHED", **gone)
    running._write(tmp_path, note.replace(tracking_uri=tracker.uri))
    assert running.any_lost(tmp_path)
    running.settle_mlflow(tmp_path, tracker)
    statuses = [tracker.client.get_run(run).info.status for run in (flow_run, stage_run)]
    assert statuses == ["FINISHED", "KILLED"]
    assert running.any_lost(tmp_path)


# What answers in the place of Prefect


def ask_prefect(address: str) -> None:
    settings = {PREFECT_API_URL: f"{address}/api", PREFECT_CLIENT_MAX_RETRIES: patience.PREFECT_RETRIES}
    with temporary_settings(settings), get_client(sync_client=True, httpx_settings={"timeout": 0.3}) as client:
        client.read_flow_run(uuid.uuid4())


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_no_answer_of_prefect_is_a_failure_that_flows_expect(answer: str, sleeps: list[float]):
    """Its own client sleeps for as long as it is told, and during maintenance for ever."""
    patience.bound_prefect()
    with fake(ANSWERS[answer]) as address, pytest.raises(PREFECT_FAILURES):
        ask_prefect(address)
    assert sum(sleeps) < patience.ANSWER_SECONDS


def test_prefect_that_hangs_is_asked_once_and_then_not_for_a_while(sleeps: list[float]):
    patience.bound_prefect()
    asked: list[str] = []
    with fake(None, asked=asked) as address:
        with pytest.raises(httpx.ReadTimeout):
            ask_prefect(address)
        with pytest.raises(httpx.ConnectError, match="it is asked again in"):
            ask_prefect(address)
    assert len(asked) == 1 and sleeps == []
    assert patience.settings()["PREFECT_API_REQUEST_TIMEOUT"] == str(patience.ANSWER_SECONDS)


def test_the_bound_holds_for_what_prefect_does_beside_a_flow_too():
    """Its log lines and events go through a client of their own kind."""

    async def ask(address: str) -> None:
        with temporary_settings({PREFECT_API_URL: f"{address}/api", PREFECT_CLIENT_MAX_RETRIES: 0}):
            async with get_client(httpx_settings={"timeout": 0.3}) as client:
                await client.read_flow_run(uuid.uuid4())

    patience.bound_prefect()
    with fake(None) as address:
        with pytest.raises(httpx.ReadTimeout):
            asyncio.run(ask(address))
        with pytest.raises(httpx.ConnectError, match="it is asked again in"):
            asyncio.run(ask(address))


@pytest.mark.parametrize("answer", ["html", "nothing", "500"])
def test_another_program_on_prefects_port_is_not_taken_for_it(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """One that serves a page for every path says 200 to a question after Prefect's health."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    with fake(ANSWERS[answer]) as address:
        monkeypatch.setenv("PREFECT_API_URL", f"{address}/api")
        assert serve._prefect_that_is_up() != address


# How a flow ends whose Prefect is gone


def failing(error: BaseException, cause: BaseException | None = None) -> Callable[[], None]:
    def flow() -> None:
        try:
            if cause:
                raise cause
        finally:
            raise error

    flow.name = "full-pipeline"  # type: ignore[attr-defined]
    return flow


@contextmanager
def prefect_at(_: Console) -> Iterator[str]:
    yield "http://me:secret@127.0.0.1:4200"


@pytest.mark.parametrize("cause", [DataError("line 3 is no row"), KeyboardInterrupt()])
def test_why_a_flow_failed_is_said_where_prefect_could_not_be_told(
    cause: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Prefect's own error comes later, and would hide it."""
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    monkeypatch.setattr(serve, "prefect_for_one_run", prefect_at)
    monkeypatch.setattr(serve, "stop_on_signals", lambda: None)
    with pytest.raises(type(cause)) as caught:
        local.to_the_end(failing(httpx.ConnectError("refused"), cause), {}, console=Console(quiet=True))
    assert caught.value is cause


def test_a_flow_that_prefect_left_before_its_end_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINIMIND_HOME", str(tmp_path))
    monkeypatch.setattr(serve, "prefect_for_one_run", prefect_at)
    monkeypatch.setattr(serve, "stop_on_signals", lambda: None)
    with pytest.raises(ServiceError, match=r"^Prefect at http://127.0.0.1:4200 does not answer \(ConnectError"):
        local.to_the_end(failing(httpx.ConnectError("refused")), {}, console=Console(quiet=True))


# What is written down and shown


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("postgresql://me:se%40cret@db:5432/mlflow", "postgresql://db:5432/mlflow"),
        ("postgresql://db/mlflow?user=me&password=secret", "postgresql://db/mlflow"),
        ("https://me:secret@tracking:5000/", "https://tracking:5000/"),
        ("https://token@tracking", "https://tracking"),
        ("http://me:a@b/c#d?e@tracking:5000", "http://tracking:5000"),
        ("GET http://me:secret@host/api failed, see http://x:y@z", "GET http://host/api failed, see http://z"),
        ("the server says: hunter2000 is wrong", "the server says: *** is wrong"),
        ("sqlite:////a/b:c@d.db", "sqlite:////a/b:c@d.db"),
        ("models:/minimind-sft@candidate", "models:/minimind-sft@candidate"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_a_secret_is_not_shown(said: str, shown: str, monkeypatch: pytest.MonkeyPatch):
    """Notes in the store and messages name the server; the connection needs the rest."""
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2000")
    assert without_secrets(said) == shown


@pytest.mark.parametrize("answer", ["html", "500", "not HTTP"])
def test_no_error_of_a_server_with_a_password_tells_it(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG, logger="tasks")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2000")
    with fake(ANSWERS[answer]) as address:
        given = address.replace("://", "://me:s3cret@")
        with pytest.raises(ServiceError, match=f"MLflow at {address} ") as caught:
            Tracker(tmp_path, given)
    assert caught.value.__cause__ is None
    for secret in ("s3cret", "hunter2000"):
        assert secret not in str(caught.value) + caplog.text


# Databases

KIND = databases.PREFECT


def make(path: Path) -> None:
    """A whole database, its tables still in the log of an open connection."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("CREATE TABLE flow_run (name TEXT)")
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.executemany("INSERT INTO alembic_version VALUES (?)", [(one,) for one in PREFECT_VERSIONS])
        connection.commit()


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}


@pytest.mark.parametrize("made", ["nothing", "one table", "an old version"])
def test_a_database_that_was_begun_and_holds_nothing_is_set_aside(made: str, tmp_path: Path):
    """As another program leaves it that was killed over its creation, at its own name."""
    path = tmp_path / "prefect.db"
    with closing(sqlite3.connect(path)) as connection:
        if made != "nothing":
            connection.execute("CREATE TABLE flow_run (name TEXT)")
        if made == "an old version":
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES ('c0ffee')")
        connection.commit()
    path.touch()
    databases.create_once(KIND, path, make)
    assert tables(path) == {"flow_run", "alembic_version"}
    assert (tmp_path / "prefect.db.unfinished1").exists() == (made != "nothing")
    before = path.stat().st_ino
    databases.create_once(KIND, path, make)
    assert path.stat().st_ino == before


def test_a_whole_database_needs_no_lock(tmp_path: Path):
    """A store on a read-only disk has none to give, and can be looked at."""
    path = tmp_path / "prefect.db"
    make(path)
    (tmp_path / ".prefect.lock").mkdir()
    databases.create_once(KIND, path, lambda _: pytest.fail("made anew"))


@pytest.mark.parametrize("state", ["of an older version", "without a version", "locked", "garbage"])
def test_a_database_that_may_hold_a_users_runs_is_never_touched(state: str, tmp_path: Path):
    """One row of a run is enough; and what cannot be read may hold anything."""
    path = tmp_path / "prefect.db"
    make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        if state == "of an older version":
            connection.execute("UPDATE alembic_version SET version_num = 'c0ffee'")
        elif state == "without a version":
            connection.execute("DROP TABLE alembic_version")
        connection.execute("INSERT INTO flow_run VALUES ('mine')")
        if state == "locked":
            connection.execute("BEGIN EXCLUSIVE")
        elif state == "garbage":
            path.write_bytes(b"no database at all" * 100)
        before = path.read_bytes()
        databases.LOCK_SECONDS, patient = 0.05, databases.LOCK_SECONDS
        try:
            databases.create_once(KIND, path, lambda _: pytest.fail("made anew"))
        finally:
            databases.LOCK_SECONDS = patient
    assert path.read_bytes() == before
    assert [*tmp_path.glob("*.unfinished*")] == []


def test_what_a_deleted_database_left_does_not_come_into_the_new_one(tmp_path: Path):
    """SQLite would play the log of one into the other."""
    path = tmp_path / "prefect.db"
    for end in databases.COMPANIONS:
        (tmp_path / f"prefect.db{end}").write_bytes(b"of another database")
    databases.create_once(KIND, path, make)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".prefect.lock", "prefect.db"]
    assert tables(path) == {"flow_run", "alembic_version"}


def test_the_newest_versions_are_those_of_real_databases(tmp_path: Path, tracked: Tracked):
    """A database that was made by MLflow itself must not look as if it had been begun only."""
    tracked(tmp_path)
    assert not databases.is_unfinished(databases.MLFLOW, tmp_path / "mlflow.db")
    assert len(databases.MLFLOW.newest()) == len(databases.PREFECT.newest()) == 1


@needs_ptrace
@pytest.mark.slow
def test_the_creation_of_a_database_may_be_killed_before_any_of_its_changes(tmp_path: Path):
    """Whole, or not there; and the next start makes it."""

    def create() -> None:
        databases.create_once(KIND, place / "prefect.db", make)

    place = tmp_path / "undisturbed"
    place.mkdir()
    whole = run_traced(create, place)
    assert whole.code == 0 and len(whole.events) > 10
    for event in range(1, len(whole.events) + 1):
        place = tmp_path / str(event)
        place.mkdir()
        killed = run_traced(create, place, kill_at=event)
        assert killed.code == -9, killed.events
        if (place / "prefect.db").exists():
            assert tables(place / "prefect.db") == {"flow_run", "alembic_version"}
        create()
        assert tables(place / "prefect.db") == {"flow_run", "alembic_version"}
        assert not [*place.glob(".prefect.new*")]


START = """
import os, sys
from pathlib import Path
from flows import serve
from minimind import runtime
os.environ.update(serve.environment(runtime.home()))
from rich.console import Console
from tasks.runs import Runs
{what}
"""
CREATE_BOTH = """
from tasks import databases
Runs(runtime.home())
path = runtime.home() / "prefect" / "prefect.db"
databases.create_once(databases.PREFECT, path, lambda path: serve._create_prefect_database(runtime.home(), path))
"""
RUN_A_FLOW = """
from prefect import flow
@flow
def nothing():
    return Runs(runtime.home()).begin("x", tags={})
with serve.prefect_for_one_run(Console(quiet=True), share=False):
    nothing()
"""


def begin(home: Path, what: str) -> subprocess.Popen[str]:
    environment = {**serve.environment(home), "MINIMIND_HOME": str(home)}
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_", "MINIMIND_"))}
    return subprocess.Popen(
        [sys.executable, "-c", START.format(what=what)],
        env={**clean, **environment},
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def state_of(database: Path) -> tuple[set[str], str]:
    with closing(sqlite3.connect(database)) as connection:
        return tables(database), connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]


@pytest.mark.chaos
def test_the_creation_of_both_databases_may_be_killed_at_any_moment(tmp_path: Path):
    """With all that it started; then the next start makes them, whole."""
    started = time.monotonic()
    undisturbed = begin(tmp_path / "undisturbed", CREATE_BOTH)
    output, _ = undisturbed.communicate(timeout=300)
    seconds = time.monotonic() - started
    assert undisturbed.returncode == 0, output
    names = ("mlflow.db", "prefect/prefect.db")
    whole = {name: state_of(tmp_path / "undisturbed" / name) for name in names}
    home = tmp_path / "killed"
    for tenth in range(1, 10):
        process = begin(home, CREATE_BOTH)
        time.sleep(seconds * tenth / 10)
        process.kill()
        process.communicate()
        for name in names:
            if (home / name).exists():
                assert state_of(home / name) == whole[name]
                (home / name).unlink()
    again = begin(home, CREATE_BOTH)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert {name: state_of(home / name) for name in names} == whole


@pytest.mark.chaos
def test_four_processes_may_start_at_once_on_a_store_that_is_not_there(tmp_path: Path):
    """Each with a Prefect server of its own, and a run in both databases."""
    processes = [begin(tmp_path / "home", RUN_A_FLOW) for _ in range(4)]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    counted = {"mlflow.db": "SELECT count(*) FROM runs", "prefect/prefect.db": "SELECT count(*) FROM flow_run"}
    for name, query in counted.items():
        with closing(sqlite3.connect(tmp_path / "home" / name)) as connection:
            assert connection.execute(query).fetchone() == (4,)


# Who may ask the servers of `minimind up`


def knock(kind: str = "http", **headers: str) -> tuple[bool, list[Any]]:
    """Whether a request comes through, and what it is told if not."""
    came, sent = [], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        came.append(scope)

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        return {"type": "http.request"}

    named = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(Door(app)({"type": kind, "headers": named}, receive, send))
    return bool(came), sent


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "LOCALHOST"])
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_programs_and_pages_of_this_machine_are_let_in(host: str, kind: str):
    assert knock(kind, host=host)[0]
    assert knock(kind, host=host, origin=f"http://{host}")[0]


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example:4200"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost.evil.example:4200"},
        {"host": "me@evil.example"},
        {"host": "[::1"},
        {"host": ""},
        {},
        {"host": "127.0.0.1:4200", "origin": "https://evil.example"},
        {"host": "127.0.0.1:4200", "origin": "null"},
        {"host": "127.0.0.1:4200", "origin": "http://localhost.evil.example"},
    ],
)
def test_pages_from_elsewhere_are_not(headers: dict[str, str]):
    """A name that was bound to 127.0.0.1; a form that is sent to it; and a websocket, which no CORS rule covers."""
    let_in, sent = knock(**headers)
    assert not let_in and sent[0]["status"] == 403
    let_in, sent = knock("websocket", **headers)
    assert not let_in and sent == [{"type": "websocket.close", "code": 1008, "reason": "refused"}]


# A server of `minimind up` that ends


def test_a_server_that_ends_is_started_again_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """Flows that run hang on the process beside it: `minimind up` must not end with one server."""
    monkeypatch.setattr(servers, "PAUSES_SECONDS", (0.0,))
    lasting = serve._start("lasting", ["sleep", "60"], tmp_path, {}, is_healthy=lambda: True)
    failing = serve._start("failing", ["false"], tmp_path, {}, is_healthy=lambda: True)

    def stop_after_three(_: float) -> None:
        time.sleep(0.02)
        if failing.ended >= 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(servers, "time", SimpleNamespace(monotonic=time.monotonic, sleep=stop_after_three))
    try:
        first = lasting.process.pid
        with pytest.raises(KeyboardInterrupt):
            servers.watch([lasting, failing], Console(width=500))
        assert lasting.process.pid == first and lasting.process.poll() is None
    finally:
        monkeypatch.undo()
        for server in (lasting, failing):
            server.stop()
    assert capsys.readouterr().out.count("failing ended (exit code 1); it is started again in 0 s") == 3


def test_a_server_that_hangs_is_not_waited_for(tmp_path: Path):
    """One that was well and does not answer any more would take half a minute of polite signals."""
    script = "trap '' INT TERM; while true; do sleep 1; done"
    hung = serve._start("hung", ["sh", "-c", script], tmp_path, {}, is_healthy=lambda: False)
    hung.was_healthy = True
    time.sleep(0.1)
    started = time.monotonic()
    hung.stop()
    assert time.monotonic() - started < 5 and hung.process.poll() == -9
