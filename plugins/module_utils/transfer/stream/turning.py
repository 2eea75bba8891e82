# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where both sides were proven equal: after a verification of all rows, and where service turns from one side to the other."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from . import leaves, state
from .leaves import Leaves
from .pgoutput import lsn_number, lsn_text
from .shapes import Route

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

# What was proven equal, and where: from there on only the rows that were touched since can differ.
_DDL = """
CREATE TABLE IF NOT EXISTS cutover.proof (
    direction text PRIMARY KEY, lsn pg_catalog.pg_lsn NOT NULL, at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    leaves jsonb NOT NULL DEFAULT '[]')
"""


def proven(conn: Conn, direction: str, position: int, partitions: Leaves | None = None) -> None:
    """Note in the receiving database that every row was equal at a position, from which on touched keys have been noted.

    partitions: of the sender, read before the position; None leaves what is known of them, when only touched rows were looked at
    """
    kept = None if partitions is None else json.dumps(leaves.plain(partitions))
    with conn.transaction():
        _create(conn)
        conn.execute(
            "INSERT INTO cutover.proof AS p (direction, lsn, leaves) VALUES (%s, %s::pg_lsn, coalesce(%s::jsonb, '[]'))"
            " ON CONFLICT (direction) DO UPDATE SET lsn = excluded.lsn, at = excluded.at, leaves = coalesce(%s::jsonb, p.leaves)",
            (direction, lsn_text(position), kept, kept),
        )


def leaves_at_proof(conn: Conn, direction: str) -> Leaves:
    """Partitions of the sender as they were when their rows were last proven equal."""
    if not _there(conn):
        return {}
    row = conn.execute("SELECT leaves FROM cutover.proof WHERE direction = %s", (direction,)).fetchone()
    return leaves.from_plain(row[0]) if row else {}


def leaves_mended(conn: Conn, direction: str, partitions: Leaves) -> None:
    """Note the partitions of some tables on top, whose rows have been made equal since all were proven. partitions: read before that"""
    with conn.transaction():
        row = conn.execute("SELECT leaves FROM cutover.proof WHERE direction = %s FOR UPDATE", (direction,)).fetchone()
        if row is not None:
            kept = json.dumps(leaves.plain({**leaves.from_plain(row[0]), **partitions}))
            conn.execute("UPDATE cutover.proof SET leaves = %s::jsonb WHERE direction = %s", (kept, direction))


def unproven(conn: Conn, direction: str) -> None:
    """Forget it: a verification has found a difference."""
    if _there(conn):
        conn.execute("DELETE FROM cutover.proof WHERE direction = %s", (direction,))


def proven_at(conn: Conn, direction: str) -> int | None:
    """Where every row was last proven equal, if the touched keys have been noted without a gap since then; else None."""
    if not _there(conn):
        return None
    row = conn.execute(
        "SELECT p.lsn::text FROM cutover.proof p JOIN cutover.stream s USING (direction) WHERE p.direction = %s AND s.dirty_from <= p.lsn",
        (direction,),
    ).fetchone()
    return lsn_number(row[0]) if row else None


def turn(
    conn: Conn, direction: str, source: str, slot: str, publication: str, position: int, routes: Iterable[Route], partitions: Leaves
) -> None:
    """Let a stream begin at a position of its sender, where both sides are equal and closed; one that was there goes on from there.

    conn: to the receiver. Everything before the position is passed over, keys are noted from it on, and nothing holds the stream any more.
    partitions: of the sender, at the position
    """
    with conn.transaction():
        state.create(conn)
        for table in ("dirty", "dirty_before"):
            if conn.execute("SELECT FROM pg_class WHERE oid = to_regclass(%s)", (f"cutover.{table}",)).rowcount:
                conn.execute(f"DELETE FROM cutover.{table}")
        state.begin(conn, direction, source, slot, publication, position, routes)
        conn.execute(
            "UPDATE cutover.stream SET applied_lsn = %(at)s::pg_lsn, dirty_from = %(at)s::pg_lsn, stop_at = NULL, paused_at = NULL, fence = NULL,"
            " fence_lsn = NULL, hold = false, problem = NULL, tables = '{}' WHERE direction = %(direction)s",
            {"at": lsn_text(position), "direction": direction},
        )
        proven(conn, direction, position, partitions)
    conn.execute("SELECT pg_notify(%s, %s)", (state.CHANNEL, direction))


def turn_back(conn: Conn, direction: str) -> None:
    """Undo :func:`turn` for a side that did not open after all: the stream holds, and what it would bring is passed over when it is turned again.

    One that was never turned needs nothing.
    """
    if state.read(conn, direction) is not None:
        state.hold(conn, direction)


def _create(conn: Conn) -> None:
    if not _there(conn):
        conn.execute(_DDL)


def _there(conn: Conn) -> bool:
    row = conn.execute("SELECT pg_catalog.to_regclass('cutover.proof') IS NOT NULL").fetchone()
    return bool(row and row[0])
