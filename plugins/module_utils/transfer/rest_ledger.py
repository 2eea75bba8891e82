# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far a copy over REST is, in the ledger: a chunk per page, with the key of its last row; the one to do next stands open at the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import ledger
from .chunks import Chunk
from .errors import TransferError
from .pairing import Pair
from .rest_source import Key

if TYPE_CHECKING:
    import psycopg

KIND = "rest"


@dataclass(frozen=True)
class Position:
    """Where a table stands. next: number of the open chunk; after: key of the last row that is in, or None; done: the last pass agreed."""

    next: int
    after: Key | None
    rows: int
    bytes: int
    seconds: float
    done: bool


def position(conn: psycopg.Connection[Any], pair: Pair) -> Position | None:
    """Where this table stands; None when nothing is known of it, it was made anew since, or it was read by another key."""
    rows = conn.execute(
        """SELECT number, key_column, state = 'done', coalesce(rows, 0), coalesce(bytes, 0), coalesce(seconds, 0) FROM cutover.chunk
           WHERE source_schema = %s AND source_table = %s AND kind = %s AND target_schema = %s AND target_table = %s AND target_oid = %s
           ORDER BY number""",
        (*pair.source.full_name, KIND, *pair.target.full_name, pair.target.oid),
    ).fetchall()
    if not rows:
        return None
    after: Key | None = None
    for row in rows:
        if row[1]:
            found = json.loads(row[1])
            if found["by"] != list(pair.source.key):
                return None
            after = tuple(found["after"])
    sums = sum(row[3] for row in rows), sum(row[4] for row in rows), sum(row[5] for row in rows)
    return Position(rows[-1][0], after, *sums, done=all(row[2] for row in rows))


def start(conn: psycopg.Connection[Any], run: int, pairs: Sequence[Pair]) -> None:
    """Write down that these tables are to be read from their beginning, inside the caller's transaction."""
    chunks = [Chunk(pair.source.schema, pair.source.name, 0, 1, KIND, "", None, None, 0) for pair in pairs]
    ledger.plan(
        conn,
        run,
        [(place, chunk, pair.target.full_name, pair.target.oid) for place, (chunk, pair) in enumerate(zip(chunks, pairs, strict=True))],
    )


def adopt(conn: psycopg.Connection[Any], run: int, pair: Pair) -> None:
    """Let a new run go on with a table."""
    conn.execute(
        "UPDATE cutover.chunk SET run = %s WHERE source_schema = %s AND source_table = %s AND state = 'todo'", (run, *pair.source.full_name)
    )


def advance(conn: psycopg.Connection[Any], pair: Pair, number: int, last: Key, rows: int, size: int, seconds: float) -> None:
    """Note the open chunk as done and open the next, inside the transaction that brings its rows."""
    key = json.dumps({"by": list(pair.source.key), "after": list(last)})
    _close(conn, pair, number, rows, size, seconds, key)
    conn.execute(
        """INSERT INTO cutover.chunk (source_schema, source_table, number, total, kind, key_column, lo, hi, estimate, place,
               target_schema, target_table, target_oid, run, state)
           SELECT source_schema, source_table, number + 1, total, kind, '', lo, hi, estimate, place, target_schema, target_table, target_oid, run, 'todo'
           FROM cutover.chunk WHERE source_schema = %s AND source_table = %s AND number = %s""",
        (*pair.source.full_name, number),
    )


def finish(conn: psycopg.Connection[Any], pair: Pair, number: int, seconds: float) -> None:
    """Note that a pass over the whole table agreed with the target."""
    _close(conn, pair, number, 0, 0, seconds, "")


def _close(conn: psycopg.Connection[Any], pair: Pair, number: int, rows: int, size: int, seconds: float, key: str) -> None:
    done = conn.execute(
        """UPDATE cutover.chunk SET state = 'done', rows = %s, bytes = %s, seconds = %s, key_column = %s, finished = clock_timestamp()
           WHERE source_schema = %s AND source_table = %s AND number = %s AND state = 'todo'""",
        (rows, size, seconds, key, *pair.source.full_name, number),
    )
    if done.rowcount != 1:
        raise TransferError(
            f"page {number} of {pair.name} is not open in the ledger any more",
            "Look for another mover of this target, then run again.",
            kind="second_mover",
        )
