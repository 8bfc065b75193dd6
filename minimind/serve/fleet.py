"""Names and the engines that answer for them: loaded at the start, replaced when lost, swapped for a newer version.

A model that the command line names by an alias (`@champion`, `dpo`) is looked up again and again. When the alias has
moved, an engine with the new version is started beside the old one, new requests go to it as soon as it is ready, and
the old one ends with its last answer. A version that does not load changes nothing, and is not tried a second time.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from minimind.config import nearest
from minimind.errors import ServiceError
from minimind.serve.answers import ModelCard
from minimind.serve.engine_process import COMMAND, EngineProcess
from minimind.serve.engine_spec import EngineSettings, EngineSpec
from minimind.serve.errors import ApiError
from minimind.serve.sources import Adapter, Locate, Source, Version, describe

logger = logging.getLogger(__name__)

BACKOFF_SECONDS = (0.2, 1.0, 5.0, 20.0, 60.0)
"""Between a loss and the next start. The first is short, since most losses are single; the last bounds a bad model."""
STEADY_SECONDS = 60.0
"""An engine that lived so long was well: its loss counts as a first one."""

LEAVE_SECONDS = 1.0
"""For requests that chose an engine a moment before another took its place, and have not asked it yet."""


class Chosen(NamedTuple):
    """Who answers a request."""

    name: str
    engine: EngineProcess
    version: Version
    adapter: str | None


@dataclass
class ServedModel:
    """A model under its name: where it comes from, the engine that answers now, and what is wrong, if anything is."""

    source: Source
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    version: Version | None = None
    engine: EngineProcess | None = None
    trouble: str | None = "loading"
    """Why nobody answers; None where somebody does."""
    warning: str | None = None
    """What an operator should know of a model that answers."""
    restarts: int = 0
    swaps: int = 0
    losses: int = 0
    """Starts after a loss, in a row."""
    unfit: Version | None = None
    """The version that did not load, and is not tried again."""
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an engine takes another's place."""

    @property
    def known_version(self) -> Version:
        assert self.version is not None, "looked up by Fleet.start before anything else"
        return self.version


class Fleet:
    """All models of a server. Not here: HTTP, and who may ask."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        adapters: Sequence[Adapter] = (),
        locate: Locate,
        settings: EngineSettings,
        refresh_seconds: float = 0,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._locate, self._settings, self._command = locate, settings, command
        self._refresh_seconds = refresh_seconds  # 0: an alias means what it meant at the start
        self._adapters = adapters
        self.models = {source.name: ServedModel(source) for source in sources}
        self._engines: set[EngineProcess] = set()
        """All that run: those that answer, and those that finish their last answers."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Load every model, one after another, and see to them from then on. Raises MiniMindError."""
        for model in self.models.values():
            model.version = await asyncio.to_thread(self._locate, model.source.spec)
        for adapter in self._adapters:
            owner = self._owner(adapter)
            owner.adapters = {**owner.adapters, adapter.name: adapter}
        for model in self.models.values():
            logger.info("loading %s from %s", model.source.name, model.version.directory)
            self._install(model, await self._engine(model, model.version))
        for model in self.models.values():
            if model.source.may_move and self._refresh_seconds:
                self._run(self._refresh(model))

    async def stop(self) -> None:
        """End all engines, whatever they do."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(engine.stop() for engine in self._engines))

    def choose(self, name: str | None) -> Chosen:
        """Who answers for a name; without one the only model there is. Raises ApiError."""
        names = self.names()
        if name is None and len(names) > 1:
            raise ApiError(400, f"`model` is missing; it is one of: {', '.join(names)}", param="model")
        wanted = name if name is not None else names[0]
        model = self.models.get(wanted) or next((m for m in self.models.values() if wanted in m.adapters), None)
        if model is None:
            said = f"no model {wanted[:100]!r} is served here{nearest(wanted[:100], names)}"
            raise ApiError(404, said, code="model_not_found", param="model")
        if model.engine is None or model.version is None or model.engine.ended.is_set():
            said = f"{wanted} has no engine now, which is being started; /health says why"
            raise ApiError(503, said, code="engine_failure")
        return Chosen(wanted, model.engine, model.version, wanted if wanted in model.adapters else None)

    def names(self) -> list[str]:
        """Models, then adapters."""
        return [*self.models, *(name for model in self.models.values() for name in model.adapters)]

    def cards(self) -> list[ModelCard]:
        """What `/v1/models` says of each."""
        cards = [describe(m.source, m.version, engine=m.engine, trouble=m.trouble) for m in self.models.values()]
        for model in self.models.values():
            under = {"engine": model.engine, "trouble": model.trouble, "base": model.source.name}
            cards += [describe(a.source, a.version, **under) for a in model.adapters.values()]
        return cards

    async def troubles(self) -> dict[str, str | None]:
        """Name → why the model does not answer, None where it does."""

        async def of(model: ServedModel) -> str | None:
            if model.engine is None or model.trouble:
                return model.trouble or "no engine"
            return await model.engine.trouble()

        return dict(zip(self.models, await asyncio.gather(*map(of, self.models.values())), strict=True))

    def warnings(self) -> list[str]:
        return [f"{name}: {model.warning}" for name, model in self.models.items() if model.warning]

    def fail_all(self, error: Exception) -> None:
        """Have every answer under way end with this error."""
        for engine in self._engines:
            engine.fail_all(error)

    def _owner(self, adapter: Adapter) -> ServedModel:
        """The model an adapter was trained on, where that is known and served; else the first."""
        served = list(self.models.values())
        return next((m for m in served if m.version and m.version.fingerprint == adapter.base), served[0])

    async def _engine(self, model: ServedModel, version: Version) -> EngineProcess:
        adapters = {name: adapter.directory for name, adapter in model.adapters.items()}
        spec = EngineSpec(model.source.name, version.directory, adapters)
        engine = await EngineProcess.start(spec, self._settings, command=self._command)
        self._engines.add(engine)
        return engine

    def _install(self, model: ServedModel, engine: EngineProcess) -> None:
        """Have new requests go to this engine, and see to it when it is lost."""
        model.engine, model.trouble = engine, None
        self._run(self._watch(model, engine))

    async def _watch(self, model: ServedModel, engine: EngineProcess) -> None:
        await engine.ended.wait()
        self._engines.discard(engine)
        async with model.changing:
            if model.engine is engine:  # else it was swapped for another, and was meant to end
                await self._replace(model, engine)

    async def _replace(self, model: ServedModel, lost: EngineProcess) -> None:
        """Start an engine in the place of a lost one, however long it takes."""
        model.trouble = lost.how_it_ended()
        logger.error("%s; it is started again", model.trouble)
        model.losses = 0 if lost.seconds_alive > STEADY_SECONDS else model.losses
        while True:
            await asyncio.sleep(BACKOFF_SECONDS[min(model.losses, len(BACKOFF_SECONDS) - 1)])
            model.losses += 1
            try:
                engine = await self._engine(model, model.known_version)
            except ServiceError as error:
                model.trouble = f"does not start: {error}"
                logger.error("%s: %s", model.source.name, model.trouble)
                continue
            model.restarts += 1
            self._install(model, engine)
            return

    async def _refresh(self, model: ServedModel) -> None:
        """Follow the alias."""
        while True:
            await asyncio.sleep(self._refresh_seconds)
            try:
                version = await asyncio.to_thread(self._locate, model.source.spec)
            except Exception as error:  # whatever a registry's client raises: what runs does not need it, and goes on
                model.warning = f"where {model.source.spec} points to is not known: {error}"
                logger.warning("%s: %s", model.source.name, model.warning)
                continue
            if version.directory == model.known_version.directory:
                model.warning, model.unfit = None, None
            elif version == model.unfit:
                continue
            elif model.trouble:
                model.version = version  # nothing runs: what is started next is the new one
            else:
                async with model.changing:
                    await self._swap(model, version)

    async def _swap(self, model: ServedModel, version: Version) -> None:
        logger.info("%s moved to %s; loading it beside the old version", model.source.spec, version.directory)
        try:
            engine = await self._engine(model, version)
        except ServiceError as error:
            model.unfit, model.warning = version, f"{version.directory} does not load, the old version goes on: {error}"
            logger.error("%s: %s", model.source.name, model.warning)
            return
        old, model.version = model.engine, version
        model.warning, model.unfit, model.swaps = None, None, model.swaps + 1
        self._install(model, engine)
        logger.info("%s answers with %s", model.source.name, version.directory)
        if old is not None:
            self._run(_leave(old))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _leave(engine: EngineProcess) -> None:
    """Let an engine finish its answers, then end it."""
    await asyncio.sleep(LEAVE_SECONDS)
    await engine.drain()
    await engine.stop()
