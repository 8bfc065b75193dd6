"""Frozen settings: TOML in, a validated object out, an identity for the fingerprint.

Unknown keys are errors that name the nearest known one. A field annotated with `WHERE` only
says where or how fast a stage runs (devices, workers, log intervals); it is left out of
`identity()`, so changing it reruns nothing. Not here: what the sections mean (each stage keeps
its own config class beside its code; `minimind.recipe` puts them together).
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from minimind.errors import ArtifactError, ConfigError, MissingError

WHERE = "where-not-what"
"""Marker for `Annotated[int, WHERE]`: the field is no part of a stage's identity."""


class Config(BaseModel):
    """Base of every settings object: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The JSON-ready fields that decide a stage's output, nested configs included."""
        return {
            name: _identity_of(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if WHERE not in field.metadata
        }

    def replace(self, **changes: Any) -> Self:
        """A validated copy with `changes` applied."""
        return type(self).model_validate({**{k: getattr(self, k) for k in type(self).model_fields}, **changes})

    @classmethod
    def parse(cls, values: Mapping[str, Any], *, origin: str) -> Self:
        """Validate `values`; errors name `origin` (a file or option) and the key as it is written in TOML."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [_explain(cls, detail) for detail in error.errors()]
            raise ConfigError(f"{origin}: " + "; ".join(lines)) from None

    @classmethod
    def read_json(cls, path: Path, *, remedy: str) -> Self:
        """What a stage wrote to `path`. Raises MissingError or ArtifactError with the `remedy`."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise MissingError(f"{path}: no such file; {remedy}") from None
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise ArtifactError(f"{path}: damaged, or of another version ({message}); {remedy}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises MissingError or ConfigError with the file's name and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a directory, a TOML file was expected") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with every `section.key=value` of `overrides` set; a value is read as TOML, else as a string."""
    result = {**values}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = [key.strip() for key in dotted.split(".")]
        if not equals or not all(keys):
            raise ConfigError(f"-o {override}: write it as section.key=value, for example -o pretrain.lr=3e-4")
        table = result
        for key in keys[:-1]:
            inner = table.get(key, {})
            if not isinstance(inner, Mapping):
                raise ConfigError(f"-o {override}: {key} is not a section")
            table[key] = {**inner}
            table = table[key]
        table[keys[-1]] = _toml_value(text.strip())
    return result


def nearest(word: str, known: Sequence[str]) -> str:
    """` (did you mean …?)` for the known word nearest to `word`, else the list of known words."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean `{close[0]}`?)" if close else f" (known: {', '.join(sorted(known))})"


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _identity_of(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, Mapping):
        return {str(k): _identity_of(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_identity_of(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _explain(cls: type[Config], detail: ErrorDetails) -> str:
    """One pydantic error as a sentence with the dotted key."""
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or cls.__name__
    if detail["type"] == "extra_forbidden":
        known = _known_keys(cls, detail["loc"][:-1])
        return f"unknown key `{key}`" + nearest(location[-1], known)
    if detail["type"] == "missing":
        return f"`{key}` is missing"
    message = detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    shown = "" if isinstance(given, Mapping) else f" (given: {given!r})"
    return f"`{key}`: {message[0].lower()}{message[1:]}{shown}"


def _known_keys(cls: type[Config], location: Sequence[int | str]) -> list[str]:
    """The field names allowed at `location`, or of every config class below it where types are unions."""
    current: list[type[Config]] = [cls]
    for part in location:
        if isinstance(part, str):
            steps = [c.model_fields[part].annotation for c in current if part in c.model_fields]
            current = [inner for step in steps for inner in _config_classes(step)] or current
    return sorted({name for c in current for name in c.model_fields})


def _config_classes(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [c for inner in getattr(annotation, "__args__", ()) for c in _config_classes(inner)]
