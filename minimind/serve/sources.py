"""What the command line names: models, the directories behind them, adapters; and what a client may know of them.

minimind serve sft mine=models:/minimind-dpo@champion other=./some/directory --adapter medical=./an/adapter
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from minimind.artifact import MANIFEST_FILE, open_artifact
from minimind.errors import ConfigError, MissingError
from minimind.serve.answers import ModelCard
from minimind.serve.engine_process import EngineProcess

ADAPTER_CONFIG_FILE = "adapter_config.json"
ADAPTER_DIR = "adapter"
"""Where an artifact of the stage `lora` has its adapter."""
_NAME = re.compile(r"[\w][\w.:/-]{0,99}")
_REGISTRY_NAME = re.compile(r"models:/(?:minimind-)?([\w.-]+)(?:@[\w.-]+|/\d+)$")


@dataclass(frozen=True)
class Source:
    """A model as it was asked for, and the name clients use."""

    name: str
    spec: str

    @property
    def may_move(self) -> bool:
        """Whether the same words can mean another version tomorrow: an alias or a short name, no directory."""
        if self.spec.startswith("models:/"):
            return "@" in self.spec
        return not Path(self.spec).expanduser().is_dir()


@dataclass(frozen=True)
class Version:
    """A model's directory, and what its manifest says; a directory without one is a model all the same."""

    directory: Path
    created: int
    fingerprint: str | None = None
    kind: str | None = None
    parents: tuple[tuple[str, str], ...] = ()
    uri: str | None = None

    @property
    def system_fingerprint(self) -> str:
        return f"fp_{(self.fingerprint or f'{self.created:x}')[:12]}"


Locate = Callable[[str], Version]
"""From what the command line says to a version. May take its time, and is called again and again for aliases."""


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter that is served under a name of its own."""

    name: str
    directory: Path
    base: str | None
    """Fingerprint of the model it was trained on, where its files tell."""

    @property
    def source(self) -> Source:
        return Source(self.name, str(self.directory))

    @property
    def version(self) -> Version:
        return version_of(self.directory.parent if self.directory.name == ADAPTER_DIR else self.directory)


def version_of(directory: Path, *, uri: str | None = None) -> Version:
    """The version in a directory. Raises MissingError where it is none."""
    if not directory.is_dir():
        raise MissingError(f"{directory}: no such directory; give a model's directory, a short name or a models:/ URI")
    if not (directory / MANIFEST_FILE).is_file():
        return Version(directory, int(directory.stat().st_mtime), uri=uri)
    manifest = open_artifact(directory).manifest
    created = int(datetime.fromisoformat(manifest.created_at).timestamp())
    parents = tuple(sorted(manifest.parents.items()))
    return Version(directory, created, manifest.fingerprint, manifest.kind, parents, uri)


def read_sources(words: Sequence[str]) -> list[Source]:
    """Models from `MODEL` or `NAME=MODEL`. Raises ConfigError."""
    found = [_source(word) for word in words]
    if not found:
        raise ConfigError("no model was given; for example `minimind serve chat`")
    _refuse_twins([source.name for source in found])
    return found


def read_adapters(words: Sequence[str], sources: Sequence[Source]) -> list[Adapter]:
    """Adapters from `NAME=DIR`. Raises ConfigError or MissingError."""
    found = [_adapter(word) for word in words]
    _refuse_twins([*(source.name for source in sources), *(adapter.name for adapter in found)])
    return found


def describe(
    source: Source,
    version: Version | None,
    *,
    engine: EngineProcess | None,
    trouble: str | None,
    base: str | None = None,
) -> ModelCard:
    """What clients may know of a model or, with its `base`, of an adapter."""
    ready = engine.ready if engine else None
    return ModelCard(
        id=source.name,
        object="model",
        created=version.created if version else 0,
        owned_by="minimind",
        root=base or source.name,
        parent=base,
        state=trouble or "serving",
        source=source.spec if source.may_move or source.spec.startswith("models:/") else Path(source.spec).name,
        uri=version.uri if version else None,
        fingerprint=version.fingerprint if version else None,
        kind=version.kind if version else None,
        parents=dict(version.parents) if version else {},
        parameters=ready.parameters if ready else None,
        max_model_len=ready.context if ready else None,
        precision=ready.precision if ready else None,
    )


def _source(word: str) -> Source:
    name, equals, spec = word.partition("=")
    if not equals or Path(word).expanduser().is_dir():
        return Source(_name_of(word), word)
    if not spec or not _NAME.fullmatch(name):
        raise ConfigError(f"{word}: write it as NAME=MODEL; a name has letters, digits and . _ : / -")
    return Source(name, spec)


def _name_of(spec: str) -> str:
    """`sft` for `sft` and for `models:/minimind-sft@champion`, the last part of a path else."""
    if registered := _REGISTRY_NAME.match(spec):
        return registered[1]
    path = Path(spec).expanduser()
    if not path.is_dir():
        return spec
    if (path / MANIFEST_FILE).is_file():
        return open_artifact(path).label
    return path.resolve().name


def _adapter(word: str) -> Adapter:
    name, equals, path = word.partition("=")
    if not equals or not path or not _NAME.fullmatch(name):
        raise ConfigError(f"--adapter {word}: write it as NAME=DIRECTORY")
    directory = Path(path).expanduser().resolve()
    if (directory / ADAPTER_DIR / ADAPTER_CONFIG_FILE).is_file():
        directory = directory / ADAPTER_DIR
    config = directory / ADAPTER_CONFIG_FILE
    try:
        base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except OSError:
        raise MissingError(
            f"--adapter {word}: there is no {config}; give a directory that `minimind run lora` made"
        ) from None
    except (ValueError, AttributeError):
        raise ConfigError(f"--adapter {word}: {config} is no JSON object; train the adapter again") from None
    return Adapter(name, directory, base)


def _refuse_twins(names: Sequence[str]) -> None:
    twins = {name for name in names if names.count(name) > 1}
    if twins:
        raise ConfigError(f"two models are named {min(twins)}; give one another name: NAME=MODEL")
