# Copyright: cutover.hetzner contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""COPY out of one server into another without looking at the rows."""

from __future__ import annotations

import itertools
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import frames, session
from .catalog import Column
from .errors import TransferError, certain
from .pairing import Pair

if TYPE_CHECKING:
    import psycopg
    from psycopg.pq.abc import PGconn, PGresult

# Types whose binary form is the same on every server: no OIDs of one cluster inside, no setting that changes it.
_BINARY = frozenset(
    f"pg_catalog.{name}"
    for name in (
        *("bool", "int2", "int4", "int8", "float4", "float8", "numeric", "text", "varchar", "bpchar", "name", "char", "bytea", "uuid"),
        *("date", "time", "timetz", "timestamp", "timestamptz", "interval", "json", "jsonb", "inet", "cidr", "macaddr", "macaddr8"),
        *("bit", "varbit", "point", "line", "lseg", "box", "path", "polygon", "circle", "tsvector", "pg_lsn"),
        *("int4range", "int8range", "numrange", "tsrange", "tstzrange", "daterange"),
    )
)


def is_binary(columns: tuple[tuple[Column, Column], ...]) -> bool:
    """Whether rows of these columns may go over in binary: every type is safe and the same on both sides. Enums travel as their labels."""

    def safe(left: Column, right: Column) -> bool:
        if left.base_kind == "e" and right.base_kind == "e":
            return True
        if left.base != right.base:
            return False
        return left.element in _BINARY if left.element else left.base in _BINARY

    return all(safe(left, right) for left, right in columns)


def statements(pair: Pair, source_sql: str, predicate: str) -> tuple[str, str]:
    """(COPY ... TO STDOUT for the source, COPY ... FROM STDIN for the target). source_sql: FROM item; predicate: WHERE clause or ''."""
    form = "binary" if is_binary(pair.written) else "text"
    select = f"SELECT {pair.source_list(pair.written)} FROM {source_sql} {predicate}".rstrip()
    listed = f" ({pair.target_list(pair.written)})" if pair.written else ""
    return f"COPY ({select}) TO STDOUT (FORMAT {form})", f"COPY {pair.target.sql}{listed} FROM STDIN (FORMAT {form})"


def bare(conn: psycopg.Connection[Any]) -> PGconn:
    """The libpq connection under ``conn``, blocking: a non-blocking one would queue rows in memory without limit."""
    pgconn = conn.pgconn
    pgconn.nonblocking = 0
    return pgconn


def run(pgconn: PGconn, sql: str) -> PGresult:
    """Result of a statement on a bare connection. Raises psycopg's error of the server's state."""
    return _check(pgconn, pgconn.exec_(sql.encode()))


def rows(pgconn: PGconn, sql: str) -> list[list[str | None]]:
    """Rows of a query on a bare connection, as text."""
    result = run(pgconn, sql)
    found: list[list[str | None]] = []
    for row in range(result.ntuples):
        values = [result.get_value(row, column) for column in range(result.nfields)]
        found.append([value.decode() if value is not None else None for value in values])
    return found


def run_watched(pgconn: PGconn, sql: str, on_wait: Callable[[], None]) -> PGresult:
    """As :func:`run`, for a statement that may take hours: on_wait is called about once a second meanwhile."""
    pgconn.send_query(sql.encode())
    ready = select.poll()
    ready.register(pgconn.socket, select.POLLIN)
    while pgconn.is_busy():
        if ready.poll(1000):
            pgconn.consume_input()
        else:
            on_wait()
    last: PGresult | None = None
    failure: Exception | None = None
    while (result := pgconn.get_result()) is not None:
        last = result
        try:
            _check(pgconn, result)
        except session.psycopg.Error as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return certain(last, "the result of a statement")


def stream(source: PGconn, target: PGconn, out_sql: str, in_sql: str, on_move: Callable[[int, int], None]) -> tuple[int, int]:
    """(rows, bytes) moved. on_move is called about once a second with the bytes and rows so far.

    Raises psycopg's error of whichever side failed; both connections are then unfit for use and are to be closed.
    """
    run(target, in_sql)
    return flow(source, target, out_sql, on_move)


def flow(source: PGconn, target: PGconn, out_sql: str, on_move: Callable[[int, int], None]) -> tuple[int, int]:
    """As :func:`stream`, into a COPY that the target has begun."""
    run(source, out_sql)
    get, put, clock = source.get_copy_data, target.put_copy_data, time.monotonic
    total = seen = 0
    due = clock() + 1.0
    try:
        # The server sends a message for every row: the loop's own counter counts rows at no cost.
        for row in itertools.count():
            size, data = get(0)
            if size < 0:
                break
            put(data)
            total += size
            if total - seen > 1_000_000:
                seen = total
                if clock() > due:
                    on_move(total, row)
                    due = clock() + 1.0
    except session.psycopg.OperationalError as error:
        raise _verdict(target, source) or error from error
    sent = _drain(source)
    target.put_copy_end()
    taken = _drain(target)
    if sent != taken:
        raise _uneven(sent, taken, out_sql)
    return taken, total


def flow_plain(source: PGconn, target: PGconn, out_sql: str, on_move: Callable[[int, int], None]) -> tuple[int, int]:
    """As :func:`flow`, in memory that does not grow with the rows; for connections without encryption (:func:`.frames.is_plain`).

    Both connections are closed after a failure: a message may have been cut off in the middle.
    """
    try:
        try:
            sent, total = frames.forward(source, target, out_sql, on_move)
        except frames.TargetSpokeError as error:
            target.put_copy_end(b"the target has given up")
            _drain(target)
            raise session.psycopg.OperationalError("the target ended the COPY before its rows did") from error
        target.put_copy_end()
        taken = _drain(target)
    except BaseException:
        source.finish()
        target.finish()
        raise
    if sent != taken:
        raise _uneven(sent, taken, out_sql)
    return taken, total


def _uneven(sent: int, taken: int, sql: str) -> TransferError:
    return TransferError(
        f"the source sent {sent} rows and the target took {taken}", "Run again; if it repeats, report the statement.", sql=sql
    )


def _drain(pgconn: PGconn) -> int:
    """Rows of the finished COPY; the connection is ready for the next statement."""
    count = 0
    while (result := pgconn.get_result()) is not None:
        _check(pgconn, result)
        count += result.command_tuples or 0
    return count


def _verdict(*connections: PGconn) -> Exception | None:
    """The server's own reason, where one sent it before the link broke."""
    for pgconn in connections:
        while (result := pgconn.get_result()) is not None:
            if result.status in (session.pq.ExecStatus.COPY_IN, session.pq.ExecStatus.COPY_OUT):
                break
            if result.status == session.pq.ExecStatus.FATAL_ERROR and result.error_field(session.pq.DiagnosticField.SQLSTATE):
                return _error(pgconn, result)
    return None


def _check(pgconn: PGconn, result: PGresult) -> PGresult:
    status = session.pq.ExecStatus
    if result.status in (status.COMMAND_OK, status.TUPLES_OK, status.COPY_OUT, status.COPY_IN):
        return result
    raise _error(pgconn, result)


def _error(pgconn: PGconn, result: PGresult) -> Exception:
    text = (result.error_message or pgconn.error_message).decode(errors="replace").strip()
    state = result.error_field(session.pq.DiagnosticField.SQLSTATE)
    if not state:
        return session.psycopg.OperationalError(text)
    try:
        kind: type[session.psycopg.Error] = session.psycopg.errors.lookup(state.decode())
    except KeyError:
        kind = session.psycopg.DatabaseError
    return kind(text)
