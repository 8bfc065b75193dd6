"""Named places where a test has a fault happen: a kill between a save and its rename, a disk that is full just there.

    MINIMIND_FAILPOINTS="checkpoint.rename=kill@2, seal.rename=ENOSPC"

    place=action[:process][@count][/rank]

The action is a signal (`kill`, `term`, `int`, `stop`), the name of an errno, `memory` (nothing more can be allocated),
`hang`, or `spoil`, which is for the place to do. It comes at the count-th time that the place is reached, by default
the first; a signal goes to this process, its `parent` (of a rank: the agent) or its `grandparent` (the flow). With a
rank, only that one counts and is hit. Where nothing is planned, a place costs a call and a look at an empty dictionary.
"""

import errno
import os
import re
import resource
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from minimind.errors import ConfigError

VARIABLE = "MINIMIND_FAILPOINTS"
SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT, "stop": signal.SIGSTOP}
OTHERS = ("memory", "hang", "spoil")


@dataclass
class _Fault:
    action: str
    process: str
    left: int
    """Times until it comes."""
    rank: str | None


_faults: dict[str, list[_Fault]] = {}


def plan(text: str) -> None:
    """Have the faults of `text`, and no others, happen in this process. Raises ConfigError."""
    _faults.clear()
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"([\w.]+)=(\w+)(?::(parent|grandparent))?(?:@(\d+))?(?:/(\d+))?", entry)
        if match is None or not _is_action(match[2]):
            raise ConfigError(f"{VARIABLE}: `{entry}` is not of the form place=action[:process][@count][/rank]")
        place, action, process, count, rank = match.groups()
        _faults.setdefault(place, []).append(_Fault(action, process or "self", int(count or 1), rank))


def reach(place: str) -> bool:
    """This process is at `place`: what is planned for it happens now. Says whether the place is to spoil something."""
    return bool(_faults) and _befall(place)


def _befall(place: str) -> bool:
    spoil = False
    for fault in _faults.get(place, ()):
        if fault.rank in (None, os.environ.get("RANK", "0")):
            fault.left -= 1
            if fault.left == 0:
                _do(fault, place)
                spoil |= fault.action == "spoil"
    return spoil


def _do(fault: _Fault, place: str) -> None:
    if number := SIGNALS.get(fault.action):
        os.kill(_target(fault.process), number)
    elif fault.action == "memory":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used, resource.RLIM_INFINITY))
    elif fault.action == "hang":
        while True:
            time.sleep(3600)
    elif fault.action != "spoil":
        code = getattr(errno, fault.action)
        raise OSError(code, os.strerror(code), place)


def _target(process: str) -> int:
    if process == "self":
        return os.getpid()
    parent = os.getppid()
    if process == "parent":
        return parent
    status = Path(f"/proc/{parent}/status").read_text()
    return int(status.partition("PPid:")[2].split()[0])


def _is_action(name: str) -> bool:
    return name in SIGNALS or name in OTHERS or (name.isupper() and hasattr(errno, name))


plan(os.environ.get(VARIABLE, ""))
