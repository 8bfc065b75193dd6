"""Servers that this process owns: started, seen to be well, started again where they end, and stopped.

Each is in a session of its own, so that Ctrl-C reaches it only through us, and told by the kernel to end if we are
killed. Which there are, and with what settings, is said in `flows.serve`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from minimind import runtime
from minimind.errors import ServiceError

HEALTH_SECONDS = 120.0  # a busy two-core machine needs 20 to 40
GRACE_SECONDS = 15.0
PAUSES_SECONDS = (1.0, 5.0, 15.0, 60.0)
"""Before a server that ended is started again: for the first time, the second, …; the last for all that follow."""
STEADY_SECONDS = 300.0
"""A server that was up for so long begins to count anew."""


@dataclass
class Server:
    """A child process, how to see that it is well, and its log."""

    name: str
    launch: Callable[[], subprocess.Popen[bytes]]
    is_healthy: Callable[[], bool]
    log: Path
    was_healthy: bool = False
    """One that never was may be at work on its database."""
    ended: int = 0
    """How often, one soon after the other."""

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the process; also one that ended."""
        self.process, self.started_at = self.launch(), time.monotonic()

    def wait_until_healthy(self) -> None:
        """Return once the server answers. Raises ServiceError with the end of its log if it does not."""
        deadline = time.monotonic() + HEALTH_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise ServiceError(f"{self.name} ended with exit code {self.process.returncode}; {self.last_words()}")
            if self.is_healthy():
                self.was_healthy = True
                return
            time.sleep(0.3)
        raise ServiceError(f"{self.name} is not up after {HEALTH_SECONDS:.0f} s; {self.last_words()}")

    def stop(self) -> None:
        """End the process and all it started."""
        hangs = self.was_healthy and self.process.poll() is None and not self.is_healthy()
        for number in (signal.SIGKILL,) if hangs else (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if self.process.poll() is not None:
                break
            _signal_group(self.process.pid, number)
            try:
                self.process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                continue
        _signal_group(self.process.pid, signal.SIGKILL)  # what outlived its leader

    def last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
        return f"the end of {self.log}:\n" + "\n".join(lines)


def own(
    name: str, command: list[str], environment: Mapping[str, str], log: Path, *, is_healthy: Callable[[], bool]
) -> Server:
    """Start a server as a child of this process; it is not healthy yet."""
    log.parent.mkdir(parents=True, exist_ok=True)

    def launch() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=runtime.CHECKOUT,
                env=dict(environment),
                start_new_session=True,
                preexec_fn=_before_exec,
            )

    return Server(name, launch, is_healthy, log)


def _before_exec() -> None:
    """In the child: end with us, and hear SIGINT even if we were started with `&`, where it is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runtime.end_with_parent()


def _signal_group(pid: int, number: signal.Signals) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def watch(servers: list[Server], console: Console) -> None:
    """Start a server again that ended: flows that run go on without it meanwhile, and must not end with it."""
    due: dict[str, float] = {}
    while True:
        for server in servers:
            if server.process.poll() is None:
                continue
            if server.name not in due:
                steady = time.monotonic() - server.started_at > STEADY_SECONDS
                server.ended = 1 if steady else server.ended + 1
                pause = PAUSES_SECONDS[min(server.ended, len(PAUSES_SECONDS)) - 1]
                due[server.name] = time.monotonic() + pause
                console.print(
                    f"[yellow]![/yellow] {server.name} ended (exit code {server.process.returncode}); it is started "
                    f"again in {pause:.0f} s, see {server.log}",
                    highlight=False,
                )
            elif time.monotonic() > due[server.name]:
                del due[server.name]
                _signal_group(server.process.pid, signal.SIGKILL)  # workers of it that still hold its port
                server.start()
        time.sleep(0.5)
