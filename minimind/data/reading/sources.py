"""Sources: what a [[source]] says, and the digests of what is behind it.

What a source is worth is its bytes: `content_digests` names them for the fingerprint, so a moved folder is reused and
a flipped byte is not. Not here: reading them (`ingest`), finding the files of a hub data set (`hub`).
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from minimind import runtime
from minimind.config import WHERE, Config
from minimind.data.documents import CONTENT, RowKind
from minimind.data.reading.checking import Form
from minimind.data.reading.files import FileKind, find_files
from minimind.data.reading.locations import is_remote, remote_digest
from minimind.data.reading.readers import DocumentCut
from minimind.data.reading.shapes import Shape
from minimind.errors import ConfigError, MissingError

FILE_KINDS = ("jsonl", "text", "parquet", "arrow")


class SourceConfig(Config):
    """One [[source]] of a data spec: which rows, and where they are read from."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]*[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """Stands in the `source` column of its rows; unique in its spec."""
    kind: Literal["jsonl", "text", "parquet", "arrow", "hub", "pydocs"] = "jsonl"
    rows: RowKind
    path: Annotated[str | None, WHERE] = None
    """A file, a directory, a glob, or a URL; relative to the data spec. Its bytes are the identity, it is not."""
    shape: Shape = "minimind"
    """How the file writes its rows: as MiniMind does, or as Alpaca, ShareGPT or OpenAI (messages) do."""
    keys: dict[str, str] = {}
    """Our field → the file's field, for example {text = "content"} or {text = "meta.body"}; `group` may be given
    one too. With another shape: the shape's field → the file's."""
    weight: Annotated[float, WHERE] = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How often the training rows are in the corpus: 2 is twice, 0.25 a quarter of them. The shard stage does it."""
    as_text: bool = False
    """The file holds conversations; their contents, joined by newlines, become the text of pretraining rows."""
    document: DocumentCut = "passage"
    """Text files only: what a document is. A passage is some paragraphs, at least 1,000 characters."""
    limit: int | None = Field(default=None, ge=1)
    """At most so many good rows are taken."""
    packages: Literal["stdlib", "installed"] = "stdlib"
    """pydocs only: whose documentation."""
    dataset: str | None = None
    """hub only: the data set's name, `owner/name`."""
    file: str | None = None
    """hub only: one file of the data set; without it the data set's own layout decides."""
    split: str = "train"
    """hub only."""
    revision: str = "main"
    """hub only: a commit (40 digits) pins the bytes, and the hub is not asked again; a branch is looked up always."""

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if self.kind in FILE_KINDS and not self.path:
            raise ValueError(f'source `{self.name}`: kind = "{self.kind}" needs `path`')
        if self.kind == "hub" and not self.dataset:
            raise ValueError(f'source `{self.name}`: kind = "hub" needs `dataset`')
        if self.kind == "text" and self.rows != "pretrain":
            raise ValueError(f'source `{self.name}`: a text file has rows = "pretrain" only')
        if self.kind == "pydocs" and self.rows in ("lora", "prompt"):
            raise ValueError(
                f"source `{self.name}`: pydocs has no {self.rows} rows; its rows are pretrain, chat or preference"
            )
        if self.as_text and (self.rows != "pretrain" or self.kind in ("text", "pydocs")):
            raise ValueError(f'source `{self.name}`: as_text is for conversations read with rows = "pretrain"')
        if self.shape != "minimind" and self.kind in ("text", "pydocs"):
            raise ValueError(f'source `{self.name}`: kind = "{self.kind}" has no other shape than minimind')
        allowed = {*CONTENT["chat" if self.as_text else self.rows], "group"}
        allowed |= {"preference": {"prompt"}, "prompt": {"conversations"}}.get(self.rows, set())
        if self.shape == "minimind" and (unknown := set(self.keys) - allowed):
            raise ValueError(f"source `{self.name}`: keys has {sorted(unknown)}; allowed: {sorted(allowed)}")
        return self

    def form(self) -> Form:
        """How its raw rows become rows."""
        return Form(
            rows=self.rows,
            keys=self.keys,
            as_text=self.as_text,
            shape=self.shape,
            has_groups="group" in self.keys or self.kind == "pydocs",
        )

    def files(self) -> tuple[FileKind | None, dict[str, str]]:
        """Kind, and name → place, of its files; no kind where no reader of ours reads them. Raises MissingError."""
        if self.kind == "hub":
            from minimind.data.reading.hub import hub_files

            return hub_files(str(self.dataset), file=self.file, split=self.split, revision=self.revision)
        if self.kind == "pydocs":
            return None, {}
        try:
            return self.kind, find_files(str(self.path), self.kind)
        except (MissingError, ConfigError) as error:
            raise type(error)(f"source `{self.name}`: path: {error}") from None


class IngestConfig(Config):
    """The sources of one kind of rows."""

    rows: RowKind
    sources: tuple[SourceConfig, ...] = Field(min_length=1)
    max_bad_fraction: float = Field(default=0.5, ge=0, le=1)
    """A source with a larger share of unusable rows stops the run."""
    workers: Annotated[int, WHERE] = Field(default=0, ge=0)
    """Processes; 0 takes one for each core."""

    @model_validator(mode="after")
    def _sources_have_these_rows(self) -> Self:
        if wrong := [source.name for source in self.sources if source.rows != self.rows]:
            raise ValueError(f"source `{wrong[0]}` does not have {self.rows} rows")
        return self


def content_digests(config: IngestConfig) -> dict[str, str]:
    """`source/file` → digest of the bytes behind it. Raises MissingError for a file that is not there."""
    digests = {}
    for source in config.sources:
        if (whole := _digest_of_whole(source)) is not None:
            digests[source.name] = whole
            continue
        for name, place in source.files()[1].items():
            digests[f"{source.name}/{name}"] = remote_digest(place) if is_remote(place) else _local_digest(place)
    return digests


def _digest_of_whole(source: SourceConfig) -> str | None:
    """What stands for the content of a source that need not be looked into file by file."""
    if source.kind == "pydocs":
        from minimind.data.python_docs import pydocs

        return pydocs.content_digest(source.packages)
    if source.kind == "hub":
        from minimind.data.reading.hub import is_pinned

        if is_pinned(str(source.dataset), source.revision):
            return f"{source.dataset}@{source.revision}/{source.file or source.split}"
    return None


def _local_digest(place: str) -> str:
    try:
        stat = Path(place).stat()
        return _sha256(place, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise MissingError(f"{place}: cannot be read ({error.strerror}); look at its place and permissions") from None


@cache
def _sha256(place: str, _size: int, _changed: int) -> str:
    return runtime.file_sha256(Path(place))
