"""What sealed artifacts say of themselves in MLflow: figures, lineage, a version in the registry.

The truth about a stage lies in its sealed artifact; MLflow is a view of it. So every call here may
fail without harm to the stage: `record` can be done again later, from the artifact alone, by
`sync`. What was registered where is noted in `<home>/registry/`, one small file per artifact.
"""

import json
import time
from graphlib import TopologicalSorter

from filelock import FileLock

from minimind.artifact import MANIFEST_FILE, SUMMARY_FILE, Artifact, Store, open_artifact
from minimind.errors import ServiceError
from minimind.events import EVENTS_FILE, read_events
from minimind.failpoints import reach
from minimind.fingerprint import flatten
from tasks.registry import Registration, Registry, note_path

SHOWN_FILES = ("report.*", "evaluation.json", "figures/*.png", "dropped.jsonl", "changed.jsonl.zst", "ledger.json")
"""What a stage may leave for people, logged to its run where it is small."""
DIGEST_LENGTH = 36  # of a data set in MLflow, at most


class Tracker(Registry):
    """Runs, what artifacts say of themselves in them, and the registry."""

    def record(self, artifact: Artifact, *, run_id: str | None = None, parent: str | None = None) -> Registration:
        """Write everything an artifact says of itself into MLflow and register it, once.

        `run_id` goes on with a run that already has some of its steps; without it a new run is made. A second
        process waits here for the first, and is given what that one noted.
        """
        with FileLock(note_path(self.home, artifact).with_suffix(".lock")):
            done = self.registration(artifact)
            return done if done and run_id in (None, done.run_id) else self._record(artifact, run_id, parent)

    def registration(self, artifact: Artifact) -> Registration | None:
        """What `record` noted for this artifact and this server; None where it was not recorded."""
        found = self._noted_here(artifact)
        return found if found and self._has_run(found.run_id) else None

    def knows(self, registration: Registration) -> bool:
        """Whether what was noted is still there; a server that does not answer, and another one, are believed."""
        return registration.tracking_uri != self.uri or self._has_run(registration.run_id)

    def sync(self, store: Store, *, noted_only: bool = False) -> list[Registration]:
        """Record every sealed artifact that this server does not know yet, in the order they were made, parents first.

        `noted_only` believes what the store noted, and asks the server nothing.
        """
        known = self._noted_here if noted_only else self.registration
        in_time = sorted(store.all(), key=lambda artifact: artifact.manifest.created_at)
        missing = {a.fingerprint: a for a in in_time if known(a) is None}
        order = TopologicalSorter({name: set(a.manifest.parents.values()) for name, a in missing.items()})
        in_order = (missing[name] for name in order.static_order() if name in missing)
        return [self.record(artifact, run_id=self._known_run(artifact)) for artifact in in_order]

    def _record(self, artifact: Artifact, run_id: str | None, parent: str | None) -> Registration:
        manifest = artifact.manifest
        tags = {"stage": artifact.kind, "fingerprint": artifact.fingerprint, **manifest.context}
        run_id = run_id or self.begin(artifact.label, tags=tags, parent=parent)
        self._log_payload(artifact, run_id)
        self._log_inputs(artifact, run_id)
        registration = self.register(artifact, run_id)
        if registration.uri:
            self.client.set_tag(run_id, "registered", registration.uri)
        self.end(run_id, "FINISHED")
        reach("register.note")
        return registration.write(note_path(self.home, artifact))

    def _log_payload(self, artifact: Artifact, run_id: str) -> None:
        """Parameters, figures, the steps still missing, and the small files of an artifact."""
        from mlflow.entities import Metric, Param, RunTag

        summary, config = artifact.summary(), flatten(artifact.manifest.parts.config)
        events = read_events(artifact.dir / EVENTS_FILE)
        curves = [event for event in events if event.kind == "step"]
        figures = {name: value for name, value in summary.figures.items() if value is not None}
        # A training's figures are tags: as metrics of one point they would hide its curves on MLflow's page.
        numbers = {} if curves else {k: v for k, v in figures.items() if isinstance(v, int | float)}
        words = {name: str(value)[:5000] for name, value in figures.items() if name not in numbers}
        moment = int(time.time() * 1000)
        known = self.client.get_run(run_id).data.params
        self.client.log_batch(
            run_id,
            metrics=[Metric(name, float(value), moment, 0) for name, value in numbers.items()],
            params=[Param(k, str(v)[:6000]) for k, v in config.items() if k not in known][:100],
            tags=[RunTag(f"summary.{k}", v) for k, v in words.items()] + [RunTag("artifact", str(artifact.dir))],
        )
        self.log_missing(run_id, curves)
        for pattern in (MANIFEST_FILE, SUMMARY_FILE, *SHOWN_FILES):
            for path in artifact.dir.glob(pattern):
                folder = path.parent.relative_to(artifact.dir).as_posix()
                if path.stat().st_size < 10_000_000:
                    self.client.log_artifact(run_id, str(path), folder if folder != "." else None)

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
            datasets.append((Dataset(opened.label, fingerprint, "local", source), name))
        self.client.log_inputs(
            run_id,
            datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", use)]) for dataset, use in datasets],
            models=models or None,
        )

    def _noted_here(self, artifact: Artifact) -> Registration | None:
        return self.noted_here(artifact.kind, artifact.fingerprint)

    def _has_run(self, run_id: str) -> bool:
        """Whether the server has a run; one that does not answer is believed to."""
        from mlflow.exceptions import MlflowException

        try:
            return bool(self.client.get_run(run_id).info.lifecycle_stage == "active")
        except ServiceError:
            return True
        except MlflowException as error:
            return error.error_code != "RESOURCE_DOES_NOT_EXIST"

    def _known_run(self, artifact: Artifact) -> str | None:
        """The run that followed this artifact live, if this server has it; else one whose process recorded the artifact
        and was killed before it could note so."""
        if (run_id := artifact.manifest.context.get("mlflow_run_id")) and self._has_run(run_id):
            return run_id
        earlier = self.look_up(artifact.kind, artifact.fingerprint)
        return earlier.run_id if earlier and self._has_run(earlier.run_id) else None
