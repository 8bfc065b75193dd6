"""Hub data sets by name: `datasets` says which files they are made of, our own readers read them.

Its own readers do not judge rows, they rewrite them: one odd row turned 999 good ones into quoted JSON, one
byte that is not UTF-8 ends the whole stream, and a lone carriage return shifts all line numbers after it. So
of a data set in a format that we read only the addresses are taken (`hf://…@commit/file`, or the paths of a
folder), and its rows come byte for byte from there. Other formats (CSV, WebDataset, …) come as rows from it.

Not here: reading the files (`files`, `readers`), and how their bytes arrive (`locations`).
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from minimind.config import expanded
from minimind.data.reading.files import FileKind, find_files, kind_by_name, open_raw
from minimind.data.reading.remote import reason_of, status_of
from minimind.errors import ConfigError, MiniMindError, MissingError

_ON_HUB = re.compile(r"hf://datasets/[^@]+@[^/]+/")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubFiles(NamedTuple):
    """What a split is made of."""

    kind: FileKind | None
    """How our readers read the files; None where only `datasets` can."""
    places: dict[str, str]
    """Name within the data set → address or path, in reading order; none where `datasets` does not say."""


def is_pinned(dataset: str, revision: str) -> bool:
    """Whether `revision` is a commit, behind which the bytes can never be others."""
    return _COMMIT.fullmatch(revision) is not None and not expanded(dataset).is_dir()


def hub_address(dataset: str, file: str, *, revision: str = "main") -> str:
    """Where one file of a data set is: an address, or a path where `dataset` is a folder. A pattern stays one."""
    if expanded(dataset).is_dir():
        return str(expanded(dataset) / file)
    return f"hf://datasets/{dataset}@{revision.replace('/', '%2F')}/{file}"


def hub_files(dataset: str, *, file: str | None = None, split: str = "train", revision: str = "main") -> HubFiles:
    """The files of a split.

    With `file` that file, or those that the pattern means. A branch's addresses carry the commit it stands at.
    Raises MissingError, or ConfigError for a split there is not.
    """
    if file:
        address = hub_address(dataset, file, revision=revision)
        kind = kind_by_name(file) or "jsonl"
        with _explained(dataset):
            return HubFiles(kind, find_files(address, kind))
    with _explained(dataset):
        builder = _builder(dataset, revision)
        files = {str(name): list(files) for name, files in (builder.config.data_files or {}).items()}
        if files and split not in files:
            raise ConfigError(f"hub data set {dataset}: no split `{split}`; it has: {', '.join(files)}")
        named = {_name(location, dataset): location for location in files.get(split, [])}
        kinds = {kind_by_name(name) for name in named}
        if builder.name == "json" and kinds == {None}:
            kinds = {_kind_of_json(named)}
    kind = kinds.pop() if len(kinds) == 1 else None
    return HubFiles(kind, {name: named[name] for name in sorted(named)})


def hub_rows(dataset: str, *, split: str = "train", revision: str = "main") -> Iterator[Mapping[str, Any]]:
    """The rows of a split as `datasets` reads them, streamed: for files of no kind that we read."""
    with _explained(dataset):
        yield from _builder(dataset, revision).as_streaming_dataset(split=split)


def _builder(dataset: str, revision: str) -> Any:
    import datasets

    path = expanded(dataset)
    if path.is_dir():
        return datasets.load_dataset_builder(str(path))
    return datasets.load_dataset_builder(dataset, revision=revision)


def _name(location: str, dataset: str) -> str:
    """The file's name within the data set, which no commit and no place changes."""
    on_hub = _ON_HUB.match(location)
    if on_hub:
        return location[on_hub.end() :]
    base = expanded(dataset).resolve()
    path = Path(location)
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _kind_of_json(named: Mapping[str, str]) -> FileKind | None:
    """Whether files called .json have an object a line, which is what most of them have."""
    name, location = next(iter(named.items()))
    with open_raw(location, name) as file:
        return None if file.read(1 << 12).lstrip()[:1] == b"[" else "jsonl"


@contextmanager
def _explained(dataset: str) -> Iterator[None]:
    """Whatever goes wrong at the hub, as one error that names the data set and the remedy."""
    try:
        yield
    except MiniMindError as error:
        raise type(error)(f"hub data set {dataset}: {error}" if dataset not in str(error) else str(error)) from None
    except Exception as error:  # which HTTP library's errors come out depends on the hub client's version
        missing = isinstance(error, FileNotFoundError) or status_of(error) == 404
        why = "not found, or private" if missing else "cannot be read"
        remedy = "check the name, the revision and the network, run `hf auth login`, or download its files"
        raise MissingError(f"hub data set {dataset}: {why} ({reason_of(error)}); {remedy}") from None
