"""Builds the database from the SQL files and the cached COPY files, in one transaction: all of it or nothing."""

from __future__ import annotations

from pathlib import Path

import psycopg
from psycopg import sql

from . import cache, copytext

SQL = Path(__file__).parent / "sql"
# Values that were handed out and deleted again: a sequence is ahead of the highest id that a table shows.
HANDED_OUT = 37


class RefusedError(Exception):
    """The database is not one that this builds; the message says what to do."""


def _mark(folder: Path) -> str:
    return f"old world {folder.name}"


def state(connection: psycopg.Connection[tuple[object, ...]]) -> str | None:
    """The mark of the old world in this database, or None on a fresh one."""
    row = connection.execute("SELECT obj_description(to_regnamespace('flights')::oid, 'pg_namespace')").fetchone()
    return str(row[0]) if row and row[0] is not None else None


def _rename_superuser(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    """The bootstrap superuser of Supabase is supabase_admin. A session cannot rename its own user, so it becomes another for a moment."""
    row = connection.execute("SELECT rolname FROM pg_roles WHERE oid = 10").fetchone()
    name = str(row[0]) if row else ""
    if name == "supabase_admin":
        return
    connection.execute("CREATE ROLE old_world_helper SUPERUSER")
    connection.execute("SET SESSION AUTHORIZATION old_world_helper")
    connection.execute(sql.SQL("ALTER ROLE {} RENAME TO supabase_admin").format(sql.Identifier(name)))
    connection.execute("RESET SESSION AUTHORIZATION")
    connection.execute("DROP ROLE old_world_helper")


def _copy(connection: psycopg.Connection[tuple[object, ...]], folder: Path, part: cache.Part) -> None:
    schema, table = part.table.split(".")
    columns = sql.SQL(", ").join(sql.Identifier(name.strip()) for name in part.columns.split(","))
    statement = sql.SQL("COPY {}.{} ({}) FROM STDIN").format(sql.Identifier(schema), sql.Identifier(table), columns)
    cursor = connection.cursor()
    with cursor.copy(statement) as stream:
        for piece in copytext.read(folder / part.file):
            stream.write(piece)
    if cursor.rowcount != part.rows:
        raise RefusedError(f"{part.table}: {cursor.rowcount} rows loaded, {part.rows} expected. Remove {folder} and build it again.")


def _sequences(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    owned = connection.execute(
        """SELECT format('%I.%I', n.nspname, c.relname), a.attname, pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname)
             FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind = 'r' AND n.nspname = 'public' AND a.attidentity <> ''"""
    ).fetchall()
    for table, column, sequence in owned:
        connection.execute(f"SELECT setval('{sequence}', (SELECT coalesce(max({column}), 0) FROM {table}) + {HANDED_OUT}, true)")
    connection.execute("SELECT setval('public.receipt_numbers', (SELECT max(receipt_no) FROM public.bookings) + 1, false)")


def set_passwords(connection: psycopg.Connection[tuple[object, ...]], passwords: dict[str, str]) -> None:
    """Gives LOGIN roles their passwords as SCRAM verifiers made here, so that no statement and no log holds one."""
    for role, password in passwords.items():
        verifier = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(verifier)))


def load(dsn: str, folder: Path, passwords: dict[str, str]) -> bool:
    """Builds the old world. Returns True when it did, False when it was there already (passwords are set in both cases).

    dsn: libpq connection string of a superuser of a fresh PostgreSQL 15+ cluster, database postgres.
    Raises RefusedError when the database holds something else, psycopg.Error when the server refuses.
    """
    with psycopg.connect(dsn) as connection:
        found = state(connection)
        if found == _mark(folder):
            set_passwords(connection, passwords)
            return False
        if found is not None:
            raise RefusedError(
                f"this database holds '{found}', not '{_mark(folder)}'. Make a fresh cluster (pg_dropcluster, pg_createcluster) and load again."
            )
        others = connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname IN ('auth', 'flights', 'storage')").fetchone()
        if others and others[0]:
            raise RefusedError("this database has a schema auth, flights or storage that was not made here. Give a fresh cluster.")
        connection.execute("SET LOCAL statement_timeout = 0; SET LOCAL synchronous_commit = off; SET LOCAL maintenance_work_mem = '128MB'")
        _rename_superuser(connection)
        for name in ("10_platform.sql", "20_tables.sql"):
            connection.execute((SQL / name).read_bytes())
        connection.execute("SET LOCAL session_replication_role = replica")
        for part in cache.parts(folder):
            _copy(connection, folder, part)
        connection.execute("SET LOCAL session_replication_role = origin")
        for name in ("30_constraints.sql", "90_event_triggers.sql"):
            connection.execute((SQL / name).read_bytes())
        _sequences(connection)
        set_passwords(connection, passwords)
        connection.execute("ANALYZE")
        connection.execute(sql.SQL("COMMENT ON SCHEMA flights IS {}").format(sql.Literal(_mark(folder))))
    return True
