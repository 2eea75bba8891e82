# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Stop writes on a database without stopping reads, and let them go again as if nothing had been.

One mechanism for both sides: a frozen source and a target that is not open yet carry the same statement triggers. Sessions with
``session_replication_role=replica`` pass them, which is how rows are brought into a closed database.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import acl
from .catalog import qualified, quote_ident, quote_literal
from .errors import TransferError, certain
from .freeze_acl import Relation, read_acls, remember, restore, subject
from .selection import Name, Selection

if TYPE_CHECKING:
    import psycopg

API_ROLES = ("anon", "authenticated", "service_role", "authenticator")
TRIGGER = "00_cutover_refuse_writes"  # BEFORE triggers fire by name: ours comes before the application's

_REFUSING = """BEGIN
  RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
    MESSAGE = format('writes to %%I.%%I are stopped: this database is being moved', TG_TABLE_SCHEMA, TG_TABLE_NAME),
    HINT = %s;
END"""
_HINTS = {
    "source": "Write to the new database, or try again in a moment: the application is being switched over.",
    "target": "This database is not open yet; the application still writes to the old one.",
}
_PASSING = "BEGIN RETURN NULL; END"

_TABLES = """
CREATE TABLE IF NOT EXISTS cutover.freeze (
  one boolean PRIMARY KEY DEFAULT true CHECK (one), id text NOT NULL, side text NOT NULL, state text NOT NULL, lsn pg_lsn NOT NULL,
  at timestamptz NOT NULL, tables integer NOT NULL);
CREATE TABLE IF NOT EXISTS cutover.fence (id text PRIMARY KEY, side text NOT NULL, lsn pg_lsn NOT NULL, at timestamptz NOT NULL);
CREATE TABLE IF NOT EXISTS cutover.acl (
  kind text NOT NULL, oid oid NOT NULL, attnum smallint NOT NULL, before jsonb NOT NULL, before_text text, after_text text,
  PRIMARY KEY (oid, attnum));
"""

# Parents of a selected partition too: a row written through the parent fires only the parent's statement triggers.
_RELATIONS = """
WITH RECURSIVE chosen(oid) AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN unnest(%s::text[], %s::text[]) w(s, t) ON w.s = n.nspname AND w.t = c.relname WHERE c.relkind IN ('r', 'p', 'S')),
up(oid) AS (SELECT oid FROM chosen UNION SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid),
tree(oid) AS (SELECT oid FROM up UNION SELECT i.inhrelid FROM tree JOIN pg_inherits i ON i.inhparent = tree.oid)
SELECT c.oid::bigint, n.nspname, c.relname, c.relkind::text, pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid IN (SELECT oid FROM tree) AND c.relkind IN ('r', 'p', 'S')
ORDER BY 2, 3
"""


@dataclass(frozen=True)
class Status:
    """State of one side. state: absent, frozen or thawed; leftover: tables that still carry our trigger; id, lsn: of the last fence."""

    state: str
    id: str
    lsn: str
    at: str
    tables: int
    covered: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What freeze or thaw did. locked_at: monotonic time when the first writer had to wait; attempts: tries for the lock.

    leftover: tables whose (now harmless) trigger could not be dropped yet; acl_kept: lists that somebody changed meanwhile
    """

    changed: bool
    id: str = ""
    lsn: str = ""
    tables: int = 0
    attempts: int = 0
    locked_at: float = 0.0
    leftover: tuple[str, ...] = ()
    acl_kept: tuple[str, ...] = ()


def covered_relations(conn: psycopg.Connection[Any], tables: Sequence[Name], sequences: Sequence[Name] = ()) -> tuple[Relation, ...]:
    """The tables with all their parents and children, and the sequences, by name."""
    names = [*tables, *sequences]
    rows = conn.execute(_RELATIONS, ([name[0] for name in names], [name[1] for name in names])).fetchall()
    return tuple(Relation(*row) for row in rows)


def status(conn: psycopg.Connection[Any]) -> Status:
    """Whether this side is frozen, by what, and which tables carry the trigger."""
    there = conn.execute("SELECT to_regclass('cutover.freeze') IS NOT NULL").fetchone()
    if not there or not there[0]:
        return Status("absent", "", "", "", 0, ())
    row = conn.execute("SELECT state, id, lsn::text, at::text, tables FROM cutover.freeze").fetchone()
    carried = conn.execute(
        "SELECT format('%%s.%%s', n.nspname, c.relname) FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = %s AND t.tgenabled = 'O' ORDER BY 1",
        (TRIGGER,),
    ).fetchall()
    covered = tuple(name for (name,) in carried)
    return Status(row[0], row[1], row[2], row[3], row[4], covered) if row else Status("absent", "", "", "", 0, covered)


def freeze(
    conn: psycopg.Connection[Any],
    tables: Sequence[Name],
    sequences: Sequence[Name] = (),
    *,
    side: str,
    fence_id: str,
    api_roles: Sequence[str] = API_ROLES,
    lock_timeout_ms: int = 2000,
    retries: int = 10,
    deadline: float | None = None,
    fault: Callable[[str], None] | None = None,
) -> Outcome:
    """Stop writes to these tables in one transaction: lock, refusing triggers, write grants revoked and remembered, fence.

    conn: an autocommit session of :func:`.session.connect`; side: source or target, for the message that writers see
    api_roles: roles whose grants are revoked as well; "PUBLIC" may be among them. Roles that do not exist are left out
    lock_timeout_ms: longest time that writers wait in one attempt; deadline: monotonic time after which no further attempt is made
    Raises TransferError (details.blockers) when the lock could not be had; then nothing has changed.
    """
    relations = covered_relations(conn, tables, sequences)
    if not any(relation.kind != "S" for relation in relations):
        raise TransferError(f"no table to freeze on the {side}", "Check include and exclude.")
    now = status(conn)
    wanted = {f"{relation.schema}.{relation.name}" for relation in relations if relation.kind != "S"}
    if now.state == "frozen" and wanted <= set(now.covered):
        return Outcome(False, now.id, now.lsn, now.tables)
    keep = now.state == "frozen"
    pause = 0.2
    for attempt in range(1, retries + 2):
        started = time.monotonic()
        try:
            lsn = _freeze_once(conn, relations, side, fence_id, api_roles, lock_timeout_ms, keep, fault)
            return Outcome(True, fence_id, lsn, len(wanted), attempt, started)
        except _locked_errors() as error:
            late = deadline is not None and time.monotonic() + pause > deadline
            if attempt > retries or late:
                found = blockers(conn, [relation.oid for relation in relations])
                who = "; ".join(f"pid {b['pid']} ({b['role']}, {b['state']}, {b['seconds']} s): {b['query']}" for b in found[:5])
                raise TransferError(
                    f"could not lock all tables of the {side} in {attempt} attempts of {lock_timeout_ms} ms"
                    + (f"; held by {who}" if who else ""),
                    "End the sessions named (pg_terminate_backend), or allow more retries or a longer lock_timeout_ms.",
                    blockers=found,
                ) from error
        time.sleep(pause)
        pause = min(pause * 1.6, 3.0)
    raise AssertionError("unreachable")


def _locked_errors() -> tuple[type[Exception], ...]:
    import psycopg

    return (
        psycopg.errors.LockNotAvailable,
        psycopg.errors.QueryCanceled,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.SerializationFailure,
    )


def _freeze_once(
    conn: psycopg.Connection[Any],
    relations: Sequence[Relation],
    side: str,
    fence_id: str,
    api_roles: Sequence[str],
    lock_timeout_ms: int,
    keep: bool,
    fault: Callable[[str], None] | None,
) -> str:
    tables = [relation for relation in relations if relation.kind != "S"]
    with conn.transaction():
        # The lock comes first and alone: everything before it is free, everything after it is counted in the write stop.
        _prepare_schema(conn)
        conn.execute(f"SET LOCAL lock_timeout = {int(lock_timeout_ms)}; SET LOCAL statement_timeout = {int(lock_timeout_ms)}")
        if _is_superuser(conn):
            # Vacuum gives way, and a deadlock hits us instead of the application, only after deadlock_timeout.
            conn.execute("SET LOCAL deadlock_timeout = '100ms'")
        conn.execute("LOCK TABLE " + ", ".join(f"ONLY {table.sql}" for table in tables) + " IN EXCLUSIVE MODE")
        conn.execute("SET LOCAL lock_timeout = 0; SET LOCAL statement_timeout = 0")
        if fault:
            fault("locked")
        before = read_acls(conn, relations)
        statements = [_function(_REFUSING % quote_literal(_HINTS[side]))]
        for table in tables:
            statements.append(
                f"CREATE OR REPLACE TRIGGER {quote_ident(TRIGGER)} BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table.sql}"
                " FOR EACH STATEMENT EXECUTE FUNCTION cutover.refuse_writes()"
            )
        roles = _existing_roles(conn, api_roles)
        assumable = _assumable_roles(conn)
        grantors: dict[int, set[str]] = {}
        for state in before:
            grantors.setdefault(state.oid, set()).update(item.grantor for item in state.items)
        by_oid = {relation.oid: relation for relation in relations}
        for state in before:
            one = by_oid[state.oid]
            # What we could not give back to the byte is not taken: the trigger refuses its use all the same.
            items = acl.write_items(state.items, state.kind, roles) if one.owned and grantors[state.oid] <= {one.owner, *assumable} else []
            statements += acl.revokes(subject(one, state), items)
        conn.execute(";\n".join(statements))
        if fault:
            fault("triggers")
        remember(conn, before, read_acls(conn, relations), keep)
        row = conn.execute(
            "WITH f AS (INSERT INTO cutover.fence VALUES (%(id)s, %(side)s, pg_logical_emit_message(true, 'cutover', 'fence:' || %(id)s), clock_timestamp())"
            " ON CONFLICT (id) DO UPDATE SET lsn = excluded.lsn, at = excluded.at RETURNING id, side, lsn, at)"
            " INSERT INTO cutover.freeze SELECT true, f.id, f.side, 'frozen', f.lsn, f.at, %(tables)s FROM f"
            " ON CONFLICT (one) DO UPDATE SET id = excluded.id, side = excluded.side, state = excluded.state, lsn = excluded.lsn,"
            " at = excluded.at, tables = excluded.tables RETURNING lsn::text",
            {"id": fence_id, "side": side, "tables": len(tables)},
        ).fetchone()
        if fault:
            fault("fenced")
    return str(certain(row, "the position of the fence")[0])


def release(conn: psycopg.Connection[Any]) -> tuple[bool, tuple[str, ...]]:
    """Let writes pass again and put the grants back, inside the caller's transaction. Takes no lock on any table, so nobody waits.

    Returns whether the side was frozen, and the lists left as somebody changed them meanwhile (only what we took was given back).
    """
    if status(conn).state != "frozen":
        return False, ()
    conn.execute(_function(_PASSING))
    kept = restore(conn)
    conn.execute("DELETE FROM cutover.acl; UPDATE cutover.freeze SET state = 'thawed', at = clock_timestamp()")
    return True, kept


def drop_triggers(conn: psycopg.Connection[Any], *, lock_timeout_ms: int = 150, attempts: int = 5) -> tuple[bool, tuple[str, ...]]:
    """Remove the triggers of a thawed side, table by table with a short lock timeout: dropping one waits for readers.

    Returns whether any was dropped, and the tables that still carry one, which refuses nothing any more.
    """
    if status(conn).state == "frozen":
        raise TransferError("the triggers refuse writes and are not removed while the database is frozen", "Thaw it first.")
    dropped = False
    for attempt in range(attempts):
        left = _carriers(conn)
        for schema, table in left:
            try:
                with conn.transaction():
                    conn.execute(f"SET LOCAL lock_timeout = {int(lock_timeout_ms)}")
                    conn.execute(f"DROP TRIGGER IF EXISTS {quote_ident(TRIGGER)} ON {qualified(schema, table)}")
                dropped = True
            except (*_locked_errors(), _denied()):
                continue
        if not _carriers(conn):
            break
        time.sleep(0.2 * (attempt + 1))
    return dropped, tuple(f"{schema}.{table}" for schema, table in _carriers(conn))


def thaw(conn: psycopg.Connection[Any]) -> Outcome:
    """Undo :func:`freeze`: writes pass at once, grants are as before, then the triggers go. A second run changes nothing."""
    with conn.transaction():
        released, kept = release(conn)
    dropped, leftover = drop_triggers(conn)
    now = status(conn)
    return Outcome(released or dropped, now.id, now.lsn, now.tables, leftover=leftover, acl_kept=kept)


def remove_schema(conn: psycopg.Connection[Any]) -> bool:
    """Drop schema ``cutover`` with all it holds. Writes pass afterwards. Returns whether there was one."""
    if not _has_schema(conn):
        return False
    thaw(conn)
    with conn.transaction():
        conn.execute("SET LOCAL lock_timeout = '5s'")
        # CASCADE takes the triggers on tables that we may not alter along with the function.
        conn.execute("DROP SCHEMA cutover CASCADE")
    return True


def blockers(conn: psycopg.Connection[Any], oids: Sequence[int]) -> list[dict[str, Any]]:
    """Other sessions that hold a writer's lock on these tables: pid, role, application, state, seconds, table, query."""
    rows = conn.execute(
        "SELECT DISTINCT ON (a.pid) a.pid, coalesce(a.usename, a.backend_type), a.application_name, coalesce(a.state, ''),"
        " coalesce(round(extract(epoch FROM clock_timestamp() - a.xact_start))::int, 0), l.relation::regclass::text, left(coalesce(a.query, ''), 120)"
        " FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'relation' AND l.granted AND l.pid <> pg_backend_pid()"
        " AND l.relation = ANY(%s::oid[]) AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND l.mode <> 'AccessShareLock' ORDER BY a.pid, 5 DESC",
        (list(oids),),
    ).fetchall()
    names = ("pid", "role", "application", "state", "seconds", "table", "query")
    return [dict(zip(names, row, strict=True)) for row in rows]


def names_on(selection: Selection, tables: Sequence[Name], side: str) -> list[Name]:
    """Names of the source's tables as they are called on ``side``."""
    return [selection.target_name(*name) if side == "target" else name for name in tables]


def _function(body: str) -> str:
    return (
        "CREATE OR REPLACE FUNCTION cutover.refuse_writes() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS "
        + quote_literal(body)
    )


def _has_schema(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("SELECT to_regnamespace('cutover') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _prepare_schema(conn: psycopg.Connection[Any]) -> None:
    # CREATE ... IF NOT EXISTS checks the right to create before it looks.
    if not _has_schema(conn):
        conn.execute("CREATE SCHEMA cutover")
    there = conn.execute("SELECT to_regclass('cutover.acl') IS NOT NULL").fetchone()
    if not there or not there[0]:
        conn.execute(_TABLES)


def _is_superuser(conn: psycopg.Connection[Any]) -> bool:
    row = conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
    return bool(row and row[0])


def _existing_roles(conn: psycopg.Connection[Any], names: Sequence[str]) -> frozenset[str]:
    rows = conn.execute("SELECT rolname::text FROM pg_roles WHERE rolname = ANY(%s)", (list(names),)).fetchall()
    return frozenset([name for (name,) in rows] + ([acl.PUBLIC] if "PUBLIC" in names else []))


def _assumable_roles(conn: psycopg.Connection[Any]) -> frozenset[str]:
    """Roles that our own may become, to revoke and grant again what they granted."""
    how = "SET" if conn.info.server_version >= 160000 else "MEMBER"
    return frozenset(name for (name,) in conn.execute("SELECT rolname::text FROM pg_roles WHERE pg_has_role(oid, %s)", (how,)).fetchall())


def _carriers(conn: psycopg.Connection[Any]) -> list[Name]:
    return [
        (str(schema), str(table))
        for schema, table in conn.execute(
            "SELECT n.nspname::text, c.relname::text FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE t.tgname = %s ORDER BY 1, 2",
            (TRIGGER,),
        ).fetchall()
    ]


def _denied() -> type[Exception]:
    import psycopg

    return psycopg.errors.InsufficientPrivilege
