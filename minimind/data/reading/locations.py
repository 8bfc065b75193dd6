"""Places that are not on this machine: found, opened, measured and told apart, through fsspec.

Any address that fsspec knows is taken: `https://…`, `s3://…`, `gs://…`, `hf://…`, `memory://…`, `file://…`.
Bytes are streamed. A connection that breaks is made again and goes on where it stopped: with a range where
the server knows ranges, else by reading from the start what was read before. Fewer bytes than the server
promised are an error and never the end of a file, and so is a file that changed in between.

Names carry no user, password or query, which is where keys are.

Not here: what the bytes mean (`files`), retries and errors (`remote`), and random access: a Parquet file has
to be spooled to disk first.
"""

import hashlib
import io
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple, TypeVar
from urllib.parse import unquote

from minimind.data.reading.remote import file_system, is_http, retried, shown, wait_or_raise
from minimind.errors import ConfigError, MissingError, ServiceError

BUFFER_BYTES = 1 << 20
FORGIVING_BYTES = 8 << 20
"""After so many bytes a connection counts as good again and may break `remote.RETRIES` times more."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?:::[A-Za-z][A-Za-z0-9+.-]*)*://")
_CONTENT_MARKS = ("blob_id", "md5Hash", "Content-MD5", "Digest")
"""Made of the content alone: the same wherever it stands."""
_VERSION_MARKS = ("ETag", "etag", "VersionId", "version_id", "generation")
_CHANGE_TIMES = ("Last-Modified", "LastModified", "last_modified", "updated")
_Result = TypeVar("_Result")


def is_remote(path: str) -> bool:
    """Whether `path` is an address (`scheme://…`) rather than a path of this machine."""
    return _SCHEME.match(path) is not None


def find_remote(url: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    """Name → address of all files that `url` (a file, a folder or a glob) means, sorted by name.

    A name is the path below the folder. Of a folder those files count whose name has one of `suffixes`.
    Raises MissingError where there is nothing, ConfigError for a folder of a web server.
    """
    if is_http(url):
        return {_web_name(url): url}
    fs, path = file_system(url)
    return retried(url, lambda: _found(fs, path, url, suffixes))


@contextmanager
def open_remote(url: str) -> Iterator[BinaryIO]:
    """The bytes at `url` from the first to the last. Raises MissingError or ServiceError, also while it is read."""
    with io.BufferedReader(_Stream(url), BUFFER_BYTES) as file:
        yield file


def remote_size(url: str) -> int | None:
    """Bytes at `url`; None where the server does not say."""
    size = _info(url).get("size")
    return None if size is None else int(size)


def remote_digest(url: str) -> str:
    """What stands for the content at `url`: 64 hexadecimal digits that change when it does.

    Made of the server's own mark and the size where there is one, which costs no reading; else the SHA-256
    of the bytes, the same that a local file of this content has.
    """
    info = _info(url)
    mark = _mark(info)
    if not mark:
        return _sha256(url)
    # A version means nothing but at its own address: two servers may both count theirs from 1.
    place = "" if mark.startswith(_CONTENT_MARKS) else shown(url)
    return hashlib.sha256(f"{place}\n{mark}\n{info.get('size')}".encode("utf-8", "replace")).hexdigest()


class _Opened(NamedTuple):
    """A file of fsspec, and what the server said about it."""

    file: Any
    at: int
    """The byte it begins with."""
    size: int | None
    mark: str


class _Stream(io.RawIOBase):
    """The bytes at an address, over as many connections as it takes."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self._fs, self._path = file_system(url)
        self._done = 0
        self._failures = self._failed_at = 0
        self._first: _Opened | None = None
        self._now: _Opened | None = None
        self._until_it_works(self._connect)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._until_it_works(lambda: self._read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._disconnect()
        super().close()

    def _until_it_works(self, step: Callable[[], _Result]) -> _Result:
        while True:
            try:
                return step()
            except Exception as error:  # which library's errors come out depends on the file system
                self._disconnect()
                got_on = self._done - self._failed_at >= FORGIVING_BYTES
                self._failures, self._failed_at = 1 if got_on else self._failures + 1, self._done
                wait_or_raise(self._url, error, self._failures, f"after {self._done:,} bytes")

    def _read(self, limit: int) -> bytes:
        """The next bytes, none at the end."""
        if self._now is None:
            self._connect()
        assert self._now is not None
        data: bytes = self._now.file.read(limit)
        if data:
            self._done += len(data)
        elif self._now.size not in (None, self._done):
            raise EOFError(f"it ended after {self._done:,} of {self._now.size:,} bytes")
        return data

    def _connect(self) -> None:
        opener = _open_http if is_http(self._url) else _open_seekable
        self._now = opened = opener(self._fs, self._path, self._done)
        self._first = before = self._first or opened
        other_size = opened.size != before.size and None not in (opened.size, before.size)
        if other_size or opened.mark != before.mark:
            raise ServiceError(f"{shown(self._url)}: changed on the server while it was read; start again")
        left = self._done - opened.at
        while left > 0:
            if not (again := opened.file.read(min(left, BUFFER_BYTES))):
                raise EOFError(f"it ended {left:,} bytes before the place where the reading broke")
            left -= len(again)

    def _disconnect(self) -> None:
        if self._now is not None:
            with suppress(OSError):
                self._now.file.close()
            self._now = None


def _open_http(fs: Any, url: str, start: int) -> _Opened:
    """A streamed answer from byte `start`, or from the first where the server does not know ranges."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    # `size` only keeps fsspec from asking for it in a request of its own.
    file = fs.open(url, "rb", block_size=0, size=1, headers=headers)
    answer = file.r.headers
    begin, size = 0, answer.get("Content-Length")
    if file.r.status == 206:
        parts = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.get("Content-Range", ""))
        if not parts or int(parts[1]) != start:
            raise OSError(f"asked for byte {start}, the server answers {answer.get('Content-Range')!r}")
        begin, size = start, (None if parts[2] == "*" else parts[2])
    return _Opened(file, begin, None if size is None else int(size), _mark(answer))


def _open_seekable(fs: Any, path: str, start: int) -> _Opened:
    info = fs.info(path)
    if info.get("type") == "directory":
        raise IsADirectoryError(path)
    file = fs.open(path, "rb", cache_type="readahead")
    file.seek(start)
    return _Opened(file, start, info.get("size"), _mark(info))


def _found(fs: Any, path: str, url: str, suffixes: tuple[str, ...]) -> dict[str, str]:
    path = path.rstrip("/")
    wild = next((number for number, part in enumerate(path.split("/")) if set(part) & set("*?[")), None)
    if wild is not None:
        base = "/".join(path.split("/")[:wild])
        found, missing = fs.glob(path, detail=True), "no file matches"
    elif fs.isfile(path):
        return {posixpath.basename(path): url}
    else:
        base, named = path, fs.find(path, detail=True)
        found = {file: info for file, info in named.items() if file.lower().endswith(suffixes)}
        missing = f"no {' or '.join(suffixes)} files in this folder" if named else "no such file or folder"
    files = [file for file, info in found.items() if info.get("type") != "directory"]
    names = {file[len(base) :].lstrip("/"): file for file in files}
    visible = {name: names[name] for name in sorted(names) if not any(part[:1] == "." for part in name.split("/"))}
    if not visible:
        raise MissingError(f"{shown(url)}: {missing}")
    front = url.rstrip("/").removesuffix(path)
    kept = front != url.rstrip("/")  # then user and host, which the file system's own paths have not, stay in front
    return {name: front + file if kept else fs.unstrip_protocol(file) for name, file in visible.items()}


def _web_name(url: str) -> str:
    path = shown(url).split("://", 1)[1].partition("/")[2]
    if "*" in path or not posixpath.basename(path):
        what = "patterns cannot be looked up" if "*" in path else "folders cannot be listed"
        raise ConfigError(
            f"{shown(url)}: {what} on a web server; name each file with a source of its own, or download it"
        )
    return unquote(posixpath.basename(path))


def _info(url: str) -> Mapping[str, Any]:
    fs, path = file_system(url)
    return retried(url, lambda: fs.info(path))


def _mark(info: Mapping[str, Any]) -> str:
    """What the server calls this content: its tag or version, else the time of the last change."""
    times = _CHANGE_TIMES if info.get("size", info.get("Content-Length")) is not None else ()
    return next((f"{name} {info[name]}" for name in (*_CONTENT_MARKS, *_VERSION_MARKS, *times) if info.get(name)), "")


def _sha256(url: str) -> str:
    digest = hashlib.sha256()
    with open_remote(url) as file:
        while data := file.read(BUFFER_BYTES):
            digest.update(data)
    return digest.hexdigest()
