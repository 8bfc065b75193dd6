"""A real server in a process of its own, over fake engines or real ones, for the tests of `minimind.serve`.

    with serving({"echo": directory}) as server:
        httpx.get(f"{server.url}/health")

A model that is given as a file, not a directory, is an alias: the file says which directory it means.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

FAKE = (sys.executable, str(Path(__file__).with_name("fake_engine.py")))
START_SECONDS = 60.0  # two busy cores


@dataclass
class ServerProcess:
    """A server that answers."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def engines(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children()

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8")


@contextmanager
def serving(models: Mapping[str, Path], *, real: bool = False, **options: Any) -> Iterator[ServerProcess]:
    """A server of these models; `options` are `adapters` and fields of Listening, Limits and EngineSettings."""
    values = {"models": {name: str(path) for name, path in models.items()}, "real": real, **options}
    with tempfile.TemporaryDirectory() as scratch:
        log = Path(scratch) / "server.log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, __file__, json.dumps(values)],
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "500"},
            )
        try:
            yield ServerProcess(process, _address(process, log), log)
        finally:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            finally:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


def eventually(claim: Callable[[], Any], seconds: float = 20.0) -> Any:
    """What `claim` gives once that is true; the last it gave, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := claim()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return value


def _address(process: subprocess.Popen[str], log: Path) -> str:
    """Where it listens, as it says once its models are loaded."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(r"API +(http://\S+)/v1", line):
            return found[1]
    raise AssertionError(f"the server ended: {log.read_text()}")


def main(values: dict[str, Any]) -> None:
    from rich.console import Console

    from minimind.serve.engine_process import COMMAND
    from minimind.serve.engine_spec import EngineSettings
    from minimind.serve.fleet import Fleet
    from minimind.serve.limits import Limits
    from minimind.serve.serving import Listening, serve
    from minimind.serve.sources import Source, Version, read_adapters, version_of

    def locate(spec: str) -> Version:
        return version_of(Path(spec) if Path(spec).is_dir() else Path(Path(spec).read_text()))

    def chosen(settings: Any, **defaults: Any) -> Any:
        return settings.parse(
            {k: v for k, v in {**defaults, **values}.items() if k in settings.model_fields}, origin="test"
        )

    sources = [Source(name, path) for name, path in values["models"].items()]
    fleet = Fleet(
        sources,
        adapters=read_adapters(values.get("adapters", []), sources),
        locate=locate,
        settings=chosen(EngineSettings, threads=1),
        refresh_seconds=values.get("refresh_seconds", 0),
        command=COMMAND if values["real"] else FAKE,
    )
    serve(fleet, chosen(Listening, port=0), limits=chosen(Limits), console=Console(width=500))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
