# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The ledger: schema ``cutover`` of the target, where a copy remembers what is done in the same transaction that does it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import predecessor, session
from .builds import ANALYZE, LINK, PROVE, Build
from .catalog import qualified
from .chunks import Chunk
from .errors import TransferError, certain
from .selection import Name

if TYPE_CHECKING:
    import psycopg

# Advisory lock of the only mover of a target: "cutover" in ASCII.
LOCK_KEY = 0x6375746F766572

_DDL = """
CREATE SCHEMA IF NOT EXISTS cutover;
CREATE TABLE IF NOT EXISTS cutover.run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    source text NOT NULL, owner text NOT NULL,
    snapshot text NOT NULL, snapshot_content text NOT NULL, snapshot_lsn pg_catalog.pg_lsn,
    started timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(), finished timestamptz);
ALTER TABLE cutover.run ADD COLUMN IF NOT EXISTS slot text, ADD COLUMN IF NOT EXISTS abandoned timestamptz;
CREATE TABLE IF NOT EXISTS cutover.chunk (
    source_schema text NOT NULL, source_table text NOT NULL, number int NOT NULL, total int NOT NULL,
    kind text NOT NULL, key_column text NOT NULL, lo bigint, hi bigint, estimate bigint NOT NULL, place int NOT NULL,
    target_schema text NOT NULL, target_table text NOT NULL, target_oid oid NOT NULL,
    run bigint NOT NULL REFERENCES cutover.run, state text NOT NULL CHECK (state IN ('todo', 'done')),
    rows bigint, bytes bigint, seconds double precision, finished timestamptz,
    PRIMARY KEY (source_schema, source_table, number));
CREATE TABLE IF NOT EXISTS cutover.dirty (
    source_schema text NOT NULL, source_table text NOT NULL, key text[] NOT NULL,
    PRIMARY KEY (source_schema, source_table, key));
CREATE TABLE IF NOT EXISTS cutover.build (
    source_schema text NOT NULL, source_table text NOT NULL, rank int NOT NULL, name text NOT NULL, method text NOT NULL,
    statement text NOT NULL, weight bigint NOT NULL, place int NOT NULL,
    run bigint NOT NULL REFERENCES cutover.run, state text NOT NULL CHECK (state IN ('todo', 'done', 'failed')),
    seconds double precision, problem text, finished timestamptz,
    PRIMARY KEY (source_schema, source_table, rank, name));
ALTER TABLE cutover.build ADD COLUMN IF NOT EXISTS size bigint NOT NULL DEFAULT 0, ADD COLUMN IF NOT EXISTS needs text[] NOT NULL DEFAULT '{}';
CREATE INDEX IF NOT EXISTS chunk_name ON cutover.chunk ((source_schema || '.' || source_table)) WHERE state = 'todo';
CREATE INDEX IF NOT EXISTS build_name ON cutover.build ((source_schema || '.' || source_table)) WHERE state = 'todo';
CREATE INDEX IF NOT EXISTS build_place ON cutover.build (place) WHERE state = 'todo';
CREATE INDEX IF NOT EXISTS build_needs ON cutover.build USING gin (needs) WHERE state = 'todo';
"""
# What the newest release of the ledger has and older ones lack.
_NEWEST = (
    "SELECT EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass('cutover.build') AND attname = 'needs')"
)


@dataclass(frozen=True)
class Entry:
    """A chunk as the ledger knows it. snapshot, snapshot_content, snapshot_lsn: of the run that planned or copied it."""

    chunk: Chunk
    target: Name
    target_oid: int
    run: int
    done: bool
    rows: int
    bytes: int
    seconds: float
    snapshot: str
    snapshot_content: str
    snapshot_lsn: str | None
    slot: str | None = None


@dataclass(frozen=True)
class Run:
    """A run that has not finished. owner: host and process; abandoned: another one has taken its place."""

    id: int
    source: str
    owner: str
    snapshot: str
    content: str
    lsn: str | None
    slot: str | None
    abandoned: bool


def owner_name() -> str:
    """Who we are in the ledger: host and process."""
    return f"{socket.gethostname()} process {os.getpid()}"


def exists(conn: psycopg.Connection[Any]) -> bool:
    """Whether the target has a ledger."""
    row = conn.execute("SELECT pg_catalog.to_regclass('cutover.chunk') IS NOT NULL").fetchone()
    return bool(row and row[0])


def create(conn: psycopg.Connection[Any]) -> None:
    """Make the ledger, or what an older one lacks. Raises TransferError when the role may not."""
    row = conn.execute(_NEWEST).fetchone()
    if row and row[0]:
        return
    try:
        with conn.transaction():
            conn.execute(_DDL)
    except session.psycopg.errors.InsufficientPrivilege as error:
        name = conn.info.dbname
        raise TransferError(
            f"role {conn.info.user} may not create schema cutover in database {name} of the target",
            f'Run there: GRANT CREATE ON DATABASE "{name}" TO "{conn.info.user}";',
            kind="privilege",
        ) from error


def acquire(conn: psycopg.Connection[Any], patience_seconds: float = 5.0) -> None:
    """Become the only mover of this target for as long as ``conn`` lives. Raises TransferError that names the other one.

    patience_seconds: how long a mover that has just died may take to let go
    """
    pids = predecessor.take(conn, LOCK_KEY, patience_seconds)
    if pids is None:
        return
    holder = "another mover"
    if exists(conn):
        found = conn.execute("SELECT owner, started FROM cutover.run ORDER BY id DESC LIMIT 1").fetchone()
        if found:
            holder = f"{found[0]} (started {found[1]:%Y-%m-%d %H:%M:%S %Z})"
    raise TransferError(
        f"{holder} is moving data into this target",
        f"Wait until it has finished; if it is dead, run SELECT pg_terminate_backend({pids[0] if pids else 'pid'}) there. Then run this again.",
        kind="second_mover",
        owner=holder,
    )


def sources(conn: psycopg.Connection[Any]) -> set[str]:
    """Identities of the sources that the ledger knows."""
    return {row[0] for row in conn.execute("SELECT DISTINCT r.source FROM cutover.run r JOIN cutover.chunk c ON c.run = r.id").fetchall()}


def load(conn: psycopg.Connection[Any]) -> tuple[Entry, ...]:
    """All chunks, in the order they are to be copied."""
    rows = conn.execute(
        """SELECT c.source_schema, c.source_table, c.number, c.total, c.kind, c.key_column, c.lo, c.hi, c.estimate, c.target_schema, c.target_table,
                  c.target_oid::bigint, c.run, c.state = 'done', coalesce(c.rows, 0), coalesce(c.bytes, 0), coalesce(c.seconds, 0),
                  r.snapshot, r.snapshot_content, r.snapshot_lsn::text, r.slot
           FROM cutover.chunk c JOIN cutover.run r ON r.id = c.run ORDER BY c.place, c.source_schema, c.source_table, c.number"""
    ).fetchall()
    return tuple(Entry(Chunk(*row[:9]), (row[9], row[10]), *row[11:]) for row in rows)


def open_run(conn: psycopg.Connection[Any], source: str, snapshot: str, content: str, lsn: str | None, slot: str | None = None) -> int:
    """Note a run under a snapshot; its number. slot: replication slot that keeps the changes since."""
    row = conn.execute(
        "INSERT INTO cutover.run (source, owner, snapshot, snapshot_content, snapshot_lsn, slot) VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
        (source, owner_name(), snapshot, content, lsn, slot),
    ).fetchone()
    return int(certain(row, "the number of the run")[0])


def rename_snapshot(conn: psycopg.Connection[Any], run: int, snapshot: str) -> None:
    """Note another name of the same snapshot."""
    conn.execute("UPDATE cutover.run SET snapshot = %s WHERE id = %s", (snapshot, run))


def unfinished(conn: psycopg.Connection[Any]) -> Run | None:
    """The newest run, when it has not finished."""
    row = conn.execute(
        """SELECT id, source, owner, snapshot, snapshot_content, snapshot_lsn::text, slot, abandoned IS NOT NULL, finished IS NOT NULL
           FROM cutover.run ORDER BY id DESC LIMIT 1"""
    ).fetchone()
    return Run(*row[:8]) if row and not row[8] else None


def is_led(conn: psycopg.Connection[Any]) -> bool:
    """Whether some mover holds the target now."""
    return bool(predecessor.holders(conn, LOCK_KEY))


def is_finished(conn: psycopg.Connection[Any], run: int) -> bool:
    """Whether a run has come to its end."""
    row = conn.execute("SELECT finished IS NOT NULL FROM cutover.run WHERE id = %s", (run,)).fetchone()
    return bool(row and row[0])


def fence(conn: psycopg.Connection[Any], patience_seconds: float = 10.0) -> None:
    """End earlier runs for good: wait until no worker of theirs is inside a transaction, and let none begin another.

    Workers whose mover has died, or that sit behind a dead link, are ended on the server when they do not end by themselves.
    """
    for last in (False, True):
        try:
            with conn.transaction():
                conn.execute(f"SET LOCAL lock_timeout = '{int(patience_seconds * 1000)}ms'")
                conn.execute("LOCK TABLE cutover.chunk, cutover.build IN EXCLUSIVE MODE")
                conn.execute("UPDATE cutover.run SET abandoned = clock_timestamp() WHERE finished IS NULL AND abandoned IS NULL")
            return
        except session.psycopg.errors.LockNotAvailable as error:
            pids = conn.execute(
                """SELECT DISTINCT l.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                   WHERE l.relation IN ('cutover.chunk'::regclass, 'cutover.build'::regclass) AND l.granted AND l.pid <> pg_backend_pid()
                     AND a.application_name = 'cutover copy writer'"""
            ).fetchall()
            if last or not pids:
                raise TransferError(
                    "sessions of an earlier copy hold the ledger on the target and do not end",
                    "Look at pg_locks for schema cutover there, end these sessions with pg_terminate_backend(pid), then run this again.",
                    kind="ledger_locked",
                ) from error
            conn.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", ([pid for (pid,) in pids],))


def plan(conn: psycopg.Connection[Any], run: int, chunks: Sequence[tuple[int, Chunk, Name, int]]) -> None:
    """Write down chunks to do: (place in the order of work, chunk, target, oid of the target), instead of any earlier plan."""
    for schema, table in {(chunk.schema, chunk.table) for _place, chunk, _target, _oid in chunks}:
        conn.execute("DELETE FROM cutover.chunk WHERE source_schema = %s AND source_table = %s", (schema, table))
    with conn.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO cutover.chunk (source_schema, source_table, number, total, kind, key_column, lo, hi, estimate, place,
                   target_schema, target_table, target_oid, run, state)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'todo')""",
            [
                (c.schema, c.table, c.number, c.total, c.kind, c.column, c.lo, c.hi, c.bytes, place, *target, oid, run)
                for place, c, target, oid in chunks
            ],
        )


def adopt(conn: psycopg.Connection[Any], run: int, tables: Iterable[Name]) -> None:
    """Take over the unfinished chunks of these source tables from an earlier run under the same snapshot."""
    for schema, table in tables:
        conn.execute(
            "UPDATE cutover.chunk SET run = %s WHERE source_schema = %s AND source_table = %s AND state = 'todo'", (run, schema, table)
        )


def forget(conn: psycopg.Connection[Any], tables: Iterable[Name]) -> None:
    """Drop what the ledger says about these source tables."""
    for schema, table in tables:
        conn.execute("DELETE FROM cutover.chunk WHERE source_schema = %s AND source_table = %s", (schema, table))


def move(conn: psycopg.Connection[Any], places: Iterable[tuple[int, Chunk]]) -> None:
    """Give adopted chunks their places in the order of work."""
    with conn.cursor() as cursor:
        cursor.executemany(
            "UPDATE cutover.chunk SET place = %s WHERE source_schema = %s AND source_table = %s AND number = %s",
            [(place, chunk.schema, chunk.table, chunk.number) for place, chunk in places],
        )


def plan_builds(conn: psycopg.Connection[Any], run: int, builds: Iterable[tuple[int, Build]]) -> None:
    """Write down builds to do: (place in the order of work, build), instead of all earlier ones."""
    conn.execute("DELETE FROM cutover.build")
    with conn.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO cutover.build (source_schema, source_table, rank, name, method, statement, weight, size, needs, place, run, state)
               VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'todo')""",
            [
                (b.schema, b.table, b.rank, b.name, b.method, b.statement, b.weight, b.size, list(b.needs), place, run)
                for place, b in builds
            ],
        )


def unanalyzed(conn: psycopg.Connection[Any]) -> set[Name]:
    """Source tables whose statistics an earlier run was to gather and has not."""
    return set(conn.execute(f"SELECT source_schema, source_table FROM cutover.build WHERE rank = {ANALYZE} AND state <> 'done'").fetchall())


def built(conn: psycopg.Connection[Any], run: int) -> tuple[tuple[Build, str, float, str], ...]:
    """(build, state, seconds, problem) of a run, in the order of work."""
    rows = conn.execute(
        """SELECT source_schema, source_table, rank, name, method, statement, weight, size, needs, state, coalesce(seconds, 0), coalesce(problem, '')
           FROM cutover.build WHERE run = %s ORDER BY place""",
        (run,),
    ).fetchall()
    return tuple((Build(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7], tuple(row[8])), *row[9:]) for row in rows)


def done_chunks(conn: psycopg.Connection[Any], run: int) -> tuple[tuple[str, str, int, int, int], ...]:
    """(schema, table, number, rows, bytes) of a run's finished chunks."""
    rows = conn.execute(
        "SELECT source_schema, source_table, number, coalesce(rows, 0), coalesce(bytes, 0) FROM cutover.chunk WHERE run = %s AND state = 'done'",
        (run,),
    ).fetchall()
    return tuple((row[0], row[1], row[2], row[3], row[4]) for row in rows)


def done_builds(conn: psycopg.Connection[Any], run: int) -> tuple[tuple[str, str, int, str], ...]:
    """(schema, table, rank, name) of a run's builds that are over, well or not."""
    rows = conn.execute("SELECT source_schema, source_table, rank, name FROM cutover.build WHERE run = %s AND state <> 'todo'", (run,))
    return tuple((row[0], row[1], row[2], row[3]) for row in rows.fetchall())


def remaining(conn: psycopg.Connection[Any], run: int) -> int:
    """Chunks of a run that are not done."""
    row = conn.execute("SELECT count(*) FROM cutover.chunk WHERE run = %s AND state = 'todo'", (run,)).fetchone()
    return int(row[0]) if row else 0


def close_run(conn: psycopg.Connection[Any], run: int) -> None:
    """Note that a run has finished, and have it and everything before it on disk: until then a crash may take the newest commits with it."""
    with conn.transaction():
        conn.execute("SET LOCAL synchronous_commit = on")
        conn.execute("UPDATE cutover.run SET finished = clock_timestamp() WHERE id = %s", (run,))


def close_if_done(conn: psycopg.Connection[Any], run: int) -> None:
    """The same for a run of which nothing is left to do."""
    row = conn.execute(
        """SELECT EXISTS (SELECT FROM cutover.chunk WHERE run = %(run)s AND state = 'todo')
             OR EXISTS (SELECT FROM cutover.build WHERE run = %(run)s AND state <> 'done')""",
        {"run": run},
    ).fetchone()
    if row and not row[0]:
        close_run(conn, run)


def read_dirty(conn: psycopg.Connection[Any], table: str = "cutover.dirty") -> dict[str, list[tuple[str, ...]]]:
    """{``schema.table`` of the source: keys as text} that were noted as touched."""
    schema, _unused, name = table.partition(".")
    found: dict[str, list[tuple[str, ...]]] = {}
    for owner, relation, key in conn.execute(f"SELECT source_schema, source_table, key FROM {qualified(schema, name)}").fetchall():
        found.setdefault(f"{owner}.{relation}", []).append(tuple(key))
    return found


# Used by workers over the bare protocol. A claim is a row lock that lasts as long as its transaction: a worker that dies gives it back.
_OPEN = "run = {run} AND state = 'todo' AND EXISTS (SELECT FROM cutover.run WHERE id = {run} AND abandoned IS NULL)"
# The first free chunk is looked at and let go, for a build that stands before it to be taken first.
LOOK = f"BEGIN; SAVEPOINT look; SELECT place FROM cutover.chunk WHERE {_OPEN} ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED"
# A build waits for the rows of its table, a constraint for all indexes of its table, statistics for both. Foreign keys wait for all that of the
# tables they refer to, and their proof for keys that refer to its own table: so nobody ever waits for a lock that a long step holds.
# Each condition is a query of its own, asked of one build after another until one is free; as joins they would be asked of all, for every claim.
CLAIM_BUILD = f"""ROLLBACK TO look; RELEASE look;
SELECT source_schema, source_table, rank, name, method, statement, size FROM cutover.build b
WHERE {_OPEN} AND place < {{before}}
  AND (SELECT NOT EXISTS (SELECT FROM cutover.chunk c
                          WHERE c.source_schema = b.source_schema AND c.source_table = b.source_table AND c.state = 'todo'))
  AND (SELECT NOT EXISTS (SELECT FROM cutover.build o
                          WHERE o.source_schema = b.source_schema AND o.source_table = b.source_table AND o.rank < b.rank AND o.state = 'todo'))
  AND CASE b.rank
      WHEN {LINK} THEN (SELECT NOT EXISTS (SELECT FROM unnest(b.needs) AS needed
                                           JOIN cutover.chunk c ON c.source_schema || '.' || c.source_table = needed WHERE c.state = 'todo')
                        AND NOT EXISTS (SELECT FROM unnest(b.needs) AS needed JOIN cutover.build o ON o.source_schema || '.' || o.source_table = needed
                                        WHERE o.state = 'todo' AND o.rank < {LINK}))
      WHEN {PROVE} THEN (SELECT NOT EXISTS (SELECT FROM cutover.build o WHERE o.needs @> ARRAY[b.source_schema || '.' || b.source_table]
                                            AND o.rank = {LINK} AND o.state = 'todo'))
      ELSE true END
ORDER BY place LIMIT 1 FOR UPDATE OF b SKIP LOCKED"""
CLAIM = f"""SELECT source_schema, source_table, number, total, kind, key_column, lo, hi, estimate FROM cutover.chunk
WHERE {_OPEN} ORDER BY place LIMIT 1 FOR UPDATE SKIP LOCKED"""
FINISH = """UPDATE cutover.chunk SET state = 'done', rows = {rows}, bytes = {bytes}, seconds = {seconds}, finished = clock_timestamp()
WHERE source_schema = {schema} AND source_table = {table} AND number = {number} AND state = 'todo'"""
FINISH_BUILD = """UPDATE cutover.build SET state = 'done', seconds = {seconds}, finished = clock_timestamp(), problem = NULL
WHERE source_schema = {schema} AND source_table = {table} AND rank = {rank} AND name = {name}"""
# What is built on a failed index fails with it.
FAIL_BUILD = """UPDATE cutover.build SET state = 'failed', problem = {problem}
WHERE run = {run} AND source_schema = {schema} AND source_table = {table} AND rank >= {rank} AND name = {name} AND state = 'todo'"""
# Work that is left: chunks, builds. Nothing is left of a run that another has taken the place of.
LEFT = f"""SELECT (SELECT count(*) FROM cutover.chunk WHERE {_OPEN}), (SELECT count(*) FROM cutover.build WHERE {_OPEN})"""
