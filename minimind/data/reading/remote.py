"""The file system behind an address: made through fsspec, asked again where it fails, its errors in our words.

Which library's errors come out depends on the file system (aiohttp, botocore, paramiko, …), so here, at the
border, all of them are caught: what may pass is tried again, the rest is a MissingError, ServiceError or
ConfigError with the address, the reason and what to do. An address is shown without user, password and query,
which is where keys are, and no chained traceback brings them back.

Not here: what is done with the file system (`locations`).
"""

import itertools
import logging
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from minimind.errors import ConfigError, MiniMindError, MissingError, ServiceError

RETRIES = 4
"""Failures in a row that are forgiven."""
WAIT_SECONDS = 0.5
"""Before the first retry, twice as long before each other: 7.5 s in all, a server's restart."""
SILENCE_SECONDS = 60
"""A connection that says nothing for so long is broken. There is no limit for a whole file."""
_PASSING_STATUS = (408, 425, 429)  # and 500 or more: the server says it is not the request's fault
_NETWORK_LIBRARIES = ("aiohttp", "httpx", "httpcore", "botocore", "aiobotocore", "google", "azure")
"""Their errors are no OSErrors."""
_ANY_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def shown(url: str) -> str:
    """`url` without user, password, query and fragment: fit for names, errors and logs."""
    bare = re.sub(r"://[^/]*@", "://", url)
    # Elsewhere ? and # belong to the name, or are a pattern.
    return re.sub(r"[?#].*", "", bare) if is_http(url) else bare


def file_system(url: str) -> tuple[Any, str]:
    """The file system behind `url`, which has forgotten all listings, and its own name for the place."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(url, **(_http_options() if is_http(url) else {}))
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or "the package that the message names"
        raise MissingError(f"{shown(url)}: {reason_of(error)}; run `pip install {package}`") from None
    except ValueError as error:
        raise ConfigError(
            f"{shown(url)}: {reason_of(error)}; use a path, https://, s3:// or what fsspec knows"
        ) from None
    except Exception as error:  # some file systems log in as soon as they are made
        raise _translated(url, error, "at the login") from None
    fs.invalidate_cache()
    return fs, path


def _http_options() -> dict[str, Any]:
    import aiohttp

    silence = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_SECONDS, sock_read=SILENCE_SECONDS)
    # Bytes as they are stored, not as a server may pack them for the way; a proxy where the environment names one.
    return {"client_kwargs": {"timeout": silence, "auto_decompress": False, "trust_env": True}}


def retried(url: str, step: Callable[[], _Result]) -> _Result:
    """What `step` gives, tried a few times."""
    for failures in itertools.count(1):
        try:
            return step()
        except Exception as error:  # which library's errors come out depends on the file system
            wait_or_raise(url, error, failures, "at the first question")
    raise AssertionError("counting ended")


def wait_or_raise(url: str, error: Exception, failures: int, where: str) -> None:
    """Sleep a while where the trouble may pass, else raise what it means for the user."""
    if isinstance(error, MiniMindError):
        raise error
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and isinstance(cause, Exception):
        error = cause  # fsspec calls everything that goes wrong with a web server's file "not found"
    if failures > RETRIES or not _passes(error):
        raise _translated(url, error, where) from None  # the chain would show the address with its secrets
    _log.warning("%s: %s %s; trying again (%d of %d)", shown(url), reason_of(error), where, failures, RETRIES)
    time.sleep(WAIT_SECONDS * 2 ** (failures - 1))


def _passes(error: Exception) -> bool:
    """Whether it is worth trying again."""
    if status := status_of(error):
        return status in _PASSING_STATUS or status >= 500
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | ValueError) or _lacks_login(error):
        return False
    return isinstance(error, OSError | EOFError) or type(error).__module__.split(".")[0] in _NETWORK_LIBRARIES


def status_of(error: Exception) -> int:
    """The number the server answered with, 0 where it is none of its answers."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else 0


def _lacks_login(error: Exception) -> bool:
    return "Credential" in type(error).__name__


def _translated(url: str, error: Exception, where: str) -> MiniMindError:
    """The error with the address, the reason and what to do."""
    status = status_of(error)
    reason = f"the server answers {status}" if status else reason_of(error)
    if status in (401, 403) or isinstance(error, PermissionError) or _lacks_login(error):
        return ServiceError(f"{shown(url)}: access refused ({reason}); {_credentials(url)}")
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return MissingError(f"{shown(url)}: no such file on the server; check the address")
    if isinstance(error, IsADirectoryError):
        return MissingError(f"{shown(url)}: is a folder; name a file, or end a source's `path` with a pattern")
    remedy = "check the address and the network, or download the file and give its path"
    return ServiceError(f"{shown(url)}: cannot be read {where} ({reason}); {remedy}")


def _credentials(url: str) -> str:
    if url.startswith("hf:"):
        return "run `hf auth login`, or set HF_TOKEN, and accept the data set's terms on its page"
    if url.startswith(("s3:", "s3a:")):
        keys = "set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        return f"{keys}, or for a public bucket FSSPEC_S3='{{\"anon\": true}}'"
    if is_http(url):
        return "give an address that needs no login, or download the file and give its path"
    return "log in the way this file system's fsspec package asks for"


def reason_of(error: Exception) -> str:
    """The first line of the error's message without what is secret in addresses."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return _ANY_URL.sub(lambda found: shown(found[0]), text)[:160]


def is_http(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))
