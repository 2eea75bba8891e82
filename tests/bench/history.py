"""What a table held at the moment that a snapshot shows, reconstructed on the source from a log of all its changes.

The log stands beside the tables and is filled by triggers in the writers' own transactions, so it survives whatever they survive, and any
moment can be asked for later: no session has to keep a snapshot, and the engine that is tested has no part in the answer.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

SCHEMA = "past"  # of the log, to be excluded from what is moved
Digest = tuple[int, int]
"""(rows, sum of their hashes)"""

_LOG = (
    f"CREATE SCHEMA {SCHEMA}",
    f"CREATE TABLE {SCHEMA}.first (tab text, key text, line text)",
    f"""CREATE TABLE {SCHEMA}.log (place bigserial PRIMARY KEY, xid xid8 NOT NULL DEFAULT pg_current_xact_id(), tab text NOT NULL, key text NOT NULL,
        line text)""",
    f"""CREATE FUNCTION {SCHEMA}.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF TG_OP <> 'INSERT' THEN INSERT INTO {SCHEMA}.log (tab, key, line) VALUES (TG_TABLE_NAME, OLD.id, NULL); END IF;
        IF TG_OP <> 'DELETE' THEN INSERT INTO {SCHEMA}.log (tab, key, line) VALUES (TG_TABLE_NAME, NEW.id, NEW::text); END IF;
        RETURN NULL; END $$""",
)
_THEN = f"""SELECT count(*), coalesce(sum(hashtextextended(line, 0)), 0)::numeric FROM (
    SELECT DISTINCT ON (key) line FROM (
        SELECT 0::bigint AS place, key, line FROM {SCHEMA}.first WHERE tab = %(tab)s
        UNION ALL SELECT place, key, line FROM {SCHEMA}.log WHERE tab = %(tab)s AND pg_visible_in_snapshot(xid, %(content)s::pg_snapshot)
    ) s ORDER BY key, place DESC) latest WHERE line IS NOT NULL"""
_NOW = "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::numeric FROM ONLY {table} t"

Connect = Callable[[], psycopg.Connection[Any]]


def start(conn: psycopg.Connection[Any], tables: Sequence[str]) -> None:
    """Begin the log of these tables of schema ``public``, each with a column ``id``, before anybody writes to them."""
    for statement in _LOG:
        conn.execute(statement)
    for table in tables:
        conn.execute(f"INSERT INTO {SCHEMA}.first SELECT '{table}', id::text, t::text FROM {table} t")
        conn.execute(f"CREATE TRIGGER past_note AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {SCHEMA}.note()")


def then(conn: psycopg.Connection[Any], table: str, content: str) -> Digest:
    """What the table held in a snapshot. content: its text, as ``pg_current_snapshot()`` gives it."""
    row = conn.execute(_THEN, {"tab": table, "content": content}).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def now(conn: psycopg.Connection[Any], table: str) -> Digest:
    """What a table holds, of either side."""
    row = conn.execute(_NOW.format(table=table)).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


@dataclass(frozen=True)
class Written:
    """A table that the load writes to. make: SQL that makes an id from ``%s``, a whole number; columns besides: ``a int, b text``."""

    name: str
    make: str = "%s::bigint"


class Load:
    """Inserts, updates and deletes at random, on sessions of its own, until it is stopped; lost connections are made anew."""

    def __init__(
        self, connect: Connect, tables: Sequence[Written], rows: int, *, sessions: int = 2, pause: float = 0.005, seed: int = 1
    ) -> None:
        """rows: numbers from 0 to twice as many are written; pause: seconds between two transactions of a session."""
        self.connect, self.tables, self.rows, self.pause = connect, tables, rows, pause
        self.over = threading.Event()
        self.transactions = 0
        self.problem: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._write, args=(random.Random(seed * 1000 + place),), daemon=True) for place in range(sessions)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End it. Raises what has ended a session before its time."""
        self.over.set()
        for thread in self._threads:
            thread.join(60)
        if self.problem is not None:
            raise self.problem

    def _write(self, dice: random.Random) -> None:
        try:
            while not self.over.is_set():
                try:
                    with self.connect() as conn:
                        while not self.over.wait(self.pause):
                            self._transaction(conn, dice)
                except psycopg.OperationalError:
                    self.over.wait(0.2)  # a server that is crashed on purpose comes back
        except BaseException as error:
            self.problem = error

    def _transaction(self, conn: psycopg.Connection[Any], dice: random.Random) -> None:
        # In one order, so that two sessions never wait for one another in a circle.
        touched = sorted((dice.randrange(len(self.tables)), dice.randrange(self.rows * 2), dice.random()) for _unused in range(3))
        with conn.transaction():
            for place, number, what in touched:
                table = self.tables[place]
                if what < 0.3:
                    conn.execute(f"DELETE FROM {table.name} WHERE id = {table.make}", (number,))
                elif what < 0.6:
                    conn.execute(f"UPDATE {table.name} SET a = a + 1, b = md5(b || a) WHERE id = {table.make}", (number,))
                else:
                    conn.execute(
                        f"INSERT INTO {table.name} (id, a, b) VALUES ({table.make}, 0, 'new') ON CONFLICT (id) DO UPDATE SET a = excluded.a, b = 'again'",
                        (number,),
                    )
        self.transactions += 1
