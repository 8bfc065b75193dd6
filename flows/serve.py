"""The servers: `minimind up`, and the Prefect server a single run gets when nothing is up.

Every server is a child this process owns (`flows.servers`). All listen on the loopback alone, and answer no browser
that asks for them by a name that is not this machine's.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console

from flows.servers import HEALTH_SECONDS, Server, own, watch
from minimind import runtime
from minimind.errors import ConfigError, ServiceError, disk_error
from tasks import databases, patience
from tasks.redaction import without_secrets

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
"""By which a browser of this machine may ask for the pages."""
PREFECT_PORT = 4200  # pyproject.toml points a plain `prefect` command in this checkout at it
MLFLOW_PORT = 5000
READY_FILE = "logs/deployments.ready"  # in the store: the names of what is served, once it is
UP_FILE = "up.address"  # in the store: where the Prefect server of `minimind up` listens
ALLOWED_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"  # MLflow's default lets in every name in a private network
DATABASE_VARIABLE = "PREFECT_API_DATABASE_CONNECTION_URL"
DRAIN_SECONDS = 5.0  # for the log lines and events that Prefect has not got when a run ends
POLL_SECONDS = 2  # between two looks for runs that were asked for, or cancelled; Prefect's default is 10


def environment(home: Path) -> dict[str, str]:
    """What Prefect and MLflow must know before they are imported: state in the store, nothing sent home, no pickles."""
    try:
        (home / "prefect").mkdir(parents=True, exist_ok=True)  # Prefect warns about one that is not there
    except OSError as error:
        other = ConfigError(f"MINIMIND_HOME is {home}, which cannot be made ({error.strerror}); choose another path")
        raise disk_error(error, "minimind", home) or other from None
    return {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
        **{name: value for name, value in patience.settings().items() if name.startswith("PREFECT_")},
        "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",  # it prints every event that a server that is gone did not get
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": os.environ.get("MINIMIND_PREFECT_CONSOLE", "CRITICAL"),
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def stop_on_signals() -> None:
    """Have SIGINT and SIGTERM raise KeyboardInterrupt here, also where a shell's `&` made SIGINT ignored."""

    def stop(number: int, _frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


@contextmanager
def prefect_for_one_run(console: Console, *, share: bool = True) -> Iterator[str]:
    """Inside, Prefect has a server, whose address this gives: with `share` the one that is up, else one of our own."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import PREFECT_API_URL, PREFECT_UI_URL, temporary_settings

    patience.bound_prefect()
    logging.raiseExceptions = False  # a log line that Prefect did not get would be an error on the terminal
    address = _prefect_that_is_up() if share else None
    with ExitStack() as stack:
        if address is None:
            port = _free_port()
            address = f"http://{HOST}:{port}"
            with console.status("starting a Prefect server for this run"):
                server = start_prefect(runtime.home(), port)
                stack.callback(server.stop)
                server.wait_until_healthy()
        stack.enter_context(
            temporary_settings({PREFECT_API_URL: f"{address}/api", PREFECT_UI_URL: without_secrets(address)})
        )
        try:
            yield address
        finally:  # both send from threads of their own, and the server is about to go
            for worker in (APILogWorker, EventsWorker):
                worker.drain_all(timeout=0 if patience.with_prefect().seconds_left() else DRAIN_SECONDS)


def _prefect_that_is_up() -> str | None:
    """The server `PREFECT_API_URL` names, the one `minimind up` noted for this store, or the one on the usual port."""
    noted = runtime.home() / UP_FILE
    candidates = [
        os.environ.get("PREFECT_API_URL", "").removesuffix("/api"),
        noted.read_text(encoding="utf-8").strip() if noted.exists() else "",
        f"http://{HOST}:{PREFECT_PORT}",
    ]
    return next((address for address in candidates if address and _is_prefect(address)), None)


def _is_prefect(address: str) -> bool:
    """Whether Prefect's server is well; another program may listen there, and say yes to everything."""
    return _answer(f"{address}/api/health") == "true"


def start_prefect(home: Path, port: int) -> Server:
    """Start the Prefect server; it is not healthy yet."""
    if DATABASE_VARIABLE not in os.environ:
        path = home / "prefect" / "prefect.db"
        databases.create_once(databases.PREFECT, path, lambda path: _create_prefect_database(home, path))
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "flows.prefect_server", HOST, str(port)]
    extra = {
        "PREFECT_API_URL": f"{address}/api",
        "PREFECT_UI_API_URL": f"{address}/api",
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": address,
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        # Leases of concurrency limits. In memory, as by default, a slot is taken for ever once this server is killed.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",  # until a run that waits looks again; else 30
    }
    return _start("prefect", command, home, extra, is_healthy=lambda: _is_prefect(address))


def _create_prefect_database(home: Path, path: Path) -> None:
    """A server that is killed while it creates its tables, or two that do so at once, would leave one none can use."""
    command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    extra = {DATABASE_VARIABLE: f"sqlite+aiosqlite:///{path}"}
    creation = _start("prefect", command, home, extra, is_healthy=path.exists)
    try:
        code = creation.process.wait(HEALTH_SECONDS)
    except subprocess.TimeoutExpired:
        code = None
    finally:
        creation.stop()
    if code != 0:
        raise ServiceError(f"Prefect could not create {path}; {creation.last_words()}")


def start_mlflow(home: Path, port: int) -> Server:
    """Start the MLflow server on the store's database, or on the one `MLFLOW_TRACKING_URI` names."""
    from tasks.runs import create_database, default_tracking_uri, sqlite_uri

    uri = default_tracking_uri(home)
    if uri.startswith("http"):
        raise ConfigError(
            f"MLFLOW_TRACKING_URI names the server {without_secrets(uri)}; its page is there: unset it, or do without "
            "ours"
        )
    if uri == sqlite_uri(home):
        create_database(home)
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--default-artifact-root", (home / "mlartifacts").as_uri()]
    extra = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # it may hold a password, which everybody reads on a command line
        ALLOWED_HOSTS: os.environ.get(ALLOWED_HOSTS) or ",".join(f"{name}:*" for name in NAMES),
    }
    return _start("mlflow", command, home, extra, is_healthy=lambda: _answer(f"http://{HOST}:{port}/health") == "OK")


def start_deployments(home: Path, prefect_port: int, mlflow_port: int) -> Server:
    """Start the process that serves every flow as a deployment named `local`."""
    from tasks import retries

    extra = {
        "PREFECT_API_URL": f"http://{HOST}:{prefect_port}/api",
        "PREFECT_UI_URL": f"http://{HOST}:{prefect_port}",
        "MINIMIND_MLFLOW_URL": f"http://{HOST}:{mlflow_port}",
        "MINIMIND_PREFECT_CONSOLE": "INFO",
        retries.VARIABLE: os.environ.get(retries.VARIABLE, "1"),  # nobody may be looking
        "PREFECT_RUNNER_POLL_FREQUENCY": str(POLL_SECONDS),
    }
    ready = home / READY_FILE
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "flows.deployments", str(ready)]
    return _start("deployments", command, home, extra, is_healthy=ready.exists)


def up(console: Console, *, prefect_port: int = PREFECT_PORT, mlflow_port: int = MLFLOW_PORT) -> None:
    """Start all servers, say where they are, and keep them until Ctrl-C or until one of them ends."""
    home = runtime.home()
    for name, port in (("prefect", prefect_port), ("mlflow", mlflow_port)):
        if not _is_free(port):
            raise ServiceError(f"port {port} is taken; end what listens there, or give --{name}-port")
    stop_on_signals()
    with ExitStack() as stack:
        servers = []
        for start in (lambda: start_prefect(home, prefect_port), lambda: start_mlflow(home, mlflow_port)):
            servers.append(start())
            stack.callback(servers[-1].stop)
        with console.status("starting Prefect and MLflow"):
            for server in servers:
                server.wait_until_healthy()
        servers.append(start_deployments(home, prefect_port, mlflow_port))
        stack.callback(servers[-1].stop)
        with console.status("registering deployments"):
            servers[-1].wait_until_healthy()
        runtime.write_atomic(home / UP_FILE, f"http://{HOST}:{prefect_port}\n")
        stack.callback((home / UP_FILE).unlink, missing_ok=True)
        _say_where(console, home, prefect_port, mlflow_port)
        try:
            watch(servers, console)
        except KeyboardInterrupt:
            console.print("stopping …")
    console.print("all servers are down", highlight=False)


def _say_where(console: Console, home: Path, prefect_port: int, mlflow_port: int) -> None:
    console.print(f"Prefect      http://{HOST}:{prefect_port}", highlight=False)
    console.print(f"MLflow       http://{HOST}:{mlflow_port}", highlight=False)
    console.print(f"deployments  {(home / READY_FILE).read_text(encoding='utf-8')}", highlight=False)
    console.print("\nIn another shell, in this checkout:")
    if prefect_port != PREFECT_PORT:
        console.print(f"  export PREFECT_API_URL=http://{HOST}:{prefect_port}/api", highlight=False)
    console.print("  prefect deployment run full-pipeline/local --watch", highlight=False)
    console.print("\nCtrl-C stops all of it.", highlight=False)


def _start(
    name: str, command: list[str], home: Path, extra: Mapping[str, str], *, is_healthy: Callable[[], bool]
) -> Server:
    told = {**os.environ, **environment(home), **extra}
    return own(name, command, told, home / "logs" / f"{name}.log", is_healthy=is_healthy)


def _answer(url: str) -> str | None:
    """What a server says, if that is no error."""
    try:
        answer = httpx.get(url, timeout=2)
        return answer.text.strip() if answer.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, httpx.InvalidURL):
        return None


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
