# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A snapshot that outlives the mover which took it, for a few minutes: a rerun after kill -9 goes on under it and redoes nothing.

The keeper is a process of its own with one session on the source. It imports the mover's snapshot and exports it again under another
name, so that each of the two survives the other. Movers attend to it by a shared advisory lock on the source; without any it ends itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from . import session
from .endpoint import Endpoint
from .errors import TransferError, certain
from .snapshots import import_snapshot

if TYPE_CHECKING:
    import psycopg

GRACE_SECONDS = 300.0
READY_SECONDS = 30.0
LOCK_SECONDS = 5
_POLL_SECONDS = 2.0
_HOLDERS = """SELECT pid FROM pg_catalog.pg_locks
WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid::bigint = %s AND objid::bigint = %s
  AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())"""


@dataclass(frozen=True)
class Kept:
    """A running keeper. snapshot: the name to import; pid: of the process on this machine."""

    snapshot: str
    pid: int


def keep(source: Endpoint, snapshot: str, tables: Sequence[str] = (), *, grace_seconds: float = GRACE_SECONDS) -> Kept:
    """Start a keeper of an exported snapshot.

    tables: quoted names that it locks in ACCESS SHARE mode, for a table that is rewritten shows no rows in an older snapshot
    grace_seconds: how long it lives with nobody attending; as long it holds back the source's vacuum
    Raises TransferError when it cannot be started; the copy can go on without one.
    """
    reader, writer = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            _detach(reader, writer, source, snapshot, tables, grace_seconds)
    finally:
        os.close(writer)
    try:
        os.waitpid(child, 0)
        answer = _answer(reader)
    finally:
        os.close(reader)
    if "snapshot" not in answer:
        raise TransferError(
            answer.get("error", f"no keeper of the snapshot has answered within {READY_SECONDS:.0f} s"),
            answer.get(
                "remedy",
                "Look for a killed process on this machine. The copy works without a keeper, but a killed mover starts tables anew.",
            ),
            kind=answer.get("kind", "keeper"),
        )
    return Kept(answer["snapshot"], answer["pid"])


def attend(conn: psycopg.Connection[Any], snapshot: str) -> None:
    """Keep the keeper of this name alive for as long as ``conn``, a session on the source, lives."""
    conn.execute("SELECT pg_catalog.pg_advisory_lock_shared(%s)", (_keys(snapshot)[1],))


def alive(conn: psycopg.Connection[Any], snapshot: str) -> bool:
    """Whether the source still has the keeper's session."""
    return bool(conn.execute(_HOLDERS, _halves(_keys(snapshot)[0])).fetchall())


def release(conn: psycopg.Connection[Any], snapshot: str) -> bool:
    """End the keeper of this name, wherever it runs; whether there was one."""
    pids = [row[0] for row in conn.execute(_HOLDERS, _halves(_keys(snapshot)[0])).fetchall()]
    for pid in pids:
        conn.execute("SELECT pg_catalog.pg_terminate_backend(%s)", (pid,))
    return bool(pids)


def _keys(snapshot: str) -> tuple[int, int]:
    """(lock that the keeper holds, lock that those who attend share). Pure."""
    digest = hashlib.sha256(f"cutover keeper {snapshot}".encode()).digest()
    return int.from_bytes(digest[:8], signed=True), int.from_bytes(digest[8:16], signed=True)


def _halves(key: int) -> tuple[int, int]:
    """A 64-bit advisory key as pg_locks shows it. Pure."""
    return (key >> 32) & 0xFFFFFFFF, key & 0xFFFFFFFF


def _answer(reader: int) -> dict[str, Any]:
    """What the keeper said, {} when it said nothing in time."""
    deadline, data = time.monotonic() + READY_SECONDS, b""
    while not data.endswith(b"\n"):
        ready, _unused, _unused = select.select([reader], [], [], max(deadline - time.monotonic(), 0))
        piece = os.read(reader, 65536) if ready else b""
        if not piece:
            return {}
        data += piece
    found: dict[str, Any] = json.loads(data)
    return found


def _detach(reader: int, writer: int, source: Endpoint, snapshot: str, tables: Sequence[str], grace_seconds: float) -> NoReturn:
    """In the forked child: leave the mover's session and files, and serve. Never returns, so that nothing of the mover's is closed twice."""
    try:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            nothing = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(nothing, standard)
            # An inherited end of a pipe or of a connection would keep others waiting for its end.
            os.closerange(3, writer)
            os.closerange(writer + 1, os.sysconf("SC_OPEN_MAX"))
            _serve(writer, source, snapshot, tables, grace_seconds)
    finally:
        os._exit(0)


def _serve(writer: int, source: Endpoint, snapshot: str, tables: Sequence[str], grace_seconds: float) -> None:
    try:
        conn, name = _hold(source, snapshot, tables)
    except TransferError as error:
        _tell(writer, error=error.message, remedy=error.remedy, kind=error.details.get("kind", "keeper"))
        return
    except Exception as error:
        _tell(writer, error=f"the keeper of the snapshot failed with {type(error).__name__}: {error}")
        return
    _tell(writer, snapshot=name, pid=os.getpid())
    seen = time.monotonic()
    try:
        while time.monotonic() - seen < grace_seconds:
            # The server writes to an idle session only to end it.
            if select.select([conn.pgconn.socket], [], [], min(_POLL_SECONDS, grace_seconds / 4))[0]:
                return
            if _attended(conn, name):
                seen = time.monotonic()
    except session.psycopg.OperationalError:
        return


def _hold(source: Endpoint, snapshot: str, tables: Sequence[str]) -> tuple[psycopg.Connection[Any], str]:
    """(session that holds the snapshot, its name there)."""
    conn = session.connect(source, application_name="cutover copy keeper", read_only=True)
    # Behind a queued ALTER TABLE the lock would wait for the mover, which waits for us.
    conn.execute(f"SET lock_timeout = '{LOCK_SECONDS}s'")
    conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    import_snapshot(conn, snapshot)
    if tables:
        conn.execute(f"LOCK TABLE ONLY {', ONLY '.join(tables)} IN ACCESS SHARE MODE")
    name = str(certain(conn.execute("SELECT pg_catalog.pg_export_snapshot()").fetchone(), "the exported snapshot")[0])
    conn.execute("SELECT pg_catalog.pg_advisory_lock(%s)", (_keys(name)[0],))
    return conn, name


def _attended(conn: psycopg.Connection[Any], name: str) -> bool:
    """Whether a mover attends: its shared lock keeps us from taking ours."""
    row = conn.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", (_keys(name)[1],)).fetchone()
    if row and row[0]:
        conn.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", (_keys(name)[1],))
        return False
    return True


def _tell(writer: int, **facts: Any) -> None:
    os.write(writer, json.dumps(facts).encode() + b"\n")
    os.close(writer)
