"""The registry: a name for every kind of artifact, versions, aliases, and the way back to the files.

A tokenizer or model is copied whole into it; a corpus or token set, which may be terabytes, goes there as manifest,
figures and location.
"""

import logging
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

from minimind.artifact import (
    MANIFEST_FILE,
    REGISTRY_DIR,
    SUMMARY_FILE,
    Artifact,
    Store,
    keep_only_payload,
    open_artifact,
    verify,
)
from minimind.errors import ArtifactError, MissingError
from minimind.failpoints import reach
from minimind.proven import Proven
from tasks.runs import Runs, clean_tags

logger = logging.getLogger(__name__)

CANDIDATE = "candidate"
"""The alias of the newest version of every registered model."""
CHAMPION = "champion"
"""The alias of the models behind the last published one."""
WHOLE = {"tokenizer", "pretrain", "sft", "dpo", "lora", "distill", "publish"}
"""Stages whose artifact is stored in the registry with all its files."""
SERVED = {"publish"}
"""Stages whose artifact MLflow's own tools can load (`tasks.pyfunc`)."""
REGISTRY_NAMES = {"shard": "corpus", "publish": "chat", "generate": "answers"} | {
    stage: stage for stage in ("tokenizer", "tokens", "pretrain", "sft", "dpo", "lora", "distill")
}


class Registration(Proven):
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
    """Where an artifact was last recorded, as it stands in the store; no server is asked.

    A damaged note is set aside, as if it had not been recorded: the next run, or `minimind sync`, records it again.
    """
    instead = "MLflow is asked for what it has of it at the next start"
    return Registration.read_or_set_aside(_note(home, kind, fingerprint), instead=instead)


def note_path(home: Path, artifact: Artifact) -> Path:
    """Where the store notes an artifact's registration, in a directory that is there."""
    path = _note(home, artifact.kind, artifact.fingerprint)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _note(home: Path, kind: str, fingerprint: str) -> Path:
    return home / REGISTRY_DIR / f"{kind}-{fingerprint}.json"


class Registry(Runs):
    """Names, versions and aliases in one tracking server."""

    def register(self, artifact: Artifact, run_id: str) -> Registration:
        """A version of its name that the run made, and `@candidate` at the newest; the files stay what they are."""
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
        # MLflow fails where two processes make a name or an alias at once.
        with FileLock(self.home / REGISTRY_DIR / f"{name}.lock"):
            version = self._version_of(name, run_id) or self._new_version(artifact, name, run_id, tags)
            reach("register.alias")
            self._point_at_newest(name, int(version.version))
        number, model_id = int(version.version), version.source.rpartition("/")[2]  # its own `model_id` stays empty
        return Registration(tracking_uri=self.uri, run_id=run_id, name=name, version=number, model_id=model_id)

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

    def noted_here(self, kind: str, fingerprint: str) -> Registration | None:
        """Where an artifact was recorded, as the store noted it, if that was in this server.

        The server is asked only where the note is damaged, which is then written again.
        """
        path = _note(self.home, kind, fingerprint)
        there, found = path.exists(), noted(self.home, kind, fingerprint)
        if there and found is None:  # it is damaged
            with suppress(*self.failures):
                found = self.look_up(kind, fingerprint)
                found = found and found.write(path)
        return found if found and found.tracking_uri == self.uri else None

    def look_up(self, kind: str, fingerprint: str) -> Registration | None:
        """What the server has of an artifact, whatever the store noted: its newest version, else its newest run."""
        of_it = f"tags.fingerprint = '{fingerprint}' and tags.stage = '{kind}'"
        versions = self.client.search_model_versions(of_it, order_by=["creation_timestamp DESC"], max_results=1)
        if versions:
            found = versions[0]
            model_id = found.source.rpartition("/")[2]
            made = {"name": found.name, "version": int(found.version), "model_id": model_id}
            return Registration(tracking_uri=self.uri, run_id=found.run_id, **made)
        finished = f"{of_it} and attributes.status = 'FINISHED'"
        runs = self.client.search_runs([self.experiment_id], finished, max_results=1)
        return Registration(tracking_uri=self.uri, run_id=runs[0].info.run_id) if runs else None

    def fetch_file(self, registration: Registration, path: str, target: Path) -> bool:
        """Write a file of a registered artifact to `target`, from its version or its run; False where neither has it.

        Nobody has proven it.
        """
        places = [f"runs:/{registration.run_id}/{path}"]
        if registration.model_id:
            places.insert(0, f"models:/{registration.model_id}/{path}")
        for place in places:
            with tempfile.TemporaryDirectory() as directory, suppress(*self.failures):
                self._download(place, directory)
                found = next((p for p in Path(directory).rglob(Path(path).name) if p.is_file()), None)
                if found:
                    shutil.move(found, target)
                    return True
        return False

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

    def set_alias(self, name: str, alias: str, uri: str) -> None:
        """Point `models:/<name>@<alias>` at a version, given as `models:/<name>/<version>`."""
        self.client.set_registered_model_alias(name, alias, uri.rpartition("/")[2])

    def fingerprint_of(self, uri: str) -> str:
        """The fingerprint of what was registered as a version. Raises MissingError."""
        return self._version(uri).tags.get("fingerprint", "")

    def tag_version(self, uri: str, tags: Mapping[str, str]) -> None:
        """Write tags on a version, given as `models:/<name>/<version>`; in the place of those of the same names."""
        name, _, version = uri.removeprefix("models:/").partition("/")
        for key, value in tags.items():
            self.client.set_model_version_tag(name, version, key, value[:5000])

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

    def _new_version(self, artifact: Artifact, name: str, run_id: str, tags: dict[str, str]) -> Any:
        from mlflow.entities import LoggedModelOutput
        from mlflow.exceptions import MlflowException

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
            if artifact.kind in SERVED:
                self._log_flavor(artifact, run_id, model.model_id)
        reach("register.files")
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return self.client.create_model_version(
            name, source=f"models:/{model.model_id}", run_id=run_id, tags=tags, model_id=model.model_id
        )

    def _log_flavor(self, artifact: Artifact, run_id: str, model_id: str) -> None:
        """What makes of a model's files a model to MLflow: beside them in the registry, and nowhere else."""
        from tasks.pyfunc import write_flavor  # it imports torch

        size = sum(entry.size for entry in artifact.manifest.files)
        with tempfile.TemporaryDirectory() as directory:
            write_flavor(flavor := Path(directory) / "flavor", run_id=run_id, model_id=model_id, size=size)
            self.client.log_model_artifacts(model_id, str(flavor))

    def _version_of(self, name: str, run_id: str) -> Any | None:
        """The version that a run made already: its process was killed before it could note so."""
        found = self.client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'", max_results=1)
        return found[0] if found else None

    def _point_at_newest(self, name: str, version: int) -> None:
        """`@candidate` at the newest version: another machine may register at the same time, so look again after it."""
        newest, order = version, ["version_number DESC"]
        while True:
            self.client.set_registered_model_alias(name, CANDIDATE, str(newest))
            found = self.client.search_model_versions(f"name = '{name}'", max_results=1, order_by=order)
            if not found or int(found[0].version) <= newest:
                return
            newest = int(found[0].version)

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

    def _download(self, uri: str, directory: str) -> None:
        import mlflow

        self.client.ask(lambda: mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=directory))

    def _fetch(self, version: Any, store: Store, stage: str, fingerprint: str) -> Artifact:
        if stage not in WHOLE:
            raise MissingError(
                f"models:/{version.name}/{version.version}: its files were at {version.tags.get('location')} and are "
                f"not there any more; run the stage `{stage}` again"
            )
        with store.building(stage, fingerprint) as scratch:
            self._download(version.source, str(scratch))
            fetched = open_artifact(scratch)
            keep_only_payload(fetched)  # MLflow's own files lie beside it
            verify(fetched)
            store.place(scratch, store.path(stage, fingerprint))
        return open_artifact(store.path(stage, fingerprint))
