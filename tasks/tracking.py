"""What sealed artifacts say of themselves in MLflow: figures, lineage, versions in the registry.

The truth about a stage lies in its sealed artifact; MLflow is a view of it. So every call here may
fail without harm to the stage: `record` can be done again later, from the artifact alone, by
`sync`. What was registered where is noted in `<home>/registry/`, one small file per artifact.

A tokenizer or model is copied whole into the registry; a corpus or token set, which may be
terabytes, goes there as manifest, figures and location.
"""

import json
import logging
import shutil
import tempfile
import time
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

from minimind import runtime
from minimind.artifact import MANIFEST_FILE, SUMMARY_FILE, Artifact, Store, open_artifact, verify
from minimind.config import Config
from minimind.errors import ArtifactError, MissingError
from minimind.events import EVENTS_FILE, read_events
from minimind.fingerprint import flatten
from tasks.runs import Runs, clean_tags

logger = logging.getLogger(__name__)

CANDIDATE = "candidate"
"""The alias of the newest version of every registered model."""
CHAMPION = "champion"
"""The alias of the models behind the last published one."""
WHOLE = {"tokenizer", "pretrain", "sft", "dpo", "lora", "distill", "publish"}
"""Stages whose artifact is stored in the registry with all its files."""
REGISTRY_NAMES = {"shard": "corpus", "publish": "chat"} | {
    stage: stage for stage in ("tokenizer", "tokens", "pretrain", "sft", "dpo", "lora", "distill")
}
SHOWN_FILES = ("report.*", "evaluation.json", "figures/*.png", "dropped.jsonl", "changed.jsonl.zst", "ledger.json")
"""What a stage may leave for people, logged to its run where it is small."""
DIGEST_LENGTH = 36  # of a data set in MLflow, at most


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


def registered_as(label: str) -> str | None:
    """Label → name in the registry: `minimind-corpus`, `minimind-tokens-chat`; None where a stage has no entry."""
    stage, _, rows = label.partition("-")
    name = REGISTRY_NAMES.get(stage)
    return name and f"minimind-{name}" + (f"-{rows}" if rows not in ("", "pretrain") else "")


def noted(home: Path, kind: str, fingerprint: str) -> Registration | None:
    """Where an artifact was last recorded, as it stands in the store; no server is asked."""
    path = _note(home, kind, fingerprint)
    return Registration.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None


def _note(home: Path, kind: str, fingerprint: str) -> Path:
    directory = home / "registry"
    directory.mkdir(parents=True, exist_ok=True)
    return directory / f"{kind}-{fingerprint}.json"


class Tracker(Runs):
    """Runs, what artifacts say of themselves in them, and the registry."""

    def record(self, artifact: Artifact, *, run_id: str | None = None, parent: str | None = None) -> Registration:
        """Write everything an artifact says of itself into MLflow and register it.

        `run_id` goes on with a run that already has some of its steps; without it a new run is made.
        """
        manifest = artifact.manifest
        tags = {"stage": artifact.kind, "fingerprint": artifact.fingerprint, **manifest.context}
        run_id = run_id or self.begin(artifact.label, tags=tags, parent=parent)
        self._log_payload(artifact, run_id)
        self._log_inputs(artifact, run_id)
        registration = self._register(artifact, run_id)
        if registration.uri:
            self.client.set_tag(run_id, "registered", registration.uri)
        self.end(run_id, "FINISHED")
        runtime.write_json(_note(self.home, artifact.kind, artifact.fingerprint), registration.model_dump(mode="json"))
        return registration

    def registration(self, artifact: Artifact) -> Registration | None:
        """What `record` noted for this artifact and this server; None where it was not recorded."""
        found = self._noted_here(artifact)
        return found if found and self._has_run(found.run_id) else None

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

    def sync(self, store: Store, *, noted_only: bool = False) -> list[Registration]:
        """Record every sealed artifact that this server does not know yet, parents first.

        `noted_only` believes what the store noted, and asks the server nothing.
        """
        known = self._noted_here if noted_only else self.registration
        missing = {a.fingerprint: a for a in store.all() if known(a) is None}
        order = TopologicalSorter({name: set(a.manifest.parents.values()) for name, a in missing.items()})
        in_order = (missing[name] for name in order.static_order() if name in missing)
        return [self.record(artifact, run_id=self._known_run(artifact)) for artifact in in_order]

    def _log_payload(self, artifact: Artifact, run_id: str) -> None:
        """Parameters, figures, the steps still missing, and the small files of an artifact."""
        from mlflow.entities import Metric, Param, RunTag

        summary, config = artifact.summary(), flatten(artifact.manifest.parts.config)
        events, _ = read_events(artifact.dir / EVENTS_FILE)
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

    def _register(self, artifact: Artifact, run_id: str) -> Registration:
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

        name = registered_as(artifact.label)
        if name is None:
            return Registration(tracking_uri=self.uri, run_id=run_id)
        tags = clean_tags(
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

    def registered_names(self) -> set[str]:
        """The names in the registry."""
        return {model.name for model in self.client.search_registered_models()}

    def aliased(self) -> dict[str, str]:
        """Fingerprint → URI of every version in the registry that has an alias."""
        found = {}
        for model in self.client.search_registered_models():
            for alias, version in self.client.get_registered_model(model.name).aliases.items():
                fingerprint = self.client.get_model_version(model.name, version).tags.get("fingerprint")
                if fingerprint:
                    found[fingerprint] = f"models:/{model.name}@{alias}"
        return found

    def set_alias(self, registration: Registration, alias: str) -> None:
        """Point `models:/<name>@<alias>` at a registered version."""
        self.client.set_registered_model_alias(registration.name, alias, str(registration.version))

    def alias_of(self, name: str, alias: str) -> str | None:
        """The URI of the version an alias of a name points at; None where the name or the alias is not there."""
        from mlflow.exceptions import MlflowException

        try:
            aliases = self.client.get_registered_model(name).aliases
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        return f"models:/{name}/{aliases[alias]}" if alias in aliases else None

    def point_alias(self, alias: str, uri: str) -> None:
        """Point `models:/<name>@<alias>` at `models:/<name>/<version>`."""
        name, _, wanted = alias.removeprefix("models:/").partition("@")
        self.client.set_registered_model_alias(name, wanted, uri.rpartition("/")[2])

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

    def _noted_here(self, artifact: Artifact) -> Registration | None:
        found = noted(self.home, artifact.kind, artifact.fingerprint)
        return found if found and found.tracking_uri == self.uri else None

    def _has_run(self, run_id: str) -> bool:
        """Whether the server has a run; one that does not answer is believed to."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            return error.error_code != "RESOURCE_DOES_NOT_EXIST"

    def _known_run(self, artifact: Artifact) -> str | None:
        """The run that followed this artifact live, if this server has it."""
        run_id = artifact.manifest.context.get("mlflow_run_id")
        return run_id if run_id and self._has_run(run_id) else None
