"""A real PgBouncer on loopback, in front of one of the test servers, with entries in a file of their own."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from .server import PASSWORD, Server

START_SECONDS = 20.0


@dataclass(frozen=True)
class Bouncer:
    """A running one. file: with the lines of [databases]; every database that has none there leads to the server it was made for."""

    port: int
    file: Path

    def args(self, dbname: str | None = None, user: str = "postgres") -> dict[str, Any]:
        """Of an endpoint behind it."""
        given = {"host": "127.0.0.1", "port": self.port, "user": user, "password": PASSWORD, "sslmode": "disable"}
        return given if dbname is None else {**given, "dbname": dbname}

    def console(self, *commands: str) -> list[tuple[Any, ...]]:
        """Run commands of its console; rows of the last one."""
        with psycopg.connect(**self.args("pgbouncer"), autocommit=True, cursor_factory=psycopg.ClientCursor) as conn:
            cursor = None
            for command in commands:
                cursor = conn.execute(command)
            return cursor.fetchall() if cursor is not None and cursor.description else []


@contextmanager
def bouncer(
    server: Server, mode: str, sessions: int = 15, lines: tuple[str, ...] = (), users: tuple[str, ...] = (), **settings: str | int
) -> Iterator[Bouncer]:
    """PgBouncer in pool mode ``mode``, stopped and removed afterwards. lines: of its file; users: beside postgres, with PASSWORD

    settings: more of its own
    """
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(program).exists():
        raise RuntimeError("pgbouncer is not installed; run: apt-get install pgbouncer")
    home = Path(tempfile.mkdtemp(prefix="cutover-bouncer-"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Bouncer(port, home / "databases.ini")
    (home / "users").write_text("".join(f'"{user}" "{PASSWORD}"\n' for user in ("postgres", *users)))
    made.file.write_text("[databases]\n" + "".join(f"{line}\n" for line in lines))
    given = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "plain",
        "auth_file": home / "users",
        "admin_users": "postgres",
        "pool_mode": mode,
        "default_pool_size": sessions,
        "max_client_conn": 500,
        **settings,
    }
    text = "".join(f"{name} = {value}\n" for name, value in given.items())
    (home / "ini").write_text(f"%include {made.file}\n[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n{text}")
    prefix = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:
        owner = pwd.getpwnam("postgres")
        for path in (home, *home.iterdir()):
            os.chown(path, owner.pw_uid, owner.pw_gid)
        prefix += [f"--reuid={owner.pw_uid}", f"--regid={owner.pw_gid}", "--clear-groups"]
    log = home.parent / f"{home.name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*prefix, program, str(home / "ini")], stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(**made.args("postgres"), connect_timeout=5).close()
                break
            except psycopg.OperationalError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"PgBouncer does not run: {log.read_text()}") from error
                time.sleep(0.05)
        yield made
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
        shutil.rmtree(home)
        log.unlink()
