# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Replica identities of the sending database: set with what was there before remembered in the same transaction, and put back exactly.

Table ``cutover.stream_undo`` of the sending database holds one row per table of a publication: what was published (so that a dropped table is
noticed) and, where we changed it, the identity from before. A crash at any point leaves table and identity agreeing with each other.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from .. import session
from ..catalog import qualified
from ..errors import TransferError, certain
from .publishable import Change, Identity, Relation

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

T = TypeVar("T")
# Readers and writers of a table queue behind an ALTER TABLE that waits: a short wait, often repeated, is not noticed.
LOCK_TIMEOUT_MS = 500
# An autovacuum worker gives way only to somebody who has waited for deadlock_timeout, which only a superuser may shorten.
PATIENT_LOCK_TIMEOUT_MS = 1500
PATIENT_FROM = 4

_DDL = """
CREATE TABLE IF NOT EXISTS cutover.stream_undo (
  publication text NOT NULL, relation oid NOT NULL, schema_name text NOT NULL, table_name text NOT NULL, published boolean NOT NULL DEFAULT false,
  before text, before_index oid, after text, after_index oid, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
  PRIMARY KEY (publication, relation))
"""
_NOW = """
SELECT n.nspname::text, c.relname::text, c.relreplident::text, (SELECT i.indexrelid::bigint FROM pg_index i WHERE i.indrelid = c.oid AND i.indisreplident)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %s
"""


@dataclass(frozen=True)
class Noted:
    """A row of ``cutover.stream_undo``. before, after: None where the identity was not touched."""

    relation: int
    schema: str
    name: str
    published: bool
    before: str | None
    before_index: int | None
    after: str | None
    after_index: int | None

    @property
    def dotted(self) -> str:
        """``schema.table`` as it was when it was noted."""
        return f"{self.schema}.{self.name}"


def prepare(conn: Conn) -> None:
    """Make the table that remembers. Raises TransferError of kind privilege when the role may not."""
    there = certain(
        conn.execute("SELECT to_regnamespace('cutover') IS NOT NULL, to_regclass('cutover.stream_undo') IS NOT NULL").fetchone(), "the row"
    )
    if there[1]:
        return
    try:
        with conn.transaction():
            if not there[0]:
                conn.execute("CREATE SCHEMA cutover")
            conn.execute(_DDL)
    except session.psycopg.errors.InsufficientPrivilege as error:
        name = conn.info.dbname
        raise TransferError(
            f"role {conn.info.user} may not create in schema cutover of database {name}, which the stream needs",
            f'Run there: GRANT CREATE ON DATABASE "{name}" TO "{conn.info.user}";',
            kind="privilege",
        ) from error


def noted(conn: Conn, publication: str) -> dict[int, Noted]:
    """What is remembered about a publication, by oid of the table; empty where nothing is."""
    there = certain(conn.execute("SELECT to_regclass('cutover.stream_undo') IS NOT NULL").fetchone(), "the row")
    if not there[0]:
        return {}
    rows = conn.execute(
        "SELECT relation::bigint, schema_name, table_name, published, before, before_index::bigint, after, after_index::bigint"
        " FROM cutover.stream_undo WHERE publication = %s ORDER BY 2, 3",
        (publication,),
    ).fetchall()
    return {row[0]: Noted(*row) for row in rows}


def apply(conn: Conn, publication: str, change: Change, attempts: int) -> None:
    """Set one identity and remember what was there. Raises TransferError of kind locked, and then nothing has changed."""
    one, after = change.relation, change.after

    def act() -> None:
        conn.execute(change.statement)
        conn.execute(
            "INSERT INTO cutover.stream_undo (publication, relation, schema_name, table_name, before, before_index, after, after_index)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (publication, relation) DO UPDATE SET before = excluded.before,"
            " before_index = excluded.before_index, after = excluded.after, after_index = excluded.after_index, at = excluded.at",
            (publication, one.oid, one.schema, one.name, change.before.mode, change.before.index, after.mode, after.index),
        )

    locked(conn, act, f"the replica identity of {one.dotted}", [one.oid], attempts)


def put_back(conn: Conn, publication: str, row: Noted, attempts: int) -> bool:
    """Give a table the identity from before and forget it; False when somebody else has changed it since, and it stays as it is.

    Raises TransferError of kind locked or privilege; then the row is still there, and another run goes on with it.
    """

    def act() -> bool:
        now = conn.execute(_NOW, (row.relation,)).fetchone()
        restored = True
        if row.before is not None and now is not None:
            restored = (now[2], now[3]) == (row.after, row.after_index)
            if restored:
                before = Identity(row.before, row.before_index, _index_name(conn, row.before_index))
                conn.execute(f"ALTER TABLE {qualified(now[0], now[1])} REPLICA IDENTITY {before.sql}")
        conn.execute("DELETE FROM cutover.stream_undo WHERE publication = %s AND relation = %s", (publication, row.relation))
        return restored

    try:
        return locked(conn, act, f"the replica identity of {row.dotted}", [row.relation], attempts)
    except session.psycopg.errors.InsufficientPrivilege as error:
        raise TransferError(
            f"the replica identity of {row.dotted} cannot be put back: the role {conn.info.user} does not own the table any more",
            "Give it back to the role that streamed it, or set it as its owner, then run this again.",
            kind="privilege",
            table=row.dotted,
        ) from error


def publish(conn: Conn, publication: str, members: Sequence[Relation]) -> None:
    """Remember the members of a publication, inside the caller's transaction; tables that were members and are no longer are forgotten."""
    oids = [one.oid for one in members]
    conn.execute(
        "DELETE FROM cutover.stream_undo WHERE publication = %s AND before IS NULL AND NOT relation = ANY(%s::oid[])", (publication, oids)
    )
    conn.execute("UPDATE cutover.stream_undo SET published = false WHERE publication = %s", (publication,))
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO cutover.stream_undo (publication, relation, schema_name, table_name, published) VALUES (%s, %s, %s, %s, true)"
            " ON CONFLICT (publication, relation) DO UPDATE SET published = true, schema_name = excluded.schema_name, table_name = excluded.table_name",
            [(publication, one.oid, one.schema, one.name) for one in members],
        )


def clean(conn: Conn) -> None:
    """Drop the table when it is empty, and the schema when nothing else is in it."""
    row = conn.execute("SELECT to_regclass('cutover.stream_undo') IS NOT NULL").fetchone()
    if row and row[0]:
        left = conn.execute("SELECT EXISTS (SELECT FROM cutover.stream_undo)").fetchone()
        if left and left[0]:
            return
        with conn.transaction():
            conn.execute("DROP TABLE cutover.stream_undo")
    errors = session.psycopg.errors
    with contextlib.suppress(errors.DependentObjectsStillExist, errors.InsufficientPrivilege), conn.transaction():
        conn.execute("DROP SCHEMA IF EXISTS cutover RESTRICT")


def locked(conn: Conn, action: Callable[[], T], what: str, oids: Sequence[int], attempts: int, timeout_ms: int = LOCK_TIMEOUT_MS) -> T:
    """Result of an action in a transaction of its own that waits only shortly for locks, repeated with growing pauses.

    oids: tables that it locks, for naming who is in the way. Raises TransferError of kind locked (details.blockers) after the last attempt.
    """
    errors = session.psycopg.errors
    superuser = bool(
        certain(conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone(), "the role in pg_roles")[0]
    )
    pause = 0.1
    for attempt in range(1, attempts + 1):
        patient = attempt >= PATIENT_FROM and not superuser
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = {max(timeout_ms, PATIENT_LOCK_TIMEOUT_MS) if patient else timeout_ms}")
                if superuser:
                    conn.execute("SET LOCAL deadlock_timeout = '100ms'")
                return action()
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            if attempt == attempts:
                found = holders(conn, oids)
                who = "; ".join(f"{b['who']} ({b['state']}, {b['seconds']} s): {b['query']}" for b in found[:5])
                raise TransferError(
                    f"{what} could not be changed in {attempts} attempts of {timeout_ms} ms each" + (f"; held by {who}" if who else ""),
                    "Let the sessions named end, or end them with SELECT pg_terminate_backend(<pid>), then run this again.",
                    kind="locked",
                    blockers=found,
                ) from error
        time.sleep(pause * random.uniform(0.7, 1.3))
        pause = min(pause * 1.6, 3.0)
    raise AssertionError("unreachable")


def holders(conn: Conn, oids: Sequence[int]) -> list[dict[str, Any]]:
    """Others that hold any lock on these tables, the oldest first: who (pid with role, or prepared transaction), state, seconds, query."""
    rows = conn.execute(
        """SELECT DISTINCT CASE WHEN l.pid IS NULL THEN 'prepared transaction ' || coalesce(p.gid, '') ELSE
                    format('pid %%s (%%s@%%s)', l.pid, coalesce(a.usename, a.backend_type, '?'), coalesce(a.application_name, '')) END,
                  coalesce(a.state, 'unknown state'),
                  coalesce(round(extract(epoch FROM clock_timestamp() - coalesce(a.xact_start, p.prepared))), 0)::int, coalesce(left(a.query, 120), '')
           FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
           LEFT JOIN pg_prepared_xacts p ON l.pid IS NULL AND l.virtualtransaction = '-1/' || p.transaction::text
           WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid() AND l.relation = ANY(%s::oid[])
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           ORDER BY 3 DESC""",
        (list(oids),),
    ).fetchall()
    return [dict(zip(("who", "state", "seconds", "query"), row, strict=True)) for row in rows]


def _index_name(conn: Conn, index: int | None) -> str:
    row = conn.execute("SELECT relname::text FROM pg_class WHERE oid = %s", (index,)).fetchone() if index is not None else None
    return str(row[0]) if row else ""
