"""MLflow runs and their metrics: one experiment in a SQLite file of the store, or on a server.

`tracking` builds on this and adds what an artifact says of itself, and the registry. Only these two
modules, `registry` and `pyfunc` import MLflow.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import psutil

from minimind import runtime
from minimind.errors import ServiceError
from minimind.events import Event
from tasks import databases, patience
from tasks.redaction import without_secrets

T = TypeVar("T")

EXPERIMENT = "minimind"
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
METRICS_A_CALL = 1000  # MLflow's own limit for one log_batch
OUTAGES = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED", "UNKNOWN"}
"""The codes of MLflow's errors that answer nothing; a server that cannot be reached has the first."""


def default_tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite file in the store."""
    return os.environ.get(TRACKING_VARIABLE) or sqlite_uri(home)


def sqlite_uri(home: Path) -> str:
    """The SQLite file in the store."""
    return f"sqlite:///{home / 'mlflow.db'}"


def create_database(home: Path) -> None:
    """Make the SQLite file. MLflow's first start on an empty one is not safe against a kill or a second process."""

    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    path = home / "mlflow.db"
    try:
        databases.create_once(databases.MLFLOW, path, _create)
    except (MlflowException, SQLAlchemyError, sqlite3.Error) as error:
        raise ServiceError(f"{path} cannot be made: {_first_line(error)}") from None


def _create(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(f"sqlite:///{path}", (path.parent / "mlartifacts").as_uri()).engine.dispose()


@dataclass(frozen=True)
class Links:
    """Addresses of the two pages, for the links from one to the other."""

    mlflow: str = "http://127.0.0.1:5000"

    def run(self, experiment_id: str, run_id: str) -> str:
        # MLflow 3 opens a page in its view for agents unless the link says otherwise.
        return f"{self.mlflow}/#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"

    def page(self, experiment_id: str, run_id: str, path: str) -> str:
        """A file among the artifacts of a run, shown by MLflow."""
        place = f"experiments/{experiment_id}/runs/{run_id}/artifactPath/{path}"
        return f"{self.mlflow}/#/{place}?workflowType=machine_learning"


class PatientClient:
    """MLflow's client; its calls raise ServiceError where the server gives no answer, and then for a while at once."""

    def __init__(self, uri: str) -> None:
        from mlflow import MlflowClient

        self._uri, self._patience = uri, patience.with_server(uri)
        self._client = self.ask(MlflowClient)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._client, name)
        return lambda *arguments, **keywords: self.ask(lambda: call(*arguments, **keywords))

    def ask(self, call: Callable[[], T]) -> T:
        """What a call gives; MLflow's own error where that is an answer."""
        from mlflow.exceptions import MlflowException

        if left := self._patience.seconds_left():
            raise ServiceError(f"MLflow at {self._uri} does not answer; it is asked again in {left:.0f} s")
        try:
            return call()
        except MlflowException as error:
            if error.error_code not in OUTAGES:
                raise
            self.no_answer(_first_line(error))
        except Exception as error:  # words that are none of MLflow's fail anywhere in its client
            self.no_answer(_first_line(error))

    def no_answer(self, words: str) -> NoReturn:
        """Raise ServiceError, and leave the server alone for a while."""
        self._patience.lost()
        raise ServiceError(f"MLflow at {self._uri} does not answer: {words}") from None


class Runs:
    """One tracking server or database, and the experiment in it."""

    def __init__(self, home: Path, uri: str | None = None) -> None:
        """Connect, and create the SQLite database and the experiment where they are not there. Raises ServiceError."""
        self.home = home
        given = uri or default_tracking_uri(home)
        self.uri = without_secrets(given)
        for name, value in patience.settings().items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it announces every second try
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it prints the traceback of a lock
        import mlflow
        from mlflow.exceptions import MlflowException

        self.failures: tuple[type[BaseException], ...] = (MlflowException, OSError)
        self.links = Links(
            without_secrets(os.environ.get("MINIMIND_MLFLOW_URL", ""))
            or (self.uri if self.uri.startswith("http") else Links.mlflow)
        )
        if given == sqlite_uri(home):
            create_database(home)
        before = os.environ.get(TRACKING_VARIABLE)
        mlflow.set_tracking_uri(given)
        if before is None:  # it sets the variable too, and the next store of this process would take this one's server
            os.environ.pop(TRACKING_VARIABLE, None)
        try:
            self.client = PatientClient(self.uri)
            self.experiment_id = self._experiment()
        except MlflowException as error:  # it answered, and will not have us
            raise ServiceError(f"MLflow at {self.uri} refuses: {_first_line(error)}") from None

    def begin(self, name: str, *, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Start a run and give its id."""
        own = owner() | ({"mlflow.parentRunId": parent} if parent else {})
        if prefect := tags.get("prefect_run"):  # tags are no links on MLflow's page; its description is Markdown
            own["mlflow.note.content"] = f"[Flow run in Prefect]({prefect})"
        run = self.client.create_run(self.experiment_id, run_name=name, tags={**clean_tags(tags), **own})
        return run.info.run_id

    def resume(self, run_id: str) -> None:
        """Go on with a run that an interrupted process left; it is this process's now."""
        self.client.update_run(run_id, status="RUNNING")
        for name, value in owner().items():
            self.client.set_tag(run_id, name, value)

    def end(self, run_id: str, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def close(self, run_id: str, status: str, versions: Mapping[str, str]) -> bool:
        """End the run of a flow, with what its stages gave, unless it has ended; says whether it had not."""
        from mlflow.exceptions import MlflowException

        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if run.info.status not in ("RUNNING", "SCHEDULED"):
            return False
        for stage, version in versions.items():
            self.client.log_param(run_id, f"stage.{stage}", version)
        self.end(run_id, status)
        return True

    def log_steps(self, run_id: str, events: Iterable[Event]) -> None:
        """Write the figures of `events` as metrics, with the time each was made."""
        from mlflow.entities import Metric

        metrics = [
            Metric(name, value, int(event.time * 1000), event.step)
            for event in events
            for name, value in event.metrics.items()
            if value is not None
        ]
        for start in range(0, len(metrics), METRICS_A_CALL):
            self.client.log_batch(run_id, metrics=metrics[start : start + METRICS_A_CALL])

    def log_page(self, run_id: str, html: str, name: str) -> None:
        """Put a page among the files of a run."""
        self.client.log_text(run_id, html, name)

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Write the settings of a run; MLflow takes each once."""
        for name, value in params.items():
            self.client.log_param(run_id, name, value[:6000])

    def log_metrics(self, run_id: str, metrics: Mapping[str, float]) -> None:
        """Write figures that have no course."""
        for name, value in metrics.items():
            self.client.log_metric(run_id, name, value)

    def log_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run; empty ones are left out."""
        for name, value in clean_tags(tags).items():
            self.client.set_tag(run_id, name, value)

    def log_files(self, run_id: str, directory: Path) -> None:
        """Put all files of a directory among those of a run."""
        self.client.log_artifacts(run_id, str(directory))

    def last_step(self, run_id: str) -> int:
        """The last training step whose loss this run has; -1 for none."""
        return max((metric.step for metric in self.client.get_metric_history(run_id, "loss")), default=-1)

    def reap(self) -> int:
        """End the runs that a killed process of this machine left RUNNING; says how many."""
        here = f"attributes.status = 'RUNNING' and tags.host = '{runtime.host()['name']}'"
        running = self.client.search_runs([self.experiment_id], here)
        dead = [run for run in running if not is_alive(run.data.tags.get("process", ""))]
        for run in dead:
            self.client.set_tag(run.info.run_id, "ended_by", "the next start: its process was gone")
            self.end(run.info.run_id, "KILLED")
        return len(dead)

    def newest_runs(self, count: int) -> list[dict[str, Any]]:
        """The newest runs: when, what, how it ended, what it made, its page."""
        found = self.client.search_runs(
            [self.experiment_id], order_by=["attributes.start_time DESC"], max_results=count
        )
        return [
            {
                "started": datetime.fromtimestamp(run.info.start_time / 1000).isoformat(sep=" ", timespec="minutes"),
                "name": run.info.run_name,
                "status": run.info.status,
                "minutes": ((run.info.end_time or time.time() * 1000) - run.info.start_time) / 60_000,
                "made": run.data.tags.get("registered", run.data.tags.get("fingerprint", "")),
                "page": self.links.run(self.experiment_id, run.info.run_id),
            }
            for run in found
        ]

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            location = None if self.uri.startswith("http") else (self.home / "mlartifacts").as_uri()
            try:
                created = self.client.create_experiment(EXPERIMENT, artifact_location=location)
            except MlflowException:  # another process was faster
                return self.client.get_experiment_by_name(EXPERIMENT).experiment_id
            # The page opens in its tracing view without this.
            self.client.set_experiment_tag(created, "mlflow.experimentKind", "custom_model_development")
            return str(created)
        if not found.experiment_id:
            self.client.no_answer("what does is something else, which names no experiment")
        return str(found.experiment_id)

    def log_missing(self, run_id: str, events: list[Event]) -> None:
        """Write the points of every curve that come after the last one the run has of it."""
        names = {name for event in events for name in event.metrics}
        last = {
            name: max((point.step for point in self.client.get_metric_history(run_id, name)), default=-1)
            for name in names
        }
        missing = [
            event.replace(metrics={name: value for name, value in event.metrics.items() if event.step > last[name]})
            for event in events
        ]
        self.log_steps(run_id, missing)


def owner() -> dict[str, str]:
    """By what a later start can see whether this process is gone: a pid alone is given again."""
    process = psutil.Process()
    return {"host": runtime.host()["name"], "process": f"{process.pid}@{_start_of(process)}"}


def is_alive(process: str) -> bool:
    """Whether a process of this machine, `pid@start`, is there."""
    pid, _, started = process.partition("@")
    try:
        found = psutil.Process(int(pid))
        return _start_of(found) == started and found.status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ValueError):
        return False


def _start_of(process: psutil.Process) -> str:
    """When a process started, by a clock that nobody sets: which boot, and ticks since then. Only Linux tells both."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")[:8]
        ticks = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        return f"{boot}.{ticks.split()[19]}"
    except OSError:
        return f"{process.create_time():.2f}"


def clean_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:5000] for name, value in tags.items() if value not in (None, "")}


def _first_line(error: BaseException) -> str:
    words = without_secrets(str(error)).strip()
    return words.splitlines()[0][:300] if words else type(error).__name__
