# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sessions that carry their process in their name, so that a later process of the same machine ends what a dead one has left on a server.

A server learns of a vanished link a minute or more later, and keeps the locks and slots of the session behind it until then.
"""

from __future__ import annotations

import functools
import hashlib
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import session

if TYPE_CHECKING:
    import psycopg

# Each says in which world a process number counts; machine-id(5) is missing in many containers, where the boot and the namespace tell them apart.
_MACHINE = ("/etc/machine-id", "/proc/sys/kernel/random/boot_id")
_NAMESPACE = "/proc/self/ns/pid"
_DIGITS = 10
_LOOK_SECONDS = 0.1
_HOLDERS = """SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid::bigint = %s AND objid::bigint = %s
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"""


@functools.lru_cache(maxsize=1)
def machine() -> str:
    """Ten digits that no other machine or container has."""
    parts = [socket.gethostname()]
    for name in _MACHINE:
        with suppress(OSError):
            text = Path(name).read_text(encoding="ascii").strip()
            if text:
                parts.append(text)
                break
    with suppress(OSError):
        parts.append(str(Path(_NAMESPACE).readlink()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:_DIGITS]


def named(role: str) -> str:
    """An application_name for a session of this process. role: what it does, at most 40 bytes of the 63 that a server keeps."""
    return f"{role} {machine()} {os.getpid()}"


def is_gone(name: str) -> bool:
    """Whether a session of :func:`named` belongs to a process of this machine that is dead, or to this very one."""
    _role, _space, rest = name.rpartition(f" {machine()} ")
    if not _space or not rest.isdigit():
        return False
    pid = int(rest)
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def end(conn: psycopg.Connection[Any], pid: int) -> bool:
    """End a server's session if its process is dead; whether it is gone."""
    # Written into the text: a replication connection of the sender's takes no parameters.
    row = conn.execute(f"SELECT application_name FROM pg_stat_activity WHERE pid = {pid:d} AND pid <> pg_backend_pid()").fetchone()
    if not row or not row[0] or not is_gone(row[0]):
        return False
    try:
        ended = conn.execute(f"SELECT pg_terminate_backend({pid:d}, 2000)").fetchone()
    except session.psycopg.errors.InsufficientPrivilege:
        return False
    return bool(ended and ended[0])


def holders(conn: psycopg.Connection[Any], key: int) -> list[int]:
    """Sessions of this database that hold an advisory lock of ours."""
    return [row[0] for row in conn.execute(_HOLDERS, (key >> 32, key & 0xFFFFFFFF)).fetchall()]


def take(conn: psycopg.Connection[Any], key: int, patience_seconds: float, stop: Callable[[], bool] = lambda: False) -> list[int] | None:
    """Take an advisory lock for as long as ``conn`` lives, ending what a dead process of this machine holds it with.

    None when it was taken; after patience_seconds, or when it is time to stop, the sessions that hold it.
    """
    deadline = time.monotonic() + patience_seconds
    while True:
        row = conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (key,)).fetchone()
        if row and row[0]:
            return None
        pids = holders(conn, key)
        if any(end(conn, pid) for pid in pids):
            continue
        if time.monotonic() > deadline or stop():
            return pids
        time.sleep(_LOOK_SECONDS)
