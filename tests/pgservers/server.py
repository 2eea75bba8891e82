"""Throw-away PostgreSQL servers on loopback: made, started, stopped and removed again."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import psycopg

PASSWORD = "throw-away"  # of servers that live for one run and listen on loopback only
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "logical",
    "max_wal_size": "4GB",
    "shared_buffers": "256MB",
    "max_connections": "60",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "autovacuum": "off",
    "listen_addresses": "127.0.0.1",
    "password_encryption": "scram-sha-256",
    "log_min_messages": "warning",
}
START_SECONDS = 60.0
STOP_SECONDS = 60.0
PREFIX = "cutover-pg-"


class ServerError(Exception):
    """Why a server does not run."""


@dataclass(frozen=True)
class Server:
    """A running server. bin: its programs; user: superuser ``postgres`` with PASSWORD over TCP, trusted over the socket in ``home``."""

    name: str
    bin: Path
    home: Path
    port: int

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        return int((self.data / "postmaster.pid").read_text().split()[0])

    def args(self, dbname: str, user: str = "postgres", password: str | None = PASSWORD, **more: Any) -> dict[str, Any]:
        """The module argument ``source`` or ``target`` of one of its databases."""
        return {"host": "127.0.0.1", "port": self.port, "dbname": dbname, "user": user, "password": password, "sslmode": "disable", **more}

    def connect(self, dbname: str = "postgres") -> psycopg.Connection[Any]:
        """A plain superuser connection with autocommit and the server's own settings."""
        return psycopg.connect(host=str(self.home), port=self.port, dbname=dbname, user="postgres", autocommit=True)

    def execute(self, dbname: str, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements; rows of the last one."""
        with self.connect(dbname) as conn:
            cursor = None
            for statement in statements:
                cursor = conn.execute(statement)
            return cursor.fetchall() if cursor is not None and cursor.description else []


class Fleet:
    """Servers under one temporary folder, all of them stopped and removed at the end.

    Enter it and start servers in the main thread: they end with the thread that has started them, even when that one is killed.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, parent: Path | None = None) -> None:
        """settings: of postgresql.conf, instead of SETTINGS where they name the same; parent: where the folder is made."""
        self.settings = {**SETTINGS, **(settings or {})}
        self.parent = parent or Path(tempfile.gettempdir())
        self._running: list[tuple[Server, subprocess.Popen[bytes]]] = []

    def __enter__(self) -> Fleet:
        self.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_behind(self.parent)
        self.top = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self.parent))
        self.top.chmod(0o755)
        self._lock = _lock(self.top)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            for _server, process in self._running:
                process.send_signal(signal.SIGQUIT)
            for _server, process in self._running:
                process.wait(STOP_SECONDS)
        finally:
            self._lock.close()
            shutil.rmtree(self.top, ignore_errors=True)

    def start(self, **programs: Path) -> list[Server]:
        """New servers in the given order: name to directory of the programs. Raises ServerError with the end of the log."""
        servers = [self._made(name, path) for name, path in programs.items()]
        making = [spawn(_initdb(server), server.home) for server in servers]
        for process in making:
            output = process.communicate(timeout=120)[0]
            if process.returncode:
                raise ServerError(f"initdb failed: {output.decode()}")
        starting = []
        for server in servers:
            settings = {**self.settings, "unix_socket_directories": str(server.home), "port": str(server.port)}
            with (server.data / "postgresql.conf").open("a") as conf:
                conf.writelines(f"{key} = '{value}'\n" for key, value in settings.items())
            starting.append(self._started(server))
        for server, process in zip(servers, starting, strict=True):
            _wait(server, process)
        return servers

    def restart(self, server: Server, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it (SIGINT: in order; SIGQUIT: as after a crash) and start it again with the same data."""
        old = next(entry for entry in self._running if entry[0].home == server.home)
        old[1].send_signal(how)
        old[1].wait(STOP_SECONDS)
        self._running.remove(old)
        _wait(server, self._started(old[0]))

    def _started(self, server: Server) -> subprocess.Popen[bytes]:
        process = spawn([str(server.bin / "postgres"), "-D", str(server.data)], server.home, log=server.home / "log")
        self._running.append((server, process))
        return process

    def _made(self, name: str, programs: Path) -> Server:
        home = self.top / name
        home.mkdir()
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(home, owner.pw_uid, owner.pw_gid)
            programs = reachable(programs.parent, self.top / f"programs-{programs.parent.name}") / programs.name
        (home / "password").write_text(PASSWORD)
        (home / "password").chmod(0o644)
        return Server(name, programs, home, free_port())


def reachable(folder: Path, copy: Path) -> Path:
    """The folder, or a copy of it where another user may read it: a checkout below a closed home directory is no place for that."""
    if os.geteuid() or all(above.stat().st_mode & 0o001 for above in (folder, *folder.parents)):
        return folder
    if not copy.exists():
        shutil.copytree(folder, copy, symlinks=True)
    return copy


def _initdb(server: Server) -> list[str]:
    command = [
        str(server.bin / "initdb"),
        "-N",
        "-D",
        str(server.data),
        "-U",
        "postgres",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--data-checksums",
    ]
    return [*command, "--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={server.home}/password"]


def spawn(command: list[str], home: Path, log: Path | None = None, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command as the owner of ``home`` (PostgreSQL refuses to run as root); it is asked to stop when this process is gone.

    environment: beside what this process has of it
    """
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        prefix += [f"--reuid={home.stat().st_uid}", f"--regid={home.stat().st_gid}", "--clear-groups"]
    plain = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "PYTHON", "LC_", "LANG", "LD_"))}
    output: IO[bytes] | int = subprocess.PIPE if log is None else log.open("ab")
    try:
        return subprocess.Popen(
            [*prefix, *command],
            cwd=home,
            env={**plain, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    finally:
        if not isinstance(output, int):
            output.close()


def _wait(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            server.connect().close()
            return
        except psycopg.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                log = (server.home / "log").read_text(errors="replace")[-2000:]
                raise ServerError(f"server {server.name} of {server.bin} does not run: {error}\n{log}") from error
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _lock(top: Path) -> IO[str]:
    """Held as long as the fleet's process lives."""
    held = (top / "lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)
    return held


def _remove_left_behind(parent: Path) -> None:
    """Folders of runs that were killed; their servers have ended by themselves."""
    for lock in parent.glob(f"{PREFIX}*/lock"):
        with lock.open("w") as held:
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(lock.parent, ignore_errors=True)
