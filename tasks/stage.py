"""The wrapper that makes every library stage a Prefect task and an MLflow run.

`Pipeline.stage` names the output (fingerprint), reuses the sealed artifact where it is whole, else
runs the stage, follows its events, seals, records and registers it, and takes the result back from
the registry for the next stage. The Prefect task's cache key is the fingerprint. A pipeline that
only *plans* walks the same flow and runs nothing.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash
from prefect import get_run_logger, task
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from minimind.artifact import Artifact, Inputs, Store, open_artifact, verify
from minimind.config import Config
from minimind.data.kinds import RowKind
from minimind.data.spec import DataSpec, kinds
from minimind.errors import ArtifactError, ConfigError, MiniMindError, ServiceError
from minimind.recipe import Recipe
from minimind.stage import Stage, build
from minimind.train.config import TrainConfig
from minimind.train.slots import slot
from minimind.workers import mapping
from tasks.display import Display
from tasks.pieces import on_task_runner
from tasks.plan import Step, plan, stand_in
from tasks.prefect_page import one_line, show_stage, tell_prefect
from tasks.recording import Recording
from tasks.redaction import without_secrets
from tasks.registry import CANDIDATE, CHAMPION, registered_as
from tasks.retries import PAUSES_SECONDS, may_pass, pause_before_retry, retries
from tasks.running import Status
from tasks.tracking import Tracker

logger = logging.getLogger(__name__)

STARTS = {"sft": "pretrain", "dpo": "sft", "lora": "sft", "distill": "pretrain"}
"""Training stage → the one whose model it starts from."""


@dataclass
class Pipeline:
    """One run of a flow: its recipe and data, where its artifacts live, and who is told."""

    name: str
    recipe: Recipe
    spec: DataSpec
    store: Store
    tracker: Tracker | None
    display: Display
    refresh: bool = False
    planning: bool = False
    run_id: str | None = None
    context: dict[str, str] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    status: Status | None = None
    """How it ended; None while it runs."""

    def stage(self, stage: Stage[Any], config: Config, inputs: Inputs) -> Artifact:
        """The stage's artifact: reused where it may be, else built, recorded and registered."""
        parts = stage.parts(config, {name: artifact.fingerprint for name, artifact in inputs.items()})
        label, fingerprint = parts.label, parts.fingerprint()
        found, problem = self._look(stage.name, fingerprint)
        reused = found is not None and not self.refresh
        if self.planning:
            because = problem or ("--refresh" if self.refresh else "")
            self.steps.append(
                plan(parts, config, inputs, before=self.steps, store=self.store, reused=reused, because=because)
            )
            return found or stand_in(self.store, parts)
        if problem:
            found = None if self.refresh else self._fetched(stage.name, fingerprint)
            self.display.warn(f"{problem} — it is {'fetched from the registry' if found else 'built'} again now")
            reused = found is not None
        uri = self._run(stage, config, inputs, label=label, fingerprint=fingerprint, whole=found is not None)
        self.steps.append(Step(label, parts, reused, uri=uri))
        if FlowRunContext.get():  # the flow's own page shows only the flow's own lines
            get_run_logger().info("%s: %s %s", label, "reused" if reused else "made", uri or fingerprint)
        return self._take(uri, stage.name, fingerprint)

    @property
    def kinds(self) -> tuple[RowKind, ...]:
        """The kinds of rows the data spec has sources for."""
        found = kinds(self.spec)
        if "pretrain" not in found:
            raise ConfigError(
                f'data spec {self.spec.name}: no [[source]] has rows = "pretrain"; a model starts from text'
            )
        return found

    def trains(self, stage: str, kinds: Collection[str]) -> bool:
        """Whether the recipe asks for a training stage; one that lacks its rows is skipped with a warning."""
        section = getattr(self.recipe, stage)
        if section is None:
            return False
        start = STARTS.get(stage)
        if start and getattr(self.recipe, start) is None:
            self.display.warn(
                f"{stage} is skipped: it starts from {start}, and recipe {self.recipe.name} has no [{start}]"
            )
            return False
        before = getattr(self.recipe, start) if start else section
        if missing := sorted({section.own_kind(kinds), before.own_kind(kinds)} - {*kinds}):
            self.display.warn(f"{stage} is skipped: there are no rows of kind {', '.join(missing)}")
        return not missing

    def uri_of(self, artifact: Artifact) -> str:
        """The registry URI of an artifact of this run; its directory where no registry answers."""
        registration = self.tracker.registration(artifact) if self.tracker else None
        return (registration and registration.uri) or str(artifact.dir)

    def name_champions(self, models: Sequence[Artifact]) -> None:
        """Point `@champion` at the versions of these models."""
        if self.tracker is None:
            return
        try:
            for model in models:
                registration = self.tracker.registration(model)
                if registration and registration.name and registration.uri:
                    self.tracker.set_alias(registration.name, CHAMPION, registration.uri)
        except self.tracker.failures as error:
            self.display.warn(f"MLflow does not know the champions yet ({one_line(error)}); publish again to say so")

    def take(self, uri: str) -> Artifact:
        """The artifact a registry URI or directory names, for a stage that is run alone."""
        if not uri.startswith("models:/"):
            return _proven(Path(uri).expanduser().resolve())
        return self._registry(uri).resolve(uri, self.store)

    def newest(self, label: str) -> Artifact | None:
        """The newest artifact in the registry of those with this label; None where there is none."""
        name = registered_as(label)
        return self.take(f"models:/{name}@{CANDIDATE}") if name in self.registered_names() else None

    def registered_names(self) -> set[str]:
        """The names in the registry. Raises ServiceError where it does not answer."""
        return self._registry("the newest artifacts").registered_names()

    @property
    def has_registry(self) -> bool:
        """Whether there is a registry that can be asked."""
        return self.planning or self.tracker is not None

    def parent(self, artifact: Artifact, stage: str, name: str) -> Artifact:
        """The artifact of `stage` that `artifact` read as its input `name`."""
        return _proven(self.store.path(stage, artifact.manifest.parents[name]))

    def _registry(self, wanted: str) -> Tracker:
        if self.planning:
            self.tracker = self.tracker or Tracker(self.store.root.parent)
        if self.tracker is None:
            raise ServiceError(f"{wanted}: the registry does not answer; give an artifact's directory instead")
        return self.tracker

    def _look(self, name: str, fingerprint: str) -> tuple[Artifact | None, str]:
        try:
            return self.store.find(name, fingerprint), ""
        except ArtifactError as error:
            return None, str(error)

    def _fetched(self, name: str, fingerprint: str) -> Artifact | None:
        """An artifact that is damaged here, as the registry has it; None where it has not."""
        registration = self.tracker.noted_here(name, fingerprint) if self.tracker else None
        if self.tracker is None or registration is None or registration.uri is None:
            return None
        try:
            return self.tracker.resolve(registration.uri, self.store)
        except (MiniMindError, *self.tracker.failures) as error:
            logger.info("%s cannot be fetched: %s", registration.uri, error)
            return None

    def _run(
        self, stage: Stage[Any], config: Config, inputs: Inputs, *, label: str, fingerprint: str, whole: bool
    ) -> str | None:
        """Through Prefect: its cache answers only while the sealed artifact is whole and recorded."""
        work = _Here(lambda: _build_and_record(self, stage, config, inputs, label))
        known = whole and not self.refresh and self._is_recorded(stage.name, fingerprint)
        place = self.tracker.uri if self.tracker else "untracked"
        key = f"{stage.name}-{fingerprint}-{xxhash.xxh3_64_hexdigest(place.encode())}"  # it becomes a file's name
        wrapped = _stage_task.with_options(
            name=stage.name,
            task_run_name=label,
            cache_key_fn=lambda *_: key,
            refresh_cache=not known,
            retries=retries(),
            retry_delay_seconds=list(PAUSES_SECONDS),
            retry_condition_fn=may_pass,
        )
        ran: list[bool] = []
        uri = wrapped(work=work, ran=ran)
        if not ran:
            self.display.finished(label, f"reused  {uri or fingerprint}")
        return uri

    def _is_recorded(self, name: str, fingerprint: str) -> bool:
        if self.tracker is None:
            return True
        return self.tracker.registration(open_artifact(self.store.path(name, fingerprint))) is not None

    def _take(self, uri: str | None, name: str, fingerprint: str) -> Artifact:
        if uri and self.tracker:
            try:
                found = self.tracker.resolve(uri, self.store)
                if found.fingerprint == fingerprint:
                    return found
                error: object = f"it is {found.fingerprint}, not {fingerprint}: Prefect's note of it is wrong"
            except self.tracker.failures as problem:
                error = problem
            logger.warning(
                "%s could not be asked for (%s); the local artifact is taken", uri, without_secrets(str(error))
            )
        return open_artifact(self.store.path(name, fingerprint))


def _proven(directory: Path) -> Artifact:
    artifact = open_artifact(directory)
    verify(artifact)
    return artifact


class _Here:
    """A function of this process. A task runner that ships the context of a piece elsewhere ships nothing of it.

    No dataclass: Prefect would take one apart and ship what is in it.
    """

    def __init__(self, function: Callable[[], str | None]) -> None:
        self._function = function

    def __call__(self) -> str | None:
        return self._function()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Here, (str,)


@task(name="stage", persist_result=True, result_serializer="json")
def _stage_task(work: Callable[[], str | None], ran: list[bool]) -> str | None:
    """The Prefect side of a stage. Its result is the registry URI; the artifact itself stays in the store."""
    ran.append(True)
    return work()


def _build_and_record(pipeline: Pipeline, stage: Stage[Any], config: Config, inputs: Inputs, label: str) -> str | None:
    pipeline.display.started(label)
    context = dict(pipeline.context)
    tracked = Recording(pipeline, label, stage, context, config=config, inputs=inputs)
    try:
        with _device_slot(pipeline, config, label), tracked.following(), _piece_mapping():
            artifact, reused = build(
                stage,
                config,
                inputs,
                store=pipeline.store,
                refresh=pipeline.refresh,
                context=context,
                on_start=tracked.start,
            )
    except BaseException as error:
        tracked.failed(error)
        if (pause := pause_before_retry(error)) is not None:
            pipeline.display.warn(f"{label}: {one_line(error)}; it is tried again in {pause:.0f} s")
        raise
    registration = tracked.record(artifact)
    uri = registration.uri if registration else None
    words = "reused" if reused else f"{artifact.manifest.seconds:.1f} s"
    pipeline.display.finished(label, f"{words}  {uri or artifact.fingerprint}")
    if not reused and stage.name != "publish":  # which repeats, in its report card, what was said before
        pipeline.display.warnings(label, artifact.summary().warnings)
    tell_prefect(pipeline, f"the figures of {label}", lambda: show_stage(artifact, registration, pipeline, label))
    return uri


def _device_slot(pipeline: Pipeline, config: Config, label: str) -> Any:
    """Trainings take turns on a device."""
    if not isinstance(config, TrainConfig):
        return nullcontext()
    return slot(config, pipeline.store.root, waiting=lambda words: pipeline.display.warn(f"{label}: {words}"))


def _piece_mapping() -> Any:
    """Inside a flow run the jobs of a stage are tasks of that run."""
    return mapping(on_task_runner) if FlowRunContext.get() else nullcontext()


def prefect_link() -> str:
    """The page of the Prefect flow run this code is part of; empty outside one."""
    return without_secrets(flow_run.ui_url or "") if FlowRunContext.get() else ""
