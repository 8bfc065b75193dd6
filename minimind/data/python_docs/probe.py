"""What only a running interpreter can tell: the docs of compiled modules, and what examples really print.

Both are asked of a child process that runs this very file with `python -I -S -B` in an empty
directory, under limits of CPU time, memory and file size, and with an audit hook that refuses
writing files, sockets and processes. The examples come from the documentation of the standard
library, which is trusted to be harmless; the guards are against accidents, not against an enemy.
An example counts as verified only if two processes (with two hash seeds) give its documented output.
This file imports nothing from the package, so that the child starts fast.
"""

import contextlib
import importlib
import inspect
import io
import json
import logging
import signal
import subprocess
import sys
import sysconfig
import tempfile
import types
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

EXAMPLE_CPU_SECONDS = 0.5
"""Documented examples take milliseconds; what takes longer is an endless loop."""
CHILD_CPU_SECONDS = 10
CHILD_WALL_SECONDS = 60
"""Only for a child that sleeps: CPU time is what ends the others, so a busy machine loses no examples."""
CHILD_MEMORY_BYTES = 1 << 30

UNWANTED_MODULES = ("_test", "_xx", "xx", "_tkinter", "_ast", "_sha", "_md5", "_blake2", "nis", "ossaudiodev", "spwd")
REFUSED_EVENTS = (
    "ctypes.",
    "ftplib.",
    "http.",
    "mmap.",
    "os.",
    "pty.",
    "shutil.",
    "signal.",
    "smtplib.",
    "socket.",
    "sqlite3.",
    "subprocess.",
    "syslog.",
    "tempfile.",
    "urllib.",
    "webbrowser.",
)
HARMLESS_EVENTS = ("os.listdir", "os.scandir")
"""What the import system itself does."""


@dataclass(frozen=True)
class CompiledDoc:
    """A documented object of a compiled module, as the child found it."""

    module: str
    name: str
    kind: Any
    signature: str
    doc: str


@dataclass(frozen=True)
class Example:
    """Lines of code to run in the names of `module`; the last one is documented to show `expected`."""

    module: str
    lines: tuple[str, ...]
    expected: str


@cache
def compiled_docs() -> tuple[CompiledDoc, ...]:
    """The documented public objects of the standard library's compiled modules; what was found if the child fails."""
    return tuple(CompiledDoc(**value) for value in _ask("docs", []))


def verify(examples: Sequence[Example]) -> list[bool]:
    """For each example, whether two runs of it in fresh namespaces both showed what is expected."""
    questions = [asdict(example) for example in examples]
    verified = [True] * len(examples)
    for _ in range(2):
        shown = _ask("examples", questions)
        shown += [None] * (len(examples) - len(shown))  # the child was ended in the middle
        verified = [ok and got == e.expected for ok, got, e in zip(verified, shown, examples, strict=True)]
    return verified


def _ask(command: str, questions: list[dict[str, Any]]) -> list[Any]:
    """The child's answers, one JSON line each; those before its end if it was ended."""
    arguments = [sys.executable, "-I", "-S", "-B", "-W", "ignore", __file__, command]
    with tempfile.TemporaryDirectory() as empty:
        child = subprocess.Popen(
            arguments, cwd=empty, env={}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            out, err = child.communicate(json.dumps(questions).encode(), timeout=CHILD_WALL_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            out, err = child.communicate()
    if child.returncode != 0:
        last = err.decode(errors="replace").strip().rpartition("\n")[2]
        logger.warning("asking Python for its %s ended early (code %s): %s", command, child.returncode, last)
    lines = out.split(b"\n")[:-1]  # what follows the last newline is half a line, or nothing
    return [json.loads(line) for line in lines]


# --- below: in the child ---


def _child(command: str) -> None:
    answer = sys.stdout
    with contextlib.suppress(ImportError):  # not on Windows
        _limit()
    if command == "docs":
        for doc in _find_compiled_docs():
            print(json.dumps(asdict(doc)), file=answer)
        return
    questions = json.load(sys.stdin)
    namespaces = {name: _names_of(name) for name in sorted({q["module"] for q in questions})}
    sys.addaudithook(_refuse)
    signal.signal(signal.SIGVTALRM, _out_of_time)
    for question in questions:
        names = namespaces[question["module"]]
        shown = None if names is None else _show(question["lines"], dict(names))
        print(json.dumps(shown), file=answer, flush=True)


def _limit() -> None:
    import resource

    wanted = {
        resource.RLIMIT_CPU: CHILD_CPU_SECONDS,
        resource.RLIMIT_AS: CHILD_MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for what, value in wanted.items():
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some of them
            resource.setrlimit(what, (value, value))


def _names_of(module: str) -> dict[str, Any] | None:
    """The names an example of the module's documentation may use; None if the module cannot be imported."""
    try:
        names = dict(vars(importlib.import_module(module)))
    except ImportError:
        return None
    names[module.partition(".")[0]] = sys.modules[module.partition(".")[0]]
    return names


def _show(lines: list[str], names: dict[str, Any]) -> str | None:
    """What the interactive interpreter would show for the last line; None for any failure."""
    shown = io.StringIO()
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(io.StringIO()), _timer():
            for number, line in enumerate(lines, start=1):
                if number == len(lines):
                    shown.seek(0)
                    shown.truncate()
                exec(compile(line + "\n", "<example>", "single"), names)  # noqa: S102  of installed modules
    except BaseException:  # the example's failure, SystemExit too, is its answer
        return None
    return shown.getvalue().rstrip("\n")


@contextlib.contextmanager
def _timer() -> Iterator[None]:
    """Interrupts what uses too much CPU time, again and again in case the interruption is swallowed."""
    signal.setitimer(signal.ITIMER_VIRTUAL, EXAMPLE_CPU_SECONDS, EXAMPLE_CPU_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _out_of_time(*_: object) -> None:
    raise TimeoutError("the example takes too long")


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: only reading is allowed."""
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) - set("rbt"):
        raise PermissionError(f"an example may not write {arguments[0]}")
    if event == "open" and not isinstance(arguments[1], str) and arguments[2] & 0o3:
        raise PermissionError(f"an example may not write {arguments[0]}")
    if event.startswith(REFUSED_EVENTS) and event not in HARMLESS_EVENTS:
        raise PermissionError(f"an example may not do {event}")


def _find_compiled_docs() -> Iterator[CompiledDoc]:
    shared = Path(sysconfig.get_path("platstdlib"), "lib-dynload").glob("*.so")
    names = {*sys.builtin_module_names, *(path.name.partition(".")[0] for path in shared)}
    for name in sorted(names):
        if name.startswith(UNWANTED_MODULES):
            continue
        with contextlib.suppress(ImportError):
            yield from _docs_of(importlib.import_module(name))


def _docs_of(module: types.ModuleType) -> Iterator[CompiledDoc]:
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or not isinstance(value, type | types.BuiltinFunctionType):
            continue
        if getattr(value, "__name__", name) != name:  # an alias, like EnvironmentError
            continue
        kind = "class" if isinstance(value, type) else "function"
        yield from _doc_of(module.__name__, name, kind, value)
        for member, inner in sorted(vars(value).items()) if isinstance(value, type) else ():
            if not member.startswith("_"):
                kind = "method" if callable(inner) or isinstance(inner, classmethod | staticmethod) else "property"
                yield from _doc_of(module.__name__, f"{name}.{member}", kind, inner)


def _doc_of(module: str, name: str, kind: str, value: Any) -> Iterator[CompiledDoc]:
    doc = getattr(value, "__doc__", None)
    if isinstance(doc, str) and doc.strip() and "0x" not in doc and doc != type(value).__doc__:
        yield CompiledDoc(module, name, kind, _signature_of(value, kind), inspect.cleandoc(doc))


def _signature_of(value: Any, kind: str) -> str:
    """`(x, /)` without self, or "" where the interpreter does not know it."""
    try:
        found = inspect.signature(value.__func__ if isinstance(value, classmethod | staticmethod) else value)
    except (AttributeError, NameError, TypeError, ValueError):  # defaults are evaluated from text
        return ""
    parameters = list(found.parameters.values())
    if kind == "method" and parameters and parameters[0].name in ("self", "type", "cls"):
        parameters = parameters[1:]
    text = str(inspect.Signature(parameters))
    return "" if " at 0x" in text or "<" in text else text


if __name__ == "__main__":
    _child(sys.argv[1])
