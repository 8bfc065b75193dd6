"""A process that is killed just before its n-th change to files below a directory: every one of them, not a moment.

The kernel stops it at every system call (ptrace), threads and child processes with it; one that opens a file to write,
writes, flushes, renames, makes or removes something below the directory is an event. Linux on x86-64 alone.
"""

import ctypes
import os
import platform
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

needs_ptrace = pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="knows the system calls of Linux on x86-64"
)

TRACEME, SYSCALL, SETOPTIONS, SYSCALL_INFO = 0, 24, 0x4200, 0x420E
OPTIONS = 0x1 | 0x2 | 0x4 | 0x8 | 0x100000  # TRACESYSGOOD, TRACEFORK, TRACEVFORK, TRACECLONE, EXITKILL
ENTRY = 1
ALL_THREADS = 0x40000000  # __WALL
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

BY_DESCRIPTOR = {
    1: "write",
    18: "pwrite",
    20: "writev",
    74: "fsync",
    75: "fdatasync",
    77: "ftruncate",
    285: "fallocate",
}
BY_PATH = {76: "truncate", 82: "rename", 83: "mkdir", 84: "rmdir", 86: "link", 87: "unlink", 88: "symlink"}
BY_PATH_AT = {258: "mkdir", 263: "unlink", 264: "rename", 265: "link", 316: "rename"}
"""Number of a system call → its name; what it changes is said by the first argument, or by the first two."""
OPEN, OPENAT = 2, 257


@dataclass
class Traced:
    """What became of a process."""

    code: int
    """As of `subprocess`: −9 where it was killed."""
    events: list[str] = field(default_factory=list)
    """Those that happened, and the one before which it was killed."""


def run_traced(function: Callable[[], object], directory: Path, *, kill_at: int | None = None) -> Traced:
    """Call `function` in a fork of this process; kill it, with all it started, at the event of that number (from 1)."""
    child = os.fork()
    if child == 0:
        _be_traced(function)
    return _follow(child, os.fsencode(directory), kill_at)


def _be_traced(function: Callable[[], object]) -> None:
    code = 1
    try:
        os.setpgid(0, 0)  # so that the tracer waits for nobody else's processes
        _ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        function()
        code = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def _follow(child: int, directory: bytes, kill_at: int | None) -> Traced:
    traced, alive = Traced(0), {child}
    os.waitpid(child, ALL_THREADS)
    _ptrace(SETOPTIONS, child, OPTIONS)
    _ptrace(SYSCALL, child)
    while alive:
        pid, status = os.waitpid(-child, ALL_THREADS)
        if not os.WIFSTOPPED(status):
            alive.discard(pid)
            if pid == child:
                traced.code = os.waitstatus_to_exitcode(status)
            continue
        alive.add(pid)
        number = os.WSTOPSIG(status)
        if number == signal.SIGTRAP | 0x80 and (event := _event(pid, directory)):
            traced.events.append(event)
            if len(traced.events) == kill_at:
                for process in alive:
                    os.kill(process, signal.SIGKILL)
                continue
        passed_on = 0 if number & 0x7F in (signal.SIGTRAP, signal.SIGSTOP) else number
        _ptrace(SYSCALL, pid, passed_on)
    return traced


def _event(pid: int, directory: bytes) -> str:
    """`rename manifest.json` where the system call that begins changes something below the directory; else nothing."""
    info = ctypes.create_string_buffer(88)
    if _ptrace(SYSCALL_INFO, pid, len(info), info) <= 0 or info.raw[0] != ENTRY:
        return ""
    call, *arguments = struct.unpack_from("<Q6Q", info.raw, 24)
    path = b""
    if call in BY_DESCRIPTOR:
        name, path = BY_DESCRIPTOR[call], _of_descriptor(pid, arguments[0])
    elif call in BY_PATH:
        name, path = BY_PATH[call], _text(pid, arguments[0])
    elif call in BY_PATH_AT:
        name, path = BY_PATH_AT[call], _at(pid, arguments[0], _text(pid, arguments[1]))
    elif call == OPEN and arguments[1] & WRITES:
        name, path = "open", _text(pid, arguments[0])
    elif call == OPENAT and arguments[2] & WRITES:
        name, path = "open", _at(pid, arguments[0], _text(pid, arguments[1]))
    if not path.startswith(directory):
        return ""
    return f"{name} {os.fsdecode(path.removeprefix(directory).lstrip(b'/'))}"


def _at(pid: int, descriptor: int, path: bytes) -> bytes:
    """A path that may begin at a directory that is open."""
    return path if path.startswith(b"/") else _of_descriptor(pid, descriptor) + b"/" + path


def _of_descriptor(pid: int, descriptor: int) -> bytes:
    number = ctypes.c_int(descriptor & 0xFFFFFFFF).value
    link = f"/proc/{pid}/fd/{number}" if number >= 0 else f"/proc/{pid}/cwd"
    try:
        return os.fsencode(Path(link).readlink())
    except OSError:
        return b""


def _text(pid: int, address: int) -> bytes:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        found = b""
        while b"\0" not in found and len(found) < 4096:
            found += memory.read(min(256, 4096 - (address + len(found)) % 4096))  # not beyond the page
    return found.partition(b"\0")[0]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def _ptrace(request: int, pid: int, address: int = 0, data: object = None) -> int:
    """`address` is the signal to pass on, or the options, where the kernel takes them from `data`."""
    if data is None:
        address, data = 0, address
    return int(_libc.ptrace(request, pid, address, data))
