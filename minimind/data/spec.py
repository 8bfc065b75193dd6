"""Data specs: WHAT is learnt from, as a TOML file.

`load_spec` reads one by name (data_specs/<name>.toml of the checkout) or by path; the functions below
it give each data stage its own config. Fields are explained one by one in data_specs/README.md.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Self, get_args

from pydantic import Field, model_validator

from minimind import runtime
from minimind.config import WHERE, Config, expanded, nearest, read_toml
from minimind.data.cleaning import CleanConfig
from minimind.data.documents import RowKind
from minimind.data.forget_list import named_rows
from minimind.data.reading.locations import is_remote
from minimind.data.reading.sources import IngestConfig, SourceConfig
from minimind.data.rules.settings import CleanRules
from minimind.data.sharding import ShardConfig
from minimind.data.shards import SHARD_BYTES
from minimind.errors import ConfigError, MissingError

HELD_OUT = 0.05
"""Of the groups of rows, where a spec does not say."""

Fraction = Annotated[float, Field(ge=0, lt=1)]


class DataSpec(Config):
    """Sources of rows, the rules that clean them, and how they are split."""

    name: str
    """The file's name, where the file does not say."""
    description: str = ""
    source: tuple[SourceConfig, ...] = Field(min_length=1)
    """Written as [[source]], once for each."""
    forget: Annotated[str | None, WHERE] = None
    """A list of rows to leave out with all their copies: see `forget_list`. What it names of a kind of rows belongs to
    how that kind is cleaned."""
    clean: CleanRules = CleanRules()
    validation_fraction: Fraction | dict[RowKind, Fraction] = HELD_OUT
    """Of the groups of rows of each kind; or by kind, where few rows need a larger share to measure by."""
    max_bad_fraction: float = Field(default=0.5, ge=0, le=1)
    """A source with a larger share of unusable rows stops the run."""
    seed: int = 0
    """Of the split between training and validation."""
    shard_bytes: Annotated[int, WHERE] = Field(default=SHARD_BYTES, ge=1024)
    workers: Annotated[int, WHERE] = Field(default=0, ge=0)
    """Processes for the data stages; 0 takes one for each core."""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        doubled = [name for name, count in Counter(source.name for source in self.source).items() if count > 1]
        if doubled:
            raise ValueError(f"two sources are named `{doubled[0]}`; names are how rows are traced back")
        return self


def load_spec(name_or_path: str | Path) -> DataSpec:
    """The spec of that name, or at that path where it ends in .toml; its file paths made absolute."""
    path = _spec_path(name_or_path)
    spec = DataSpec.parse({"name": path.stem, **read_toml(path)}, origin=str(path))
    base = path.resolve().parent
    return spec.replace(
        source=tuple(
            source if source.path is None else source.replace(path=_resolved(source.path, base))
            for source in spec.source
        ),
        forget=None if spec.forget is None else str(base / expanded(spec.forget)),
        clean=spec.clean.replace(evaluation=tuple(_resolved(name, base) for name in spec.clean.evaluation)),
    )


def kinds(spec: DataSpec) -> tuple[RowKind, ...]:
    """The kinds of rows that `spec` has sources for, in the order they are trained on."""
    have = {source.rows for source in spec.source}
    return tuple(kind for kind in get_args(RowKind) if kind in have)


def ingest_config(spec: DataSpec, kind: RowKind) -> IngestConfig:
    """What the ingest stage reads for rows of `kind`. Raises ConfigError where there is no source of them."""
    sources = tuple(source for source in spec.source if source.rows == kind)
    if not sources:
        have = ", ".join(kinds(spec))
        raise ConfigError(f'data spec {spec.name}: no [[source]] has rows = "{kind}" (it has: {have})')
    return IngestConfig(rows=kind, sources=sources, max_bad_fraction=spec.max_bad_fraction, workers=spec.workers)


def clean_config(spec: DataSpec, kind: RowKind) -> CleanConfig:
    """How rows of `kind` are cleaned. Raises what is wrong with the list of rows to forget."""
    forget = named_rows(spec.forget, kind, spec.source)
    return CleanConfig(rows=kind, forget=forget, workers=spec.workers, **spec.clean.model_dump())


def shard_config(spec: DataSpec, kind: RowKind) -> ShardConfig:
    """How rows of `kind` are split and cut into files."""
    fraction = spec.validation_fraction
    return ShardConfig(
        rows=kind,
        validation_fraction=fraction.get(kind, HELD_OUT) if isinstance(fraction, dict) else fraction,
        shard_bytes=spec.shard_bytes,
        seed=spec.seed,
        weights={source.name: source.weight for source in spec.source if source.rows == kind and source.weight != 1},
        workers=spec.workers,
    )


def _spec_path(name_or_path: str | Path) -> Path:
    if str(name_or_path).endswith(".toml"):
        return expanded(name_or_path)
    directory = runtime.CHECKOUT / "data_specs"
    known = sorted(found.stem for found in directory.glob("*.toml"))
    if str(name_or_path) not in known:  # a name does not lead elsewhere
        hint = nearest(str(name_or_path), known) if known else ""
        listed = f"; known: {', '.join(known)}" if "known:" not in hint else ""
        raise MissingError(f"no data spec `{name_or_path}`{hint}{listed}; or give a path that ends in .toml")
    return directory / f"{name_or_path}.toml"


def _resolved(path: str, base: Path) -> str:
    """`path` as seen from the data spec; a URL as it is."""
    return path if is_remote(path) else str(base / expanded(path))
