"""A private PostgreSQL server for a test: its own directory, port and user, gone with the test."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER, PASSWORD = "minimind", "wild-geese"
"""Of somebody who owns the databases, and may do no more on the server."""


def find_programs() -> Path | None:
    """Where `initdb` and `pg_ctl` are: on the PATH, or where Debian puts the newest version."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    newest = max(versions, key=lambda path: float(path.parents[1].name), default=None)
    return newest and newest.parent


@contextmanager
def postgres(programs: Path, *databases: str) -> Iterator[str]:
    """Inside, a server on the loopback has these databases of USER, who needs PASSWORD; gives `user@host:port`."""
    directory = Path(tempfile.mkdtemp(prefix="minimind-postgres-"))  # pytest's own folders are closed to other users
    data, log = directory / "data", directory / "log"
    account = _account()
    if account:
        os.chown(directory, account.pw_uid, account.pw_gid)

    def run(program: str, *arguments: str) -> None:
        command = [str(programs / program), *arguments]
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            user=account and account.pw_uid,
            group=account and account.pw_gid,
            extra_groups=[] if account else None,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
        )
        assert done.returncode == 0, f"{command}: {done.stdout}"

    port = _free_port()
    options = f"-p {port} -k {directory} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        run("initdb", "--pgdata", str(data), "--auth-local", "trust", "--auth-host", "scram-sha-256", "--no-sync")
        run("pg_ctl", "--pgdata", str(data), "--log", str(log), "--options", options, "--wait", "start")
        try:
            there = ("--host", str(directory), "--port", str(port))  # the socket, as the server's owner
            run("psql", *there, "--command", f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'", "postgres")
            for name in databases:
                run("createdb", *there, "--owner", USER, name)
            yield f"{USER}@127.0.0.1:{port}"
        finally:
            run("pg_ctl", "--pgdata", str(data), "--mode", "immediate", "--wait", "stop")
    finally:
        shutil.rmtree(directory)


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL does not run as root; then somebody else does it."""
    if os.getuid() != 0:
        return None
    known = {account.pw_name: account for account in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
