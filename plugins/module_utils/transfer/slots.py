# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Logical replication slots: a position in the log with the snapshot that belongs to it, their health, their removal."""

from __future__ import annotations

import re
import select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import session
from .catalog import quote_ident, quote_literal
from .endpoint import Endpoint
from .errors import TransferError

if TYPE_CHECKING:
    import psycopg

PLUGIN = "pgoutput"
LOST = ("lost", "unreserved")
_NAME = re.compile(r"[a-z0-9_]{1,63}")
_POLL_SECONDS = 0.25
# For the place of a WAL sender that has just gone.
_PLACE_SECONDS = 2.0
_LOOK_SECONDS = 1.0


@dataclass(frozen=True)
class Blocker:
    """A transaction that the creation of a slot waits for. pid: 0 for a prepared one, whose name is then in gid."""

    pid: int
    gid: str
    database: str
    user: str
    state: str
    seconds: float
    query: str

    def describe(self) -> str:
        """One phrase for a message."""
        if not self.pid:
            return f"prepared transaction {self.gid!r} in database {self.database}"
        return f"pid {self.pid} ({self.user}@{self.database}, {self.state}, open for {self.seconds:.0f} s): {self.query}"


@dataclass(frozen=True)
class Slot:
    """A slot just made. The snapshot shows exactly the transactions whose commit is before lsn, and lives as long as conn is left alone.

    conn: the replication connection; any statement on it ends the snapshot, and closing it ends a temporary slot
    """

    name: str
    lsn: str
    snapshot: str
    temporary: bool
    conn: psycopg.Connection[Any]

    def alive(self) -> bool:
        """Whether the connection that holds the snapshot is still there. Sends nothing."""
        if self.conn.closed:
            return False
        readable, _unused, _unused = select.select([self.conn.pgconn.socket], [], [], 0)
        if readable:
            try:
                self.conn.pgconn.consume_input()
            except session.psycopg.OperationalError:
                return False
        return self.conn.pgconn.status == session.pq.ConnStatus.OK


@dataclass(frozen=True)
class Health:
    """A slot as the server sees it.

    wal_status: reserved, extended, unreserved (about to be lost) or lost, '' for no slot
    safe_wal_bytes: log that may still be written before it is in danger, None without a limit; retained_bytes: log that it holds back
    reason: why the server gave it up, '' while it did not; keep_size: max_slot_wal_keep_size as the server shows it
    """

    name: str
    exists: bool
    temporary: bool = False
    active_pid: int | None = None
    wal_status: str = ""
    safe_wal_bytes: int | None = None
    retained_bytes: int = 0
    restart_lsn: str | None = None
    confirmed_lsn: str | None = None
    reason: str = ""
    keep_size: str = ""

    @property
    def usable(self) -> bool:
        """Whether every change since the slot's position can still be read."""
        return self.exists and self.wal_status != "lost" and not self.reason

    @property
    def doomed(self) -> bool:
        """Whether the server's next checkpoint takes it: more log than the limit is behind it, and nobody reads it."""
        return self.usable and self.wal_status == "unreserved" and self.active_pid is None


@contextmanager
def create(
    endpoint: Endpoint,
    name: str,
    temporary: bool = False,
    *,
    deadline_seconds: float = 120.0,
    on_wait: Callable[[tuple[Blocker, ...]], None] | None = None,
) -> Iterator[Slot]:
    """A new logical slot with an exported snapshot. Leaving closes the connection: the snapshot and a temporary slot go, a lasting one stays.

    The server waits until every transaction that runs now has ended; ``on_wait`` hears of them once a second, and none is ended for it.
    Raises TransferError of kind slot_name, slot_exists, slot_blocked, no_free_slot, no_wal_sender, no_replication_right, wal_level, pooler,
    standby, or of a refused connection.
    """
    if not _NAME.fullmatch(name):
        raise TransferError(
            f"{name!r} cannot be the name of a replication slot", "Use 1 to 63 small letters, digits and underscores.", kind="slot_name"
        )
    where = endpoint.describe()
    host = endpoint.parameters().get("host", "")
    if endpoint.flavour == "supabase" and host.endswith(".pooler.supabase.com"):
        raise _pooler(where)
    conn = _connected(endpoint)
    try:
        with session.connect(endpoint, application_name="cutover slot watch", read_only=True) as watch:
            made = _ask(conn, watch, statement(name, temporary, conn.info.server_version), name, where, deadline_seconds, on_wait)
        yield Slot(*made, temporary, conn)
    finally:
        conn.close()


def _connected(endpoint: Endpoint) -> psycopg.Connection[Any]:
    """A replication connection. Where no place is left it is asked for again: who has just gone keeps it for a moment in which no view shows it."""
    deadline = time.monotonic() + _PLACE_SECONDS
    while True:
        try:
            return session.connect(endpoint, application_name="cutover slot", replication=True)
        except TransferError as error:
            if error.details.get("kind") != "no_wal_sender" or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def statement(name: str, temporary: bool, server_version: int) -> str:
    """The replication command. Options in parentheses came with PostgreSQL 15."""
    kept = "TEMPORARY " if temporary else ""
    export = "(SNAPSHOT 'export')" if server_version >= 150000 else "EXPORT_SNAPSHOT"
    return f"CREATE_REPLICATION_SLOT {quote_ident(name)} {kept}LOGICAL {PLUGIN} {export}"


def _ask(
    conn: psycopg.Connection[Any],
    watch: psycopg.Connection[Any],
    sql: str,
    name: str,
    where: str,
    deadline_seconds: float,
    on_wait: Callable[[tuple[Blocker, ...]], None] | None,
) -> tuple[str, str, str]:
    """(name, consistent point, snapshot). The connection is polled, so that a wait has an end and a voice."""
    pgconn = conn.pgconn
    pgconn.nonblocking = 0
    pid = conn.info.backend_pid
    began = looked = time.monotonic()
    pgconn.send_query(sql.encode())
    seen: tuple[Blocker, ...] = ()
    timed_out = False
    while True:
        select.select([pgconn.socket], [], [], _POLL_SECONDS)
        pgconn.consume_input()
        if not pgconn.is_busy():
            break
        now = time.monotonic()
        if now - looked >= _LOOK_SECONDS:
            looked = now
            seen = blockers(watch, pid)
            if on_wait is not None:
                on_wait(seen)
        if now - began > deadline_seconds and not timed_out:
            seen = blockers(watch, pid)
            timed_out = True
            watch.execute("SELECT pg_cancel_backend(%s)", (pid,))
    row: tuple[str, str, str] | None = None
    error: psycopg.Error | None = None
    while (result := pgconn.get_result()) is not None:
        if result.status == session.pq.ExecStatus.TUPLES_OK and result.ntuples == 1:
            values = [(result.get_value(0, place) or b"").decode() for place in range(3)]
            row = values[0], values[1], values[2]
        elif result.status == session.pq.ExecStatus.FATAL_ERROR:
            error = session.psycopg.errors.error_from_result(result)
    if row is not None and error is None:
        return row
    if timed_out:
        listed = "; ".join(one.describe() for one in seen) or "none is visible to this role"
        raise TransferError(
            f"slot {name} on {where} could not be made within {deadline_seconds:.0f} s: it waits for transactions that were open before: {listed}",
            "Let them end, or end them with SELECT pg_terminate_backend(<pid>) or ROLLBACK PREPARED '<name>', then run again.",
            kind="slot_blocked",
            blockers=[vars(one) for one in seen],
        ) from error
    raise _explained(error, watch, name, where) from error


def blockers(watch: psycopg.Connection[Any], waiting_pid: int) -> tuple[Blocker, ...]:
    """Transactions with a number of their own, which a slot in the making waits for, the oldest first. Read from locks, which every role sees."""
    rows = watch.execute(
        """SELECT coalesce(l.pid, 0), coalesce(p.gid, ''), coalesce(a.datname, p.database, ''), coalesce(a.usename, p.owner, ''),
                  coalesce(a.state, 'unknown state'), coalesce(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared)), 0)::float8,
                  coalesce(left(a.query, 200), '')
           FROM pg_locks l
           LEFT JOIN pg_stat_activity a ON a.pid = l.pid
           LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND p.transaction = l.transactionid
           WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted AND l.pid IS DISTINCT FROM %s
           ORDER BY age(l.transactionid) DESC LIMIT 20""",
        (waiting_pid,),
    ).fetchall()
    return tuple(Blocker(*row) for row in rows)


def _pooler(where: str) -> TransferError:
    return TransferError(
        f"{where} is a pooler, through which no replication connection passes",
        "Give the server's direct address, or copy without a slot while the source is frozen.",
        kind="pooler",
    )


def _explained(error: psycopg.Error | None, watch: psycopg.Connection[Any], name: str, where: str) -> Exception:
    """The server's refusal with the way out of it; a lost connection stays what it is."""
    text = str(error).strip().splitlines()[0] if error is not None else "the server gave no row"
    state = error.sqlstate if error is not None else None
    if error is not None and session.is_lost(error):
        return error
    if state == "42601":
        return _pooler(where)
    if state == "42710":
        return TransferError(
            f"replication slot {name} exists already on {where}",
            f"Continue the run that made it, or remove it: SELECT pg_drop_replication_slot({quote_literal(name)});",
            kind="slot_exists",
            slot=name,
        )
    if state == "53400":
        taken = [
            f"{row[0]} ({'in use' if row[1] else 'idle'})"
            for row in watch.execute("SELECT slot_name::text, active FROM pg_replication_slots ORDER BY active, slot_name").fetchall()
        ]
        return TransferError(
            f"{where} has no free replication slot: {', '.join(taken)} take all max_replication_slots",
            "Drop one that nobody needs with SELECT pg_drop_replication_slot('<name>'), or raise max_replication_slots and restart the server.",
            kind="no_free_slot",
            slots=taken,
        )
    settings = watch.execute("SELECT current_setting('wal_level'), pg_is_in_recovery()").fetchone() or ("", False)
    if settings[1]:
        return TransferError(
            f"{where} is a standby, where a slot cannot be made now: {text}", "Give the address of the primary.", kind="standby"
        )
    if state == "55000" and settings[0] != "logical":
        return TransferError(
            f"wal_level of {where} is {settings[0]}, which carries too little for a logical slot",
            "Run ALTER SYSTEM SET wal_level = 'logical'; and restart the server.",
            kind="wal_level",
        )
    if state == "42501":
        return TransferError(
            f"the role of {where} may not make a replication slot: {text}",
            f"Run ALTER ROLE {quote_ident(str(watch.info.user))} REPLICATION; as a superuser.",
            kind="no_replication_right",
        )
    return TransferError(
        f"slot {name} could not be made on {where}: {text}", "Correct the cause and run again.", kind="slot", sqlstate=state
    )


def health(conn: psycopg.Connection[Any], name: str) -> Health:
    """State of a slot; ``exists`` is False when there is none of that name."""
    version = conn.info.server_version
    # invalidation_reason came with 17; 16 only tells a conflict on a standby apart.
    given_up = (
        "s.invalidation_reason" if version >= 170000 else "CASE WHEN s.conflicting THEN 'conflict' END" if version >= 160000 else "NULL"
    )
    now = "CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END"
    row = conn.execute(
        f"""SELECT s.temporary, s.active_pid, coalesce(s.wal_status, ''), s.safe_wal_size,
                   coalesce(pg_wal_lsn_diff({now}, s.restart_lsn), 0)::bigint, s.restart_lsn::text, s.confirmed_flush_lsn::text,
                   coalesce({given_up}, CASE WHEN s.wal_status = 'lost' THEN 'wal_removed' END, ''), current_setting('max_slot_wal_keep_size')
            FROM pg_replication_slots s WHERE s.slot_name = {quote_literal(name)}"""
    ).fetchone()
    return Health(name, True, *row) if row else Health(name, False)


def require(found: Health) -> None:
    """Raise TransferError of kind slot_lost unless every change since the slot's position can still be read.

    Its details hold ``statements``: what removes the rest of the slot on its server.
    """
    if found.usable:
        return
    if found.exists:
        why = f"was given up by the server ({found.reason or found.wal_status})"
        statements = [f"SELECT pg_drop_replication_slot({quote_literal(found.name)});"]
        remedy = f"{_cure(found)}, run {statements[0]} and begin again with a new one."
    else:
        why, statements, remedy = "does not exist any more", [], "See who has dropped it, and begin again with a new one."
    raise TransferError(
        f"replication slot {found.name} {why}: changes since its position cannot be read",
        remedy,
        kind="slot_lost",
        slot=found.name,
        reason=found.reason or ("missing" if not found.exists else found.wal_status),
        statements=statements,
    )


def _cure(found: Health) -> str:
    """What keeps the server from giving up the next slot as well. Pure."""
    if found.reason in ("wal_removed", ""):
        limit = f" (it is {found.keep_size})" if found.keep_size else ""
        return f"Raise max_slot_wal_keep_size{limit} or read the slot faster"
    if found.reason == "idle_timeout":
        return "Raise idle_replication_slot_timeout or read the slot"
    return "See the server's log for the reason and mend that"


def drop(conn: psycopg.Connection[Any], name: str, *, wait_seconds: float = 10.0) -> bool:
    """Remove a slot; False when there was none. One that a reader has just left is waited for, one that is read is refused by name."""
    deadline = time.monotonic() + wait_seconds
    while True:
        found = health(conn, name)
        if not found.exists:
            return False
        try:
            conn.execute(f"SELECT pg_drop_replication_slot({quote_literal(name)})")
            return True
        except session.psycopg.errors.UndefinedObject:
            return False
        except session.psycopg.errors.ObjectInUse as error:
            if time.monotonic() > deadline:
                raise TransferError(
                    f"replication slot {name} is being read by pid {found.active_pid}",
                    f"End the reader, for example with SELECT pg_terminate_backend({found.active_pid}), and run again.",
                    kind="slot_in_use",
                    slot=name,
                    pid=found.active_pid,
                ) from error
        time.sleep(0.2)


def lagging(conn: psycopg.Connection[Any], names: Sequence[str], below_bytes: int) -> tuple[Health, ...]:
    """Those of these slots that are lost, or in danger of it: fewer than ``below_bytes`` may still be written before the server gives them up."""
    found = (health(conn, name) for name in names)
    return tuple(
        one
        for one in found
        if not one.usable or one.wal_status in LOST or (one.safe_wal_bytes is not None and one.safe_wal_bytes < below_bytes)
    )
