# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What is known of a stream in the database that it is applied to: progress, requests of others, why it stands still. Schema ``cutover``.

Whoever asks for something commits it here and the applier obeys: no batch is committed that began before it had seen what was asked. Those who only
read need no more than a read-only session, and get None where there is no such table.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from .. import ledger, predecessor, session
from ..errors import TransferError, certain
from ..selection import Name
from .pgoutput import lsn_number, lsn_text
from .shapes import Route

if TYPE_CHECKING:
    import psycopg

    Conn = psycopg.Connection[Any]

DIRECTIONS = ("forward", "reverse")
# Of the only applier of each direction, and of those who have asked it to pause, as long as they live.
APPLIER_KEYS = {"forward": ledger.LOCK_KEY + 2, "reverse": ledger.LOCK_KEY + 3}
PAUSE_KEYS = {"forward": ledger.LOCK_KEY + 4, "reverse": ledger.LOCK_KEY + 5}
CHANNEL = "cutover_stream"

DDL = """
CREATE TABLE IF NOT EXISTS cutover.stream (
    direction text PRIMARY KEY CHECK (direction IN ('forward', 'reverse')),
    source text NOT NULL, slot text NOT NULL, publication text NOT NULL,
    begin_lsn pg_catalog.pg_lsn NOT NULL, applied_lsn pg_catalog.pg_lsn NOT NULL, source_time timestamptz, applied_at timestamptz,
    transactions bigint NOT NULL DEFAULT 0, changes bigint NOT NULL DEFAULT 0,
    dirty_from pg_catalog.pg_lsn, stop_at pg_catalog.pg_lsn, paused_at pg_catalog.pg_lsn, fence text, fence_lsn pg_catalog.pg_lsn,
    hold boolean NOT NULL DEFAULT false,
    owner text, heartbeat timestamptz, problem jsonb, tables jsonb NOT NULL DEFAULT '{}') WITH (fillfactor = 50);
ALTER TABLE cutover.stream ADD COLUMN IF NOT EXISTS passed_fence text;
CREATE TABLE IF NOT EXISTS cutover.stream_table (
    direction text NOT NULL, sender_schema text NOT NULL, sender_table text NOT NULL, target_schema text, target_table text,
    columns jsonb NOT NULL, left_out jsonb NOT NULL, key text[] NOT NULL, root_schema text, root_table text,
    PRIMARY KEY (direction, sender_schema, sender_table));
"""


@dataclass(frozen=True)
class Stream:
    """A row of ``cutover.stream``. Positions are numbers, see :func:`.pgoutput.lsn_text`; times are aware.

    source: identity of the sender; begin: position of the slot; applied: everything whose commit ends below it is in this database
    source_time: commit of the last applied transaction, on the sender's clock; transactions, changes: applied so far
    dirty_from: from which commit on keys go to ``cutover.dirty``; stop_at: asked to pause before the first commit at or above it; paused_at: it does
    fence: the one that was reached, after which nothing is applied until :func:`release`; hold: asked to apply nothing
    problem: ``message``, ``remedy``, ``kind`` and facts of what stopped it, None while nothing does
    tables: {``schema.table`` of the sender: position of its copy} where that is not ``begin``
    """

    direction: str
    source: str
    slot: str
    publication: str
    begin: int
    applied: int
    source_time: datetime.datetime | None
    applied_at: datetime.datetime | None
    transactions: int
    changes: int
    dirty_from: int | None
    stop_at: int | None
    paused_at: int | None
    fence: str | None
    fence_lsn: int | None
    hold: bool
    owner: str | None
    heartbeat: datetime.datetime | None
    problem: dict[str, Any] | None
    tables: dict[str, str]


_POSITIONS = ("begin", "applied", "dirty_from", "stop_at", "paused_at", "fence_lsn")
_COLUMNS = ", ".join(
    f"{field.name}_lsn::text" if field.name in ("begin", "applied") else f"{field.name}::text" if field.name in _POSITIONS else field.name
    for field in fields(Stream)
)


def create(conn: Conn) -> None:
    """Make the tables, or what older ones lack. Raises TransferError of kind privilege."""
    ledger.create(conn)
    newest = "SELECT FROM pg_attribute WHERE attrelid = to_regclass('cutover.stream') AND attname = 'passed_fence'"
    if not (conn.execute(newest).rowcount and exists(conn)):
        try:
            with conn.transaction():
                conn.execute(DDL)
        except session.psycopg.errors.InsufficientPrivilege as error:
            raise TransferError(
                f"role {conn.info.user} may not create tables in schema cutover: {error.diag.message_primary}",
                f'Run there: GRANT CREATE ON SCHEMA cutover TO "{conn.info.user}";',
                kind="privilege",
            ) from error


def exists(conn: Conn) -> bool:
    """Whether the database has ever been the receiver of a stream."""
    row = conn.execute("SELECT pg_catalog.to_regclass('cutover.stream') IS NOT NULL").fetchone()
    return bool(row and row[0])


def read(conn: Conn, direction: str) -> Stream | None:
    """The stream of a direction, None when there is none."""
    if not exists(conn):
        return None
    row = conn.execute(f"SELECT {_COLUMNS} FROM cutover.stream WHERE direction = %s", (direction,)).fetchone()
    if row is None:
        return None
    values: dict[str, Any] = dict(zip((field.name for field in fields(Stream)), row, strict=True))
    for name in _POSITIONS:
        values[name] = None if values[name] is None else lsn_number(values[name])
    return Stream(**values)


def begin(
    conn: Conn,
    direction: str,
    source: str,
    slot: str,
    publication: str,
    begin_lsn: int,
    routes: Iterable[Route] = (),
    tables: Mapping[str, int] | None = None,
) -> Stream:
    """Write down a stream that begins, in the caller's transaction if there is one. One that is there already stays, if it is the same.

    begin_lsn: position of the slot; routes: where each table goes, see :mod:`.roster`; tables: {``schema.table`` of the sender: its copy's position}
    Raises TransferError of kind other_stream.
    """
    if direction not in DIRECTIONS:
        raise TransferError(f"unknown direction {direction!r} of a stream", f"Use one of {', '.join(DIRECTIONS)}.")
    create(conn)
    with conn.transaction():
        conn.execute(
            """INSERT INTO cutover.stream (direction, source, slot, publication, begin_lsn, applied_lsn)
               VALUES (%s, %s, %s, %s, %s::pg_lsn, %s::pg_lsn) ON CONFLICT DO NOTHING""",
            (direction, source, slot, publication, lsn_text(begin_lsn), lsn_text(begin_lsn)),
        )
        found = certain(read(conn, direction), "the stream just begun")
        refuse_other(found, source=source, slot=slot)
        remember(conn, direction, routes)
        if tables:
            note_tables(conn, direction, tables)
    return certain(read(conn, direction), "the stream just begun")


def refuse_other(found: Stream, *, slot: str, source: str | None = None) -> None:
    """Raise TransferError of kind other_stream when a stream is of another slot or sender."""
    if found.slot != slot or (source is not None and found.source != source):
        raise TransferError(
            f"the receiving database belongs to the {found.direction} stream of slot {found.slot} from {found.source},"
            f" not of slot {slot}{f' from {source}' if source else ''}",
            f"End that stream first. If it is over, run there: DELETE FROM cutover.stream WHERE direction = '{found.direction}';",
            kind="other_stream",
        )


def remember(conn: Conn, direction: str, routes: Iterable[Route]) -> None:
    """Keep where tables go. Those known already stay as they are, but for one that was left out until now."""
    with conn.cursor() as cursor:
        cursor.executemany(
            """INSERT INTO cutover.stream_table (direction, sender_schema, sender_table, target_schema, target_table, columns, left_out, key,
                   root_schema, root_table)
               VALUES (%s, %s, %s, %s, %s, %s::jsonb, %s::jsonb, %s, %s, %s)
               ON CONFLICT (direction, sender_schema, sender_table) DO UPDATE SET target_schema = excluded.target_schema,
                   target_table = excluded.target_table, columns = excluded.columns, left_out = excluded.left_out, key = excluded.key,
                   root_schema = excluded.root_schema, root_table = excluded.root_table
               WHERE stream_table.target_schema IS NULL""",
            [
                (
                    direction,
                    *route.sender,
                    *(route.target or (None, None)),
                    json.dumps(dict(route.columns)),
                    json.dumps(dict(route.left_out)),
                    list(route.key),
                    *(route.root or (None, None)),
                )
                for route in routes
            ],
        )


def routes(conn: Conn, direction: str) -> dict[Name, Route]:
    """{(schema, table) of the sender: where it goes}, as remembered."""
    rows = conn.execute(
        """SELECT sender_schema, sender_table, target_schema, target_table, columns, left_out, key, root_schema, root_table
           FROM cutover.stream_table WHERE direction = %s""",
        (direction,),
    ).fetchall()
    return {
        (row[0], row[1]): Route(
            (row[0], row[1]),
            (row[2], row[3]) if row[2] is not None else None,
            row[4],
            row[5],
            tuple(row[6]),
            (row[7], row[8]) if row[7] is not None else None,
        )
        for row in rows
    }


def note_tables(conn: Conn, direction: str, positions: Mapping[str, int]) -> None:
    """Note {``schema.table`` of the sender: position of its copy} where that is not where the stream began."""
    conn.execute(
        "UPDATE cutover.stream SET tables = %s::jsonb WHERE direction = %s",
        (json.dumps({name: lsn_text(position) for name, position in positions.items()}), direction),
    )


def request_dirty_from(conn: Conn, direction: str, position: int | None) -> None:
    """From the first transaction whose commit is at or above a position on, keys go to ``cutover.dirty``; None: no more.

    Raises TransferError of kind too_late when such a transaction has been applied already, no_stream when there is none.
    """
    _ask(conn, direction, "dirty_from = %s::pg_lsn", position, "keys cannot be noted from there on")


def request_pause(conn: Conn, direction: str, position: int) -> None:
    """Ask the applier to go on to just before the first commit at or above a position and to wait there: 0 is at once.

    It waits as long as this very session lives, or until :func:`clear_pause`. ``paused_at`` says that it does.
    Raises TransferError of kind too_late, no_stream, or pause_taken when somebody else has asked for another.
    """
    key = PAUSE_KEYS[direction]
    ours = conn.info.backend_pid in predecessor.holders(conn, key)
    if not ours and predecessor.take(conn, key, 0.0) is not None:
        raise TransferError(
            f"another session has paused the {direction} stream", "Wait until it has ended, then run again.", kind="pause_taken"
        )
    try:
        _ask(conn, direction, "stop_at = %s::pg_lsn, paused_at = NULL", position, "it cannot be stopped there", any_time=position == 0)
    except BaseException:
        if not (ours or conn.closed):
            conn.execute("SELECT pg_advisory_unlock(%s)", (key,))
        raise


def clear_pause(conn: Conn, direction: str) -> None:
    """Let it go on after a pause of this session."""
    if not exists(conn):
        return
    conn.execute("UPDATE cutover.stream SET stop_at = NULL, paused_at = NULL WHERE direction = %s", (direction,))
    conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, direction))
    if conn.info.backend_pid in predecessor.holders(conn, PAUSE_KEYS[direction]):
        conn.execute("SELECT pg_advisory_unlock(%s)", (PAUSE_KEYS[direction],))


def hold(conn: Conn, direction: str) -> None:
    """Ask for nothing more to be applied. No batch is committed any more that had not looked at this row before. Raises TransferError no_stream."""
    _ask(conn, direction, "hold = true", (), "", any_time=True)


def release(conn: Conn, direction: str, fence: str | None = None) -> None:
    """Let it apply again, after :func:`hold` as well as after a fence.

    fence: that nobody waits for any more; the stream passes it also when it comes to it only later
    Raises TransferError of kind no_stream.
    """
    if not exists(conn):
        raise _no_stream(direction)
    found = conn.execute(
        """UPDATE cutover.stream SET hold = false, passed_fence = coalesce(%s, fence, passed_fence), fence = NULL, fence_lsn = NULL
           WHERE direction = %s""",
        (fence, direction),
    )
    if not found.rowcount:
        raise _no_stream(direction)
    conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, direction))


def is_applying(conn: Conn, direction: str) -> bool:
    """Whether an applier has this database now."""
    return bool(predecessor.holders(conn, APPLIER_KEYS[direction]))


def wait_for(
    conn: Conn,
    direction: str,
    predicate: Callable[[Stream], bool],
    deadline: float,
    what: str,
    poll: float = 0.005,
) -> Stream:
    """Wait until a stream is as wanted. deadline: on the clock of ``time.monotonic``; what: is waited for, as a noun, for messages.

    Raises TransferError of kind no_stream, deadline, or the stream's own problem when that stops it.
    """
    while True:
        found = read(conn, direction)
        if found is None:
            raise _no_stream(direction)
        if predicate(found):
            return found
        if found.problem is not None:
            told = dict(found.problem)
            raise TransferError(
                f"the {direction} stream stands still: {told.pop('message', '')}", str(told.pop("remedy", "")), **told, stream=direction
            )
        if time.monotonic() > deadline:
            alive = is_applying(conn, direction)
            raise TransferError(
                f"{what} was not reached in time: the {direction} stream stands at {lsn_text(found.applied)}"
                + ("" if alive else " and nobody applies it"),
                "Look at the lag with state=status and try again when it is small." if alive else "Start it again, then run this again.",
                kind="deadline",
            )
        time.sleep(poll)


def drop(conn: Conn, direction: str) -> bool:
    """Forget a stream, with the keys that it noted; whether there was one. Raises TransferError of kind in_use while it is applied."""
    if not exists(conn):
        return False
    if is_applying(conn, direction):
        raise TransferError(f"the {direction} stream is being applied", "Stop it first.", kind="in_use")
    with conn.transaction():
        gone = conn.execute("DELETE FROM cutover.stream WHERE direction = %s RETURNING 1", (direction,)).fetchone()
        conn.execute("DELETE FROM cutover.stream_table WHERE direction = %s", (direction,))
        if gone and conn.execute("SELECT FROM cutover.stream").fetchone() is None:
            conn.execute("DELETE FROM cutover.dirty")
    return gone is not None


def _ask(conn: Conn, direction: str, assignment: str, position: int | None | tuple[()], so: str, *, any_time: bool = False) -> None:
    """Write what is asked for, and say so. position: of the assignment, () for one without; so: what cannot be done when it is passed already."""
    text = lsn_text(position) if isinstance(position, int) else None
    given = () if position == () else (text,)
    if not exists(conn):
        raise _no_stream(direction)
    row = conn.execute(
        f"UPDATE cutover.stream SET {assignment} WHERE direction = %s AND (%s OR applied_lsn <= %s::pg_lsn) RETURNING 1",
        (*given, direction, any_time or text is None, text),
    ).fetchone()
    if row is None:
        found = read(conn, direction)
        if found is None:
            raise _no_stream(direction)
        raise TransferError(
            f"the {direction} stream has been applied to {lsn_text(found.applied)}, beyond {text}: {so}",
            "Take a new position, with the stream paused meanwhile.",
            kind="too_late",
        )
    conn.execute("SELECT pg_notify(%s, %s)", (CHANNEL, direction))


def _no_stream(direction: str) -> TransferError:
    return TransferError(
        f"the receiving database has no {direction} stream", "Start it with pg_change_stream state=started first.", kind="no_stream"
    )
