"""The process of the page: Streamlit as a child that ends with us.

It is told everything on its command line and in its environment, so that a user's own Streamlit settings change nothing
that counts: nothing is sent home, nothing is fetched, no traceback reaches the page, requests carry a token against
forgery, and on the loopback only the loopback's names are answered. The key of the API goes by environment: everybody
can read a command line. Not here: the page (`frame`).
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlsplit

from minimind import runtime
from minimind.errors import ConfigError, ServiceError
from minimind.serve.webui.client import LOOPBACK

URL_VARIABLE = "MINIMIND_SERVER_URL"
KEY_VARIABLE = "MINIMIND_API_KEY"
PAGE = Path(__file__).with_name("script") / "chat.py"
HEALTH_SECONDS = 60.0  # Streamlit takes 2 to 5; a busy machine longer
GRACE_SECONDS = 5.0

LIGHT = {
    "primaryColor": "#3b6fd4",
    "backgroundColor": "#ffffff",
    "secondaryBackgroundColor": "#f4f5f7",
    "textColor": "#1f2430",
    "linkColor": "#2f5fc0",
    "borderColor": "#e2e5ea",
    "codeBackgroundColor": "#f4f5f7",
}
DARK = {
    "primaryColor": "#7aa2f7",
    "backgroundColor": "#16181d",
    "secondaryBackgroundColor": "#1f2229",
    "textColor": "#e4e6eb",
    "linkColor": "#9dbbff",
    "borderColor": "#30343d",
    "codeBackgroundColor": "#1f2229",
}
THEME = {"baseRadius": "10px", "baseFontSize": "16", "showSidebarBorder": "true", "buttonRadius": "10px"}


def options(host: str, port: int) -> dict[str, str]:
    """What Streamlit is told, but for names of hosts."""
    themes = {
        f"theme.{mode}.{name}": value
        for mode, table in (("light", LIGHT), ("dark", DARK))
        for name, value in table.items()
    }
    return {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "server.enableXsrfProtection": "true",
        "server.enableCORS": "true",
        "server.enableStaticServing": "false",
        "server.maxUploadSize": "20",
        "server.showEmailPrompt": "false",
        "browser.serverAddress": host,  # given, or Streamlit asks a server on the Internet for ours
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "minimal",
        "client.showErrorDetails": "none",
        "logger.level": "warning",
        "logger.hideWelcomeMessage": "true",
        "runner.magicEnabled": "false",
        **{f"theme.{name}": value for name, value in THEME.items()},
        **themes,
    }


@contextmanager
def page(
    server_url: str, *, key: str = "", host: str = "127.0.0.1", port: int = 8501
) -> Iterator["subprocess.Popen[bytes]"]:
    """Inside, the page is up; its process and all it started end with the block. Raises ServiceError where it fails."""
    check_url(server_url)
    _check_port(host, port)
    home = runtime.home()
    log = home / "logs" / "webui.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    flags = [f"--{name}={value}" for name, value in options(host, port).items()]
    if host in LOOPBACK:  # else a web site could rebind its own name to this machine and read along
        flags += [f"--server.allowedHosts={name}" for name in LOOPBACK]
    environment = {URL_VARIABLE: server_url, KEY_VARIABLE: key, "MINIMIND_HOME": str(home)}
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "streamlit", "run", str(PAGE), *flags],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # Ctrl-C reaches it through us
            preexec_fn=_before_exec,
        )
    try:
        _wait_until_healthy(process, address(host, port), log)
        yield process
    finally:
        _stop(process)


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page."""
    everywhere = host in ("0.0.0.0", "::")  # noqa: S104  asked for, never our choice
    shown = "127.0.0.1" if everywhere else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


def check_url(url: str) -> None:
    """Raises ConfigError for what is no address of an API."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--server {url}: is no address of an API; write it like http://127.0.0.1:8000/v1")


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"cannot listen on {host} port {port} ({error.strerror or error}); end what listens there, or give "
                "another --port or --host"
            ) from None


def _wait_until_healthy(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy cannot reach this machine
    deadline = time.monotonic() + HEALTH_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServiceError(f"the page ended with exit code {process.returncode}; {_last_words(log)}")
        try:
            with opener.open(f"{url}/_stcore/health", timeout=2):
                return
        except (URLError, OSError):
            time.sleep(0.2)
    raise ServiceError(f"the page is not up after {HEALTH_SECONDS:.0f} s; {_last_words(log)}")


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
    return f"the end of {log}:\n" + "\n".join(lines)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_SECONDS)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue


def _before_exec() -> None:
    """In the child: end with us, and hear signals even if we were started with `&`, where SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runtime.end_with_parent()
