"""Frozen settings: TOML in, a validated object out, an identity for the fingerprint.

Unknown keys are errors that name the nearest known one. A field annotated with `WHERE` only
says where or how fast a stage runs (devices, workers, log intervals); it is left out of
`identity()`, so changing it reruns nothing. Not here: what the sections mean (each stage keeps
its own config class beside its code; `minimind.recipe` puts them together).
"""

import difflib
import json
import math
import os
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from minimind.errors import ArtifactError, ConfigError, MissingError

WHERE = "where-not-what"
"""Marker for `Annotated[int, WHERE]`: the field is no part of a stage's identity."""


_SETTINGS_BYTES = 16 << 20
"""A hundred times the longest file of settings."""
_WORDS = {
    "model_type": "a table was expected",
    "dict_type": "a table was expected",
    "tuple_type": "a list was expected",
    "int_type": "a whole number was expected",
    "int_from_float": "a whole number was expected",
    "int_parsing": "a whole number was expected",
    "int_parsing_size": "a whole number was expected, not one of hundreds of digits",
}
"""pydantic's type of error → the same in TOML's words."""


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
        if fault := next(_booleans_as_numbers(cls, values, ""), ""):
            raise ConfigError(f"{origin}: {printable(fault)}")
        try:
            made = cls.model_validate(values)
        except ValidationError as error:
            lines = list(dict.fromkeys(_explain(cls, detail) for detail in _first_causes(error.errors())))
            raise ConfigError(f"{origin}: " + printable("; ".join(lines))) from None
        if fault := next(_unusable(made.model_dump(), ""), ""):
            raise ConfigError(f"{origin}: {printable(fault)}")
        return made

    @classmethod
    def read_json(cls, path: Path, *, remedy: str) -> Self:
        """What a stage wrote to `path`. Raises MissingError or ArtifactError with the `remedy`."""
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingError(f"{path}: no such file; {remedy}") from None
        except OSError as error:
            raise ArtifactError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
        return cls.from_json(raw, origin=path, remedy=remedy)

    @classmethod
    def from_json(cls, raw: bytes, *, origin: Path, remedy: str) -> Self:
        """What `raw`, the content of `origin`, says. Raises ArtifactError with the `remedy`."""
        try:
            note = cls.model_validate_json(raw)
            json.loads(raw, object_pairs_hook=_object, parse_constant=_no_number)
            return note
        except ValidationError as error:
            first = error.errors()[0]
            message = first["msg"] if first["type"] == "json_invalid" else printable(_explain(cls, first))
            raise ArtifactError(f"{origin}: damaged, or of another version ({message}); {remedy}") from None
        except ValueError as error:
            raise ArtifactError(f"{origin}: damaged ({printable(str(error))}); {remedy}") from None


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file. Raises MissingError or ConfigError with the file's name and the line."""
    text = _settings_text(path).removeprefix("\ufeff")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deep for a file of settings") from None
    except ValueError:  # of Python's numbers, not of TOML
        raise ConfigError(f"{path}: has a number of thousands of digits, which is no setting") from None


def _settings_text(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():
            what = "is a directory" if path.is_dir() else "is no regular file"
            raise ConfigError(f"{path}: {what}, a TOML file was expected")
        if path.stat().st_size > _SETTINGS_BYTES:
            raise ConfigError(f"{path}: has more than {_SETTINGS_BYTES >> 20} MiB, it is no file of settings")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise MissingError(f"{path}: cannot be read ({error.strerror}); look at its place and permissions") from None


def expanded(path: str | Path) -> Path:
    """A path as a person wrote it, with `~` and `~name` as home directories; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # noqa: PTH111, pathlib's raises a RuntimeError there


def shortened(text: str, size: int = 200) -> str:
    """`text` for an error: what a file says may be of any length."""
    return text if len(text) <= size else f"{text[: size // 2]}…{text[-size // 2 :]}"


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
    except (ValueError, RecursionError):
        return text


def _identity_of(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, Mapping):
        return {str(k): _identity_of(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_identity_of(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _unusable(value: Any, key: str) -> Iterator[str]:
    """What no setting may be: a number that JSON has not, a name or a path with a NUL. Lists of texts may have one."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _unusable(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            if not isinstance(inner, str):
                yield from _unusable(inner, f"{key}.{number}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"`{key}` is {value}; a finite number was expected"
    elif isinstance(value, str) and "\0" in value:
        yield f"`{key}` has a NUL character: {value[:40]!r}"


def printable(text: str) -> str:
    """`text` on one line: a key of a file may be any string, and an error goes to a terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object. Raises ValueError where a key stands twice: which of them is meant nobody knows."""
    if doubled := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise ValueError(f"key `{doubled[0]}` stands twice in one object")
    return dict(pairs)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _booleans_as_numbers(cls: type[Config], values: Any, key: str) -> Iterator[str]:
    """Where `values` has true or false for a number: read as 1 or 0 it would be a setting that nobody made."""
    if not isinstance(values, Mapping):
        return
    for name, field in cls.model_fields.items():
        value, place = values.get(name), f"{key}.{name}" if key else name
        if isinstance(value, bool):
            kinds = {*_plain_types(field.annotation)}
            if kinds & {int, float} and bool not in kinds:
                yield f"`{place}` is {str(value).lower()}; a number was expected"
        for inner in _config_classes(field.annotation):
            several = value if isinstance(value, list | tuple) else [value]
            for number, one in enumerate(several):
                yield from _booleans_as_numbers(inner, one, f"{place}.{number}" if several is value else place)


def _plain_types(annotation: Any) -> Iterator[Any]:
    """The types in an annotation; of a literal those of its values."""
    if get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    elif inner := get_args(annotation):
        for one in inner:
            yield from _plain_types(one)
    else:
        yield annotation


def _first_causes(details: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Without those that only follow from others: a list whose one item is wrong is not too short besides."""
    places = [detail["loc"] for detail in details]
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(len(place) > len(detail["loc"]) and place[: len(detail["loc"])] == detail["loc"] for place in places)
    ]


def _is_alternative(part: int | str) -> bool:
    """Whether a part of pydantic's location is no key, but which type of several was tried."""
    return isinstance(part, str) and ("[" in part or part.startswith("constrained-"))


def _explain(cls: type[Config], detail: ErrorDetails) -> str:
    """One pydantic error as a sentence with the dotted key."""
    location = [str(part) for part in detail["loc"] if not _is_alternative(part)]
    key = ".".join(location) or cls.__name__
    if detail["type"] == "extra_forbidden":
        *tables, unknown = map(str, detail["loc"])
        key = ".".join([part for part in tables if not _is_alternative(part)] + [unknown])
        return f"unknown key `{key}`" + nearest(unknown, _known_keys(cls, detail["loc"][:-1]))
    if detail["type"] == "missing":
        return f"`{key}` is missing"
    message = _WORDS.get(detail["type"]) or detail["msg"].removeprefix("Value error, ")
    given = detail.get("input")
    if detail["type"] == "tuple_type" and isinstance(given, Mapping):
        message += f"; write each as [[{key}]]"
    shown = "" if isinstance(given, Mapping) else f" (given: {given!r:.80})"
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
