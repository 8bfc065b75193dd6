"""What an engine is told at its start: what it loads, and how it runs; as options of its command."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from minimind.config import Config
from minimind.infer.protocol import Precision


class EngineSettings(Config):
    """How every engine of the server runs; None leaves it to the engine."""

    precision: Precision = "auto"
    device: str = "auto"
    max_batch: int = Field(64, ge=1, le=4096)
    max_waiting: int = Field(128, ge=1)
    threads: int | None = Field(None, ge=1)
    cache_tokens: int | None = Field(None, ge=1)

    def arguments(self) -> list[str]:
        """As options of the engine's command."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        return [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", str(value))]


@dataclass(frozen=True)
class EngineSpec:
    """What an engine is to load."""

    name: str
    directory: Path
    adapters: Mapping[str, Path] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        adapters = [part for name, path in self.adapters.items() for part in ("--adapter", f"{name}={path}")]
        return ["--name", self.name, "--model", str(self.directory), *adapters]
