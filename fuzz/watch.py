"""What this process opens, starts and calls while something is done: Python's own audit events."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.target import Broken

_FORBIDDEN = frozenset(
    ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.mkdir", "os.remove", "os.rename")
)


class Watch:
    """The files that were opened since it was told to look."""

    def __init__(self) -> None:
        self.looks = False
        self.opened: list[tuple[str, str | None]] = []

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take one of Python's audit events. Raises Broken in whoever does what is forbidden."""
        if not self.looks:
            return
        if event == "open" and isinstance(arguments[0], str):
            self.opened.append((arguments[0], arguments[1]))
        elif event in _FORBIDDEN:
            raise Broken("reading changes nothing and calls nobody", (event, arguments))


@contextmanager
def watched() -> Iterator[list[Path]]:
    """The files that were opened inside; it is full at the end. Raises Broken where one was opened to be written."""
    watch, found = _watch(), list[Path]()
    watch.opened.clear()
    watch.looks = True
    try:
        yield found
    finally:
        watch.looks = False
    for path, mode in watch.opened:
        if set(mode or "") & set("wax+"):
            raise Broken("reading writes nothing", path)
        found.append(Path(path).resolve())


@cache
def _watch() -> Watch:
    """The only one: a hook cannot be taken away again."""
    watch = Watch()
    sys.addaudithook(watch.hear)
    return watch
