"""MLflow, and nothing else imports it: runs, metrics, lineage, the registry.

The truth about a stage lies in its sealed artifact; MLflow is a view of it. So every call here may
fail without harm to the stage: `record` can be done again later, from the artifact alone, by
`sync`. What was registered where is noted in `<home>/registry/`, one small file per artifact.

A tokenizer or model is copied whole into the registry; a corpus or token set, which may be
terabytes, goes there as manifest, figures and location.
"""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, SUMMARY_FILE, Artifact, Store, open_artifact, verify
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError, ServiceError
from minimind.events import EVENTS_FILE, Event, read_events

logger = logging.getLogger(__name__)

EXPERIMENT = "minimind"
CANDIDATE = "candidate"
"""The alias of the newest version of every registered model."""
CHAMPION = "champion"
"""The alias of the models behind the last published one."""
WHOLE = {"tokenizer", "pretrain", "sft", "dpo", "lora", "distill", "publish"}
"""Stages whose artifact is stored in the registry with all its files."""
REGISTRY_NAMES = {"shard": "corpus", "publish": "chat"} | {
    stage: stage for stage in ("tokenizer", "tokens", "pretrain", "sft", "dpo", "lora", "distill")
}
DIGEST_LENGTH = 36  # of a data set in MLflow, at most
METRICS_A_CALL = 1000  # MLflow's own limit for one log_batch


class Registration(Config):
    """Where an artifact went in a tracking server."""

    tracking_uri: str
    run_id: str
    name: str | None = None
    version: int | None = None
    model_id: str | None = None

    @property
    def uri(self) -> str | None:
        """`models:/<name>/<version>`, or None for a stage that is not registered (ingest, clean, evaluate)."""
        return f"models:/{self.name}/{self.version}" if self.name else None


def label_of(stage: str, config: Mapping[str, Any]) -> str:
    """`tokens-chat`: the stage, and the kind of rows it is for where there are several."""
    rows = config.get("rows")
    return f"{stage}-{rows}" if rows else stage


def registry_name(artifact: Artifact) -> str | None:
    """`minimind-corpus`, `minimind-tokens-chat`, `minimind-sft`, …; None where a stage has no entry."""
    name = REGISTRY_NAMES.get(artifact.kind)
    rows = artifact.manifest.parts.config.get("rows")
    return name and f"minimind-{name}" + (f"-{rows}" if rows not in (None, "pretrain") else "")


def default_tracking_uri(home: Path) -> str:
    """`MLFLOW_TRACKING_URI`, else a SQLite file in the store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"


def create_database(home: Path) -> None:
    """Make the SQLite file once: under a lock, under another name, then renamed.

    MLflow's first start on an empty file is not safe against a kill or a second process.
    """
    path = home / "mlflow.db"
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(home / ".mlflow.lock"):
        if path.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        unfinished = home / ".mlflow.new.db"
        unfinished.unlink(missing_ok=True)
        store = SqlAlchemyStore(f"sqlite:///{unfinished}", (home / "mlartifacts").as_uri())
        store.engine.dispose()
        runtime.fsync_path(unfinished)
        unfinished.rename(path)


@dataclass(frozen=True)
class Links:
    """Addresses of the two pages, for the links from one to the other."""

    mlflow: str = "http://127.0.0.1:5000"

    def run(self, experiment_id: str, run_id: str) -> str:
        return f"{self.mlflow}/#/experiments/{experiment_id}/runs/{run_id}"


class Tracker:
    """One tracking server or database, and the experiment in it."""

    def __init__(self, home: Path, uri: str | None = None) -> None:
        """Connect, and create the SQLite database and the experiment where they are not there. Raises ServiceError."""
        self.home = home
        self.uri = uri or default_tracking_uri(home)
        # A dead server must cost seconds: by default a call blocks for four minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        logging.getLogger("alembic").setLevel(logging.WARNING)
        import mlflow
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        if self.uri == f"sqlite:///{home / 'mlflow.db'}":
            create_database(home)
        mlflow.set_tracking_uri(self.uri)
        self.client = MlflowClient()
        self.failures: tuple[type[BaseException], ...] = (MlflowException, OSError)
        self.links = Links(
            os.environ.get("MINIMIND_MLFLOW_URL") or (self.uri if self.uri.startswith("http") else Links.mlflow)
        )
        try:
            self.experiment_id = self._experiment()
        except self.failures as error:
            raise ServiceError(f"MLflow at {self.uri} does not answer: {_first_line(error)}") from None

    def begin(self, name: str, *, tags: Mapping[str, str], parent: str | None = None) -> str:
        """Start a run and give its id."""
        own = _owner() | ({"mlflow.parentRunId": parent} if parent else {})
        run = self.client.create_run(self.experiment_id, run_name=name, tags={**_clean_tags(tags), **own})
        return run.info.run_id

    def resume(self, run_id: str) -> None:
        """Go on with a run that an interrupted process left; it is this process's now."""
        self.client.update_run(run_id, status="RUNNING")
        for name, value in _owner().items():
            self.client.set_tag(run_id, name, value)

    def end(self, run_id: str, status: str) -> None:
        """Close a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

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

    def last_step(self, run_id: str) -> int:
        """The last training step whose loss this run has; -1 for none."""
        return max((metric.step for metric in self.client.get_metric_history(run_id, "loss")), default=-1)

    def record(self, artifact: Artifact, *, run_id: str | None = None, parent: str | None = None) -> Registration:
        """Write everything an artifact says of itself into MLflow and register it.

        `run_id` goes on with a run that already has some of its steps; without it a new run is made.
        """
        manifest = artifact.manifest
        label = label_of(artifact.kind, manifest.parts.config)
        tags = {"stage": artifact.kind, "fingerprint": artifact.fingerprint, **manifest.context}
        run_id = run_id or self.begin(label, tags=tags, parent=parent)
        self._log_payload(artifact, run_id)
        self._log_inputs(artifact, run_id)
        registration = self._register(artifact, run_id)
        if registration.uri:
            self.client.set_tag(run_id, "registered", registration.uri)
        self.end(run_id, "FINISHED")
        runtime.write_json(self._note(artifact), registration.model_dump(mode="json"))
        return registration

    def registration(self, artifact: Artifact) -> Registration | None:
        """What `record` noted for this artifact and this server; None where it was not recorded."""
        path = self._note(artifact)
        if not path.exists():
            return None
        found = Registration.model_validate_json(path.read_text(encoding="utf-8"))
        return found if found.tracking_uri == self.uri else None

    def resolve(self, uri: str, store: Store) -> Artifact:
        """The artifact behind `models:/<name>/<version>` or `models:/<name>@<alias>`, its bytes proven.

        Taken from the local store where it is whole there, else fetched from the registry into it.
        """
        version = self._version(uri)
        stage, fingerprint = version.tags.get("stage", ""), version.tags.get("fingerprint", "")
        if not (stage and fingerprint):
            raise MissingError(f"{uri}: registered by something else than MiniMind (it has no fingerprint tag)")
        try:
            found = store.find(stage, fingerprint)
        except ArtifactError as error:
            logger.warning("%s — fetched again from the registry", error)
            found = None
        return found or self._fetch(version, store, stage, fingerprint)

    def reap(self) -> int:
        """End the runs that a killed process of this machine left RUNNING; says how many."""
        alive = {f"{p.pid}@{p.info['create_time']:.2f}" for p in psutil.process_iter(["create_time"])}
        here = f"attributes.status = 'RUNNING' and tags.host = '{runtime.host()['name']}'"
        dead = [
            run
            for run in self.client.search_runs([self.experiment_id], here)
            if run.data.tags.get("process") not in alive
        ]
        for run in dead:
            self.client.set_tag(run.info.run_id, "ended_by", "the next start: its process was gone")
            self.end(run.info.run_id, "KILLED")
        return len(dead)

    def sync(self, store: Store) -> list[Registration]:
        """Record every sealed artifact that this server does not know yet, parents first."""
        missing = {a.fingerprint: a for a in store.all() if self.registration(a) is None}
        order = TopologicalSorter({name: set(a.manifest.parents.values()) for name, a in missing.items()})
        known = (missing[name] for name in order.static_order() if name in missing)
        return [self.record(artifact, run_id=self._known_run(artifact)) for artifact in known]

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
            return created
        return found.experiment_id

    def _log_payload(self, artifact: Artifact, run_id: str) -> None:
        """Parameters, figures, the steps still missing, and the small files of an artifact."""
        from mlflow.entities import Metric, Param, RunTag

        summary, config = artifact.summary(), _flatten(artifact.manifest.parts.config)
        numbers = {k: v for k, v in summary.figures.items() if isinstance(v, int | float)}
        words = {k: str(v) for k, v in summary.figures.items() if not isinstance(v, int | float) and v is not None}
        moment = int(time.time() * 1000)
        known = self.client.get_run(run_id).data.params
        self.client.log_batch(
            run_id,
            metrics=[Metric(f"summary/{name}", float(value), moment, 0) for name, value in numbers.items()],
            params=[Param(k, str(v)[:6000]) for k, v in config.items() if k not in known][:100],
            tags=[RunTag(f"summary.{k}", v[:5000]) for k, v in words.items()] + [RunTag("artifact", str(artifact.dir))],
        )
        events, _ = read_events(artifact.dir / EVENTS_FILE)
        self._log_missing(run_id, [event for event in events if event.kind == "step"])
        for pattern in (MANIFEST_FILE, SUMMARY_FILE, "report.*", "evaluation.json", "figures/*.png", "dropped.jsonl"):
            for path in artifact.dir.glob(pattern):
                folder = path.parent.relative_to(artifact.dir).as_posix()
                if path.stat().st_size < 10_000_000:
                    self.client.log_artifact(run_id, str(path), folder if folder != "." else None)

    def _log_missing(self, run_id: str, events: list[Event]) -> None:
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

    def _log_inputs(self, artifact: Artifact, run_id: str) -> None:
        """The lineage: what was read, as data sets and logged models."""
        from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelInput

        store, datasets, models = Store(self.home), [], []
        for name, fingerprint in artifact.manifest.parts.sources.items():
            datasets.append(
                (Dataset(name[-500:], fingerprint[:DIGEST_LENGTH], "local", json.dumps({"name": name})), "source")
            )
        for name, fingerprint in artifact.manifest.parents.items():
            parent = next((p for p in store.root.glob(f"*/{fingerprint}") if p.is_dir()), None)
            if parent is None:
                continue
            opened = open_artifact(parent)
            noted = self.registration(opened)
            if noted and noted.model_id:
                models.append(LoggedModelInput(noted.model_id))
            source = json.dumps({"uri": parent.as_uri()})
            label = label_of(opened.kind, opened.manifest.parts.config)
            datasets.append((Dataset(label, fingerprint, "local", source), name))
        self.client.log_inputs(
            run_id,
            datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", use)]) for dataset, use in datasets],
            models=models or None,
        )

    def _register(self, artifact: Artifact, run_id: str) -> Registration:
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        name = registry_name(artifact)
        if name is None:
            return Registration(tracking_uri=self.uri, run_id=run_id)
        tags = _clean_tags(
            {
                "stage": artifact.kind,
                "fingerprint": artifact.fingerprint,
                "parents": ",".join(artifact.manifest.parents.values()),
                "location": str(artifact.dir),
                **artifact.manifest.context,
            }
        )
        model = self.client.create_logged_model(
            experiment_id=self.experiment_id, name=name, source_run_id=run_id, tags=tags, model_type=artifact.kind
        )
        with tempfile.TemporaryDirectory() as light:
            source = artifact.dir
            if artifact.kind not in WHOLE:
                source = Path(light)
                for file in (MANIFEST_FILE, SUMMARY_FILE):
                    shutil.copy(artifact.dir / file, light)
            self.client.log_model_artifacts(model.model_id, str(source))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        try:
            self.client.get_registered_model(name)
        except MlflowException:
            self.client.create_registered_model(name)
        version = self.client.create_model_version(
            name, source=f"models:/{model.model_id}", run_id=run_id, tags=tags, model_id=model.model_id
        )
        self.client.set_registered_model_alias(name, CANDIDATE, version.version)
        return Registration(
            tracking_uri=self.uri, run_id=run_id, name=name, version=int(version.version), model_id=model.model_id
        )

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

    def registered_names(self) -> set[str]:
        """The names in the registry."""
        return {model.name for model in self.client.search_registered_models()}

    def set_alias(self, registration: Registration, alias: str) -> None:
        """Point `models:/<name>@<alias>` at a registered version."""
        self.client.set_registered_model_alias(registration.name, alias, str(registration.version))

    def _version(self, uri: str) -> Any:
        from mlflow.exceptions import MlflowException

        name, _, rest = uri.removeprefix("models:/").replace("@", "/@", 1).partition("/")
        try:
            if rest.startswith("@"):
                return self.client.get_model_version_by_alias(name, rest[1:])
            return self.client.get_model_version(name, rest)
        except MlflowException:
            known = ", ".join(sorted(model.name for model in self.client.search_registered_models())) or "none yet"
            raise MissingError(f"{uri}: not in the registry at {self.uri} (registered models: {known})") from None

    def _fetch(self, version: Any, store: Store, stage: str, fingerprint: str) -> Artifact:
        import mlflow

        if stage not in WHOLE:
            raise MissingError(
                f"models:/{version.name}/{version.version}: its files were at {version.tags.get('location')} and are "
                f"not there any more; run the stage `{stage}` again"
            )
        with store.building(stage, fingerprint) as scratch:
            mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=str(scratch))
            verify(open_artifact(scratch))
            store.place(scratch, store.path(stage, fingerprint))
        return open_artifact(store.path(stage, fingerprint))

    def _note(self, artifact: Artifact) -> Path:
        directory = self.home / "registry"
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"{artifact.kind}-{artifact.fingerprint}.json"

    def _known_run(self, artifact: Artifact) -> str | None:
        """The run that followed this artifact live, if this server has it."""
        from mlflow.exceptions import MlflowException

        run_id = artifact.manifest.context.get("mlflow_run_id")
        try:
            return self.client.get_run(run_id).info.run_id if run_id else None
        except MlflowException:
            return None


def _owner() -> dict[str, str]:
    """Tags by which a later start can see that the process behind a run is gone."""
    process = psutil.Process()
    return {"host": runtime.host()["name"], "process": f"{process.pid}@{process.create_time():.2f}"}


def _clean_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value)[:5000] for name, value in tags.items() if value not in (None, "")}


def _flatten(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner})
    return flat


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
