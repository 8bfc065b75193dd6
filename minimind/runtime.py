"""The machine a stage runs on: where files live, how they are written safely, what hardware there is.

Nothing here decides what is computed. torch is imported inside the functions that need it, so
that `minimind --help` stays fast.
"""

import ctypes
import getpass
import hashlib
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from minimind.errors import ConfigError

if TYPE_CHECKING:
    import torch

CHECKOUT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "numpy", "pyarrow", "sentencepiece", "tokenizers", "mlflow", "prefect", "datasets")

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def home() -> Path:
    """The store of artifacts, databases and logs: `MINIMIND_HOME`, by default `.minimind/` in the checkout.

    Raises ConfigError where no directory can be there, or where a database in it would have no address.
    """
    given = Path(os.environ.get("MINIMIND_HOME") or CHECKOUT / ".minimind").expanduser()
    try:
        found = given.resolve()
        blocking = next((path for path in (found, *found.parents) if path.exists()), found)
    except (OSError, RuntimeError) as error:  # the latter for links in a circle
        raise ConfigError(f"MINIMIND_HOME is {given}: {error}; choose another path") from None
    if not blocking.is_dir():
        raise ConfigError(f"MINIMIND_HOME is {found}, and {blocking} is no directory; choose another path")
    if "?" in str(found):
        raise ConfigError(f"MINIMIND_HOME is {found}, and the address of a database ends at a `?`; choose another path")
    if os.fsencode(found) != str(found).encode(errors="replace"):
        raise ConfigError(f"MINIMIND_HOME is {os.fsencode(found)!r}, which is not UTF-8; choose another path")
    return found


def fsync_path(path: Path) -> None:
    """Flush a file or directory to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Have two paths of one file system change places in one step; False where the system cannot (Linux can)."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    if rename is None:
        return False
    in_this_directory, and_back = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename(in_this_directory, os.fsencode(one), in_this_directory, os.fsencode(other), and_back) == 0


UNFINISHED = re.compile(r"\..+\.\d+\.tmp")
"""The names of files that `write_atomic` writes before it gives them their own."""


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content` so that a crash leaves the old file or the new one, never half."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


def is_unfinished(path: Path) -> bool:
    """Whether a file is one that `write_atomic` was writing, by its name; its process may be gone."""
    return UNFINISHED.fullmatch(path.name) is not None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically. NaN and infinity are refused."""
    write_atomic(path, json_text(value))


def json_text(value: Any) -> str:
    """`value` as readable JSON. NaN and infinity are refused."""
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal; constant memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def end_with_parent(number: int = signal.SIGTERM) -> bool:
    """Have the kernel send this process `number` when the thread that started it ends; False where it cannot.

    Linux can. It survives an exec, so it also serves as `preexec_fn`.
    """
    if sys.platform != "linux":
        return False
    pr_set_pdeathsig = 1
    return ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, int(number), 0, 0, 0) == 0


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def cpu_count(cgroups: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores this process may use: those it may run on, and no more than its container's quota, rounded up.

    Threads beyond the quota are stopped together for the rest of every period, with the locks they hold.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *map(math.ceil, _cpu_quotas(cgroups))]))


def _cpu_quotas(cgroups: Path) -> Iterator[float]:
    """Quotas in cores of the control group and those above it, of version 2 (`cpu.max`) and 1."""
    try:
        own = Path("/proc/self/cgroup").read_text().rpartition("0::")[2].partition("\n")[0].lstrip("/")
    except OSError:  # not Linux
        return
    group = cgroups / own
    for directory in [group, *group.parents][: len(Path(own).parts) + 1]:
        with suppress(OSError, ValueError):
            quota, period = (directory / "cpu.max").read_text().split()
            yield int(quota) / int(period)  # "max" is no number
    with suppress(OSError, ValueError):
        quota, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)


def host() -> dict[str, Any]:
    """What a reader of a manifest wants to know of the machine."""
    return {"name": platform.node(), "system": platform.platform(), "cores": cpu_count(), **_user()}


def _user() -> dict[str, str]:
    """Who runs this; nothing where the system does not say, as in a container whose user has no name."""
    with suppress(KeyError, OSError, ImportError):
        return {"user": getpass.getuser()}
    return {}


def libraries() -> dict[str, str]:
    """Versions of Python and the packages that decide results; read from metadata, nothing is imported."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """The checkout's commit with `+changes` where the tree differs from it; None outside git."""
    git = shutil.which("git")
    if git is None or not (CHECKOUT / ".git").exists():
        return None

    def ask(*arguments: str) -> str:
        done = subprocess.run([git, "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = ask("rev-parse", "--short=12", "HEAD")
    return (commit + ("+changes" if ask("status", "--porcelain", "--untracked-files=no") else "")) if commit else None


def choose_device(name: str = "auto") -> "torch.device":
    """`auto` is CUDA, then MPS, then the CPU; under torchrun each local rank gets its own GPU."""
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def choose_precision(precision: Precision, device: "torch.device") -> "torch.dtype":
    """The dtype of matrix products; `auto` takes bf16 where the hardware multiplies it natively.

    A CPU without avx512_bf16 or AMX emulates bf16 more slowly than fp32, and fp16 on any CPU is
    ten times slower still. GPUs before Ampere have only fp16, which needs a loss scaler.
    """
    import torch

    named = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if precision != "auto":
        return named[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and cpu_multiplies_bf16() else torch.float32


@cache
def cpu_multiplies_bf16() -> bool:
    """Whether this machine's processor has instructions for products of bf16."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16"} & set(flags))
